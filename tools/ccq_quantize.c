/* ccq-quantize: a BF16 checkpoint in, a WINT2 (or wint8) checkpoint out. */
#include "tools/quantize_report.h"

#include <signal.h>
#include <string.h>
#include <unistd.h>

static const cli_option options[] = {
    {"What to produce", 0, "scheme", "wint2|wint8",
     "default wint2: experts wint2, those of the first layers wint4, other linears wint8\n"
     "wint8: every linear wint8 (models without experts)"},
    {NULL, 0, "w4-end-layer", "N",
     "last layer, inclusive and counted over all layers, whose experts are wint4; -1: none "
     "(default: first layer with experts + 3)"},
    {NULL, 0, "k-order", "fastdeploy|plain",
     "row order inside 64-row groups (default fastdeploy; plain: FastDeploy before 2.1)"},
    {NULL, 0, "weight-only-rule", "gpu|cpu",
     "how Paddle computes wint8 and wint4 integers (default gpu)"},
    {"How to encode", 0, "effort", "fast|normal", "default normal"},
    {NULL, 0, "gain", "E", "eighths of the shrinkage to undo, 0..8 (default 4; 0: least squares)"},
    {"The job", 0, "dry-run", NULL,
     "print the plan, exact to the byte (-v: each tensor); reads headers only"},
    {NULL, 0, "overwrite", NULL, "replace a checkpoint in OUTPUT"},
    CLI_COMMON,
};

typedef struct settings {
    ccq_quantize_options quantize;
    const char *input, *output;
    int dry_run;
} settings;

/* The first signal asks for a clean stop, a second one ends the process. */
static volatile sig_atomic_t stop_requested;

static void on_signal(int number)
{
    if (stop_requested) {
        signal(number, SIG_DFL);
        raise(number);
    }
    stop_requested = 1;
}

static int is_stopped(void *ctx)
{
    (void)ctx;
    return stop_requested != 0;
}

static void catch_signals(void)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGUSR1};
    struct sigaction action = {.sa_handler = on_signal};
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        sigaction(numbers[i], &action, NULL);
}

/* ---- Arguments ------------------------------------------------------------------- */

static int take_scheme(cli *c, settings *s)
{
    for (int i = 0; i < CCQ_SCHEMES; i++)
        if (strcmp(c->value, ccq_scheme_name(i)) == 0) {
            s->quantize.scheme = i;
            return 0;
        }
    char shown[120];
    cli_error(c, "unknown scheme '%s': wint2 or wint8",
              ccq_escape(shown, sizeof shown, c->value, strlen(c->value)));
    return -1;
}

static int take_option(cli *c, settings *s)
{
    int64_t value = 0;
    int rc = 0;
    if (cli_is(c, "scheme"))
        rc = take_scheme(c, s);
    else if (cli_is(c, "w4-end-layer"))
        rc = cli_int(c, -1000000, 1000000, &s->quantize.w4_end_layer);
    else if (cli_is(c, "k-order"))
        rc = cli_choice(c, NULL, &s->quantize.order);
    else if (cli_is(c, "weight-only-rule"))
        rc = cli_choice(c, NULL, &s->quantize.rule);
    else if (cli_is(c, "effort"))
        rc = cli_choice(c, NULL, &s->quantize.effort);
    else if (cli_is(c, "gain")) {
        rc = cli_int(c, 0, 8, &value);
        s->quantize.gain = (int)value;
    } else if (cli_is(c, "dry-run"))
        s->dry_run = 1;
    else if (cli_is(c, "overwrite"))
        s->quantize.overwrite = 1;
    return rc;
}

static int take_argument(cli *c, settings *s)
{
    if (s->input && s->output) {
        char shown[120];
        cli_error(c, "one argument too many: '%s'",
                  ccq_escape(shown, sizeof shown, c->value, strlen(c->value)));
        return -1;
    }
    *(s->input ? &s->output : &s->input) = c->value;
    return 0;
}

/* CLI_END, or CLI_STOP with *status set. */
static int read_arguments(cli *c, settings *s, int *status)
{
    int kind;
    while ((kind = cli_next(c, status)) != CLI_END) {
        if (kind == CLI_STOP)
            return CLI_STOP;
        if (kind == CLI_OPTION ? take_option(c, s) : take_argument(c, s)) {
            *status = CLI_USAGE;
            return CLI_STOP;
        }
    }
    if (s->input && s->output && *s->input && *s->output)
        return CLI_END;
    cli_error(c, "INPUT and OUTPUT are wanted: %s %s (see --help)", c->tool, c->usage);
    *status = CLI_USAGE;
    return CLI_STOP;
}

/* ---- The job ------------------------------------------------------------------------ */

static int fail_plan(const cli *c, const ccq_plan *plan, const ccq_error *err)
{
    if (!plan)
        return cli_fail(c, err);
    for (size_t i = 0; i < plan->problems.count; i++)
        cli_error(c, "%s [%s]", plan->problems.text[i], ccq_code_name(err->code));
    return cli_exit_code(err->code);
}

static int answer(const cli *c, const report *r, const ccq_quantize_result *result)
{
    if (!c->json) {
        if (!c->quiet || !result)
            report_text(r, result);
    } else if (report_json(r, result)) {
        cli_error(c, "out of memory");
        return CLI_UNAVAILABLE;
    }
    return CLI_OK;
}

static int dry_run(const cli *c, const report *r)
{
    report_header(r);
    if (!r->plan->fits)
        cli_note(c, "warning: %llu bytes and 64 MiB to spare are needed, %llu are free",
                 (unsigned long long)r->plan->total_bytes, (unsigned long long)r->plan->free_bytes);
    return answer(c, r, NULL);
}

/* Looks at what was written as ccq-inspect --verify does. */
static int verify(const cli *c, report *r, ccq_verify_result *found)
{
    ccq_error err;
    if (ccq_verify(found, r->output, &err))
        return cli_fail(c, &err);
    r->verify = found;
    for (size_t i = 0; i < found->findings; i++)
        cli_error(c, "verify: %s: %s [%s]", found->finding[i].file, found->finding[i].message,
                  ccq_code_name(found->finding[i].code));
    return found->findings ? CLI_FAILED : CLI_OK;
}

static int run_job(const cli *c, report *r, ccq_pool *pool, const ccq_ops *ops)
{
    ccq_quantize_result result;
    ccq_error err;
    ccq_quantize_run_options run = {.pool = pool,
                                    .ops = ops,
                                    .ctx = r,
                                    .cancelled = is_stopped,
                                    .progress = report_progress,
                                    .tensor = report_tensor};
    catch_signals();
    report_header(r);
    ccq_code code = ccq_quantize_run(r->plan, &run, &result, &err);
    report_clear(r);
    ccq_verify_result found = {0};
    int status = code ? cli_fail(c, &err) : verify(c, r, &found);
    if (!code) {
        int answered = answer(c, r, &result);
        status = status ? status : answered;
    }
    ccq_verify_free(&found);
    r->verify = NULL;
    ccq_quantize_result_free(&result);
    return status;
}

static int quantize(const cli *c, const settings *s)
{
    ccq_error err = {0};
    ccq_source *src = NULL;
    ccq_plan *plan = NULL;
    ccq_pool *pool = NULL;
    ccq_ops ops;
    int status;
    if (ccq_source_open(&src, s->input, NULL, &err))
        return cli_fail(c, &err);
    if (ccq_plan_make(&plan, src, &s->quantize, s->output, &err)) {
        status = fail_plan(c, plan, &err);
        goto done;
    }
    pool = ccq_pool_new(c->threads);
    if (!pool) {
        cli_error(c, "no thread could be started");
        status = CLI_UNAVAILABLE;
        goto done;
    }
    ccq_ops_init(&ops, c->isa);
    report r = {.c = c, .input = s->input, .output = s->output, .plan = plan,
                .threads = ccq_pool_threads(pool), .isa = ops.name,
                .terminal = isatty(STDERR_FILENO), .begin = report_now()};
    status = s->dry_run ? dry_run(c, &r) : run_job(c, &r, pool, &ops);
done:
    ccq_pool_free(pool);
    ccq_plan_free(plan);
    ccq_source_close(src);
    return status;
}

int main(int argc, char **argv)
{
    cli c;
    settings s = {0};
    int status = CLI_OK;
    ccq_quantize_defaults(&s.quantize);
    cli_init(&c, "ccq-quantize", "[OPTION]... INPUT OUTPUT",
             "Quantizes an ERNIE-4.5 checkpoint to WINT2, the 2-bit format of FastDeploy.\n"
             "INPUT: a directory with config.json and safetensors. OUTPUT: a new directory.",
             options, argc, argv);
    if (read_arguments(&c, &s, &status) == CLI_STOP)
        return status;
    return cli_finish(&c, quantize(&c, &s));
}
