/* Risk: experts of many rows, by way of wgmma's layouts or of dense products, give something
 * else than those of few rows: rows or columns in another place, a chunk of rows, a group or a
 * slot of the ring left out or taken twice, zeros where rows are missing not zero.
 *
 *     test_gpu_wide [cuda] */
#include "kernels/gpu/wint2_dense.h"
#include "kernels/gpu_host.h"
#include "kernels/gpu_model.h"
#include "kernels/gpu_wint2.h"
#include "tests/check.h"

#include <math.h>

typedef struct fixture {
    ccq_gpu *gpu;
    uint64_t rng;
    int64_t hidden, inter, experts;
    ccq_gpu_matrix *host[2], *device[2];
    void *memory[2];
} fixture;

#define GPU(f, call)                                                                               \
    REQUIRE((call) == CCQ_GPU_OK, "%s: %s", #call, ccq_gpu_error((f)->gpu))

static void *take(fixture *f, const void *from, size_t size)
{
    void *memory;
    GPU(f, ccq_gpu_alloc(f->gpu, size, &memory));
    GPU(f, from ? ccq_gpu_upload(f->gpu, memory, from, size)
                : ccq_gpu_fill(f->gpu, memory, 0xff, size));
    return memory;
}

/* An inexact tile now and then. */
static void make_half(fixture *f, int half, int64_t k, int64_t n)
{
    size_t bytes = (size_t)(k * n / 4 + k * n / 128 + 10 * n), one = ccq_gpu_wint2_bytes(k, n);
    uint8_t *disk = malloc(bytes);
    REQUIRE(disk && one, "memory");
    f->memory[half] = take(f, NULL, one * (size_t)f->experts);
    f->host[half] = calloc((size_t)f->experts, sizeof *f->host[half]);
    for (int64_t e = 0; e < f->experts; e++) {
        float *cs = (float *)(void *)disk, *zp = cs + n;
        uint16_t *super = (uint16_t *)(void *)(zp + n);
        uint8_t *codes = (uint8_t *)(super + n);
        for (int64_t i = 0; i < n; i++) {
            cs[i] = e == f->experts / 2 && i == 5 ? 90.123456f : 120.94921875f;
            zp[i] = e == f->experts / 2 && i == 5 ? 20000.3333f : 1253.75f;
            super[i] = ccq_f32_to_bf16(0.002f * (float)(0.5 + check_uniform(&f->rng)));
        }
        for (int64_t i = 0; i < k * n / 4 + k * n / 128; i++)
            codes[i] = (uint8_t)check_next(&f->rng);
        char *there = take(f, disk, bytes);
        ccq_weight w = {.type = CCQ_W_WINT2, .k = k, .n = n, .code_scale = (float *)(void *)there,
                        .code_zp = (float *)(void *)(there + 4 * n),
                        .super = (uint16_t *)(void *)(there + 8 * n),
                        .data = there + 10 * n, .local = (uint8_t *)there + 10 * n + k * n / 4};
        ccq_gpu_wint2_found found;
        GPU(f, ccq_gpu_wint2(f->gpu)->repack(f->gpu, &w, !half,
                                             (char *)f->memory[half] + (size_t)e * one,
                                             &f->host[half][e], &found));
        ccq_gpu_free(f->gpu, there);
    }
    f->device[half] = take(f, f->host[half], (size_t)f->experts * sizeof *f->host[half]);
    free(disk);
}

static void run(fixture *f, ccq_gpu_experts *p, int large, float *y, size_t count)
{
    GPU(f, ccq_gpu_fill(f->gpu, p->y, 0xff, count * sizeof *y));
    p->large = large;
    GPU(f, ccq_gpu_wint2(f->gpu)->experts(f->gpu, p));
    GPU(f, ccq_gpu_download(f->gpu, y, p->y, count * sizeof *y));
}

static double rms_of(const float *y, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += (double)y[i] * (double)y[i];
    return sqrt(sum / (double)count);
}

static void compare(const char *what, const float *a, const float *b, size_t rows, size_t n)
{
    for (size_t r = 0; r < rows; r++) {
        double rms = rms_of(a + r * n, n);
        for (size_t i = r * n; i < (r + 1) * n; i++) {
            double d = fabs((double)a[i] - (double)b[i]);
            CHECK(d <= 0x1p-8 * fabs((double)a[i]) + 4e-3 * rms, "%s: row %zu, column %zu: %g, %g",
                  what, r, i - r * n, (double)a[i], (double)b[i]);
            if (!(d <= 0x1p-8 * fabs((double)a[i]) + 4e-3 * rms))
                return; /* one is enough */
        }
    }
}

/* counts: rows of each expert. */
static void check(fixture *f, const int32_t *counts, int rounding, int order)
{
    int32_t start[8] = {0}, *from;
    size_t rows, h = (size_t)f->hidden;
    for (int64_t e = 0; e < f->experts; e++)
        start[e + 1] = start[e] + counts[e];
    rows = (size_t)start[f->experts];
    from = malloc((rows + 1) * sizeof *from);
    float *x = malloc((rows + 1) * h * sizeof *x), *y[3];
    for (size_t i = 0; i < rows; i++)
        from[i] = (int32_t)((i * 7 + 3) % rows);
    for (size_t i = 0; i < rows * h; i++)
        x[i] = ccq_round_bf16((float)(check_uniform(&f->rng) - 0.5));
    ccq_gpu_experts p = {
        .up_gate = f->device[0], .down = f->device[1], .host_up_gate = f->host[0],
        .host_down = f->host[1], .experts = f->experts, .hidden = f->hidden, .inter = f->inter,
        .x = take(f, x, rows * h * sizeof *x), .ldx = f->hidden,
        .start = take(f, start, sizeof start), .from = take(f, from, rows * sizeof *from),
        .rows = (int64_t)rows, .most = (int64_t)rows, .rounding = rounding, .order = order,
        .y = take(f, NULL, rows * h * sizeof *x),
        .work = take(f, NULL, ccq_gpu_wint2(f->gpu)->work(f->gpu, f->experts, f->hidden, f->inter,
                                                          (int64_t)rows))};
    char what[80];
    snprintf(what, sizeof what, "rounding %d, order %d, %d rows", rounding, order, (int)rows);
    for (int i = 0; i < 3; i++) {
        y[i] = malloc((rows + 1) * h * sizeof *x);
        run(f, &p, i > 0, y[i], rows * h);
    }
    compare(what, y[0], y[1], rows, h);
    CHECK(!memcmp(y[1], y[2], rows * h * sizeof *x), "%s: twice, and not the same bits", what);
    void *all[] = {(void *)(uintptr_t)p.x, (void *)(uintptr_t)p.start, (void *)(uintptr_t)p.from,
                   p.y, p.work};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        ccq_gpu_free(f->gpu, all[i]);
    for (int i = 0; i < 3; i++)
        free(y[i]);
    free(x);
    free(from);
}

/* Every half of a group has a place of its own, in staged rows and in a slot. */
static void check_maps(void)
{
    uint8_t seen[CCQ_W2_WIDE_MOST * CCQ_W2_WIDE_ROW / 2] = {0};
    for (int i = 0; i < CCQ_GROUP; i++)
        CHECK(ccq_w2_wide_half(ccq_w2_wide_row(i)) == i, "half %d", i);
    for (int row = 0; row < CCQ_W2_WIDE_MOST; row++)
        for (int i = 0; i < CCQ_GROUP; i++)
            seen[ccq_w2_wide_swizzle(row, i) / 2]++;
    for (size_t i = 0; i < sizeof seen; i++)
        CHECK(seen[i] == 1, "half %zu of a slot: %d times", i, seen[i]);
}

static void open_fixture(fixture *f, int64_t hidden, int64_t inter, int64_t experts)
{
    f->hidden = hidden;
    f->inter = inter;
    f->experts = experts;
    make_half(f, 0, f->hidden, 2 * f->inter);
    make_half(f, 1, f->inter, f->hidden);
}

static void close_fixture(fixture *f)
{
    for (int half = 0; half < 2; half++) {
        ccq_gpu_free(f->gpu, f->memory[half]);
        ccq_gpu_free(f->gpu, f->device[half]);
        free(f->host[half]);
    }
}

int main(int argc, char **argv)
{
    fixture f = {.rng = 0};
    char why[CCQ_GPU_TEXT];
    int kind = argc > 1 && !strcmp(argv[1], "cuda") ? CCQ_GPU_CUDA : CCQ_GPU_HOST;
    static const int32_t counts[][3] = {{3, 40, 0}, {90, 7, 33}, {0, 0, 300}};
    static const int32_t many[] = {0, 2 * CCQ_W2_DENSE_ROWS + 3}; /* two chunks of them */

    f.rng = check_seed(21);
    check_maps();
    if (ccq_gpu_open(kind, 0, &f.gpu, why)) {
        printf("%s\n", why);
        return 77;
    }
    open_fixture(&f, 256, 128, 3);
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        for (int order = 0; order < 2; order++) {
            check(&f, counts[i], CCQ_ROUND_FUSED, order);
            check(&f, counts[i], CCQ_ROUND_NONE, order);
        }
    close_fixture(&f);
    open_fixture(&f, 128, 128, 2);
    check(&f, many, CCQ_ROUND_FUSED, CCQ_ORDER_FASTDEPLOY);
    close_fixture(&f);
    if (kind == CCQ_GPU_HOST)
        CHECK(!ccq_gpu_host_broken(f.gpu), "memory was written past its end");
    ccq_gpu_close(f.gpu);
    return check_done();
}
