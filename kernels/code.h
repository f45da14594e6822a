/* The WINT2 code, defined once.
 *
 * A stored byte b of a column stands for four weights. The column's line
 * (code_scale, code_zp) turns b into a code word v; four overlapping 6-bit
 * windows of v, neighbours sharing 3 bits, are the four states; a state minus
 * 32 is the value; value x local scale x super scale is the weight.
 * docs/code.md works one word by hand.
 *
 * Source of the formulas: FastDeploy, wint2x_unzip.h, winx_unzip.cu and
 * wint2x_dequantizer.h (docs/format.md). All fp32 steps round once each:
 * compile without contraction and without fast-math.
 *
 * C, SIMD tails, CUDA and the encoder all call these functions. */
#ifndef CCQ_KERNELS_CODE_H
#define CCQ_KERNELS_CODE_H

#include <stdint.h>

#ifdef __CUDACC__
#define CCQ_HD __host__ __device__
#else
#define CCQ_HD
#endif

enum { CCQ_GROUP = 64 };         /* rows that share a local scale */
enum { CCQ_WINDOWS = 4 };        /* weights in a byte */
enum { CCQ_CODES = 256 };        /* bytes, and so code words, of a line */
enum { CCQ_VALUE_ZERO = 32 };    /* state of value 0 */

/* Which logical row lies in which stored row of a 64-row group. */
enum { CCQ_ORDER_FASTDEPLOY = 0, CCQ_ORDER_PLAIN = 1 };
/* Where a decoder rounds to bf16. */
enum {
    CCQ_ROUND_FUSED = 0, /* bf16(value * bf16(local * super)): FastDeploy's served kernel */
    CCQ_ROUND_UNZIP = 1, /* bf16(value * (local * super)): its unpack op */
    CCQ_ROUND_NONE = 2   /* never: value * (local * super) in fp32 */
};

static inline CCQ_HD float ccq_bf16_to_f32(uint16_t bits)
{
    union { uint32_t u; float f; } x;
    x.u = (uint32_t)bits << 16;
    return x.f;
}

/* Nearest, ties to even; NaN stays NaN. */
static inline CCQ_HD uint16_t ccq_f32_to_bf16(float f)
{
    union { float f; uint32_t u; } x;
    x.f = f;
    if ((x.u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(x.u >> 16 | 0x40);
    return (uint16_t)((x.u + 0x7fffu + (x.u >> 16 & 1)) >> 16);
}

static inline CCQ_HD float ccq_round_bf16(float f)
{
    return ccq_bf16_to_f32(ccq_f32_to_bf16(f));
}

/* One rounding from fp64 to bf16 (fp32 in between would round twice). Finite x
 * within fp32's range. */
static inline CCQ_HD uint16_t ccq_f64_to_bf16(double d)
{
    union { float f; uint32_t u; } x;
    double back;
    x.f = (float)d;
    back = (double)x.f;
    if (back != d && !(x.u & 1)) { /* to odd: the neighbour on the other side of d */
        int away = back < 0 ? back < d : back > d;
        if (x.u << 1)
            x.u += away ? (uint32_t)-1 : 1u;
        else
            x.u |= (d < 0 ? 0x80000000u : 0u) | 1u;
    }
    return ccq_f32_to_bf16(x.f);
}

/* floor to int32; outside int32 it saturates and NaN gives 0, as on a GPU. */
static inline CCQ_HD int32_t ccq_floor_i32(float f)
{
    if (!(f < 2147483648.0f))
        return f >= 2147483648.0f ? INT32_MAX : 0;
    if (f < -2147483648.0f)
        return INT32_MIN;
    return (int32_t)__builtin_floorf(f);
}

/* The code word of byte b, in the three orders of evaluation found in decoders.
 * A line that ccq writes gives the same word in all three (ccq_line_check). */
static inline CCQ_HD int32_t ccq_word_fused(int b, float cs, float zp)
{
    return ccq_floor_i32(__builtin_fmaf((float)b, cs, zp + 0.5f));
}

static inline CCQ_HD int32_t ccq_word_unzip(int b, float cs, float zp)
{
    return ccq_floor_i32(__builtin_fmaf((float)b, cs, zp) + 0.5f);
}

static inline CCQ_HD int32_t ccq_word_plain(int b, float cs, float zp)
{
    float product = (float)b * cs;
    float sum = product + zp;
    return ccq_floor_i32(sum + 0.5f);
}

/* The word a reader uses: that of the decoder whose rounding it follows. */
static inline CCQ_HD int32_t ccq_code_word(int b, float cs, float zp, int rounding)
{
    return rounding == CCQ_ROUND_UNZIP ? ccq_word_unzip(b, cs, zp) : ccq_word_fused(b, cs, zp);
}

/* State i (0..3) of a word: bits 14..9, 11..6, 8..3, 5..0. Any int32 wraps
 * modulo 2^15, negative words included. */
static inline CCQ_HD int ccq_code_state(int32_t word, int i)
{
    return (int)((uint32_t)word >> (9 - 3 * i) & 63u);
}

/* -32..31 */
static inline CCQ_HD int ccq_code_value(int32_t word, int i)
{
    return ccq_code_state(word, i) - CCQ_VALUE_ZERO;
}

/* Local scale (0..15) of a group from the byte its pair of groups shares: the
 * high nibble is the even group. */
static inline CCQ_HD int ccq_local_scale(uint8_t pair, int64_t group)
{
    return group & 1 ? pair & 15 : pair >> 4;
}

static inline CCQ_HD float ccq_group_scale(int local, float super, int rounding)
{
    float s = (float)local * super;
    return rounding == CCQ_ROUND_FUSED ? ccq_round_bf16(s) : s;
}

static inline CCQ_HD float ccq_code_weight(int value, float group_scale, int rounding)
{
    float w = (float)value * group_scale;
    return rounding == CCQ_ROUND_NONE ? w : ccq_round_bf16(w);
}

/* Logical row (0..63) in a group of its stored row, and back. */
static inline CCQ_HD int ccq_stored_to_logical(int s, int order)
{
    return order == CCQ_ORDER_PLAIN ? s : 8 * (s % 16 / 2) + 2 * (s / 16) + s % 2;
}

static inline CCQ_HD int ccq_logical_to_stored(int k, int order)
{
    return order == CCQ_ORDER_PLAIN ? k : 16 * (k % 8 / 2) + 2 * (k / 8) + k % 2;
}

enum {
    CCQ_LINE_OK = 0,
    CCQ_LINE_UNSAFE = 1,  /* the three orders disagree on some byte */
    CCQ_LINE_RANGE = 2,   /* some word is outside [-32768, 32767] */
    CCQ_LINE_NONFINITE = 3
};

/* The proof of a line: all 256 bytes in all three orders. *byte (NULL allowed)
 * gets the first byte that fails. A line is written only when OK. */
static inline CCQ_HD int ccq_line_check(float cs, float zp, int *byte)
{
    int b;
    for (b = 0; b < CCQ_CODES; b++) {
        int32_t v = ccq_word_fused(b, cs, zp);
        if (byte)
            *byte = b;
        if (!(cs - cs == 0.0f) || !(zp - zp == 0.0f))
            return CCQ_LINE_NONFINITE;
        if (v != ccq_word_unzip(b, cs, zp) || v != ccq_word_plain(b, cs, zp))
            return CCQ_LINE_UNSAFE;
        if (v < -32768 || v > 32767)
            return CCQ_LINE_RANGE;
    }
    return CCQ_LINE_OK;
}

#endif
