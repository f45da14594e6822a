#include "kernels/encode.h"


#include <math.h>
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

/* A panel of columns and what was chosen for each. A column that is not encoded
 * (zero, tiny or padding) keeps zero bytes on the first line at s = 1. */
typedef struct panel {
    const ccq_panel_ops *ops;
    const float *w; /* [k][16] */
    int64_t k;
    int order;
    int encoded[CCQ_PANEL], e[CCQ_PANEL];      /* e: the exponent of the column's amax */
    float scale[CCQ_PANEL], s[CCQ_PANEL];      /* 2^-e; the super scale of the scaled column */
    const ccq_book *book[CCQ_PANEL];
    float *x;       /* columns scaled and in stored order, k apart */
    uint8_t *bytes; /* k/4 apart */
    uint8_t *local; /* k/64 apart */
} panel;

/* A group at l0 +- width. */
typedef struct window {
    int lo, hi;
} window;

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
    t->ops = &ops->panel;
    t->k = x->k = k;
    x->ops = ops;
    x->groups = k / CCQ_GROUP;
    t->x = (float *)scratch + CCQ_PANEL * k;
    x->rms = t->x + CCQ_PANEL * k;
    x->u = (int16_t *)(void *)(x->rms + x->groups);
    t->bytes = (uint8_t *)(x->u + k);
    x->now.bytes = t->bytes + CCQ_PANEL * codes;
    x->best.bytes = x->now.bytes + codes;
    t->local = x->best.bytes + codes;
    x->now.local = t->local + CCQ_PANEL * x->groups;
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

/* s_j: the largest group gets local scale d. */
static float super_scale(const ccq_book *book, float max_rms, int d)
{
    return ccq_round_bf16(1.13f * max_rms / (book->rms * (float)d));
}

/* Local scales to try: about the best one for a Gaussian group with the points
 * of this line (the rms is the line's own), l0 +- width. */
static window local_window(const trial *t, float rms, int width)
{
    const float magic = 12582912.0f; /* rounds to even */
    float l = 1.13f * rms / t->book->rms / t->s;
    int l0;

    l = l < 1.0f ? 1.0f : l > 15.0f ? 15.0f : l;
    l0 = (int)((l + magic) - magic);
    return (window){l0 - width < 1 ? 1 : l0 - width, l0 + width > 15 ? 15 : l0 + width};
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
        window r = local_window(t, x->rms[g], width);
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

/* fast: one scale of the default line. normal: four scales of it, then every
 * line at the best of them. */
static void choose(work *x, const ccq_encoder *enc, int effort)
{
    static const int divisors[] = {15, 14, 13, 12};
    const float max_rms = energies(x);
    float s;

    if (effort == CCQ_EFFORT_FAST) {
        try_scale(x, &enc->book[0], super_scale(&enc->book[0], max_rms, 14), 2);
        return;
    }
    for (int j = 0; j < 4; j++)
        try_scale(x, &enc->book[0], super_scale(&enc->book[0], max_rms, divisors[j]), 3);
    if (effort == CCQ_EFFORT_SCALES)
        return;
    s = x->best.s; /* the default line keeps its trial of the first stage */
    for (int i = 1; i < CCQ_BOOKS; i++)
        try_scale(x, &enc->book[i], s, 2);
}

/* rho^(eighths/8), from square roots alone. */
static double power(double rho, int eighths)
{
    double h = sqrt(rho), q = sqrt(h), e = sqrt(q), p = 1.0;

    if (eighths >= 8)
        return rho;
    p *= eighths & 4 ? h : 1.0;
    p *= eighths & 2 ? q : 1.0;
    p *= eighths & 1 ? e : 1.0;
    return p;
}

/* ---- A panel ------------------------------------------------------------- */

/* Columns to scale and encode: 2^-e is a float for e >= -127. Below, s < 2^-5 leaves
 * a super scale far under 2^-110, and the column becomes zeros whatever its codes. */
static void scale_columns(panel *t, const ccq_encoder *enc, int count)
{
    float amax[CCQ_PANEL];

    t->ops->amax(t->w, t->k, amax);
    for (int c = 0; c < CCQ_PANEL; c++) {
        t->e[c] = amax[c] > 0.0f ? ilogbf(amax[c]) : 0;
        t->encoded[c] = c < count && amax[c] > 0.0f && t->e[c] >= -127;
        t->scale[c] = t->encoded[c] ? ldexpf(1.0f, -t->e[c]) : 1.0f;
        t->book[c] = &enc->book[0];
        t->s[c] = 1.0f;
    }
    t->ops->gather(t->w, t->k, t->order, t->scale, t->x);
}

static void clear_codes(panel *t, int c)
{
    memset(t->bytes + c * (t->k / CCQ_WINDOWS), 0, (size_t)t->k / CCQ_WINDOWS);
    memset(t->local + c * (t->k / CCQ_GROUP), 0, (size_t)t->k / CCQ_GROUP);
}

static void encode_columns(panel *t, work *x, const ccq_encoder *enc, int effort)
{
    for (int c = 0; c < CCQ_PANEL; c++) {
        clear_codes(t, c);
        if (!t->encoded[c])
            continue;
        x->x = t->x + c * t->k;
        x->best.book = NULL;
        choose(x, enc, effort);
        t->book[c] = x->best.book;
        t->s[c] = x->best.s;
        memcpy(t->bytes + c * (t->k / CCQ_WINDOWS), x->best.bytes, (size_t)t->k / CCQ_WINDOWS);
        memcpy(t->local + c * x->groups, x->best.local, (size_t)x->groups);
    }
}

static void load_lines(const panel *t, ccq_coded_group *to)
{
    for (int i = 0; i < CCQ_GROUP; i++)
        to->row[i] = ccq_stored_to_logical(i, t->order);
    for (int c = 0; c < CCQ_PANEL; c++) {
        to->cs[c] = t->book[c]->cs;
        to->zp[c] = t->book[c]->zp;
    }
}

/* Group g at super scales s. */
static void load_group(const panel *t, int64_t g, const float s[CCQ_PANEL], ccq_coded_group *to)
{
    t->ops->turn(t->bytes + g * BLOCKS, t->k / CCQ_WINDOWS, to->bytes);
    for (int c = 0; c < CCQ_PANEL; c++)
        to->scale[c] = ccq_group_scale(t->local[c * (t->k / CCQ_GROUP) + g], s[c], CCQ_ROUND_FUSED);
}

/* Least squares shrinks a column; this gives part of it back. */
static void apply_gain(panel *t, int gain)
{
    ccq_panel_sums sums = {{0}, {0}, {0}, {0}};
    ccq_coded_group group;

    if (gain <= 0)
        return;
    load_lines(t, &group);
    for (int64_t g = 0; g < t->k / CCQ_GROUP; g++) {
        load_group(t, g, t->s, &group);
        t->ops->products(&group, t->w + g * CCQ_GROUP * CCQ_PANEL, t->scale, &sums);
    }
    for (int c = 0; c < CCQ_PANEL; c++) {
        double rho;
        if (!t->encoded[c] || !(sums.wv[c] > 0.0)) /* l = 0 everywhere comes here too */
            continue;
        rho = sums.ww[c] / sums.wv[c];
        rho = rho < 1.0 ? 1.0 : rho > 2.0 ? 2.0 : rho;
        t->s[c] = ccq_bf16_to_f32(ccq_f64_to_bf16((double)t->s[c] * power(rho, gain)));
    }
}

/* 480 = 32 * 15: the largest value times the largest local scale. */
static int too_large(float super)
{
    return !(480.0 * fabs((double)super) < 0x1.fep127);
}

/* The scale of the column as it came, and what it means; s becomes that scale. */
static void finish_column(panel *t, const ccq_encoder *enc, int c, ccq_column *out)
{
    float super = t->encoded[c] ? ldexpf(t->s[c], t->e[c]) : 0.0f;

    out->status = too_large(super) ? CCQ_COLUMN_HUGE : CCQ_COLUMN_OK;
    if (super < 0x1p-110f) {
        super = 1.0f;
        t->book[c] = &enc->book[0];
        clear_codes(t, c);
        out->status = CCQ_COLUMN_ZERO;
    }
    t->s[c] = super; /* exact in bf16, or too large */
    out->super = ccq_f32_to_bf16(super);
    out->code_scale = t->book[c]->cs;
    out->code_zp = t->book[c]->zp;
    memcpy(out->bytes, t->bytes + c * (t->k / CCQ_WINDOWS), (size_t)t->k / CCQ_WINDOWS);
    memcpy(out->local, t->local + c * (t->k / CCQ_GROUP), (size_t)t->k / CCQ_GROUP);
}

static void measure(const panel *t, int count, ccq_column *out)
{
    ccq_panel_sums sums = {{0}, {0}, {0}, {0}};
    ccq_coded_group group;

    load_lines(t, &group);
    for (int64_t g = 0; g < t->k / CCQ_GROUP; g++) {
        load_group(t, g, t->s, &group);
        t->ops->errors(&group, t->w + g * CCQ_GROUP * CCQ_PANEL, &sums);
    }
    for (int c = 0; c < count; c++) {
        out[c].error = sums.error[c];
        out[c].energy = sums.ww[c];
        out[c].max_error = sums.max_error[c];
    }
}

void ccq_encode_panel(const ccq_ops *ops, const ccq_encoder *enc, const ccq_encode_params *p,
                      const float *w, int64_t k, int count, ccq_column *out, void *scratch)
{
    panel t;
    work x;

    carve(&t, &x, ops, k, scratch);
    t.w = w;
    t.order = p->order;
    scale_columns(&t, enc, count);
    encode_columns(&t, &x, enc, p->effort);
    apply_gain(&t, p->gain);
    for (int c = 0; c < CCQ_PANEL; c++)
        if (c < count)
            finish_column(&t, enc, c, &out[c]);
    measure(&t, count, out);
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
