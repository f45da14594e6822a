/* Logits of given tokens, for one model or two over the same rows. Nothing is
 * kept: a block of rows goes to the caller as soon as it is there. */
#include "libccq/evaluate_internal.h"

#include <stdlib.h>
#include <string.h>

typedef struct resident {
    ccq_eval_work *w;
    ccq_session *session[2];
    int64_t *rows; /* wanted rows of a step, by number in it */
    uint64_t done;
} resident;

static ccq_code prepare(resident *r, ccq_error *err)
{
    ccq_eval_work *w = r->w;
    const ccq_eval *e = w->e;
    uint64_t cache = 0, space = 0;
    ccq_code code;

    r->rows = calloc((size_t)w->step_rows, sizeof *r->rows);
    if (!r->rows)
        return ccq_fail(err, CCQ_NO_MEMORY, "evaluation: out of memory");
    for (int i = 0; i < w->models; i++) {
        if ((code = ccq_session_open(&r->session[i], e->model[i], w->slots, w->capacity,
                                     w->step_rows, err)))
            return code;
        cache += ccq_session_cache_bytes(r->session[i]);
        space += ccq_session_work_bytes(r->session[i]);
    }
    if ((code = ccq_eval_blocks(w, CCQ_EVAL_BLOCK, 1, err)))
        return code;
    if (e->hooks.memory)
        e->hooks.memory(e->hooks.ctx, cache, space);
    return CCQ_OK;
}

/* ---- Router choices ---------------------------------------------------------- */

static ccq_routes route_row(const ccq_routes *all, int64_t row)
{
    int64_t at = row * all->layers;
    ccq_routes one = {1,
                      all->layers,
                      all->k,
                      all->ids + at * all->k,
                      all->weights + at * all->k,
                      all->margin + at};
    return one;
}

/* Out of the session, where rows not wanted lie between. */
static void copy_routes(const resident *v, int i, const int64_t *rows, size_t count,
                        ccq_routes *out)
{
    const ccq_eval_work *w = v->w;
    ccq_routes all;

    ccq_session_routes(v->session[i], &all);
    *out = all;
    out->rows = all.rows ? (int64_t)count : 0;
    out->ids = w->ids[i];
    out->weights = w->weights[i];
    out->margin = w->margin[i];
    for (size_t r = 0; all.rows && r < count; r++) {
        ccq_routes one = route_row(&all, rows[r]);
        size_t n = (size_t)(all.layers * all.k);
        memcpy(w->ids[i] + r * n, one.ids, n * sizeof *one.ids);
        memcpy(w->weights[i] + r * n, one.weights, n * sizeof *one.weights);
        memcpy(w->margin[i] + r * (size_t)all.layers, one.margin,
               (size_t)all.layers * sizeof *one.margin);
    }
}

static void trace_step(const resident *v, size_t spans)
{
    const ccq_eval_work *w = v->w;
    ccq_routes all;
    int64_t row = 0;

    if (!w->e->hooks.trace)
        return;
    ccq_session_routes(v->session[0], &all);
    for (size_t i = 0; all.rows && i < spans; i++) {
        const ccq_span *p = &w->span[i];
        int64_t at = ccq_eval_position(w, p);
        for (int64_t j = 0; j < p->rows; j++, row++) {
            ccq_routes one = route_row(&all, row);
            w->e->hooks.trace(w->e->hooks.ctx, p->sequence, at + j, p->ids[j], &one);
        }
    }
}

/* ---- Run ----------------------------------------------------------------------- */

static ccq_code give_blocks(resident *v, size_t count, ccq_error *err)
{
    ccq_eval_work *w = v->w;
    ccq_code code;

    for (size_t at = 0; at < count; at += w->block) {
        ccq_eval_block b = {
            w->next, count - at < w->block ? count - at : w->block, {NULL, NULL}, {{0}}};
        for (int i = 0; i < w->models; i++) {
            double t = ccq_eval_clock();
            if ((code = ccq_session_logits(v->session[i], v->rows + at, b.rows, w->logits[i], err)))
                return code;
            w->seconds += i == 0 ? ccq_eval_clock() - t : 0;
            b.logits[i] = w->logits[i];
            copy_routes(v, i, v->rows + at, b.rows, &b.routes[i]);
        }
        if ((code = w->e->block(w->e->ctx, &b, err)))
            return code;
        w->next += b.rows;
    }
    return CCQ_OK;
}

static ccq_code run_step(resident *v, size_t spans, ccq_error *err)
{
    ccq_eval_work *w = v->w;
    ccq_code code;

    for (int i = 0; i < w->models; i++) {
        double t = ccq_eval_clock();
        if ((code = ccq_session_step(v->session[i], w->span, spans, err)))
            return code;
        w->seconds += i == 0 ? ccq_eval_clock() - t : 0;
    }
    trace_step(v, spans);
    if ((code = give_blocks(v, ccq_eval_pick(w, spans, v->rows), err)))
        return code;
    v->done += (uint64_t)ccq_eval_step_rows(w, spans);
    if (w->e->hooks.progress)
        w->e->hooks.progress(w->e->hooks.ctx, v->done, w->total);
    return CCQ_OK;
}

/* One group: its rows in steps of at most prefill_rows. */
static ccq_code run_group(resident *v, size_t first, size_t end, ccq_error *err)
{
    const ccq_eval_work *w = v->w;
    int64_t done = 0;
    size_t spans;
    ccq_code code;

    for (size_t i = first; i < end; i++)
        for (int k = 0; k < w->models; k++)
            ccq_session_reset(v->session[k], w->slot[i]);
    while ((spans = ccq_eval_step(w, end, &first, &done)))
        if ((code = run_step(v, spans, err)))
            return code;
    return CCQ_OK;
}

static ccq_code evaluate_resident(ccq_eval_work *w, ccq_error *err)
{
    resident v = {.w = w};
    ccq_code code = prepare(&v, err);

    for (size_t at = 0, end; !code && at < w->e->prompt_count; at = end) {
        end = ccq_eval_group_end(w, at);
        code = run_group(&v, at, end, err);
    }
    for (int i = 0; i < 2; i++)
        ccq_session_close(v.session[i]);
    free(v.rows);
    return code;
}

ccq_code ccq_evaluate(const ccq_eval *eval, double *seconds, ccq_error *err)
{
    int models = eval->model[1] ? 2 : 1, layered = eval->model[0]->options.layered;
    ccq_eval_work w = {0};
    ccq_code code = ccq_eval_rows(&w, eval, models, err);

    if (!code)
        code = ccq_eval_groups(&w, eval->prefill_rows > 0 ? eval->prefill_rows : CCQ_PREFILL_ROWS,
                               err);
    if (!code && models == 2 && layered != eval->model[1]->options.layered)
        code = ccq_fail(err, CCQ_BUG, "evaluation: one of two models is read layer by layer");
    if (!code)
        code = layered ? ccq_evaluate_layers(&w, err) : evaluate_resident(&w, err);
    if (seconds)
        *seconds = w.seconds;
    ccq_eval_free(&w);
    return code;
}
