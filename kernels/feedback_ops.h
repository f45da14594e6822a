/* The inner loops of encoding with feedback (kernels/feedback.h). Lanes are columns, and
 * every sum of a column is one chain in a stated order, so all instruction sets give the
 * same bits. Not for callers outside kernels/. A row is 16 floats, one of each column. */
#ifndef CCQ_KERNELS_FEEDBACK_OPS_H
#define CCQ_KERNELS_FEEDBACK_OPS_H

#include "kernels/panel.h"

enum {
    CCQ_BLOCKS = CCQ_GROUP / CCQ_WINDOWS, /* bytes of a group */
    CCQ_TILE = CCQ_GROUP * CCQ_GROUP      /* elements of a tile of a matrix */
};

/* A group on one line, and what came out of it. */
typedef struct ccq_loop_group {
    const float *u;          /* [64][64]: U_jk at [k][j], j < k */
    const float *metric;     /* [16 blocks][4][4], M_B */
    const float *norm;       /* c' M_B c / 2 of the 256 codes, by block norm_ld apart */
    int64_t norm_ld;
    const float *value;      /* [256][4] */
    float cs, zp;
    const float *w, *t;      /* rows: targets; the same after the errors of earlier groups */
    const float *s, *l0;     /* a row each: super scale; the middle local scale, 1..15 */
    int width;               /* l0 - width .. l0 + width are tried */
    float *e;                /* rows: w less what the codes stand for */
    uint8_t *bytes, *local;  /* [16 blocks][16 columns]; [16 columns] */
    float loss[CCQ_PANEL];
} ccq_loop_group;

/* A group in coordinate descent; columns may be on different lines. */
typedef struct ccq_descent_group {
    const float *h;                 /* [64][64], H_gg */
    const float *turned[CCQ_PANEL]; /* [4][16][16]: value i of code 16 b + a at [i][a][b] */
    const float *norm[CCQ_PANEL];   /* c' H_BB c / 2, [16][16] likewise; by block norm_ld apart */
    int64_t norm_ld;
    const float *cs, *zp, *s;       /* a row each */
    const int *active;              /* which columns may change */
    int joint;                      /* whether to try l - 1 and l + 1 with new codes */
    const float *r;                 /* rows of H e */
    float *c, *byte, *l;            /* rows: values [64], bytes [16], local scale [1] */
    float *back;                    /* rows: old less new decoded weights */
} ccq_descent_group;

typedef struct ccq_feedback_ops {
    /* acc += A x: 64 rows each, A [64][64]; an element of acc is a chain over columns. */
    void (*tile)(const float *a, const float *x, float *acc);
    /* rms of a group of rows: ccq_panel_ops.rms of each column. */
    void (*rms)(const float *w, float rms[CCQ_PANEL]);
    void (*loop)(ccq_loop_group *g);
    /* 0: nothing changed, back is all zero. */
    int (*descend)(const ccq_descent_group *g);
    /* sum[c] += a * b in fp64, rows ascending. */
    void (*dot)(const float *a, const float *b, int64_t rows, double sum[CCQ_PANEL]);
    /* wint4: cost[c] = sum over rows of weight (w - q s)^2 in fp64, q the nearest to w / s,
     * ties to even, within +-7. */
    void (*cost4)(const float *w, const double *weight, int64_t rows, const float *s,
                  double cost[CCQ_PANEL]);
    /* wint4: a group of rows; w, t, u as above; q: 64 rows of 16. */
    void (*rows4)(const float *u, const float *w, const float *t, const float *s, int8_t *q,
                  float *e);
} ccq_feedback_ops;

#endif
