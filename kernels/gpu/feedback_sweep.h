/* New codes for a group of a strip at other local scales, or at the same: the sweep of
 * kernels/feedback_descent.h. Eight warps search the codes, each its part of the 256. */
#ifndef CCQ_KERNELS_GPU_FEEDBACK_SWEEP_H
#define CCQ_KERNELS_GPU_FEEDBACK_SWEEP_H

#include "kernels/gpu/feedback_lines.h"

enum {
    CCQ_FB_MOVES = 2, /* l - 1 and l + 1 */
    CCQ_FB_VALUES_LD = CCQ_FB_VALUES + 4, /* columns of a warp may be on unlike lines */
    CCQ_FB_NORM_LD = CCQ_CODES + 1
};

typedef struct ccq_fb_group_shared {
    float h[CCQ_FB_TILE];                /* H of the group by itself */
    float first[CCQ_FB_PANEL];           /* q as the group had it */
    float back[CCQ_FB_MOVES][CCQ_FB_PANEL]; /* old less new of the moves; before them, H q */
    float aim[CCQ_FB_MOVES][CCQ_WINDOWS][CCQ_FB_COLUMNS]; /* r of a block, then y */
    float y[CCQ_FB_MOVES][CCQ_WINDOWS][CCQ_FB_COLUMNS];
    float least[CCQ_FB_WARPS][CCQ_FB_COLUMNS];            /* of a warp's codes, and which */
    int at[CCQ_FB_WARPS][CCQ_FB_COLUMNS];
} ccq_fb_group_shared;

typedef struct ccq_fb_pass_shared {
    union {
        ccq_fb_chain chain;
        ccq_fb_group_shared group;
    } u;
    float value[CCQ_BOOKS * CCQ_FB_VALUES_LD], norm[CCQ_BOOKS * CCQ_FB_NORM_LD];
    float r[CCQ_FB_PANEL], q[CCQ_FB_PANEL];
    float change[CCQ_FB_MOVES][CCQ_FB_COLUMNS];
    float l[CCQ_FB_COLUMNS], s[CCQ_FB_COLUMNS], by[CCQ_FB_COLUMNS], more[CCQ_FB_COLUMNS];
    int entry[CCQ_FB_COLUMNS], move[CCQ_FB_COLUMNS];
    int any[CCQ_FB_COLUMNS], active[CCQ_FB_COLUMNS];
    uint8_t byte[CCQ_FB_BYTES * CCQ_FB_COLUMNS];
    uint8_t fresh[CCQ_FB_MOVES][CCQ_FB_BYTES * CCQ_FB_COLUMNS];
} ccq_fb_pass_shared;

CCQ_INLINE const float *ccq_fb_value_of(const ccq_fb_pass_shared *sh, int lane, int byte)
{
    return sh->value + sh->entry[lane] * CCQ_FB_VALUES_LD + CCQ_WINDOWS * byte;
}

/* q of thread t's rows: the bytes of two blocks. */
CCQ_INLINE void ccq_fb_load_weights(ccq_fb_pass_shared *sh, int t)
{
    const int lane = t % 32;
    const float gs = sh->l[lane] * sh->s[lane];

    for (int b = t / 32; b < CCQ_FB_BYTES; b += CCQ_FB_WARPS) {
        const float *c = ccq_fb_value_of(sh, lane, sh->byte[b * CCQ_FB_COLUMNS + lane]);
        for (int i = 0; i < CCQ_WINDOWS; i++)
            sh->q[(CCQ_WINDOWS * b + i) * CCQ_FB_COLUMNS + lane] = gs * c[i];
    }
}

/* ---- New codes at other local scales, or at the same --------------------- */

/* Codes lie turned in the metric: 16 b + a at [a][b]. */
CCQ_INLINE void ccq_fb_load_norms(const ccq_fb *p, int64_t block, int t, ccq_fb_pass_shared *sh)
{
    const float *from = p->turned_norm + block * p->norms * CCQ_CODES;

    for (int i = t; i < p->entries * CCQ_CODES; i += CCQ_FB_THREADS) {
        int code = i % 16 * 16 + i % CCQ_CODES / 16;
        sh->norm[i / CCQ_CODES * CCQ_FB_NORM_LD + code] = from[i];
    }
}

CCQ_INLINE float ccq_fb_move_local(float l, int move, int moves)
{
    l += moves == 1 ? 0.0f : move ? 1.0f : -1.0f;
    return l < 1.0f ? 1.0f : l > 15.0f ? 15.0f : l;
}

/* Warp w: row w % 4 of a block, move w / 4. r with the changes of earlier blocks, and
 * y = (r + H q) / g. */
CCQ_INLINE void ccq_fb_aim_row(ccq_fb_pass_shared *sh, int block, int moves, int t)
{
    const int lane = t % 32, i = t / 32 % CCQ_WINDOWS, move = t / 32 / CCQ_WINDOWS;
    const int row = CCQ_WINDOWS * block + i;
    const float *h = sh->u.group.h + row * CCQ_GROUP, *back = sh->u.group.back[move & 1] + lane;
    float x, g;

    if (move >= moves)
        return;
    g = ccq_fb_move_local(sh->l[lane], move, moves) * sh->s[lane];
    x = sh->r[row * CCQ_FB_COLUMNS + lane];
    for (int j = 0; j < CCQ_WINDOWS * block; j++)
        x = __builtin_fmaf(h[j], back[j * CCQ_FB_COLUMNS], x);
    sh->u.group.aim[move][i][lane] = x;
    for (int j = CCQ_WINDOWS * block; j < CCQ_WINDOWS * (block + 1); j++)
        x = __builtin_fmaf(h[j], sh->q[j * CCQ_FB_COLUMNS + lane], x);
    sh->u.group.y[move][i][lane] = 1.0f / g * x;
}

/* A warp's part of the codes for its move. */
CCQ_INLINE void ccq_fb_search_part(ccq_fb_pass_shared *sh, int moves, int t)
{
    const int lane = t % 32, warp = t / 32, parts = CCQ_FB_WARPS / moves;
    const int move = warp / parts, count = CCQ_CODES / parts;
    const float *norm = sh->norm + sh->entry[lane] * CCQ_FB_NORM_LD;
    ccq_fb_group_shared *g = &sh->u.group;
    float y[CCQ_WINDOWS];

    for (int i = 0; i < CCQ_WINDOWS; i++)
        y[i] = g->y[move][i][lane];
    g->at[warp][lane] = ccq_fb_search(ccq_fb_value_of(sh, lane, 0), norm, warp % parts * count,
                                      count, y, &g->least[warp][lane]);
}

/* The least of all parts; when no score is a number, byte 0. */
CCQ_INLINE int ccq_fb_found(const ccq_fb_pass_shared *sh, int move, int moves, int lane)
{
    const int parts = CCQ_FB_WARPS / moves;
    float least = __builtin_inff();
    int at = 0;

    for (int w = move * parts; w < (move + 1) * parts; w++)
        if (sh->u.group.least[w][lane] < least) {
            least = sh->u.group.least[w][lane];
            at = sh->u.group.at[w][lane];
        }
    return at;
}

/* What the change of a block does to the loss: sum of dq_i ((H dq)_i - 2 r_i). */
CCQ_INLINE float ccq_fb_change(const ccq_fb_pass_shared *sh, int block, int move, int lane,
                               const float dq[CCQ_WINDOWS], float sum)
{
    const float *h = sh->u.group.h + CCQ_WINDOWS * block * (CCQ_GROUP + 1);

    for (int i = 0; i < CCQ_WINDOWS; i++) {
        float x = h[i * CCQ_GROUP] * dq[0];
        for (int j = 1; j < CCQ_WINDOWS; j++)
            x = __builtin_fmaf(h[i * CCQ_GROUP + j], dq[j], x);
        sum = __builtin_fmaf(dq[i], __builtin_fmaf(-2.0f, sh->u.group.aim[move][i][lane], x), sum);
    }
    return sum;
}

/* A block's new codes. All take them, or, with one move, those that gain. */
CCQ_INLINE void ccq_fb_take_move(ccq_fb_pass_shared *sh, int block, int move, int moves, int lane)
{
    const int at = CCQ_WINDOWS * block * CCQ_FB_COLUMNS + lane;
    const int where = block * CCQ_FB_COLUMNS + lane;
    const int byte = ccq_fb_found(sh, move, moves, lane);
    const float *c = ccq_fb_value_of(sh, lane, byte);
    const float g = ccq_fb_move_local(sh->l[lane], move, moves) * sh->s[lane];
    float dq[CCQ_WINDOWS], sum;
    int takes;

    for (int i = 0; i < CCQ_WINDOWS; i++)
        dq[i] = g * c[i] - sh->q[at + i * CCQ_FB_COLUMNS];
    sum = ccq_fb_change(sh, block, move, lane, dq,
                        moves == 1 || !block ? 0.0f : sh->change[move][lane]);
    sh->change[move][lane] = sum;
    takes = moves == CCQ_FB_MOVES || sum < 0.0f;
    for (int i = 0; i < CCQ_WINDOWS; i++)
        sh->u.group.back[move][at + i * CCQ_FB_COLUMNS] = takes ? 0.0f - dq[i] : 0.0f;
    sh->fresh[move][where] = takes ? (uint8_t)byte : sh->byte[where];
}

CCQ_INLINE void ccq_fb_sweep(const ccq_fb *p, int64_t g, int moves, ccq_fb_pass_shared *sh)
{
    for (int block = 0; block < CCQ_FB_BYTES; block++) {
        CCQ_THREADS(CCQ_FB_THREADS, t) {
            ccq_fb_load_norms(p, g * CCQ_FB_BYTES + block, t, sh);
            ccq_fb_aim_row(sh, block, moves, t);
        }
        CCQ_THREADS(CCQ_FB_THREADS, t)
            ccq_fb_search_part(sh, moves, t);
        CCQ_THREADS(CCQ_FB_THREADS, t) {
            if (t / 32 < moves)
                ccq_fb_take_move(sh, block, t / 32, moves, t % 32);
        }
    }
}

#endif
