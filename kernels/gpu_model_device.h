/* Between the files of kernels/gpu_model.h's devices. Not for callers outside kernels/. */
#ifndef CCQ_KERNELS_GPU_MODEL_DEVICE_H
#define CCQ_KERNELS_GPU_MODEL_DEVICE_H

#include "kernels/gpu_device.h"
#include "kernels/gpu_model.h"

#ifdef __cplusplus
extern "C" {
#endif

int ccq_gpu_host_attend(ccq_gpu *gpu, const ccq_gpu_attend *p);
int ccq_gpu_host_linear(ccq_gpu *gpu, const ccq_gpu_linear *p);
int ccq_gpu_host_grouped(ccq_gpu *gpu, const ccq_gpu_grouped *p);
int ccq_gpu_cuda_attend(ccq_gpu *gpu, const ccq_gpu_attend *p);
int ccq_gpu_cuda_linear(ccq_gpu *gpu, const ccq_gpu_linear *p);
int ccq_gpu_cuda_grouped(ccq_gpu *gpu, const ccq_gpu_grouped *p);

#ifdef __cplusplus
}
#endif

#endif
