/* Packing, substitution and update of one step, over the pool. */
#include "libccq/solve_internal.h"

#include <stdlib.h>
#include <string.h>

enum {
    PIECE_ROWS = 96, /* a multiple of both tiles and of 16: 144 KiB of rows, in L2 */
    PIECE_COLS = 256
};

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t parts(int64_t n, int64_t size)
{
    return (n + size - 1) / size;
}

int ccq_sides_new(ccq_sides *sides, int64_t m, int64_t n)
{
    size_t line = CCQ_STEP * sizeof(double);

    sides->rows = malloc((size_t)(m + 1) * line);
    sides->panels = malloc((size_t)(parts(n, CCQ_LANES) + 1) * CCQ_LANES * line);
    return sides->rows && sides->panels ? 0 : CCQ_SOLVE_NO_MEMORY;
}

void ccq_sides_free(ccq_sides *sides)
{
    free(sides->rows);
    free(sides->panels);
}

int64_t ccq_step_for(int64_t n)
{
    return n < 3072 ? CCQ_STEP / 2 : CCQ_STEP;
}

void ccq_pieces(const ccq_solver *s, int parallel, int64_t n, ccq_piece_fn fn, void *ctx)
{
    int64_t i;

    if (parallel && n > 1)
        ccq_pool_run(s->pool, (size_t)n, fn, ctx);
    else
        for (i = 0; i < n; i++)
            fn(ctx, (size_t)i, 0);
}

/* ---- Update -------------------------------------------------------------- */

typedef struct update_job {
    const ccq_solver *s;
    const ccq_sides *sides;
    double sign, *c;
    int64_t m, n, ldc;
    int shape;
} update_job;

static void update_rows(const update_job *u, int64_t i, int64_t end, int64_t j, int64_t width,
                        double *c, int64_t ldc)
{
    const int64_t depth = u->sides->depth;

    if (i < end)
        u->s->ops.update(u->sign, u->sides->rows + i * depth, depth,
                         u->sides->panels + j * depth, CCQ_LANES, end - i, width, depth, c, ldc);
}

/* Rows i..end-1 of the square on the diagonal at j: through a copy, half of which is kept. */
static void update_diagonal(const update_job *u, int64_t i, int64_t end, int64_t j, int64_t width)
{
    double part[CCQ_LANES * CCQ_LANES], *c = u->c + i * u->ldc + j;
    int64_t r, q;

    for (r = 0; r < end - i; r++)
        memcpy(part + r * CCQ_LANES, c + r * u->ldc, (size_t)width * sizeof *c);
    update_rows(u, i, end, j, width, part, CCQ_LANES);
    for (r = 0; r < end - i; r++)
        for (q = 0; q < width; q++)
            if (u->shape == CCQ_LOWER ? i + r >= j + q : i + r <= j + q)
                c[r * u->ldc + q] = part[r * CCQ_LANES + q];
}

static void update_piece(void *ctx, size_t piece, int worker)
{
    const update_job *u = ctx;
    const int64_t across = parts(u->n, PIECE_COLS);
    const int64_t i0 = (int64_t)piece / across * PIECE_ROWS, i1 = min64(i0 + PIECE_ROWS, u->m);
    const int64_t j0 = (int64_t)piece % across * PIECE_COLS, j1 = min64(j0 + PIECE_COLS, u->n);
    int64_t j, from = i0, end = i1;

    (void)worker;
    for (j = j0; j < j1; j += CCQ_LANES) {
        int64_t width = min64(CCQ_LANES, j1 - j);
        if (u->shape == CCQ_LOWER && i0 < j + width)
            from = j + width;
        if (u->shape == CCQ_UPPER)
            end = min64(i1, j);
        update_rows(u, from, end, j, width, u->c + from * u->ldc + j, u->ldc);
        if (u->shape != CCQ_WHOLE && i0 <= j && j < i1)
            update_diagonal(u, j, min64(i1, j + width), j, width);
    }
}

void ccq_step_update(const ccq_solver *s, int parallel, double sign, const ccq_sides *sides,
                     int64_t m, int64_t n, int shape, double *c, int64_t ldc)
{
    update_job u = {.s = s, .sides = sides, .sign = sign, .c = c, .m = m, .n = n, .ldc = ldc,
                    .shape = shape};

    ccq_pieces(s, parallel, parts(m, PIECE_ROWS) * parts(n, PIECE_COLS), update_piece, &u);
}

/* ---- Packing ------------------------------------------------------------- */

typedef struct rows_job {
    ccq_sides *sides;
    ccq_view a;
    int64_t m;
} rows_job;

static void rows_piece(void *ctx, size_t piece, int worker)
{
    const rows_job *r = ctx;
    const int64_t depth = r->sides->depth, i0 = (int64_t)piece * PIECE_ROWS;
    const int64_t i1 = min64(i0 + PIECE_ROWS, r->m);
    double *to = r->sides->rows;
    int64_t i, k, q;

    (void)worker;
    if (r->a.col == 1) {
        for (i = i0; i < i1; i++)
            memcpy(to + i * depth, r->a.p + i * r->a.row, (size_t)depth * sizeof *to);
        return;
    }
    for (i = i0; i < i1; i += 8) /* neighbours of a transposed view share cache lines */
        for (k = 0; k < depth; k++)
            for (q = i; q < min64(i + 8, i1); q++)
                to[q * depth + k] = r->a.p[q * r->a.row + k * r->a.col];
}

void ccq_step_rows(const ccq_solver *s, int parallel, ccq_sides *sides, ccq_view a, int64_t m)
{
    rows_job r = {.sides = sides, .a = a, .m = m};

    ccq_pieces(s, parallel, parts(m, PIECE_ROWS), rows_piece, &r);
}

void ccq_step_triangle(ccq_view a, int64_t n, double *t)
{
    int64_t i, k;

    for (i = 0; i < n; i++)
        for (k = 0; k <= i; k++)
            t[i * CCQ_STEP + k] = a.p[i * a.row + k * a.col];
}

typedef struct panels_job {
    const ccq_solver *s;
    ccq_sides *sides;
    const double *t;
    double *b;
    int64_t ldb, n;
    int unit;
} panels_job;

static void panels_piece(void *ctx, size_t piece, int worker)
{
    const panels_job *p = ctx;
    const int64_t depth = p->sides->depth, j = (int64_t)piece * CCQ_LANES;
    const int64_t width = min64(CCQ_LANES, p->n - j);
    const size_t bytes = (size_t)width * sizeof(double);
    double *x = p->sides->panels + j * depth, *b = p->b + j;
    int64_t k;

    (void)worker;
    if (width < CCQ_LANES)
        memset(x, 0, (size_t)(depth * CCQ_LANES) * sizeof *x);
    for (k = 0; k < depth; k++)
        memcpy(x + k * CCQ_LANES, b + k * p->ldb, bytes);
    if (!p->t)
        return;
    p->s->ops.forward(p->t, CCQ_STEP, depth, p->unit, x, NULL);
    for (k = 0; k < depth; k++)
        memcpy(b + k * p->ldb, x + k * CCQ_LANES, bytes);
}

void ccq_step_panels(const ccq_solver *s, int parallel, ccq_sides *sides, const double *t, int unit,
                     double *b, int64_t ldb, int64_t n)
{
    panels_job p = {.s = s, .sides = sides, .t = t, .b = b, .ldb = ldb, .n = n, .unit = unit};

    ccq_pieces(s, parallel, parts(n, CCQ_LANES), panels_piece, &p);
}
