/* Softmax and choice of a router's row: the one definition, of C and of the devices. */
#ifndef CCQ_KERNELS_ROUTER_H
#define CCQ_KERNELS_ROUTER_H

#include "kernels/exp.h"

#include <math.h>

/* exp(l - m). The difference alone would be off by 2^-20 at p = 1e-13; the bits
 * that it loses come back as a first-order factor. */
static inline CCQ_HD float ccq_router_exp(float l, float m)
{
    double exact = (double)l - (double)m;
    float d = (float)exact, lost = (float)(exact - (double)d), p = ccq_exp_inline(d);

    return p > 0 ? __builtin_fmaf(p, lost, p) : p; /* l = -inf: lost is NaN */
}

static inline CCQ_HD float ccq_router_max(const float *l, int64_t count)
{
    float m = -INFINITY;
    int64_t e;

    for (e = 0; e < count; e++)
        m = l[e] > m ? l[e] : m;
    return m;
}

static inline CCQ_HD float ccq_router_sum(const float *p, int64_t count)
{
    float sum = 0;
    int64_t e;

    for (e = 0; e < count; e++)
        sum += p[e];
    return sum;
}

/* Whether expert a is chosen before b: by score, on a tie by number, NaN last. A total
 * order, so that going through it one by one and counting who is ahead agree. */
static inline CCQ_HD int ccq_router_ahead(const float *score, int64_t a, int64_t b)
{
    int number_a = score[a] == score[a], number_b = score[b] == score[b];

    if (number_a != number_b)
        return number_a;
    return score[a] > score[b] || (!(score[b] > score[a]) && a < b);
}

#endif
