/* What the benchmarks of a device stand on: lines of a table and of JSON, the time of what is
 * done again and again, memory with random contents. */
#ifndef CCQ_TESTS_BENCH_GPU_H
#define CCQ_TESTS_BENCH_GPU_H

#include "kernels/gpu.h"
#include "tests/check.h"

#include <math.h>

enum { WARM = 20, SAMPLES = 100, SLOW_MS = 50, SLOW_SAMPLES = 20, MOST_TURNS = 32 };

typedef struct bench_clocks bench_clocks;

typedef struct bench {
    ccq_gpu *gpu;
    FILE *json, *table; /* NULL: not wanted */
    bench_clocks *clocks;
    int quick, host, warm, samples;
    double copy, read, mm; /* bytes and operations a second, the denominators */
    uint64_t rng;
} bench;

#define GPU(b, call)                                                                               \
    REQUIRE((call) == CCQ_GPU_OK, "%s: %s", #call, ccq_gpu_error((b)->gpu))

/* ---- What is told ---------------------------------------------------------- */

/* MHz of multiprocessors and memory; 0: unknown */
typedef struct bench_clock {
    unsigned sm, memory;
} bench_clock;

typedef struct sample {
    float p10, median, p90; /* ms */
    int samples;
    bench_clock before, after;
} sample;

/* By the driver's library, which is looked for; NULL where it is not there, or where its first
 * device has another name. */
bench_clocks *clocks_open(const char *device);
void clocks_close(bench_clocks *c);
bench_clock clocks_now(const bench_clocks *c);
const char *clocks_driver(const bench_clocks *c); /* versions of the driver and of its CUDA */
const char *clocks_cuda(const bench_clocks *c);

/* A part of the table. */
__attribute__((format(printf, 2, 3))) void say(const bench *b, const char *fmt, ...);
/* The end of a line of the table, and a line of JSON with its own fields before. */
void say_sample(const bench *b, const sample *s);
void say_clocks(const bench *b, bench_clock before, bench_clock after);
void json_begin(const bench *b, const char *what);
void json_text(const bench *b, const char *key, const char *text);
void json_number(const bench *b, const char *key, double value); /* not finite: null */
void json_sample(const bench *b, const sample *s);
void json_end(const bench *b);

/* ---- Time ------------------------------------------------------------------ */

/* fn is given the turns 0..turns-1 again and again. recorded: kept as a graph for each turn,
 * where the device can; fn does it `repeat` times (0: once), of which a sample is one. */
typedef struct timed {
    void (*fn)(bench *b, void *ctx, int turn);
    void *ctx;
    int turns, recorded, repeat;
} timed;

sample measure(bench *b, const timed *t);

/* ---- Memory ---------------------------------------------------------------- */

static inline void *take(bench *b, size_t size)
{
    void *memory;
    GPU(b, ccq_gpu_alloc(b->gpu, size, &memory));
    return memory;
}

void *copy_of(bench *b, const void *from, size_t size);
void *random_bytes(bench *b, size_t size, uint32_t *all); /* all: their exclusive or, or NULL */
uint8_t *random_locals(bench *b, size_t size);            /* halves of 1..15 */
/* Normal; values that bf16 has. */
float *random_floats(bench *b, size_t count);
uint16_t *random_bf16(bench *b, size_t count);

void measure_encoder(bench *b);
void measure_layers(bench *b);

#endif
