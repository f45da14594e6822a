/* --junit: the comparison and every gate as test cases, for what shows test results. */
#include "tools/run.h"

#include <inttypes.h>
#include <string.h>

/* Text of an attribute or an element. Names are escaped before that (ccq_escape), so what
 * is left are valid UTF-8, the characters that XML reserves, and two that it has not. */
static void put_text(FILE *f, const char *s)
{
    for (; *s; s++) {
        if (*s == '&')
            fputs("&amp;", f);
        else if (*s == '<')
            fputs("&lt;", f);
        else if (*s == '>')
            fputs("&gt;", f);
        else if (*s == '"')
            fputs("&quot;", f);
        else if (strncmp(s, "\xef\xbf\xbe", 3) == 0 || strncmp(s, "\xef\xbf\xbf", 3) == 0)
            fputs("\xef\xbf\xbd", f), s += 2; /* U+FFFE, U+FFFF: as U+FFFD */
        else
            fputc(*s, f);
    }
}

static void put_name(FILE *f, const char *name)
{
    char shown[4096];

    put_text(f, ccq_escape(shown, sizeof shown, name, strlen(name)));
}

static void put_property(FILE *f, const char *name, const char *value)
{
    fprintf(f, "    <property name=\"%s\" value=\"", name);
    put_name(f, value);
    fputs("\"/>\n", f);
}

static void put_properties(FILE *f, const run *r)
{
    static const char *const numerics[] = {"fastdeploy", "exact"};
    static const char *const rounding[] = {"fused", "unzip", "none"};
    const run_options *o = r->o;

    fputs("   <properties>\n", f);
    put_property(f, "ccq", CCQ_VERSION);
    put_property(f, "model", o->model);
    if (o->baseline)
        put_property(f, "baseline", o->baseline);
    if (o->baseline || o->perplexity)
        put_property(f, "tokens", o->baseline ? o->tokens : o->perplexity);
    if (o->reference)
        put_property(f, "reference", o->reference);
    put_property(f, "numerics", numerics[o->numerics]);
    put_property(f, "wint2_rounding", rounding[o->rounding]);
    fputs("   </properties>\n", f);
}

/* The comparison itself: it ran to its end, and what it gave. */
static void put_comparison(FILE *f, const run *r, double seconds)
{
    const run_options *o = r->o;
    const char *with = o->baseline ? o->baseline : o->reference ? o->reference : o->perplexity;

    fprintf(f, "   <testcase classname=\"ccq-run.%s\" name=\"",
            o->baseline ? "baseline" : o->reference ? "reference" : "perplexity");
    put_name(f, with);
    fprintf(f, "\" time=\"%.3f\">\n    <system-out>", seconds);
    for (int i = 0; i < CCQ_FIGURE_COUNT; i++)
        if (r->stats.has[i])
            fprintf(f, "%s: %.9g\n", ccq_figure_name((ccq_figure)i), r->stats.value[i]);
    fputs("</system-out>\n   </testcase>\n", f);
}

static void put_gate(FILE *f, const ccq_gate *g)
{
    const char *name = ccq_figure_name(g->figure), *wanted = g->min ? "at least" : "at most";
    char value[32], limit[32];

    run_gate_numbers(g, value, limit);
    fprintf(f, "   <testcase classname=\"ccq-run.gate\" name=\"%s %s %s\" time=\"0\"", name, wanted,
            limit);
    if (g->ok)
        fprintf(f, ">\n    <system-out>%s is %s</system-out>\n", name, value);
    else
        fprintf(f,
                ">\n    <failure type=\"gate\" message=\"%s is %s, %s %s wanted\">"
                "%s: value %s, limit %s</failure>\n",
                name, value, wanted, limit, name, value, limit);
    fputs("   </testcase>\n", f);
}

ccq_code run_junit(run *r, ccq_error *err)
{
    FILE *f = r->junit.f;
    double seconds = r->load_s + r->timing.prefill_s + r->timing.decode_s;
    char counts[160];

    if (!f)
        return CCQ_OK;
    snprintf(counts, sizeof counts,
             "tests=\"%zu\" failures=\"%zu\" errors=\"0\" skipped=\"0\" time=\"%.3f\"",
             r->gate_count + 1, r->missed, seconds);
    fprintf(f, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites %s>\n", counts);
    fputs("  <testsuite name=\"ccq-run ", f);
    put_name(f, r->o->model);
    fprintf(f, "\" %s>\n", counts);
    put_properties(f, r);
    put_comparison(f, r, seconds);
    for (size_t i = 0; i < r->gate_count; i++)
        put_gate(f, &r->gates[i]);
    fputs("  </testsuite>\n</testsuites>\n", f);
    return run_output_commit(&r->junit, err);
}
