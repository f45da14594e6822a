/* exp in fp32: the one definition, shared by C and by SIMD tails. x86 repeats
 * its steps lane by lane with the same constants.
 *
 * x = n ln2 + r, |r| <= ln2/2: n from one fmaf and the 1.5 * 2^23 trick; n * LN2_HI
 * is exact (16 bits times at most 8), so r rounds once. e^r is a polynomial of
 * degree 7 with minimax relative error 2^-34, evaluated by Horner with fmaf.
 * 2^n is two factors, so that a result below 2^-126 is rounded once (gradual
 * underflow) and one above the largest float becomes infinite. */
#ifndef CCQ_KERNELS_EXP_H
#define CCQ_KERNELS_EXP_H

#include "kernels/code.h"

#include <stdint.h>

#define CCQ_EXP_HIGH 89.0f  /* e^89 > FLT_MAX */
#define CCQ_EXP_LOW -104.0f /* e^-104 < 2^-150: rounds to 0 */
#define CCQ_EXP_LOG2E 0x1.715476p+0f
#define CCQ_EXP_MAGIC 0x1.8p+23f
#define CCQ_EXP_MAGIC_BITS 0x4B400000u
#define CCQ_EXP_LN2_HI 0x1.62e4p-1f
#define CCQ_EXP_LN2_LO 0x1.7f7d1cp-20f
#define CCQ_EXP_C2 0x1.000000p-1f
#define CCQ_EXP_C3 0x1.555554p-3f
#define CCQ_EXP_C4 0x1.55548ep-5f
#define CCQ_EXP_C5 0x1.111272p-7f
#define CCQ_EXP_C6 0x1.6d8d52p-10f
#define CCQ_EXP_C7 0x1.9f085cp-13f

/* 2^n for n = -127..127 as bits n + 127 << 23; anything for a NaN's n. */
static inline CCQ_HD float ccq_exp_power(uint32_t n)
{
    union { uint32_t u; float f; } x;
    x.u = (n + 127u) << 23;
    return x.f;
}

/* Error <= 1 ulp everywhere. exp(-inf) = 0, exp(inf) = inf, NaN stays NaN. */
static inline CCQ_HD float ccq_exp_inline(float x)
{
    union { float f; uint32_t u; } t;
    float n, r, p;
    uint32_t whole, half;

    x = x > CCQ_EXP_HIGH ? CCQ_EXP_HIGH : x;
    x = x < CCQ_EXP_LOW ? CCQ_EXP_LOW : x;
    t.f = __builtin_fmaf(x, CCQ_EXP_LOG2E, CCQ_EXP_MAGIC);
    n = t.f - CCQ_EXP_MAGIC;
    r = __builtin_fmaf(n, -CCQ_EXP_LN2_HI, x);
    r = __builtin_fmaf(n, -CCQ_EXP_LN2_LO, r);
    p = __builtin_fmaf(CCQ_EXP_C7, r, CCQ_EXP_C6);
    p = __builtin_fmaf(p, r, CCQ_EXP_C5);
    p = __builtin_fmaf(p, r, CCQ_EXP_C4);
    p = __builtin_fmaf(p, r, CCQ_EXP_C3);
    p = __builtin_fmaf(p, r, CCQ_EXP_C2);
    p = __builtin_fmaf(p, r, 1.0f);
    p = __builtin_fmaf(p, r, 1.0f);
    whole = t.u - CCQ_EXP_MAGIC_BITS;
    half = whole >> 1 | (whole & 0x80000000u); /* arithmetic shift */
    return p * ccq_exp_power(half) * ccq_exp_power(whole - half);
}

#endif
