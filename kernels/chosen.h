/* A panel of columns on its way from weights to codes: scaled to about one, and, once
 * codes are chosen, given its gain, scaled back and measured. What both encoders share.
 * Not for callers outside kernels/. */
#ifndef CCQ_KERNELS_CHOSEN_H
#define CCQ_KERNELS_CHOSEN_H

#include "kernels/encode.h"

/* A column that is not encoded (zero, tiny or padding) keeps zero bytes on the first
 * line at s = 1. */
typedef struct ccq_chosen {
    const ccq_panel_ops *ops;
    int64_t k;
    int order;                            /* CCQ_ORDER_* of the rows of the panels below */
    int encoded[CCQ_PANEL], e[CCQ_PANEL]; /* e: the exponent of the column's amax */
    float scale[CCQ_PANEL], s[CCQ_PANEL]; /* 2^-e; the super scale of the scaled column */
    const ccq_book *book[CCQ_PANEL];
    uint8_t *bytes; /* a column's k/4, k/4 apart */
    uint8_t *local; /* k/64 apart */
} ccq_chosen;

/* Fills all but ops, k, order, bytes and local, from the amax of w. */
void ccq_chosen_scale(ccq_chosen *t, const ccq_encoder *enc, const float *w, int count);
void ccq_chosen_clear(ccq_chosen *t, int c);
/* What decodes the panel's groups; then group g at super scales s. */
void ccq_chosen_lines(const ccq_chosen *t, ccq_coded_group *to);
void ccq_chosen_group(const ccq_chosen *t, int64_t g, const float s[CCQ_PANEL],
                      ccq_coded_group *to);
/* s *= (ww / wv)^(gain / 8), the ratio clamped to 1..2; where wv is not above 0 s stays. */
void ccq_chosen_gain(ccq_chosen *t, int gain, const double *ww, const double *wv);
/* The scale of the column as it came, and what it means; s becomes that scale. */
void ccq_chosen_finish(ccq_chosen *t, const ccq_encoder *enc, int c, ccq_column *out);
/* Error, energy and largest error of finished columns; w: the unscaled panel. */
void ccq_chosen_measure(const ccq_chosen *t, const float *w, int count, ccq_column *out);

#endif
