/* A strip on one line, group after group: what earlier groups got wrong comes in, then every
 * warp takes one local scale through the group's sixteen bytes, and each column keeps the
 * best. */
#ifndef CCQ_KERNELS_GPU_FEEDBACK_LINES_H
#define CCQ_KERNELS_GPU_FEEDBACK_LINES_H

#include "kernels/gpu/feedback_begin.h"

enum { CCQ_FB_TRIALS = 7, CCQ_FB_MIDDLE = CCQ_FB_TRIALS / 2 };

typedef struct ccq_fb_lines_shared {
    union {
        ccq_fb_chain chain;
        float e[CCQ_FB_TRIALS][CCQ_FB_PANEL]; /* of the trials */
    } u;
    float diagonal[CCQ_FB_TILE];   /* U of the group by itself */
    float value[CCQ_FB_VALUES];
    float aim[CCQ_FB_PANEL], w[CCQ_FB_PANEL];
    float metric[CCQ_FB_BYTES * 16], norm[2][CCQ_CODES];
    float l0[CCQ_FB_COLUMNS], loss[CCQ_FB_TRIALS][CCQ_FB_COLUMNS];
    int best[CCQ_FB_COLUMNS];      /* -1: no trial has a loss below infinity */
    uint8_t byte[CCQ_FB_TRIALS][CCQ_FB_BYTES * CCQ_FB_COLUMNS];
} ccq_fb_lines_shared;

static inline CCQ_HD float ccq_fb_trial_local(float l0, int trial)
{
    float l = l0 + (float)(trial - CCQ_FB_MIDDLE);

    return l < 1.0f ? 1.0f : l > 15.0f ? 15.0f : l;
}

/* Warps of local scales that are tried. */
CCQ_INLINE int ccq_fb_tries(const ccq_fb *p, int warp)
{
    return warp < CCQ_FB_TRIALS && warp >= CCQ_FB_MIDDLE - p->width &&
           warp <= CCQ_FB_MIDDLE + p->width;
}

CCQ_INLINE void ccq_fb_load_norm(const ccq_fb *p, int64_t block, int line, int t, float *to)
{
    const float *from = p->norm + (block * p->norms + line) * CCQ_CODES;

    for (int i = 4 * t; i < CCQ_CODES; i += 4 * CCQ_FB_THREADS)
        ccq_fb_take4(from + i, to + i);
}

/* ---- A block of four rows under one local scale -------------------------- */

/* The targets: chains over the trial's errors so far, then over the block's own rows. */
CCQ_INLINE void ccq_fb_aim(const ccq_fb_lines_shared *sh, int trial, int block, int lane,
                           float t[CCQ_WINDOWS])
{
    const float *u = sh->diagonal + CCQ_WINDOWS * block * CCQ_GROUP;
    const float *w = sh->w + CCQ_WINDOWS * block * CCQ_FB_COLUMNS + lane;
    const float *e = sh->u.e[trial] + lane;

    CCQ_UNROLL
    for (int i = 0; i < CCQ_WINDOWS; i++)
        t[i] = sh->aim[(CCQ_WINDOWS * block + i) * CCQ_FB_COLUMNS + lane];
    for (int j = 0; j < CCQ_WINDOWS * block; j += 4) {
        float a[4];
        CCQ_UNROLL
        for (int i = 0; i < CCQ_WINDOWS; i++) {
            ccq_fb_take4(u + i * CCQ_GROUP + j, a);
            CCQ_UNROLL
            for (int q = 0; q < 4; q++)
                t[i] = __builtin_fmaf(a[q], e[(j + q) * CCQ_FB_COLUMNS], t[i]);
        }
    }
    u += CCQ_WINDOWS * block;
    CCQ_UNROLL
    for (int i = 1; i < CCQ_WINDOWS; i++)
        CCQ_UNROLL
        for (int j = 0; j < i; j++)
            t[i] = __builtin_fmaf(u[i * CCQ_GROUP + j], w[j * CCQ_FB_COLUMNS] - t[j], t[i]);
}

/* The lowest of `count` codes from `first` on with the least norm - c . y. */
CCQ_INLINE int ccq_fb_search(const float *value, const float *norm, int first, int count,
                             const float y[CCQ_WINDOWS], float *least)
{
    float best = __builtin_inff();
    int at = first;

    CCQ_UNROLL_BY(8)
    for (int code = first; code < first + count; code++) {
        float c[CCQ_WINDOWS], x = norm[code];
        ccq_fb_take4(value + CCQ_WINDOWS * code, c);
        CCQ_UNROLL
        for (int i = 0; i < CCQ_WINDOWS; i++)
            x = __builtin_fmaf(-c[i], y[i], x);
        at = x < best ? code : at;
        best = x < best ? x : best;
    }
    *least = best;
    return at;
}

/* The loss of errors d in the metric m, added to sum. */
CCQ_INLINE float ccq_fb_block_loss(const float m[16], const float d[CCQ_WINDOWS], float sum)
{
    CCQ_UNROLL
    for (int i = 0; i < CCQ_WINDOWS; i++)
        CCQ_UNROLL
        for (int j = 0; j < CCQ_WINDOWS; j++)
            sum = __builtin_fmaf(m[4 * i + j], d[i] * d[j], sum);
    return sum;
}

CCQ_INLINE void ccq_fb_try_block(ccq_fb_lines_shared *sh, int block, int t, ccq_fb_thread *th)
{
    const int trial = t / 32, lane = t % 32;
    const float *m = sh->metric + 16 * block, *c;
    float aim[CCQ_WINDOWS], y[CCQ_WINDOWS], d[CCQ_WINDOWS], least;
    int byte;

    ccq_fb_aim(sh, trial, block, lane, aim);
    CCQ_UNROLL
    for (int i = 0; i < CCQ_WINDOWS; i++) {
        float x = m[4 * i] * aim[0];
        CCQ_UNROLL
        for (int j = 1; j < CCQ_WINDOWS; j++)
            x = __builtin_fmaf(m[4 * i + j], aim[j], x);
        y[i] = th->inv * x;
    }
    byte = ccq_fb_search(sh->value, sh->norm[block & 1], 0, CCQ_CODES, y, &least);
    c = sh->value + CCQ_WINDOWS * byte;
    CCQ_UNROLL
    for (int i = 0; i < CCQ_WINDOWS; i++) {
        const int at = (CCQ_WINDOWS * block + i) * CCQ_FB_COLUMNS + lane;
        float q = th->g * c[i];
        d[i] = aim[i] - q;
        sh->u.e[trial][at] = sh->w[at] - q;
    }
    th->loss = ccq_fb_block_loss(m, d, th->loss);
    sh->byte[trial][block * CCQ_FB_COLUMNS + lane] = (uint8_t)byte;
}

/* ---- A group ------------------------------------------------------------- */

/* The targets of a group are in th. */
CCQ_INLINE void ccq_fb_begin_group(const ccq_fb *p, int64_t g, int line, int t,
                                   const ccq_fb_thread *th, ccq_fb_lines_shared *sh)
{
    ccq_fb_store_rows(th->acc, t, sh->aim);
    ccq_block_copy(sh->diagonal, p->u + (g * (g + 1) / 2 + g) * CCQ_FB_TILE,
                   (int)sizeof sh->diagonal, t, CCQ_FB_THREADS);
    ccq_block_copy(sh->metric, p->metric + g * CCQ_FB_BYTES * 16, (int)sizeof sh->metric, t,
                   CCQ_FB_THREADS);
    ccq_fb_load_norm(p, g * CCQ_FB_BYTES, line, t, sh->norm[0]);
    ccq_block_batch();
    ccq_block_landed(0);
}

CCQ_INLINE void ccq_fb_begin_trial(const ccq_fb_lines_shared *sh, int t, float s,
                                   ccq_fb_thread *th)
{
    th->l = ccq_fb_trial_local(sh->l0[t % 32], t / 32);
    th->g = th->l * s;
    th->inv = 1.0f / th->g;
    th->loss = 0.0f;
}

/* Of equals the lowest local scale. */
CCQ_INLINE void ccq_fb_pick_trial(const ccq_fb *p, ccq_fb_lines_shared *sh, int lane,
                                  double *total, uint8_t *local)
{
    float least = __builtin_inff();
    int best = -1;

    for (int a = 0; a < CCQ_FB_TRIALS; a++)
        if (ccq_fb_tries(p, a) && sh->loss[a][lane] < least) {
            least = sh->loss[a][lane];
            best = a;
        }
    sh->best[lane] = best;
    *local = (uint8_t)(best < 0 ? 1.0f : ccq_fb_trial_local(sh->l0[lane], best));
    *total += (double)least;
}

/* The errors and bytes of the best trial of each column. */
CCQ_INLINE void ccq_fb_keep_trial(const ccq_fb_lines_shared *sh, int t, float *e, uint8_t *bytes)
{
    const int best = sh->best[t % 32];
    const float *from = best < 0 ? sh->w : sh->u.e[best];

    for (int i = t; i < CCQ_FB_PANEL; i += CCQ_FB_THREADS)
        e[i] = from[i];
    for (int i = t; i < CCQ_FB_BYTES * CCQ_FB_COLUMNS; i += CCQ_FB_THREADS)
        bytes[i] = best < 0 ? 0 : sh->byte[best][i];
}

/* The sixteen bytes under all local scales. */
CCQ_INLINE void ccq_fb_try_group(const ccq_fb *p, int64_t g, int line, const float *s,
                                 ccq_fb_lines_shared *sh, ccq_fb_thread *th)
{
    CCQ_THREADS(CCQ_FB_THREADS, t) {
        if (t < 32)
            sh->l0[t] = ccq_feedback_middle(ccq_fb_rms(sh->aim, t), p->line[line].rms, s[t]);
    }
    CCQ_THREADS(CCQ_FB_THREADS, t)
        ccq_fb_begin_trial(sh, t, s[t % 32], &th[CCQ_OWN(t)]);
    for (int block = 0; block < CCQ_FB_BYTES; block++) {
        CCQ_THREADS(CCQ_FB_THREADS, t) {
            if (block + 1 < CCQ_FB_BYTES)
                ccq_fb_load_norm(p, g * CCQ_FB_BYTES + block + 1, line, t,
                                 sh->norm[(block + 1) & 1]);
            if (ccq_fb_tries(p, t / 32))
                ccq_fb_try_block(sh, block, t, &th[CCQ_OWN(t)]);
        }
    }
    CCQ_THREADS(CCQ_FB_THREADS, t) {
        if (ccq_fb_tries(p, t / 32))
            sh->loss[t / 32][t % 32] = th[CCQ_OWN(t)].loss;
    }
}

CCQ_INLINE void ccq_fb_line_group(const ccq_fb *p, int64_t strip, int64_t g, int line,
                                  ccq_fb_lines_shared *sh, ccq_fb_thread *th)
{
    const int64_t at = ccq_fb_group(p, strip, g, 1);
    float *errors = p->line_e + line * ccq_fb_line_step(p, CCQ_GROUP) +
                    ccq_fb_group(p, strip, 0, CCQ_GROUP);
    uint8_t *bytes = p->line_bytes + line * ccq_fb_line_step(p, CCQ_FB_BYTES) +
                     at * CCQ_FB_BYTES;
    uint8_t *local = p->line_local + line * ccq_fb_line_step(p, 1) + at;
    const float *s = p->line_s + line * ccq_fb_columns(p) + strip * CCQ_FB_COLUMNS;
    const float *w = p->w + at * CCQ_GROUP;

    CCQ_THREADS(CCQ_FB_THREADS, t) {
        ccq_fb_load_rows(w, t, th[CCQ_OWN(t)].acc);
        ccq_fb_store_rows(th[CCQ_OWN(t)].acc, t, sh->w);
    }
    ccq_fb_add_tiles(&sh->u.chain, p->u + g * (g + 1) / 2 * CCQ_FB_TILE, errors, NULL, 0, g, th);
    CCQ_THREADS(CCQ_FB_THREADS, t)
        ccq_fb_begin_group(p, g, line, t, &th[CCQ_OWN(t)], sh);
    ccq_fb_try_group(p, g, line, s, sh, th);
    CCQ_THREADS(CCQ_FB_THREADS, t) {
        if (t < 32)
            ccq_fb_pick_trial(p, sh, t, &th[CCQ_OWN(t)].total, local + t);
    }
    CCQ_THREADS(CCQ_FB_THREADS, t)
        ccq_fb_keep_trial(sh, t, errors + g * CCQ_FB_PANEL, bytes);
}

CCQ_INLINE void ccq_fb_lines(const ccq_fb *p, int64_t strip, int line, ccq_fb_lines_shared *sh,
                             ccq_fb_thread *th)
{
    CCQ_THREADS(CCQ_FB_THREADS, t) {
        for (int i = t; i < CCQ_FB_VALUES; i += CCQ_FB_THREADS)
            sh->value[i] = p->value[line * CCQ_FB_VALUES + i];
        th[CCQ_OWN(t)].total = 0.0;
    }
    for (int64_t g = 0; g < p->groups; g++)
        ccq_fb_line_group(p, strip, g, line, sh, th);
    CCQ_THREADS(CCQ_FB_THREADS, t) {
        if (t < 32)
            p->line_loss[line * ccq_fb_columns(p) + strip * CCQ_FB_COLUMNS + t] =
                th[CCQ_OWN(t)].total;
    }
}

#endif
