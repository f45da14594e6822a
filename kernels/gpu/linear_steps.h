/* The steps that products are made of, a table for each device, and what puts them together
 * (kernels/gpu_linear.c). Not for callers outside kernels/. */
#ifndef CCQ_KERNELS_GPU_LINEAR_STEPS_H
#define CCQ_KERNELS_GPU_LINEAR_STEPS_H

#include "kernels/gpu/linear_few.h"
#include "kernels/gpu/linear_many.h"
#include "kernels/gpu_model_device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* All return CCQ_GPU_*, but has_dense: 1 where dense can be called. */
typedef struct ccq_gpu_linear_steps {
    int (*few)(ccq_gpu *gpu, const ccq_gpu_few *p);
    int (*groups)(ccq_gpu *gpu, const ccq_gpu_groups *p);
    int (*unpack)(ccq_gpu *gpu, const ccq_gpu_unpack *p);
    int (*narrow)(ccq_gpu *gpu, const ccq_gpu_narrow *p);
    int (*round)(ccq_gpu *gpu, const ccq_gpu_round *p);
    int (*has_dense)(ccq_gpu *gpu);
    int (*dense)(ccq_gpu *gpu, const ccq_gpu_dense *p);
} ccq_gpu_linear_steps;

/* Of the host device, and of CUDA: for other products as well. */
int ccq_gpu_host_round(ccq_gpu *gpu, const ccq_gpu_round *p);
int ccq_gpu_host_dense(ccq_gpu *gpu, const ccq_gpu_dense *p);
int ccq_gpu_cuda_round(ccq_gpu *gpu, const ccq_gpu_round *p);

int ccq_gpu_linear_by(ccq_gpu *gpu, const ccq_gpu_linear_steps *steps, const ccq_gpu_linear *p);
int ccq_gpu_grouped_by(ccq_gpu *gpu, const ccq_gpu_linear_steps *steps,
                       const ccq_gpu_grouped *p);

#ifdef __cplusplus
}
#endif

#endif
