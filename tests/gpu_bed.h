/* What tests of a device's kernels stand on: the device (the host's, or CUDA's when called
 * with the argument cuda), poisoned arrays on it, random numbers. */
#ifndef CCQ_TESTS_GPU_BED_H
#define CCQ_TESTS_GPU_BED_H

#include "kernels/gpu_host.h"
#include "kernels/gpu_model.h"
#include "tests/check.h"

#include <math.h>

enum { BED_ARRAYS = 128 };

typedef struct bed {
    ccq_gpu *gpu;
    const ccq_gpu_model_ops *ops;
    ccq_ops cpu;
    uint64_t rng;
    void *device[BED_ARRAYS], *host[BED_ARRAYS];
    int devices, hosts;
} bed;

#define BED(b, call)                                                                               \
    REQUIRE((call) == CCQ_GPU_OK, "%s: %s", #call, ccq_gpu_error((b)->gpu))

static inline bed bed_open(int argc, char **argv, uint64_t seed)
{
    bed b = {.rng = check_seed(seed)};
    char why[CCQ_GPU_TEXT];
    int cuda = argc > 1 && !strcmp(argv[1], "cuda");
    int code = ccq_gpu_open(cuda ? CCQ_GPU_CUDA : CCQ_GPU_HOST, 0, &b.gpu, why);

    if (code == CCQ_GPU_ABSENT)
        check_skip(why);
    REQUIRE(code == CCQ_GPU_OK, "%s", why);
    b.ops = ccq_gpu_model(b.gpu);
    ccq_ops_init(&b.cpu, CCQ_ISA_C);
    return b;
}

/* Frees what was made since the last time. */
static inline void bed_clear(bed *b)
{
    while (b->devices)
        ccq_gpu_free(b->gpu, b->device[--b->devices]);
    while (b->hosts)
        free(b->host[--b->hosts]);
}

static inline void bed_close(bed *b)
{
    bed_clear(b);
    CHECK(ccq_gpu_kind(b->gpu) != CCQ_GPU_HOST || !ccq_gpu_host_broken(b->gpu),
          "written past an array of the device");
    ccq_gpu_close(b->gpu);
}

/* Device memory with a copy of `from`, or poisoned when NULL. */
static inline void *bed_put(bed *b, const void *from, size_t size)
{
    void *memory;

    REQUIRE(b->devices < BED_ARRAYS, "too many arrays");
    BED(b, ccq_gpu_alloc(b->gpu, size, &memory));
    BED(b, from ? ccq_gpu_upload(b->gpu, memory, from, size)
                : ccq_gpu_fill(b->gpu, memory, 0xff, size));
    b->device[b->devices++] = memory;
    return memory;
}

static inline void *bed_host(bed *b, size_t size)
{
    void *memory = malloc(size + 1);

    REQUIRE(memory && b->hosts < BED_ARRAYS, "no memory");
    memset(memory, 0xff, size);
    b->host[b->hosts++] = memory;
    return memory;
}

/* Host memory with what the device has. */
static inline void *bed_get(bed *b, const void *from, size_t size)
{
    void *memory = bed_host(b, size);
    BED(b, ccq_gpu_download(b->gpu, memory, from, size));
    return memory;
}

/* About normal, of deviation `scale`. */
static inline float bed_number(bed *b, float scale)
{
    double sum = 0;
    for (int i = 0; i < 4; i++)
        sum += check_uniform(&b->rng) - 0.5;
    return (float)(sum * 1.7) * scale;
}

static inline float *bed_floats(bed *b, int64_t count, float scale, int bf16)
{
    float *x = bed_host(b, (size_t)count * sizeof *x);
    for (int64_t i = 0; i < count; i++) {
        x[i] = bed_number(b, scale);
        x[i] = bf16 ? ccq_round_bf16(x[i]) : x[i];
    }
    return x;
}

static inline int64_t bed_below(bed *b, int64_t limit)
{
    return (int64_t)(check_next(&b->rng) % (uint64_t)limit);
}

/* Equal as numbers, NaN like NaN. */
static inline int bed_same(float a, float b)
{
    return a == b || (a != a && b != b);
}

/* A row against its fp64 truth. bf16: |y - y64| <= 2^-8 |y64| + 4e-3 rms, and 3e-3 as a whole;
 * fp32 results 1e-5 as a whole. Of a few outputs the whole says nothing: one rounding is up to
 * 2^-8, and they may all have cancelled. slack: what more than the result is rounded to bf16
 * on the way makes the bounds that much wider. */
static inline int bed_near(const float *y, const double *truth, int64_t count, int bf16,
                           double slack)
{
    double energy = 0, error = 0, rms;
    int good = 1;

    for (int64_t i = 0; i < count; i++) {
        energy += truth[i] * truth[i];
        error += ((double)y[i] - truth[i]) * ((double)y[i] - truth[i]);
    }
    rms = sqrt(energy / (double)(count ? count : 1));
    for (int64_t i = 0; bf16 && i < count; i++)
        good &= fabs((double)y[i] - truth[i]) <= fabs(truth[i]) / 256 + slack * 4e-3 * rms;
    if (count < 16)
        return good && (bf16 || sqrt(error) <= 1e-3 * sqrt(energy) + 1e-30);
    return good && sqrt(error) <= (bf16 ? slack * 3e-3 : 1e-5) * sqrt(energy) + 1e-30;
}

#endif
