/* Sums of products over tokens. */
#include "libccq/solve.h"

#include <string.h>

/* A piece of g, and the strides of its copies of x and y: odd numbers of cache lines, so
 * that the rows of a tile do not meet in one set of L1. 256 KiB, on the stack. */
enum { ROWS = 96, COLS = 128, LDX = 112, LDY = 144 };

typedef struct gram_job {
    const ccq_solver *s;
    const float *x, *y;
    double *g;
    int64_t ldx, ldy, ldg, tokens, rows, cols;
    int half; /* g is symmetric: its lower half is copied afterwards */
} gram_job;

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static void pack(const float *from, int64_t ld, int64_t tokens, int64_t width, float *to,
                 int64_t ldto)
{
    int64_t t;

    for (t = 0; t < tokens; t++)
        memcpy(to + t * ldto, from + t * ld, (size_t)width * sizeof *to);
}

static void gram_piece(void *ctx, size_t piece, int worker)
{
    const gram_job *g = ctx;
    const int64_t across = (g->cols + COLS - 1) / COLS;
    const int64_t i = (int64_t)piece / across * ROWS, j = (int64_t)piece % across * COLS;
    const int64_t rows = min64(ROWS, g->rows - i), cols = min64(COLS, g->cols - j);
    float x[CCQ_GRAM_TOKENS * LDX], y[CCQ_GRAM_TOKENS * LDY];
    int64_t t;

    (void)worker;
    if (g->half && j + cols <= i)
        return;
    for (t = 0; t < g->tokens; t += CCQ_GRAM_TOKENS) {
        int64_t count = min64(CCQ_GRAM_TOKENS, g->tokens - t);
        pack(g->x + t * g->ldx + i, g->ldx, count, rows, x, LDX);
        pack(g->y + t * g->ldy + j, g->ldy, count, cols, y, LDY);
        g->s->ops.gram(x, LDX, y, LDY, count, rows, cols, g->g + i * g->ldg + j, g->ldg);
    }
}

/* Rows of 16: the lower half from the upper. */
static void mirror_piece(void *ctx, size_t piece, int worker)
{
    const gram_job *g = ctx;
    const int64_t i0 = (int64_t)piece * 16, i1 = min64(i0 + 16, g->rows);
    int64_t i, j;

    (void)worker;
    for (j = 0; j < i1; j++)
        for (i = j < i0 ? i0 : j + 1; i < i1; i++)
            g->g[i * g->ldg + j] = g->g[j * g->ldg + i];
}

void ccq_gram(const ccq_solver *s, const float *x, int64_t ldx, const float *y, int64_t ldy,
              int64_t tokens, int64_t rows, int64_t cols, double *g, int64_t ldg)
{
    gram_job job = {.s = s, .x = x, .y = y, .g = g, .ldx = ldx, .ldy = ldy, .ldg = ldg,
                    .tokens = tokens, .rows = rows, .cols = cols,
                    .half = x == y && rows == cols && ldx == ldy};
    int64_t pieces = ((rows + ROWS - 1) / ROWS) * ((cols + COLS - 1) / COLS);

    ccq_pool_run(s->pool, (size_t)pieces, gram_piece, &job);
    if (job.half)
        ccq_pool_run(s->pool, (size_t)(rows + 15) / 16, mirror_piece, &job);
}
