/* Pieces of a layer on rows that a caller has chosen. */
#include "libccq/layers.h"

enum { ROW_BLOCK = 16 };

typedef struct piece {
    ccq_session *s;
    const ccq_layer *l;
    int64_t rows, n;
    const float *in;
    float *out;
    int32_t *ids;
    float *weights, *margin;
} piece;

typedef void (*piece_fn)(const piece *p, int64_t row, int worker);

typedef struct piece_work {
    const piece *p;
    piece_fn fn;
} piece_work;

static void piece_task(void *ctx, size_t i, int worker)
{
    const piece_work *w = ctx;
    int64_t r = (int64_t)i * ROW_BLOCK, end = r + ROW_BLOCK;

    for (; r < end && r < w->p->rows; r++)
        w->fn(w->p, r, worker);
}

static void on_rows(const piece *p, piece_fn fn)
{
    piece_work w = {p, fn};
    int64_t blocks = (p->rows + ROW_BLOCK - 1) / ROW_BLOCK;

    if (blocks > 1)
        ccq_pool_run(p->s->m->options.pool, (size_t)blocks, piece_task, &w);
    else if (blocks > 0)
        piece_task(&w, 0, 0);
}

static void norm_row(const piece *p, int64_t r, int worker)
{
    const ccq_model *m = p->s->m;
    int64_t h = m->arch->hidden;

    (void)worker;
    m->options.ops.rms(p->in + r * h, p->l->norm_post, h, (float)m->arch->eps, m->bf16,
                       p->out + r * h);
}

void ccq_layer_norm_post(ccq_session *s, const ccq_layer *l, const float *x, int64_t rows,
                         float *h)
{
    piece p = {.s = s, .l = l, .rows = rows, .in = x, .out = h};

    on_rows(&p, norm_row);
}

static void route_row(const piece *p, int64_t r, int worker)
{
    const ccq_arch *a = p->s->m->arch;

    p->s->nan_row[r] = ccq_router(p->in + r * a->hidden, p->l->router, p->l->bias, a->hidden,
                                  a->experts, a->moe_k, p->ids + r * a->moe_k,
                                  p->weights + r * a->moe_k, p->margin ? &p->margin[r] : NULL,
                                  p->s->scratch[worker]) != 0;
}

ccq_code ccq_layer_route(ccq_session *s, const ccq_layer *l, int64_t number, const float *h,
                         int64_t rows, int64_t first_row, int32_t *ids, float *weights,
                         float *margin, ccq_error *err)
{
    piece p = {.s = s, .l = l, .rows = rows, .in = h, .ids = ids, .weights = weights,
               .margin = margin};

    if (rows > s->max_rows || !l->moe)
        return ccq_fail(err, CCQ_BUG, "layer %lld: routing of %lld rows", (long long)number,
                        (long long)rows);
    on_rows(&p, route_row);
    for (int64_t r = 0; r < rows; r++)
        if (s->nan_row[r])
            return ccq_fail(err, CCQ_NONFINITE, "%s: layer %lld: router logit is NaN at row %lld",
                            s->m->src->dir, (long long)number, (long long)(first_row + r));
    return CCQ_OK;
}

static void swiglu_row(const piece *p, int64_t r, int worker)
{
    const ccq_model *m = p->s->m;

    (void)worker;
    m->options.ops.swiglu(p->in + r * 2 * p->n, p->n, m->bf16, p->out + r * p->n);
}

void ccq_layer_swiglu(ccq_session *s, const float *gu, int64_t rows, int64_t n, float *a)
{
    piece p = {.s = s, .rows = rows, .n = n, .in = gu, .out = a};

    on_rows(&p, swiglu_row);
}

void ccq_layer_product(ccq_session *s, const ccq_linear *w, const float *x, int64_t rows,
                       float *y)
{
    ccq_product p = {&w->w, x, w->w.k, rows, y, w->w.n};

    ccq_products(s, &p, rows > 0, s->m->bf16);
}

static void add_row(const piece *p, int64_t r, int worker)
{
    const ccq_model *m = p->s->m;
    int64_t h = m->arch->hidden;
    float *x = p->out + r * h;

    (void)worker;
    for (int64_t i = 0; i < h; i++)
        x[i] += p->in[r * h + i];
    if (m->bf16)
        m->options.ops.round(x, h, x);
}

void ccq_layer_add(ccq_session *s, const float *t, int64_t rows, float *x)
{
    piece p = {.s = s, .rows = rows, .in = t, .out = x};

    on_rows(&p, add_row);
}
