/* What calibration holds. */
#include "libccq/calib_internal.h"

#include <stdlib.h>
#include <string.h>

enum { BLOCK = 256, ROWS = 2048 };

static float *floats(int64_t rows, int64_t width)
{
    return malloc((size_t)rows * (size_t)width * sizeof(float));
}

static ccq_code open_rows(ccq_calib *c, ccq_error *err)
{
    const ccq_arch *a = c->model->arch;
    int64_t h = a->hidden, n = a->moe_inter, k = a->moe_k, routed = c->tokens * k;
    c->choice = malloc((size_t)routed * sizeof *c->choice);
    c->weight = floats(routed, 1);
    c->token = malloc((size_t)routed * sizeof *c->token);
    c->r = floats(routed, 1);
    c->start = calloc((size_t)a->experts + 1, sizeof *c->start);
    for (int i = 0; i < CCQ_STREAMS; i++)
        c->rows[i] = floats(c->chunk, h);
    c->missing = floats(c->chunk, h);
    c->group = floats(c->chunk, h);
    c->gu = floats(c->chunk, 2 * n);
    c->a = floats(c->chunk, n);
    c->b = floats(c->chunk, n);
    c->span = malloc((size_t)c->windows * sizeof *c->span);
    int good = c->choice && c->weight && c->token && c->r && c->start && c->rows[0] && c->rows[1] &&
               c->missing && c->group && c->gu && c->a && c->b && c->span;
    return good ? CCQ_OK : ccq_fail(err, CCQ_NO_MEMORY, "calibration: out of memory");
}

static ccq_code open_session(ccq_calib *c, ccq_error *err)
{
    int64_t windows = c->windows, *capacity = malloc((size_t)windows * sizeof *capacity);
    if (!capacity)
        return ccq_fail(err, CCQ_NO_MEMORY, "calibration: out of memory");
    for (int64_t i = 0; i < windows; i++)
        capacity[i] = c->o->window;
    c->chunk = (windows * c->o->window + BLOCK - 1) / BLOCK * BLOCK;
    ccq_code code = ccq_session_open(&c->session, c->model, (size_t)windows, capacity, c->chunk,
                                     err);
    free(capacity);
    return code;
}

static ccq_code open_model(ccq_calib *c, ccq_error *err)
{
    const ccq_quantize_run_options *run = c->engine->run;
    ccq_model_options o = {.numerics = CCQ_EXACT, .rounding = CCQ_ROUND_FUSED, .ops = *run->ops,
                           .pool = run->pool, .cancelled = run->cancelled, .cancel_ctx = run->ctx,
                           .layered = 1, .transform = c->engine->plan->transform};
    return ccq_model_open(&c->model, c->engine->plan->src, &o, err);
}

ccq_code ccq_calib_open(ccq_calib *c, int streams, ccq_error *err)
{
    c->tokens = c->o->windows * c->o->window;
    c->windows = c->o->window < ROWS ? ROWS / c->o->window : 1;
    c->streams = streams;
    c->solver = (ccq_solver){c->engine->run->ops->dense, c->engine->run->pool};
    ccq_code code = open_model(c, err);
    if (code || (code = open_session(c, err)) || (code = open_rows(c, err)))
        return code;
    c->ids = ccq_calibration_ids(c->o, c->model->arch);
    if (!c->ids)
        return ccq_fail(err, CCQ_NO_MEMORY, "calibration: out of memory");
    for (int i = 0; i < streams && !code; i++)
        code = ccq_stream_open(&c->x[i], (uint64_t)c->tokens,
                               (uint64_t)c->model->arch->hidden * sizeof(float), c->spill, err);
    if (!code)
        code = ccq_embed_load(c->model, err);
    for (int i = 0; i < streams && !code; i++)
        code = ccq_calib_embed(c, i, err);
    ccq_embed_free(c->model);
    return code;
}

void ccq_calib_close(ccq_calib *c)
{
    for (int i = 0; i < CCQ_STREAMS; i++) {
        ccq_stream_close(c->x[i]);
        free(c->rows[i]);
    }
    ccq_calib_metric_free(&c->shared);
    ccq_stats_abandon(c->out);
    ccq_session_close(c->session);
    ccq_model_close(c->model);
    free(c->layer_h), free(c->layer_c);
    free(c->choice), free(c->weight), free(c->token), free(c->r), free(c->start);
    free(c->missing), free(c->group), free(c->gu), free(c->a), free(c->b);
    free(c->span), free(c->ids);
}

