/* Both streams through a layer, in groups of windows. */
#include "libccq/calib_internal.h"

#include <string.h>

/* fn for the rows of each group of windows, of one stream. */
typedef ccq_code (*group_fn)(ccq_calib *c, int stream, int64_t first, int64_t windows, float *x,
                             ccq_error *err);

static ccq_code each_group(ccq_calib *c, int stream, group_fn fn, ccq_error *err)
{
    int64_t window = c->o->window, step = c->windows;
    ccq_code code = CCQ_OK;
    for (int64_t i = 0; i < c->o->windows && !code; i += step) {
        int64_t count = c->o->windows - i < step ? c->o->windows - i : step;
        uint64_t first = (uint64_t)(i * window), rows = (uint64_t)(count * window);
        float *x = ccq_stream_get(c->x[stream], first, rows, c->group, err);
        if ((code = ccq_engine_poll(c->engine, err)))
            return code;
        if (!x)
            return err->code;
        code = fn(c, stream, i, count, x, err);
        if (!code)
            code = ccq_stream_put(c->x[stream], first, rows, x, err);
    }
    return code;
}

static ccq_code embed_group(ccq_calib *c, int stream, int64_t first, int64_t windows, float *x,
                            ccq_error *err)
{
    int64_t rows = windows * c->o->window;
    ccq_code code = ccq_session_embed(c->session, c->ids + first * c->o->window, rows, x, err);
    if (!code && stream == CCQ_CODED_STREAM) /* as it is stored: a transform makes fp32 of it */
        c->engine->run->ops->round(x, rows * c->model->arch->hidden, x);
    return code;
}

static ccq_code attend_group(ccq_calib *c, int stream, int64_t first, int64_t windows, float *x,
                             ccq_error *err)
{
    int64_t window = c->o->window;
    for (int64_t i = 0; i < windows; i++) {
        c->span[i] = (ccq_span){.slot = (size_t)i, .sequence = (size_t)(first + i),
                                .rows = window, .ids = c->ids + (first + i) * window};
        ccq_session_reset(c->session, (size_t)i);
    }
    return ccq_session_attend(c->session, &c->layer[stream], c->number, c->span, (size_t)windows,
                              x, err);
}

static ccq_code mlp_group(ccq_calib *c, int stream, int64_t first, int64_t windows, float *x,
                          ccq_error *err)
{
    ccq_session_rows(c->session, first * c->o->window, windows * c->o->window);
    return ccq_session_mlp(c->session, &c->layer[stream], c->number, x, err);
}

static ccq_code route_group(ccq_calib *c, int stream, int64_t first, int64_t windows, float *x,
                            ccq_error *err)
{
    int64_t at = first * c->o->window, rows = windows * c->o->window, k = c->model->arch->moe_k;
    float *h = c->rows[stream];
    ccq_layer_norm_post(c->session, &c->layer[stream], x, rows, h);
    return ccq_layer_route(c->session, &c->layer[stream], c->number, h, rows, at,
                           c->choice + at * k, c->weight + at * k, NULL, err);
}

/* Tokens by expert, ascending, with the chosen weights of a token summing to 1. */
static void sort_tokens(ccq_calib *c)
{
    int64_t k = c->model->arch->moe_k, experts = c->model->arch->experts;
    memset(c->start, 0, (size_t)(experts + 1) * sizeof *c->start);
    for (int64_t i = 0; i < c->tokens * k; i++)
        c->start[c->choice[i] + 1]++;
    for (int64_t e = 0; e < experts; e++)
        c->start[e + 1] += c->start[e];
    for (int64_t t = 0; t < c->tokens; t++) {
        float sum = 0;
        for (int64_t j = 0; j < k; j++)
            sum += c->weight[t * k + j];
        for (int64_t j = 0; j < k; j++) {
            int64_t at = c->start[c->choice[t * k + j]]++;
            c->token[at] = (int32_t)t;
            c->r[at] = sum > 0 ? c->weight[t * k + j] / sum : 0;
        }
    }
    memmove(c->start + 1, c->start, (size_t)experts * sizeof *c->start);
    c->start[0] = 0;
}

ccq_code ccq_calib_route(ccq_calib *c, int stream, ccq_error *err)
{
    ccq_code code = each_group(c, stream, route_group, err);
    if (!code)
        sort_tokens(c);
    return code;
}

ccq_code ccq_calib_embed(ccq_calib *c, int stream, ccq_error *err)
{
    return each_group(c, stream, embed_group, err);
}

ccq_code ccq_calib_attend(ccq_calib *c, int stream, ccq_error *err)
{
    return each_group(c, stream, attend_group, err);
}

ccq_code ccq_calib_mlp(ccq_calib *c, int stream, ccq_error *err)
{
    return each_group(c, stream, mlp_group, err);
}
