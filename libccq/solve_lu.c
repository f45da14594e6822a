/* P A = L U. Blocks of columns, and in them strips of 16 where the pivots are chosen. */
#include "libccq/solve_internal.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct lu {
    const ccq_solver *s;
    double *a;
    int64_t n;
    int64_t *pivot;
    double *strip;      /* [n][16] */
    double *t;          /* [CCQ_STEP][CCQ_STEP] */
    ccq_sides sides[2]; /* of the blocks, of the strips inside one */
} lu;

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static void swap_rows(double *a, int64_t ld, int64_t i, int64_t k, int64_t from, int64_t to)
{
    int64_t j;

    for (j = from; i != k && j < to; j++) {
        double v = a[i * ld + j];
        a[i * ld + j] = a[k * ld + j];
        a[k * ld + j] = v;
    }
}

/* The row from j on with the largest element of column j; -1: none that can be divided by. */
static int64_t find_pivot(const double *strip, int64_t m, int64_t j)
{
    double most = 0.0;
    int64_t i, best = -1;

    for (i = j; i < m; i++) {
        double v = fabs(strip[i * CCQ_LANES + j]);
        if (!(v <= DBL_MAX))
            return -1;
        if (v > most) {
            most = v;
            best = i;
        }
    }
    return best;
}

/* Columns j0..j1-1, at most 16, of rows from j0 on; rows change places in them alone. */
static int lu_strip(lu *f, int64_t j0, int64_t j1)
{
    const int64_t m = f->n - j0, width = j1 - j0;
    double *b = f->strip;
    int64_t i, j, p;

    for (i = 0; i < m; i++)
        memcpy(b + i * CCQ_LANES, f->a + (j0 + i) * f->n + j0, (size_t)width * sizeof *b);
    for (j = 0; j < width; j++) {
        double *next = b + (j + 1) * CCQ_LANES + j;
        p = find_pivot(b, m, j);
        if (p < 0)
            return CCQ_SOLVE_SINGULAR;
        f->pivot[j0 + j] = j0 + p;
        swap_rows(b, CCQ_LANES, j, p, 0, width);
        for (i = j + 1; i < m; i++)
            b[i * CCQ_LANES + j] /= b[j * CCQ_LANES + j];
        f->s->ops.update(-1.0, next, CCQ_LANES, b + j * CCQ_LANES + j + 1, CCQ_LANES, m - j - 1,
                         width - j - 1, 1, next + 1, CCQ_LANES);
    }
    for (i = 0; i < m; i++)
        memcpy(f->a + (j0 + i) * f->n + j0, b + i * CCQ_LANES, (size_t)width * sizeof *b);
    return 0;
}

typedef struct swap_job {
    const lu *f;
    int64_t j0, j1;     /* the swaps of these rows */
    int64_t first, end; /* in these columns, but not in j0..j1-1 */
} swap_job;

enum { SWAP_COLS = 256 };

static void swap_piece(void *ctx, size_t piece, int worker)
{
    const swap_job *w = ctx;
    const int64_t from = w->first + (int64_t)piece * SWAP_COLS;
    const int64_t to = min64(from + SWAP_COLS, w->end);
    int64_t i;

    (void)worker;
    for (i = w->j0; i < w->j1; i++) {
        swap_rows(w->f->a, w->f->n, i, w->f->pivot[i], from, min64(to, w->j0));
        swap_rows(w->f->a, w->f->n, i, w->f->pivot[i], from < w->j1 ? w->j1 : from, to);
    }
}

/* Rows and columns j0..j1-1 are done; now those after them, up to column end. */
static void lu_rest(lu *f, int64_t j0, int64_t j1, int64_t end, int inside)
{
    ccq_sides *sides = &f->sides[inside];
    const int64_t ld = f->n;
    ccq_view corner = {f->a + j0 * ld + j0, ld, 1}, below = {f->a + j1 * ld + j0, ld, 1};

    if (j1 >= end)
        return;
    sides->depth = j1 - j0;
    ccq_step_triangle(corner, j1 - j0, f->t);
    ccq_step_panels(f->s, !inside, sides, f->t, 1, f->a + j0 * ld + j1, ld, end - j1);
    ccq_step_rows(f->s, !inside, sides, below, f->n - j1);
    ccq_step_update(f->s, !inside, -1.0, sides, f->n - j1, end - j1, CCQ_WHOLE,
                    f->a + j1 * ld + j1, ld);
}

/* Columns first..end-1 of rows from first on. */
static int lu_columns(lu *f, int64_t first, int64_t end, int64_t step, int inside)
{
    int64_t j0, j1;
    int rc;

    for (j0 = first; j0 < end; j0 = j1) {
        j1 = min64(j0 + step, end);
        rc = inside ? lu_strip(f, j0, j1) : lu_columns(f, j0, j1, CCQ_LANES, 1);
        if (rc)
            return rc;
        swap_job w = {.f = f, .j0 = j0, .j1 = j1, .first = first, .end = end};
        ccq_pieces(f->s, !inside, (end - first + SWAP_COLS - 1) / SWAP_COLS, swap_piece, &w);
        lu_rest(f, j0, j1, end, inside);
    }
    return 0;
}

int ccq_lu(const ccq_solver *s, double *a, int64_t n, int64_t *pivot)
{
    lu f = {.s = s, .a = a, .n = n, .pivot = pivot};
    int rc = CCQ_SOLVE_NO_MEMORY;

    f.strip = malloc((size_t)n * CCQ_LANES * sizeof *f.strip);
    f.t = malloc(CCQ_STEP * CCQ_STEP * sizeof *f.t);
    if (f.strip && f.t && !ccq_sides_new(&f.sides[0], n, n) &&
        !ccq_sides_new(&f.sides[1], n, CCQ_STEP))
        rc = lu_columns(&f, 0, n, ccq_step_for(n), 0);
    ccq_sides_free(&f.sides[1]);
    ccq_sides_free(&f.sides[0]);
    free(f.t);
    free(f.strip);
    return rc;
}
