/* What the kernels of kernels/gpu_model.h share. A block's work is written as functions of one
 * thread, cut at the barriers: CUDA calls them per thread, the host device in loops over the
 * threads of a block. What lives across a barrier is a structure of the thread. */
#ifndef CCQ_KERNELS_GPU_MODEL_BASE_H
#define CCQ_KERNELS_GPU_MODEL_BASE_H

#include "kernels/gpu/words.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

/* Arrays of a thread are registers only where every loop over them is unrolled. */
#ifdef __CUDA_ARCH__
#define CCQ_UNROLL _Pragma("unroll")
#else
#define CCQ_UNROLL
#endif

/* Threads of a block. */
enum { CCQ_GPU_THREADS = 256, CCQ_GPU_RMS_THREADS = 512 };

CCQ_INLINE float ccq_gpu_store(float value, int bf16)
{
    return bf16 ? ccq_round_bf16(value) : value;
}

CCQ_INLINE int64_t ccq_gpu_ceil(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

CCQ_INLINE int64_t ccq_gpu_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

CCQ_INLINE int64_t ccq_gpu_max(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Piece i of 0..count-1 cut into `parts`: it starts here and ends where the next starts. */
CCQ_INLINE int64_t ccq_gpu_part(int64_t count, int64_t parts, int64_t i)
{
    return count * i / parts;
}

/* 16 and 8 aligned bytes that nobody writes meanwhile, one load. */
CCQ_INLINE void ccq_gpu_load16(const void *from, uint32_t to[4])
{
#ifdef __CUDA_ARCH__
    uint4 v = __ldg(reinterpret_cast<const uint4 *>(from));
    to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
#else
    memcpy(to, from, 16);
#endif
}

CCQ_INLINE void ccq_gpu_load8(const void *from, uint32_t to[2])
{
#ifdef __CUDA_ARCH__
    uint2 v = __ldg(reinterpret_cast<const uint2 *>(from));
    to[0] = v.x, to[1] = v.y;
#else
    memcpy(to, from, 8);
#endif
}

CCQ_INLINE float ccq_gpu_bits(uint32_t bits)
{
    union { uint32_t u; float f; } x;
    x.u = bits;
    return x.f;
}

/* The low and the high bf16 of a word. */
CCQ_INLINE float ccq_gpu_low(uint32_t word)
{
    return ccq_gpu_bits(word << 16);
}

CCQ_INLINE float ccq_gpu_high(uint32_t word)
{
    return ccq_gpu_bits(word & 0xffff0000u);
}

/* Two floats to the nearest bf16, a low: the processor's own instruction where it has one.
 * (A NaN's other bits may differ.) */
CCQ_INLINE uint32_t ccq_gpu_pack(float a, float b)
{
#ifdef __CUDA_ARCH__
    uint32_t word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(b), "f"(a));
    return word;
#else
    return (uint32_t)ccq_f32_to_bf16(b) << 16 | ccq_f32_to_bf16(a);
#endif
}

/* Byte i of a word less `zero` as a float, by way of 2^23 + byte. */
CCQ_INLINE float ccq_gpu_byte(uint32_t word, int i, float zero)
{
#ifdef __CUDA_ARCH__
    uint32_t bits = __byte_perm(word, 0x4B000000u, 0x7650u + static_cast<unsigned>(i));
#else
    uint32_t bits = (word >> 8 * i & 255u) | 0x4B000000u;
#endif
    return ccq_gpu_bits(bits) - (8388608.0f + zero);
}

/* The same of nibble i. */
CCQ_INLINE float ccq_gpu_nibble(uint32_t word, int i, float zero)
{
    return ccq_gpu_bits((word >> 4 * i & 15u) | 0x4B000000u) - (8388608.0f + zero);
}

#endif
