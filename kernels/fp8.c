/* block_wise_fp8: e4m3fn values, one fp32 scale for a block of 128 x 128. */
#include "kernels/encode.h"
#include "kernels/internal.h"

#include <float.h>
#include <math.h>

/* Largest finite value; the code above it is NaN. */
static const float largest = 448.0f;

typedef union bits {
    float f;
    uint32_t u;
} bits;

float ccq_e4m3_to_f32(uint8_t code)
{
    uint32_t exponent = code >> 3 & 15, m = code & 7;
    bits x;
    if (exponent == 0)
        x.f = (float)m * 0x1p-9f;
    else if (exponent == 15 && m == 7)
        x.u = 0x7fc00000u;
    else
        x.u = (exponent + 120) << 23 | m << 20;
    x.u |= (uint32_t)(code & 0x80) << 24;
    return x.f;
}

/* 0 <= a <= 16 to the nearest integer, ties to even: beside 2^23 the sum has no
 * place for a fraction. (rintf would be a call.) */
static uint32_t nearest(float a)
{
    bits v = {a + 0x1p23f};
    return v.u & 31;
}

uint8_t ccq_f32_to_e4m3(float x)
{
    bits v = {x}, step;
    uint32_t sign = v.u >> 24 & 0x80;
    float a = fabsf(x);
    if (!(a < largest))
        return (uint8_t)(sign | 0x7e);
    /* Codes are 2^-9 apart below 2^-6, then 2^(e-3). In these steps a is at most 16
     * and exact; 16 steps are the first code of the next e. */
    if (a < 0x1p-6f)
        return (uint8_t)(sign | nearest(a * 0x1p9f));
    uint32_t e = v.u >> 23 & 255; /* biased, 121 at least */
    step.u = (257 - e) << 23;
    return (uint8_t)(sign | (8 * (e - 121) + nearest(a * step.f)));
}

static float block_amax(const uint16_t *w, int64_t ldw, int rows, int cols)
{
    uint16_t most = 0; /* without the sign, bits of finite values rise as the values do */
    for (int k = 0; k < rows; k++)
        for (int n = 0; n < cols; n++) {
            uint16_t bits_of = w[k * ldw + n] & 0x7fff;
            most = bits_of > most ? bits_of : most;
        }
    return ccq_bf16_to_f32(most);
}

/* What multiplies the weights of a block; *scale undoes it. */
static float block_factor(float amax, float *scale)
{
    float s = amax > 0.0f ? largest / amax : 1.0f;
    if (isinf(s))
        s = FLT_MAX;
    *scale = 1.0f / s;
    return s;
}

static inline uint8_t encode(float x, float s, float scale, ccq_fp8_error *sum)
{
    uint8_t code = ccq_f32_to_e4m3(x * s);
    double d = (double)x - (double)ccq_round_bf16(ccq_e4m3_to_f32(code) * scale);
    sum->error += d * d;
    sum->energy += (double)x * (double)x;
    if (fabs(d) > sum->max_error)
        sum->max_error = fabs(d);
    return code;
}

void ccq_fp8_block(const uint16_t *w, int64_t ldw, int rows, int cols, uint8_t *q, int64_t ldq,
                   float *scale, ccq_fp8_error *sum)
{
    float s = block_factor(block_amax(w, ldw, rows, cols), scale);
    for (int k = 0; k < rows; k++)
        for (int n = 0; n < cols; n++)
            q[k * ldq + n] = encode(ccq_bf16_to_f32(w[k * ldw + n]), s, *scale, sum);
}

void ccq_fp8_block_f32(const float *w, int64_t ldw, int rows, int cols, uint8_t *q, int64_t ldq,
                       float *scale, ccq_fp8_error *sum)
{
    float amax = 0;
    for (int k = 0; k < rows; k++)
        for (int n = 0; n < cols; n++)
            amax = fabsf(w[k * ldw + n]) > amax ? fabsf(w[k * ldw + n]) : amax;
    float s = block_factor(amax, scale);
    for (int k = 0; k < rows; k++)
        for (int n = 0; n < cols; n++)
            q[k * ldq + n] = encode(w[k * ldw + n], s, *scale, sum);
}
