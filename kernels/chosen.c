#include "kernels/chosen.h"
#include "kernels/column.h"

#include <string.h>

enum { BLOCKS = CCQ_GROUP / CCQ_WINDOWS };

void ccq_chosen_scale(ccq_chosen *t, const ccq_encoder *enc, const float *w, int count)
{
    float amax[CCQ_PANEL];

    t->ops->amax(w, t->k, amax);
    for (int c = 0; c < CCQ_PANEL; c++) {
        t->encoded[c] = ccq_column_exponent(amax[c], &t->e[c]) && c < count;
        t->scale[c] = t->encoded[c] ? ccq_power_of_two(-t->e[c]) : 1.0f;
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

void ccq_chosen_gain(ccq_chosen *t, int gain, const double *ww, const double *wv)
{
    for (int c = 0; gain > 0 && c < CCQ_PANEL; c++)
        if (t->encoded[c])
            t->s[c] = ccq_gain_scale(t->s[c], gain, ww[c], wv[c]);
}

void ccq_chosen_finish(ccq_chosen *t, const ccq_encoder *enc, int c, ccq_column *out)
{
    out->status = ccq_finish_scale(t->encoded[c], t->s[c], t->e[c], &t->s[c]);
    if (out->status == CCQ_COLUMN_ZERO) {
        t->book[c] = &enc->book[0];
        ccq_chosen_clear(t, c);
    }
    out->super = ccq_f32_to_bf16(t->s[c]);
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
