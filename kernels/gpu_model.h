/* Kernels of a forward pass on a device, wint2 experts apart (kernels/gpu_wint2.h).
 *
 * Every pointer in the structures below is device memory unless it says host. Activations are
 * fp32; with bf16 = 1 (fastdeploy numerics) what is stored is rounded to the nearest bf16, as
 * the same function of kernels/ops.h does it. Sums may be made in another order than the CPU
 * has, but always in the same one: results are the same bits from run to run. An input that is
 * not a number makes exactly the outputs of its row NaN.
 *
 * Grids depend on the counts in the structures alone and nothing is allocated or waited for,
 * so calls can be recorded (ccq_gpu_record), unless it says otherwise. All return CCQ_GPU_*.
 * Counts of 0 are fine and do nothing. */
#ifndef CCQ_KERNELS_GPU_MODEL_H
#define CCQ_KERNELS_GPU_MODEL_H

#include "kernels/gpu.h"
#include "kernels/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

/* x[r] = table[ids[r]]; CCQ_W_BF16 or CCQ_W_F32, [vocab][h]. */
typedef struct ccq_gpu_embed {
    int type;
    const void *table;
    const int32_t *ids;
    int64_t rows, h;
    float *x;
} ccq_gpu_embed;

/* y[r] = rms norm of x[pick[r]] (pick NULL: of x[r]) with gain g; kernels/ops.h. */
typedef struct ccq_gpu_rms {
    const float *x, *g;
    const int32_t *pick;
    int64_t rows, h;
    float eps;
    int bf16;
    float *y;
} ccq_gpu_rms;

/* x = R(x + t) */
typedef struct ccq_gpu_add {
    float *x;
    const float *t;
    int64_t count;
    int bf16;
} ccq_gpu_add;

/* qkv: rows of [heads + 2 kv_heads][d], row stride ld; q and k are turned in place. cos, sin:
 * [rows][d/2]. k and v of row r are stored from elements k_at[r] and v_at[r] of the cache on:
 * bf16 with bf16 = 1, else fp32. */
typedef struct ccq_gpu_rope {
    float *qkv;
    int64_t ld, rows, heads, kv_heads, d;
    const float *cos, *sin;
    void *cache;
    const int64_t *k_at, *v_at;
    int bf16;
} ccq_gpu_rope;

/* o[r]: attention of row r's queries (as rope left them) over length[r] positions whose keys
 * and values start at elements k_first[r] and v_first[r] of the cache, kv_heads * d apart.
 * longest: at least every length, of which the grid is made (the step's, or when recorded the
 * capacity). o: [rows][heads * d], row stride ldo. work: attend_work() bytes. d: a multiple of
 * 8, at most 256; k_first and v_first multiples of 8. */
typedef struct ccq_gpu_attend {
    const float *qkv;
    int64_t ld, rows, heads, kv_heads, d;
    const void *cache;
    const int64_t *k_first, *v_first;
    const int32_t *length;
    int64_t longest;
    int bf16;
    float *o;
    int64_t ldo;
    void *work;
} ccq_gpu_attend;

/* a[r][j] = R(silu(gu[r][j]) * gu[r][n+j]) */
typedef struct ccq_gpu_swiglu {
    const float *gu;
    int64_t rows, n;
    int bf16;
    float *a;
} ccq_gpu_swiglu;

/* ccq_router of every row: the same ids and margins but where fp64 sums of another order
 * differ in fp32. nan[r] = 1 where a logit is NaN (ids are then 0, 1, ...). Row r's results
 * are at r * stride + at of ids and weights in units of k, of margin in units of 1.
 * work: router_work() bytes. */
typedef struct ccq_gpu_router {
    const float *h, *w, *bias; /* bias NULL: none */
    int64_t rows, hidden, experts, k;
    int64_t stride, at;
    int32_t *ids;
    float *weights, *margin;
    uint8_t *nan;
    void *work;
} ccq_gpu_router;

/* Rows by expert, ascending inside one: start[experts + 1], place[rows][k] (where the row's
 * j-th choice lies), from[rows * k] (row of a place). ids as the router left them. */
typedef struct ccq_gpu_sort {
    const int32_t *ids;
    int64_t rows, experts, k, stride, at;
    int32_t *start, *place, *from;
} ccq_gpu_sort;

/* y[i] = x[from[i]], rows of h */
typedef struct ccq_gpu_gather {
    const float *x;
    const int32_t *from;
    int64_t rows, h; /* rows: of y */
    float *y;
} ccq_gpu_gather;

/* t[r] = ccq_combine of rows place[r][0..k-1] of y with the router's weights. */
typedef struct ccq_gpu_combine {
    const float *y, *weights;
    const int32_t *place;
    int64_t rows, k, h, stride, at;
    int bf16;
    float *t;
} ccq_gpu_combine;

/* y[r] = R(x[r] . w). w: host structure with device arrays, any CCQ_W_*. work: linear_work()
 * bytes. bf16 = 0: fp32 products of unrounded x (no TF32); bf16 = 1: x has bf16 values, sums
 * are fp32. round = 0 leaves y in fp32 though bf16 = 1 (logits). */
typedef struct ccq_gpu_linear {
    const ccq_weight *w; /* host */
    const float *x;
    int64_t ldx, rows;
    int bf16, round;
    float *y;
    int64_t ldy;
    void *work;
} ccq_gpu_linear;

/* The same for all experts, the rows of expert e being start[e]..start[e+1]-1 of x and y.
 * w: [experts] of one type and shape, host structures with device arrays; table: the same in
 * device memory. rows: start[experts]. few = 1: for steps of few rows an expert; can be
 * recorded. few = 0: waits for `start` and multiplies expert after expert. */
typedef struct ccq_gpu_grouped {
    const ccq_weight *w, *table; /* host, device */
    int64_t experts;
    const int32_t *start;
    const float *x;
    int64_t ldx, rows;
    int bf16, few;
    float *y;
    int64_t ldy;
    void *work;
} ccq_gpu_grouped;

/* y[rows][columns] (+ ldy) = x[rows][k] (+ ldx) . w; w: [k][columns], or [columns][k] when
 * along_k, without gaps. All fp32, or x and w bf16. By the vendor's library, ABSENT without;
 * `linear` is made of it. */
typedef struct ccq_gpu_dense {
    int as_float, along_k;
    const void *x, *w;
    int64_t ldx, rows, k, columns;
    float *y;
    int64_t ldy;
} ccq_gpu_dense;

/* For benchmarks: all bytes are read, 16 a lane. to[i]: the exclusive or of the i-th piece of
 * CCQ_GPU_READ bytes; size is a multiple of them. */
enum { CCQ_GPU_READ = 128 << 10 };
typedef struct ccq_gpu_read {
    const void *from;
    size_t size;
    uint32_t *to;
} ccq_gpu_read;

struct ccq_gpu_model_ops {
    int (*embed)(ccq_gpu *gpu, const ccq_gpu_embed *p);
    int (*rms)(ccq_gpu *gpu, const ccq_gpu_rms *p);
    int (*add)(ccq_gpu *gpu, const ccq_gpu_add *p);
    int (*rope)(ccq_gpu *gpu, const ccq_gpu_rope *p);
    int (*attend)(ccq_gpu *gpu, const ccq_gpu_attend *p);
    int (*swiglu)(ccq_gpu *gpu, const ccq_gpu_swiglu *p);
    int (*router)(ccq_gpu *gpu, const ccq_gpu_router *p);
    int (*sort)(ccq_gpu *gpu, const ccq_gpu_sort *p);
    int (*gather)(ccq_gpu *gpu, const ccq_gpu_gather *p);
    int (*combine)(ccq_gpu *gpu, const ccq_gpu_combine *p);
    int (*linear)(ccq_gpu *gpu, const ccq_gpu_linear *p);
    int (*grouped)(ccq_gpu *gpu, const ccq_gpu_grouped *p);
    /* Bytes of device memory for work, of a call with these and any smaller numbers. */
    size_t (*attend_work)(const ccq_gpu *gpu, int64_t rows, int64_t heads, int64_t d,
                          int64_t longest);
    size_t (*linear_work)(const ccq_gpu *gpu, const ccq_weight *w, int64_t rows, int bf16);
    size_t (*router_work)(const ccq_gpu *gpu, int64_t rows, int64_t experts);
    int (*dense)(ccq_gpu *gpu, const ccq_gpu_dense *p);
    int (*read)(ccq_gpu *gpu, const ccq_gpu_read *p);
};

#ifdef __cplusplus
}
#endif

#endif
