/* Experts of so many rows that decoding in the product does not pay: weights are dequantized
 * run by run, small enough to stay in the cache, and multiplied by a dense product. For the
 * default rounding: bf16 weights are exact.
 *
 * Staged x and h lie as kernels/gpu/wint2_wide.h has them, [rows][k] halves, and so do the
 * dequantized columns: in the order of k that a lane finds its codes in, which is as good as
 * any where both factors have it. */
#ifndef CCQ_KERNELS_GPU_WINT2_DENSE_H
#define CCQ_KERNELS_GPU_WINT2_DENSE_H

#include "kernels/gpu/linear_many.h"
#include "kernels/gpu/wint2_wide.h"

enum {
    CCQ_W2_DENSE_ROWS = 1000,       /* an expert, on average; not measured */
    CCQ_W2_DENSE_ROWS_ALONE = 128,  /* where there is no wgmma; not measured */
    CCQ_W2_DENSE_CHUNK = 4096,      /* rows at a time */
    CCQ_W2_DENSE_BYTES = 32 << 20   /* of dequantized weights */
};

/* Tiles tile..tile+tiles-1 of m to columns [16 tiles][k], in the order they lie in. A warp has
 * a block of a tile. */
typedef struct ccq_w2_dequant {
    ccq_gpu_matrix m;
    int64_t tile, tiles;
    uint16_t *to;
} ccq_w2_dequant;

/* h = bf16(silu(gate) up) of rows whose sums are in gu, [rows][2 inter], tiles of gate and up
 * in turns; place: of row 0. */
typedef struct ccq_w2_hidden {
    const float *gu;
    int64_t place, rows, inter;
    int order;
    uint8_t *h; /* staged */
} ccq_w2_hidden;

static inline CCQ_HD int64_t ccq_w2_dequant_warps(const ccq_w2_dequant *p)
{
    return p->tiles * (p->m.k / CCQ_W2_BLOCK);
}

/* A lane's words of group o: its columns g and g + 8, 16 rows of each. */
CCQ_W2_FN void ccq_w2_dequant_store(uint32_t a[4][4], int64_t k, uint16_t *to)
{
    int u, m, hi;

    CCQ_W2_UNROLL
    for (u = 0; u < 2; u++)
        CCQ_W2_UNROLL
        for (m = 0; m < 4; m++)
            CCQ_W2_UNROLL
            for (hi = 0; hi < 2; hi++)
                *(uint32_t *)(void *)(to + 8 * u * k + 16 * m + 8 * hi) = a[m][2 * hi + u];
}

CCQ_W2_FN void ccq_w2_dequant_lane(const ccq_w2_dequant *p, int64_t warp, int lane)
{
    const int64_t blocks = p->m.k / CCQ_W2_BLOCK, block = warp % blocks;
    const int64_t tile = p->tile + warp / blocks, piece = ccq_w2_piece(tile, block, p->m.k);
    const int64_t column = warp / blocks * CCQ_W2_TILE + lane / 4;
    const int exact = p->m.exact[tile];
    const uint8_t *two = p->m.locals + piece * CCQ_W2_LOCALS + lane / 4 * 2;
    const uint16_t both = (uint16_t)(two[0] | two[1] << 8);
    uint16_t *to = p->to + column * p->m.k + block * CCQ_W2_BLOCK + 2 * (lane % 4);
    uint32_t words[4], scale[2], a[4][4];
    ccq_w2_line line[2];
    int o, u;

    ccq_gpu_take16(p->m.codes + piece * CCQ_W2_CODES + lane * 16, words);
    CCQ_W2_UNROLL
    for (u = 0; u < 2; u++)
        line[u] = ccq_w2_line_of(&p->m, tile * CCQ_W2_TILE + lane / 4 + 8 * u, exact);
    CCQ_W2_UNROLL
    for (o = 0; o < 2; o++) {
        CCQ_W2_UNROLL
        for (u = 0; u < 2; u++)
            scale[u] = ccq_w2_scale(CCQ_W2_FORM_B, ccq_w2_local(both, u, o),
                                    p->m.super[tile * CCQ_W2_TILE + lane / 4 + 8 * u]);
        if (exact)
            ccq_w2_group(CCQ_W2_FORM_B, 1, words + 2 * o, line, scale, a);
        else
            ccq_w2_group(CCQ_W2_FORM_B, 0, words + 2 * o, line, scale, a);
        ccq_w2_dequant_store(a, p->m.k, to + CCQ_GROUP * o);
    }
}

static inline CCQ_HD void ccq_w2_hidden_at(const ccq_w2_hidden *p, int64_t row, int64_t j)
{
    const float *sum = p->gu + row * 2 * p->inter + j / CCQ_W2_TILE * (2 * CCQ_W2_TILE) +
                       j % CCQ_W2_TILE;
    float gate = ccq_round_bf16(sum[0]), up = ccq_round_bf16(sum[CCQ_W2_TILE]);
    uint16_t bits = ccq_f32_to_bf16(gate / (1.0f + ccq_exp_inline(-gate)) * up);

    memcpy(p->h + ccq_w2_wide_x_at(p->place + row, j, p->order, p->inter), &bits, 2);
}

/* ---- A call ----------------------------------------------------------------- */

/* Tiles of a run: an even number, so that gate and up stay together. */
static inline int64_t ccq_w2_dense_run(int64_t k, int64_t n)
{
    int64_t tiles = CCQ_W2_DENSE_BYTES / (k * CCQ_W2_TILE * 2) / 8 * 8;

    tiles = tiles < 8 ? 8 : tiles;
    return tiles < n / CCQ_W2_TILE ? tiles : n / CCQ_W2_TILE;
}

static inline size_t ccq_w2_dense_bytes(int64_t hidden, int64_t inter)
{
    int64_t up = ccq_w2_dense_run(hidden, 2 * inter) * CCQ_W2_TILE * hidden * 2;
    int64_t down = ccq_w2_dense_run(inter, hidden) * CCQ_W2_TILE * inter * 2;

    return ccq_w2_aligned((size_t)(up > down ? up : down));
}

/* wide: the device has kernels/gpu/wint2_wide.h's. */
static inline int ccq_w2_dense_wants(int64_t rows, int64_t experts, int wide)
{
    return rows >= (wide ? CCQ_W2_DENSE_ROWS : CCQ_W2_DENSE_ROWS_ALONE) * experts;
}

static inline int ccq_w2_dense_takes(const ccq_gpu_experts *p, int wide)
{
    return p->rounding == CCQ_ROUND_FUSED && p->rows > 1 &&
           (p->large == CCQ_GPU_WAY_DENSE ||
            (p->large == CCQ_GPU_WAY_MANY && ccq_w2_dense_wants(p->rows, p->experts, wide)));
}

#ifdef __cplusplus
extern "C" {
#endif

/* All return CCQ_GPU_*. stage, dense and round are those of other products. */
typedef struct ccq_w2_dense_steps {
    int (*stage)(ccq_gpu *gpu, const ccq_w2_stage *p);
    int (*dequant)(ccq_gpu *gpu, const ccq_w2_dequant *p);
    int (*dense)(ccq_gpu *gpu, const ccq_gpu_dense *p);
    int (*hidden)(ccq_gpu *gpu, const ccq_w2_hidden *p);
    int (*round)(ccq_gpu *gpu, const ccq_gpu_round *p);
} ccq_w2_dense_steps;

/* ccq_gpu_experts with rounding FUSED; waits. */
int ccq_gpu_wint2_dense_by(ccq_gpu *gpu, const ccq_w2_dense_steps *steps,
                           const ccq_gpu_experts *p);

#ifdef __cplusplus
}
#endif

#endif
