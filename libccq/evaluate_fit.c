/* What an evaluation layer by layer takes, and how it is made to fit: shorter steps, smaller
 * blocks, rows in files. */
#include "libccq/evaluate_internal.h"

enum { LEAST_ROWS = 16 }; /* of a step, and of a block: fewer save nothing */

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

const ccq_model *ccq_eval_model(const ccq_eval_layers *v, int i)
{
    return v->w->e->model[i];
}

int ccq_eval_traced(const ccq_eval_layers *v, int i)
{
    return v->traced && i == 0;
}

size_t ccq_eval_record(const ccq_model *m)
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
static uint64_t norm_bytes(const ccq_eval_layers *v)
{
    uint64_t sum = 0;

    for (int i = 0; i < v->w->models; i++)
        sum += (uint64_t)ccq_eval_model(v, i)->arch->hidden * sizeof(float);
    return sum;
}

/* Most bytes of weights while the rows of a model pass. */
static uint64_t pass_weights(const ccq_eval_layers *v, const ccq_model *m)
{
    uint64_t most = end_need(m->src, 0);

    for (int64_t i = 0; i < m->arch->layers; i++)
        most = larger(most, ccq_layer_need(m->src, NULL, i));
    return most + norm_bytes(v);
}

/* Everything but streams, for steps of at most so many rows. */
static ccq_code measure_pass(ccq_eval_layers *v, int64_t rows, uint64_t *most, ccq_error *err)
{
    ccq_eval_work *w = v->w;
    ccq_code code = ccq_eval_groups(w, rows, err);

    *most = v->plan.weights = v->plan.cache = v->plan.work = 0;
    for (int i = 0; !code && i < w->models; i++) {
        const ccq_model *m = ccq_eval_model(v, i);
        uint64_t cache, work, weights = pass_weights(v, m);
        code = ccq_session_measure(m, w->slots, w->capacity, w->step_rows, &cache, &work, err);
        work += (uint64_t)w->step_rows * ((uint64_t)m->arch->hidden * sizeof(float) +
                                          ccq_eval_record(m) + sizeof *v->wanted);
        v->plan.weights = larger(v->plan.weights, weights);
        v->plan.cache = larger(v->plan.cache, cache);
        v->plan.work = larger(v->plan.work, work);
        *most = larger(*most, weights + cache + work);
    }
    return code;
}

/* The same for logits of blocks of so many rows. */
static ccq_code measure_head(ccq_eval_layers *v, size_t block, uint64_t *weights, uint64_t *most,
                             ccq_error *err)
{
    const int64_t one = 1;
    ccq_code code = CCQ_OK;

    *most = *weights = norm_bytes(v);
    for (int i = 0; !code && i < v->w->models; i++) {
        const ccq_model *m = ccq_eval_model(v, i);
        uint64_t cache, work, b = block;
        code = ccq_session_measure(m, 1, &one, (int64_t)block, &cache, &work, err);
        *weights += end_need(m->src, 1);
        *most += end_need(m->src, 1) + cache + work + b * (uint64_t)m->arch->vocab * sizeof(float) +
                 b * (uint64_t)(m->moe_layers + 1) * ccq_eval_record(m) +
                 b * (uint64_t)m->arch->hidden * sizeof(float);
    }
    return code;
}

/* Shorter steps and blocks where the limit wants them. */
static ccq_code shorten(ccq_eval_layers *v, uint64_t limit, ccq_error *err)
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
                    ccq_eval_model(v, 0)->src->dir, (unsigned long long)v->plan.total,
                    (unsigned long long)v->plan.weights, (unsigned long long)v->plan.cache,
                    (unsigned long long)v->plan.work, (unsigned long long)limit);
}

/* In memory as long as there is room. */
static ccq_code open_stream(ccq_eval_layers *v, uint64_t limit, uint64_t rows, uint64_t size,
                            ccq_stream **s, ccq_error *err)
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

static ccq_code open_streams(ccq_eval_layers *v, uint64_t limit, ccq_error *err)
{
    const ccq_eval *e = v->w->e;
    ccq_code code = CCQ_OK;

    for (int i = 0; !code && i < v->w->models; i++)
        code = open_stream(v, limit, v->w->total,
                           (uint64_t)ccq_eval_model(v, i)->arch->hidden * sizeof(float),
                           &v->x[i], err);
    for (int i = 0; !code && i < v->w->models; i++) {
        const ccq_model *m = ccq_eval_model(v, i);
        uint64_t rows = ccq_eval_traced(v, i) ? v->w->total : e->row_count;
        if (m->moe_layers && (!e->no_routes || ccq_eval_traced(v, i)))
            code = open_stream(v, limit, rows * (uint64_t)m->moe_layers, ccq_eval_record(m),
                               &v->routes[i], err);
    }
    return code;
}

ccq_code ccq_eval_fit(ccq_eval_layers *v, uint64_t limit, ccq_error *err)
{
    ccq_code code = shorten(v, limit, err);

    return code ? code : open_streams(v, limit, err);
}
