/* The router in two steps: fp64 sums of pieces of the hidden dimension, then softmax and
 * choice of a row.
 *
 * Sums: a block has 32 experts (lanes), 4 rows and one piece; its 8 warps take every eighth
 * element of the piece and are added in their order. Choice: a block has a row; it adds the
 * pieces in their order. */
#ifndef CCQ_KERNELS_GPU_MODEL_ROUTER_H
#define CCQ_KERNELS_GPU_MODEL_ROUTER_H

#include "kernels/gpu/model_base.h"
#include "kernels/gpu_model.h"
#include "kernels/router.h"

enum {
    CCQ_GPU_ROUTER_LANES = 32,
    CCQ_GPU_ROUTER_WARPS = CCQ_GPU_THREADS / CCQ_GPU_ROUTER_LANES,
    CCQ_GPU_ROUTER_ROWS = 4,
    CCQ_GPU_ROUTER_LEAST = 64,  /* elements of a piece, at least */
    CCQ_GPU_ROUTER_MOST = 4096  /* experts: their scores lie in shared memory */
};

/* The grid: [pieces][tiles of experts][tiles of rows]. */
typedef struct ccq_gpu_router_grid {
    int64_t pieces, experts, rows;
} ccq_gpu_router_grid;

CCQ_INLINE ccq_gpu_router_grid ccq_gpu_router_plan(int64_t rows, int64_t hidden, int64_t experts,
                                                   int multiprocessors)
{
    ccq_gpu_router_grid g;
    int64_t most = ccq_gpu_max(1, hidden / CCQ_GPU_ROUTER_LEAST);

    g.experts = ccq_gpu_ceil(experts, CCQ_GPU_ROUTER_LANES);
    g.rows = ccq_gpu_ceil(rows, CCQ_GPU_ROUTER_ROWS);
    g.pieces = multiprocessors / ccq_gpu_max(1, g.experts * g.rows);
    g.pieces = ccq_gpu_min(most, ccq_gpu_max(1, g.pieces));
    return g;
}

/* pieces * tiles of rows is at most the larger of multiprocessors and tiles of rows. */
CCQ_INLINE size_t ccq_gpu_router_bytes(int64_t rows, int64_t experts, int multiprocessors)
{
    int64_t tiles = ccq_gpu_max(ccq_gpu_ceil(rows, CCQ_GPU_ROUTER_ROWS), multiprocessors);
    return (size_t)(tiles * CCQ_GPU_ROUTER_ROWS * experts) * sizeof(double);
}

/* ---- Sums ---------------------------------------------------------------- */

typedef struct ccq_gpu_router_shared {
    double sum[CCQ_GPU_ROUTER_ROWS][CCQ_GPU_ROUTER_WARPS][CCQ_GPU_ROUTER_LANES];
} ccq_gpu_router_shared;

CCQ_INLINE void ccq_gpu_router_add(const ccq_gpu_router *p, const ccq_gpu_router_grid *g,
                                   int64_t piece, int64_t tile, int64_t rows, int t,
                                   ccq_gpu_router_shared *s)
{
    int lane = t % CCQ_GPU_ROUTER_LANES, warp = t / CCQ_GPU_ROUTER_LANES;
    int64_t e = tile * CCQ_GPU_ROUTER_LANES + lane, r0 = rows * CCQ_GPU_ROUTER_ROWS;
    int64_t k = ccq_gpu_part(p->hidden, g->pieces, piece) + warp;
    int64_t end = ccq_gpu_part(p->hidden, g->pieces, piece + 1);
    double sum[CCQ_GPU_ROUTER_ROWS] = {0};

    for (; k < end && e < p->experts; k += CCQ_GPU_ROUTER_WARPS) {
        double w = (double)p->w[k * p->experts + e];
        CCQ_UNROLL
        for (int r = 0; r < CCQ_GPU_ROUTER_ROWS; r++)
            if (r0 + r < p->rows)
                sum[r] += (double)p->h[(r0 + r) * p->hidden + k] * w;
    }
    CCQ_UNROLL
    for (int r = 0; r < CCQ_GPU_ROUTER_ROWS; r++)
        s->sum[r][warp][lane] = sum[r];
}

CCQ_INLINE void ccq_gpu_router_piece(const ccq_gpu_router *p, int64_t piece, int64_t tile,
                                     int64_t rows, int t, const ccq_gpu_router_shared *s)
{
    int lane = t % CCQ_GPU_ROUTER_LANES, r = t / CCQ_GPU_ROUTER_LANES;
    int64_t e = tile * CCQ_GPU_ROUTER_LANES + lane, row = rows * CCQ_GPU_ROUTER_ROWS + r;
    double sum = 0;

    if (r >= CCQ_GPU_ROUTER_ROWS || e >= p->experts || row >= p->rows)
        return;
    for (int warp = 0; warp < CCQ_GPU_ROUTER_WARPS; warp++)
        sum += s->sum[r][warp][lane];
    ((double *)p->work)[(piece * p->rows + row) * p->experts + e] = sum;
}

/* ---- Choice -------------------------------------------------------------- */

/* score[experts], p[experts]: shared. Three steps of thread t among `threads`. */
CCQ_INLINE void ccq_gpu_router_logits(const ccq_gpu_router *p, int64_t pieces, int64_t r, int t,
                                      int threads, float *score)
{
    const double *part = (const double *)p->work + r * p->experts;

    for (int64_t e = t; e < p->experts; e += threads) {
        double sum = 0;
        for (int64_t i = 0; i < pieces; i++)
            sum += part[i * p->rows * p->experts + e];
        score[e] = (float)sum;
    }
}

CCQ_INLINE void ccq_gpu_router_raise(const ccq_gpu_router *p, int t, int threads,
                                     const float *score, float *chance)
{
    float m = ccq_router_max(score, p->experts);

    for (int64_t e = t; e < p->experts; e += threads)
        chance[e] = ccq_router_exp(score[e], m);
}

CCQ_INLINE void ccq_gpu_router_score(const ccq_gpu_router *p, float sum, int t, int threads,
                                     const float *chance, float *score)
{
    for (int64_t e = t; e < p->experts; e += threads)
        score[e] = p->bias ? chance[e] / sum + p->bias[e] : chance[e] / sum;
}

/* The margin is between expert e, the last that is chosen, and the best that is not. */
CCQ_INLINE float ccq_gpu_router_margin(const ccq_gpu_router *p, int64_t e, const float *score)
{
    int64_t next = -1;

    for (int64_t f = 0; f < p->experts; f++)
        if (f != e && ccq_router_ahead(score, e, f) &&
            (next < 0 || ccq_router_ahead(score, f, next)))
            next = f;
    return next < 0 ? INFINITY : score[e] - score[next];
}

CCQ_INLINE void ccq_gpu_router_choose(const ccq_gpu_router *p, float sum, int64_t r, int t,
                                      int threads, const float *chance, const float *score)
{
    int64_t row = r * p->stride + p->at;

    if (!t)
        p->nan[r] = sum != sum;
    for (int64_t e = t; e < p->experts; e += threads) {
        int64_t rank = 0;
        for (int64_t f = 0; f < p->experts; f++)
            rank += ccq_router_ahead(score, f, e);
        if (rank < p->k) {
            p->ids[row * p->k + rank] = (int32_t)e;
            p->weights[row * p->k + rank] = chance[e] / sum;
        }
        if (rank == p->k - 1 && p->margin)
            p->margin[row] = ccq_gpu_router_margin(p, e, score);
    }
}

#endif
