/* The kernels behind function pointers: C first, then whatever the processor
 * has. Every entry returns the same bits on every instruction set.
 *
 * Kernels are pure functions on arrays: no files, no threads, no allocation,
 * no failure. Pointers are not NULL and need no alignment beyond their type;
 * outputs do not overlap inputs unless said. Any number of threads may call
 * them on different outputs.
 *
 * bf16 (an int, 0 or 1) is the numerics of an activation: 1 rounds the result
 * to the nearest bf16 once (fastdeploy numerics), 0 leaves fp32 (exact). */
#ifndef CCQ_KERNELS_OPS_H
#define CCQ_KERNELS_OPS_H

#include "kernels/code.h"
#include "kernels/dense.h"
#include "kernels/feedback_ops.h"
#include "kernels/panel.h"

#include <stddef.h>

#ifdef __cplusplus
#define CCQ_ALIGN16 alignas(16)
#else
#define CCQ_ALIGN16 _Alignas(16)
#endif

/* AVX2 means AVX2 + FMA + F16C, AVX512 means F + BW + DQ + VL + VNNI + VBMI on top. */
enum { CCQ_ISA_C = 1, CCQ_ISA_AVX2 = 2, CCQ_ISA_AVX512 = 4 };

/* ---- Weights ------------------------------------------------------------- */
enum {
    CCQ_W_BF16,   /* data: uint16 [k][n] */
    CCQ_W_BF16_T, /* data: uint16 [n][k] (a tied embedding used as the head) */
    CCQ_W_WINT8,  /* data: uint8 in the layout of tile.h; scale bf16 [n] */
    CCQ_W_WINT4,
    CCQ_W_WINT2, /* data: uint8 [k/4][n]; local uint8 [k/128][n]; super, code_scale, code_zp [n] */
    CCQ_W_FP8,   /* data: e4m3fn [k][n]; block_scale [ceil(k/128)][ceil(n/128)] */
    CCQ_W_F32    /* data: float [k][n], as it is */
};

/* A matrix of k input and n output features as it is stored. The arrays belong
 * to the caller. */
typedef struct ccq_weight {
    int type;
    int64_t k, n;
    const void *data;
    const uint16_t *scale; /* bf16 [n]: wint8, wint4 */
    const uint8_t *local;
    const uint16_t *super; /* bf16 [n] */
    const float *code_scale, *code_zp;
    const float *block_scale;
    int order;    /* CCQ_ORDER_*: wint2 */
    int rounding; /* CCQ_ROUND_*: wint2 */
} ccq_weight;

enum { CCQ_FEW = 4 };    /* rows of x that gemv takes */

/* ---- The encoder's search ------------------------------------------------ */

/* The 256 points of one line, in the forms the search kernels want: four codes at a
 * time, hence the alignment. */
typedef struct ccq_book {
    float cs, zp;
    float rms;               /* of all 1024 values */
    int16_t value[4][256];   /* value i of byte b, times -256 */
    int32_t norm[256];       /* sum of squared values */
    /* 2048 norm: what one more local scale adds to a score */
    CCQ_ALIGN16 int32_t step[256];
    /* value[0] and [1], [2] and [3] of byte b, first one low */
    CCQ_ALIGN16 int32_t pair[2][256];
    /* l step[b] + b: what a score at local scale l starts from */
    CCQ_ALIGN16 int32_t start[16][256];
} ccq_book;

/* ---- The table ----------------------------------------------------------- */
typedef struct ccq_ops {
    const char *name; /* "c", "avx2", ... the best instruction set in it */
    ccq_panel_ops panel; /* the encoder's passes besides the search */
    ccq_feedback_ops feedback; /* encoding with feedback */
    ccq_dense_ops dense; /* linear algebra of calibration */

    /* One 64-row group at one scale (docs/design.md, "The search"). u: the 64
     * weights over the scale in 1/16 units, stored order. For each local scale
     * l = lo..hi (1 <= lo <= hi <= 15): J[l-lo] = l * sum over the 16 blocks r
     * of (min over b of score(b,l)) >> 8, best[l-lo][r] = the lowest byte that
     * reaches the minimum, with
     *   score(b,l) = -256 * sum_i u[4r+i] value_i(b) + 2048 * l * norm(b) + b. */
    void (*search)(const ccq_book *book, const int16_t u[64], int lo, int hi, int32_t *J,
                   uint8_t (*best)[16]);

    /* bf16 bits to fp32, exact. */
    void (*widen)(const uint16_t *x, int64_t count, float *y);
    /* fp32 to the nearest bf16 kept in fp32, in place allowed (y == x). */
    void (*round)(const float *x, int64_t count, float *y);

    /* Decodes rows k0..k0+kc-1 (k0, kc multiples of 64, or kc up to the end of
     * k; logical order) and columns n0..n0+15 of w to panel[kc][16]; columns
     * past n are zero. n0 is a multiple of 16. Values are the bf16 weights
     * widened (fp32 for CCQ_ROUND_NONE). */
    void (*unpack)(const ccq_weight *w, int64_t k0, int64_t kc, int64_t n0, float *panel);

    /* acc[r][j] = fmaf(x[r][k], panel[k][j], acc[r][j]), k ascending from 0 to
     * kc-1, for all r < rows, j < 16. Strides in floats. */
    void (*product)(const float *x, int64_t ldx, int64_t rows, const float *panel, int64_t kc,
                    float *acc, int64_t ldacc);

    /* y[r][j] = the chain of ccq_matmul for rows <= CCQ_FEW rows, columns n0..n0+c-1,
     * straight from the stored weight. n0 a multiple of 16. Returns c <= n1 - n0, a
     * multiple of 16; what it leaves is for unpack and product. */
    int64_t (*gemv)(const ccq_weight *w, const float *x, int64_t ldx, int64_t rows, int64_t n0,
                    int64_t n1, float *y, int64_t ldy);

    /* y = x * r * g, r = 1/sqrt(s * (1/h) + eps), s = sum of squares, one fp32
     * fmaf chain over ascending i. One row of h. */
    void (*rms)(const float *x, const float *g, int64_t h, float eps, int bf16, float *y);

    /* a[j] = silu(gu[j]) * gu[n+j], silu(g) = g / (1 + exp(-g)), inside fp32. */
    void (*swiglu)(const float *gu, int64_t n, int bf16, float *a);

    /* Pairs (2i, 2i+1) of each of heads x d values rotated by (cos[i], sin[i]),
     * in place; products and sum in fp32 without contraction. */
    void (*rope)(float *x, int64_t heads, int64_t d, const float *cos, const float *sin, int bf16);

    /* Causal attention of query rows at positions pos0..pos0+rows-1 of one
     * sequence, query heads h0..h1-1. q and o: rows x [heads][d] with row
     * stride ld. k, v: [position][kv_heads][d], bf16 bits when kv_bf16, else
     * fp32, filled up to position pos0+rows-1. Head h reads KV head
     * h / (heads / kv_heads). scratch: ccq_attend_scratch() floats. */
    void (*attend)(const float *q, int64_t ld, int64_t rows, int64_t pos0, const void *k,
                   const void *v, int kv_bf16, int64_t heads, int64_t kv_heads, int64_t d,
                   int64_t h0, int64_t h1, int bf16, float *scratch, float *o);
} ccq_ops;

/* What the processor and the system offer (cpuid and xgetbv): CCQ_ISA_* bits,
 * C always. */
unsigned ccq_cpu_isa(void);
/* Fills ops with C and then the best of allowed & ccq_cpu_isa(). */
void ccq_ops_init(ccq_ops *ops, unsigned allowed);

/* Floats that attend needs for a context of len positions. */
size_t ccq_attend_scratch(int64_t len, int64_t d);

/* ---- On top of the table ------------------------------------------------- */

/* y[r][n0..n1-1] = x[r][:] . w, each output one fp32 chain over ascending k
 * from 0. n0 a multiple of 16. y has row stride ldy, y + n is column n.
 * scratch: ccq_matmul_scratch() floats. bf16 rounds the result. */
size_t ccq_matmul_scratch(int64_t rows);
void ccq_matmul(const ccq_ops *ops, const ccq_weight *w, const float *x, int64_t ldx, int64_t rows,
                int64_t n0, int64_t n1, int bf16, float *y, int64_t ldy, float *scratch);

/* exp in fp32 by a fmaf polynomial, error <= 1 ulp; the one definition. */
float ccq_exp(float x);
/* cos and sin (d/2 each) of fp32(pos * fp32(theta^(-2i/d))), from double. */
void ccq_rope_angles(double theta, int64_t d, int64_t pos, float *cos, float *sin);

/* Router of one row. l = fp32(double sum over ascending k of h[k]*w[k][e]),
 * p = softmax(l), choose by p + bias (bias NULL = 0), ties to the lowest id.
 * ids, weights (p of the chosen, without bias): top_k each, in selection order.
 * margin (NULL allowed): score of the last chosen minus the next one's,
 * infinite when experts == top_k. scratch: 2 * experts floats. 0, or -1 when a
 * logit is NaN. */
int ccq_router(const float *h, const float *w, const float *bias, int64_t hidden, int64_t experts,
               int64_t top_k, int32_t *ids, float *weights, float *margin, float *scratch);
/* out[i] = (sum_j weights[j] * y[j][i]) / (sum_j weights[j]), both sums fp32
 * fmaf chains in order of j. y: top_k rows of h with stride ld. */
void ccq_combine(const float *y, int64_t ld, const float *weights, int64_t top_k, int64_t h,
                 int bf16, float *out);

#endif
