/* From codes to the numbers that tensor cores multiply.
 *
 * A column's line is run in fixed point where that is proved for all 256 bytes: 32 bits wrap,
 * but 2^32 is 2^15 times 2^17, so the 15 bits of a word that count are right. Two bytes of one
 * column become four registers of two windows each, in one of four forms:
 *   G  fp16 fields 1024 + 2w or 1024 + 16w; the rest (x folded by 1/2 or 1/16, a sum of x to
 *      start from, the scale after the group) is done outside: exact, nothing rounded;
 *   W  fp16 integers (w - 32) l, exact;
 *   B  bf16(value * bf16(l * super)), the weights of CCQ_ROUND_FUSED bit by bit;
 *   U  bf16(value * (l * super)), those of CCQ_ROUND_UNZIP; slow. */
#ifndef CCQ_KERNELS_GPU_WINT2_DECODE_H
#define CCQ_KERNELS_GPU_WINT2_DECODE_H

#include "kernels/gpu/wint2_half.h"

enum { CCQ_W2_FORM_G, CCQ_W2_FORM_W, CCQ_W2_FORM_B, CCQ_W2_FORM_U };

/* ---- The line of a column ------------------------------------------------ */

/* As it is used: CS and CZ, or the bits of code_scale and code_zp. */
typedef struct ccq_w2_line {
    uint32_t slope, start;
} ccq_w2_line;

/* Constants of the decoder. A kernel gets them from outside: those that a compiler knows it
 * writes to registers again and again. */
typedef struct ccq_w2_known {
    uint32_t one[4];  /* 1 << 8q */
    uint32_t field;   /* of form G */
    uint32_t unit;    /* 1 */
    uint32_t base[4]; /* floats whose last place is 1 at bits 0, 4, 8 and 12 */
} ccq_w2_known;

CCQ_W2_FN ccq_w2_known ccq_w2_known_of(void)
{
    ccq_w2_known known = {{1, 1u << 8, 1u << 16, 1u << 24}, 0x64006400u, 1,
                          {150u << 23, 146u << 23, 142u << 23, 138u << 23}};
    return known;
}

/* Byte q of word as a code word times 2^17, modulo 2^32; its lower 17 bits are anything. */
CCQ_W2_FN uint32_t ccq_w2_fixed(uint32_t word, int q, uint32_t one, ccq_w2_line line)
{
    return ccq_w2_byte(word, q, one) * line.slope + line.start;
}

/* The same from the floats of the line, as decoders do it. */
CCQ_W2_FN uint32_t ccq_w2_plain(uint32_t word, int q, ccq_w2_line line, int rounding)
{
    int b = (int)(word >> (8 * q) & 255u);
    float cs = ccq_w2_float(line.slope), zp = ccq_w2_float(line.start);
    return (uint32_t)ccq_code_word(b, cs, zp, rounding) << 17;
}

/* The code word modulo 2^15. */
CCQ_W2_FN int32_t ccq_w2_word(uint32_t fixed)
{
    return (int32_t)(fixed >> 17);
}

typedef struct ccq_w2_proof {
    int exact;
    ccq_w2_line line;
    int orders; /* the known orders of evaluation differ for some byte */
} ccq_w2_proof;

/* CZ for which floor((b slope + CZ) / 2^17) is the word of every byte, as the least of an
 * interval and how many more there are; nothing when that is negative. */
static inline CCQ_HD int64_t ccq_w2_interval(float cs, float zp, int64_t slope, int64_t *least)
{
    int64_t lo = INT64_MIN, hi = INT64_MAX;
    int b;

    for (b = 0; b < CCQ_CODES; b++) {
        int64_t rest = (int64_t)ccq_word_fused(b, cs, zp) * (1 << 17) - b * slope;
        lo = rest > lo ? rest : lo;
        hi = rest + (1 << 17) - 1 < hi ? rest + (1 << 17) - 1 : hi;
    }
    *least = lo;
    return hi - lo;
}

static inline CCQ_HD int ccq_w2_orders_differ(float cs, float zp)
{
    int b, differ = 0;

    for (b = 0; b < CCQ_CODES; b++) {
        int32_t v = ccq_word_fused(b, cs, zp);
        differ |= v != ccq_word_unzip(b, cs, zp) || v != ccq_word_plain(b, cs, zp);
    }
    return differ;
}

/* The proof itself. A slope that is NaN or past 2^31 has none: its words are saturated. */
static inline CCQ_HD ccq_w2_proof ccq_w2_prove(float cs, float zp)
{
    ccq_w2_proof proof = {0, {0, 0}, 0};
    int64_t slope, least = 0, wide;
    int i;

    proof.orders = ccq_w2_orders_differ(cs, zp);
    if (!(cs > -0x1p31f && cs < 0x1p31f))
        return proof;
    slope = (int64_t)__builtin_floor((double)cs * 0x1p17 + 0.5);
    for (i = 0; i < 5 && !proof.exact; i++) {
        int64_t near = slope + (i & 1 ? (i + 1) / 2 : -(i / 2)); /* 0, +1, -1, +2, -2 */
        wide = ccq_w2_interval(cs, zp, near, &least);
        if (wide < 0)
            continue;
        proof.exact = 1;
        proof.line.slope = (uint32_t)(uint64_t)near;
        proof.line.start = (uint32_t)(uint64_t)(least + wide / 2);
    }
    return proof;
}

/* ---- Scales -------------------------------------------------------------- */

/* Local scale of column u (0: g, 1: g + 8) and group o of a block, from the two bytes of a
 * lane: its bits go where 1.0 is the last place of a float. */
CCQ_W2_FN float ccq_w2_local_with(uint32_t bytes, int u, int o, const ccq_w2_known *known)
{
    int shift = 8 * u + (o ? 0 : 4);
    uint32_t base = known->base[shift / 4];
    return ccq_w2_float(ccq_w2_masked(bytes, 15u << shift, base)) -
           ccq_w2_float((uint32_t)(150 - shift) << 23);
}

CCQ_W2_FN float ccq_w2_local(uint32_t bytes, int u, int o)
{
    ccq_w2_known known = ccq_w2_known_of();
    return ccq_w2_local_with(bytes, u, o, &known);
}

/* A group's scale as the form wants it. G: l. W, B: in both halves. U: l * super. */
CCQ_W2_FN uint32_t ccq_w2_scale(int form, float local, float super)
{
    if (form == CCQ_W2_FORM_B)
        return ccq_w2_twice_bf16(local * super);
    if (form == CCQ_W2_FORM_W)
        return ccq_w2_twice_f16(local);
    return ccq_w2_bits(form == CCQ_W2_FORM_U ? local * super : local);
}

/* ---- Windows ------------------------------------------------------------- */

/* Window j (0: the last, w3, 3: the first, w0) of two words, given their upper halves: a word
 * shifted left by one, below it a bit of the fraction. */
CCQ_W2_FN uint32_t ccq_w2_field_g(uint32_t uppers, int j, uint32_t field)
{
    uint32_t q = j & 2 ? uppers >> 6 : uppers;
    return ccq_w2_masked(q, j & 1 ? 0x03F003F0u : 0x007E007Eu, field);
}

/* (field - 1024 - 32 steps) / steps * l, fp16: 2 l / 4 is l / 2, 16 l / 256 is l / 16. */
CCQ_W2_FN uint32_t ccq_w2_field_w(uint32_t uppers, int j, uint32_t local)
{
    uint32_t slope = ccq_w2_fma_f16(local, j & 1 ? 0x2C002C00u : 0x38003800u, 0x80008000u);
    uint32_t start = ccq_w2_fma_f16(local, j & 1 ? 0xD600D600u : 0xE040E040u, 0x80008000u);
    return ccq_w2_fma_f16(ccq_w2_field_g(uppers, j, 0x64006400u), slope, start);
}

/* bf16 has room for one window, as 128 + 2w; half of it less 96 is the value, exactly; then
 * the one rounding. -0 is what adds nothing, the sign of a zero included. */
CCQ_W2_FN uint32_t ccq_w2_field_b(uint32_t uppers, int j, uint32_t scale)
{
    uint32_t field = ccq_w2_masked(uppers >> (3 * j), 0x007E007Eu, 0x43004300u);
    uint32_t value = ccq_w2_fma_bf16(field, 0x3F003F00u, 0xC2C0C2C0u);
    return ccq_w2_fma_bf16(value, scale, 0x80008000u);
}

CCQ_W2_FN uint32_t ccq_w2_field_u(uint32_t uppers, int j, float scale)
{
    int low = (int)(uppers >> (3 * j + 1) & 63u), high = (int)(uppers >> (3 * j + 17) & 63u);
    return ccq_w2_pair(ccq_f32_to_bf16((float)(low - CCQ_VALUE_ZERO) * scale),
                       ccq_f32_to_bf16((float)(high - CCQ_VALUE_ZERO) * scale));
}

CCQ_W2_FN uint32_t ccq_w2_field(int form, uint32_t uppers, int j, uint32_t scale,
                                const ccq_w2_known *known)
{
    if (form == CCQ_W2_FORM_G)
        return ccq_w2_field_g(uppers, j, known->field);
    if (form == CCQ_W2_FORM_W)
        return ccq_w2_field_w(uppers, j, scale);
    if (form == CCQ_W2_FORM_B)
        return ccq_w2_field_b(uppers, j, scale);
    return ccq_w2_field_u(uppers, j, ccq_w2_float(scale));
}

/* A column's words of two bytes 2p, 2p + 1 of word, both shifted by 17; their upper halves. */
CCQ_W2_FN uint32_t ccq_w2_two(int form, int exact, uint32_t word, int p, ccq_w2_line line,
                              const ccq_w2_known *known)
{
    int rounding = form == CCQ_W2_FORM_U ? CCQ_ROUND_UNZIP : CCQ_ROUND_FUSED;

    if (exact)
        return ccq_w2_uppers(ccq_w2_fixed(word, 2 * p, known->one[2 * p], line),
                             ccq_w2_fixed(word, 2 * p + 1, known->one[2 * p + 1], line));
    return ccq_w2_uppers(ccq_w2_plain(word, 2 * p, line, rounding),
                         ccq_w2_plain(word, 2 * p + 1, line, rounding));
}

/* The A registers of a group's four products: a[m][0..3]. word, line, scale: of columns g and
 * g + 8. */
CCQ_W2_FN void ccq_w2_group_with(int form, int exact, const uint32_t word[2],
                                 const ccq_w2_line line[2], const uint32_t scale[2],
                                 const ccq_w2_known *known, uint32_t a[4][4])
{
    int p, u, j;

    CCQ_W2_UNROLL
    for (p = 0; p < 2; p++)
        CCQ_W2_UNROLL
        for (u = 0; u < 2; u++) {
            uint32_t uppers = ccq_w2_two(form, exact, word[u], p, line[u], known);
            CCQ_W2_UNROLL
            for (j = 0; j < 4; j++)
                a[2 * p + j / 2][2 * (j % 2) + u] = ccq_w2_field(form, uppers, j, scale[u], known);
        }
}

CCQ_W2_FN void ccq_w2_group(int form, int exact, const uint32_t word[2], const ccq_w2_line line[2],
                            const uint32_t scale[2], uint32_t a[4][4])
{
    ccq_w2_known known = ccq_w2_known_of();
    ccq_w2_group_with(form, exact, word, line, scale, &known, a);
}

/* What x is multiplied with in half i of a staged group, so that a field's step counts 1, and
 * what the field of window 32, value 0, is. */
CCQ_W2_FN float ccq_w2_fold(int i)
{
    return i & 2 ? 0.0625f : 0.5f;
}

CCQ_W2_FN float ccq_w2_zero_field(int i)
{
    return i & 2 ? 1536.0f : 1088.0f;
}

#endif
