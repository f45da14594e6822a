/* What the encoder decides about one column or one number, as the CPU and a device do it:
 * the same bits from the same input. */
#ifndef CCQ_KERNELS_COLUMN_H
#define CCQ_KERNELS_COLUMN_H

#include "kernels/encode.h"

#include <math.h>

/* ---- Trials -------------------------------------------------------------- */

/* A super scale from the largest group's rms (the largest group gets local scale divisor),
 * or, divisor 0, the best so far; local scales about the best one +- width. */
typedef struct ccq_trial {
    int book, divisor, width;
} ccq_trial;

static inline CCQ_HD int ccq_trials(int effort)
{
    return effort == CCQ_EFFORT_FAST ? 1 : effort == CCQ_EFFORT_SCALES ? 4 : 4 + CCQ_BOOKS - 1;
}

/* fast: one scale of the default line. normal: four scales of it, then every other line at
 * the best of them. */
static inline CCQ_HD ccq_trial ccq_trial_at(int effort, int i)
{
    ccq_trial t = {0, 15 - i, 3};

    if (effort == CCQ_EFFORT_FAST) {
        t.divisor = 14;
        t.width = 2;
    } else if (i >= 4) {
        t.book = i - 3;
        t.divisor = 0;
        t.width = 2;
    }
    return t;
}

/* ---- Scales -------------------------------------------------------------- */

/* x in [2^e, 2^(e+1)); positive, finite, subnormal or not. */
static inline CCQ_HD int ccq_exponent(float x)
{
    union { float f; uint32_t u; } v;
    int below = x < 0x1p-126f;

    v.f = below ? x * 0x1p64f : x;
    return (int)(v.u >> 23 & 255) - 127 - (below ? 64 : 0);
}

/* 2^e, e in -127..127. */
static inline CCQ_HD float ccq_power_of_two(int e)
{
    union { uint32_t u; float f; } v;

    v.u = e > -127 ? (uint32_t)(e + 127) << 23 : 1u << 22;
    return v.f;
}

/* Whether a column is encoded, and its exponent. 2^-e is a float for e >= -127. Below,
 * s < 2^-5 leaves a super scale far under 2^-110, and the column becomes zeros whatever its
 * codes. */
static inline CCQ_HD int ccq_column_exponent(float amax, int *e)
{
    *e = amax > 0.0f ? ccq_exponent(amax) : 0;
    return amax > 0.0f && *e >= -127;
}

/* Part of a group's energy: four rows that share a byte. */
static inline CCQ_HD float ccq_block_energy(const float v[CCQ_WINDOWS])
{
    float q = __builtin_fmaf(v[1], v[1], v[0] * v[0]);

    return __builtin_fmaf(v[3], v[3], __builtin_fmaf(v[2], v[2], q));
}

/* The largest group gets this local scale. */
static inline CCQ_HD float ccq_super_scale(float book_rms, float max_rms, int divisor)
{
    return ccq_round_bf16(1.13f * max_rms / (book_rms * (float)divisor));
}

typedef struct ccq_window {
    int lo, hi;
} ccq_window;

/* Local scales to try: about the best one for a Gaussian group with the points of the line
 * (the rms is the line's own), +- width. */
static inline CCQ_HD ccq_window ccq_local_window(float book_rms, float s, float rms, int width)
{
    const float magic = 12582912.0f; /* rounds to even */
    float l = 1.13f * rms / book_rms / s;
    ccq_window w;
    int l0;

    l = l < 1.0f ? 1.0f : l > 15.0f ? 15.0f : l;
    l0 = (int)((l + magic) - magic);
    w.lo = l0 - width < 1 ? 1 : l0 - width;
    w.hi = l0 + width > 15 ? 15 : l0 + width;
    return w;
}

/* rint(x * inv), ties to even, within int16; no NaN. Clamping first is the same, its bounds
 * being integers, and leaves a range where adding 1.5 * 2^23 rounds to even. */
static inline CCQ_HD int16_t ccq_unit(float x, float inv)
{
    const float magic = 12582912.0f;
    float p = x * inv;

    p = p < -32768.0f ? -32768.0f : p;
    p = p > 32767.0f ? 32767.0f : p;
    p = (p + magic) - magic;
    return (int16_t)(int32_t)p;
}

/* ---- Error feedback ------------------------------------------------------ */

/* s so that a group as large as the column is at local scale 11, and none above 14. */
static inline CCQ_HD float ccq_feedback_super(float book_rms, float mean, float most)
{
    float by_mean = 1.13f * mean / (book_rms * 11.0f);
    float by_most = 1.13f * most / (book_rms * 14.0f);

    return ccq_round_bf16(by_mean > by_most ? by_mean : by_most);
}

/* The local scale of a Gaussian group of this size. */
static inline CCQ_HD float ccq_feedback_middle(float rms, float book_rms, float s)
{
    const float magic = 12582912.0f; /* rounds to even */
    float l = 1.13f * rms / book_rms / s;

    l = l > 1.0f ? l : 1.0f; /* NaN too */
    l = l < 15.0f ? l : 15.0f;
    return (l + magic) - magic;
}

/* The super scale that suits the codes better, if that lowers the loss; else s. wq = w H q',
 * qq = q H q'. */
static inline CCQ_HD float ccq_feedback_refit_super(float s, double wq, double qq)
{
    double ratio = wq / qq, b;
    float to;

    ratio = ratio > 0.5 && ratio < 2.0 ? ratio : 1.0;
    to = ccq_bf16_to_f32(ccq_f64_to_bf16((double)s * ratio));
    b = (double)to / (double)s;
    return (b - 1.0) * ((b + 1.0) * qq - 2.0 * wq) < 0.0 ? to : s;
}

/* The same of a group's local scale: how much of it is added, 0 for nothing; *l becomes the
 * new one. qr = q r', qq = q H q'. */
static inline CCQ_HD float ccq_feedback_refit_local(float qr, float qq, float *l)
{
    const float magic = 12582912.0f;
    float to = *l * (1.0f + qr / qq), by;

    to = to > 1.0f ? to : 1.0f; /* NaN too */
    to = to < 15.0f ? to : 15.0f;
    to = (to + magic) - magic;
    by = to / *l - 1.0f;
    by = by * (by * qq - 2.0f * qr) < 0.0f ? by : 0.0f;
    *l = by != 0.0f ? to : *l;
    return by;
}

/* ---- Gain and end -------------------------------------------------------- */

/* rho^(eighths/8), from square roots alone. */
static inline CCQ_HD double ccq_gain_power(double rho, int eighths)
{
    double h = sqrt(rho), q = sqrt(h), e = sqrt(q), p = 1.0;

    if (eighths >= 8)
        return rho;
    p *= eighths & 4 ? h : 1.0;
    p *= eighths & 2 ? q : 1.0;
    p *= eighths & 1 ? e : 1.0;
    return p;
}

/* Least squares shrinks a column; this gives part of it back: s (ww / wv)^(gain / 8), the
 * ratio clamped to 1..2. */
static inline CCQ_HD float ccq_gain_scale(float s, int gain, double ww, double wv)
{
    double rho;

    if (!(wv > 0.0)) /* l = 0 everywhere comes here too */
        return s;
    rho = ww / wv;
    rho = rho > 1.0 ? rho : 1.0;
    rho = rho > 2.0 ? 2.0 : rho;
    return ccq_bf16_to_f32(ccq_f64_to_bf16((double)s * ccq_gain_power(rho, gain)));
}

/* The super scale of the column as it came, from that of the scaled one; exact in bf16, or
 * too large. Returns CCQ_COLUMN_*. ZERO: *super is 1, and codes, local scales and line are
 * to be forgotten. */
static inline CCQ_HD int ccq_finish_scale(int encoded, float s, int e, float *super)
{
    float full = encoded ? s * ccq_power_of_two(e) : 0.0f;

    *super = full < 0x1p-110f ? 1.0f : full;
    if (full < 0x1p-110f)
        return CCQ_COLUMN_ZERO;
    /* 480 = 32 * 15: the largest value times the largest local scale */
    return !(480.0 * (double)full < 0x1.fep127) ? CCQ_COLUMN_HUGE : CCQ_COLUMN_OK;
}

#endif
