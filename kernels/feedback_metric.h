/* What ccq_metric_fill makes for kernels/feedback.c and feedback4.c. H is scaled by a power
 * of two that brings its largest diagonal element to [1, 2). */
#ifndef CCQ_KERNELS_FEEDBACK_METRIC_H
#define CCQ_KERNELS_FEEDBACK_METRIC_H

#include "kernels/feedback.h"

struct ccq_metric {
    int64_t k, groups;
    int entries, codes;
    int exponent;      /* H = 2^exponent times what lies here */
    float *u;          /* tiles; U_jk at [k][j], j < k */
    double *diagonal;  /* [k] */
    /* NULL without codes: */
    float *h;          /* tiles */
    float *metric;     /* [k/4][4][4]: M_B */
    float *norm;       /* [k/4][entries][256]: c' M_B c / 2 */
    float *turned_norm; /* [k/4][entries][16][16]: c' H_BB c / 2, code 16 b + a at [a][b] */
    float *value;      /* [entries][256][4] */
    float *turned;     /* [entries][4][16][16], codes as in turned_norm */
};

/* Matrices lie in tiles of [64][64], which are read as a whole. Rows 64 i.., columns 64 j.. */
static inline float *ccq_metric_u(const ccq_metric *m, int64_t i, int64_t j) /* j <= i */
{
    return m->u + (i * (i + 1) / 2 + j) * CCQ_TILE;
}

static inline float *ccq_metric_h(const ccq_metric *m, int64_t i, int64_t j)
{
    return m->h + (i * m->groups + j) * CCQ_TILE;
}

#endif
