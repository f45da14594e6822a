/* Products of one row by all threads, as a decoding step at batch 1 does them: it reads
 * every weight of the model once, so that none of them is in a cache when its turn comes.
 * A matrix that is multiplied again and again would be: the 15 MB that a matrix of the
 * 300B model has in wint2 fit the last cache of many a server. So all types walk through
 * one long stretch of memory, each product going on where the last one ended, and a byte is
 * read again only when all others have been: twice the size of the last cache at least.
 * The goals, which are about decoding, are held to these rows. Rows "cached" say what the
 * same products cost without the memory, by processor time.
 *
 * Threads share the memory's rate, and one that another program keeps waiting leaves the
 * rest more of it than they would have: streams are timed by the clock on the wall. */
#include "libccq/pool.h"
#include "tests/bench_kernels.h"
#include "tests/check.h"

enum {
    STREAM_K = 8192, STREAM_N = 7168, /* up_gate of an expert, 300B */
    CACHED_K = 4096, CACHED_N = 4096, /* 32 MB in bf16 */
    TYPES = CCQ_W_WINT2 + 1,
    TURNS = 3 /* slices of a round */
};

static const char *const names[TYPES] = {"bf16", "bf16_t", "wint8", "wint4", "wint2"};

struct bench_memory {
    ccq_pool *pool;
    int threads;
    char *data; /* the stretch */
    size_t size, at;
    uint8_t *local;
    uint16_t *scale;
    float *cs, *zp, *x, *y, **scratch;
    double *seconds; /* by thread, in the product at hand */
    uint64_t *sum;
};

/* Bytes of the largest cache; 64 MiB where the system does not say. */
static size_t last_cache(void)
{
    size_t most = 0;

    for (int i = 0; i < 8; i++) {
        char path[80], unit = 0;
        size_t size = 0;
        FILE *f;
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", i);
        f = fopen(path, "re");
        if (!f)
            break;
        if (fscanf(f, "%zu%c", &size, &unit) == 2)
            size <<= unit == 'M' ? 20 : unit == 'K' ? 10 : 0;
        most = size > most ? size : most;
        fclose(f);
    }
    return most ? most : (size_t)64 << 20;
}

/* Three times the last cache and a matrix; at most 1 GiB and a third of what is free. */
static size_t stretch(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), matrix = (size_t)2 * STREAM_K * STREAM_N;
    size_t size = 3 * last_cache() + matrix, most = (size_t)1 << 30;
    size_t room = (size_t)sysconf(_SC_AVPHYS_PAGES) / 3 * page;

    size = size < most ? size : most;
    size = size < room ? size : room;
    size = size > matrix ? size : matrix;
    return size / page * page;
}

/* Finite as bf16, of any sign, none of them subnormal; as bytes, anything. */
static void fill(void *ctx, size_t i, int worker)
{
    bench_memory *m = ctx;
    uint64_t state = i + 1, *to = (uint64_t *)(void *)(m->data + i * 4096);

    (void)worker;
    for (int j = 0; j < 4096 / 8; j++)
        to[j] = (check_next(&state) & 0x87ff87ff87ff87ff) | 0x3800380038003800;
}

static void fill_constants(bench_memory *m)
{
    uint64_t state = 1;

    m->local = bench_need(STREAM_K / 128 * STREAM_N);
    m->scale = bench_need(2 * STREAM_N);
    m->cs = bench_need(4 * STREAM_N), m->zp = bench_need(4 * STREAM_N);
    m->y = bench_need(4 * STREAM_N), m->x = bench_need(4 * STREAM_K);
    for (int i = 0; i < STREAM_K / 128 * STREAM_N; i++)
        m->local[i] = (uint8_t)(check_next(&state) | 0x11);
    for (int i = 0; i < STREAM_N; i++) {
        m->scale[i] = ccq_f32_to_bf16((float)check_uniform(&state) * 0.01f + 0.001f);
        m->cs[i] = 120.94921875f;
        m->zp[i] = 1253.75f;
    }
    for (int i = 0; i < STREAM_K; i++)
        m->x[i] = ccq_round_bf16((float)check_uniform(&state) - 0.5f);
}

bench_memory *bench_products_open(const bench_options *o)
{
    bench_memory *m = bench_need(sizeof *m);

    *m = (bench_memory){.pool = ccq_pool_new(o->threads), .size = stretch()};
    REQUIRE(m->pool, "no threads");
    m->threads = ccq_pool_threads(m->pool);
    m->data = aligned_alloc(4096, m->size);
    REQUIRE(m->data, "out of memory");
    ccq_pool_run(m->pool, m->size / 4096, fill, m);
    fill_constants(m);
    m->seconds = bench_need((size_t)m->threads * sizeof *m->seconds);
    m->sum = bench_need((size_t)m->threads * sizeof *m->sum);
    m->scratch = bench_need((size_t)m->threads * sizeof *m->scratch);
    for (int i = 0; i < m->threads; i++)
        m->scratch[i] = bench_need(ccq_matmul_scratch(1) * sizeof(float));
    return m;
}

void bench_products_close(bench_memory *m)
{
    for (int i = 0; i < m->threads; i++)
        free(m->scratch[i]);
    free(m->scratch), free(m->seconds), free(m->sum), free(m->data), free(m->local);
    free(m->scale), free(m->cs), free(m->zp), free(m->x), free(m->y);
    ccq_pool_free(m->pool);
    free(m);
}

/* ---- One product --------------------------------------------------------- */

typedef struct product {
    bench_memory *m;
    const ccq_ops *ops;
    ccq_weight w;
    int64_t columns; /* of a piece */
} product;

static size_t weight_bytes(int type, int64_t k, int64_t n)
{
    size_t weights = (size_t)(k * n);

    return type <= CCQ_W_BF16_T ? 2 * weights : type == CCQ_W_WINT8 ? weights
           : type == CCQ_W_WINT4 ? weights / 2 : weights / 4;
}

static ccq_weight weight_at(const bench_memory *m, int type, int64_t k, int64_t n, size_t at)
{
    return (ccq_weight){.type = type, .k = k, .n = n, .data = m->data + at, .scale = m->scale,
                        .local = m->local, .super = m->scale, .code_scale = m->cs,
                        .code_zp = m->zp, .order = CCQ_ORDER_FASTDEPLOY,
                        .rounding = CCQ_ROUND_FUSED};
}

static void multiply(void *ctx, size_t i, int worker)
{
    const product *p = ctx;
    bench_memory *m = p->m;
    int64_t n0 = (int64_t)i * p->columns, n1 = n0 + p->columns < p->w.n ? n0 + p->columns : p->w.n;
    double start = bench_clock(CLOCK_THREAD_CPUTIME_ID);

    ccq_matmul(p->ops, &p->w, m->x, p->w.k, 1, n0, n1, 0, m->y, p->w.n, m->scratch[worker]);
    m->seconds[worker] += bench_clock(CLOCK_THREAD_CPUTIME_ID) - start;
}

/* The pieces that libccq/products.c would make. Seconds: on the wall, and those of
 * processor time divided among the threads. */
static void run(product *p, double *wall, double *each)
{
    bench_memory *m = p->m;
    int64_t pieces = 6 * m->threads;
    double start;

    p->columns = ((p->w.n + pieces - 1) / pieces + 63) / 64 * 64;
    memset(m->seconds, 0, (size_t)m->threads * sizeof *m->seconds);
    start = bench_clock(CLOCK_MONOTONIC);
    ccq_pool_run(m->pool, (size_t)((p->w.n + p->columns - 1) / p->columns), multiply, p);
    *wall = bench_clock(CLOCK_MONOTONIC) - start;
    *each = 0;
    for (int i = 0; i < m->threads; i++)
        *each += m->seconds[i] / m->threads;
}

static size_t advance(bench_memory *m, size_t bytes)
{
    size_t at = m->at + bytes <= m->size ? m->at : 0;

    m->at = at + bytes;
    return at;
}

/* Weights a second, in millions. */
static double stream_rate(bench_memory *m, const ccq_ops *ops, int type)
{
    size_t at = advance(m, weight_bytes(type, STREAM_K, STREAM_N));
    product p = {m, ops, weight_at(m, type, STREAM_K, STREAM_N, at), 0};
    double wall, each;

    run(&p, &wall, &each);
    return 1e-6 * STREAM_K * STREAM_N / wall;
}

static double cached_rate(bench_memory *m, const ccq_ops *ops, int type)
{
    product p = {m, ops, weight_at(m, type, CACHED_K, CACHED_N, 0), 0};
    double wall, each;

    run(&p, &wall, &each); /* into the cache */
    run(&p, &wall, &each);
    return 1e-6 * CACHED_K * CACHED_N / each;
}

/* ---- The memory ---------------------------------------------------------- */

typedef struct reading {
    bench_memory *m;
    const uint64_t *from;
} reading;

enum { PIECE = 1 << 20 };

/* Several streams: one core reads more from them than from one. */
static void read_piece(void *ctx, size_t i, int worker)
{
    enum { WORDS = PIECE / 8, STREAMS = 8, PART = WORDS / STREAMS, LINE = 8 };
    const reading *r = ctx;
    const uint64_t *x = r->from + i * WORDS;
    uint64_t sum[LINE] = {0};

    for (size_t j = 0; j < PART; j += LINE)
        for (size_t s = 0; s < STREAMS; s++) {
            __builtin_prefetch(x + s * PART + j + 16 * LINE);
            for (size_t lane = 0; lane < LINE; lane++)
                sum[lane] += x[s * PART + j + lane];
        }
    for (int lane = 0; lane < LINE; lane++)
        r->m->sum[worker] += sum[lane];
}

/* MB a second, on the same walk. */
static double read_rate(bench_memory *m)
{
    size_t pieces = weight_bytes(CCQ_W_BF16, STREAM_K, STREAM_N) / PIECE;
    reading r = {m, (const uint64_t *)(void *)(m->data + advance(m, pieces * PIECE))};
    double start = bench_clock(CLOCK_MONOTONIC);

    ccq_pool_run(m->pool, pieces, read_piece, &r);
    return 1e-6 * (double)(pieces * PIECE) / (bench_clock(CLOCK_MONOTONIC) - start);
}

/* ---- All ----------------------------------------------------------------- */

/* Rates by type and round; the last one is the memory's. */
typedef double rates[TYPES + 1][MAX_ROUNDS];

static void measure(const bench_options *o, const ccq_ops *ops, bench_memory *m, int cached,
                    rates rate)
{
    memset(rate, 0, sizeof(rates));
    for (int i = 0; i < o->rounds; i++)
        for (int j = 0; j < TURNS; j++) {
            if (!cached)
                bench_keep(&rate[TYPES][i], read_rate(m));
            for (int t = 0; t < TYPES; t++)
                bench_keep(&rate[t][i], cached ? cached_rate(m, ops, t) : stream_rate(m, ops, t));
        }
}

static double goal_of(const ccq_ops *ops, int type)
{
    if (type <= CCQ_W_BF16_T || !strcmp(ops->name, "c"))
        return 0;
    return strcmp(ops->name, "avx512") ? 1.0 : type == CCQ_W_WINT2 ? 1.5 : 1.2;
}

static void report(const bench_options *o, const ccq_ops *ops, rates rate, int cached)
{
    static double base[MAX_ROUNDS], bytes[MAX_ROUNDS];
    char what[32];

    if (!cached)
        bench_report(o, ops->name, "memory, read", rate[TYPES], "MB/s", NULL, "", 0);
    for (int i = 0; i < o->rounds; i++) {
        base[i] = rate[CCQ_W_BF16][i];
        bench_keep(&base[i], rate[CCQ_W_BF16_T][i]);
    }
    for (int t = 0; t < TYPES; t++) {
        double each = (double)weight_bytes(t, STREAM_K, STREAM_N) / STREAM_K / STREAM_N;
        snprintf(what, sizeof what, "%s%s", names[t], cached ? ", cached" : "");
        bench_report(o, ops->name, what, rate[t], "Mw/s", t <= CCQ_W_BF16_T ? NULL : base,
                     "the faster bf16", cached ? 0 : goal_of(ops, t));
        for (int i = 0; i < o->rounds; i++)
            bytes[i] = each * rate[t][i];
        snprintf(what, sizeof what, "%s, bytes", names[t]);
        if (!cached)
            bench_report(o, ops->name, what, bytes, "MB/s", rate[TYPES], "memory, read", 0);
    }
}

void bench_products(const bench_options *o, const ccq_ops *ops, bench_memory *m)
{
    static rates rate;
    bench_options few = *o; /* plain C takes its time */

    if (!strcmp(ops->name, "c") && few.rounds > 2)
        few.rounds = 2;
    for (int cached = 0; cached < 2; cached++) {
        measure(&few, ops, m, cached, rate);
        report(&few, ops, rate, cached);
    }
}
