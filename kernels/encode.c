#include "kernels/chosen.h"
#include "kernels/column.h"

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

/* The column at work. */
typedef struct work {
    const ccq_ops *ops;
    int64_t k, groups;
    const float *x; /* stored order, scaled to amax in [1, 2) */
    float *rms;     /* of each group of x */
    int16_t *u;
    trial now, best;
} work;

/* The panel at work. */
typedef struct panel {
    ccq_chosen chosen;
    const float *w; /* [k][16] */
    float *x;       /* columns scaled and in stored order, k apart */
} panel;

/* A panel of one column, the panel's columns, their codes; then one column's. */
size_t ccq_encode_scratch(int64_t k)
{
    size_t n = (size_t)k, codes = n / CCQ_WINDOWS + n / CCQ_GROUP;

    return 2 * CCQ_PANEL * n * sizeof(float) + n / CCQ_GROUP * sizeof(float) +
           n * sizeof(int16_t) + (CCQ_PANEL + 2) * codes;
}

static void carve(panel *t, work *x, const ccq_ops *ops, int64_t k, void *scratch)
{
    int64_t codes = k / CCQ_WINDOWS;

    memset(t, 0, sizeof *t);
    memset(x, 0, sizeof *x);
    t->chosen.ops = &ops->panel;
    t->chosen.k = x->k = k;
    x->ops = ops;
    x->groups = k / CCQ_GROUP;
    t->x = (float *)scratch + CCQ_PANEL * k;
    x->rms = t->x + CCQ_PANEL * k;
    x->u = (int16_t *)(void *)(x->rms + x->groups);
    t->chosen.bytes = (uint8_t *)(x->u + k);
    x->now.bytes = t->chosen.bytes + CCQ_PANEL * codes;
    x->best.bytes = x->now.bytes + codes;
    t->chosen.local = x->best.bytes + codes;
    x->now.local = t->chosen.local + CCQ_PANEL * x->groups;
    x->best.local = x->now.local + x->groups;
}

static float energies(work *x)
{
    float max = 0.0f;

    x->ops->panel.rms(x->x, x->groups, x->rms);
    for (int64_t g = 0; g < x->groups; g++)
        max = x->rms[g] > max ? x->rms[g] : max;
    return max;
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
    x->ops->panel.units(x->x, x->k, 16.0f / s, x->u);
    for (int64_t g = 0; g < x->groups; g++) {
        ccq_window r = ccq_local_window(book->rms, s, x->rms[g], width);
        uint8_t best[MAX_TRIALS][BLOCKS];
        int32_t J[MAX_TRIALS];
        int64_t least = 0; /* 16 J + l: a minimum without branches */
        int l;

        x->ops->search(book, x->u + g * CCQ_GROUP, r.lo, r.hi, J, best);
        for (int i = 0; i <= r.hi - r.lo; i++) {
            int64_t key = (int64_t)J[i] * 16 + r.lo + i;
            least = key < least ? key : least;
        }
        l = (int)(least & 15);
        t->local[g] = (uint8_t)l;
        if (l)
            memcpy(t->bytes + g * BLOCKS, best[l - r.lo], BLOCKS);
        else
            memset(t->bytes + g * BLOCKS, 0, BLOCKS);
        sum += (least - l) / 16;
    }
    t->cost = (double)s * (double)s * (double)sum;
    if (x->best.book && !(t->cost < x->best.cost))
        return;
    old = x->best;
    x->best = x->now;
    x->now = old;
}

static void choose(work *x, const ccq_encoder *enc, int effort)
{
    const float max_rms = energies(x);

    for (int i = 0; i < ccq_trials(effort); i++) {
        ccq_trial t = ccq_trial_at(effort, i);
        const ccq_book *book = &enc->book[t.book];
        float s = t.divisor ? ccq_super_scale(book->rms, max_rms, t.divisor) : x->best.s;
        try_scale(x, book, s, t.width);
    }
}

/* ---- A panel ------------------------------------------------------------- */

static void encode_columns(panel *p, work *x, const ccq_encoder *enc, int effort)
{
    ccq_chosen *t = &p->chosen;

    for (int c = 0; c < CCQ_PANEL; c++) {
        ccq_chosen_clear(t, c);
        if (!t->encoded[c])
            continue;
        x->x = p->x + c * t->k;
        x->best.book = NULL;
        choose(x, enc, effort);
        t->book[c] = x->best.book;
        t->s[c] = x->best.s;
        memcpy(t->bytes + c * (t->k / CCQ_WINDOWS), x->best.bytes, (size_t)t->k / CCQ_WINDOWS);
        memcpy(t->local + c * x->groups, x->best.local, (size_t)x->groups);
    }
}

static void apply_gain(panel *p, int gain)
{
    ccq_panel_sums sums = {{0}, {0}, {0}, {0}};
    ccq_chosen *t = &p->chosen;
    ccq_coded_group group;

    if (gain <= 0)
        return;
    ccq_chosen_lines(t, &group);
    for (int64_t g = 0; g < t->k / CCQ_GROUP; g++) {
        ccq_chosen_group(t, g, t->s, &group);
        t->ops->products(&group, p->w + g * CCQ_GROUP * CCQ_PANEL, t->scale, &sums);
    }
    ccq_chosen_gain(t, gain, sums.ww, sums.wv);
}

void ccq_encode_panel(const ccq_ops *ops, const ccq_encoder *enc, const ccq_encode_params *p,
                      const float *w, int64_t k, int count, ccq_column *out, void *scratch)
{
    panel t;
    work x;

    carve(&t, &x, ops, k, scratch);
    t.w = w;
    t.chosen.order = p->order;
    ccq_chosen_scale(&t.chosen, enc, w, count);
    ops->panel.gather(w, k, p->order, t.chosen.scale, t.x);
    encode_columns(&t, &x, enc, p->effort);
    apply_gain(&t, p->gain);
    for (int c = 0; c < CCQ_PANEL; c++)
        if (c < count)
            ccq_chosen_finish(&t.chosen, enc, c, &out[c]);
    ccq_chosen_measure(&t.chosen, w, count, out);
}

void ccq_encode_column(const ccq_ops *ops, const ccq_encoder *enc, const ccq_encode_params *p,
                       const float *w, int64_t k, ccq_column *out, void *scratch)
{
    float *alone = scratch; /* ccq_encode_panel leaves this part to us */

    memset(alone, 0, (size_t)(k * CCQ_PANEL) * sizeof *alone);
    for (int64_t i = 0; i < k; i++)
        alone[i * CCQ_PANEL] = w[i];
    ccq_encode_panel(ops, enc, p, alone, k, 1, out, scratch);
}

/* ---- Where codes are stored ---------------------------------------------- */

static void place_bytes(const ccq_ops *ops, const uint8_t *bytes, int64_t length, int count,
                        int64_t n, uint8_t *weight)
{
    int full = count / CCQ_PANEL * CCQ_PANEL;
    uint8_t rows[BLOCKS][CCQ_PANEL];

    for (int64_t r = 0; r < length; r += BLOCKS)
        for (int c = 0; c < full; c += CCQ_PANEL) {
            ops->panel.turn(bytes + c * length + r, length, rows);
            for (int i = 0; i < BLOCKS; i++)
                memcpy(weight + (r + i) * n + c, rows[i], CCQ_PANEL);
        }
    for (int64_t r = 0; full < count && r < length; r++)
        for (int c = full; c < count; c++)
            weight[r * n + c] = bytes[c * length + r];
}

void ccq_wint2_place(const ccq_ops *ops, const uint8_t *bytes, const uint8_t *local, int64_t k,
                     int count, int64_t n, uint8_t *weight, uint8_t *scale)
{
    const int64_t groups = k / CCQ_GROUP;

    place_bytes(ops, bytes, k / CCQ_WINDOWS, count, n, weight);
    for (int64_t r = 0; r < groups / 2; r++, local += 2) /* the even group is the high nibble */
        for (int c = 0; c < count; c++)
            scale[r * n + c] = (uint8_t)(local[c * groups] << 4 | local[c * groups + 1]);
}
