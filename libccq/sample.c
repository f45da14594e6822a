/* The next id from a row of logits. */
#include "libccq/run.h"

#include <math.h>
#include <stdlib.h>

void ccq_sampling_default(ccq_sampling *s)
{
    s->temperature = 1;
    s->top_p = 1;
    s->top_k = 0;
    s->seed = 0;
}

int32_t ccq_argmax(const float *logits, int64_t valid)
{
    int64_t best = 0;

    for (int64_t i = 1; i < valid; i++)
        if (logits[i] > logits[best])
            best = i;
    return (int32_t)best;
}

/* splitmix64's output for the (step + 1)-th state after seed: no state is kept. */
double ccq_sample_uniform(uint64_t seed, uint64_t step)
{
    uint64_t z = seed + (step + 1) * 0x9E3779B97F4A7C15u;

    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    return (double)(z >> 11) * 0x1p-53;
}

/* Descending z, then ascending id: a total order, so any sort gives one result. */
static int by_z(const void *pa, const void *pb)
{
    const ccq_candidate *a = pa, *b = pb;

    if (a->z != b->z)
        return a->z > b->z ? -1 : 1;
    return a->id < b->id ? -1 : a->id > b->id;
}

/* How many of the n candidates stand in the shortest prefix that reaches top_p of
 * their softmax. */
static int64_t nucleus(const ccq_candidate *c, int64_t n, double sum, double top_p)
{
    double reached = 0;
    int64_t i;

    if (top_p >= 1)
        return n;
    for (i = 0; i < n; i++) {
        reached += exp((double)c[i].z - (double)c[0].z) / sum;
        if (reached >= top_p)
            return i + 1;
    }
    return n;
}

static double exp_sum(const ccq_candidate *c, int64_t n)
{
    double sum = 0;

    for (int64_t i = 0; i < n; i++)
        sum += exp((double)c[i].z - (double)c[0].z);
    return sum;
}

int32_t ccq_sample(const float *logits, int64_t valid, const ccq_sampling *s, uint64_t step,
                   ccq_candidate *c)
{
    double u = ccq_sample_uniform(s->seed, step), sum, reached = 0;
    int64_t n = valid, i;

    if (!(s->temperature > 0) || !(s->top_p > 0) || s->top_k == 1)
        return ccq_argmax(logits, valid);
    for (i = 0; i < valid; i++) {
        c[i].z = logits[i] / s->temperature;
        c[i].id = (int32_t)i;
    }
    qsort(c, (size_t)valid, sizeof *c, by_z);
    if (!isfinite(c[0].z))
        return ccq_argmax(logits, valid); /* so cold that only the best is left */
    if (s->top_k > 0 && s->top_k < n)
        n = s->top_k;
    n = nucleus(c, n, exp_sum(c, n), s->top_p);
    sum = exp_sum(c, n);
    for (i = 0; i < n - 1; i++) {
        reached += exp((double)c[i].z - (double)c[0].z) / sum;
        if (reached > u)
            break;
    }
    return c[i].id;
}

int ccq_top_logprobs(const float *logits, int64_t valid, int n, int32_t *ids, double *logprobs)
{
    double sum = 0, max = (double)logits[ccq_argmax(logits, valid)];
    int count = 0;

    for (int64_t i = 0; i < valid; i++) {
        sum += exp((double)logits[i] - max);
        /* insertion: a later id goes behind its equals */
        int at = count;
        while (at > 0 && logits[i] > logits[ids[at - 1]])
            at--;
        if (at >= n)
            continue;
        count += count < n;
        for (int j = count - 1; j > at; j--)
            ids[j] = ids[j - 1];
        ids[at] = (int32_t)i;
    }
    for (int j = 0; j < count; j++)
        logprobs[j] = (double)logits[ids[j]] - max - log(sum);
    return count;
}
