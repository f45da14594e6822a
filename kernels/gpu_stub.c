/* A build without CUDA. */
#include "kernels/gpu_device.h"

#include <stdio.h>

static const char *const text = "CUDA is not in this build";

int ccq_gpu_cuda_count(char why[CCQ_GPU_TEXT])
{
    snprintf(why, CCQ_GPU_TEXT, "%s", text);
    return 0;
}

int ccq_gpu_cuda_open(ccq_gpu *gpu, int index)
{
    (void)index;
    return ccq_gpu_fail(gpu, CCQ_GPU_ABSENT, "%s", text);
}
