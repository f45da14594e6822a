/* Weights -> codes with error feedback: what a row gets wrong, the rows after it make
 * good, as far as the statistics H of the inputs say that it matters.
 *
 * All matrices and rows here are in stored order (ccq_stored_to_logical), so that a byte
 * is four neighbouring rows. Columns are independent of each other; lanes are columns,
 * and every chain of fmaf goes up in rows, so all instruction sets give the same bits.
 *
 * Formulas: docs/design.md, "Calibration". */
#ifndef CCQ_KERNELS_FEEDBACK_H
#define CCQ_KERNELS_FEEDBACK_H

#include "kernels/encode.h"

/* What all columns under one H share. Fill once, then read-only. */
typedef struct ccq_metric ccq_metric;

/* Bytes of memory for k rows, a multiple of 64. entries: 1 (default line) or CCQ_BOOKS;
 * codes: 0 when only wint4 is wanted. */
size_t ccq_metric_bytes(int64_t k, int entries, int codes);
/* h: [k][k] fp64, symmetric, damped, stored order. u: [k][k] its factor, U strictly above
 * the diagonal and D on it: H = (U + I) D (U + I)'. Both may go afterwards. memory: 64-byte
 * aligned. Returns the metric, which lies in memory. */
ccq_metric *ccq_metric_fill(const ccq_encoder *enc, int64_t k, int entries, int codes,
                            const double *h, const double *u, void *memory);

/* Steps that can be left out, for benchmarks of what each is worth; 0 = all. */
enum {
    CCQ_FEEDBACK_NO_TABLE = 1,  /* the default line alone */
    CCQ_FEEDBACK_NO_PASSES = 2, /* no coordinate descent */
    CCQ_FEEDBACK_NO_JOINT = 4,  /* coordinate descent without the joint move of l */
    CCQ_FEEDBACK_FROZEN = 8     /* l frozen at l0 */
};

typedef struct ccq_feedback_params {
    int gain;       /* eighths of the shrinkage to undo, 0..8 */
    int order;      /* CCQ_ORDER_* of the stored rows; nothing depends on it */
    unsigned leave; /* CCQ_FEEDBACK_* */
    int passes;     /* of coordinate descent, at most; 0 = the default, 4 */
} ccq_feedback_params;

/* Figures of a column in the metric: loss = e H e' of the finished column against its
 * target, plain = w H w' of the original; 0 for a column that is written as zeros. */
typedef struct ccq_feedback_figures {
    double loss[CCQ_PANEL], plain[CCQ_PANEL];
} ccq_feedback_figures;

/* Bytes of scratch for either panel below, 64-byte aligned. */
size_t ccq_feedback_scratch(int64_t k);
/* target: [k][16] what the codes shall come near; original: [k][16] the weights themselves
 * (gain, error, energy); may be the same array. Stored order, finite, columns past count
 * zero. out: as ccq_encode_panel; error and energy are of the original. figures: NULL
 * allowed. No column sees another. */
void ccq_feedback_panel(const ccq_ops *ops, const ccq_encoder *enc, const ccq_metric *m,
                        const ccq_feedback_params *p, const float *target, const float *original,
                        int count, ccq_column *out, ccq_feedback_figures *figures, void *scratch);

/* wint4 row by row (docs/design.md): rows in descending order of the diagonal of H, which
 * h and u of ccq_metric_fill then follow: order[i] is the logical row at place i. target
 * and original in logical order [k][16]. stored, n0 and out as ccq_weight_only_panel; a
 * column without a target, or with one below 2^-122, is written as zeros. */
void ccq_feedback4_panel(const ccq_ops *ops, const ccq_metric *m, const int32_t *order,
                         const float *target, const float *original, int64_t n0, int count,
                         uint8_t *stored, ccq_weight_only *out, void *scratch);

#endif
