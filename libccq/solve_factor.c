/* Factors of symmetric matrices. L L' goes down the diagonal in the lower half,
 * (U + I) D (U + I)' up it in the upper one: the same steps with rows and depth reversed.
 * A block of the diagonal is factored by the same function with steps of 16. */
#include "libccq/solve_internal.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct factor {
    const ccq_solver *s;
    double *a;
    int64_t n;
    int upper;
    int64_t base;       /* the first row to be eliminated of the block now factored */
    double *t;          /* [CCQ_STEP][CCQ_STEP]: its triangle in that order, undivided in D */
    ccq_sides sides[2]; /* of the blocks, of the steps inside one */
} factor;

/* Rows and columns k0..k1-1 are eliminated from rows and columns lo..hi-1. */
typedef struct span {
    int64_t k0, k1, lo, hi;
} span;

static int64_t place(const factor *f, int64_t i)
{
    return f->upper ? f->base - i : i - f->base;
}

/* Depth d of a step. */
static int64_t column(const factor *f, const span *p, int64_t d)
{
    return f->upper ? p->k1 - 1 - d : p->k0 + d;
}

/* At most 16 rows, one element at a time: each is the chain that update and forward give. */
static int factor_corner(factor *f, const span *p)
{
    const int64_t n = p->k1 - p->k0, at = place(f, column(f, p, 0));
    double *t = f->t + at * CCQ_STEP + at; /* undivided: the other side of the product */
    int64_t i, j, k;

    for (j = 0; j < n; j++)
        for (i = j; i < n; i++) {
            double *a = f->a + column(f, p, i) * f->n, v = a[column(f, p, j)];
            for (k = 0; k < j; k++)
                v = __builtin_fma(-a[column(f, p, k)], t[j * CCQ_STEP + k], v);
            if (i == j && !(v > 0.0 && v <= DBL_MAX))
                return CCQ_SOLVE_SINGULAR;
            if (i == j && !f->upper)
                v = sqrt(v);
            a[column(f, p, j)] = i == j ? v : v / t[j * CCQ_STEP + j];
            t[i * CCQ_STEP + j] = f->upper ? v : a[column(f, p, j)];
        }
    return 0;
}

typedef struct lanes_job {
    factor *f;
    const span *p;
    ccq_sides *sides;
    int inside; /* of a block: its triangle t is still growing */
} lanes_job;

/* Sixteen rows of the rest: a lane each. */
static void lanes_piece(void *ctx, size_t piece, int worker)
{
    const lanes_job *l = ctx;
    const factor *f = l->f;
    const span *p = l->p;
    const int64_t depth = l->sides->depth, first = p->lo + (int64_t)piece * CCQ_LANES;
    const int64_t at = place(f, column(f, p, 0));
    double x[CCQ_STEP * CCQ_LANES], *kept = l->sides->panels + (first - p->lo) * depth;
    int64_t d, q, width = p->hi - first < CCQ_LANES ? p->hi - first : CCQ_LANES;

    (void)worker;
    if (width < CCQ_LANES)
        memset(x, 0, (size_t)(depth * CCQ_LANES) * sizeof *x);
    for (q = 0; q < width; q++)
        for (d = 0; d < depth; d++)
            x[d * CCQ_LANES + q] = f->a[(first + q) * f->n + column(f, p, d)];
    f->s->ops.forward(f->t + at * CCQ_STEP + at, CCQ_STEP, depth, 0, x, f->upper ? kept : NULL);
    if (!f->upper)
        memcpy(kept, x, (size_t)(depth * CCQ_LANES) * sizeof *x);
    for (q = 0; q < width; q++) {
        double *row = l->sides->rows + (first + q - p->lo) * depth;
        for (d = 0; d < depth; d++) {
            row[d] = x[d * CCQ_LANES + q];
            f->a[(first + q) * f->n + column(f, p, d)] = row[d];
        }
        for (d = 0; l->inside && d < depth; d++)
            f->t[place(f, first + q) * CCQ_STEP + at + d] = kept[d * CCQ_LANES + q];
    }
}

static void factor_rest(factor *f, const span *p, int inside)
{
    ccq_sides *sides = &f->sides[inside];
    lanes_job l = {.f = f, .p = p, .sides = sides, .inside = inside};
    const int64_t m = p->hi - p->lo;

    sides->depth = p->k1 - p->k0;
    ccq_pieces(f->s, !inside, (m + CCQ_LANES - 1) / CCQ_LANES, lanes_piece, &l);
    ccq_step_update(f->s, !inside, -1.0, sides, m, m, f->upper ? CCQ_UPPER : CCQ_LOWER,
                    f->a + p->lo * (f->n + 1), f->n);
}

/* The square of rows lo..hi-1, in steps. */
static int factor_square(factor *f, int64_t lo, int64_t hi, int64_t step, int inside)
{
    int rc = 0;

    while (lo < hi && !rc) {
        span p = {.k0 = lo, .k1 = hi, .lo = lo, .hi = hi};
        if (hi - lo > step && f->upper)
            p.k0 = hi - step;
        else if (hi - lo > step)
            p.k1 = lo + step;
        if (f->upper)
            p.hi = hi = p.k0;
        else
            p.lo = lo = p.k1;
        if (!inside)
            f->base = column(f, &p, 0);
        rc = inside ? factor_corner(f, &p) : factor_square(f, p.k0, p.k1, CCQ_LANES, 1);
        if (!rc && lo < hi)
            factor_rest(f, &p, inside);
    }
    return rc;
}

static int factor_all(const ccq_solver *s, double *a, int64_t n, int upper)
{
    factor f = {.s = s, .a = a, .n = n, .upper = upper};
    int rc = CCQ_SOLVE_NO_MEMORY;

    f.t = malloc(CCQ_STEP * CCQ_STEP * sizeof *f.t);
    if (f.t && !ccq_sides_new(&f.sides[0], n, n) && !ccq_sides_new(&f.sides[1], CCQ_STEP, CCQ_STEP))
        rc = factor_square(&f, 0, n, ccq_step_for(n), 0);
    ccq_sides_free(&f.sides[1]);
    ccq_sides_free(&f.sides[0]);
    free(f.t);
    return rc;
}

int ccq_cholesky(const ccq_solver *s, double *a, int64_t n)
{
    return factor_all(s, a, n, 0);
}

int ccq_udu(const ccq_solver *s, double *a, int64_t n)
{
    return factor_all(s, a, n, 1);
}
