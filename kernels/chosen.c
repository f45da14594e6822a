#include "kernels/chosen.h"

#include <math.h>
#include <string.h>

enum { BLOCKS = CCQ_GROUP / CCQ_WINDOWS };

/* 2^-e is a float for e >= -127. Below, s < 2^-5 leaves a super scale far under 2^-110,
 * and the column becomes zeros whatever its codes. */
void ccq_chosen_scale(ccq_chosen *t, const ccq_encoder *enc, const float *w, int count)
{
    float amax[CCQ_PANEL];

    t->ops->amax(w, t->k, amax);
    for (int c = 0; c < CCQ_PANEL; c++) {
        t->e[c] = amax[c] > 0.0f ? ilogbf(amax[c]) : 0;
        t->encoded[c] = c < count && amax[c] > 0.0f && t->e[c] >= -127;
        t->scale[c] = t->encoded[c] ? ldexpf(1.0f, -t->e[c]) : 1.0f;
        t->book[c] = &enc->book[0];
        t->s[c] = 1.0f;
    }
}

void ccq_chosen_clear(ccq_chosen *t, int c)
{
    memset(t->bytes + c * (t->k / CCQ_WINDOWS), 0, (size_t)t->k / CCQ_WINDOWS);
    memset(t->local + c * (t->k / CCQ_GROUP), 0, (size_t)t->k / CCQ_GROUP);
}

void ccq_chosen_lines(const ccq_chosen *t, ccq_coded_group *to)
{
    for (int i = 0; i < CCQ_GROUP; i++)
        to->row[i] = ccq_stored_to_logical(i, t->order);
    for (int c = 0; c < CCQ_PANEL; c++) {
        to->cs[c] = t->book[c]->cs;
        to->zp[c] = t->book[c]->zp;
    }
}

void ccq_chosen_group(const ccq_chosen *t, int64_t g, const float s[CCQ_PANEL],
                      ccq_coded_group *to)
{
    t->ops->turn(t->bytes + g * BLOCKS, t->k / CCQ_WINDOWS, to->bytes);
    for (int c = 0; c < CCQ_PANEL; c++)
        to->scale[c] = ccq_group_scale(t->local[c * (t->k / CCQ_GROUP) + g], s[c], CCQ_ROUND_FUSED);
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

/* Least squares shrinks a column; this gives part of it back. */
void ccq_chosen_gain(ccq_chosen *t, int gain, const double *ww, const double *wv)
{
    for (int c = 0; gain > 0 && c < CCQ_PANEL; c++) {
        double rho;
        if (!t->encoded[c] || !(wv[c] > 0.0)) /* l = 0 everywhere comes here too */
            continue;
        rho = ww[c] / wv[c];
        rho = rho > 1.0 ? rho : 1.0;
        rho = rho > 2.0 ? 2.0 : rho;
        t->s[c] = ccq_bf16_to_f32(ccq_f64_to_bf16((double)t->s[c] * power(rho, gain)));
    }
}

/* 480 = 32 * 15: the largest value times the largest local scale. */
static int too_large(float super)
{
    return !(480.0 * fabs((double)super) < 0x1.fep127);
}

void ccq_chosen_finish(ccq_chosen *t, const ccq_encoder *enc, int c, ccq_column *out)
{
    float super = t->encoded[c] ? ldexpf(t->s[c], t->e[c]) : 0.0f;

    out->status = too_large(super) ? CCQ_COLUMN_HUGE : CCQ_COLUMN_OK;
    if (super < 0x1p-110f) {
        super = 1.0f;
        t->book[c] = &enc->book[0];
        ccq_chosen_clear(t, c);
        out->status = CCQ_COLUMN_ZERO;
    }
    t->s[c] = super; /* exact in bf16, or too large */
    out->super = ccq_f32_to_bf16(super);
    out->code_scale = t->book[c]->cs;
    out->code_zp = t->book[c]->zp;
    memcpy(out->bytes, t->bytes + c * (t->k / CCQ_WINDOWS), (size_t)t->k / CCQ_WINDOWS);
    memcpy(out->local, t->local + c * (t->k / CCQ_GROUP), (size_t)t->k / CCQ_GROUP);
}

void ccq_chosen_measure(const ccq_chosen *t, const float *w, int count, ccq_column *out)
{
    ccq_panel_sums sums = {{0}, {0}, {0}, {0}};
    ccq_coded_group group;

    ccq_chosen_lines(t, &group);
    for (int64_t g = 0; g < t->k / CCQ_GROUP; g++) {
        ccq_chosen_group(t, g, t->s, &group);
        t->ops->errors(&group, w + g * CCQ_GROUP * CCQ_PANEL, &sums);
    }
    for (int c = 0; c < count; c++) {
        out[c].error = sums.error[c];
        out[c].energy = sums.ww[c];
        out[c].max_error = sums.max_error[c];
    }
}
