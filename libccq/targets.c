/* Targets from sums: normal equations, a block of columns at a time. */
#include "libccq/targets.h"
#include "libccq/targets_internal.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 16 }; /* a piece of work: two cache lines of a transposed matrix */

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static void pass_piece(void *ctx, size_t piece, int worker)
{
    const ccq_pass *p = ctx;
    const int64_t i = (int64_t)piece * ROWS;

    (void)worker;
    p->rows_fn(p, i, min64(i + ROWS, p->rows));
}

void ccq_pass_run(const ccq_solver *s, ccq_pass *p,
                  void (*fn)(const ccq_pass *p, int64_t i, int64_t end))
{
    p->rows_fn = fn;
    ccq_pool_run(s->pool, (size_t)((p->rows + ROWS - 1) / ROWS), pass_piece, p);
}

void ccq_pass_widen(const ccq_pass *p, int64_t i, int64_t end)
{
    int64_t j;

    for (; i < end; i++)
        for (j = 0; j < p->width; j++)
            p->x[i * p->width + j] = (double)p->w[i * p->n + p->j + j];
}

void ccq_pass_narrow(const ccq_pass *p, int64_t i, int64_t end)
{
    int64_t j;

    for (; i < end; i++)
        for (j = 0; j < p->width; j++) {
            int64_t at = i * p->n + p->j + j;
            double add = p->y ? p->scale * p->y[i * p->width + j] : 0.0;
            p->target[at] = (float)((double)p->w[at] + add);
        }
}

ccq_code ccq_target_done(int rc, const char *what, const float *target, int64_t count,
                         ccq_error *err)
{
    int64_t i;

    if (rc == CCQ_SOLVE_NO_MEMORY)
        return ccq_fail(err, CCQ_NO_MEMORY, "calibration: no memory for the target");
    if (rc)
        return ccq_fail(err, CCQ_NONFINITE, "calibration: %s", what);
    for (i = 0; i < count; i++)
        if (!(fabsf(target[i]) <= FLT_MAX))
            return ccq_fail(err, CCQ_NONFINITE, "calibration: the target is not finite");
    return CCQ_OK;
}

double ccq_damp(double *h, int64_t k, double damping)
{
    double sum = 0.0, added;
    int64_t i;

    for (i = 0; i < k; i++)
        sum += h[i * (k + 1)];
    added = damping * (sum / (double)k);
    for (i = 0; i < k; i++)
        h[i * (k + 1)] += added;
    return added;
}

/* ---- up_gate ------------------------------------------------------------- */

/* x = (x + D) - h: both damped alike. */
static void difference(const ccq_pass *p, int64_t i, int64_t end)
{
    int64_t j;

    for (; i < end; i++) {
        p->x[i * p->rows + i] += p->more;
        for (j = 0; j < p->rows; j++)
            p->x[i * p->rows + j] -= p->h[i * p->rows + j];
    }
}

ccq_code ccq_target_up(const ccq_solver *s, const double *h, double added, double *c, int64_t k,
                       double share, const float *w, int64_t n, float *target, ccq_error *err)
{
    const size_t side = (size_t)k * sizeof(double), wide = (size_t)min64(n, CCQ_TARGET_COLUMNS);
    double *l = malloc(side * (size_t)k), *x = malloc(side * wide), *y = malloc(side * wide);
    ccq_pass p = {.rows = k, .n = n, .more = added, .x = c, .h = h, .w = w, .target = target};
    int rc = CCQ_SOLVE_NO_MEMORY;

    if (!l || !x || !y)
        goto done;
    ccq_pass_run(s, &p, difference);
    memcpy(l, h, side * (size_t)k);
    rc = ccq_cholesky(s, l, k);
    p.x = x;
    p.y = y;
    p.scale = share;
    for (p.j = 0; p.j < n && !rc; p.j += p.width) {
        p.width = min64(CCQ_TARGET_COLUMNS, n - p.j);
        ccq_pass_run(s, &p, ccq_pass_widen);
        rc = ccq_solve_multiply(s, 1.0, 1, c, k, x, p.width, k, k, p.width, y, p.width);
        if (!rc)
            rc = ccq_cholesky_solve(s, l, k, y, p.width);
        if (!rc)
            ccq_pass_run(s, &p, ccq_pass_narrow);
    }
done:
    free(y);
    free(x);
    free(l);
    return ccq_target_done(rc, "the statistics are not positive definite", target, k * n, err);
}
