/* Sums over a column, in fp64 and in the order of its rows: a thread a column. And its end. */
#ifndef CCQ_KERNELS_GPU_FEEDBACK_SUMS_H
#define CCQ_KERNELS_GPU_FEEDBACK_SUMS_H

#include "kernels/gpu/feedback.h"

/* A column as its rows are walked: `at` is its place in row 0 of a group. */
typedef struct ccq_fb_walk {
    const ccq_fb *p;
    int64_t column;
    int entry, zero; /* zero: its codes are to be read as zeros */
    float s;
} ccq_fb_walk;

static inline CCQ_HD ccq_fb_walk ccq_fb_walk_of(const ccq_fb *p, int64_t column)
{
    ccq_fb_walk w;

    w.p = p;
    w.column = column;
    w.entry = p->entry[column];
    w.zero = 0;
    w.s = p->s[column];
    return w;
}

/* The decoded weights of a block: l s c, or as they are served. */
CCQ_INLINE void ccq_fb_decoded(const ccq_fb_walk *w, int64_t block, int served,
                               float q[CCQ_WINDOWS])
{
    const ccq_fb *p = w->p;
    const int byte = w->zero ? 0
                             : p->bytes[ccq_fb_column(p, w->column, CCQ_FB_BYTES) +
                                        block * CCQ_FB_COLUMNS];
    const int local = w->zero ? 0
                              : p->local[ccq_fb_column(p, w->column, 1) +
                                         block / CCQ_FB_BYTES * CCQ_FB_COLUMNS];
    const float gs = ccq_group_scale(local, w->s, served ? CCQ_ROUND_FUSED : CCQ_ROUND_NONE);
    float c[CCQ_WINDOWS];

    ccq_fb_values(p, w->zero ? 0 : w->entry, byte, c);
    CCQ_UNROLL
    for (int i = 0; i < CCQ_WINDOWS; i++)
        q[i] = served ? ccq_round_bf16(c[i] * gs) : gs * c[i];
}

/* ---- Passes -------------------------------------------------------------- */

/* e . r with r = H e as it is kept. */
static inline CCQ_HD double ccq_fb_loss(const ccq_fb *p, int64_t column)
{
    const ccq_fb_walk walk = ccq_fb_walk_of(p, column);
    const int64_t at = ccq_fb_column(p, column, CCQ_GROUP);
    double sum = 0.0;

    for (int64_t b = 0; b < p->k / CCQ_WINDOWS; b++) {
        float q[CCQ_WINDOWS];
        ccq_fb_decoded(&walk, b, 0, q);
        CCQ_UNROLL
        for (int i = 0; i < CCQ_WINDOWS; i++) {
            int64_t row = at + (b * CCQ_WINDOWS + i) * CCQ_FB_COLUMNS;
            float e = p->w[row] - q[i];
            sum += (double)e * (double)p->r[row];
        }
    }
    return sum;
}

/* After a pass, or before the first: whether another is worth while. */
static inline CCQ_HD void ccq_fb_judge(const ccq_fb *p, int64_t column, int first)
{
    const double after = ccq_fb_loss(p, column), before = p->before[column];

    p->active[column] = (uint8_t)(first ? p->encoded[column]
                                        : p->active[column] && before - after >= 1e-4 * before);
    p->before[column] = after;
}

/* The super scale at the start of a pass. */
static inline CCQ_HD void ccq_fb_refit(const ccq_fb *p, int64_t column)
{
    const ccq_fb_walk walk = ccq_fb_walk_of(p, column);
    const int64_t at = ccq_fb_column(p, column, CCQ_GROUP);
    double wq = 0.0, qq = 0.0;
    float s = walk.s;

    for (int64_t b = 0; b < p->k / CCQ_WINDOWS && p->active[column]; b++) {
        float q[CCQ_WINDOWS];
        ccq_fb_decoded(&walk, b, 0, q);
        CCQ_UNROLL
        for (int i = 0; i < CCQ_WINDOWS; i++) {
            int64_t row = at + (b * CCQ_WINDOWS + i) * CCQ_FB_COLUMNS;
            float hq = p->hw[row] - p->r[row];
            wq += (double)p->w[row] * (double)hq;
            qq += (double)q[i] * (double)hq;
        }
    }
    if (p->active[column])
        s = ccq_feedback_refit_super(walk.s, wq, qq);
    p->by[column] = s != walk.s ? s / walk.s : 1.0f;
    p->s[column] = s;
}

/* ---- The end ------------------------------------------------------------- */

/* x . H x of the original, and H x with what is served. */
static inline CCQ_HD float ccq_fb_gained(const ccq_fb *p, const ccq_fb_walk *walk)
{
    const int64_t at = ccq_fb_column(p, walk->column, CCQ_GROUP);
    double ww = 0.0, wv = 0.0;

    for (int64_t b = 0; b < p->k / CCQ_WINDOWS; b++) {
        float q[CCQ_WINDOWS];
        ccq_fb_decoded(walk, b, 1, q);
        CCQ_UNROLL
        for (int i = 0; i < CCQ_WINDOWS; i++) {
            int64_t row = at + (b * CCQ_WINDOWS + i) * CCQ_FB_COLUMNS;
            ww += (double)p->x[row] * (double)p->hx[row];
            wv += (double)q[i] * (double)p->hx[row];
        }
    }
    return ccq_gain_scale(walk->s, p->gain, ww, wv);
}

/* Errors of the finished column against the original as it came. */
static inline CCQ_HD void ccq_fb_errors(const ccq_fb *p, const ccq_fb_walk *walk)
{
    double error = 0.0, energy = 0.0, most = 0.0;

    for (int64_t b = 0; b < p->k / CCQ_WINDOWS; b++) {
        float q[CCQ_WINDOWS];
        ccq_fb_decoded(walk, b, 1, q);
        CCQ_UNROLL
        for (int i = 0; i < CCQ_WINDOWS; i++) {
            int64_t row = p->rows[b * CCQ_WINDOWS + i];
            double a = (double)p->original[row * p->n + walk->column], d = a - (double)q[i];
            double size = fabs(d);
            error += d * d;
            energy += a * a;
            most = size > most ? size : most;
        }
    }
    p->out.error[walk->column] = error;
    p->out.energy[walk->column] = energy;
    p->out.max_error[walk->column] = most;
}

static inline CCQ_HD void ccq_fb_finish(const ccq_fb *p, int64_t n)
{
    ccq_fb_walk walk = ccq_fb_walk_of(p, n);
    int status;

    if (p->encoded[n] && p->gain > 0)
        walk.s = ccq_fb_gained(p, &walk);
    status = ccq_finish_scale(p->encoded[n], walk.s, p->e[n], &walk.s);
    walk.zero = status == CCQ_COLUMN_ZERO;
    ccq_fb_errors(p, &walk);
    p->out.status[n] = (uint8_t)status;
    p->out.super[n] = ccq_f32_to_bf16(walk.s);
    p->out.code_scale[n] = p->line[walk.zero ? 0 : walk.entry].cs;
    p->out.code_zp[n] = p->line[walk.zero ? 0 : walk.entry].zp;
}

/* ---- To the stored tensors: a pair of groups of a strip ------------------ */

CCQ_INLINE void ccq_fb_place(const ccq_fb *p, int64_t strip, int64_t pair)
{
    CCQ_THREADS(CCQ_FB_THREADS, t) {
        const int64_t n = strip * CCQ_FB_COLUMNS + t % 32;
        const int64_t at = ccq_fb_group(p, strip, 2 * pair, 1) + t % 32;
        const int zero = n < p->n && p->out.status[n] == CCQ_COLUMN_ZERO;
        for (int b = t / 32; b < 2 * CCQ_FB_BYTES && n < p->n; b += CCQ_FB_WARPS)
            p->out.weight[(pair * 2 * CCQ_FB_BYTES + b) * p->n + n] =
                zero ? 0
                     : p->bytes[ccq_fb_group(p, strip, 2 * pair, CCQ_FB_BYTES) +
                                b * CCQ_FB_COLUMNS + t % 32];
        if (t < 32 && n < p->n) /* the even group is the high nibble */
            p->out.scale[pair * p->n + n] =
                (uint8_t)(zero ? 0 : p->local[at] << 4 | p->local[at + CCQ_FB_COLUMNS]);
    }
}

#endif
