#include "kernels/column.h"
#include "kernels/feedback_work.h"

#include <math.h>
#include <string.h>

typedef ccq_feedback_work work;

size_t ccq_feedback_scratch(int64_t k)
{
    size_t n = (size_t)k, rows = n / CCQ_WINDOWS + n / CCQ_GROUP;

    return CCQ_PANEL * ((1 + CCQ_BOOKS) * n * sizeof(float) + rows * sizeof(float) +
                        (1 + CCQ_BOOKS) * rows);
}

static void carve(work *x, int64_t k, void *scratch)
{
    uint8_t *bytes;

    x->k = k;
    x->groups = k / CCQ_GROUP;
    x->w = scratch;
    for (int i = 0; i < CCQ_BOOKS; i++)
        x->e[i] = x->w + (1 + i) * k * ROW;
    x->c = x->e[0], x->q = x->e[1], x->r = x->e[2], x->hw = x->e[3];
    x->original = x->e[4], x->hx = x->e[5];
    x->byte = x->e[CCQ_BOOKS - 1] + k * ROW;
    x->l = x->byte + k / CCQ_WINDOWS * ROW;
    bytes = (uint8_t *)(x->l + x->groups * ROW);
    for (int i = 0; i <= CCQ_BOOKS; i++) {
        uint8_t **to = i < CCQ_BOOKS ? &x->bytes[i] : &x->chosen.bytes;
        *to = bytes;
        to = i < CCQ_BOOKS ? &x->local[i] : &x->chosen.local;
        *to = bytes + k / CCQ_WINDOWS * ROW;
        bytes = *to + x->groups * ROW;
    }
}

/* out[i] = H x[i] for n panels: a tile serves them all while it is in the cache. */
static void times_h(const work *t, int n, const float *const x[], float *const out[])
{
    for (int i = 0; i < n; i++)
        memset(out[i], 0, (size_t)(t->k * ROW) * sizeof *out[i]);
    for (int64_t g = 0; g < t->groups; g++)
        for (int64_t j = 0; j < t->groups; j++)
            for (int i = 0; i < n; i++)
                t->ops->feedback.tile(ccq_metric_h(t->m, g, j), x[i] + j * TILE, out[i] + g * TILE);
}

/* Columns that are not encoded become zeros. */
static void scale_panel(const work *t, const float *w, float *out)
{
    for (int64_t i = 0; i < t->k * ROW; i += ROW)
        for (int c = 0; c < CCQ_PANEL; c++)
            out[i + c] = t->chosen.encoded[c] ? w[i + c] * t->chosen.scale[c] : 0.0f;
}

/* ---- Feedback ------------------------------------------------------------ */

static void super_scales(work *t, int entries)
{
    float rms[CCQ_PANEL], most[CCQ_PANEL] = {0}, mean[CCQ_PANEL];
    double sum[CCQ_PANEL] = {0};

    for (int64_t g = 0; g < t->groups; g++) {
        t->ops->feedback.rms(t->w + g * TILE, rms);
        for (int c = 0; c < CCQ_PANEL; c++) {
            most[c] = rms[c] > most[c] ? rms[c] : most[c];
            sum[c] += (double)rms[c] * (double)rms[c];
        }
    }
    for (int c = 0; c < CCQ_PANEL; c++)
        mean[c] = (float)sqrt(sum[c] / (double)t->groups);
    for (int i = 0; i < entries; i++)
        for (int c = 0; c < CCQ_PANEL; c++) {
            float s = ccq_feedback_super(t->enc->book[i].rms, mean[c], most[c]);
            t->s[i][c] = t->chosen.encoded[c] ? s : 1.0f;
        }
}

/* Group g on line i; aim: its targets after the errors of earlier groups. */
static void encode_group(work *t, int64_t g, int i, int width, const float *aim)
{
    const ccq_metric *m = t->m;
    const int64_t block = g * CCQ_BLOCKS;
    float rms[CCQ_PANEL], l0[CCQ_PANEL];
    ccq_loop_group group = {
        .u = ccq_metric_u(m, g, g), .metric = m->metric + block * CCQ_WINDOWS * CCQ_WINDOWS,
        .norm = m->norm + (block * m->entries + i) * CCQ_CODES, .norm_ld = m->entries * CCQ_CODES,
        .value = m->value + i * CCQ_CODES * CCQ_WINDOWS,
        .cs = t->enc->book[i].cs, .zp = t->enc->book[i].zp,
        .w = t->w + g * TILE, .t = aim, .s = t->s[i], .l0 = l0, .width = width,
        .e = t->e[i] + g * TILE, .bytes = t->bytes[i] + block * ROW, .local = t->local[i] + g * ROW,
    };

    t->ops->feedback.rms(aim, rms);
    for (int c = 0; c < CCQ_PANEL; c++)
        l0[c] = ccq_feedback_middle(rms[c], t->enc->book[i].rms, t->s[i][c]);
    t->ops->feedback.loop(&group);
    for (int c = 0; c < CCQ_PANEL; c++)
        t->loss[i][c] += (double)group.loss[c];
}

/* All lines go through the panel side by side, for a tile of U to serve them all. */
static void encode_lines(work *t, int entries, int width)
{
    float aim[CCQ_BOOKS][TILE];

    memset(t->loss, 0, sizeof t->loss);
    for (int64_t g = 0; g < t->groups; g++) {
        for (int i = 0; i < entries; i++)
            memcpy(aim[i], t->w + g * TILE, sizeof aim[i]);
        for (int64_t j = 0; j < g; j++)
            for (int i = 0; i < entries; i++)
                t->ops->feedback.tile(ccq_metric_u(t->m, g, j), t->e[i] + j * TILE, aim[i]);
        for (int i = 0; i < entries; i++)
            encode_group(t, g, i, width, aim[i]);
    }
}

/* The best line of each column, the first of equals, and its codes. */
static void choose_lines(work *t, int entries)
{
    for (int c = 0; c < CCQ_PANEL; c++) {
        int best = 0;
        for (int i = 1; i < entries; i++)
            best = t->loss[i][c] < t->loss[best][c] ? i : best;
        t->entry[c] = best;
        t->chosen.book[c] = &t->enc->book[best];
        t->chosen.s[c] = t->s[best][c];
        t->cs[c] = t->chosen.book[c]->cs;
        t->zp[c] = t->chosen.book[c]->zp;
        for (int64_t b = 0; b < t->k / CCQ_WINDOWS; b++)
            t->byte[b * ROW + c] = (float)t->bytes[best][b * ROW + c];
        for (int64_t g = 0; g < t->groups; g++)
            t->l[g * ROW + c] = (float)t->local[best][g * ROW + c];
    }
    for (int64_t b = 0; b < t->k / CCQ_WINDOWS; b++)
        for (int c = 0; c < CCQ_PANEL; c++) {
            const float *value = t->m->value + t->entry[c] * CCQ_CODES * CCQ_WINDOWS;
            value += (int)t->byte[b * ROW + c] * CCQ_WINDOWS;
            for (int i = 0; i < CCQ_WINDOWS; i++)
                t->c[(b * CCQ_WINDOWS + i) * ROW + c] = value[i];
        }
}

/* ---- The panel ----------------------------------------------------------- */

/* H times the target, what is left of it, and the original where that is another. */
static void multiply_all(work *t, const float *target, const float *original)
{
    const float *x[3] = {t->w, t->q};
    float *out[3] = {t->hw, t->r};

    if (original == target) {
        t->original = t->w;
        t->hx = t->hw;
    } else {
        scale_panel(t, original, t->original);
        x[2] = t->original;
        out[2] = t->hx;
    }
    ccq_feedback_decode(t);
    for (int64_t i = 0; i < t->k * ROW; i++)
        t->q[i] = t->w[i] - t->q[i];
    times_h(t, original == target ? 2 : 3, x, out);
}

static void write_codes(work *t)
{
    for (int c = 0; c < CCQ_PANEL; c++) {
        uint8_t *bytes = t->chosen.bytes + c * (t->k / CCQ_WINDOWS);
        uint8_t *local = t->chosen.local + c * t->groups;
        for (int64_t b = 0; b < t->k / CCQ_WINDOWS; b++)
            bytes[b] = t->chosen.encoded[c] ? (uint8_t)t->byte[b * ROW + c] : 0;
        for (int64_t g = 0; g < t->groups; g++)
            local[g] = t->chosen.encoded[c] ? (uint8_t)t->l[g * ROW + c] : 0;
    }
}

/* q = the weights that a decoder gives, of the scaled column. */
static void decode_as_served(work *t)
{
    for (int64_t i = 0; i < t->k; i++)
        for (int c = 0; c < CCQ_PANEL; c++) {
            int local = (int)t->l[i / CCQ_GROUP * ROW + c];
            float g = ccq_group_scale(local, t->chosen.s[c], CCQ_ROUND_FUSED);
            t->q[i * ROW + c] = ccq_round_bf16(t->c[i * ROW + c] * g);
        }
}

/* w H w' of the original and its product with what is decoded decide the gain. */
static void apply_gain(work *t, int gain, double plain[CCQ_PANEL])
{
    double wv[CCQ_PANEL] = {0};

    memset(plain, 0, CCQ_PANEL * sizeof *plain);
    t->ops->feedback.dot(t->original, t->hx, t->k, plain);
    if (gain <= 0)
        return;
    decode_as_served(t);
    t->ops->feedback.dot(t->q, t->hx, t->k, wv);
    ccq_chosen_gain(&t->chosen, gain, plain, wv);
}

/* Of the columns as they came: both scales are powers of two. */
static void final_losses(work *t, const double plain[CCQ_PANEL], ccq_feedback_figures *figures)
{
    double loss[CCQ_PANEL] = {0};

    decode_as_served(t);
    for (int64_t i = 0; i < t->k * ROW; i++)
        t->q[i] = t->w[i] - t->q[i];
    times_h(t, 1, (const float *[]){t->q}, (float *[]){t->r});
    t->ops->feedback.dot(t->q, t->r, t->k, loss);
    for (int c = 0; c < CCQ_PANEL; c++) {
        int e = t->m->exponent + 2 * t->chosen.e[c];
        figures->loss[c] = t->chosen.encoded[c] ? ldexp(loss[c], e) : 0.0;
        figures->plain[c] = t->chosen.encoded[c] ? ldexp(plain[c], e) : 0.0;
    }
}

void ccq_feedback_panel(const ccq_ops *ops, const ccq_encoder *enc, const ccq_metric *m,
                        const ccq_feedback_params *p, const float *target, const float *original,
                        int count, ccq_column *out, ccq_feedback_figures *figures, void *scratch)
{
    int entries = p->leave & CCQ_FEEDBACK_NO_TABLE ? 1 : m->entries;
    double plain[CCQ_PANEL];
    work t = {.ops = ops, .m = m, .enc = enc};

    carve(&t, m->k, scratch);
    t.chosen.ops = &ops->panel;
    t.chosen.k = m->k;
    t.chosen.order = CCQ_ORDER_PLAIN; /* the panels are in stored order as they come */
    ccq_chosen_scale(&t.chosen, enc, target, count);
    scale_panel(&t, target, t.w);
    super_scales(&t, entries);
    encode_lines(&t, entries, p->leave & CCQ_FEEDBACK_FROZEN ? 0 : 3);
    choose_lines(&t, entries);
    multiply_all(&t, target, original);
    if (!(p->leave & CCQ_FEEDBACK_NO_PASSES))
        ccq_feedback_descend(&t, p->passes, !(p->leave & CCQ_FEEDBACK_NO_JOINT));
    write_codes(&t);
    apply_gain(&t, p->gain, plain);
    if (figures)
        final_losses(&t, plain, figures);
    for (int c = 0; c < count; c++)
        ccq_chosen_finish(&t.chosen, enc, c, &out[c]);
    ccq_chosen_measure(&t.chosen, original, count, out);
}
