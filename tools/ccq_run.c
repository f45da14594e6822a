/* ccq-run: runs a checkpoint, and says how close it is to another. */
#include "tools/run.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const cli_option options[] = {
    {"Prompts (all given run as one batch)", 0, "prompt", "TEXT",
     "a prompt; needs a tokenizer; repeatable"},
    {NULL, 0, "prompt-ids", "1,2,3", "a prompt as token ids; repeatable"},
    {NULL, 0, "prompts", "FILE",
     "JSON lines with \"prompt\" or \"ids\", or the prompts of a reference .npz"},
    {NULL, 0, "batch-size", "N", "sequences at a time (default: all)"},
    {NULL, 0, "chat", NULL, "wrap text prompts in the chat template"},
    {"Generation", 0, "max-tokens", "N",
     "tokens a sequence (default 128; 24 with --save-reference)"},
    {NULL, 0, "temperature", "T", "0 = the largest logit (default 1.0)"},
    {NULL, 0, "top-p", "P", "0..1; 0 = the largest logit (default 1.0)"},
    {NULL, 0, "top-k", "K", "keep the K largest; 0 or -1 = all (default 0)"},
    {NULL, 0, "seed", "S", "prompt i draws with S + i (default 0)"},
    {NULL, 0, "stop", "TEXT", "end a sequence before this text; repeatable"},
    {NULL, 0, "ignore-eos", NULL, "go on past end ids"},
    {NULL, 0, "logprobs", "N", "print the N best of every token (0..20, default 0)"},
    {"Validation", 0, "reference", "FILE.npz", "compare with stored outputs"},
    {NULL, 0, "save-reference", "FILE.npz", "store the outputs of the prompts, continued greedily"},
    {NULL, 0, "baseline", "MODEL2", "compare with a second model over --tokens"},
    {NULL, 0, "tokens", "FILE", "tokens for --baseline: .npy, .npz, or text"},
    {NULL, 0, "perplexity", "FILE", "perplexity over the tokens of FILE"},
    {NULL, 0, "window", "N", "tokens evaluated together (default 2048, at most the context)"},
    {NULL, 0, "gate", "FILE.json", "limits of statistics; exit 1 when one is missed"},
    {NULL, 0, "junit", "FILE.xml",
     "write the comparison and the gates as test results, which CI systems show"},
    {"Benchmark", 0, "bench", NULL,
     "time prefill and decode by kind of layer, beside the memory's rate; needs no prompt and no "
     "tokenizer"},
    {NULL, 0, "bench-batch", "LIST", "sequences of a decode step, such as 1,8 (default 1,8,32)"},
    {NULL, 0, "bench-context", "N",
     "tokens of the prefill, and of each sequence that decodes (default 512)"},
    {"Numerics", 0, "numerics", "fastdeploy|exact",
     "bf16 activations as served, or fp32 (default fastdeploy)"},
    {NULL, 0, "wint2-rounding", "fused|unzip|none",
     "where a wint2 weight is rounded to bf16 (default fused)"},
    {NULL, 0, "blas", NULL, "products by OpenBLAS; results then depend on batch and threads"},
    {NULL, 0, "k-order", "fastdeploy|plain",
     "row order of wint2 bytes, where the checkpoint does not say"},
    {NULL, 0, "fp32-logits", NULL, "do not round logits to bf16"},
    {NULL, 0, "valid-vocab", "N",
     "ids below N count (default: tokenizer pieces to sample, the\nreference's or all to compare)"},
    {NULL, 0, "set", "KEY=VALUE", "fill a gap in config.json; repeatable"},
    {NULL, 0, "prefill-rows", "N", "rows of a prefill step (default 2048)"},
    {NULL, 0, "mem-limit", "SIZE",
     "memory for weights, cache and work space, such as 2G or 512MiB: comparisons of larger\n"
     "models run layer by layer, prompts are refused (default 80 % of what is available)"},
    {NULL, 0, "trace", "FILE",
     "write the router's choices, one JSON line a token and layer;\n"
     "it appears at the end of the run"},
    CLI_COMMON,
};

/* ---- Options ------------------------------------------------------------------------ */

static int push(cli *c, run_list *l, char kind)
{
    if (l->count == RUN_MAX_LIST) {
        cli_error(c, "--%s: more than %d", c->option->name, RUN_MAX_LIST);
        return -1;
    }
    l->kind[l->count] = kind;
    l->at[l->count++] = c->value;
    return 0;
}

/* An option with a file or a directory, given once. */
static int once(cli *c, const char **where)
{
    if (*where && strcmp(*where, c->value)) {
        cli_error(c, "--%s is given twice", c->option->name);
        return -1;
    }
    *where = c->value;
    return 0;
}

static int set_stop(cli *c, run_options *o)
{
    if (!*c->value) {
        cli_error(c, "--stop: the text is empty");
        return -1;
    }
    return push(c, &o->stop, 0);
}

static int take_flag(const cli *c, run_options *o)
{
    int *flag = cli_is(c, "chat")          ? &o->chat
                : cli_is(c, "bench")       ? &o->bench
                : cli_is(c, "ignore-eos")  ? &o->ignore_eos
                : cli_is(c, "blas")        ? &o->blas
                : cli_is(c, "fp32-logits") ? &o->fp32_logits
                                           : NULL;
    if (flag)
        *flag = 1;
    return flag != NULL;
}

static int take_number(cli *c, run_options *o)
{
    if (cli_is(c, "batch-size"))
        return cli_int(c, 1, INT32_MAX, &o->batch);
    if (cli_is(c, "max-tokens"))
        return cli_int(c, 1, INT32_MAX, &o->max_tokens);
    if (cli_is(c, "temperature"))
        return cli_double(c, 0, 1e30, &o->temperature);
    if (cli_is(c, "top-p"))
        return cli_double(c, 0, 1, &o->top_p);
    if (cli_is(c, "top-k"))
        return cli_int(c, -1, INT32_MAX, &o->top_k);
    if (cli_is(c, "seed"))
        return cli_int(c, 0, INT64_MAX, &o->seed);
    if (cli_is(c, "logprobs"))
        return cli_int(c, 0, RUN_MAX_LOGPROBS, &o->logprobs);
    if (cli_is(c, "window"))
        return cli_int(c, 2, INT32_MAX, &o->window);
    if (cli_is(c, "bench-context"))
        return cli_int(c, 1, INT32_MAX, &o->bench_context);
    if (cli_is(c, "valid-vocab"))
        return cli_int(c, 1, INT32_MAX, &o->valid);
    return cli_int(c, 1, 1 << 24, &o->prefill_rows);
}

static int set_mem_limit(cli *c, run_options *o)
{
    int rc = cli_size(c, &o->mem_limit);

    if (rc || o->mem_limit)
        return rc;
    cli_error(c, "--mem-limit: 0 bytes");
    return -1;
}

static int take_option(cli *c, run_options *o)
{
    const struct {
        const char *name, **where;
    } files[] = {{"reference", &o->reference},
                 {"save-reference", &o->save_reference},
                 {"baseline", &o->baseline},
                 {"tokens", &o->tokens},
                 {"perplexity", &o->perplexity},
                 {"gate", &o->gate},
                 {"trace", &o->trace},
                 {"junit", &o->junit}};

    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        if (cli_is(c, files[i].name))
            return once(c, files[i].where);
    if (cli_is(c, "prompt"))
        return push(c, &o->sources, 't');
    if (cli_is(c, "prompt-ids"))
        return push(c, &o->sources, 'i');
    if (cli_is(c, "prompts"))
        return push(c, &o->sources, 'f');
    if (cli_is(c, "stop"))
        return set_stop(c, o);
    if (cli_is(c, "set"))
        return push(c, &o->set, 0);
    if (cli_is(c, "mem-limit"))
        return set_mem_limit(c, o);
    if (cli_is(c, "bench-batch"))
        return run_bench_batches(c, o);
    if (cli_is(c, "numerics"))
        return cli_choice(c, NULL, &o->numerics);
    if (cli_is(c, "wint2-rounding"))
        return cli_choice(c, NULL, &o->rounding);
    if (cli_is(c, "k-order"))
        return cli_choice(c, NULL, &o->order);
    return take_flag(c, o) ? 0 : take_number(c, o);
}

static int usage(const cli *c, const char *what)
{
    cli_error(c, "%s (see --help)", what);
    return CLI_USAGE;
}

/* What belongs together. */
static int check_options(const cli *c, const run_options *o)
{
    int compares = !!o->reference + !!o->baseline + !!o->perplexity;

    if (!o->model)
        return usage(c, "MODEL is missing");
    if (!o->baseline != !o->tokens)
        return usage(c, "--baseline and --tokens go together");
    if (compares > 1)
        return usage(c, "one of --reference, --baseline, --perplexity at a time");
    if (o->gate && !compares)
        return usage(c, "--gate needs --reference, --baseline or --perplexity");
    if (o->junit && !compares)
        return usage(c, "--junit needs --reference, --baseline or --perplexity");
    if (o->window && !o->baseline && !o->perplexity)
        return usage(c, "--window needs --baseline or --perplexity");
    if (o->save_reference && !o->sources.count && !o->reference)
        return usage(c, "--save-reference needs prompts");
    if (o->blas && strcmp(c->device, "auto") != 0 && strcmp(c->device, "cpu") != 0)
        return usage(c, "--blas is for the CPU");
    if (o->bench && (compares || o->sources.count))
        return usage(c, "--bench runs alone, without prompts and comparisons");
    if (!o->bench && (o->bench_batches || o->bench_context))
        return usage(c, "--bench-batch and --bench-context need --bench");
    if (!compares && !o->sources.count && !o->bench)
        return usage(c, "nothing to do: give --prompt, --prompt-ids, --prompts, --reference, "
                        "--baseline, --perplexity or --bench");
    return CLI_OK;
}

/* 0: go on; 1: *status is the answer. */
static int parse(cli *c, run_options *o, int *status)
{
    int got;

    while ((got = cli_next(c, status)) > 0) {
        int rc = 0;
        if (got == CLI_OPTION)
            rc = take_option(c, o);
        else if (o->model)
            rc = usage(c, "one MODEL is wanted");
        else
            o->model = c->value;
        if (rc) {
            *status = CLI_USAGE;
            return 1;
        }
    }
    if (got == CLI_STOP)
        return 1;
    *status = check_options(c, o);
    return *status != CLI_OK;
}

/* ---- The run ------------------------------------------------------------------------ */

static void announce(const run *r)
{
    if (r->has_stats || !r->sequences)
        return;
    cli_note(r->cli, "valid vocabulary %" PRId64 " of %" PRId64, r->valid, r->vocab);
}

static ccq_code work(run *r, ccq_error *err)
{
    ccq_code code = CCQ_OK;

    if (r->o->bench)
        return run_bench(r, err);
    if (r->ref && (code = run_reference(r, err)))
        return code;
    if ((r->base_src || r->o->perplexity) && (code = run_windows(r, err)))
        return code;
    if (r->gates && (code = ccq_gates_check(r->gates, r->gate_count, &r->stats, &r->missed, err)))
        return code;
    if (r->prompts.count && (code = run_generate(r, r->o->save_reference != NULL, err)))
        return code;
    announce(r);
    /* run_save asks too, before it writes */
    if ((code = r->o->save_reference ? run_save(r, err) : run_check_stop(err)))
        return code;
    if ((code = run_output_commit(&r->trace, err)))
        return code;
    return run_junit(r, err);
}

int main(int argc, char **argv)
{
    static run_options o = {.order = -1, .temperature = 1, .top_p = 1};
    cli c;
    run r = {.cli = &c, .o = &o};
    ccq_error err;
    int status;

    cli_init(&c, "ccq-run", "[OPTION]... MODEL",
             "Runs an ERNIE-4.5 checkpoint, BF16 or quantized, and compares it with another.",
             options, argc, argv);
    if (parse(&c, &o, &status))
        return status;
    run_catch_signals();
    if (o.blas)
        c.device = "cpu";
    if ((status = cli_device_open(&c, &r.gpu, r.device)) != CLI_OK)
        return cli_finish(&c, status);
    if (run_open(&r, &err) || work(&r, &err))
        status = cli_fail(&c, &err);
    else
        status = run_report(&r);
    run_close(&r);
    return cli_finish(&c, status);
}
