/* The experts of a wint2 layer on a device: weights laid out for tensor cores at load, and
 * whole feed-forward blocks over rows that are sorted by expert.
 *
 * Pointers are device memory unless it says host. All return CCQ_GPU_*. Results are the same
 * bits from run to run. */
#ifndef CCQ_KERNELS_GPU_WINT2_H
#define CCQ_KERNELS_GPU_WINT2_H

#include "kernels/gpu.h"
#include "kernels/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A matrix [k][n], k a multiple of 128, n of 16, in the layout of kernels/gpu/wint2_layout.h,
 * in one piece of ccq_gpu_wint2_bytes(k, n) bytes. Columns come in tiles of 16. */
typedef struct ccq_gpu_matrix {
    int64_t k, n;
    const uint8_t *codes;  /* k * n / 4 */
    const uint8_t *locals; /* k * n / 128 */
    const uint32_t *line;  /* [n][2]: CS and CZ of v = (b * CS + CZ) >> 17 */
    const float *super;    /* [n] */
    const float *plain;    /* [n][2]: code_scale, code_zp, for tiles that are not exact */
    const uint8_t *exact;  /* [n / 16]: 1 where the fixed-point line is proved for all columns */
} ccq_gpu_matrix;

/* 0: this shape is not for these kernels. */
size_t ccq_gpu_wint2_bytes(int64_t k, int64_t n);

/* What repack found. */
typedef struct ccq_gpu_wint2_found {
    int64_t inexact; /* tiles to be decoded by fp32 */
    int64_t orders;  /* columns where the known orders of evaluation give different words */
} ccq_gpu_wint2_found;

/* How experts are gone about. MANY leaves it to the device; WIDE (many rows) and DENSE (very
 * many: by dequantized weights) ask for a way, which is gone where the device, the shapes and
 * the rounding allow it. DENSE waits for `start` and is not to be recorded. */
enum { CCQ_GPU_WAY_FEW, CCQ_GPU_WAY_MANY, CCQ_GPU_WAY_WIDE, CCQ_GPU_WAY_DENSE };

/* The experts' work on one step: for every place i of from (rows sorted by expert, as
 * ccq_gpu_sort leaves them)
 *     gu = R(x[from[i]] . up_gate); a = R(silu(gate) * up); y[i] = R(a . down)
 * x: [..][up_gate.k]. up_gate, down: [experts] in device memory. rounding: CCQ_ROUND_FUSED,
 * CCQ_ROUND_UNZIP: weights are rounded as FastDeploy does, and R is to bf16; CCQ_ROUND_NONE: no
 * weight is rounded, and R rounds with round = 1 alone. order: CCQ_ORDER_* of the rows of both
 * matrices. rows: start[experts], most: rows of the busiest expert at most (the grid is made of
 * it; when recorded, the number of rows of the step). large: CCQ_GPU_WAY_*. work: wint2_work()
 * bytes. */
typedef struct ccq_gpu_experts {
    const ccq_gpu_matrix *up_gate, *down;           /* device */
    const ccq_gpu_matrix *host_up_gate, *host_down; /* host: the same */
    int64_t experts, hidden, inter;
    const float *x;
    int64_t ldx;
    const int32_t *start, *from;
    int64_t rows, most;
    int rounding, round, order, large;
    float *y; /* [rows][hidden] */
    void *work;
} ccq_gpu_experts;

/* What a lane has of a group of 64 rows, columns g and g + 8 of a tile. line: slope and start
 * of the fixed point with `exact`, else the bits of code_scale and code_zp. form: CCQ_W2_FORM_*
 * of kernels/gpu/wint2_decode.h. */
typedef struct ccq_gpu_codes {
    uint32_t word[2], line[2][2];
    uint32_t locals; /* two bytes, a group's half of each by `upper` */
    float super[2];
    int form, exact, upper;
} ccq_gpu_codes;

/* [m][register] of its four products, bits of the local scales, scales as the form has them. */
enum { CCQ_GPU_DECODED = 16 + 2 + 2 };

struct ccq_gpu_wint2_ops {
    /* w: host structure with device arrays, as the tensors lie in a checkpoint. swiglu = 1: an
     * up_gate matrix, whose tiles of gate and up take turns. to: memory of
     * ccq_gpu_wint2_bytes(); *matrix then points into it. found is host. Waits. */
    int (*repack)(ccq_gpu *gpu, const ccq_weight *w, int swiglu, void *to, ccq_gpu_matrix *matrix,
                  ccq_gpu_wint2_found *found);
    /* The bf16 weights again, [k][n] as a checkpoint has them; for tests. rounding NONE: the
     * bf16 next to the unrounded ones. */
    int (*unpack)(ccq_gpu *gpu, const ccq_gpu_matrix *matrix, int swiglu, int rounding, int order,
                  uint16_t *to);
    int (*experts)(ccq_gpu *gpu, const ccq_gpu_experts *p);
    size_t (*work)(const ccq_gpu *gpu, int64_t experts, int64_t hidden, int64_t inter,
                   int64_t rows);
    /* The way that `experts` would go: FEW, WIDE or DENSE. */
    int (*way)(ccq_gpu *gpu, const ccq_gpu_experts *p);
    /* to[count][CCQ_GPU_DECODED], by the functions that kernels decode with; for tests. */
    int (*decode)(ccq_gpu *gpu, const ccq_gpu_codes *codes, int64_t count, uint32_t *to);
};

#ifdef __cplusplus
}
#endif

#endif
