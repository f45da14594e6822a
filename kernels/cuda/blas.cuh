/* Dense products by cuBLAS, which is looked for when the first one is wanted. */
#ifndef CCQ_KERNELS_CUDA_BLAS_CUH
#define CCQ_KERNELS_CUDA_BLAS_CUH

#include "kernels/cuda/common.cuh"
#include "kernels/gpu/linear_many.h"

extern "C" {
/* 1 where the library is there and could be started; else there is no dense. */
int ccq_cuda_blas(ccq_gpu *gpu);
/* On the current queue; can be recorded. */
int ccq_cuda_dense(ccq_gpu *gpu, const ccq_gpu_dense *p);
/* NULL is fine. */
void ccq_cuda_blas_close(void *blas);
}

#endif
