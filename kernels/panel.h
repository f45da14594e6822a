/* What the encoder does with a panel of 16 columns besides the search. Lanes are
 * columns wherever a sum has a stated order, so every instruction set gives the
 * same bits. Not for callers outside kernels/. A group is 64 rows; a panel is
 * [k][16] in logical order, padded with zero columns. */
#ifndef CCQ_KERNELS_PANEL_H
#define CCQ_KERNELS_PANEL_H

#include "kernels/code.h"

enum {
    CCQ_PANEL = 16,      /* columns of a panel */
    CCQ_ROWS_AHEAD = 32  /* rows of a matrix asked for ahead: each is a place of its own in
                            memory, which the processor does not fetch by itself */
};

/* One encoded group of the panel and what decodes it; the lines passed their proof,
 * scale is ccq_group_scale(). */
typedef struct ccq_coded_group {
    uint8_t bytes[16][CCQ_PANEL]; /* stored order */
    float cs[CCQ_PANEL], zp[CCQ_PANEL], scale[CCQ_PANEL];
    int row[CCQ_GROUP]; /* logical row of each stored row */
} ccq_coded_group;

/* Sums of a panel so far. */
typedef struct ccq_panel_sums {
    double ww[CCQ_PANEL], wv[CCQ_PANEL]; /* energy; weight times decoded weight */
    double error[CCQ_PANEL], max_error[CCQ_PANEL];
} ccq_panel_sums;

typedef struct ccq_panel_ops {
    /* k rows of 32 bf16, ld apart, to fp32 in two panels, one after the other. */
    void (*widen)(const uint16_t *w, int64_t ld, int64_t k, float *x);
    /* Largest |w| of each column; no NaN. */
    void (*amax)(const float *w, int64_t k, float most[CCQ_PANEL]);
    /* x[c * k + i] = w * scale[c], one column after the other, i in stored order. */
    void (*gather)(const float *w, int64_t k, int order, const float scale[CCQ_PANEL], float *x);
    /* rms of each group of a column: block j is a chain of fmaf over its four rows,
     * then blocks j and j+8, +4, +2, +1 are added. */
    void (*rms)(const float *x, int64_t groups, float *rms);
    /* A column: u = rint(x * inv) clamped to int16, ties to even; no NaN. */
    void (*units)(const float *x, int64_t k, float inv, int16_t *u);
    /* Rows of 16 bytes, ld apart, to columns. */
    void (*turn)(const uint8_t *from, int64_t ld, uint8_t to[16][CCQ_PANEL]);

    /* x = w * scale[c], v decoded: ww += x^2, wv += x * v over a group, stored rows
     * ascending. */
    void (*products)(const ccq_coded_group *g, const float *w, const float scale[CCQ_PANEL],
                     ccq_panel_sums *sums);
    /* error += (w - v)^2, ww += w^2, max_error; likewise. A NaN is no maximum. */
    void (*errors)(const ccq_coded_group *g, const float *w, ccq_panel_sums *sums);

    /* wint8, wint4: q = w / by[c] * factor to the nearest within +-bound, halves away
     * from zero; NaN gives -bound. */
    void (*integers)(const float *w, int64_t k, const float by[CCQ_PANEL], float factor,
                     float bound, int8_t *q);
    /* The sums of errors() for v = bf16(q * scale[c]), k logical rows ascending. */
    void (*integer_errors)(const float *w, const int8_t *q, int64_t k,
                           const float scale[CCQ_PANEL], ccq_panel_sums *sums);
    /* 64 rows of one column to its run of 64 (wint8) or 32 bytes (wint4). */
    void (*place)(int bits, const int8_t q[CCQ_GROUP], uint8_t *run);
} ccq_panel_ops;

#endif
