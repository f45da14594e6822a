/* Evaluation layer by layer: all rows through one layer before the next one is read, model
 * after model; then logits, block by block, from the residual rows of both. */
#include "libccq/evaluate_internal.h"

#include <stdlib.h>
#include <string.h>

typedef ccq_code (*step_fn)(ccq_eval_layers *v, size_t spans, uint64_t row, ccq_error *err);

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static ccq_code prepare(ccq_eval_layers *v, ccq_error *err)
{
    const ccq_eval *e = v->w->e;
    uint64_t limit = ccq_eval_model(v, 0)->options.mem_limit;
    size_t hidden = 0, record = 0, most;
    ccq_code code;

    v->traced = e->hooks.trace != NULL;
    if ((code = ccq_eval_fit(v, limit, err)))
        return code;
    for (int i = 0; i < v->w->models; i++) {
        hidden = larger(hidden, (uint64_t)ccq_eval_model(v, i)->arch->hidden);
        record = larger(record, ccq_eval_record(ccq_eval_model(v, i)));
    }
    most = larger((uint64_t)v->w->step_rows, v->block);
    v->rows = calloc(most * hidden, sizeof *v->rows);
    v->wanted = calloc(most, sizeof *v->wanted);
    v->record = calloc(most, record);
    if (!v->rows || !v->wanted || !v->record)
        return ccq_fail(err, CCQ_NO_MEMORY, "evaluation: out of memory");
    if (e->hooks.layers)
        e->hooks.layers(e->hooks.ctx, &v->plan);
    if (e->hooks.memory)
        e->hooks.memory(e->hooks.ctx, v->plan.cache, v->plan.work);
    return CCQ_OK;
}

/* ---- A model's pass ------------------------------------------------------------ */

/* All steps of all groups; row: the step's first among those of all prompts. */
static ccq_code each_step(ccq_eval_layers *v, step_fn fn, ccq_error *err)
{
    ccq_eval_work *w = v->w;
    uint64_t row = 0;
    ccq_code code;

    w->next = 0;
    for (size_t at = 0, end, spans; at < w->e->prompt_count; at = end) {
        int64_t done = 0;
        end = ccq_eval_group_end(w, at);
        for (size_t i = at; i < end; i++)
            ccq_session_reset(v->session[v->i], w->slot[i]);
        while ((spans = ccq_eval_step(w, end, &at, &done))) {
            if ((code = fn(v, spans, row, err)))
                return code;
            row += (uint64_t)ccq_eval_step_rows(w, spans);
        }
    }
    return CCQ_OK;
}

static ccq_code embed_step(ccq_eval_layers *v, size_t spans, uint64_t row, ccq_error *err)
{
    uint64_t rows = (uint64_t)ccq_eval_step_rows(v->w, spans);
    int64_t h = ccq_eval_model(v, v->i)->arch->hidden, at = 0;
    float *x;
    ccq_code code = ccq_model_cancelled(ccq_eval_model(v, v->i), err);

    if (code)
        return code;
    /* of a file nothing need be read */
    if (!ccq_stream_in_memory(v->x[v->i]))
        x = v->rows;
    else if (!(x = ccq_stream_get(v->x[v->i], row, rows, NULL, err)))
        return err->code;
    for (size_t i = 0; i < spans; i++) {
        const ccq_span *p = &v->w->span[i];
        if ((code = ccq_session_embed(v->session[v->i], p->ids, p->rows, x + at * h, err)))
            return code;
        at += p->rows;
    }
    return ccq_stream_put(v->x[v->i], row, rows, x, err);
}

/* The choices of wanted rows, or of all. */
static ccq_code keep_routes(ccq_eval_layers *v, size_t spans, uint64_t row, ccq_error *err)
{
    ccq_eval_work *w = v->w;
    uint64_t all = ccq_eval_traced(v, v->i) ? w->total : w->e->row_count, first = w->next;
    size_t k = (size_t)ccq_eval_model(v, v->i)->arch->moe_k;
    size_t count = ccq_eval_pick(w, spans, v->wanted);
    ccq_routes got;

    w->next += count;
    if (!v->routes[v->i] || !v->layer.moe)
        return CCQ_OK;
    if (ccq_eval_traced(v, v->i)) {
        first = row;
        count = (size_t)ccq_eval_step_rows(w, spans);
        for (size_t r = 0; r < count; r++)
            v->wanted[r] = (int64_t)r;
    }
    ccq_session_routes(v->session[v->i], &got);
    for (size_t r = 0; r < count; r++) {
        int32_t *to = v->record + r * (2 * k + 1);
        size_t at = (size_t)v->wanted[r];
        memcpy(to, got.ids + at * k, k * sizeof *to);
        memcpy(to + k, got.weights + at * k, k * sizeof *to);
        memcpy(to + 2 * k, got.margin + at, sizeof *to);
    }
    return ccq_stream_put(v->routes[v->i], (uint64_t)v->moe_at * all + first, count, v->record,
                          err);
}

static ccq_code layer_step(ccq_eval_layers *v, size_t spans, uint64_t row, ccq_error *err)
{
    const ccq_eval_work *w = v->w;
    uint64_t rows = (uint64_t)ccq_eval_step_rows(w, spans);
    ccq_session *s = v->session[v->i];
    float *x = ccq_stream_get(v->x[v->i], row, rows, v->rows, err);
    ccq_code code;

    if (!x)
        return err->code;
    if ((code = ccq_session_attend(s, &v->layer, v->number, w->span, spans, x, err)) ||
        (code = ccq_session_mlp(s, &v->layer, v->number, x, err)) ||
        (code = ccq_stream_put(v->x[v->i], row, rows, x, err)) ||
        (code = keep_routes(v, spans, row, err)))
        return code;
    v->done += rows;
    if (w->e->hooks.progress)
        w->e->hooks.progress(w->e->hooks.ctx, v->done,
                             w->total * (uint64_t)w->models *
                                 (uint64_t)ccq_eval_model(v, v->i)->arch->layers);
    return CCQ_OK;
}

static ccq_code pass(ccq_eval_layers *v, ccq_error *err)
{
    const ccq_eval_work *w = v->w;
    ccq_model *m = w->e->model[v->i];
    ccq_session **s = &v->session[v->i];
    ccq_code code = ccq_session_open(s, m, w->slots, w->capacity, w->step_rows, err);

    if (!code)
        code = ccq_embed_load(m, err);
    if (!code)
        code = each_step(v, embed_step, err);
    ccq_embed_free(m);
    v->moe_at = 0;
    for (v->number = 0; !code && v->number < m->arch->layers; v->number++) {
        if ((code = ccq_layer_load(m, v->number, &v->layer, err)))
            break;
        code = each_step(v, layer_step, err);
        v->moe_at += v->layer.moe;
        ccq_layer_free(m, &v->layer);
    }
    ccq_session_close(*s);
    *s = NULL;
    return code;
}

/* ---- Logits ------------------------------------------------------------------------ */

/* Among the rows of all prompts. */
static uint64_t place(const ccq_eval_work *w, size_t wanted)
{
    return w->first[w->e->row_seq[wanted]] + (uint64_t)w->e->row_pos[wanted];
}

/* Wanted rows from first on, at most count, that lie one after another. */
static size_t neighbours(const ccq_eval_work *w, size_t first, size_t count)
{
    size_t n = 1;

    while (n < count && place(w, first + n) == place(w, first) + n)
        n++;
    return n;
}

static ccq_code gather(ccq_eval_layers *v, int i, size_t first, size_t count, ccq_error *err)
{
    size_t h = (size_t)ccq_eval_model(v, i)->arch->hidden, n;

    for (size_t r = 0; r < count; r += n) {
        float *to = v->rows + r * h;
        n = neighbours(v->w, first + r, count - r);
        const float *x = ccq_stream_get(v->x[i], place(v->w, first + r), n, to, err);
        if (!x)
            return err->code;
        if (x != to)
            memcpy(to, x, n * h * sizeof *to);
    }
    return CCQ_OK;
}

/* Choices of n rows, stored from number first on, to row r of the block. */
static ccq_code read_routes(ccq_eval_layers *v, int i, uint64_t first, size_t n, size_t r,
                            ccq_error *err)
{
    const ccq_model *m = ccq_eval_model(v, i);
    size_t k = (size_t)m->arch->moe_k, layers = (size_t)m->moe_layers;
    uint64_t all = ccq_eval_traced(v, i) ? v->w->total : v->w->e->row_count;

    for (size_t l = 0; l < layers; l++) {
        const int32_t *got = ccq_stream_get(v->routes[i], l * all + first, n, v->record, err);
        if (!got)
            return err->code;
        for (size_t j = 0; j < n; j++) {
            const int32_t *from = got + j * (2 * k + 1);
            size_t to = (r + j) * layers + l;
            memcpy(v->w->ids[i] + to * k, from, k * sizeof *from);
            memcpy(v->w->weights[i] + to * k, from + k, k * sizeof *from);
            memcpy(v->w->margin[i] + to, from + 2 * k, sizeof *from);
        }
    }
    return CCQ_OK;
}

static ccq_routes block_routes(const ccq_eval_layers *v, int i, size_t count)
{
    const ccq_model *m = ccq_eval_model(v, i);
    ccq_routes r = {v->routes[i] ? (int64_t)count : 0,
                    m->moe_layers,
                    m->arch->moe_k,
                    v->w->ids[i],
                    v->w->weights[i],
                    v->w->margin[i]};

    return r;
}

static ccq_code gather_routes(ccq_eval_layers *v, int i, size_t first, size_t count, ccq_error *err)
{
    ccq_code code;

    if (!ccq_eval_traced(v, i))
        return read_routes(v, i, first, count, 0, err);
    for (size_t r = 0, n; r < count; r += n) {
        n = neighbours(v->w, first + r, count - r);
        if ((code = read_routes(v, i, place(v->w, first + r), n, r, err)))
            return code;
    }
    return CCQ_OK;
}

static ccq_code give_block(ccq_eval_layers *v, size_t first, size_t count, ccq_error *err)
{
    const ccq_eval *e = v->w->e;
    ccq_eval_block b = {first, count, {NULL, NULL}, {{0}}};
    ccq_code code;

    for (int i = 0; i < v->w->models; i++) {
        double t = ccq_eval_clock();
        if ((code = ccq_model_cancelled(ccq_eval_model(v, i), err)) ||
            (code = gather(v, i, first, count, err)) ||
            (code = ccq_session_head(v->session[i], v->rows, (int64_t)count, v->w->logits[i],
                                     err)) ||
            (v->routes[i] && (code = gather_routes(v, i, first, count, err))))
            return code;
        v->w->seconds += i == 0 ? ccq_eval_clock() - t : 0;
        b.logits[i] = v->w->logits[i];
        b.routes[i] = block_routes(v, i, count);
    }
    return e->block(e->ctx, &b, err);
}

/* Every row that was run, in the order of the prompts. */
static ccq_code trace_all(ccq_eval_layers *v, ccq_error *err)
{
    const ccq_eval_work *w = v->w;
    const ccq_eval *e = w->e;
    ccq_routes r = block_routes(v, 0, 1);
    ccq_code code;

    for (size_t s = 0; s < e->prompt_count; s++)
        for (int64_t at = 0, n; at < w->need[s]; at += n) {
            n = w->need[s] - at < (int64_t)v->block ? w->need[s] - at : (int64_t)v->block;
            if ((code = read_routes(v, 0, w->first[s] + (uint64_t)at, (size_t)n, 0, err)))
                return code;
            for (int64_t j = 0; j < n; j++) {
                int64_t c = j * r.layers;
                ccq_routes one = {1,
                                  r.layers,
                                  r.k,
                                  r.ids + c * r.k,
                                  r.weights + c * r.k,
                                  r.margin + c};
                e->hooks.trace(e->hooks.ctx, s, at + j, e->prompts[s].ids[at + j], &one);
            }
        }
    return CCQ_OK;
}

static ccq_code give_blocks(ccq_eval_layers *v, ccq_error *err)
{
    const ccq_eval *e = v->w->e;
    const int64_t one = 1;
    ccq_code code = ccq_eval_blocks(v->w, v->block, v->routes[0] || v->routes[1], err);

    if (!code && v->traced && v->routes[0])
        code = trace_all(v, err);
    for (int i = 0; !code && i < v->w->models; i++)
        if (!(code = ccq_head_load(e->model[i], err)))
            code = ccq_session_open(&v->session[i], e->model[i], 1, &one, (int64_t)v->block, err);
    for (size_t at = 0; !code && at < e->row_count; at += v->block)
        code = give_block(v, at, e->row_count - at < v->block ? e->row_count - at : v->block, err);
    for (int i = 0; i < v->w->models; i++)
        ccq_head_free(e->model[i]);
    return code;
}

ccq_code ccq_evaluate_layers(ccq_eval_work *w, ccq_error *err)
{
    ccq_eval_layers v = {.w = w};
    ccq_code code = prepare(&v, err);

    for (v.i = 0; !code && v.i < w->models; v.i++) {
        double t = ccq_eval_clock();
        code = pass(&v, err);
        w->seconds += v.i == 0 ? ccq_eval_clock() - t : 0;
    }
    if (!code)
        code = give_blocks(&v, err);
    for (int i = 0; i < 2; i++) {
        ccq_session_close(v.session[i]);
        ccq_stream_close(v.x[i]);
        ccq_stream_close(v.routes[i]);
    }
    free(v.rows);
    free(v.wanted);
    free(v.record);
    return code;
}
