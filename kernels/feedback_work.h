/* A panel being encoded with feedback: what feedback.c and feedback_passes.c share. */
#ifndef CCQ_KERNELS_FEEDBACK_WORK_H
#define CCQ_KERNELS_FEEDBACK_WORK_H

#include "kernels/chosen.h"
#include "kernels/feedback_metric.h"

enum {
    ROW = CCQ_PANEL,
    TILE = CCQ_GROUP * CCQ_PANEL /* elements of a group */
};

/* Scaled, in stored order. Arrays of k rows of 16 columns unless said. The errors of the
 * lines and what comes after them share memory. */
typedef struct ccq_feedback_work {
    const ccq_ops *ops;
    const ccq_metric *m;
    const ccq_encoder *enc;
    int64_t k, groups;
    ccq_chosen chosen;
    float *w;                  /* target */
    float *e[CCQ_BOOKS];       /* of each line */
    uint8_t *bytes[CCQ_BOOKS]; /* [k/4][16] */
    uint8_t *local[CCQ_BOOKS]; /* [k/64][16] */
    float s[CCQ_BOOKS][CCQ_PANEL];
    double loss[CCQ_BOOKS][CCQ_PANEL];
    int entry[CCQ_PANEL];      /* the line of each column */
    float cs[CCQ_PANEL], zp[CCQ_PANEL];
    float *c, *q, *r, *hw;     /* values, decoded weights, H e, H w: in the place of e[0..3] */
    float *original, *hx;      /* e[4], e[5], or w and hw: the weights, H times them */
    float *byte, *l;           /* [k/4], [k/64] rows */
} ccq_feedback_work;

/* q = the weights that the codes stand for, without roundings. */
void ccq_feedback_decode(ccq_feedback_work *t);
/* Coordinate descent of codes and scales, r and hw given; 0 passes: the default. */
void ccq_feedback_descend(ccq_feedback_work *t, int passes, int joint);

#endif
