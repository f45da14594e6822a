/* How a product of kernels/gpu_model.h is cut up, and what work memory it takes.
 *
 * Few rows: columns in tiles, k in chunks, a block takes a tile and some of its chunks; where
 * there are more blocks than one to a tile, their sums lie in work and are added in order.
 * Many rows: columns in runs whose dequantized weights stay in the cache, each a dense
 * product. */
#ifndef CCQ_KERNELS_GPU_LINEAR_PLAN_H
#define CCQ_KERNELS_GPU_LINEAR_PLAN_H

#include "kernels/gpu/model_base.h"
#include "kernels/gpu_model.h"

enum {
    CCQ_GPU_FEW = 8,           /* rows of the kernel for few */
    CCQ_GPU_FEW_BLOCKS = 4,    /* wanted on a multiprocessor */
    CCQ_GPU_FEW_PIECES = 32    /* of k, at most */
};
enum { CCQ_GPU_RUN_BYTES = 32 << 20 }; /* of dequantized weights */

/* The weight's 16-byte units run along k, not along n. */
CCQ_INLINE int ccq_gpu_along_k(int type)
{
    return type == CCQ_W_BF16_T || type == CCQ_W_WINT8 || type == CCQ_W_WINT4;
}

/* Columns of a tile, rows of a chunk. */
CCQ_INLINE int ccq_gpu_few_tile(int type)
{
    return type == CCQ_W_WINT4 ? 128 : type == CCQ_W_BF16_T ? 32 : 64;
}

CCQ_INLINE int ccq_gpu_few_chunk(int type)
{
    return type == CCQ_W_F32 ? 128 : type == CCQ_W_BF16 ? 256 : 512;
}

/* NULL, or why these kernels do not take the weight. */
static inline const char *ccq_gpu_linear_refuses(const ccq_weight *w)
{
    int of = w->type == CCQ_W_WINT8 ? 2 : w->type == CCQ_W_WINT4 ? 4 : 1;

    if (w->type < CCQ_W_BF16 || w->type > CCQ_W_F32)
        return "unknown type of weight";
    if (w->k >= INT32_MAX || w->n >= INT32_MAX)
        return "a side of the weight is 2^31 or more";
    if ((of > 1 || w->type == CCQ_W_WINT2) && w->k % CCQ_GROUP)
        return "rows of the weight are no multiple of 64";
    if (w->n % of)
        return "columns of the weight do not fill its layout";
    if (of > 1 && (uintptr_t)w->data % 16)
        return "the weight is not aligned to 16 bytes";
    return NULL;
}

/* Whether its units can be loaded whole. */
static inline int ccq_gpu_is_wide(const ccq_weight *w)
{
    uintptr_t data = (uintptr_t)w->data;

    switch (w->type) {
    case CCQ_W_BF16_T: return w->k % 8 == 0 && data % 16 == 0;
    case CCQ_W_WINT2: return w->n % 8 == 0 && data % 8 == 0 && (uintptr_t)w->local % 8 == 0;
    case CCQ_W_FP8: return w->n % 8 == 0 && data % 8 == 0;
    default: return w->n % 8 == 0 && data % 16 == 0;
    }
}

/* ---- Few rows ------------------------------------------------------------ */

typedef struct ccq_gpu_few_plan {
    int64_t tiles, chunks, pieces;
} ccq_gpu_few_plan;

static inline ccq_gpu_few_plan ccq_gpu_plan_few(const ccq_weight *w, int multiprocessors)
{
    ccq_gpu_few_plan f;
    int64_t most;

    f.tiles = ccq_gpu_ceil(w->n, ccq_gpu_few_tile(w->type));
    f.chunks = ccq_gpu_ceil(w->k, ccq_gpu_few_chunk(w->type));
    most = ccq_gpu_max(1, ccq_gpu_min(f.chunks, CCQ_GPU_FEW_PIECES));
    f.pieces = CCQ_GPU_FEW_BLOCKS * (int64_t)multiprocessors / ccq_gpu_max(1, f.tiles);
    f.pieces = ccq_gpu_min(most, ccq_gpu_max(1, f.pieces));
    return f;
}

static inline size_t ccq_gpu_few_bytes(const ccq_weight *w, int64_t rows, int multiprocessors)
{
    int64_t pieces = ccq_gpu_plan_few(w, multiprocessors).pieces;
    return pieces == 1 ? 0 : (size_t)(pieces * ccq_gpu_min(rows, CCQ_GPU_FEW) * w->n) * 4;
}

/* ---- Many rows ----------------------------------------------------------- */

typedef struct ccq_gpu_many_plan {
    int as_float;  /* fp32 products, else bf16 ones */
    int direct;    /* the stored weights are multiplied themselves */
    int along_k;   /* dequantized: [columns][k], else [k][columns] */
    int64_t run;   /* columns at a time */
    size_t narrow; /* bytes of x in bf16, at the start of work; then the weights */
    size_t weights;
} ccq_gpu_many_plan;

static inline ccq_gpu_many_plan ccq_gpu_plan_many(const ccq_weight *w, int64_t rows, int bf16)
{
    ccq_gpu_many_plan m;
    int64_t size, columns;

    m.as_float = !bf16 || w->type == CCQ_W_F32 ||
                 (w->type == CCQ_W_WINT2 && w->rounding == CCQ_ROUND_NONE);
    m.direct = w->type == CCQ_W_F32 ||
               (!m.as_float && (w->type == CCQ_W_BF16 || w->type == CCQ_W_BF16_T));
    m.along_k = ccq_gpu_along_k(w->type);
    size = w->k * (m.as_float ? 4 : 2);
    columns = ccq_gpu_max(128, CCQ_GPU_RUN_BYTES / ccq_gpu_max(1, size) / 128 * 128);
    m.run = m.direct ? w->n : ccq_gpu_min(w->n, columns);
    m.narrow = m.as_float ? 0 : (size_t)ccq_gpu_ceil(rows * w->k * 2, 256) * 256;
    m.weights = m.direct ? 0 : (size_t)(m.run * size);
    return m;
}

static inline size_t ccq_gpu_linear_bytes(const ccq_weight *w, int64_t rows, int bf16,
                                          int multiprocessors)
{
    ccq_gpu_many_plan m = ccq_gpu_plan_many(w, rows, bf16);
    size_t few = ccq_gpu_few_bytes(w, rows, multiprocessors), many = m.narrow + m.weights;

    return rows <= CCQ_GPU_FEW || few > many ? few : many;
}

#endif
