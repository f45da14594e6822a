/* ccq-inspect: looks at a model. Arguments and order of work; the rest is in
 * libccq/inspect.h, inspect_text.c and inspect_json.c. */
#include "tools/inspect.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const cli_option options[] = {
    {"What to show (default: summary and layer table)", 0, "tensor", "REGEX",
     "each tensor whose name matches (POSIX extended): dtypes, shapes, offsets, scales, codes"},
    {NULL, 0, "values", NULL,
     "with --tensor: the decoded top-left corner, and where values are NaN or infinite"},
    {NULL, 0, "against", "DIR",
     "error of each decoded weight against the BF16 model in DIR: SQNR, relative L2, max, cosine; "
     "finds the K order where the checkpoint does not record it"},
    {NULL, 0, "k-order", "fastdeploy|plain",
     "row order of wint2 tensors, where the checkpoint does not record it (default: the one that "
     "fits with --against, else fastdeploy)"},
    {NULL, 0, "compare", "OTHER",
     "differences from another checkpoint, as stored: config keys, tensors, types, shapes, every "
     "value; exit 1 if any"},
    {NULL, 0, "verify", "[quick|deep]",
     "look for faults: config, index, shards, names, shapes, dtypes, alignment, scales, code "
     "lines, and the manifest's checksums of headers and side files; exit 1 if any\n"
     "(default quick); deep reads everything: checksums of all tensors, all values finite, every "
     "weight decoded, tensors that are all zero (a warning)"},
    {NULL, 0, "tp-rank", "R",
     "look at one rank of a tensor-parallel directory (default: all ranks, joined)"},
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

const char *inspect_order_origin(const inspect *in)
{
    return in->src->arch.order_recorded ? "recorded in ccq_recipe.json"
           : in->order >= 0             ? "given"
           : in->fit.clear              ? "not recorded: found by --against"
                                        : "not recorded: assumed";
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
    if (cli_is(&in->c, "compare")) {
        in->compare = in->c.value;
        return CLI_OK;
    }
    if (cli_is(&in->c, "values")) {
        in->values = 1;
        return CLI_OK;
    }
    if (cli_is(&in->c, "k-order"))
        return cli_choice(&in->c, NULL, &in->order) ? CLI_USAGE : CLI_OK;
    if (cli_is(&in->c, "tp-rank"))
        return cli_int(&in->c, 0, 1023, &in->tp_rank) ? CLI_USAGE : CLI_OK;
    if (cli_choice(&in->c, NULL, &choice))
        return CLI_USAGE;
    in->verify = 1 + choice;
    return CLI_OK;
}

/* What goes together. */
static int check_arguments(inspect *in)
{
    if (!in->model)
        cli_error(&in->c, "MODEL is missing (see --help)");
    else if (in->values && !in->pattern)
        cli_error(&in->c, "--values: which ones? (--tensor REGEX)");
    else if (in->tp_rank >= 0 && in->verify)
        cli_error(&in->c, "--verify looks at all ranks: --tp-rank does not go with it");
    else if (in->tp_rank >= 0 && in->against)
        cli_error(&in->c, "--against compares whole matrices: --tp-rank does not go with it");
    else if (in->tp_rank >= 0 && in->compare)
        cli_error(&in->c, "--compare looks at all ranks: --tp-rank does not go with it");
    else
        return CLI_OK;
    return CLI_USAGE;
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
    status = check_arguments(in);
    *stop = status != CLI_OK;
    return status;
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

/* The detail i of an entry, and its values when they are wanted. */
static ccq_code look_at(inspect *in, size_t i, const ccq_entry *e, ccq_error *err)
{
    ccq_code code = ccq_detail_make(&in->detail[i], in->src, e, err);
    if (!code && in->values)
        code = ccq_scan_decoded(&in->decoded[i], in->src, e, &in->ops, in->pool, err);
    return code;
}

static int look_at_tensors(inspect *in)
{
    ccq_error err;
    int status = in->values ? inspect_start_threads(in) : CLI_OK;
    in->detail = calloc(in->src->count + 1, sizeof *in->detail);
    in->decoded = in->values ? calloc(in->src->count + 1, sizeof *in->decoded) : NULL;
    if (status)
        return status;
    if (!in->detail || (in->values && !in->decoded)) {
        cli_error(&in->c, "out of memory");
        return CLI_UNAVAILABLE;
    }
    for (size_t i = 0; i < in->src->count; i++) {
        if (!matches(in, &in->src->entry[i]))
            continue;
        if (look_at(in, in->details++, &in->src->entry[i], &err))
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

static int compare_with_source(inspect *in)
{
    ccq_error err;
    in->row = calloc(in->src->count + 1, sizeof *in->row);
    if (!in->row) {
        cli_error(&in->c, "out of memory");
        return CLI_UNAVAILABLE;
    }
    if (!in->c.json)
        inspect_print_against_head(in);
    ccq_against_options how = {in->pool, &in->ops, in, keep_row};
    if (ccq_against(in->src, in->base, &how, &err))
        return cli_fail(&in->c, &err);
    if (!in->c.json)
        inspect_print_totals(in);
    return CLI_OK;
}

int inspect_compare(inspect *in)
{
    ccq_error err;
    int status = inspect_start_threads(in);
    if (status)
        return status;
    if (ccq_diff_make(&in->diff, in->model, in->compare, in->pool, &err))
        return cli_fail(&in->c, &err);
    if (!in->c.json)
        inspect_print_diff(in);
    return CLI_OK;
}

/* ---- All of it ------------------------------------------------------------ */

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

static int is_file(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

/* Everything but --compare, which needs no model that makes sense. */
static int run_on_model(inspect *in)
{
    int status = inspect_open(in);
    if (status)
        return status;
    if (in->verify && !in->c.json)
        inspect_print_verify(in);
    if (in->pattern && (status = look_at_tensors(in)))
        return status;
    if (in->pattern && !in->c.json)
        inspect_print_details(in);
    if (in->against && (status = compare_with_source(in)))
        return status;
    if (!in->c.json && !in->pattern && !in->against && !in->verify)
        inspect_print_summary(in);
    return CLI_OK;
}

static int run(inspect *in)
{
    int alone = in->compare && !in->pattern && !in->against && !in->verify, status = CLI_OK;
    if (is_file(in->model))
        return inspect_file(in);
    if (!alone)
        status = run_on_model(in);
    if (!status && in->compare)
        status = inspect_compare(in);
    if (!status && in->c.json)
        status = print_json(in);
    if (!status && (in->verified.findings || in->diff.diffs))
        status = CLI_FAILED;
    return status;
}

int main(int argc, char **argv)
{
    static inspect in; /* zeroed, and too large for some stacks */
    int stop;
    in.tp_rank = in.order = -1;
    cli_init(&in.c, "ccq-inspect", "[OPTION]... MODEL",
             "Shows what is in a model directory, checks it, compares it with its source.",
             options, argc, argv);
    int status = read_arguments(&in, &stop);
    if (!stop)
        status = cli_finish(&in.c, run(&in));
    for (size_t i = 0; i < in.details; i++)
        ccq_detail_free(&in.detail[i]);
    free(in.detail);
    free(in.decoded);
    free(in.row);
    ccq_diff_free(&in.diff);
    ccq_pool_free(in.pool);
    ccq_summary_free(&in.summary);
    ccq_verify_free(&in.verified);
    ccq_source_close(in.base);
    ccq_source_close(in.src);
    if (in.regex_ready)
        regfree(&in.regex);
    return status;
}
