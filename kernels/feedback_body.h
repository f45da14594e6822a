/* The loops of kernels/feedback_ops.h, written once over sixteen lanes. The including file
 * gives lanes and, for lanes a, b, c, x, y:
 *
 *     v_load v_store v_set v_add v_sub v_mul v_div
 *     v_fma(a, b, c) = a b + c    v_fnma(a, b, c) = c - a b, one rounding
 *     v_min(a, b) = a < b ? a : b    v_pick(a, b, x, y) = a < b ? x : y
 *     v_lowest(a): the first lane of the least; no NaN
 *
 * and TRIALS, the local scales it can search side by side in its registers, and ROWS, the
 * chains of a product that hide the latency of v_fma. */
#ifndef CCQ_KERNELS_FEEDBACK_BODY_H
#define CCQ_KERNELS_FEEDBACK_BODY_H

#include "kernels/feedback_ops.h"

#include <math.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#ifdef __SANITIZE_ADDRESS__ /* checked builds would take minutes over unrolled loops */
#define UNROLL
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

typedef float row[CCQ_PANEL];

static const float magic = 12582912.0f; /* adding and taking it off rounds to even */

/* t[trial][i] += the chain of u[i][j] e[trial][j] over j < count. */
INLINE void feed(const float *u, int count, const int n, row (*e)[CCQ_GROUP],
                 lanes (*t)[CCQ_WINDOWS])
{
    for (int j = 0; j < count; j++) {
        UNROLL
        for (int i = 0; i < CCQ_WINDOWS; i++) {
            lanes x = v_set(u[i * CCQ_GROUP + j]);
            UNROLL
            for (int a = 0; a < n; a++)
                t[a][i] = v_fma(x, v_load(e[a][j]), t[a][i]);
        }
    }
}

static void tile(const float *a, const float *x, float *acc)
{
    for (int i = 0; i < CCQ_GROUP; i += ROWS) {
        lanes t[ROWS];
        UNROLL
        for (int r = 0; r < ROWS; r++)
            t[r] = v_load(acc + (i + r) * CCQ_PANEL);
        for (int j = 0; j < CCQ_GROUP; j++) {
            lanes y = v_load(x + j * CCQ_PANEL);
            UNROLL
            for (int r = 0; r < ROWS; r++)
                t[r] = v_fma(v_set(a[(i + r) * CCQ_GROUP + j]), y, t[r]);
        }
        UNROLL
        for (int r = 0; r < ROWS; r++)
            v_store(acc + (i + r) * CCQ_PANEL, t[r]);
    }
}

/* The four values of bytes at. The words of an encoder's lines are exact and >= 0. */
INLINE void decode(lanes at, const float *cs, const float *zp, row c[CCQ_WINDOWS])
{
    row b;

    v_store(b, at);
    for (int i = 0; i < CCQ_WINDOWS; i++)
        for (int j = 0; j < CCQ_PANEL; j++) {
            int word = (int)(b[j] * cs[j] + zp[j] + 0.5f);
            c[i][j] = (float)ccq_code_value(word, i);
        }
}

static void rms(const float *w, float to[CCQ_PANEL])
{
    lanes q[CCQ_BLOCKS];

    for (int j = 0; j < CCQ_BLOCKS; j++) {
        const float *v = w + j * CCQ_WINDOWS * CCQ_PANEL;
        q[j] = v_set(0.0f);
        for (int i = 0; i < CCQ_WINDOWS; i++) {
            lanes x = v_load(v + i * CCQ_PANEL);
            q[j] = v_fma(x, x, q[j]);
        }
    }
    for (int step = CCQ_BLOCKS / 2; step > 0; step /= 2)
        for (int j = 0; j < step; j++)
            q[j] = v_add(q[j], q[j + step]);
    v_store(to, q[0]);
    for (int c = 0; c < CCQ_PANEL; c++)
        to[c] = sqrtf(to[c] / (float)CCQ_GROUP);
}

/* ---- Feedback, the local scale in the loop ------------------------------- */

/* Local scales that go through a group side by side. */
typedef struct trials {
    row e[TRIALS][CCQ_GROUP], byte[TRIALS][CCQ_BLOCKS];
    row l[TRIALS], g[TRIALS], inv[TRIALS], loss[TRIALS];
} trials;

/* at = the lowest byte with the least norm - c . y. */
INLINE void search(const ccq_loop_group *p, const float *norm, const int n, lanes (*y)[CCQ_WINDOWS],
                   lanes *at)
{
    const float *value = p->value;
    lanes best[TRIALS], b = v_set(0.0f), one = v_set(1.0f);

    UNROLL
    for (int a = 0; a < n; a++) {
        best[a] = v_set(INFINITY);
        at[a] = b;
    }
    for (int code = 0; code < CCQ_CODES; code++, value += CCQ_WINDOWS) {
        lanes c0 = v_set(value[0]), c1 = v_set(value[1]), c2 = v_set(value[2]);
        lanes c3 = v_set(value[3]), start = v_set(norm[code]);
        UNROLL
        for (int a = 0; a < n; a++) {
            lanes x = v_fnma(c1, y[a][1], v_fnma(c0, y[a][0], start));
            x = v_fnma(c3, y[a][3], v_fnma(c2, y[a][2], x));
            at[a] = v_pick(x, best[a], b, at[a]);
            best[a] = v_min(x, best[a]);
        }
        b = v_add(b, one);
    }
}

/* Targets of a block: t holds the chain over earlier rows; y = M t / g. */
INLINE void aim(const ccq_loop_group *p, int block, const row inv, lanes t[CCQ_WINDOWS],
                lanes y[CCQ_WINDOWS])
{
    const float *m = p->metric + block * 16, *u = p->u + 4 * block * (CCQ_GROUP + 1);
    const float *w = p->w + 4 * block * CCQ_PANEL;
    lanes v = v_load(inv);

    UNROLL
    for (int i = 0; i < CCQ_WINDOWS; i++)
        UNROLL
        for (int j = 0; j < i; j++)
            t[i] = v_fma(v_set(u[i * CCQ_GROUP + j]), v_sub(v_load(w + j * CCQ_PANEL), t[j]), t[i]);
    UNROLL
    for (int i = 0; i < CCQ_WINDOWS; i++) {
        lanes x = v_mul(v_set(m[4 * i]), t[0]);
        UNROLL
        for (int j = 1; j < CCQ_WINDOWS; j++)
            x = v_fma(v_set(m[4 * i + j]), t[j], x);
        y[i] = v_mul(v, x);
    }
}

/* Errors and loss of a block's codes; g c is exact. */
INLINE void commit(const ccq_loop_group *p, int block, const lanes t[CCQ_WINDOWS], lanes at,
                   trials *s, int a)
{
    const float *m = p->metric + block * 16, *w = p->w + 4 * block * CCQ_PANEL;
    lanes d[CCQ_WINDOWS], loss = v_load(s->loss[a]), g = v_load(s->g[a]);
    row c[CCQ_WINDOWS], cs, zp;

    v_store(cs, v_set(p->cs));
    v_store(zp, v_set(p->zp));
    v_store(s->byte[a][block], at);
    decode(at, cs, zp, c);
    UNROLL
    for (int i = 0; i < CCQ_WINDOWS; i++) {
        lanes q = v_mul(g, v_load(c[i]));
        d[i] = v_sub(t[i], q);
        v_store(s->e[a][4 * block + i], v_sub(v_load(w + i * CCQ_PANEL), q));
    }
    UNROLL
    for (int i = 0; i < CCQ_WINDOWS; i++)
        UNROLL
        for (int j = 0; j < CCQ_WINDOWS; j++)
            loss = v_fma(v_set(m[4 * i + j]), v_mul(d[i], d[j]), loss);
    v_store(s->loss[a], loss);
}

INLINE void run_blocks(const ccq_loop_group *p, const int n, trials *s)
{
    for (int block = 0; block < CCQ_BLOCKS; block++) {
        lanes t[TRIALS][CCQ_WINDOWS], y[TRIALS][CCQ_WINDOWS], at[TRIALS];
        UNROLL
        for (int a = 0; a < n; a++)
            UNROLL
            for (int i = 0; i < CCQ_WINDOWS; i++)
                t[a][i] = v_load(p->t + (4 * block + i) * CCQ_PANEL);
        feed(p->u + 4 * block * CCQ_GROUP, 4 * block, n, s->e, t);
        UNROLL
        for (int a = 0; a < n; a++)
            aim(p, block, s->inv[a], t[a], y[a]);
        search(p, p->norm + block * p->norm_ld, n, y, at);
        UNROLL
        for (int a = 0; a < n; a++)
            commit(p, block, t[a], at[a], s, a);
    }
}

/* l0 + from.. + n - 1; what leaves 1..15 repeats a neighbour, which then is no better. */
static void set_trials(const ccq_loop_group *p, int from, int n, trials *s)
{
    for (int a = 0; a < n; a++)
        for (int c = 0; c < CCQ_PANEL; c++) {
            float l = p->l0[c] + (float)(from + a);
            l = l < 1.0f ? 1.0f : l > 15.0f ? 15.0f : l;
            s->l[a][c] = l;
            s->g[a][c] = l * p->s[c];
            s->inv[a][c] = 1.0f / s->g[a][c];
            s->loss[a][c] = 0.0f;
        }
}

/* Lanes where trial a beats what was kept so far take it. */
static void keep(ccq_loop_group *p, const trials *s, int a)
{
    lanes now = v_load(s->loss[a]), kept = v_load(p->loss);

    for (int i = 0; i < CCQ_GROUP; i++) {
        float *e = p->e + i * CCQ_PANEL;
        v_store(e, v_pick(now, kept, v_load(s->e[a][i]), v_load(e)));
    }
    for (int c = 0; c < CCQ_PANEL; c++) {
        if (!(s->loss[a][c] < p->loss[c]))
            continue;
        p->loss[c] = s->loss[a][c];
        p->local[c] = (uint8_t)s->l[a][c];
        for (int b = 0; b < CCQ_BLOCKS; b++)
            p->bytes[b * CCQ_PANEL + c] = (uint8_t)s->byte[a][b][c];
    }
}

static void start_kept(ccq_loop_group *p)
{
    memcpy(p->e, p->w, CCQ_GROUP * sizeof(row));
    memset(p->bytes, 0, CCQ_BLOCKS * CCQ_PANEL);
    memset(p->local, 1, CCQ_PANEL);
    for (int c = 0; c < CCQ_PANEL; c++)
        p->loss[c] = INFINITY;
}

static void loop(ccq_loop_group *p)
{
    trials s;

    start_kept(p);
    for (int from = -p->width; from <= p->width;) {
        int n = p->width - from + 1 < TRIALS ? p->width - from + 1 : TRIALS;
        set_trials(p, from, n, &s);
        if (n == TRIALS) {
            run_blocks(p, TRIALS, &s);
        } else if (n == TRIALS - 1) {
            run_blocks(p, TRIALS > 1 ? TRIALS - 1 : 1, &s);
        } else {
            n = 1;
            run_blocks(p, 1, &s);
        }
        for (int a = 0; a < n; a++)
            keep(p, &s, a);
        from += n;
    }
}

#endif
