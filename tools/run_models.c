/* Models: in memory for prompts, and for comparisons where they fit; else layer by layer. */
#include "tools/run.h"

#include "libccq/blas.h"
#include "libccq/memory.h"

#include <inttypes.h>
#include <stdlib.h>
#include <time.h>

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Bytes for all of it; 0: nothing limits them. */
static uint64_t memory_limit(const run *r)
{
    uint64_t available = ccq_memory_available();

    if (r->o->mem_limit)
        return r->o->mem_limit;
    return available == UINT64_MAX ? 0 : available / 5 * 4;
}

static ccq_model_options options_of(const run *r, uint64_t limit)
{
    ccq_model_options o = {.numerics = r->o->numerics,
                           .rounding = r->o->rounding,
                           .fp32_logits = r->o->fp32_logits,
                           .blas = r->o->blas ? ccq_openblas() : NULL,
                           .pool = r->pool,
                           .gpu = r->gpu,
                           .gpu_models = r->base_src ? 2 : 1,
                           .cancelled = run_stopped,
                           .mem_limit = limit,
                           .layered = r->layered};

    ccq_ops_init(&o.ops, r->cli->isa);
    return o;
}

static ccq_code open_model(run *r, const ccq_source *src, uint64_t limit, ccq_model **model,
                           ccq_error *err)
{
    ccq_model_options o = options_of(r, limit);
    char size[16];
    double t = now();
    ccq_code code = r->o->blas && !o.blas
                        ? ccq_fail(err, CCQ_UNAVAILABLE, "this build has no OpenBLAS")
                        : ccq_model_open(model, src, &o, err);

    if (code || r->layered)
        return code;
    r->load_s += now() - t;
    cli_note(r->cli, "%s: weights %s in %.2f s", src->dir,
             cli_bytes(size, sizeof size, ccq_model_bytes(*model)), now() - t);
    run_note_bias(r, *model);
    return CCQ_OK;
}

void run_note_bias(const run *r, const ccq_model *model)
{
    if (model && ccq_model_large_bias(model) >= 0)
        cli_note(r->cli,
                 "%s: layer %" PRId64
                 ": a correction bias of 1 or more; FastDeploy's selection may "
                 "differ there",
                 ccq_model_source(model)->dir, ccq_model_large_bias(model));
}

static ccq_code open_both(run *r, const uint64_t limit[2], ccq_error *err)
{
    ccq_code code = open_model(r, r->src, limit[0], &r->model, err);

    return code || !r->base_src ? code : open_model(r, r->base_src, limit[1], &r->base, err);
}

/* Of two, half of what the weights of both leave. */
static ccq_code share_memory(const run *r, uint64_t limit[2], ccq_error *err)
{
    uint64_t all = memory_limit(r), one, two, rest;

    limit[0] = limit[1] = all;
    if (!all || !r->base_src)
        return CCQ_OK;
    one = ccq_model_need(r->src);
    two = ccq_model_need(r->base_src);
    if (one > all || two > all - one)
        return ccq_fail(err, CCQ_NO_MEMORY,
                        "weights of %" PRIu64 " and %" PRIu64 " bytes: the memory limit is %"
                        PRIu64,
                        one, two, all);
    rest = all - one - two;
    limit[0] = one + rest / 2;
    limit[1] = two + rest / 2;
    return CCQ_OK;
}

ccq_code run_open_resident(run *r, ccq_error *err)
{
    uint64_t limit[2];
    ccq_code code = share_memory(r, limit, err);

    return code ? code : open_both(r, limit, err);
}

ccq_code run_open_models(run *r, const ccq_eval *e, ccq_error *err)
{
    const ccq_source *src[2] = {r->src, r->base_src};
    uint64_t all = memory_limit(r), need[2], limit[2] = {all, all};
    ccq_model_options o = options_of(r, all);
    ccq_code code;

    if (r->model)
        return CCQ_OK;
    if ((code = ccq_evaluate_need(e, src, &o, need, err)))
        return code;
    r->layered = all && (need[0] > all || need[1] > all - need[0]);
    if (all && !r->layered) {
        limit[0] = all - need[1];
        limit[1] = all - need[0];
    }
    return open_both(r, limit, err);
}

ccq_code run_evaluate(run *r, ccq_eval *e, ccq_error *err)
{
    const char *tmp = getenv("TMPDIR");
    double seconds = 0;
    ccq_code code = run_open_models(r, e, err);

    if (code)
        return code;
    e->model[0] = r->model;
    e->model[1] = r->base;
    e->prefill_rows = r->o->prefill_rows;
    e->spill_dir = r->spill_dir = tmp && *tmp ? tmp : "/tmp";
    code = ccq_evaluate(e, &seconds, err);
    r->timing.prefill_s += seconds;
    for (size_t i = 0; i < e->row_count; i++) /* rows that ran: up to the last wanted one */
        if (i + 1 == e->row_count || e->row_seq[i + 1] != e->row_seq[i])
            r->timing.prefill_rows += (uint64_t)e->row_pos[i] + 1;
    if (!code && r->layered) {
        run_note_bias(r, r->model);
        run_note_bias(r, r->base);
    }
    return code;
}
