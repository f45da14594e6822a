/* The handful of instructions that wint2 kernels are made of, as exact functions: a device
 * has each as one instruction, the host computes the same bits. */
#ifndef CCQ_KERNELS_GPU_WINT2_HALF_H
#define CCQ_KERNELS_GPU_WINT2_HALF_H

#include "kernels/code.h"

/* Inlined into the kernel, where arrays of known indices become registers. */
#ifdef __CUDACC__
#define CCQ_W2_FN static __forceinline__ __host__ __device__
#else
#define CCQ_W2_FN static inline
#endif
#ifdef __CUDA_ARCH__
#define CCQ_W2_UNROLL _Pragma("unroll")
#else
#define CCQ_W2_UNROLL
#endif

CCQ_W2_FN float ccq_w2_float(uint32_t bits)
{
    union { uint32_t u; float f; } x;
    x.u = bits;
    return x.f;
}

CCQ_W2_FN uint32_t ccq_w2_bits(float f)
{
    union { float f; uint32_t u; } x;
    x.f = f;
    return x.u;
}

/* 2^e, -126 <= e <= 127 */
CCQ_W2_FN float ccq_w2_power(int e)
{
    return ccq_w2_float((uint32_t)(e + 127) << 23);
}

/* x 2^e, |e| <= 250: in two steps, as 2^e itself need not be a float. */
CCQ_W2_FN float ccq_w2_scaled(float x, int e)
{
    int half = e / 2;
    return x * ccq_w2_power(half) * ccq_w2_power(e - half);
}

/* ---- fp16 ---------------------------------------------------------------- */

/* Nearest, ties to even; subnormals kept, too large is infinite, NaN stays NaN. */
CCQ_W2_FN uint16_t ccq_w2_to_f16(float f)
{
#ifdef __CUDA_ARCH__
    uint16_t h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
    return h;
#else
    uint32_t x = ccq_w2_bits(f), sign = x >> 16 & 0x8000u, a = x & 0x7fffffffu;

    if (a > 0x7f800000u)
        return 0x7fff;
    if (a >= 0x477ff000u) /* 65520 */
        return (uint16_t)(sign | 0x7c00u);
    if (a < 0x38800000u) { /* 2^-14: the sum's last place is 2^-24 */
        float sum = ccq_w2_float(a) + 0.5f;
        return (uint16_t)(sign | (ccq_w2_bits(sum) - 0x3f000000u));
    }
    a += 0xfffu + (a >> 13 & 1);
    return (uint16_t)(sign | (a - 0x38000000u) >> 13);
#endif
}

CCQ_W2_FN float ccq_w2_from_f16(uint16_t h)
{
#ifdef __CUDA_ARCH__
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
    return f;
#else
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, a = h & 0x7fffu;

    if (a >= 0x7c00u)
        return ccq_w2_float(sign | 0x7f800000u | (a & 0x3ffu) << 13);
    if (a < 0x400u)
        return ccq_w2_float(sign | ccq_w2_bits((float)a * 0x1p-24f));
    return ccq_w2_float(sign | ((a << 13) + 0x38000000u));
#endif
}

/* ---- Pairs --------------------------------------------------------------- */

CCQ_W2_FN uint32_t ccq_w2_pair(uint16_t low, uint16_t high)
{
    return (uint32_t)low | (uint32_t)high << 16;
}

/* a * b + c of both halves, one rounding each. The host's is exact before it where these
 * kernels use it: products and sums that fit a float. */
CCQ_W2_FN uint32_t ccq_w2_fma_f16(uint32_t a, uint32_t b, uint32_t c)
{
#ifdef __CUDA_ARCH__
    uint32_t d;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
#else
    float low = ccq_w2_from_f16((uint16_t)a) * ccq_w2_from_f16((uint16_t)b);
    float high = ccq_w2_from_f16((uint16_t)(a >> 16)) * ccq_w2_from_f16((uint16_t)(b >> 16));
    return ccq_w2_pair(ccq_w2_to_f16(low + ccq_w2_from_f16((uint16_t)c)),
                       ccq_w2_to_f16(high + ccq_w2_from_f16((uint16_t)(c >> 16))));
#endif
}

CCQ_W2_FN uint32_t ccq_w2_fma_bf16(uint32_t a, uint32_t b, uint32_t c)
{
#ifdef __CUDA_ARCH__
    uint32_t d;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
#else
    float low = ccq_bf16_to_f32((uint16_t)a) * ccq_bf16_to_f32((uint16_t)b);
    float high = ccq_bf16_to_f32((uint16_t)(a >> 16)) * ccq_bf16_to_f32((uint16_t)(b >> 16));
    return ccq_w2_pair(ccq_f32_to_bf16(low + ccq_bf16_to_f32((uint16_t)c)),
                       ccq_f32_to_bf16(high + ccq_bf16_to_f32((uint16_t)(c >> 16))));
#endif
}

/* Both halves the bf16 next to f. */
CCQ_W2_FN uint32_t ccq_w2_twice_bf16(float f)
{
#ifdef __CUDA_ARCH__
    uint32_t d;
    asm("cvt.rn.bf16x2.f32 %0, %1, %1;" : "=r"(d) : "f"(f));
    return d;
#else
    return ccq_f32_to_bf16(f) * 0x10001u;
#endif
}

CCQ_W2_FN uint32_t ccq_w2_twice_f16(float f)
{
    return ccq_w2_to_f16(f) * 0x10001u;
}

/* ---- Integers ------------------------------------------------------------ */

/* Byte q (0..3) of a word; one is 1 << 8q. A dot product, as another pipe than that of shifts
 * does it. */
CCQ_W2_FN uint32_t ccq_w2_byte(uint32_t word, int q, uint32_t one)
{
#ifdef __CUDA_ARCH__
    (void)q;
    return __dp4a(word, one, 0u);
#else
    (void)one;
    return word >> (8 * q) & 255u;
#endif
}

/* (a & mask) | base: one instruction, which compilers make two when both are constants. */
CCQ_W2_FN uint32_t ccq_w2_masked(uint32_t a, uint32_t mask, uint32_t base)
{
#ifdef __CUDA_ARCH__
    uint32_t d;
    asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(d) : "r"(a), "r"(mask), "r"(base));
    return d;
#else
    return (a & mask) | base;
#endif
}

/* The upper halves of two words. */
CCQ_W2_FN uint32_t ccq_w2_uppers(uint32_t a, uint32_t b)
{
#ifdef __CUDA_ARCH__
    return __byte_perm(a, b, 0x7632);
#else
    return a >> 16 | (b & 0xffff0000u);
#endif
}

#endif
