/* The encoder on a device: the bytes of kernels/encode.h (best encodes as normal).
 *
 * Pointers are device memory. Sums and decisions are those of the CPU in the same order, so
 * every output is the same bits; only figures that are NaN, of columns that are HUGE, may have
 * another sign. All return CCQ_GPU_*. */
#ifndef CCQ_KERNELS_GPU_ENCODE_H
#define CCQ_KERNELS_GPU_ENCODE_H

#include "kernels/encode.h"
#include "kernels/gpu.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Columns of a bf16 matrix. strip: as in libccq's columns: [k][strip] one after the other
 * (strip = n: the matrix as it is). Tensors as they are stored (docs/format.md), each with n
 * columns. */
typedef struct ccq_gpu_columns {
    const uint16_t *w;
    int64_t k, n, strip;
    uint8_t *weight;  /* [k/4][n] */
    uint8_t *scale;   /* [k/128][n] */
    uint16_t *super;  /* [n] */
    float *code_scale, *code_zp;
    uint8_t *status;  /* [n]: CCQ_COLUMN_* */
    double *error, *energy, *max_error; /* [n] */
    void *work;       /* work() bytes */
} ccq_gpu_columns;

struct ccq_gpu_encode_ops {
    /* The code tables of enc (host), once before encoding; to: sizeof(ccq_encoder) bytes are
     * enough. */
    int (*tables)(ccq_gpu *gpu, const ccq_encoder *enc, void *to);
    int (*columns)(ccq_gpu *gpu, const void *tables, const ccq_encode_params *params,
                   const ccq_gpu_columns *p);
    /* 0: k x n is not served (k no multiple of 128, or a column too long for a block). */
    size_t (*work)(const ccq_gpu *gpu, int64_t k, int64_t n);
};

#ifdef __cplusplus
}
#endif

#endif
