/* Coordinate descent of one group: the other half of kernels/feedback_body.h. Columns are
 * on lines of their own, so here a search has codes in its lanes, one column after the
 * other: the chains of a score are the same. */
#ifndef CCQ_KERNELS_FEEDBACK_DESCENT_H
#define CCQ_KERNELS_FEEDBACK_DESCENT_H

#include "kernels/column.h"
#include "kernels/feedback_body.h"

enum { MOVES = 2 }; /* l - 1 and l + 1 */

/* A group on its way. */
typedef struct descent {
    const ccq_descent_group *p;
    row r[CCQ_GROUP], q[1][CCQ_GROUP], first[CCQ_GROUP];
    row hq[CCQ_GROUP];
} descent;

/* New codes of a group at other local scales, or at the same. back: old less new. */
typedef struct sweep {
    row g[MOVES], inv[MOVES], change[MOVES]; /* change: of the loss */
    row back[MOVES][CCQ_GROUP], c[MOVES][CCQ_GROUP], byte[MOVES][CCQ_BLOCKS];
} sweep;

INLINE void search_lines(const ccq_descent_group *p, int block, const int n,
                         row (*y)[CCQ_WINDOWS], row *byte)
{
    for (int c = 0; c < CCQ_PANEL; c++) {
        const float *value = p->turned[c], *norm = p->norm[c] + block * p->norm_ld;
        lanes v[MOVES][CCQ_WINDOWS], best[MOVES], at[MOVES], a = v_set(0.0f);
        if (!p->active[c])
            continue;
        UNROLL
        for (int m = 0; m < n; m++) {
            UNROLL
            for (int i = 0; i < CCQ_WINDOWS; i++)
                v[m][i] = v_set(y[m][i][c]);
            best[m] = v_set(INFINITY);
            at[m] = a;
        }
        for (int step = 0; step < CCQ_CODES; step += CCQ_PANEL, a = v_add(a, v_set(1.0f))) {
            lanes start = v_load(norm + step), c0 = v_load(value + step);
            lanes c1 = v_load(value + CCQ_CODES + step);
            lanes c2 = v_load(value + 2 * CCQ_CODES + step);
            lanes c3 = v_load(value + 3 * CCQ_CODES + step);
            UNROLL
            for (int m = 0; m < n; m++) {
                lanes x = v_fnma(c1, v[m][1], v_fnma(c0, v[m][0], start));
                x = v_fnma(c3, v[m][3], v_fnma(c2, v[m][2], x));
                at[m] = v_pick(x, best[m], a, at[m]);
                best[m] = v_min(x, best[m]);
            }
        }
        UNROLL
        for (int m = 0; m < n; m++) {
            int lane = v_lowest(best[m]);
            row found;
            v_store(found, at[m]);
            byte[m][c] = (float)(CCQ_PANEL * lane) + found[lane];
        }
    }
}

/* y = (r_B + H_BB q_B) / g of move m, r with the changes of earlier blocks. */
INLINE void aim_at(const descent *d, int block, const lanes r[CCQ_WINDOWS], const row inv,
                   row y[CCQ_WINDOWS])
{
    const float *h = d->p->h + 4 * block * (CCQ_GROUP + 1);
    const row *q = d->q[0] + 4 * block;

    UNROLL
    for (int i = 0; i < CCQ_WINDOWS; i++) {
        lanes x = r[i];
        UNROLL
        for (int j = 0; j < CCQ_WINDOWS; j++)
            x = v_fma(v_set(h[i * CCQ_GROUP + j]), v_load(q[j]), x);
        v_store(y[i], v_mul(v_load(inv), x));
    }
}

/* What the change of a block does to the loss: sum of dq_i ((H dq)_i - 2 r_i). */
INLINE lanes change_of(const descent *d, int block, const lanes r[CCQ_WINDOWS],
                       const lanes dq[CCQ_WINDOWS], lanes sum)
{
    const float *h = d->p->h + 4 * block * (CCQ_GROUP + 1);

    UNROLL
    for (int i = 0; i < CCQ_WINDOWS; i++) {
        lanes x = v_mul(v_set(h[i * CCQ_GROUP]), dq[0]);
        UNROLL
        for (int j = 1; j < CCQ_WINDOWS; j++)
            x = v_fma(v_set(h[i * CCQ_GROUP + j]), dq[j], x);
        sum = v_fma(dq[i], v_fnma(v_set(2.0f), r[i], x), sum);
    }
    return sum;
}

/* A block's new codes. All take them, or, with only_better, those that gain. */
INLINE void take_block(const descent *d, sweep *s, int block, int m, const lanes r[CCQ_WINDOWS],
                       int only_better)
{
    const ccq_descent_group *p = d->p;
    lanes dq[CCQ_WINDOWS], zero = v_set(0.0f), sum, g = v_load(s->g[m]);
    int at = 4 * block;

    decode(v_load(s->byte[m][block]), p->cs, p->zp, s->c[m] + at);
    UNROLL
    for (int i = 0; i < CCQ_WINDOWS; i++)
        dq[i] = v_sub(v_mul(g, v_load(s->c[m][at + i])), v_load(d->q[0][at + i]));
    sum = change_of(d, block, r, dq, only_better ? zero : v_load(s->change[m]));
    v_store(s->change[m], sum);
    UNROLL
    for (int i = 0; i < CCQ_WINDOWS; i++) {
        lanes back = v_sub(zero, dq[i]);
        if (only_better) {
            lanes old = v_load(p->c + (at + i) * CCQ_PANEL), c = v_load(s->c[m][at + i]);
            back = v_pick(sum, zero, back, zero);
            v_store(s->c[m][at + i], v_pick(sum, zero, c, old));
        }
        v_store(s->back[m][at + i], back);
    }
    if (only_better)
        v_store(s->byte[m][block], v_pick(sum, zero, v_load(s->byte[m][block]),
                                          v_load(p->byte + block * CCQ_PANEL)));
}

INLINE void run_sweep(const descent *d, sweep *s, const int n, const int only_better)
{
    const ccq_descent_group *p = d->p;

    for (int block = 0; block < CCQ_BLOCKS; block++) {
        lanes r[MOVES][CCQ_WINDOWS];
        row y[MOVES][CCQ_WINDOWS], byte[MOVES];
        UNROLL
        for (int m = 0; m < n; m++)
            UNROLL
            for (int i = 0; i < CCQ_WINDOWS; i++)
                r[m][i] = v_load(d->r[4 * block + i]);
        feed(p->h + 4 * block * CCQ_GROUP, 4 * block, n, s->back, r);
        UNROLL
        for (int m = 0; m < n; m++)
            aim_at(d, block, r[m], s->inv[m], y[m]);
        memset(byte, 0, sizeof byte);
        search_lines(p, block, n, y, byte);
        UNROLL
        for (int m = 0; m < n; m++) {
            v_store(s->byte[m][block], v_load(byte[m]));
            take_block(d, s, block, m, r[m], only_better);
        }
    }
}

static void set_scale(const ccq_descent_group *p, sweep *s, int m, float by)
{
    for (int c = 0; c < CCQ_PANEL; c++) {
        float l = p->l[c] + by;
        l = l < 1.0f ? 1.0f : l > 15.0f ? 15.0f : l;
        s->g[m][c] = l * p->s[c];
        s->inv[m][c] = 1.0f / s->g[m][c];
        s->change[m][c] = 0.0f;
    }
}

static void load_weights(const ccq_descent_group *p, row *q)
{
    for (int i = 0; i < CCQ_GROUP; i++)
        for (int c = 0; c < CCQ_PANEL; c++)
            q[i][c] = p->l[c] * p->s[c] * p->c[i * CCQ_PANEL + c];
}

/* The local scale that suits the codes best. */
static void refit_local(descent *d)
{
    const ccq_descent_group *p = d->p;
    lanes num = v_set(0.0f), den = num;
    row n, e, a;

    memset(d->hq, 0, sizeof d->hq);
    tile(p->h, d->q[0][0], d->hq[0]);
    for (int i = 0; i < CCQ_GROUP; i++) {
        lanes q = v_load(d->q[0][i]);
        num = v_fma(q, v_load(d->r[i]), num);
        den = v_fma(q, v_load(d->hq[i]), den);
    }
    v_store(n, num);
    v_store(e, den);
    for (int c = 0; c < CCQ_PANEL; c++) {
        a[c] = p->active[c] ? ccq_feedback_refit_local(n[c], e[c], &p->l[c]) : 0.0f;
    }
    for (int i = 0; i < CCQ_GROUP; i++)
        v_store(d->r[i], v_fnma(v_load(a), v_load(d->hq[i]), v_load(d->r[i])));
    load_weights(p, d->q[0]);
}

/* Column c takes move m of a sweep, or where m < 0 keeps what it has. */
static void adopt(const ccq_descent_group *p, sweep *s, int c, int m)
{
    for (int i = 0; i < CCQ_GROUP; i++) {
        if (m >= 0)
            p->c[i * CCQ_PANEL + c] = s->c[m][i][c];
        s->back[0][i][c] = m < 0 ? 0.0f : s->back[m][i][c];
    }
    for (int b = 0; m >= 0 && b < CCQ_BLOCKS; b++)
        p->byte[b * CCQ_PANEL + c] = s->byte[m][b][c];
}

/* A neighbouring local scale with codes made for it, where that lowers the loss. */
static void move_jointly(descent *d, sweep *s)
{
    const ccq_descent_group *p = d->p;
    int any = 0;

    set_scale(p, s, 0, -1.0f);
    set_scale(p, s, 1, 1.0f);
    run_sweep(d, s, MOVES, 0);
    for (int c = 0; c < CCQ_PANEL; c++) {
        float down = p->l[c] > 1.0f ? s->change[0][c] : 0.0f;
        float up = p->l[c] < 15.0f ? s->change[1][c] : 0.0f;
        int m = !p->active[c] ? -1 : up < down && up < 0.0f ? 1 : down < 0.0f ? 0 : -1;
        adopt(p, s, c, m);
        p->l[c] += m < 0 ? 0.0f : m ? 1.0f : -1.0f;
        any |= m >= 0;
    }
    if (!any)
        return;
    tile(p->h, s->back[0][0], d->r[0]);
    load_weights(p, d->q[0]);
}

static int descend(const ccq_descent_group *p)
{
    descent d = {.p = p};
    sweep s;
    uint32_t any = 0;

    memcpy(d.r, p->r, sizeof d.r);
    load_weights(p, d.first);
    memcpy(d.q[0], d.first, sizeof d.first);
    refit_local(&d);
    if (p->joint)
        move_jointly(&d, &s);
    set_scale(p, &s, 0, 0.0f);
    run_sweep(&d, &s, 1, 1);
    for (int c = 0; c < CCQ_PANEL; c++)
        if (p->active[c])
            adopt(p, &s, c, 0);
    load_weights(p, d.q[0]);
    for (int i = 0; i < CCQ_GROUP; i++)
        for (int c = 0; c < CCQ_PANEL; c++) {
            float back = d.first[i][c] - d.q[0][i][c];
            p->back[i * CCQ_PANEL + c] = back;
            any |= (uint32_t)(back != 0.0f);
        }
    return (int)any;
}

#endif
