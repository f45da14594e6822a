#include "kernels/encode.h"

#include "kernels/tile.h"

#include <math.h>
#include <string.h>

enum { BLOCKS = CCQ_GROUP / CCQ_WINDOWS, MAX_TRIALS = 15 };

/* A trial is everything that one (line, super scale) gives. */
typedef struct trial {
    uint8_t *bytes; /* k/4 */
    uint8_t *local; /* k/64 */
    const ccq_book *book;
    float s;
    double cost; /* s^2 * sum J, exact for k <= 8192: s^2 has 16 bits, |sum J| < 2^37 */
} trial;

typedef struct work {
    const ccq_ops *ops;
    int64_t k, groups;
    float *w;   /* stored order, scaled to amax in [1, 2) */
    float *rms; /* of each group of w */
    int16_t *u;
    trial now, best;
} work;

/* A group at l0 +- width. */
typedef struct window {
    int lo, hi;
} window;

size_t ccq_encode_scratch(int64_t k)
{
    size_t n = (size_t)k;

    return n * sizeof(float) + n / CCQ_GROUP * sizeof(float) + n * sizeof(int16_t) +
           2 * (n / CCQ_WINDOWS + n / CCQ_GROUP);
}

static void carve(work *x, const ccq_ops *ops, int64_t k, void *scratch)
{
    memset(x, 0, sizeof *x);
    x->ops = ops;
    x->k = k;
    x->groups = k / CCQ_GROUP;
    x->w = scratch;
    x->rms = x->w + k;
    x->u = (int16_t *)(void *)(x->rms + x->groups);
    x->now.bytes = (uint8_t *)(x->u + k);
    x->best.bytes = x->now.bytes + k / CCQ_WINDOWS;
    x->now.local = x->best.bytes + k / CCQ_WINDOWS;
    x->best.local = x->now.local + x->groups;
}

static float column_amax(const float *w, int64_t k)
{
    float amax = 0.0f;

    for (int64_t i = 0; i < k; i++) {
        float a = fabsf(w[i]);
        amax = a > amax ? a : amax;
    }
    return amax;
}

/* x->w = w * 2^-e in stored order. One rounding an element, and only for those
 * that underflow. 2^-e is a float (subnormal for e = 127) unless amax is a
 * subnormal; then ldexpf does the same work. */
static void gather(work *x, const float *w, int order, int e)
{
    float scale = e >= -127 ? ldexpf(1.0f, -e) : 0.0f;
    int from[CCQ_GROUP];

    for (int i = 0; i < CCQ_GROUP; i++)
        from[i] = ccq_stored_to_logical(i, order);
    for (int64_t g = 0; g < x->k; g += CCQ_GROUP)
        for (int i = 0; i < CCQ_GROUP; i++) {
            float v = w[g + from[i]];
            x->w[g + i] = e >= -127 ? v * scale : ldexpf(v, -e);
        }
}

/* Whether every square of the group is exact in fp32: bf16 values (8 significant
 * bits) that are zero or at least 2^-60. Then a product and a sum round as fmaf
 * does, and need no call of the C library. */
static int squares_are_exact(const float *w)
{
    uint32_t bits[CCQ_GROUP], inexact = 0;

    memcpy(bits, w, sizeof bits);
    for (int i = 0; i < CCQ_GROUP; i++) {
        uint32_t size = bits[i] & 0x7fffffffu;
        inexact |= (size & 0xffffu) | (uint32_t)(size - 1 < 0x21800000u - 1);
    }
    return !inexact;
}

/* The order of this sum is part of the format of the result: lane j takes the
 * four rows of block j, then lanes j and j+8, +4, +2, +1. */
static float group_rms(const float *w)
{
    int exact = squares_are_exact(w);
    float q[BLOCKS];

    for (int j = 0; j < BLOCKS; j++) {
        const float *v = w + CCQ_WINDOWS * j;
        if (exact)
            q[j] = v[0] * v[0] + v[1] * v[1] + v[2] * v[2] + v[3] * v[3];
        else
            q[j] = fmaf(v[3], v[3], fmaf(v[2], v[2], fmaf(v[1], v[1], v[0] * v[0])));
    }
    for (int step = BLOCKS / 2; step > 0; step /= 2)
        for (int j = 0; j < step; j++)
            q[j] += q[j + step];
    return sqrtf(q[0] / (float)CCQ_GROUP);
}

static float energies(work *x)
{
    float max = 0.0f;

    for (int64_t g = 0; g < x->groups; g++) {
        x->rms[g] = group_rms(x->w + g * CCQ_GROUP);
        max = x->rms[g] > max ? x->rms[g] : max;
    }
    return max;
}

/* s_j: the largest group gets local scale d. */
static float super_scale(const ccq_book *book, float max_rms, int d)
{
    return ccq_round_bf16(1.13f * max_rms / (book->rms * (float)d));
}

/* u = clamp(rint(w * 16/s)). Clamping first is the same, its bounds being
 * integers, and leaves a range where adding 1.5 * 2^23 rounds to even. */
static void to_units(work *x, float s)
{
    const float inv = 16.0f / s, magic = 12582912.0f;

    for (int64_t i = 0; i < x->k; i++) {
        float p = x->w[i] * inv;
        p = p < -32768.0f ? -32768.0f : p;
        p = p > 32767.0f ? 32767.0f : p;
        p = (p + magic) - magic;
        x->u[i] = (int16_t)(int32_t)p;
    }
}

/* Local scales to try: about the best one for a Gaussian group with the points
 * of this line (the rms is the line's own), l0 +- width. */
static window local_window(const trial *t, float rms, int width)
{
    float l = 1.13f * rms / t->book->rms / t->s;
    int l0 = (int)rintf(l < 1.0f ? 1.0f : l > 15.0f ? 15.0f : l);
    window r = {l0 - width < 1 ? 1 : l0 - width, l0 + width > 15 ? 15 : l0 + width};

    return r;
}

/* One (line, s) over the whole column into x->now; keeps it if it is better.
 * Strict comparisons: ties go to l = 0, then the lowest l, and to the earlier
 * trial. */
static void try_scale(work *x, const ccq_book *book, float s, int width)
{
    int64_t sum = 0;
    trial *t = &x->now, old;

    t->book = book;
    t->s = s;
    to_units(x, s);
    for (int64_t g = 0; g < x->groups; g++) {
        window r = local_window(t, x->rms[g], width);
        int32_t J[MAX_TRIALS], least = 0;
        uint8_t best[MAX_TRIALS][BLOCKS];
        int l = 0;

        x->ops->search(book, x->u + g * CCQ_GROUP, r.lo, r.hi, J, best);
        for (int i = 0; i <= r.hi - r.lo; i++)
            if (J[i] < least) {
                least = J[i];
                l = r.lo + i;
            }
        t->local[g] = (uint8_t)l;
        if (l)
            memcpy(t->bytes + g * BLOCKS, best[l - r.lo], BLOCKS);
        else
            memset(t->bytes + g * BLOCKS, 0, BLOCKS);
        sum += least;
    }
    t->cost = (double)s * (double)s * (double)sum;
    if (x->best.book && !(t->cost < x->best.cost))
        return;
    old = x->best;
    x->best = x->now;
    x->now = old;
}

/* fast: one scale of the default line. normal: four scales of it, then every
 * line at the best of them. */
static void choose(work *x, const ccq_encoder *enc, int effort)
{
    static const int divisors[] = {15, 14, 13, 12};
    const float max_rms = energies(x);
    float s;

    if (effort == CCQ_EFFORT_FAST) {
        try_scale(x, &enc->book[0], super_scale(&enc->book[0], max_rms, 14), 2);
        return;
    }
    for (int j = 0; j < 4; j++)
        try_scale(x, &enc->book[0], super_scale(&enc->book[0], max_rms, divisors[j]), 3);
    if (effort == CCQ_EFFORT_SCALES)
        return;
    s = x->best.s; /* the default line keeps its trial of the first stage */
    for (int i = 1; i < CCQ_BOOKS; i++)
        try_scale(x, &enc->book[i], s, 2);
}

/* Values of the 64 stored rows of group g at super scale s, rounded as the
 * fused kernel does. */
static void decode_group(const trial *t, int64_t g, float s, float w[CCQ_GROUP])
{
    float scale = ccq_group_scale(t->local[g], s, CCQ_ROUND_FUSED);
    int32_t value[CCQ_GROUP]; /* times -256 */

    for (int r = 0; r < BLOCKS; r++)
        for (int i = 0; i < CCQ_WINDOWS; i++)
            value[CCQ_WINDOWS * r + i] = t->book->value[i][t->bytes[g * BLOCKS + r]];
    for (int i = 0; i < CCQ_GROUP; i++)
        w[i] = ccq_code_weight(-(value[i] >> 8), scale, CCQ_ROUND_FUSED);
}

/* rho^(eighths/8), from square roots alone. */
static double power(double rho, int eighths)
{
    double h = sqrt(rho), q = sqrt(h), e = sqrt(q), p = 1.0;

    if (eighths >= 8)
        return rho;
    p *= eighths & 4 ? h : 1.0;
    p *= eighths & 2 ? q : 1.0;
    p *= eighths & 1 ? e : 1.0;
    return p;
}

/* Least squares shrinks the column; this gives part of it back. */
static float gained(const work *x, int gain)
{
    const trial *t = &x->best;
    double ww = 0.0, wv = 0.0, rho;
    float v[CCQ_GROUP];

    if (gain <= 0)
        return t->s;
    for (int64_t g = 0; g < x->groups; g++) {
        decode_group(t, g, t->s, v);
        for (int i = 0; i < CCQ_GROUP; i++) {
            double w = (double)x->w[g * CCQ_GROUP + i];
            ww += w * w;
            wv += w * (double)v[i];
        }
    }
    if (!(wv > 0.0)) /* l = 0 everywhere comes here too */
        return t->s;
    rho = ww / wv;
    rho = rho < 1.0 ? 1.0 : rho > 2.0 ? 2.0 : rho;
    return ccq_bf16_to_f32(ccq_f64_to_bf16((double)t->s * power(rho, gain)));
}

static void measure(const trial *t, const float *w, int64_t k, int order, ccq_column *out)
{
    float v[CCQ_GROUP], super = ccq_bf16_to_f32(out->super);
    int from[CCQ_GROUP];

    for (int i = 0; i < CCQ_GROUP; i++)
        from[i] = ccq_stored_to_logical(i, order);
    out->error = out->energy = out->max_error = 0.0;
    for (int64_t g = 0; g < k / CCQ_GROUP; g++) {
        decode_group(t, g, super, v);
        for (int i = 0; i < CCQ_GROUP; i++) {
            double a = (double)w[g * CCQ_GROUP + from[i]];
            double d = a - (double)v[i];
            out->error += d * d;
            out->energy += a * a;
            out->max_error = fabs(d) > out->max_error ? fabs(d) : out->max_error;
        }
    }
}

static void write_zero(trial *t, int64_t k, ccq_column *out)
{
    memset(t->bytes, 0, (size_t)k / CCQ_WINDOWS);
    memset(t->local, 0, (size_t)k / CCQ_GROUP);
    out->super = ccq_f32_to_bf16(1.0f);
    out->status = CCQ_COLUMN_ZERO;
}

/* 480 = 32 * 15: the largest value times the largest local scale. */
static int too_large(float super)
{
    return !(480.0 * fabs((double)super) < 0x1.fep127);
}

void ccq_encode_column(const ccq_ops *ops, const ccq_encoder *enc, const ccq_encode_params *p,
                       const float *w, int64_t k, ccq_column *out, void *scratch)
{
    float amax = column_amax(w, k), super = 0.0f;
    work x;

    carve(&x, ops, k, scratch);
    x.best.book = NULL;
    out->status = CCQ_COLUMN_OK;
    if (amax > 0.0f) {
        int e = ilogbf(amax);
        gather(&x, w, p->order, e);
        choose(&x, enc, p->effort);
        super = ldexpf(gained(&x, p->gain), e);
        out->super = ccq_f32_to_bf16(super); /* exact, or the column becomes zeros below */
        if (too_large(super))
            out->status = CCQ_COLUMN_HUGE;
    }
    if (super < 0x1p-110f) {
        x.best.book = &enc->book[0];
        write_zero(&x.best, k, out);
    }
    memcpy(out->bytes, x.best.bytes, (size_t)k / CCQ_WINDOWS);
    memcpy(out->local, x.best.local, (size_t)k / CCQ_GROUP);
    out->code_scale = x.best.book->cs;
    out->code_zp = x.best.book->zp;
    measure(&x.best, w, k, p->order, out);
}
