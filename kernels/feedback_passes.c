/* Coordinate descent over a finished panel: scales and codes that lower e H e'. */
#include "kernels/column.h"
#include "kernels/feedback_work.h"

#include <math.h>
#include <string.h>

enum { PASSES = 4 };

typedef ccq_feedback_work work;

void ccq_feedback_decode(work *t)
{
    for (int64_t i = 0; i < t->k; i++)
        for (int c = 0; c < CCQ_PANEL; c++)
            t->q[i * ROW + c] = t->l[i / CCQ_GROUP * ROW + c] * t->chosen.s[c] * t->c[i * ROW + c];
}

/* e . r with r = H e as it is kept; q is made anew. */
static void losses(work *t, double loss[CCQ_PANEL])
{
    float e[TILE];

    ccq_feedback_decode(t);
    memset(loss, 0, CCQ_PANEL * sizeof *loss);
    for (int64_t g = 0; g < t->groups; g++) {
        for (int i = 0; i < TILE; i++)
            e[i] = t->w[g * TILE + i] - t->q[g * TILE + i];
        t->ops->feedback.dot(e, t->r + g * TILE, CCQ_GROUP, loss);
    }
}

/* The super scale that suits the codes best. q is of the old one. */
static void refit_super(work *t, const int *active)
{
    double wq[CCQ_PANEL] = {0}, qq[CCQ_PANEL] = {0};
    float by[CCQ_PANEL], hq[TILE];

    for (int64_t g = 0; g < t->groups; g++) {
        for (int i = 0; i < TILE; i++)
            hq[i] = t->hw[g * TILE + i] - t->r[g * TILE + i];
        t->ops->feedback.dot(t->w + g * TILE, hq, CCQ_GROUP, wq);
        t->ops->feedback.dot(t->q + g * TILE, hq, CCQ_GROUP, qq);
    }
    for (int c = 0; c < CCQ_PANEL; c++) {
        float s = active[c] ? ccq_feedback_refit_super(t->chosen.s[c], wq[c], qq[c])
                            : t->chosen.s[c];
        by[c] = s != t->chosen.s[c] ? s / t->chosen.s[c] : 1.0f;
        t->chosen.s[c] = s;
    }
    for (int64_t i = 0; i < t->k * ROW; i += ROW)
        for (int c = 0; c < CCQ_PANEL; c++)
            if (by[c] != 1.0f)
                t->r[i + c] = t->hw[i + c] - by[c] * (t->hw[i + c] - t->r[i + c]);
}

static void one_pass(work *t, const int *active, int joint)
{
    const ccq_metric *m = t->m;
    float back[TILE];

    for (int64_t g = 0; g < t->groups; g++) {
        const int64_t block = g * CCQ_BLOCKS;
        ccq_descent_group group = {
            .h = ccq_metric_h(m, g, g), .norm_ld = m->entries * CCQ_CODES,
            .cs = t->cs, .zp = t->zp, .s = t->chosen.s, .active = active, .joint = joint,
            .r = t->r + g * TILE, .c = t->c + g * TILE, .byte = t->byte + block * ROW,
            .l = t->l + g * ROW, .back = back,
        };
        for (int c = 0; c < CCQ_PANEL; c++) {
            int64_t norm = block * m->entries + t->entry[c];
            group.turned[c] = m->turned + t->entry[c] * CCQ_CODES * CCQ_WINDOWS;
            group.norm[c] = m->turned_norm + norm * CCQ_CODES;
        }
        if (!t->ops->feedback.descend(&group))
            continue;
        for (int64_t i = 0; i < t->groups; i++)
            t->ops->feedback.tile(ccq_metric_h(m, i, g), back, t->r + i * TILE);
    }
}

void ccq_feedback_descend(work *t, int passes, int joint)
{
    double before[CCQ_PANEL], after[CCQ_PANEL];
    int active[CCQ_PANEL], any = 0;

    passes = passes ? passes : PASSES;
    losses(t, before);
    for (int c = 0; c < CCQ_PANEL; c++)
        any |= active[c] = t->chosen.encoded[c];
    for (int i = 0; i < passes && any; i++) {
        refit_super(t, active);
        one_pass(t, active, joint);
        losses(t, after);
        any = 0;
        for (int c = 0; c < CCQ_PANEL; c++) {
            any |= active[c] = active[c] && before[c] - after[c] >= 1e-4 * before[c];
            before[c] = after[c];
        }
    }
}
