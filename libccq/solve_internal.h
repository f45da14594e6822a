/* One step of a blocked algorithm: some rows and columns are eliminated from all the
 * others. Not for callers outside libccq/solve*.c. */
#ifndef CCQ_LIBCCQ_SOLVE_INTERNAL_H
#define CCQ_LIBCCQ_SOLVE_INTERNAL_H

#include "libccq/solve.h"

/* Depth of a step: a panel of 16 columns is 24 KiB and stays in L1. No bit hangs on it. */
enum { CCQ_STEP = 192 };

/* Which elements of a square c are wanted, the diagonal included. */
enum { CCQ_WHOLE, CCQ_LOWER, CCQ_UPPER };

/* Both sides of a product, as update likes them. */
typedef struct ccq_sides {
    double *rows;   /* [m][depth] */
    double *panels; /* [ceil(n / 16)][depth][16], zero past n */
    int64_t depth;  /* at most CCQ_STEP */
} ccq_sides;

/* Memory for m rows and n columns of depth CCQ_STEP; 0 or CCQ_SOLVE_NO_MEMORY. */
int ccq_sides_new(ccq_sides *sides, int64_t m, int64_t n);
void ccq_sides_free(ccq_sides *sides); /* what new left, or zeros */

/* The step for an n: small ones have more steps, for the others of a pool to take part. */
int64_t ccq_step_for(int64_t n);
/* fn(ctx, i) for i < n on the pool, or here (parallel: 0). */
typedef void (*ccq_piece_fn)(void *ctx, size_t i, int worker);
void ccq_pieces(const ccq_solver *s, int parallel, int64_t n, ccq_piece_fn fn, void *ctx);

/* c[m][n] += sign rows panels, the elements of shape. */
void ccq_step_update(const ccq_solver *s, int parallel, double sign, const ccq_sides *sides,
                     int64_t m, int64_t n, int shape, double *c, int64_t ldc);

/* A view: element (i, k) is at p[i * row + k * col]; strides may be negative. */
typedef struct ccq_view {
    const double *p;
    int64_t row, col;
} ccq_view;

/* rows = the view's [m][depth]. */
void ccq_step_rows(const ccq_solver *s, int parallel, ccq_sides *sides, ccq_view a, int64_t m);
/* The lower half of the view's [n][n], diagonal included, to t[CCQ_STEP][CCQ_STEP]. */
void ccq_step_triangle(ccq_view a, int64_t n, double *t);
/* panels = row k of b at b[k * ldb] (ldb may be negative), n columns. t not NULL: T^-1 of
 * them, and b becomes that too; unit as in kernels/dense.h forward. */
void ccq_step_panels(const ccq_solver *s, int parallel, ccq_sides *sides, const double *t, int unit,
                     double *b, int64_t ldb, int64_t n);

#endif
