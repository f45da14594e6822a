/* What the machine can do, in one JSON line, for bench_quantize.py to divide by:
 *
 *     bench_rates THREADS FILE...
 *
 * read_bytes_per_s: all FILEs from the page cache by one thread, in pieces of 4 MiB.
 * write_bytes_per_s: a file of 256 MiB beside the first of them, written and synced.
 * encode_weights_per_s: wint2 columns at effort fast on all THREADS.
 * hash_out_bytes_per_s, hash_in_bytes_per_s: CRC-32 by one thread, of what is written and of
 * columns as they are read.
 * Each is the best of three; the same per second of processor time, which other work on
 * the machine does not change, is named *_per_cpu_s. */
#include "kernels/encode.h"
#include "libccq/crc.h"
#include "libccq/pool.h"
#include "tests/check.h"

#include <fcntl.h>
#include <math.h>
#include <time.h>

enum { PIECE = 4 << 20, WRITES = 64, ROUNDS = 3, K = 1024, PANELS = 128 };

typedef struct rate {
    double wall, cpu; /* best so far, a second of each */
    double begin, used;
} rate;

static double now(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void start(rate *r)
{
    r->begin = now(CLOCK_MONOTONIC);
    r->used = now(CLOCK_PROCESS_CPUTIME_ID);
}

static void stop(rate *r, double amount)
{
    double wall = amount / (now(CLOCK_MONOTONIC) - r->begin);
    double cpu = amount / (now(CLOCK_PROCESS_CPUTIME_ID) - r->used);
    r->wall = wall > r->wall ? wall : r->wall;
    r->cpu = cpu > r->cpu ? cpu : r->cpu;
}

static uint64_t read_file(const char *path, char *piece)
{
    int fd = open(path, O_RDONLY);
    uint64_t sum = 0;
    ssize_t n;
    REQUIRE(fd >= 0, "%s cannot be opened", path);
    while ((n = pread(fd, piece, PIECE, (off_t)sum)) > 0)
        sum += (uint64_t)n;
    close(fd);
    return sum;
}

static rate read_rate(char **files, int count, char *piece)
{
    rate r = {0};
    for (int round = 0; round <= ROUNDS; round++) {
        uint64_t sum = 0;
        start(&r);
        for (int i = 0; i < count; i++)
            sum += read_file(files[i], piece);
        if (round) /* the first one fills the cache */
            stop(&r, (double)sum);
    }
    return r;
}

static rate write_rate(const char *beside, const char *piece)
{
    char path[4096];
    rate r = {0};
    snprintf(path, sizeof path, "%s.bench", beside);
    for (int round = 0; round < ROUNDS; round++) {
        start(&r);
        int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        REQUIRE(fd >= 0, "%s cannot be created", path);
        for (int i = 0; i < WRITES; i++)
            REQUIRE(pwrite(fd, piece, PIECE, (off_t)i * PIECE) == PIECE, "%s: write failed", path);
        REQUIRE(fsync(fd) == 0, "%s: fsync failed", path);
        close(fd);
        stop(&r, (double)WRITES * PIECE);
        unlink(path);
    }
    return r;
}

/* ---- Hashing ----------------------------------------------------------------- */

static rate hash_out_rate(const char *piece)
{
    uint32_t crc = 0;
    rate r = {0};
    for (int round = 0; round < ROUNDS; round++) {
        start(&r);
        for (int i = 0; i < WRITES; i++)
            crc = ccq_crc32(crc, piece, PIECE);
        stop(&r, (double)WRITES * PIECE);
    }
    REQUIRE(crc, "a checksum of 0");
    return r;
}

/* A matrix of piece's bytes with K columns, all of them. */
static rate hash_in_rate(const char *piece)
{
    uint32_t crc = 0;
    rate r = {0};
    for (int round = 0; round < ROUNDS; round++) {
        start(&r);
        for (int i = 0; i < WRITES; i++) {
            ccq_crc_columns c;
            ccq_crc_begin(&c, K, 0, K);
            ccq_crc_rows(&c, (const uint16_t *)(const void *)piece, PIECE / 2 / K);
            crc += ccq_crc_end(&c);
        }
        stop(&r, (double)WRITES * PIECE);
    }
    REQUIRE(crc, "a checksum of 0");
    return r;
}

/* ---- Encoding ---------------------------------------------------------------- */

typedef struct work {
    ccq_ops ops;
    ccq_encoder encoder;
    float *x; /* [K][CCQ_PANEL] */
    char **scratch;
    size_t scratch_size;
} work;

static void encode_panel(void *ctx, size_t i, int worker)
{
    work *w = ctx;
    ccq_encode_params p = {CCQ_EFFORT_FAST, 4, CCQ_ORDER_FASTDEPLOY};
    uint8_t bytes[CCQ_PANEL * K / 4], local[CCQ_PANEL * K / 64];
    ccq_column column[CCQ_PANEL];
    (void)i;
    for (int j = 0; j < CCQ_PANEL; j++)
        column[j] = (ccq_column){.bytes = bytes + j * (K / 4), .local = local + j * (K / 64)};
    ccq_encode_panel(&w->ops, &w->encoder, &p, w->x, K, CCQ_PANEL, column, w->scratch[worker]);
}

static rate encode_rate(int threads, unsigned isa)
{
    ccq_pool *pool = ccq_pool_new(threads);
    work w = {.x = malloc(sizeof(float) * K * CCQ_PANEL)};
    uint64_t state = 1;
    rate r = {0};
    REQUIRE(pool && w.x && ccq_encoder_init(&w.encoder) == 0, "out of memory");
    ccq_ops_init(&w.ops, isa);
    threads = ccq_pool_threads(pool);
    w.scratch = calloc((size_t)threads, sizeof *w.scratch);
    for (int i = 0; i < threads; i++)
        REQUIRE(w.scratch[i] = aligned_alloc(64, (ccq_encode_scratch(K) + 63) / 64 * 64), "memory");
    for (int i = 0; i < K * CCQ_PANEL; i++)
        w.x[i] = 0.02f * (float)(sqrt(-2 * log(1 - check_uniform(&state))) *
                                 cos(6.283185307179586 * check_uniform(&state)));
    for (int round = 0; round < ROUNDS; round++) {
        double weights = 0;
        start(&r);
        do {
            ccq_pool_run(pool, PANELS, encode_panel, &w);
            weights += (double)PANELS * CCQ_PANEL * K;
        } while (now(CLOCK_MONOTONIC) - r.begin < 0.3);
        stop(&r, weights);
    }
    for (int i = 0; i < threads; i++)
        free(w.scratch[i]);
    free(w.scratch);
    free(w.x);
    ccq_pool_free(pool);
    return r;
}

int main(int argc, char **argv)
{
    char *piece = aligned_alloc(4096, PIECE);
    REQUIRE(argc > 2 && piece, "usage: bench_rates THREADS FILE...");
    memset(piece, 1, PIECE);
    rate in = read_rate(argv + 2, argc - 2, piece), out = write_rate(argv[2], piece);
    rate hash_in = hash_in_rate(piece), hash_out = hash_out_rate(piece);
    rate encode = encode_rate(atoi(argv[1]), CCQ_ISA_C | CCQ_ISA_AVX2 | CCQ_ISA_AVX512);
    printf("{\"read_bytes_per_s\":%.0f,\"write_bytes_per_s\":%.0f,\"encode_weights_per_s\":%.0f,"
           "\"read_bytes_per_cpu_s\":%.0f,\"write_bytes_per_cpu_s\":%.0f,"
           "\"encode_weights_per_cpu_s\":%.0f,\"hash_in_bytes_per_s\":%.0f,"
           "\"hash_out_bytes_per_s\":%.0f,\"hash_in_bytes_per_cpu_s\":%.0f,"
           "\"hash_out_bytes_per_cpu_s\":%.0f}\n",
           in.wall, out.wall, encode.wall, in.cpu, out.cpu, encode.cpu, hash_in.wall,
           hash_out.wall, hash_in.cpu, hash_out.cpu);
    free(piece);
    return 0;
}
