/* Products, and systems whose matrix is factored already. */
#include "libccq/solve.h"
#include "libccq/solve_internal.h"

#include <stdlib.h>
#include <string.h>

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

int ccq_solve_multiply(const ccq_solver *s, double sign, int zero, const double *a, int64_t lda,
                       const double *b, int64_t ldb, int64_t m, int64_t k, int64_t n, double *c,
                       int64_t ldc)
{
    ccq_sides sides;
    int rc = ccq_sides_new(&sides, m, n);
    int64_t i, k0;

    if (rc)
        goto done;
    for (i = 0; zero && i < m; i++)
        memset(c + i * ldc, 0, (size_t)n * sizeof *c);
    for (k0 = 0; k0 < k; k0 += sides.depth) {
        ccq_view rows = {a + k0, lda, 1};
        sides.depth = min64(CCQ_STEP, k - k0);
        ccq_step_rows(s, 1, &sides, rows, m);
        /* Without a triangle b is only read. */
        ccq_step_panels(s, 1, &sides, NULL, 1, (double *)(uintptr_t)(b + k0 * ldb), ldb, n);
        ccq_step_update(s, 1, zero ? 1.0 : sign, &sides, m, n, CCQ_WHOLE, c, ldc);
    }
done:
    ccq_sides_free(&sides);
    return rc;
}

/* ---- Triangular systems -------------------------------------------------- */

typedef struct triangle {
    const ccq_solver *s;
    ccq_view t; /* t[i][k]: row i, column k */
    int64_t n;
    int unit;
    double *work; /* [CCQ_STEP][CCQ_STEP] */
    ccq_sides sides;
} triangle;

static int triangle_new(triangle *t, int64_t cols)
{
    int rc = ccq_sides_new(&t->sides, t->n, cols);

    t->work = malloc(CCQ_STEP * CCQ_STEP * sizeof *t->work);
    return rc || !t->work ? CCQ_SOLVE_NO_MEMORY : 0;
}

static void triangle_free(triangle *t)
{
    free(t->work);
    ccq_sides_free(&t->sides);
}

/* B := T^-1 B, T lower. */
static void solve_down(triangle *t, double *b, int64_t cols)
{
    const ccq_view v = t->t;
    int64_t k0, k1;

    for (k0 = 0; k0 < t->n; k0 = k1) {
        k1 = min64(k0 + CCQ_STEP, t->n);
        ccq_view corner = {v.p + k0 * (v.row + v.col), v.row, v.col};
        ccq_view below = {v.p + k1 * v.row + k0 * v.col, v.row, v.col};
        t->sides.depth = k1 - k0;
        ccq_step_triangle(corner, k1 - k0, t->work);
        ccq_step_panels(t->s, 1, &t->sides, t->work, t->unit, b + k0 * cols, cols, cols);
        ccq_step_rows(t->s, 1, &t->sides, below, t->n - k1);
        ccq_step_update(t->s, 1, -1.0, &t->sides, t->n - k1, cols, CCQ_WHOLE, b + k1 * cols, cols);
    }
}

/* B := T^-1 B, T upper: the same from the last row up, so depth is read backwards. */
static void solve_up(triangle *t, double *b, int64_t cols)
{
    const ccq_view v = t->t;
    int64_t k0, k1;

    for (k1 = t->n; k1 > 0; k1 = k0) {
        k0 = k1 > CCQ_STEP ? k1 - CCQ_STEP : 0;
        ccq_view corner = {v.p + (k1 - 1) * (v.row + v.col), -v.row, -v.col};
        ccq_view above = {v.p + (k1 - 1) * v.col, v.row, -v.col};
        t->sides.depth = k1 - k0;
        ccq_step_triangle(corner, k1 - k0, t->work);
        ccq_step_panels(t->s, 1, &t->sides, t->work, t->unit, b + (k1 - 1) * cols, -cols, cols);
        ccq_step_rows(t->s, 1, &t->sides, above, k0);
        ccq_step_update(t->s, 1, -1.0, &t->sides, k0, cols, CCQ_WHOLE, b, cols);
    }
}

int ccq_cholesky_solve(const ccq_solver *s, const double *l, int64_t n, double *b, int64_t cols)
{
    triangle t = {.s = s, .n = n};
    int rc = triangle_new(&t, cols);

    if (!rc) {
        t.t = (ccq_view){l, n, 1};
        solve_down(&t, b, cols);
        t.t = (ccq_view){l, 1, n};
        solve_up(&t, b, cols);
    }
    triangle_free(&t);
    return rc;
}

int ccq_lu_solve(const ccq_solver *s, const double *lu, const int64_t *pivot, int64_t n, double *b,
                 int64_t cols)
{
    triangle t = {.s = s, .n = n, .t = {lu, n, 1}, .unit = 1};
    int rc = triangle_new(&t, cols);
    int64_t i, j;

    for (i = 0; !rc && i < n; i++)
        for (j = 0; pivot[i] != i && j < cols; j++) {
            double v = b[i * cols + j];
            b[i * cols + j] = b[pivot[i] * cols + j];
            b[pivot[i] * cols + j] = v;
        }
    if (!rc) {
        solve_down(&t, b, cols);
        t.unit = 0;
        solve_up(&t, b, cols);
    }
    triangle_free(&t);
    return rc;
}
