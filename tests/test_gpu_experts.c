/* Risk: feed-forward blocks of wint2 experts of few rows are not those of fp64 with the matching
 * weights: rows or columns in another place, a rounding too many or too few, what is no number
 * in other rows than its own, ranges that leave what halves or floats hold.
 *
 *     test_gpu_experts [cuda] */
#include "tests/gpu_experts_bed.h"

static ccq_gpu *gpu;

/* ---- Tests --------------------------------------------------------------- */

static void one_case(const bed *b, const step *s, int rounding, int order, int large)
{
    int wide = large && rounding != CCQ_ROUND_UNZIP;
    float *y = malloc((size_t)(s->rows * b->hidden + 1) * sizeof *y);
    way w = {rounding, order, large, wide ? CCQ_GPU_WAY_WIDE : CCQ_GPU_WAY_FEW};

    check_call(b, s, w, 1, y);
    free(y);
}

static void test_counts(uint64_t *seed, const bed *b, int cases)
{
    const int counts[][EXPERTS] = {
        {1, 0, 9, 17, 3, 2}, {0, 0, 37, 0, 0, 0}, {0, 0, 0, 0, 0, 1}, {8, 1, 1, 0, 0, 25}};

    for (int i = 0; i < cases; i++) {
        step s = make_step(seed, b, counts[i]);
        for (int rounding = 0; rounding < 3; rounding++)
            one_case(b, &s, rounding, (i + rounding) % 2, 0);
        if (!i)
            one_case(b, &s, CCQ_ROUND_FUSED, CCQ_ORDER_PLAIN, 0);
        one_case(b, &s, i % 2 ? CCQ_ROUND_NONE : CCQ_ROUND_FUSED, CCQ_ORDER_FASTDEPLOY, 1);
        free_step(&s);
    }
}

static void test_no_rows(uint64_t *seed, const bed *b)
{
    const int counts[EXPERTS] = {0};
    step s = make_step(seed, b, counts);

    run(b, &s, (way){CCQ_ROUND_FUSED, 0, 0, CCQ_GPU_WAY_FEW}, NULL, NULL);
    run(b, &s, (way){CCQ_ROUND_NONE, 0, 1, CCQ_GPU_WAY_WIDE}, NULL, NULL);
    free_step(&s);
}

/* One value of one row that is no number: all of that row's outputs, and no bit of others. */
static void test_nan(uint64_t *seed, const bed *b)
{
    const int counts[EXPERTS] = {2, 3, 0, 11, 1, 2};
    const float poison[2] = {NAN, INFINITY};
    step s = make_step(seed, b, counts);
    size_t count = (size_t)(s.rows * b->hidden);
    float *y = malloc(count * sizeof *y), *clean = malloc(count * sizeof *y);

    for (int i = 0; i < 8; i++) {
        int rounding = i & 2 ? CCQ_ROUND_NONE : CCQ_ROUND_FUSED, large = i / 4, bad = 0;
        int64_t row = s.from[5 + i], at = row * b->hidden + 34 * i;
        float was = s.x[at];
        way w = {rounding, 0, large, large ? CCQ_GPU_WAY_WIDE : CCQ_GPU_WAY_FEW};
        run(b, &s, w, NULL, clean);
        s.x[at] = poison[i % 2];
        run(b, &s, w, NULL, y);
        s.x[at] = was;
        for (size_t j = 0; j < count; j++) {
            int hit = s.from[j / (size_t)b->hidden] == row;
            bad += hit ? !(y[j] - y[j] != 0) : memcmp(y + j, clean + j, sizeof *y) != 0;
        }
        CHECK(!bad, "rounding %d, large %d: %d outputs", rounding, large, bad);
    }
    free(clean);
    free(y);
    free_step(&s);
}

/* Values 2^40 apart in a row, rows of subnormals, of zeros, of the largest. */
static void test_ranges(uint64_t *seed)
{
    const int counts[EXPERTS] = {3, 0, 2, 4, 0, 1};
    bed b;
    step s;

    make_bed(&b, gpu, seed, EXPERTS, 2, 256, 128, 0x1p118f);
    s = make_step(seed, &b, counts);
    for (int64_t i = 0; i < s.rows * b.hidden; i++) {
        float tiny = ccq_round_bf16(s.x[i] * 0x1p-129f);
        int64_t row = i / b.hidden;
        s.x[i] = row % 3 == 0 ? tiny : row % 3 == 1 ? 0.0f : ldexpf(tiny, (int)(i * 7 % 40) - 36);
    }
    for (int i = 0; i < 6; i++)
        one_case(&b, &s, i % 3, 0, i / 3);
    free_step(&s);
    free_bed(&b);
    make_bed(&b, gpu, seed, EXPERTS, 2, 256, 128, 0x1p-120f);
    s = make_step(seed, &b, counts);
    for (int64_t i = 0; i < s.rows * b.hidden; i++)
        s.x[i] = ldexpf(s.x[i], 116 - (int)(i * 7 % 40) * (i / b.hidden % 2));
    for (int i = 0; i < 6; i++)
        one_case(&b, &s, i % 3, 1, i / 3);
    free_step(&s);
    free_bed(&b);
}

static void test_refused(const bed *b)
{
    ccq_gpu_experts p = {.host_up_gate = b->m[0], .host_down = b->m[1], .experts = EXPERTS,
                         .hidden = b->hidden, .inter = b->inter + 64};

    CHECK(ccq_gpu_wint2(gpu)->experts(gpu, &p) == CCQ_GPU_FAILED, "a size between blocks");
    p.inter = b->inter + 128;
    CHECK(ccq_gpu_wint2(gpu)->experts(gpu, &p) == CCQ_GPU_FAILED, "other matrices");
    p.inter = b->inter;
    p.rounding = 3;
    CHECK(ccq_gpu_wint2(gpu)->experts(gpu, &p) == CCQ_GPU_FAILED, "a rounding");
}

int main(int argc, char **argv)
{
    uint64_t seed = check_seed(21);
    bed b;

    gpu = bed_open(argc, argv);
    make_bed(&b, gpu, &seed, EXPERTS, 2, 256, 128, 0x1p-7f);
    test_counts(&seed, &b, 4);
    test_no_rows(&seed, &b);
    test_nan(&seed, &b);
    test_refused(&b);
    free_bed(&b);
    make_bed(&b, gpu, &seed, EXPERTS, 2, 640, 384, 0x1p-8f);
    test_counts(&seed, &b, 1);
    free_bed(&b);
    test_ranges(&seed);
    print_worst();
    return bed_close(gpu);
}
