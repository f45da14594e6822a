/* The target of down: the correction b - a of the BF16 stream against the quantized one,
 * and the share alpha of what earlier layers left in the residual. */
#include "libccq/targets.h"
#include "libccq/targets_internal.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* ---- down: sums ---------------------------------------------------------- */

uint64_t ccq_down_sums_bytes(int64_t inter, int64_t hidden, int residual)
{
    uint64_t line, bytes;

    if (__builtin_mul_overflow((uint64_t)hidden, residual ? 4u : 0u, &line) ||
        __builtin_add_overflow(line, (uint64_t)inter * 6, &line) ||
        __builtin_mul_overflow(line, (uint64_t)inter, &bytes) ||
        __builtin_mul_overflow(bytes, sizeof(double), &bytes))
        return UINT64_MAX;
    return bytes;
}

void ccq_down_sums_place(ccq_down_sums *m, int64_t inter, int64_t hidden, int residual,
                         void *memory)
{
    double *at = memory;
    int f;

    memset(m, 0, sizeof *m);
    memset(memory, 0, (size_t)ccq_down_sums_bytes(inter, hidden, residual));
    m->inter = inter;
    m->hidden = hidden;
    for (f = 0; f < 2; f++) {
        m->aa[f] = at, at += inter * inter;
        m->ba[f] = at, at += inter * inter;
        m->bb[f] = at, at += inter * inter;
        if (residual) {
            m->ad[f] = at, at += inter * hidden;
            m->bd[f] = at, at += inter * hidden;
        }
    }
}

/* x = scale sum a'a: H. */
static void sum_h(const ccq_pass *p, int64_t i, int64_t end)
{
    int64_t at;

    for (at = i * p->rows; at < end * p->rows; at++)
        p->x[at] = p->scale * (p->m->aa[0][at] + p->m->aa[1][at]);
}

/* x = scale sum z'a + D: M, of all or of a half. */
static void sum_m(const ccq_pass *p, int64_t i, int64_t end)
{
    int64_t j, at;
    int f;

    for (; i < end; i++) {
        for (j = 0; j < p->rows; j++) {
            double sum = 0.0;
            at = i * p->rows + j;
            for (f = p->first; f < p->end; f++)
                sum += p->m->aa[f][at] + p->m->ba[f][at];
            p->x[at] = 0.5 * p->scale * sum;
        }
        p->x[i * p->rows + i] += p->more;
    }
}

/* x = scale sum z'(b - a). */
static void sum_correction(const ccq_pass *p, int64_t i, int64_t end)
{
    const int64_t k = p->rows;
    int64_t j, q;
    int f;

    for (j = 0; j < k; j++)
        for (q = i; q < end; q++) {
            double sum = 0.0;
            for (f = 0; f < 2; f++)
                sum += (p->m->bb[f][q * k + j] - p->m->aa[f][q * k + j]) +
                       (p->m->ba[f][j * k + q] - p->m->ba[f][q * k + j]);
            p->x[q * k + j] = 0.5 * p->scale * sum;
        }
}

/* y = more y + scale sum z'd; more 0: y is not read. */
static void sum_residual(const ccq_pass *p, int64_t i, int64_t end)
{
    int64_t j;
    int f;

    for (; i < end; i++)
        for (j = 0; j < p->width; j++) {
            int64_t at = i * p->n + p->j + j;
            double sum = 0.0, *y = &p->y[i * p->width + j];
            for (f = p->first; f < p->end; f++)
                sum += p->m->ad[f][at] + p->m->bd[f][at];
            *y = (p->more != 0.0 ? p->more * *y : 0.0) + 0.5 * p->scale * sum;
        }
}

/* ---- down: alpha --------------------------------------------------------- */

/* num += y . G, den += y . x, row by row; G is a'd of half first. */
static void row_products(const ccq_pass *p, int64_t i, int64_t end)
{
    int64_t j;

    for (; i < end; i++) {
        const double *g = p->m->ad[p->first] + i * p->n + p->j;
        const double *x = p->x + i * p->width, *y = p->y + i * p->width;
        for (j = 0; j < p->width; j++) {
            p->num[i] += y[j] * g[j];
            p->den[i] += y[j] * x[j];
        }
    }
}

/* What all steps of a down target share. */
typedef struct down {
    const ccq_solver *s;
    const ccq_down_sums *m;
    double added, total; /* D, N */
    double *lu, *x, *y;
    double *g; /* sum z'(b - a) / N, or NULL: not wanted */
    double *num, *den;
    int64_t *pivot;
} down;

/* M of halves first..end-1 factored, weight their N. */
static int factor_m(down *d, int first, int end, double weight)
{
    ccq_pass p = {.rows = d->m->inter, .m = d->m, .first = first, .end = end, .scale = 1.0 / weight,
                  .more = d->added, .x = d->lu};

    ccq_pass_run(d->s, &p, sum_m);
    return ccq_lu(d->s, d->lu, d->m->inter, d->pivot);
}

/* The correction that half f wants, tried on the other half. */
static int try_half(down *d, int f)
{
    const int64_t k = d->m->inter;
    ccq_pass p = {.rows = k, .n = d->m->hidden, .m = d->m, .x = d->x, .y = d->y, .num = d->num,
                  .den = d->den, .scale = 1.0 / d->m->weight[f]};
    int rc = factor_m(d, f, f + 1, d->m->weight[f]);

    for (p.j = 0; p.j < p.n && !rc; p.j += p.width) {
        p.width = min64(CCQ_TARGET_COLUMNS, p.n - p.j);
        p.first = f;
        p.end = f + 1;
        ccq_pass_run(d->s, &p, sum_residual);
        rc = ccq_lu_solve(d->s, d->lu, d->pivot, k, d->y, p.width);
        if (!rc)
            rc = ccq_solve_multiply(d->s, 1.0, 1, d->m->aa[!f], k, d->y, p.width, k, k, p.width,
                                    d->x, p.width);
        p.first = !f;
        if (!rc)
            ccq_pass_run(d->s, &p, row_products);
    }
    return rc;
}

/* fixed, or where that is NaN what the data say. */
static int find_alpha(down *d, double fixed, double *alpha)
{
    double num = 0.0, den = 0.0, a;
    int64_t i;
    int f, rc;

    *alpha = isnan(fixed) ? 0.0 : fixed;
    if (!isnan(fixed))
        return 0;
    memset(d->num, 0, (size_t)d->m->inter * sizeof *d->num);
    memset(d->den, 0, (size_t)d->m->inter * sizeof *d->den);
    for (f = 0; f < 2; f++) {
        if (!(d->m->weight[0] > 0.0) || !(d->m->weight[1] > 0.0))
            return 0;
        rc = try_half(d, f);
        if (rc)
            return rc == CCQ_SOLVE_SINGULAR ? 0 : rc;
    }
    for (i = 0; i < d->m->inter; i++) {
        num += d->num[i];
        den += d->den[i];
    }
    if (!(den > 0.0 && den <= DBL_MAX) || !(num > 0.0 && num <= DBL_MAX))
        return 0;
    a = num < den ? num / den : 1.0;
    *alpha = 2.0 * a / (1.0 + a);
    return 0;
}

/* ---- down: target -------------------------------------------------------- */

static int down_columns(down *d, double alpha, const float *w, float *target)
{
    const int64_t k = d->m->inter;
    ccq_pass p = {.rows = k, .n = d->m->hidden, .m = d->m, .end = 2, .x = d->x, .y = d->y, .w = w,
                  .target = target};
    const int moved = d->g || alpha != 0.0;
    int rc = moved ? factor_m(d, 0, 2, d->total) : 0;

    for (p.j = 0; p.j < p.n && !rc; p.j += p.width) {
        p.width = min64(CCQ_TARGET_COLUMNS, p.n - p.j);
        if (d->g) {
            ccq_pass_run(d->s, &p, ccq_pass_widen);
            rc = ccq_solve_multiply(d->s, 1.0, 1, d->g, k, d->x, p.width, k, k, p.width, d->y,
                                    p.width);
        }
        p.more = d->g ? 1.0 : 0.0;
        p.scale = alpha / d->total;
        if (alpha != 0.0)
            ccq_pass_run(d->s, &p, sum_residual);
        if (!rc && moved)
            rc = ccq_lu_solve(d->s, d->lu, d->pivot, k, d->y, p.width);
        p.y = moved ? d->y : NULL;
        p.scale = 1.0;
        if (!rc)
            ccq_pass_run(d->s, &p, ccq_pass_narrow);
    }
    return rc;
}

static int down_new(down *d, int correct)
{
    const size_t k = (size_t)d->m->inter, wide = (size_t)min64(d->m->hidden, CCQ_TARGET_COLUMNS);

    d->lu = malloc(k * k * sizeof(double));
    d->g = correct ? malloc(k * k * sizeof(double)) : NULL;
    d->x = malloc(k * wide * sizeof(double));
    d->y = malloc(k * wide * sizeof(double));
    d->num = malloc(k * sizeof(double));
    d->den = malloc(k * sizeof(double));
    d->pivot = malloc(k * sizeof *d->pivot);
    if (!d->lu || (correct && !d->g) || !d->x || !d->y || !d->num || !d->den || !d->pivot)
        return CCQ_SOLVE_NO_MEMORY;
    return 0;
}

static void down_free(down *d)
{
    free(d->pivot);
    free(d->den);
    free(d->num);
    free(d->y);
    free(d->x);
    free(d->g);
    free(d->lu);
}

ccq_code ccq_target_down(const ccq_solver *s, const ccq_down_sums *m, double damping, int correct,
                         double fixed_alpha, const float *w, float *target, double *h,
                         double *alpha, ccq_error *err)
{
    const int64_t k = m->inter;
    down d = {.s = s, .m = m, .total = m->weight[0] + m->weight[1]};
    ccq_pass p = {.rows = k, .m = m, .scale = 1.0 / d.total, .x = h};
    int rc = CCQ_SOLVE_SINGULAR;

    *alpha = 0.0;
    if (!(d.total > 0.0 && d.total <= DBL_MAX))
        goto done;
    ccq_pass_run(s, &p, sum_h);
    d.added = ccq_damp(h, k, damping);
    if (!(d.added >= 0.0 && d.added <= DBL_MAX) || (d.added <= 0.0 && damping > 0.0))
        goto done;
    rc = down_new(&d, correct);
    if (!rc && m->ad[0])
        rc = find_alpha(&d, fixed_alpha, alpha);
    p.x = d.g;
    if (!rc && correct)
        ccq_pass_run(s, &p, sum_correction);
    if (!rc)
        rc = down_columns(&d, *alpha, w, target);
done:
    down_free(&d);
    return ccq_target_done(rc, "the sums of an expert are zero, singular or not finite", target,
                           k * m->hidden, err);
}
