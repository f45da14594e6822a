/* Progress of ccq-quantize: a header, then one live line on a terminal, or one
 * line a tensor. All of it on stderr. */
#include "tools/quantize_report.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { BAR = 24 };

double report_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

uint64_t report_rss(void)
{
    unsigned long pages = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (!f)
        return 0;
    if (fscanf(f, "%*s %lu", &pages) != 1)
        pages = 0;
    fclose(f);
    return (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

uint64_t report_peak_rss(void)
{
    char line[256];
    unsigned long long kib = 0;
    struct rusage u;
    FILE *f = fopen("/proc/self/status", "re");
    while (f && !kib && fgets(line, sizeof line, f))
        if (sscanf(line, "VmHWM: %llu kB", &kib) != 1)
            kib = 0;
    if (f)
        fclose(f);
    if (!kib && getrusage(RUSAGE_SELF, &u) == 0) /* may count what called exec too */
        kib = (unsigned long long)u.ru_maxrss;
    return (uint64_t)kib * 1024;
}

/* ---- Header -------------------------------------------------------------------- */

static void print_types(const report *r)
{
    size_t count[CCQ_TYPES] = {0};
    for (size_t i = 0; i < r->plan->count; i++)
        count[r->plan->action[i].to]++;
    fprintf(stderr, "  tensors   %zu:", r->plan->count);
    const char *comma = "";
    for (int t = CCQ_TYPES - 1; t >= 0; t--)
        if (count[t]) {
            fprintf(stderr, "%s %zu %s", comma, count[t], ccq_type_name((ccq_type)t));
            comma = ",";
        }
    fputc('\n', stderr);
}

static void print_recipe(const report *r)
{
    const ccq_quantize_options *o = &r->plan->options;
    fprintf(stderr, "  recipe    %s", ccq_scheme_name(o->scheme));
    int wint2 = 0;
    for (size_t i = 0; i < r->plan->count; i++)
        wint2 |= r->plan->action[i].to == CCQ_TYPE_WINT2;
    if (wint2)
        fprintf(stderr, ", wint4 experts up to layer %" PRId64 ", K order %s, effort %s, gain %d/8",
                r->plan->w4_end, o->order == CCQ_ORDER_PLAIN ? "plain" : "fastdeploy",
                o->effort == CCQ_EFFORT_FAST ? "fast" : "normal", o->gain);
    if (o->scheme == CCQ_SCHEME_BF16)
        fprintf(stderr, ", %s names", o->names == CCQ_NAMES_TORCH ? "torch" : "Paddle");
    else if (o->scheme != CCQ_SCHEME_FP8)
        fprintf(stderr, ", %s rule", o->rule == CCQ_RULE_CPU ? "cpu" : "gpu");
    if (o->transform)
        fprintf(stderr, ", transformed first: %s%s%s",
                o->transform & CCQ_TRANSFORM_ROTATE ? "rotate" : "",
                o->transform == (CCQ_TRANSFORM_ROTATE | CCQ_TRANSFORM_PERMUTE) ? ", " : "",
                o->transform & CCQ_TRANSFORM_PERMUTE ? "permute" : "");
    fputc('\n', stderr);
}

static void print_lists(const report *r)
{
    const ccq_plan *plan = r->plan;
    char name[256], text[1000];
    for (size_t i = 0; i < plan->src->notes; i++)
        fprintf(stderr, "  note      %s\n",
                ccq_escape_rest(text, sizeof text, plan->src->note[i]));
    for (size_t i = 0; i < plan->src->skips; i++) {
        const char *skipped = plan->src->skipped[i];
        fprintf(stderr, "  skipped   %s\n",
                ccq_escape(name, sizeof name, skipped, strlen(skipped)));
    }
    for (size_t i = 0; i < plan->changes.count; i++)
        fprintf(stderr, "  config    %s\n",
                ccq_escape_rest(text, sizeof text, plan->changes.text[i]));
    for (size_t i = 0; i < plan->warnings.count; i++)
        cli_note(r->c, "warning: %s", plan->warnings.text[i]);
}

void report_header(const report *r)
{
    const ccq_arch *a = &r->plan->src->arch;
    char bytes[32], from[1000], to[1000];
    if (r->c->quiet)
        return;
    cli_note(r->c, "%s -> %s", ccq_escape(from, sizeof from, r->input, strlen(r->input)),
             ccq_escape(to, sizeof to, r->output, strlen(r->output)));
    fprintf(stderr, "  model     ERNIE-4.5%s, %" PRId64 " layers", a->experts ? " MoE" : "",
            a->layers);
    if (a->experts)
        fprintf(stderr, ", experts in layers %" PRId64 "..%" PRId64 " x %" PRId64 " + %" PRId64
                " shared", a->moe_start, a->moe_end, a->experts, a->shared);
    fprintf(stderr, ", %s names\n", a->torch_names ? "torch" : "Paddle");
    print_types(r);
    print_recipe(r);
    fprintf(stderr, "  output    %s in %zu shard%s, %.4f bits per weight\n",
            cli_bytes(bytes, sizeof bytes, r->plan->total_bytes),
            (size_t)r->plan->ranks * ccq_layout_shards(r->plan->layout),
            r->plan->ranks == 1 && ccq_layout_shards(r->plan->layout) == 1 ? "" : "s",
            r->plan->bits_per_weight);
    if (r->plan->ranks > 1)
        fprintf(stderr, "  ranks     %d, cut before they are quantized: rank0 .. rank%d\n",
                r->plan->ranks, r->plan->ranks - 1);
    uint64_t memory = ccq_plan_memory(r->plan, r->threads, r->mem_limit, NULL);
    fprintf(stderr, "  threads   %d, %s; memory at most %s\n", r->threads, r->isa,
            cli_bytes(bytes, sizeof bytes, memory));
    print_lists(r);
    if (r->device && strcmp(r->device, "cpu") != 0)
        fprintf(stderr, "  device    %s, for wint2 columns\n", r->device);
}

/* ---- One live line ----------------------------------------------------------------- */

void report_clear(report *r)
{
    if (r->shown)
        fputs("\r\033[K", stderr);
    r->shown = 0;
}

static void print_eta(double seconds)
{
    long s = seconds < 359999 ? (long)seconds : 359999;
    if (s >= 3600)
        fprintf(stderr, "%ldh%02ldm", s / 3600, s / 60 % 60);
    else
        fprintf(stderr, "%ldm%02lds", s / 60, s % 60);
}

void report_progress(void *ctx, const ccq_progress *p)
{
    report *r = ctx;
    double now = report_now(), share = 1.0;
    char out[32], all[32], rate[32], rss[32];
    int last = p->tensors == r->plan->count;
    if (!r->terminal || r->c->quiet || (!last && now - r->drawn < 0.1))
        return;
    r->drawn = now;
    if (r->plan->bytes_in)
        share = (double)p->bytes_in / (double)r->plan->bytes_in;
    double seconds = now - r->begin > 1e-3 ? now - r->begin : 1e-3;
    int full = (int)(share * BAR);
    char bar[BAR + 1];
    for (int i = 0; i < BAR; i++)
        bar[i] = i < full ? '=' : i == full ? '>' : ' ';
    bar[BAR] = 0;
    fprintf(stderr, "\r[%s] %3d%%  %zu/%zu  %s/%s  %s/s  ETA ", bar, (int)(100 * share), p->tensors,
            r->plan->count, cli_bytes(out, sizeof out, p->bytes_out),
            cli_bytes(all, sizeof all, r->plan->tensor_bytes),
            cli_bytes(rate, sizeof rate, (uint64_t)((double)p->bytes_in / seconds)));
    print_eta(share > 0 ? seconds * (1 - share) / share : 0);
    fprintf(stderr, "  RSS %s\033[K", cli_bytes(rss, sizeof rss, report_rss()));
    fflush(stderr);
    r->shown = 1;
}

/* ---- One line a tensor --------------------------------------------------------------- */

static void print_shape(const ccq_entry *e)
{
    if (e->k == 1)
        fprintf(stderr, "[%" PRId64 "]", e->n);
    else
        fprintf(stderr, "[%" PRId64 "x%" PRId64 "]", e->k, e->n);
}

/* Both sizes in the unit that suits the larger one. */
static void print_sizes(uint64_t in, uint64_t out)
{
    static const char *const units[] = {"KiB", "MiB", "GiB"};
    double unit = 1024, most = (double)(in > out ? in : out);
    int u = 0;
    while (u < 2 && most / unit >= 1000) {
        unit *= 1024;
        u++;
    }
    fprintf(stderr, "%.1f -> %.1f %s", (double)in / unit, (double)out / unit, units[u]);
}

void report_tensor(void *ctx, size_t i, const ccq_outcome *o)
{
    report *r = ctx;
    const ccq_action *a = &r->plan->action[i];
    char name[512], count[24];
    r->done = i + 1;
    if (r->c->quiet || (r->terminal && !r->c->verbose))
        return;
    report_clear(r);
    int width = snprintf(count, sizeof count, "%zu", r->plan->count);
    fprintf(stderr, "[%*zu/%s] %s  ", width + 1, i + 1, count,
            ccq_escape(name, sizeof name, a->entry->name, strlen(a->entry->name)));
    print_shape(a->entry);
    fprintf(stderr, " %s -> %s  ", ccq_type_name(a->entry->type), ccq_type_name(a->to));
    print_sizes(a->bytes_in, a->bytes_out);
    double sqnr = ccq_outcome_sqnr(o);
    if (isfinite(sqnr))
        fprintf(stderr, "  SQNR %.2f dB", sqnr);
    if (o->zero_columns)
        fprintf(stderr, "  %" PRIu64 " zero columns", o->zero_columns);
    fputc('\n', stderr);
}
