/* The encoder on a device: the bytes of kernels/encode.h (best encodes as normal), and of
 * kernels/feedback.h.
 *
 * Pointers are device memory. Sums and decisions are those of the CPU in the same order, so
 * every output is the same bits; only figures that are NaN, of columns that are HUGE, may have
 * another sign. All return CCQ_GPU_*. */
#ifndef CCQ_KERNELS_GPU_ENCODE_H
#define CCQ_KERNELS_GPU_ENCODE_H

#include "kernels/feedback.h"
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

/* Columns under a metric. metric: host; on_device: a copy of its ccq_metric_bytes(). target,
 * original: [k][n] finite weights in logical order; may be the same. rows: [k], the logical
 * row at each place of the metric. out: w and strip are not used; work: feedback_work(). */
typedef struct ccq_gpu_feedback {
    const ccq_metric *metric;
    const void *on_device;
    const float *target, *original;
    const int32_t *rows;
    ccq_gpu_columns out;
} ccq_gpu_feedback;

struct ccq_gpu_encode_ops {
    /* The code tables of enc (host), once before encoding; to: sizeof(ccq_encoder) bytes are
     * enough. */
    int (*tables)(ccq_gpu *gpu, const ccq_encoder *enc, void *to);
    int (*columns)(ccq_gpu *gpu, const void *tables, const ccq_encode_params *params,
                   const ccq_gpu_columns *p);
    /* 0: k x n is not served (k no multiple of 128, or a column too long for a block). */
    size_t (*work)(const ccq_gpu *gpu, int64_t k, int64_t n);
    /* As ccq_feedback_panel, of params->gain, leave and passes. */
    int (*feedback)(ccq_gpu *gpu, const ccq_encoder *enc, const ccq_feedback_params *params,
                    const ccq_gpu_feedback *p);
    size_t (*feedback_work)(const ccq_gpu *gpu, int64_t k, int64_t n, int entries);
};

#ifdef __cplusplus
}
#endif

#endif
