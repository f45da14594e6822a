/* 16 aligned bytes at a time, of a block's shared memory or a device's: one access. */
#ifndef CCQ_KERNELS_GPU_WORDS_H
#define CCQ_KERNELS_GPU_WORDS_H

#include "kernels/code.h"

#include <string.h>

#define CCQ_INLINE static inline __attribute__((always_inline)) CCQ_HD

CCQ_INLINE void ccq_gpu_take16(const void *from, uint32_t to[4])
{
#ifdef __CUDA_ARCH__
    uint4 v = *reinterpret_cast<const uint4 *>(from);
    to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
#else
    memcpy(to, from, 16);
#endif
}

CCQ_INLINE void ccq_gpu_keep16(void *to, const uint32_t from[4])
{
#ifdef __CUDA_ARCH__
    *reinterpret_cast<uint4 *>(to) = make_uint4(from[0], from[1], from[2], from[3]);
#else
    memcpy(to, from, 16);
#endif
}

#endif
