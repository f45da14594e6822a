/* Figures of one row, in double. Rows are independent: threads take one each. */
#include "libccq/compare_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const float clear_margin = 1e-4f, clear_gap = 1e-3f;

ccq_code ccq_compare_open(ccq_compare **compare, ccq_pool *pool, size_t rows, int64_t valid,
                          int base, ccq_error *err)
{
    ccq_compare *c = calloc(1, sizeof *c);
    size_t threads = (size_t)ccq_pool_threads(pool);

    *compare = NULL;
    if (c) {
        c->pool = pool;
        c->rows = rows;
        c->valid = valid;
        c->base = base;
        c->row = calloc(rows + 1, sizeof *c->row);
        c->scratch = calloc(threads * 2 * (size_t)valid, sizeof *c->scratch);
    }
    if (!c || !c->row || !c->scratch) {
        ccq_compare_close(c);
        return ccq_fail(err, CCQ_NO_MEMORY, "statistics of %zu rows: out of memory", rows);
    }
    *compare = c;
    return CCQ_OK;
}

void ccq_compare_close(ccq_compare *c)
{
    if (!c)
        return;
    free(c->row);
    free(c->scratch);
    free(c);
}

/* ---- One row ------------------------------------------------------------------ */

/* One side of a row. */
typedef struct side {
    const float *x;
    double max, sum;     /* largest, sum of exp(x - max) */
    double log_sum;      /* logsumexp */
    double mean, square; /* of all; sum of squares */
    int64_t top;
    double *e; /* exp(x - max) */
} side;

static void measure(side *s, int64_t n)
{
    double total = 0;

    s->top = 0;
    for (int64_t i = 1; i < n; i++)
        if (s->x[i] > s->x[s->top])
            s->top = i;
    s->max = (double)s->x[s->top];
    s->sum = 0;
    s->square = 0;
    for (int64_t i = 0; i < n; i++) {
        double x = (double)s->x[i];
        s->e[i] = exp(x - s->max);
        s->sum += s->e[i];
        total += x;
        s->square += x * x;
    }
    s->log_sum = s->max + log(s->sum);
    s->mean = total / (double)n;
}

static void divergence(const side *a, const side *b, int64_t n, ccq_row_figures *f)
{
    for (int64_t i = 0; i < n; i++) {
        double la = (double)a->x[i] - a->log_sum, lb = (double)b->x[i] - b->log_sum;
        double term = a->e[i] / a->sum * (la - lb);
        f->kld += term;
        if (la > -16)
            f->kld_cut16 += term;
    }
}

static void distances(const side *a, const side *b, int64_t n, ccq_row_figures *f)
{
    double ab = 0, aa = 0, bb = 0, total = 0, norm;

    for (int64_t i = 0; i < n; i++) {
        double ca = (double)a->x[i] - a->mean, cb = (double)b->x[i] - b->mean;
        double d = fabs(ca - cb);
        if (d > f->max_dlogit)
            f->max_dlogit = d;
        total += d;
        ab += ca * cb;
        aa += ca * ca;
        bb += cb * cb;
    }
    if (isnan(total))
        f->max_dlogit = total;
    norm = sqrt(aa) * sqrt(bb);
    f->mean_dlogit = total / (double)n;
    f->rms = sqrt(a->square / (double)n);
    f->cosine = norm > 0 || isnan(norm) ? ab / norm : aa == bb;
}

static void row_figures(const ccq_compare *c, const float *ours, const float *base, int32_t target,
                        double *scratch, ccq_row_figures *f)
{
    side a = {.x = base, .e = scratch}, b = {.x = ours, .e = scratch + c->valid};

    memset(f, 0, sizeof *f);
    f->given = 1;
    f->has_target = target >= 0 && target < c->valid;
    measure(&b, c->valid);
    if (f->has_target)
        f->nll = b.log_sum - (double)ours[target];
    if (!c->base)
        return;
    measure(&a, c->valid);
    if (f->has_target) {
        f->nll_base = a.log_sum - (double)base[target];
        f->dp = exp(-f->nll) - exp(-f->nll_base);
    }
    f->same_top = a.top == b.top;
    divergence(&a, &b, c->valid, f);
    distances(&a, &b, c->valid, f);
}

/* ---- Blocks ----------------------------------------------------------------------- */

typedef struct block {
    ccq_compare *c;
    size_t first;
    const float *ours, *base;
    int64_t ld;
    const int32_t *target;
} block;

static void row_task(void *ctx, size_t i, int worker)
{
    const block *b = ctx;
    const float *base = b->c->base ? b->base + (int64_t)i * b->ld : NULL;

    row_figures(b->c, b->ours + (int64_t)i * b->ld, base, b->target[i],
                b->c->scratch + (int64_t)worker * 2 * b->c->valid, &b->c->row[b->first + i]);
}

void ccq_compare_rows(ccq_compare *c, size_t first, size_t rows, const float *ours,
                      const float *base, int64_t ld, const int32_t *target)
{
    block b = {c, first, ours, base, ld, target};

    ccq_pool_run(c->pool, rows, row_task, &b);
}

static int same_set(const int32_t *a, const int32_t *b, int64_t k)
{
    for (int64_t i = 0; i < k; i++) {
        int64_t j = 0;
        while (j < k && b[j] != a[i])
            j++;
        if (j == k)
            return 0;
    }
    return 1;
}

void ccq_compare_router(ccq_compare *c, const int32_t *ours, const int32_t *base,
                        const float *margin, size_t count, int64_t k)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t equal = (uint64_t)same_set(ours + (int64_t)i * k, base + (int64_t)i * k, k);
        c->routes++;
        c->routes_equal += equal;
        if (!(margin[i] < clear_margin)) { /* NaN hides nothing */
            c->routes_clear++;
            c->routes_clear_equal += equal;
        }
    }
}

size_t ccq_compare_greedy(ccq_compare *c, const int32_t *ours, const int32_t *base,
                          const float *gap, size_t count)
{
    size_t same = 0;

    while (same < count && ours[same] == base[same])
        same++;
    c->greedy += same + (same < count);
    c->greedy_equal += same;
    c->greedy_clear += same + (same < count && !(gap[same] < clear_gap));
    c->greedy_clear_equal += same;
    return same;
}
