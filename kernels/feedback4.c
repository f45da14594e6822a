/* wint4 with feedback, row by row, in the order of the metric. */
#include "kernels/feedback_metric.h"
#include "kernels/internal.h"

#include <math.h>
#include <string.h>

enum { CANDIDATES = 17, BITS = 4, TILE = CCQ_GROUP * CCQ_PANEL };

static const float bound = 7.0f;

/* The columns scaled by 2^-e, so that squares neither overflow nor vanish. */
typedef struct scaled {
    const ccq_ops *ops;
    const ccq_metric *m;
    int on[CCQ_PANEL], e[CCQ_PANEL]; /* off: zeros, and columns whose scale would be subnormal */
    float amax[CCQ_PANEL];
    float *w, *errors; /* [k][16] in the metric's order */
    int8_t *q;         /* [k][16] likewise */
} scaled;

static void scale_columns(scaled *t, const int32_t *order, const float *target, int count)
{
    float amax[CCQ_PANEL], by[CCQ_PANEL];

    t->ops->panel.amax(target, t->m->k, amax);
    for (int c = 0; c < CCQ_PANEL; c++) {
        t->e[c] = amax[c] > 0.0f ? ilogbf(amax[c]) : 0;
        t->on[c] = c < count && amax[c] > 0.0f && t->e[c] >= -122;
        by[c] = t->on[c] ? ldexpf(1.0f, -t->e[c]) : 0.0f;
        t->amax[c] = t->on[c] ? amax[c] * by[c] : 1.0f;
    }
    for (int64_t i = 0; i < t->m->k; i++)
        for (int c = 0; c < CCQ_PANEL; c++)
            t->w[i * CCQ_PANEL + c] = target[order[i] * CCQ_PANEL + c] * by[c];
}

/* The scale that is best for plain rounding in the diagonal metric; the first, largest,
 * of equals. */
static void choose_scales(const scaled *t, float s[CCQ_PANEL])
{
    double best[CCQ_PANEL], cost[CCQ_PANEL];
    float now[CCQ_PANEL];

    for (int c = 0; c < CCQ_PANEL; c++)
        best[c] = INFINITY;
    for (int i = 0; i < CANDIDATES; i++) {
        float f = (float)(40 - i) / 40.0f;
        for (int c = 0; c < CCQ_PANEL; c++)
            now[c] = ccq_round_bf16(t->amax[c] / bound * f);
        t->ops->feedback.cost4(t->w, t->m->diagonal, t->m->k, now, cost);
        for (int c = 0; c < CCQ_PANEL; c++)
            if (i == 0 || cost[c] < best[c]) {
                best[c] = cost[c];
                s[c] = now[c];
            }
    }
}

static void encode_rows(const scaled *t, const float s[CCQ_PANEL])
{
    const ccq_metric *m = t->m;
    float aim[TILE];

    for (int64_t g = 0; g < m->groups; g++) {
        memcpy(aim, t->w + g * TILE, sizeof aim);
        for (int64_t j = 0; j < g; j++)
            t->ops->feedback.tile(ccq_metric_u(m, g, j), t->errors + j * TILE, aim);
        t->ops->feedback.rows4(ccq_metric_u(m, g, g), t->w + g * TILE, aim, s, t->q + g * TILE,
                               t->errors + g * TILE);
    }
}

/* Stored scales, and the integers of columns that have none become zeros. */
static void finish(const scaled *t, float s[CCQ_PANEL], ccq_weight_only *out)
{
    for (int c = 0; c < CCQ_PANEL; c++) {
        s[c] = t->on[c] ? ldexpf(s[c], t->e[c]) : 0.0f; /* exact, or too large */
        out->scale[c] = ccq_f32_to_bf16(s[c]);
        out->status[c] = ccq_integer_status(bound, s[c]);
        for (int64_t i = 0; !t->on[c] && i < t->m->k; i++)
            t->q[i * CCQ_PANEL + c] = 0;
    }
}

/* Back to logical rows, measured and stored, group by group. */
static void store(const scaled *t, const int8_t *q, const float s[CCQ_PANEL],
                  const float *original, int64_t n0, int count, uint8_t *stored,
                  ccq_weight_only *out)
{
    ccq_panel_sums sums = {{0}, {0}, {0}, {0}};

    for (int64_t row = 0; row < t->m->k; row += CCQ_GROUP) {
        const int8_t *group = q + row * CCQ_PANEL;
        t->ops->panel.integer_errors(original + row * CCQ_PANEL, group, CCQ_GROUP, s, &sums);
        ccq_place_group(&t->ops->panel, BITS, group, t->m->k, row, n0, count, stored);
    }
    memcpy(out->error, sums.error, sizeof sums.error);
    memcpy(out->energy, sums.ww, sizeof sums.ww);
    memcpy(out->max_error, sums.max_error, sizeof sums.max_error);
}

void ccq_feedback4_panel(const ccq_ops *ops, const ccq_metric *m, const int32_t *order,
                         const float *target, const float *original, int64_t n0, int count,
                         uint8_t *stored, ccq_weight_only *out, void *scratch)
{
    const int64_t size = m->k * CCQ_PANEL;
    scaled t = {.ops = ops, .m = m};
    float s[CCQ_PANEL];
    int8_t *logical;

    t.w = scratch;
    t.errors = t.w + size;
    t.q = (int8_t *)(t.errors + size);
    logical = t.q + size;
    scale_columns(&t, order, target, count);
    choose_scales(&t, s);
    encode_rows(&t, s);
    finish(&t, s, out);
    for (int64_t i = 0; i < m->k; i++)
        memcpy(logical + order[i] * CCQ_PANEL, t.q + i * CCQ_PANEL, CCQ_PANEL);
    store(&t, logical, s, original, n0, count, stored, out);
}
