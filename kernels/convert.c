#include "kernels/convert.h"

#include "kernels/internal.h"

float ccq_f16_to_f32(uint16_t bits)
{
    union { uint32_t u; float f; } x;
    uint32_t sign = (uint32_t)(bits & 0x8000) << 16, exponent = bits >> 10 & 31, m = bits & 0x3ff;

    if (exponent == 0) { /* zero or subnormal: m units of 2^-24, exact */
        x.f = (float)m * 0x1p-24f;
        x.u |= sign;
    } else if (exponent == 31) {
        x.u = sign | 0x7f800000u | m << 13;
    } else {
        x.u = sign | (exponent + 112) << 23 | m << 13;
    }
    return x.f;
}

void ccq_f32_to_bf16_row(const float *x, int64_t count, uint16_t *y)
{
    for (int64_t i = 0; i < count; i++)
        y[i] = ccq_f32_to_bf16(x[i]);
}

void ccq_f16_to_bf16_row(const uint16_t *x, int64_t count, uint16_t *y)
{
    for (int64_t i = 0; i < count; i++)
        y[i] = ccq_f32_to_bf16(ccq_f16_to_f32(x[i]));
}

int64_t ccq_bf16_find_nonfinite(const uint16_t *x, int64_t count)
{
    int64_t i = 0;

    while (i < count && (x[i] & 0x7f80) != 0x7f80)
        i++;
    return i;
}

int64_t ccq_f16_find_nonfinite(const uint16_t *x, int64_t count)
{
    int64_t i = 0;

    while (i < count && (x[i] & 0x7c00) != 0x7c00)
        i++;
    return i;
}

int64_t ccq_f32_find_nonfinite(const float *x, int64_t count)
{
    int64_t i = 0;

    while (i < count && x[i] - x[i] == 0.0f)
        i++;
    return i;
}

void ccq_widen_c(const uint16_t *x, int64_t count, float *y)
{
    for (int64_t i = 0; i < count; i++)
        y[i] = ccq_bf16_to_f32(x[i]);
}

void ccq_round_c(const float *x, int64_t count, float *y)
{
    for (int64_t i = 0; i < count; i++)
        y[i] = ccq_round_bf16(x[i]);
}
