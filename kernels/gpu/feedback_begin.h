/* Before and after the lines: columns scaled to about one, their super scales; the best line
 * of each column and what is left of it. */
#ifndef CCQ_KERNELS_GPU_FEEDBACK_BEGIN_H
#define CCQ_KERNELS_GPU_FEEDBACK_BEGIN_H

#include "kernels/gpu/feedback.h"

/* ---- Size ---------------------------------------------------------------- */

typedef struct ccq_fb_measure_shared {
    uint32_t most[CCQ_FB_THREADS];
} ccq_fb_measure_shared;

CCQ_INLINE uint32_t ccq_fb_size(float x)
{
    union { float f; uint32_t u; } v;

    v.f = x;
    return v.u & 0x7fffffffu; /* sizes compare as their bits do */
}

CCQ_INLINE void ccq_fb_measured(const ccq_fb *p, int64_t column, uint32_t most)
{
    union { uint32_t u; float f; } amax;
    int e = 0, encoded;

    amax.u = most;
    encoded = ccq_column_exponent(amax.f, &e) && column < p->n;
    p->encoded[column] = (uint8_t)encoded;
    p->e[column] = e;
    p->scale[column] = encoded ? ccq_power_of_two(-e) : 1.0f;
}

/* A strip. */
CCQ_INLINE void ccq_fb_measure(const ccq_fb *p, int64_t strip, ccq_fb_measure_shared *sh)
{
    CCQ_THREADS(CCQ_FB_THREADS, t) {
        const int64_t column = strip * CCQ_FB_COLUMNS + t % 32;
        uint32_t most = 0;
        for (int64_t i = t / 32; i < p->k && column < p->n; i += CCQ_FB_WARPS) {
            uint32_t size = ccq_fb_size(p->target[i * p->n + column]);
            most = size > most ? size : most;
        }
        sh->most[t] = most;
    }
    CCQ_THREADS(CCQ_FB_THREADS, t) {
        uint32_t most = 0;
        for (int i = t; t < 32 && i < CCQ_FB_THREADS; i += 32)
            most = sh->most[i] > most ? sh->most[i] : most;
        if (t < 32)
            ccq_fb_measured(p, strip * CCQ_FB_COLUMNS + t, most);
    }
}

/* ---- To stored order, scaled --------------------------------------------- */

typedef struct ccq_fb_gather_shared {
    float w[CCQ_FB_PANEL];
} ccq_fb_gather_shared;

/* A row of [k][n], scaled; columns that are not encoded are zeros. */
CCQ_INLINE float ccq_fb_scaled(const ccq_fb *p, const float *from, int64_t row, int64_t column)
{
    return p->encoded[column] ? from[p->rows[row] * p->n + column] * p->scale[column] : 0.0f;
}

CCQ_INLINE void ccq_fb_fold(float q[CCQ_FB_BYTES], const int to)
{
    CCQ_UNROLL
    for (int j = 0; j < to; j++)
        q[j] = q[j] + q[j + to];
}

/* rms of a column of a panel: blocks of four rows, then halves. */
CCQ_INLINE float ccq_fb_rms(const float *w, int lane)
{
    float q[CCQ_FB_BYTES];

    CCQ_UNROLL
    for (int j = 0; j < CCQ_FB_BYTES; j++) {
        float v[CCQ_WINDOWS];
        CCQ_UNROLL
        for (int i = 0; i < CCQ_WINDOWS; i++)
            v[i] = w[(CCQ_WINDOWS * j + i) * CCQ_FB_COLUMNS + lane];
        q[j] = ccq_block_energy(v);
    }
    ccq_fb_fold(q, 8);
    ccq_fb_fold(q, 4);
    ccq_fb_fold(q, 2);
    ccq_fb_fold(q, 1);
    return sqrtf(q[0] / (float)CCQ_GROUP);
}

/* Group g of a strip. */
CCQ_INLINE void ccq_fb_gather(const ccq_fb *p, int64_t strip, int64_t g, ccq_fb_gather_shared *sh)
{
    CCQ_THREADS(CCQ_FB_THREADS, t) {
        for (int i = t; i < CCQ_FB_PANEL; i += CCQ_FB_THREADS) {
            int64_t row = g * CCQ_GROUP + i / 32, column = strip * CCQ_FB_COLUMNS + i % 32;
            sh->w[i] = ccq_fb_scaled(p, p->target, row, column);
            p->w[ccq_fb_group(p, strip, g, CCQ_GROUP) + i] = sh->w[i];
        }
    }
    CCQ_THREADS(CCQ_FB_THREADS, t) {
        if (t < 32)
            p->rms[ccq_fb_group(p, strip, g, 1) + t] = ccq_fb_rms(sh->w, t);
    }
}

/* One column, all groups. */
static inline CCQ_HD void ccq_fb_scales(const ccq_fb *p, int64_t column)
{
    const float *rms = p->rms + ccq_fb_column(p, column, 1);
    float most = 0.0f, mean;
    double sum = 0.0;

    for (int64_t g = 0; g < p->groups; g++) {
        float x = rms[g * CCQ_FB_COLUMNS];
        most = x > most ? x : most;
        sum += (double)x * (double)x;
    }
    mean = (float)sqrt(sum / (double)p->groups);
    for (int i = 0; i < p->entries; i++)
        p->line_s[i * ccq_fb_columns(p) + column] =
            p->encoded[column] ? ccq_feedback_super(p->line[i].rms, mean, most) : 1.0f;
}

/* ---- The best line ------------------------------------------------------- */

static inline CCQ_HD int ccq_fb_best_line(const ccq_fb *p, int64_t column)
{
    int best = 0;

    for (int i = 1; i < p->entries; i++)
        if (p->line_loss[i * ccq_fb_columns(p) + column] <
            p->line_loss[best * ccq_fb_columns(p) + column])
            best = i;
    return best;
}

/* Four rows of a column: their byte, w less what it stands for, the original. */
CCQ_INLINE void ccq_fb_take_block(const ccq_fb *p, int64_t strip, int64_t block, int lane,
                                  int entry, float gs, int byte)
{
    const int64_t at = (strip * (p->k / CCQ_WINDOWS) + block) * CCQ_FB_COLUMNS + lane;
    float c[CCQ_WINDOWS];

    p->bytes[at] = (uint8_t)byte;
    ccq_fb_values(p, entry, byte, c);
    for (int i = 0; i < CCQ_WINDOWS; i++) {
        int64_t row = block * CCQ_WINDOWS + i;
        int64_t to = (strip * p->k + row) * CCQ_FB_COLUMNS + lane;
        p->d[to] = p->w[to] - gs * c[i];
        if (p->original != p->target)
            p->x[to] = ccq_fb_scaled(p, p->original, row, strip * CCQ_FB_COLUMNS + lane);
    }
}

/* Group g of a strip; group 0 keeps what goes for the column. */
CCQ_INLINE void ccq_fb_choose(const ccq_fb *p, int64_t strip, int64_t g)
{
    CCQ_THREADS(CCQ_FB_THREADS, t) {
        const int lane = t % 32;
        const int64_t column = strip * CCQ_FB_COLUMNS + lane;
        const int entry = ccq_fb_best_line(p, column);
        const float s = p->line_s[entry * ccq_fb_columns(p) + column];
        const uint8_t *bytes = p->line_bytes + entry * ccq_fb_line_step(p, CCQ_FB_BYTES) +
                               ccq_fb_group(p, strip, g, CCQ_FB_BYTES) + lane;
        const int64_t at = ccq_fb_group(p, strip, g, 1) + lane;
        const int l = p->line_local[entry * ccq_fb_line_step(p, 1) + at];
        for (int b = t / 32; b < CCQ_FB_BYTES; b += CCQ_FB_WARPS)
            ccq_fb_take_block(p, strip, g * CCQ_FB_BYTES + b, lane, entry, (float)l * s,
                              bytes[b * CCQ_FB_COLUMNS]);
        if (t < 32)
            p->local[at] = (uint8_t)l;
        if (t < 32 && g == 0) {
            p->entry[column] = (uint8_t)entry;
            p->s[column] = s;
        }
    }
}

/* ---- H times a panel ----------------------------------------------------- */

/* Group g of a strip: to = H from. */
CCQ_INLINE void ccq_fb_times(const ccq_fb *p, int64_t strip, int64_t g, const float *from,
                             float *to, ccq_fb_chain *sh, ccq_fb_thread *th)
{
    CCQ_THREADS(CCQ_FB_THREADS, t) {
        for (int i = 0; i < CCQ_FB_ROWS; i++)
            th[CCQ_OWN(t)].acc[i] = 0.0f;
    }
    ccq_fb_add_tiles(sh, p->h + g * p->groups * CCQ_FB_TILE,
                     from + ccq_fb_group(p, strip, 0, CCQ_GROUP), NULL, 0, p->groups, th);
    CCQ_THREADS(CCQ_FB_THREADS, t)
        ccq_fb_store_rows(th[CCQ_OWN(t)].acc, t, to + ccq_fb_group(p, strip, g, CCQ_GROUP));
}

#endif
