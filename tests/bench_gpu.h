/* What the benchmarks of a device stand on: memory with random contents, and the time of what
 * is done again and again. */
#ifndef CCQ_TESTS_BENCH_GPU_H
#define CCQ_TESTS_BENCH_GPU_H

#include "kernels/gpu.h"
#include "tests/check.h"

#include <math.h>

enum { WARM = 20, SAMPLES = 100, ROUTINGS = 8 };

typedef struct bench {
    ccq_gpu *gpu;
    int json, quick, samples;
    double bw, mm; /* bytes and operations a second */
    uint64_t rng;
} bench;

#define GPU(b, call)                                                                               \
    REQUIRE((call) == CCQ_GPU_OK, "%s: %s", #call, ccq_gpu_error((b)->gpu))

static inline void *take(bench *b, size_t size)
{
    void *memory;
    GPU(b, ccq_gpu_alloc(b->gpu, size, &memory));
    return memory;
}

/* ---- Time ------------------------------------------------------------------ */

typedef struct sample {
    float p10, median, p90; /* ms */
} sample;

static inline int compare(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

typedef void (*work_fn)(bench *b, void *ctx, int turn);

/* Recorded where the device can, else called. */
static inline sample measure(bench *b, work_fn fn, void *ctx, int turns)
{
    ccq_gpu_graph *graph[ROUTINGS] = {NULL};
    float ms[SAMPLES];
    for (int t = 0; t < turns; t++)
        if (ccq_gpu_kind(b->gpu) == CCQ_GPU_CUDA && turns > 1) {
            fn(b, ctx, t); /* what is set up at first use is not recorded */
            GPU(b, ccq_gpu_wait(b->gpu));
            GPU(b, ccq_gpu_record(b->gpu));
            fn(b, ctx, t);
            GPU(b, ccq_gpu_recorded(b->gpu, &graph[t]));
        }
    for (int i = -(b->samples < WARM ? 0 : WARM); i < b->samples; i++) {
        int t = (i + turns * WARM) % turns;
        GPU(b, ccq_gpu_mark(b->gpu, 0));
        if (graph[t])
            GPU(b, ccq_gpu_replay(b->gpu, graph[t]));
        else
            fn(b, ctx, t);
        GPU(b, ccq_gpu_mark(b->gpu, 1));
        GPU(b, ccq_gpu_between(b->gpu, 0, 1, &ms[i < 0 ? 0 : i]));
    }
    for (int t = 0; t < turns; t++)
        ccq_gpu_graph_free(b->gpu, graph[t]);
    qsort(ms, (size_t)b->samples, sizeof *ms, compare);
    return (sample){ms[b->samples / 10], ms[b->samples / 2], ms[b->samples * 9 / 10]};
}

/* ---- Random contents ------------------------------------------------------- */

static inline void *random_bytes(bench *b, size_t size)
{
    uint64_t *host = malloc(size + 8);
    void *memory = take(b, size);
    REQUIRE(host, "memory");
    for (size_t i = 0; i < size / 8 + 1; i++)
        host[i] = check_next(&b->rng);
    GPU(b, ccq_gpu_upload(b->gpu, memory, host, size));
    free(host);
    return memory;
}

static inline float gauss(bench *b)
{
    double u = 1 - check_uniform(&b->rng), v = check_uniform(&b->rng);
    return (float)(sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
}

/* Values that bf16 has; a few thousand draws, in an order of their own. */
static inline float *random_floats(bench *b, size_t count)
{
    enum { DRAWS = 8191 };
    float draw[DRAWS], *host = malloc(count * sizeof *host);
    void *memory = take(b, count * sizeof *host);
    REQUIRE(host, "memory");
    for (int i = 0; i < DRAWS; i++)
        draw[i] = ccq_round_bf16(gauss(b));
    for (size_t i = 0; i < count; i++)
        host[i] = draw[(i * 2654435761u >> 7) % DRAWS];
    GPU(b, ccq_gpu_upload(b->gpu, memory, host, count * sizeof *host));
    free(host);
    return memory;
}

static inline uint16_t *random_bf16(bench *b, size_t count)
{
    uint16_t *host = malloc(count * sizeof *host);
    void *memory = take(b, count * sizeof *host);
    REQUIRE(host, "memory");
    for (size_t i = 0; i < count; i++)
        host[i] = (uint16_t)((check_next(&b->rng) & 0x81ff) | 0x3c00);
    GPU(b, ccq_gpu_upload(b->gpu, memory, host, count * sizeof *host));
    free(host);
    return memory;
}

void measure_encoder(bench *b);

#endif
