/* Shared by the CUDA files. */
#ifndef CCQ_KERNELS_CUDA_COMMON_CUH
#define CCQ_KERNELS_CUDA_COMMON_CUH

#include "kernels/gpu_device.h"

#include <cuda_runtime.h>

struct ccq_cuda {
    int index;
    cudaStream_t stream[CCQ_GPU_QUEUES];
    cudaEvent_t joint; /* of ccq_gpu_after */
    cudaEvent_t mark[CCQ_GPU_MARKS];
    void *blas;        /* blas.cu's */
};

static inline ccq_cuda *ccq_cuda_of(ccq_gpu *gpu)
{
    return static_cast<ccq_cuda *>(gpu->state);
}

static inline cudaStream_t ccq_cuda_stream(ccq_gpu *gpu)
{
    return ccq_cuda_of(gpu)->stream[gpu->queue];
}

/* The code of e, with what was being done in gpu->error. */
int ccq_cuda_check(ccq_gpu *gpu, cudaError_t e, const char *what);

/* After a launch: was it taken? */
static inline int ccq_cuda_launched(ccq_gpu *gpu, const char *what)
{
    return ccq_cuda_check(gpu, cudaGetLastError(), what);
}

#endif
