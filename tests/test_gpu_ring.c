/* Risk: K so long that the slots of a ring are used again and again: one used before its copy
 * is there, filled again before all are past it, or with another block; the last turns of
 * splits that are not equally long.
 *
 *     test_gpu_ring [cuda] */
#include "tests/gpu_experts_bed.h"

static ccq_gpu *gpu;

/* Every number of rows that has a kernel, and more than one pass of the largest. */
static void test_few(uint64_t *seed, int64_t hidden, int64_t inter, const int *counts)
{
    bed b;
    step s;
    float *y;

    make_bed(&b, gpu, seed, 4, 1, hidden, inter, 0x1p-9f);
    s = make_step(seed, &b, counts);
    y = malloc((size_t)(s.rows * hidden) * sizeof *y);
    for (int rounding = 0; rounding < 3; rounding++)
        check_call(&b, &s, (way){rounding, rounding % 2, 0, CCQ_GPU_WAY_FEW}, 0, y);
    free(y);
    free_step(&s);
    free_bed(&b);
}

/* rows: of a block of threads, what the counts must come to. */
static void test_wide(uint64_t *seed, int64_t hidden, int64_t inter, const int *counts, int rows)
{
    const int roundings[] = {CCQ_ROUND_FUSED, CCQ_ROUND_NONE};
    ccq_gpu_experts p = {.experts = 2};
    bed b;
    step s;
    float *y;

    make_bed(&b, gpu, seed, 2, 1, hidden, inter, 0x1p-9f);
    s = make_step(seed, &b, counts);
    p.rows = s.rows;
    CHECK(ccq_w2_wide_rows(&p) == rows, "%d rows of a block, not %d", ccq_w2_wide_rows(&p), rows);
    y = malloc((size_t)(s.rows * hidden) * sizeof *y);
    for (int i = 0; i < 2; i++)
        check_call(&b, &s, (way){roundings[i], i, CCQ_GPU_WAY_WIDE, CCQ_GPU_WAY_WIDE}, 0, y);
    free(y);
    free_step(&s);
    free_bed(&b);
}

int main(int argc, char **argv)
{
    uint64_t seed = check_seed(23);

    gpu = bed_open(argc, argv);
    test_few(&seed, 8192, 128, (const int[]){1, 12, 20, 35});
    test_few(&seed, 128, 3584, (const int[]){40, 7, 16, 23});
    test_wide(&seed, 2048, 128, (const int[]){35, 20}, 32);
    test_wide(&seed, 128, 2048, (const int[]){70, 30}, 64);
    test_wide(&seed, 1920, 128, (const int[]){140, 20}, 128);
    test_wide(&seed, 128, 1152, (const int[]){270, 20}, 256);
    print_worst();
    return bed_close(gpu);
}
