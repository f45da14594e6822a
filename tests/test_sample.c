/* Sampling against vectors worked by hand. */
#include "tests/check.h"

#include "libccq/run.h"

#include <math.h>

/* The first three outputs of splitmix64 from seed 0, and from 1234567 (published). */
static void check_uniform_vectors(void)
{
    static const uint64_t zero[] = {0xE220A8397B1DCDAFu, 0x6E789E6AA1B965F4u, 0x06C45D188009454Fu};
    static const uint64_t other[] = {6457827717110365317u, 3203168211198807973u,
                                     9817491932198370423u};
    for (uint64_t i = 0; i < 3; i++) {
        CHECK(ccq_sample_uniform(0, i) == (double)(zero[i] >> 11) * 0x1p-53, "seed 0, step %d",
              (int)i);
        CHECK(ccq_sample_uniform(1234567, i) == (double)(other[i] >> 11) * 0x1p-53,
              "seed 1234567, step %d", (int)i);
    }
}

/* One distribution with its answer: ids in drawing order with the share of each. */
typedef struct vector {
    const char *name;
    float logits[6];
    int64_t valid;
    ccq_sampling s;
    int count;
    int32_t id[6];
    double share[6];
} vector;

#define LN2 0.69314718f
#define LN3 1.0986123f
#define LN4 1.3862944f

static const vector vectors[] = {
    {"plain", {LN2, LN4, 0, LN3, 9, 9}, 4, {1, 1, 0, 0}, 4, {1, 3, 0, 2}, {.4, .3, .2, .1}},
    {"valid cuts",
     {LN2, LN4, 0, LN3, 9, 9},
     3,
     {1, 1, 0, 0},
     3,
     {1, 0, 2},
     {4. / 7, 2. / 7, 1. / 7}},
    {"half the temperature squares",
     {LN2, LN4, 0, LN3, 9, 9},
     4,
     {0.5f, 1, 0, 0},
     4,
     {1, 3, 0, 2},
     {16. / 30, 9. / 30, 4. / 30, 1. / 30}},
    {"top 2", {LN2, LN4, 0, LN3, 9, 9}, 4, {1, 1, 2, 0}, 2, {1, 3}, {4. / 7, 3. / 7}},
    {"top -1 is off",
     {LN2, LN4, 0, LN3, 9, 9},
     4,
     {1, 1, -1, 0},
     4,
     {1, 3, 0, 2},
     {.4, .3, .2, .1}},
    {"top 9 of 4", {LN2, LN4, 0, LN3, 9, 9}, 4, {1, 1, 9, 0}, 4, {1, 3, 0, 2}, {.4, .3, .2, .1}},
    {"top p keeps what crosses",
     {LN2, LN4, 0, LN3, 9, 9},
     4,
     {1, 0.5, 0, 0},
     2,
     {1, 3},
     {4. / 7, 3. / 7}},
    {"top p below the best", {LN2, LN4, 0, LN3, 9, 9}, 4, {1, 0.1, 0, 0}, 1, {1}, {1}},
    {"top p of what top k left",
     {LN2, LN4, 0, LN3, 9, 9},
     4,
     {1, 0.75, 3, 0},
     2,
     {1, 3},
     {4. / 7, 3. / 7}},
    {"equal logits: ids ascend",
     {1, 1, 1, 1, 1, 1},
     6,
     {1, 1, 0, 0},
     6,
     {0, 1, 2, 3, 4, 5},
     {1. / 6, 1. / 6, 1. / 6, 1. / 6, 1. / 6, 1. / 6}},
    {"equal logits, top 2", {1, 1, 1, 1, 1, 1}, 6, {3, 1, 2, 0}, 2, {0, 1}, {.5, .5}},
    {"temperature 0: lowest of the best", {1, 7, 7, 7, 2, 9}, 5, {0, 1, 0, 0}, 1, {1}, {1}},
    {"top p 0", {1, 7, 7, 7, 2, 9}, 5, {1, 0, 0, 0}, 1, {1}, {1}},
    {"top 1", {1, 7, 7, 7, 2, 9}, 5, {1, 1, 1, 0}, 1, {1}, {1}},
    {"colder than fp32", {1, 7, 7, 7, 2, 9}, 5, {1e-44f, 1, 0, 0}, 1, {1}, {1}},
    {"-inf is never drawn",
     {-INFINITY, 0, -INFINITY, 0, 0, 0},
     4,
     {1, 1, 0, 0},
     2,
     {1, 3},
     {.5, .5}},
};

/* Where u falls among the shares; -1 too near a border to say. */
static int32_t expected(const vector *v, double u)
{
    double reached = 0;

    for (int i = 0; i < v->count; i++) {
        reached += v->share[i];
        if (i + 1 < v->count && fabs(u - reached) < 1e-6)
            return -1;
        if (u < reached || i + 1 == v->count)
            return v->id[i];
    }
    return -1;
}

static void check_vector(const vector *v, uint64_t *state)
{
    ccq_candidate *scratch = check_guarded((size_t)v->valid * sizeof *scratch);
    float *logits = check_guarded((size_t)v->valid * sizeof *logits);

    memcpy(logits, v->logits, (size_t)v->valid * sizeof *logits);
    for (int i = 0; i < 2000; i++) {
        ccq_sampling s = v->s;
        uint64_t step = (uint64_t)i % 50;
        s.seed = check_next(state) >> 1;
        int32_t got = ccq_sample(logits, v->valid, &s, step, scratch);
        int32_t want = expected(v, ccq_sample_uniform(s.seed, step));
        CHECK(want < 0 || got == want, "%s: seed %" PRIu64 " step %d gives %d, not %d", v->name,
              s.seed, (int)step, (int)got, (int)want);
    }
}

static void check_logprobs(void)
{
    static const float logits[] = {LN2, LN4, 0, LN3, LN4, 9};
    static const int32_t order[] = {1, 4, 3, 0, 2};
    static const double p[] = {4. / 14, 4. / 14, 3. / 14, 2. / 14, 1. / 14};
    int32_t ids[8];
    double lp[8];

    CHECK(ccq_top_logprobs(logits, 5, 3, ids, lp) == 3, "three of five");
    CHECK(ccq_top_logprobs(logits, 5, 8, ids, lp) == 5, "all five");
    for (int i = 0; i < 5; i++) {
        CHECK(ids[i] == order[i], "place %d: id %d", i, (int)ids[i]);
        CHECK(fabs(lp[i] - log(p[i])) < 1e-7, "place %d: %.9f", i, lp[i]);
    }
}

int main(void)
{
    uint64_t state = check_seed(2);

    check_uniform_vectors();
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++)
        check_vector(&vectors[i], &state);
    check_logprobs();
    return check_done();
}
