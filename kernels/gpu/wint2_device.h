/* Between the files of kernels/gpu_wint2.h's devices. Not for callers outside kernels/. */
#ifndef CCQ_KERNELS_GPU_WINT2_DEVICE_H
#define CCQ_KERNELS_GPU_WINT2_DEVICE_H

#include "kernels/gpu_device.h"
#include "kernels/gpu_wint2.h"

#ifdef __cplusplus
extern "C" {
#endif

extern const ccq_gpu_wint2_ops ccq_gpu_wint2_host, ccq_gpu_wint2_cuda;

int ccq_gpu_wint2_host_experts(ccq_gpu *gpu, const ccq_gpu_experts *p);
int ccq_gpu_wint2_cuda_experts(ccq_gpu *gpu, const ccq_gpu_experts *p);
int ccq_gpu_wint2_host_way(ccq_gpu *gpu, const ccq_gpu_experts *p);
int ccq_gpu_wint2_cuda_way(ccq_gpu *gpu, const ccq_gpu_experts *p);
/* Many rows an expert, by wgmma's layouts; has_wide: this device has wgmma. */
int ccq_gpu_wint2_host_wide(ccq_gpu *gpu, const ccq_gpu_experts *p);
int ccq_gpu_wint2_cuda_wide(ccq_gpu *gpu, const ccq_gpu_experts *p);
int ccq_gpu_wint2_cuda_has_wide(const ccq_gpu *gpu);
/* More rows still: kernels/gpu/wint2_dense.h. */
int ccq_gpu_wint2_host_dense(ccq_gpu *gpu, const ccq_gpu_experts *p);
int ccq_gpu_wint2_cuda_dense(ccq_gpu *gpu, const ccq_gpu_experts *p);
/* Work memory of a device with or without wgmma; the devices'. */
size_t ccq_gpu_wint2_work(int64_t experts, int64_t hidden, int64_t inter, int64_t rows, int wide);
size_t ccq_gpu_wint2_host_work(const ccq_gpu *gpu, int64_t experts, int64_t hidden, int64_t inter,
                               int64_t rows);
size_t ccq_gpu_wint2_cuda_work(const ccq_gpu *gpu, int64_t experts, int64_t hidden, int64_t inter,
                               int64_t rows);

#ifdef __cplusplus
}
#endif

#endif
