/* The host device's own. Not for callers outside kernels/ and tests/. */
#ifndef CCQ_KERNELS_GPU_HOST_H
#define CCQ_KERNELS_GPU_HOST_H

#include "kernels/gpu.h"

/* 1 once memory that was freed had been written past one of its ends. */
int ccq_gpu_host_broken(const ccq_gpu *gpu);

#endif
