/* Row by row for wint4, sums, and the table: the last part of kernels/feedback_body.h.
 * Products of two floats are exact in fp64, so these sums need no fma. */
#ifndef CCQ_KERNELS_FEEDBACK_ROWS_H
#define CCQ_KERNELS_FEEDBACK_ROWS_H

#include "kernels/feedback_descent.h"

static void dot(const float *a, const float *b, int64_t rows, double sum[CCQ_PANEL])
{
    double x[CCQ_PANEL];

    memcpy(x, sum, sizeof x);
    for (int64_t i = 0; i < rows * CCQ_PANEL; i += CCQ_PANEL)
        for (int c = 0; c < CCQ_PANEL; c++)
            x[c] += (double)a[i + c] * (double)b[i + c];
    memcpy(sum, x, sizeof x);
}

/* To the nearest integer within +-7, ties to even. */
INLINE float nearest7(float x)
{
    x = x < -7.0f ? -7.0f : x;
    x = x > 7.0f ? 7.0f : x;
    return (x + magic) - magic;
}

static void cost4(const float *w, const double *weight, int64_t rows, const float *s,
                  double cost[CCQ_PANEL])
{
    double x[CCQ_PANEL] = {0};

    for (int64_t i = 0; i < rows; i++)
        for (int c = 0; c < CCQ_PANEL; c++) {
            float v = w[i * CCQ_PANEL + c], e = v - nearest7(v / s[c]) * s[c];
            x[c] += weight[i] * ((double)e * (double)e);
        }
    memcpy(cost, x, sizeof x);
}

static void rows4(const float *u, const float *w, const float *t, const float *s, int8_t *q,
                  float *e)
{
    row done[1][CCQ_GROUP];

    for (int at = 0; at < CCQ_GROUP; at += CCQ_WINDOWS) {
        lanes r[1][CCQ_WINDOWS];
        UNROLL
        for (int i = 0; i < CCQ_WINDOWS; i++)
            r[0][i] = v_load(t + (at + i) * CCQ_PANEL);
        feed(u + at * CCQ_GROUP, at, 1, done, r);
        for (int i = at; i < at + CCQ_WINDOWS; i++) {
            row x;
            for (int j = at; j < i; j++)
                r[0][i - at] = v_fma(v_set(u[i * CCQ_GROUP + j]), v_load(done[0][j]), r[0][i - at]);
            v_store(x, r[0][i - at]);
            for (int c = 0; c < CCQ_PANEL; c++) {
                float n = nearest7(x[c] / s[c]);
                q[i * CCQ_PANEL + c] = (int8_t)n;
                done[0][i][c] = w[i * CCQ_PANEL + c] - n * s[c];
            }
        }
    }
    memcpy(e, done[0], sizeof done[0]);
}

INLINE void fill(ccq_feedback_ops *ops)
{
    ops->tile = tile;
    ops->rms = rms;
    ops->loop = loop;
    ops->descend = descend;
    ops->dot = dot;
    ops->cost4 = cost4;
    ops->rows4 = rows4;
}

#endif
