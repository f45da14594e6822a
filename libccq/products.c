/* Matrix products of a step on the threads of the pool. */
#include "libccq/model.h"

/* The CPU kernels split rows and columns in blocks of these sizes themselves;
 * tasks that are whole blocks decode no panel twice. */
enum { TASK_ROWS = 384, TASK_COLUMNS = 64 };

/* Multiply-adds below which one thread is done before a second has woken up. */
enum { SMALL_WORK = 1 << 18 };

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* ---- Rows ---------------------------------------------------------------- */

enum { ROW_BLOCK = 16 };

typedef struct row_work {
    ccq_session *s;
    int64_t rows;
    ccq_rows_fn fn;
} row_work;

static void row_task(void *ctx, size_t i, int worker)
{
    const row_work *w = ctx;
    int64_t r0 = (int64_t)i * ROW_BLOCK, r1 = r0 + ROW_BLOCK;

    w->fn(w->s, r0, r1 < w->rows ? r1 : w->rows, worker);
}

void ccq_on_rows(ccq_session *s, int64_t rows, ccq_rows_fn fn)
{
    row_work w = {s, rows, fn};

    if (rows <= ROW_BLOCK)
        fn(s, 0, rows, 0); /* waking a thread takes longer */
    else
        ccq_pool_run(s->m->options.pool, (size_t)ceil_div(rows, ROW_BLOCK), row_task, &w);
}

void ccq_tasks(const ccq_session *s, int64_t tasks, int64_t work, ccq_pool_fn fn, void *ctx)
{
    if (work >= SMALL_WORK)
        ccq_pool_run(s->m->options.pool, (size_t)tasks, fn, ctx);
    else
        for (int64_t i = 0; i < tasks; i++)
            fn(ctx, (size_t)i, 0);
}

/* ---- Products in chain order ----------------------------------------------- */

typedef struct product_work {
    ccq_session *s;
    const ccq_product *p;
    size_t count;
    int64_t columns; /* of a task */
    int bf16;
} product_work;

static int64_t tasks_of(const ccq_product *p, int64_t columns)
{
    return ceil_div(p->rows, TASK_ROWS) * ceil_div(p->w->n, columns);
}

static void product_task(void *ctx, size_t i, int worker)
{
    const product_work *k = ctx;
    const ccq_session *s = k->s;
    const ccq_product *p = k->p;
    int64_t at = (int64_t)i, across, r0, n0, rows, n1;

    for (; at >= tasks_of(p, k->columns); p++)
        at -= tasks_of(p, k->columns);
    across = ceil_div(p->w->n, k->columns);
    r0 = at / across * TASK_ROWS;
    n0 = at % across * k->columns;
    rows = p->rows - r0 < TASK_ROWS ? p->rows - r0 : TASK_ROWS;
    n1 = n0 + k->columns < p->w->n ? n0 + k->columns : p->w->n;
    ccq_matmul(&s->m->options.ops, p->w, p->x + r0 * p->ldx, p->ldx, rows, n0, n1, k->bf16,
               p->y + r0 * p->ldy, p->ldy, s->scratch[worker]);
}

/* Columns of a task: enough tasks to keep every thread busy to the end. */
static int64_t task_columns(const product_work *k)
{
    int64_t total = 0, wanted = 6 * ccq_pool_threads(k->s->m->options.pool), columns;

    for (size_t i = 0; i < k->count; i++)
        total += ceil_div(k->p[i].rows, TASK_ROWS) * k->p[i].w->n;
    columns = ceil_div(ceil_div(total, wanted), TASK_COLUMNS) * TASK_COLUMNS;
    return columns;
}

static void products_chain(product_work *k)
{
    int64_t tasks = 0, work = 0;

    k->columns = task_columns(k);
    for (size_t i = 0; i < k->count; i++) {
        tasks += tasks_of(&k->p[i], k->columns);
        work += k->p[i].rows * k->p[i].w->k * k->p[i].w->n;
    }
    ccq_tasks(k->s, tasks, work, product_task, k);
}

/* ---- Products by a library ---------------------------------------------------- */

typedef struct blas_work {
    ccq_session *s;
    const ccq_weight *w;
    int64_t n0, width; /* columns decoded to s->blas [k][width] */
} blas_work;

/* One panel of 16 columns, decoded and put in its place. */
static void blas_task(void *ctx, size_t i, int worker)
{
    const blas_work *b = ctx;
    float *panel = b->s->scratch[worker];
    int64_t j0 = (int64_t)i * CCQ_PANEL, left = b->width - j0, k0, k, kc;
    int64_t cols = left < CCQ_PANEL ? left : CCQ_PANEL;

    for (k0 = 0; k0 < b->w->k; k0 += 256) {
        kc = b->w->k - k0 < 256 ? b->w->k - k0 : 256;
        b->s->m->options.ops.unpack(b->w, k0, kc, b->n0 + j0, panel);
        for (k = 0; k < kc; k++)
            for (int64_t j = 0; j < cols; j++)
                b->s->blas[(k0 + k) * b->width + j0 + j] = panel[k * CCQ_PANEL + j];
    }
}

static void product_blas(ccq_session *s, const ccq_product *p, int bf16)
{
    ccq_pool *pool = s->m->options.pool;
    blas_work b = {s, p->w, 0, 0};

    for (; b.n0 < p->w->n; b.n0 += CCQ_BLAS_COLUMNS) {
        b.width = p->w->n - b.n0 < CCQ_BLAS_COLUMNS ? p->w->n - b.n0 : CCQ_BLAS_COLUMNS;
        ccq_pool_run(pool, (size_t)ceil_div(b.width, CCQ_PANEL), blas_task, &b);
        s->m->options.blas(ccq_pool_threads(pool), p->rows, b.width, p->w->k, p->x, p->ldx,
                           s->blas, b.width, p->y + b.n0, p->ldy);
    }
    for (int64_t r = 0; bf16 && r < p->rows; r++)
        s->m->options.ops.round(p->y + r * p->ldy, p->w->n, p->y + r * p->ldy);
}

void ccq_products(ccq_session *s, const ccq_product *p, size_t count, int bf16)
{
    product_work k = {s, p, count, 0, bf16};

    if (s->m->options.blas) {
        for (size_t i = 0; i < count; i++)
            if (p[i].rows > 0)
                product_blas(s, &p[i], bf16);
        return;
    }
    products_chain(&k);
}
