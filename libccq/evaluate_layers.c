/* Evaluation layer by layer: all rows through one layer before the next one is read, model
 * after model; then logits, block by block, from the residual rows of both. */
#include "libccq/evaluate_internal.h"

#include <stdlib.h>
#include <string.h>

enum { LEAST_ROWS = 16 }; /* of a step, and of a block: fewer save nothing */

typedef struct run {
    ccq_eval_work *w;
    ccq_layers_plan plan;
    size_t block;
    int traced;            /* router choices of all rows of model 0 are kept */
    ccq_stream *x[2];      /* residual rows of all prompts */
    ccq_stream *routes[2]; /* [MoE layer][row]: k ids, k weights, margin */
    float *rows;           /* [step_rows][H]: where x is in a file */
    int64_t *wanted;       /* [step_rows]: wanted rows of a step */
    int32_t *record;       /* [step_rows or block] of routes */
    ccq_session *session[2];
    /* the pass at work */
    int i;
    ccq_layer layer;
    int64_t number, moe_at;
    uint64_t done;
} run;

typedef ccq_code (*step_fn)(run *v, size_t spans, uint64_t row, ccq_error *err);

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static const ccq_model *model_of(const run *v, int i)
{
    return v->w->e->model[i];
}

static int traced(const run *v, int i)
{
    return v->traced && i == 0;
}

/* ---- Plan -------------------------------------------------------------------- */

static size_t record_size(const ccq_model *m)
{
    return (2 * (size_t)m->arch->moe_k + 1) * sizeof(int32_t);
}

static uint64_t end_need(const ccq_source *src, int head)
{
    ccq_role role = head && !src->arch.tied ? CCQ_ROLE_HEAD : CCQ_ROLE_EMBED;
    const ccq_entry *e = ccq_source_find(src, role, CCQ_BLOCK_NONE, -1, -1, 0);

    return e ? ccq_entry_need(src, e) + ccq_entry_transient(src, e) : 0;
}

/* The last norms, which are always there. */
static uint64_t norm_bytes(const run *v)
{
    uint64_t sum = 0;

    for (int i = 0; i < v->w->models; i++)
        sum += (uint64_t)model_of(v, i)->arch->hidden * sizeof(float);
    return sum;
}

/* Most bytes of weights while the rows of a model pass. */
static uint64_t pass_weights(const run *v, const ccq_model *m)
{
    uint64_t most = end_need(m->src, 0);

    for (int64_t i = 0; i < m->arch->layers; i++)
        most = larger(most, ccq_layer_need(m->src, i));
    return most + norm_bytes(v);
}

/* Everything but streams, for steps of at most so many rows. */
static ccq_code measure_pass(run *v, int64_t rows, uint64_t *most, ccq_error *err)
{
    ccq_eval_work *w = v->w;
    ccq_code code = ccq_eval_groups(w, rows, err);

    *most = v->plan.weights = v->plan.cache = v->plan.work = 0;
    for (int i = 0; !code && i < w->models; i++) {
        const ccq_model *m = model_of(v, i);
        uint64_t cache, work, weights = pass_weights(v, m);
        code = ccq_session_measure(m, w->slots, w->capacity, w->step_rows, &cache, &work, err);
        work += (uint64_t)w->step_rows * ((uint64_t)m->arch->hidden * sizeof(float) +
                                          record_size(m) + sizeof *v->wanted);
        v->plan.weights = larger(v->plan.weights, weights);
        v->plan.cache = larger(v->plan.cache, cache);
        v->plan.work = larger(v->plan.work, work);
        *most = larger(*most, weights + cache + work);
    }
    return code;
}

/* The same for logits of blocks of so many rows. */
static ccq_code measure_head(run *v, size_t block, uint64_t *weights, uint64_t *most,
                             ccq_error *err)
{
    const int64_t one = 1;
    ccq_code code = CCQ_OK;

    *most = *weights = norm_bytes(v);
    for (int i = 0; !code && i < v->w->models; i++) {
        const ccq_model *m = model_of(v, i);
        uint64_t cache, work, b = block;
        code = ccq_session_measure(m, 1, &one, (int64_t)block, &cache, &work, err);
        *weights += end_need(m->src, 1);
        *most += end_need(m->src, 1) + cache + work + b * (uint64_t)m->arch->vocab * sizeof(float) +
                 b * (uint64_t)(m->moe_layers + 1) * record_size(m) +
                 b * (uint64_t)m->arch->hidden * sizeof(float);
    }
    return code;
}

/* Shorter steps and blocks where the limit wants them. */
static ccq_code fit(run *v, uint64_t limit, ccq_error *err)
{
    uint64_t pass, head, weights;
    int64_t rows = v->w->prefill_rows;
    ccq_code code;

    while (!(code = measure_pass(v, rows, &pass, err)) && limit && pass > limit &&
           rows > LEAST_ROWS)
        rows = rows / 2 > LEAST_ROWS ? rows / 2 : LEAST_ROWS;
    v->block = CCQ_EVAL_BLOCK;
    while (!code && !(code = measure_head(v, v->block, &weights, &head, err)) && limit &&
           head > limit && v->block > LEAST_ROWS)
        v->block /= 2;
    if (code)
        return code;
    v->plan.total = larger(pass, head);
    v->plan.weights = larger(v->plan.weights, weights);
    v->plan.rows = v->w->total;
    v->plan.step_rows = v->w->step_rows;
    if (!limit || v->plan.total <= limit)
        return CCQ_OK;
    return ccq_fail(err, CCQ_NO_MEMORY,
                    "%s: layer by layer at least %llu bytes: %llu of weights at a time, KV cache "
                    "of %llu and work space of %llu: the memory limit is %llu",
                    model_of(v, 0)->src->dir, (unsigned long long)v->plan.total,
                    (unsigned long long)v->plan.weights, (unsigned long long)v->plan.cache,
                    (unsigned long long)v->plan.work, (unsigned long long)limit);
}

/* In memory as long as there is room. */
static ccq_code open_stream(run *v, uint64_t limit, uint64_t rows, uint64_t size, ccq_stream **s,
                            ccq_error *err)
{
    const char *dir = v->w->e->spill_dir;
    uint64_t bytes;

    if (__builtin_mul_overflow(rows, size, &bytes))
        return ccq_fail(err, CCQ_NO_MEMORY, "evaluation: %llu rows pass the address space",
                        (unsigned long long)rows);
    if (!limit || bytes <= limit - v->plan.total) {
        v->plan.total += bytes;
        v->plan.kept += bytes;
        return ccq_stream_open(s, rows, size, NULL, err);
    }
    if (!dir)
        return ccq_fail(err, CCQ_NO_MEMORY,
                        "layer by layer %llu bytes, and rows of %llu: the memory limit is %llu",
                        (unsigned long long)v->plan.total, (unsigned long long)bytes,
                        (unsigned long long)limit);
    v->plan.spilled += bytes;
    return ccq_stream_open(s, rows, size, dir, err);
}

static ccq_code open_streams(run *v, uint64_t limit, ccq_error *err)
{
    const ccq_eval *e = v->w->e;
    ccq_code code = CCQ_OK;

    for (int i = 0; !code && i < v->w->models; i++)
        code = open_stream(v, limit, v->w->total,
                           (uint64_t)model_of(v, i)->arch->hidden * sizeof(float), &v->x[i], err);
    for (int i = 0; !code && i < v->w->models; i++) {
        const ccq_model *m = model_of(v, i);
        uint64_t rows = traced(v, i) ? v->w->total : e->row_count;
        if (m->moe_layers && (!e->no_routes || traced(v, i)))
            code = open_stream(v, limit, rows * (uint64_t)m->moe_layers, record_size(m),
                               &v->routes[i], err);
    }
    return code;
}

static ccq_code prepare(run *v, ccq_error *err)
{
    const ccq_eval *e = v->w->e;
    uint64_t limit = model_of(v, 0)->options.mem_limit;
    size_t hidden = 0, record = 0, most;
    ccq_code code;

    v->traced = e->hooks.trace != NULL;
    if ((code = fit(v, limit, err)) || (code = open_streams(v, limit, err)))
        return code;
    for (int i = 0; i < v->w->models; i++) {
        hidden = larger(hidden, (uint64_t)model_of(v, i)->arch->hidden);
        record = larger(record, record_size(model_of(v, i)));
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
static ccq_code each_step(run *v, step_fn fn, ccq_error *err)
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

static ccq_code embed_step(run *v, size_t spans, uint64_t row, ccq_error *err)
{
    uint64_t rows = (uint64_t)ccq_eval_step_rows(v->w, spans);
    int64_t h = model_of(v, v->i)->arch->hidden, at = 0;
    float *x;
    ccq_code code = ccq_model_cancelled(model_of(v, v->i), err);

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
static ccq_code keep_routes(run *v, size_t spans, uint64_t row, ccq_error *err)
{
    ccq_eval_work *w = v->w;
    uint64_t all = traced(v, v->i) ? w->total : w->e->row_count, first = w->next;
    size_t k = (size_t)model_of(v, v->i)->arch->moe_k, count = ccq_eval_pick(w, spans, v->wanted);
    ccq_routes got;

    w->next += count;
    if (!v->routes[v->i] || !v->layer.moe)
        return CCQ_OK;
    if (traced(v, v->i)) {
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

static ccq_code layer_step(run *v, size_t spans, uint64_t row, ccq_error *err)
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
                                 (uint64_t)model_of(v, v->i)->arch->layers);
    return CCQ_OK;
}

static ccq_code pass(run *v, ccq_error *err)
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

static ccq_code gather(run *v, int i, size_t first, size_t count, ccq_error *err)
{
    size_t h = (size_t)model_of(v, i)->arch->hidden, n;

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
static ccq_code read_routes(run *v, int i, uint64_t first, size_t n, size_t r, ccq_error *err)
{
    const ccq_model *m = model_of(v, i);
    size_t k = (size_t)m->arch->moe_k, layers = (size_t)m->moe_layers;
    uint64_t all = traced(v, i) ? v->w->total : v->w->e->row_count;

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

static ccq_routes block_routes(const run *v, int i, size_t count)
{
    const ccq_model *m = model_of(v, i);
    ccq_routes r = {v->routes[i] ? (int64_t)count : 0,
                    m->moe_layers,
                    m->arch->moe_k,
                    v->w->ids[i],
                    v->w->weights[i],
                    v->w->margin[i]};

    return r;
}

static ccq_code gather_routes(run *v, int i, size_t first, size_t count, ccq_error *err)
{
    ccq_code code;

    if (!traced(v, i))
        return read_routes(v, i, first, count, 0, err);
    for (size_t r = 0, n; r < count; r += n) {
        n = neighbours(v->w, first + r, count - r);
        if ((code = read_routes(v, i, place(v->w, first + r), n, r, err)))
            return code;
    }
    return CCQ_OK;
}

static ccq_code give_block(run *v, size_t first, size_t count, ccq_error *err)
{
    const ccq_eval *e = v->w->e;
    ccq_eval_block b = {first, count, {NULL, NULL}, {{0}}};
    ccq_code code;

    for (int i = 0; i < v->w->models; i++) {
        double t = ccq_eval_clock();
        if ((code = ccq_model_cancelled(model_of(v, i), err)) ||
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
static ccq_code trace_all(run *v, ccq_error *err)
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

static ccq_code give_blocks(run *v, ccq_error *err)
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
    run v = {.w = w};
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
