/* Which experts see a row, and the sum of what they answer. */
#include "kernels/ops.h"
#include "kernels/router.h"

enum { LANES = 8 }; /* experts summed side by side */

/* Logits of experts e0..e0+count-1: double sums over ascending k, one rounding. */
static void logits(const float *h, const float *w, int64_t hidden, int64_t experts, int64_t e0,
                   int64_t count, float *l)
{
    double sum[LANES] = {0};
    int64_t k, j;

    for (k = 0; k < hidden; k++)
        for (j = 0; j < count; j++)
            sum[j] += (double)h[k] * (double)w[k * experts + e0 + j];
    for (j = 0; j < count; j++)
        l[j] = (float)sum[j];
}

/* In place; returns -1 when the sum is not a number. */
static int softmax(float *p, int64_t count)
{
    float m = ccq_router_max(p, count), sum;
    int64_t e;

    for (e = 0; e < count; e++)
        p[e] = ccq_router_exp(p[e], m);
    sum = ccq_router_sum(p, count);
    for (e = 0; e < count; e++)
        p[e] = p[e] / sum;
    return sum == sum ? 0 : -1;
}

/* The best expert that is not among the first `taken` ids, or -1. */
static int32_t best(const float *score, int64_t experts, const int32_t *ids, int64_t taken)
{
    int32_t found = -1, e;
    int64_t i;

    for (e = 0; e < experts; e++) {
        for (i = 0; i < taken && ids[i] != e; i++)
            ;
        if (i == taken && (found < 0 || ccq_router_ahead(score, e, found)))
            found = e;
    }
    return found;
}

int ccq_router(const float *h, const float *w, const float *bias, int64_t hidden, int64_t experts,
               int64_t top_k, int32_t *ids, float *weights, float *margin, float *scratch)
{
    float *p = scratch, *score = scratch + experts;
    int64_t e, i;

    for (e = 0; e < experts; e += LANES)
        logits(h, w, hidden, experts, e, experts - e < LANES ? experts - e : LANES, p + e);
    if (softmax(p, experts))
        return -1;
    for (e = 0; e < experts; e++)
        score[e] = bias ? p[e] + bias[e] : p[e];
    for (i = 0; i < top_k; i++) {
        ids[i] = best(score, experts, ids, i);
        weights[i] = p[ids[i]];
    }
    if (margin) {
        int32_t next = best(score, experts, ids, top_k);
        *margin = next < 0 ? INFINITY : score[ids[top_k - 1]] - score[next];
    }
    return 0;
}

void ccq_combine(const float *y, int64_t ld, const float *weights, int64_t top_k, int64_t h,
                 int bf16, float *out)
{
    float sum = 0;
    int64_t i, j;

    for (j = 0; j < top_k; j++)
        sum += weights[j];
    for (i = 0; i < h; i++) {
        float acc = 0;
        for (j = 0; j < top_k; j++)
            acc = __builtin_fmaf(weights[j], y[j * ld + i], acc);
        acc /= sum;
        out[i] = bf16 ? ccq_round_bf16(acc) : acc;
    }
}
