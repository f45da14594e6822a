/* One pass of coordinate descent over a strip, group after group; kernels/feedback_passes.c
 * and feedback_descent.h are its reference. */
#ifndef CCQ_KERNELS_GPU_FEEDBACK_PASS_H
#define CCQ_KERNELS_GPU_FEEDBACK_PASS_H

#include "kernels/gpu/feedback_sweep.h"

/* ---- A group ------------------------------------------------------------- */

/* r, where the super scale has changed as if it had been all along. */
CCQ_INLINE void ccq_fb_begin_chain(const ccq_fb *p, int64_t at, int t,
                                   const ccq_fb_pass_shared *sh, ccq_fb_thread *th)
{
    float hw[CCQ_FB_ROWS], by = sh->by[t % 32];

    ccq_fb_load_rows(p->r + at, t, th->acc);
    if (by == 1.0f)
        return;
    ccq_fb_load_rows(p->hw + at, t, hw);
    for (int i = 0; i < CCQ_FB_ROWS; i++)
        th->acc[i] = hw[i] - by * (hw[i] - th->acc[i]);
}

CCQ_INLINE void ccq_fb_begin_descent(const ccq_fb *p, int64_t at, int64_t g, int t,
                                     const ccq_fb_thread *th, ccq_fb_pass_shared *sh)
{
    const uint8_t *bytes = p->bytes + at * CCQ_FB_BYTES;

    ccq_fb_store_rows(th->acc, t, sh->r);
    ccq_fb_store_rows(th->acc, t, p->r + at * CCQ_GROUP);
    ccq_block_copy(sh->u.group.h, p->h + g * (p->groups + 1) * CCQ_FB_TILE,
                   (int)sizeof sh->u.group.h, t, CCQ_FB_THREADS);
    for (int i = t; i < CCQ_FB_BYTES * CCQ_FB_COLUMNS; i += CCQ_FB_THREADS)
        sh->byte[i] = bytes[i];
    if (t < 32)
        sh->l[t] = (float)p->local[at + t];
    ccq_block_batch();
    ccq_block_landed(0);
}

CCQ_INLINE void ccq_fb_local_of(ccq_fb_pass_shared *sh, int lane)
{
    const float *hq = sh->u.group.back[0] + lane;
    float num = 0.0f, den = 0.0f;

    for (int i = 0; i < CCQ_GROUP; i++) {
        float q = sh->q[i * CCQ_FB_COLUMNS + lane];
        num = __builtin_fmaf(q, sh->r[i * CCQ_FB_COLUMNS + lane], num);
        den = __builtin_fmaf(q, hq[i * CCQ_FB_COLUMNS], den);
    }
    sh->more[lane] =
        sh->active[lane] ? ccq_feedback_refit_local(num, den, &sh->l[lane]) : 0.0f;
}

/* The local scale that suits the codes best. */
CCQ_INLINE void ccq_fb_refit_locals(ccq_fb_pass_shared *sh, ccq_fb_thread *th)
{
    CCQ_THREADS(CCQ_FB_THREADS, t) {
        float *acc = th[CCQ_OWN(t)].acc;
        CCQ_UNROLL
        for (int i = 0; i < CCQ_FB_ROWS; i++)
            acc[i] = 0.0f;
        ccq_fb_add_tile(sh->u.group.h, sh->q, t, acc);
        ccq_fb_store_rows(acc, t, sh->u.group.back[0]);
    }
    CCQ_THREADS(CCQ_FB_THREADS, t) {
        if (t < 32)
            ccq_fb_local_of(sh, t);
    }
    CCQ_THREADS(CCQ_FB_THREADS, t) {
        const float more = sh->more[t % 32];
        for (int i = t; i < CCQ_FB_PANEL; i += CCQ_FB_THREADS)
            sh->r[i] = __builtin_fmaf(-more, sh->u.group.back[0][i], sh->r[i]);
        ccq_fb_load_weights(sh, t);
    }
}

/* Which of l - 1 and l + 1 lowers the loss more, if any. */
CCQ_INLINE void ccq_fb_choose_move(ccq_fb_pass_shared *sh, int lane)
{
    float down = sh->l[lane] > 1.0f ? sh->change[0][lane] : 0.0f;
    float up = sh->l[lane] < 15.0f ? sh->change[1][lane] : 0.0f;
    int move = !sh->active[lane] ? -1 : up < down && up < 0.0f ? 1 : down < 0.0f ? 0 : -1;

    sh->move[lane] = move;
    sh->l[lane] += move < 0 ? 0.0f : move ? 1.0f : -1.0f;
}

/* Columns take their move's bytes; back[0] is what all of them have changed. */
CCQ_INLINE void ccq_fb_adopt(ccq_fb_pass_shared *sh, int t)
{
    const int move = sh->move[t % 32];

    for (int i = t; i < CCQ_FB_PANEL && move; i += CCQ_FB_THREADS)
        sh->u.group.back[0][i] = move < 0 ? 0.0f : sh->u.group.back[1][i];
    for (int i = t; i < CCQ_FB_BYTES * CCQ_FB_COLUMNS && move >= 0; i += CCQ_FB_THREADS)
        sh->byte[i] = sh->fresh[move][i];
}

/* A neighbouring local scale with codes made for it. */
CCQ_INLINE void ccq_fb_move_jointly(const ccq_fb *p, int64_t g, ccq_fb_pass_shared *sh,
                                    ccq_fb_thread *th)
{
    ccq_fb_sweep(p, g, CCQ_FB_MOVES, sh);
    CCQ_THREADS(CCQ_FB_THREADS, t) {
        if (t < 32)
            ccq_fb_choose_move(sh, t);
    }
    CCQ_THREADS(CCQ_FB_THREADS, t)
        ccq_fb_adopt(sh, t);
    CCQ_THREADS(CCQ_FB_THREADS, t) {
        float *acc = th[CCQ_OWN(t)].acc;
        ccq_fb_load_rows(sh->r, t, acc);
        ccq_fb_add_tile(sh->u.group.h, sh->u.group.back[0], t, acc);
        ccq_fb_store_rows(acc, t, sh->r);
        ccq_fb_load_weights(sh, t);
    }
}

/* Bytes, local scales and what has changed, to where they lie. */
CCQ_INLINE void ccq_fb_end_group(const ccq_fb *p, int64_t at, int t, ccq_fb_pass_shared *sh)
{
    int any = 0;

    for (int i = t; i < CCQ_FB_PANEL; i += CCQ_FB_THREADS) {
        float back = sh->u.group.first[i] - sh->q[i];
        p->d[at * CCQ_GROUP + i] = back;
        any |= back != 0.0f;
    }
    for (int i = t; i < CCQ_FB_BYTES * CCQ_FB_COLUMNS; i += CCQ_FB_THREADS)
        p->bytes[at * CCQ_FB_BYTES + i] = sh->byte[i];
    if (t < 32)
        p->local[at + t] = (uint8_t)sh->l[t];
    if (any)
        sh->any[t % 32] = 1; /* by whichever: all say the same */
}

CCQ_INLINE void ccq_fb_pass_group(const ccq_fb *p, int64_t strip, int64_t g,
                                  ccq_fb_pass_shared *sh, ccq_fb_thread *th)
{
    const int64_t at = ccq_fb_group(p, strip, g, 1), first = ccq_fb_group(p, strip, 0, CCQ_GROUP);
    uint8_t *changed = p->changed + strip * p->groups;

    CCQ_THREADS(CCQ_FB_THREADS, t)
        ccq_fb_begin_chain(p, at * CCQ_GROUP, t, sh, &th[CCQ_OWN(t)]);
    ccq_fb_add_tiles(&sh->u.chain, p->h + g * p->groups * CCQ_FB_TILE, p->d + first, changed, 0, g,
                     th);
    CCQ_THREADS(CCQ_FB_THREADS, t)
        ccq_fb_begin_descent(p, at, g, t, &th[CCQ_OWN(t)], sh);
    CCQ_THREADS(CCQ_FB_THREADS, t) {
        ccq_fb_load_weights(sh, t);
        if (t < 32)
            sh->any[t] = 0;
    }
    CCQ_THREADS(CCQ_FB_THREADS, t) {
        for (int i = t; i < CCQ_FB_PANEL; i += CCQ_FB_THREADS)
            sh->u.group.first[i] = sh->q[i];
    }
    ccq_fb_refit_locals(sh, th);
    if (p->joint)
        ccq_fb_move_jointly(p, g, sh, th);
    ccq_fb_sweep(p, g, 1, sh);
    CCQ_THREADS(CCQ_FB_THREADS, t) {
        if (sh->active[t % 32])
            for (int i = t; i < CCQ_FB_BYTES * CCQ_FB_COLUMNS; i += CCQ_FB_THREADS)
                sh->byte[i] = sh->fresh[0][i];
    }
    CCQ_THREADS(CCQ_FB_THREADS, t)
        ccq_fb_load_weights(sh, t);
    CCQ_THREADS(CCQ_FB_THREADS, t)
        ccq_fb_end_group(p, at, t, sh);
    CCQ_THREADS(CCQ_FB_THREADS, t) {
        int any = 0;
        for (int i = 0; i < CCQ_FB_COLUMNS && !t; i++)
            any |= sh->any[i];
        if (!t)
            changed[g] = (uint8_t)any;
    }
}

/* Whether any column of the strip may still change. */
static inline CCQ_HD int ccq_fb_any_active(const ccq_fb *p, int64_t strip)
{
    int any = 0;

    for (int i = 0; i < CCQ_FB_COLUMNS; i++)
        any |= p->active[strip * CCQ_FB_COLUMNS + i];
    return any;
}

CCQ_INLINE void ccq_fb_pass(const ccq_fb *p, int64_t strip, ccq_fb_pass_shared *sh,
                            ccq_fb_thread *th)
{
    if (!ccq_fb_any_active(p, strip))
        return;
    CCQ_THREADS(CCQ_FB_THREADS, t) {
        const int64_t column = strip * CCQ_FB_COLUMNS + t;
        for (int i = t; i < p->entries * CCQ_FB_VALUES; i += CCQ_FB_THREADS)
            sh->value[i / CCQ_FB_VALUES * CCQ_FB_VALUES_LD + i % CCQ_FB_VALUES] = p->value[i];
        if (t < 32) {
            sh->entry[t] = p->entry[column];
            sh->active[t] = p->active[column];
            sh->s[t] = p->s[column];
            sh->by[t] = p->by[column];
        }
    }
    for (int64_t g = 0; g < p->groups; g++)
        ccq_fb_pass_group(p, strip, g, sh, th);
}

/* What groups from g on have left for group g. */
CCQ_INLINE void ccq_fb_settle(const ccq_fb *p, int64_t strip, int64_t g, ccq_fb_chain *sh,
                              ccq_fb_thread *th)
{
    const int64_t at = ccq_fb_group(p, strip, g, CCQ_GROUP);

    if (!ccq_fb_any_active(p, strip))
        return;
    CCQ_THREADS(CCQ_FB_THREADS, t)
        ccq_fb_load_rows(p->r + at, t, th[CCQ_OWN(t)].acc);
    ccq_fb_add_tiles(sh, p->h + g * p->groups * CCQ_FB_TILE,
                     p->d + ccq_fb_group(p, strip, 0, CCQ_GROUP), p->changed + strip * p->groups,
                     g, p->groups, th);
    CCQ_THREADS(CCQ_FB_THREADS, t)
        ccq_fb_store_rows(th[CCQ_OWN(t)].acc, t, p->r + at);
}

#endif
