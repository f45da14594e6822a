/* Risk: experts of many rows, by way of wgmma's layouts or of dense products, give something
 * else than fp64 and than those of few rows: rows or columns in another place, a chunk of rows
 * or a group left out or taken twice, what is where rows are missing among the sums.
 *
 *     test_gpu_wide [cuda] */
#include "tests/gpu_experts_bed.h"

static ccq_gpu *gpu;

/* y of few rows, y of many: both within the bound of one product, of truths that are the same
 * but for values of h that are rounded to different sides; so twice that bound lies between. */
static void compare(const char *what, const float *a, const float *b, int64_t rows, int64_t n)
{
    int64_t bad = 0;

    for (int64_t r = 0; r < rows; r++) {
        double square = 0;
        for (int64_t i = r * n; i < (r + 1) * n; i++)
            square += (double)a[i] * (double)a[i];
        for (int64_t i = r * n; i < (r + 1) * n; i++)
            bad += !(fabs((double)a[i] - (double)b[i]) <=
                     2 * bound_of((double)a[i], sqrt(square / (double)n), CCQ_ROUND_FUSED));
    }
    CHECK(!bad, "%s: %" PRId64 " of %" PRId64 " outputs", what, bad, rows * n);
}

/* counts: rows of each expert; goes: WIDE or DENSE. */
static void check_way(uint64_t *seed, const bed *b, const int *counts, int rounding, int order,
                      int goes)
{
    step s = make_step(seed, b, counts);
    size_t count = (size_t)(s.rows * b->hidden);
    float *y = malloc(count * sizeof *y), *few = malloc(count * sizeof *few);
    char what[80];

    snprintf(what, sizeof what, "rounding %d, order %d, %" PRId64 " rows", rounding, order, s.rows);
    run(b, &s, (way){rounding, order, CCQ_GPU_WAY_FEW, CCQ_GPU_WAY_FEW}, NULL, few);
    check_call(b, &s, (way){rounding, order, CCQ_GPU_WAY_MANY, goes}, 1, y);
    compare(what, few, y, s.rows, b->hidden);
    free(few);
    free(y);
    free_step(&s);
}

/* Every half of a group has a place of its own, in staged rows and in a slot. */
static void check_maps(void)
{
    uint8_t there[CCQ_W2_WIDE_MOST * CCQ_W2_WIDE_ROW / 2] = {0};
    for (int i = 0; i < CCQ_GROUP; i++)
        CHECK(ccq_w2_wide_half(ccq_w2_wide_row(i)) == i, "half %d", i);
    for (int row = 0; row < CCQ_W2_WIDE_MOST; row++)
        for (int i = 0; i < CCQ_GROUP; i++)
            there[ccq_w2_wide_swizzle(row, i) / 2]++;
    for (size_t i = 0; i < sizeof there; i++)
        CHECK(there[i] == 1, "half %zu of a slot: %d times", i, there[i]);
}

/* 32, 64, 128 and 256 rows of a block of threads. */
static void test_wide(uint64_t *seed)
{
    static const int counts[][3] = {{3, 40, 0}, {90, 7, 33}, {0, 0, 300}, {30, 0, 400}};
    bed b;

    make_bed(&b, gpu, seed, 3, 1, 256, 128, 0x1p-8f);
    for (int i = 0; i < 4; i++) {
        const ccq_gpu_experts p = {
            .experts = 3, .rows = counts[i][0] + counts[i][1] + counts[i][2]};
        CHECK(ccq_w2_wide_rows(&p) == 32 << i, "%d rows of a block", ccq_w2_wide_rows(&p));
        for (int order = 0; order < 2; order++) {
            if (i < 3 || order)
                check_way(seed, &b, counts[i], CCQ_ROUND_FUSED, order, CCQ_GPU_WAY_WIDE);
            if (i < 3 || !order)
                check_way(seed, &b, counts[i], CCQ_ROUND_NONE, order, CCQ_GPU_WAY_WIDE);
        }
    }
    free_bed(&b);
}

/* Two chunks of rows; weights with a tile of floats. */
static void test_dense(uint64_t *seed)
{
    const int counts[] = {0, 2 * CCQ_W2_DENSE_ROWS + 3};
    bed b;

    make_bed(&b, gpu, seed, 2, 1, 128, 128, 0x1p-8f);
    check_way(seed, &b, counts, CCQ_ROUND_FUSED, CCQ_ORDER_FASTDEPLOY, CCQ_GPU_WAY_DENSE);
    free_bed(&b);
}

int main(int argc, char **argv)
{
    uint64_t seed = check_seed(21);

    gpu = bed_open(argc, argv);
    check_maps();
    test_wide(&seed);
    test_dense(&seed);
    print_worst();
    return bed_close(gpu);
}
