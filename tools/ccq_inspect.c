/* ccq-inspect: looks at a model. Arguments and order of work; the rest is in
 * libccq/inspect.h, inspect_text.c and inspect_json.c. */
#include "tools/inspect.h"

#include <stdlib.h>
#include <string.h>

static const cli_option options[] = {
    {"What to show (default: summary and layer table)", 0, "tensor", "REGEX",
     "each tensor whose name matches (POSIX extended): dtypes, shapes, offsets, scales, codes"},
    {NULL, 0, "against", "DIR",
     "error of each decoded weight against the BF16 model in DIR: SQNR, relative L2, max, cosine"},
    {NULL, 0, "verify", "[quick]",
     "look for faults: config, index, shards, names, shapes, dtypes, alignment, scales, code "
     "lines, and the manifest's checksums of headers and side files; exit 1 if any\n"
     "(default quick, the only one)"},
    CLI_COMMON};

/* ---- Names for both outputs ----------------------------------------------- */

const char *inspect_family(const ccq_source *src)
{
    return src->arch.experts > 0 ? "ERNIE-4.5 MoE" : "ERNIE-4.5 dense";
}

const char *inspect_order(const ccq_source *src)
{
    return src->arch.order == CCQ_ORDER_PLAIN ? "plain" : "fastdeploy";
}

int inspect_has_wint2(const ccq_summary *s)
{
    return s->type[CCQ_TYPE_WINT2].entries > 0;
}

/* ---- Arguments ------------------------------------------------------------ */

/* \d and its like mean something else in POSIX: better refused than unmatched. */
static int set_pattern(inspect *in, const char *pattern)
{
    char text[200], shown[200];
    for (const char *p = strchr(pattern, '\\'); p; p = strchr(p + 1 + (p[1] != 0), '\\'))
        if ((p[1] | 32) >= 'a' && (p[1] | 32) <= 'z') {
            cli_error(&in->c, "--tensor: \\%c is no POSIX extended regular expression", p[1]);
            return CLI_USAGE;
        }
    if (in->regex_ready)
        regfree(&in->regex);
    in->pattern = pattern;
    int rc = regcomp(&in->regex, pattern, REG_EXTENDED | REG_NOSUB);
    in->regex_ready = rc == 0;
    if (!rc)
        return CLI_OK;
    regerror(rc, &in->regex, text, sizeof text);
    cli_error(&in->c, "--tensor: '%s': %s",
              ccq_escape(shown, sizeof shown, pattern, strlen(pattern)), text);
    return CLI_USAGE;
}

static int take_option(inspect *in)
{
    int choice;
    if (cli_is(&in->c, "tensor"))
        return set_pattern(in, in->c.value);
    if (cli_is(&in->c, "against")) {
        in->against = in->c.value;
        return CLI_OK;
    }
    in->verify = 1;
    return cli_choice(&in->c, NULL, &choice) ? CLI_USAGE : CLI_OK;
}

/* CLI_OK, or what main returns; *stop for --help and --version too. */
static int read_arguments(inspect *in, int *stop)
{
    int status = CLI_OK, kind;
    *stop = 1;
    while ((kind = cli_next(&in->c, &status)) != CLI_END) {
        if (kind == CLI_STOP)
            return status;
        if (kind == CLI_OPTION) {
            status = take_option(in);
            if (status)
                return status;
            continue;
        }
        if (in->model) {
            cli_error(&in->c, "one MODEL, please (see --help)");
            return CLI_USAGE;
        }
        in->model = in->c.value;
    }
    if (!in->model) {
        cli_error(&in->c, "MODEL is missing (see --help)");
        return CLI_USAGE;
    }
    *stop = 0;
    return CLI_OK;
}

/* ---- Work ----------------------------------------------------------------- */

static int matches(const inspect *in, const ccq_entry *e)
{
    char whole[4200];
    int hit = regexec(&in->regex, e->name, 0, NULL, 0) == 0;
    if (!hit && ccq_entry_linear(e)) {
        snprintf(whole, sizeof whole, "%s.weight", e->name);
        hit = regexec(&in->regex, whole, 0, NULL, 0) == 0;
    }
    return hit;
}

static int look_at_tensors(inspect *in)
{
    ccq_error err;
    in->detail = calloc(in->src->count + 1, sizeof *in->detail);
    if (!in->detail) {
        cli_error(&in->c, "out of memory");
        return CLI_UNAVAILABLE;
    }
    for (size_t i = 0; i < in->src->count; i++) {
        if (!matches(in, &in->src->entry[i]))
            continue;
        if (ccq_detail_make(&in->detail[in->details++], in->src, &in->src->entry[i], &err))
            return cli_fail(&in->c, &err);
    }
    if (in->details)
        return CLI_OK;
    char shown[200];
    cli_error(&in->c, "--tensor: no tensor matches '%s'",
              ccq_escape(shown, sizeof shown, in->pattern, strlen(in->pattern)));
    return CLI_USAGE;
}

static int keep_row(void *ctx, size_t i, size_t count, const ccq_entry *e,
                    const ccq_difference *d)
{
    inspect *in = ctx;
    (void)count;
    in->row[i] = (inspect_row){e, *d};
    in->rows = i + 1;
    if (!in->c.json) {
        inspect_print_row(in, &in->row[i]);
        fflush(stdout);
    }
    return 0;
}

static int compare(inspect *in)
{
    ccq_error err;
    ccq_ops ops;
    int status = CLI_OK;
    ccq_pool *pool = ccq_pool_new(in->c.threads);
    in->row = calloc(in->src->count + 1, sizeof *in->row);
    if (!pool || !in->row) {
        cli_error(&in->c, "out of memory, or no thread could start");
        status = CLI_UNAVAILABLE;
        goto done;
    }
    ccq_ops_init(&ops, in->c.isa);
    if (ccq_source_open(&in->base, in->against, NULL, &err)) {
        status = cli_fail(&in->c, &err);
        goto done;
    }
    if (!in->c.json)
        inspect_print_against_head(in);
    ccq_against_options how = {pool, &ops, in, keep_row};
    if (ccq_against(in->src, in->base, &how, &err))
        status = cli_fail(&in->c, &err);
    else if (!in->c.json)
        inspect_print_totals(in);
done:
    ccq_pool_free(pool);
    return status;
}

/* A model that does not open is a finding under --verify, an error otherwise. */
static int open_model(inspect *in)
{
    ccq_error err;
    if (in->verify && ccq_verify(&in->verified, in->model, &err))
        return cli_fail(&in->c, &err);
    if (ccq_source_open(&in->src, in->model, NULL, &err)) {
        in->src = NULL;
        if (in->verify && in->verified.findings && !in->pattern && !in->against)
            return CLI_OK;
        return cli_fail(&in->c, &err);
    }
    for (size_t i = 0; i < in->src->notes && !in->verify; i++)
        cli_note(&in->c, "note: %s", in->src->note[i]);
    if (ccq_summary_make(&in->summary, in->src, &err))
        return cli_fail(&in->c, &err);
    return CLI_OK;
}

static int print_json(inspect *in)
{
    char *text = inspect_json(in);
    if (!text) {
        cli_error(&in->c, "out of memory");
        return CLI_UNAVAILABLE;
    }
    fputs(text, stdout);
    free(text);
    return CLI_OK;
}

static int run(inspect *in)
{
    int status = open_model(in);
    if (status)
        return status;
    if (in->verify && !in->c.json)
        inspect_print_verify(in);
    if (in->pattern && (status = look_at_tensors(in)))
        return status;
    if (in->pattern && !in->c.json)
        inspect_print_details(in);
    if (in->against && (status = compare(in)))
        return status;
    if (in->c.json)
        status = print_json(in);
    else if (!in->pattern && !in->against && !in->verify)
        inspect_print_summary(in);
    if (!status && in->verified.findings)
        status = CLI_FAILED;
    return status;
}

int main(int argc, char **argv)
{
    static inspect in; /* zeroed, and too large for some stacks */
    int stop;
    cli_init(&in.c, "ccq-inspect", "[OPTION]... MODEL",
             "Shows what is in a model directory, checks it, compares it with its source.",
             options, argc, argv);
    int status = read_arguments(&in, &stop);
    if (!stop)
        status = cli_finish(&in.c, run(&in));
    for (size_t i = 0; i < in.details; i++)
        ccq_detail_free(&in.detail[i]);
    free(in.detail);
    free(in.row);
    ccq_summary_free(&in.summary);
    ccq_verify_free(&in.verified);
    ccq_source_close(in.base);
    ccq_source_close(in.src);
    if (in.regex_ready)
        regfree(&in.regex);
    return status;
}
