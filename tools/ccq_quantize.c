/* ccq-quantize: a BF16 checkpoint in, a WINT2 checkpoint (or another that
 * FastDeploy or transformers load) out. */
#include "formats/file.h"
#include "libccq/memory.h"
#include "tools/cli_device.h"
#include "tools/cli_files.h"
#include "tools/quantize_calibration.h"
#include "tools/quantize_job.h"
#include "tools/quantize_report.h"

#include <malloc.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const cli_option options[] = {
    {"What to produce", 0, "scheme", "wint2|wint4|wint8|block_wise_fp8|bf16",
     "default wint2: experts wint2, those of the first layers wint4, other linears wint8\n"
     "wint4: all experts wint4, other linears wint8\n"
     "wint8: every linear wint8 (models without experts)\n"
     "block_wise_fp8: every linear in 8-bit floats, a scale for 128 x 128 weights\n"
     "bf16: convert names and layout, or decode a quantized INPUT"},
    {NULL, 0, "w4-end-layer", "N",
     "last layer, inclusive and counted over all layers, whose experts are wint4; -1: none "
     "(default: first layer with experts + 3)"},
    {NULL, 0, "tensor-type", "REGEX=TYPE",
     "type of the tensors whose Paddle name matches (POSIX extended); may be repeated, the last "
     "match wins; TYPE as in --scheme"},
    {NULL, 0, "k-order", "fastdeploy|plain",
     "row order inside 64-row groups (default fastdeploy; plain: FastDeploy before 2.1)\n"
     "with --scheme bf16: that of a quantized INPUT which does not record it"},
    {NULL, 0, "names", "paddle|torch",
     "default paddle; torch, only with --scheme bf16: what transformers loads"},
    {NULL, 0, "weight-only-rule", "gpu|cpu",
     "how Paddle computes wint8 and wint4 integers (default gpu)"},
    {NULL, 0, "tensor-parallel", "N",
     "cut the model for N ranks, then quantize: rank0/ ... rank{N-1}/ (default 1: not cut)"},
    {NULL, 0, "tp", "N", "the same as --tensor-parallel"},
    {NULL, 0, "recipe", "FILE.json",
     "all of the above from a file, such as the ccq_recipe.json of an output; options given here "
     "win"},
    {"How to encode", 0, "effort", "fast|normal|best",
     "default normal; best: as --calibration random, unless other statistics are given"},
    {NULL, 0, "gain", "E", "eighths of the shrinkage to undo, 0..8 (default 4; 0: least squares)"},
    {NULL, 0, "transform", "none|rotate,permute",
     "change the model into an equal one first (default none): a rotation of the residual stream, "
     "neurons sorted by size; one or both, as a list"},
    CALIBRATION_OPTIONS,
    {"The job", 0, "dry-run", NULL,
     "print the plan, exact to the byte (-v: each tensor); reads headers only"},
    {NULL, 0, "overwrite", NULL, "replace a checkpoint in OUTPUT"},
    JOB_OPTIONS,
    {NULL, 0, "shard-size", "SIZE",
     "tensor bytes of a file, such as 512M (10^6) or 4GiB (default 5G; 0: one file)"},
    {NULL, 0, "mem-limit", "SIZE",
     "memory that the job may take, such as 2G or 512MiB (default 80 % of what is available); "
     "larger matrices are worked in blocks of columns"},
    {NULL, 0, "force", NULL,
     "let --tensor-type quantize lm_head, which only ccq's own tools can read then"},
    CLI_COMMON,
};

typedef struct settings {
    ccq_quantize_options quantize;
    ccq_text_list given;         /* --tensor-type, as given */
    ccq_text_list types;         /* those of the recipe, then the given ones */
    const char *input, *output, *recipe;
    int dry_run;
    uint64_t mem_limit; /* 0: not given */
    calibration calibration;
    job_options job;
} settings;

/* The first signal asks for an end between two tensors, a second one ends the process. */
static atomic_int stop_requested; /* lock-free: threads read it too */

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
    cli_error(c, "unknown scheme '%s': one of %s",
              ccq_escape(shown, sizeof shown, c->value, strlen(c->value)), c->option->arg);
    return -1;
}

static int take_w4_end(cli *c, settings *s)
{
    return cli_int(c, -1000000, 1000000, &s->quantize.w4_end_layer);
}

static int take_order(cli *c, settings *s)
{
    return cli_choice(c, NULL, &s->quantize.order);
}

static int take_rule(cli *c, settings *s)
{
    return cli_choice(c, NULL, &s->quantize.rule);
}

static int take_names(cli *c, settings *s)
{
    return cli_choice(c, NULL, &s->quantize.names);
}

static int take_effort(cli *c, settings *s)
{
    return cli_choice(c, NULL, &s->quantize.effort);
}

static int take_gain(cli *c, settings *s)
{
    int64_t value = 0;
    int rc = cli_int(c, 0, 8, &value);
    s->quantize.gain = (int)value;
    return rc;
}

static int bad_transform(cli *c)
{
    char shown[120];
    cli_error(c, "--transform '%s': none, or a list of rotate and permute",
              ccq_escape(shown, sizeof shown, c->value, strlen(c->value)));
    return -1;
}

/* "none", or names with commas between them, each once. */
static int take_transform(cli *c, settings *s)
{
    static const char *const names[] = {"rotate", "permute"}; /* bits of CCQ_TRANSFORM_* */
    const char *at = c->value;
    s->quantize.transform = 0;
    if (strcmp(at, "none") == 0)
        return 0;
    for (;;) {
        size_t length = strcspn(at, ",");
        unsigned i = 0;
        while (i < 2 && (strlen(names[i]) != length || memcmp(at, names[i], length) != 0))
            i++;
        if (i == 2 || (s->quantize.transform >> i & 1))
            return bad_transform(c);
        s->quantize.transform |= 1u << i;
        if (!at[length])
            return 0;
        at += length + 1;
    }
}

static int take_ranks(cli *c, settings *s)
{
    int64_t value = 0;
    int rc = cli_int(c, 1, CCQ_MAX_RANKS, &value);
    s->quantize.tensor_parallel = (int)value;
    return rc;
}

static int take_shard_size(cli *c, settings *s)
{
    return cli_size(c, &s->quantize.shard_bytes);
}

static int take_mem_limit(cli *c, settings *s)
{
    int rc = cli_size(c, &s->mem_limit);
    if (rc || s->mem_limit)
        return rc;
    cli_error(c, "--mem-limit: 0 bytes");
    return -1;
}

static int take_tensor_type(cli *c, settings *s)
{
    if (!ccq_text_add(&s->given, "%s", c->value))
        return 0;
    cli_error(c, "out of memory");
    return -1;
}

static int take_recipe(cli *c, settings *s)
{
    s->recipe = c->value;
    return 0;
}

static int take_force(cli *c, settings *s)
{
    (void)c;
    s->quantize.force = 1;
    return 0;
}

static int take_overwrite(cli *c, settings *s)
{
    (void)c;
    s->quantize.overwrite = 1;
    return 0;
}

static int take_dry_run(cli *c, settings *s)
{
    (void)c;
    s->dry_run = 1;
    return 0;
}

static int take_option(cli *c, settings *s)
{
    static const struct {
        const char *name;
        unsigned bit; /* CCQ_SET_* */
        int (*take)(cli *c, settings *s);
    } takers[] = {
        {"scheme", CCQ_SET_SCHEME, take_scheme},
        {"w4-end-layer", CCQ_SET_W4_END, take_w4_end},
        {"tensor-type", 0, take_tensor_type},
        {"k-order", CCQ_SET_ORDER, take_order},
        {"names", CCQ_SET_NAMES, take_names},
        {"weight-only-rule", CCQ_SET_RULE, take_rule},
        {"tensor-parallel", CCQ_SET_TP, take_ranks},
        {"tp", CCQ_SET_TP, take_ranks},
        {"recipe", 0, take_recipe},
        {"effort", CCQ_SET_EFFORT, take_effort},
        {"gain", CCQ_SET_GAIN, take_gain},
        {"transform", CCQ_SET_TRANSFORM, take_transform},
        {"dry-run", 0, take_dry_run},
        {"overwrite", 0, take_overwrite},
        {"shard-size", CCQ_SET_SHARD, take_shard_size},
        {"mem-limit", 0, take_mem_limit},
        {"force", CCQ_SET_FORCE, take_force},
    };
    for (size_t i = 0; i < sizeof takers / sizeof *takers; i++) {
        if (!cli_is(c, takers[i].name))
            continue;
        s->quantize.set |= takers[i].bit;
        return takers[i].take(c, s);
    }
    int taken = job_take(c, &s->job, &s->quantize);
    if (!taken)
        taken = calibration_take(c, &s->calibration);
    return taken == 1 ? 0 : -1;
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
    if (s->input && *s->input && !s->output && s->calibration.save && !s->calibration.stats)
        return CLI_END; /* statistics alone */
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
        cli_error(c, "out of memory for the report%s", result ? "; the output is complete" : "");
        return CLI_UNAVAILABLE;
    }
    return CLI_OK;
}

/* Bytes: as given, else most of what is there. 0: nothing says. */
static uint64_t memory_limit(const settings *s)
{
    uint64_t available = ccq_memory_available();
    if (s->mem_limit)
        return s->mem_limit;
    return available == UINT64_MAX ? 0 : available / 5 * 4;
}

/* Too small a limit is a usage error, too small a machine is not. */
static int check_memory(const cli *c, const settings *s, const report *r)
{
    uint64_t least;
    ccq_plan_memory(r->plan, r->threads, 0, &least);
    if (!r->mem_limit || r->mem_limit >= least || !r->plan->fits) /* space is told first */
        return CLI_OK;
    cli_error(c, "%s: %llu bytes of memory, and this job with %d threads needs %llu",
              s->mem_limit ? "--mem-limit" : "80 % of what is available",
              (unsigned long long)r->mem_limit, r->threads, (unsigned long long)least);
    return s->mem_limit ? CLI_USAGE : CLI_UNAVAILABLE;
}

static int dry_run(const cli *c, const report *r, const char *check)
{
    int status = check ? job_check_tensor(c, r->plan, NULL, check) : CLI_OK;
    if (status != CLI_OK)
        return status;
    report_header(r);
    if (!r->plan->fits)
        cli_note(c, "warning: %llu bytes and 64 MiB to spare are needed, %llu are free",
                 (unsigned long long)r->plan->total_bytes, (unsigned long long)r->plan->free_bytes);
    return answer(c, r, NULL);
}

static void warn(void *ctx, const char *text)
{
    report *r = ctx;
    report_clear(r);
    cli_note(r->c, "%s", text);
}

/* One of several processes has nothing whole to look at. */
static int look_back(const cli *c, report *r, ccq_verify_result *found)
{
    const ccq_quantize_options *o = &r->plan->options;
    if (o->world <= 1 || o->finalize) {
        int status = job_verify(c, o, r->output, found);
        r->verify = status == CLI_OK || status == CLI_FAILED ? found : NULL;
        return status;
    }
    char shown[1000];
    cli_note(c, "rank %d of %d is done; when all are, --finalize puts %s into place", o->rank,
             o->world, ccq_escape(shown, sizeof shown, r->output, strlen(r->output)));
    return CLI_OK;
}

static int run_job(const cli *c, report *r, ccq_pool *pool, const ccq_ops *ops, ccq_gpu *gpu,
                   const char *check)
{
    ccq_quantize_result result;
    ccq_error err;
    ccq_quantize_run_options run = {.pool = pool,
                                    .ops = ops,
                                    .gpu = gpu,
                                    .ctx = r,
                                    .cancelled = is_stopped,
                                    .progress = report_progress,
                                    .tensor = report_tensor,
                                    .warn = warn,
                                    .mem_limit = r->mem_limit};
    if (check)
        return job_check_tensor(c, r->plan, &run, check);
    catch_signals();
    report_header(r);
    ccq_code code = ccq_quantize_run(r->plan, &run, &result, &err);
    report_clear(r);
    ccq_verify_result found = {0};
    int status = code ? cli_fail(c, &err) : look_back(c, r, &found);
    if (code)
        job_tell_resume(c, &r->plan->options, r->output, code);
    if (!code) {
        int answered = answer(c, r, &result);
        status = status ? status : answered;
    }
    ccq_verify_free(&found);
    r->verify = NULL;
    ccq_quantize_result_free(&result);
    return status;
}

/* Whether a device has anything to do. */
static int is_for_device(const ccq_plan *plan)
{
    for (size_t i = 0; i < plan->count; i++)
        if (plan->action[i].to == CCQ_TYPE_WINT2)
            return 1;
    return 0;
}

static int on_device(const cli *c, report *r, ccq_pool *pool, const ccq_ops *ops,
                     const char *check)
{
    char name[CLI_DEVICE_NAME] = "cpu";
    ccq_gpu *gpu = NULL;
    int status = is_for_device(r->plan) ? cli_device_open(c, &gpu, name) : CLI_OK;
    r->device = name;
    if (status == CLI_OK)
        status = run_job(c, r, pool, ops, gpu, check);
    ccq_gpu_close(gpu);
    return status;
}

/* The recipe under the options; its tensor types before theirs. An output that is only
 * looked at brings its own. */
static int use_recipe(const cli *c, settings *s)
{
    ccq_error err = {0};
    char *own = s->job.check_tensor ? ccq_path_join(s->output, "ccq_recipe.json") : NULL;
    const char *recipe = s->recipe || !own || !ccq_path_exists(own) ? s->recipe : own;
    ccq_code code = recipe ? ccq_recipe_read(&s->quantize, &s->types, recipe, &err) : CCQ_OK;
    s->quantize.look = s->job.check_tensor != NULL;
    free(own);
    if (code)
        return cli_fail(c, &err);
    for (size_t i = 0; i < s->given.count; i++)
        if (ccq_text_add(&s->types, "%s", s->given.text[i])) {
            cli_error(c, "out of memory");
            return CLI_UNAVAILABLE;
        }
    s->quantize.tensor_type = s->types.text;
    s->quantize.tensor_types = s->types.count;
    return CLI_OK;
}

/* Without OUTPUT: at once, and by one process. */
static int check_alone(const cli *c, const settings *s)
{
    const ccq_quantize_options *o = &s->quantize;
    if (s->output || !(o->world > 1 || o->finalize || o->resume || o->overwrite || s->dry_run ||
                       s->job.check_tensor))
        return CLI_OK;
    cli_error(c, "statistics alone (no OUTPUT) are gathered at once and by one process: no --rank "
                 "and --world, --finalize, --resume, --overwrite, --dry-run or --check-tensor");
    return CLI_USAGE;
}

/* Nothing that is read is written to. */
static int check_files(const cli *c, const settings *s)
{
    const calibration *k = &s->calibration;
    const char *const models[] = {s->input, s->output};
    const cli_file in[] = {{"calibration", calibration_file(k)},
                           {"stats", k->stats},
                           {"recipe", s->recipe}};
    const cli_file out[] = {{"save-stats", k->save}};
    const cli_files files = {models, 2, in, out, sizeof in / sizeof *in, 1};
    ccq_error err;
    return cli_files_check(&files, &err) ? cli_fail(c, &err) : CLI_OK;
}

/* --save-stats and no OUTPUT. */
static int gather(const cli *c, const settings *s, const ccq_source *src)
{
    ccq_ops ops;
    ccq_pool *pool = ccq_pool_new(c->threads);
    ccq_quantize_run_options run = {.pool = pool, .ops = &ops, .cancelled = is_stopped,
                                    .mem_limit = memory_limit(s)};
    int status = CLI_UNAVAILABLE;
    ccq_ops_init(&ops, c->isa);
    catch_signals();
    if (pool)
        status = calibration_gather(c, src, &s->quantize, &run);
    else
        cli_error(c, "no thread could be started");
    ccq_pool_free(pool);
    return status;
}

static int quantize(const cli *c, settings *s)
{
    const ccq_quantize_options *o = &s->quantize;
    int decodes = o->scheme == CCQ_SCHEME_BF16 && (o->set & CCQ_SET_ORDER);
    ccq_source_options open = {.order = decodes ? o->order : -1, .tp_rank = -1};
    ccq_error err = {0};
    ccq_source *src = NULL;
    ccq_plan *plan = NULL;
    ccq_pool *pool = NULL;
    ccq_ops ops;
    int status;
    if (ccq_source_open(&src, s->input, &open, &err))
        return cli_fail(c, &err);
    if (calibration_load(&s->calibration, src, &s->quantize, &err)) {
        status = cli_fail(c, &err);
        goto done;
    }
    if (!s->output) {
        status = gather(c, s, src);
        goto done;
    }
    if (ccq_plan_make(&plan, src, &s->quantize, s->output, &err)) {
        status = fail_plan(c, plan, &err);
        goto done;
    }
    if (calibration_agrees(&s->calibration, &plan->options.calibration, &err) ||
        (s->job.no_symlinks && ccq_plan_no_links(plan, &err))) {
        status = cli_fail(c, &err);
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
                .mem_limit = memory_limit(s), .terminal = isatty(STDERR_FILENO),
                .begin = report_now()};
    status = check_memory(c, s, &r);
    if (status == CLI_OK && s->dry_run)
        status = dry_run(c, &r, s->job.check_tensor);
    else if (status == CLI_OK)
        status = on_device(c, &r, pool, &ops, s->job.check_tensor);
done:
    ccq_pool_free(pool);
    ccq_plan_free(plan);
    ccq_source_close(src);
    calibration_free(&s->calibration);
    return status;
}

int main(int argc, char **argv)
{
    cli c;
    settings s = {0};
    int status = CLI_OK;
#ifdef M_ARENA_MAX
    mallopt(M_ARENA_MAX, 1); /* an arena of its own for each thread would take address space */
#endif
    ccq_quantize_defaults(&s.quantize);
    cli_init(&c, "ccq-quantize", "[OPTION]... INPUT OUTPUT",
             "Quantizes an ERNIE-4.5 checkpoint to WINT2, the 2-bit format of FastDeploy.\n"
             "INPUT: a directory with config.json and safetensors, .pdparams or rank directories.\n"
             "OUTPUT: a new directory.",
             options, argc, argv);
    job_defaults(&s.job);
    if (read_arguments(&c, &s, &status) == CLI_END) {
        status = job_resolve(&c, &s.job, &s.quantize) ? CLI_USAGE : check_alone(&c, &s);
        if (status == CLI_OK)
            status = check_files(&c, &s);
        if (status == CLI_OK)
            status = use_recipe(&c, &s);
        if (status == CLI_OK)
            status = quantize(&c, &s);
        status = cli_finish(&c, status);
    }
    ccq_text_free(&s.types);
    ccq_text_free(&s.given);
    return status;
}
