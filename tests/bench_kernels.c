/* Speed of the kernels as ratios inside one run, on every instruction set: the
 * search over a register-only loop of its multiply, add and minimum instructions,
 * whole columns over the search, the gain over all, wint8 and wint4 over memcpy,
 * products of one row over the BF16 one. The machine may be shared: what is compared
 * takes turns, in slices of processor time from 20 us to a few ms, the best slices make
 * a round. Printed: the best round and the median one, the ratio of the best rounds,
 * which is the least disturbed, and the median of the ratios. One core, but for the
 * products, which take all (--threads; bench_products.c).
 *
 *   bench_kernels [--json] [--products] [--rounds N] [--threads N] [--isa c|avx2|avx512] */
#include "tests/bench_kernels.h"

#include "kernels/encode.h"
#include "libccq/pool.h"
#include "tests/check.h"

enum { SLICES = 40, K = 1024 };

double bench_clock(clockid_t id)
{
    struct timespec t;

    clock_gettime(id, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double cpu(void)
{
    return bench_clock(CLOCK_THREAD_CPUTIME_ID);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* Of count values the one that share of them stay below. */
static double rank(const double *t, int count, double share)
{
    double sorted[MAX_ROUNDS];

    memcpy(sorted, t, (size_t)count * sizeof *t);
    qsort(sorted, (size_t)count, sizeof *sorted, by_value);
    return sorted[(int)(share * count)];
}

static double median(const double *t, int count)
{
    return rank(t, count, 0.5);
}

/* Not the very best: clocks of virtual machines jump. */
static double best(const double *t, int count)
{
    return rank(t, count, 0.85);
}

void bench_report(const bench_options *o, const char *isa, const char *what, const double *rate,
                  const char *unit, const double *base, const char *to, double goal)
{
    double ratio[MAX_ROUNDS], r = 0, middle = 0;

    for (int i = 0; base && i < o->rounds; i++)
        ratio[i] = rate[i] / base[i];
    if (base) {
        r = best(rate, o->rounds) / best(base, o->rounds);
        middle = median(ratio, o->rounds);
    }
    if (o->json) {
        printf("{\"bench\":\"kernels\",\"isa\":\"%s\",\"what\":\"%s\",\"best\":%.2f,"
               "\"median\":%.2f,\"unit\":\"%s\"",
               isa, what, best(rate, o->rounds), median(rate, o->rounds), unit);
        if (base)
            printf(",\"over\":\"%s\",\"ratio\":%.4f,\"median_ratio\":%.4f", to, r, middle);
        if (goal > 0)
            printf(",\"goal\":%.3f,\"met\":%s", goal, r >= goal ? "true" : "false");
        printf("}\n");
    } else {
        printf("%-7s %-21s %9.1f %9.1f %-4s", isa, what, best(rate, o->rounds),
               median(rate, o->rounds), unit);
        if (base)
            printf(" %6.3f %6.3f of %s", r, middle, to);
        if (goal > 0)
            printf(", goal %.3f%s", goal, r >= goal ? "" : " MISSED");
        printf("\n");
    }
    fflush(stdout);
}

void *bench_need(size_t size)
{
    void *p = aligned_alloc(64, (size + 63) / 64 * 64);

    REQUIRE(p, "out of memory");
    memset(p, 1, size);
    return p;
}

/* ---- The bound of the search --------------------------------------------- */

#ifdef CCQ_HAVE_X86
#include <immintrin.h>

/* 64 x 16 blocks against a code each, as many as a group of 64 weights wants. */
static __attribute__((target("avx2"))) void bound_avx2(int32_t *data)
{
    __m256i c0 = _mm256_loadu_si256((const __m256i *)(void *)data), c1 = c0, step = c0, x[4], m[4];

    for (int v = 0; v < 4; v++)
        x[v] = m[v] = _mm256_loadu_si256((const __m256i *)(void *)(data + 8 * v));
    for (int b = 0; b < CCQ_CODES; b += 2) {
        __asm__ volatile("" : "+x"(c0), "+x"(c1), "+x"(step));
        for (int v = 0; v < 4; v++) {
            __m256i s = _mm256_add_epi32(_mm256_madd_epi16(x[v], c0),
                                         _mm256_madd_epi16(x[3 - v], c1));
            m[v] = _mm256_min_epi32(m[v], _mm256_add_epi32(s, step));
        }
    }
    for (int v = 0; v < 4; v++)
        _mm256_storeu_si256((__m256i *)(void *)(data + 8 * v), m[v]);
}

static __attribute__((target("avx512f,avx512vnni"))) void bound_avx512(int32_t *data)
{
    __m512i c0 = _mm512_loadu_si512(data), c1 = c0, first = c0, x[4], m[4];

    for (int v = 0; v < 4; v++)
        x[v] = m[v] = _mm512_loadu_si512(data + 16 * v);
    for (int b = 0; b < CCQ_CODES; b += 4) {
        __asm__ volatile("" : "+v"(c0), "+v"(c1), "+v"(first));
        for (int v = 0; v < 4; v++) {
            __m512i s = _mm512_dpwssd_epi32(first, x[v], c0);
            s = _mm512_dpwssd_epi32(s, x[3 - v], c1);
            m[v] = _mm512_min_epi32(m[v], s);
        }
    }
    for (int v = 0; v < 4; v++)
        _mm512_storeu_si512(data + 16 * v, m[v]);
}
#endif

typedef void bound_loop(int32_t *data);

static bound_loop *bound_of(const char *isa)
{
#ifdef CCQ_HAVE_X86
    if (!strcmp(isa, "avx2"))
        return bound_avx2;
    if (!strcmp(isa, "avx512"))
        return bound_avx512;
#endif
    (void)isa;
    return NULL;
}

/* ---- Encoder ------------------------------------------------------------- */

typedef struct encoder {
    ccq_ops ops;
    ccq_encoder enc;
    float *w;
    uint8_t *bytes, *local;
    void *scratch;
} encoder;

static void encoder_init(encoder *e, const ccq_ops *ops)
{
    uint64_t state = 1;

    e->ops = *ops;
    REQUIRE(ccq_encoder_init(&e->enc) == 0, "encoder");
    e->w = bench_need(sizeof(float) * K * CCQ_PANEL);
    e->bytes = bench_need(K / 4 * CCQ_PANEL);
    e->local = bench_need(K / 64 * CCQ_PANEL);
    e->scratch = bench_need(ccq_encode_scratch(K));
    for (int i = 0; i < K * CCQ_PANEL; i++) {
        double sum = -6.0; /* near enough to a Gaussian */
        for (int j = 0; j < 12; j++)
            sum += check_uniform(&state);
        e->w[i] = ccq_round_bf16((float)(0.02 * sum));
    }
}

static void encoder_free(encoder *e)
{
    free(e->w), free(e->bytes), free(e->local), free(e->scratch);
}

/* Weights a second. */
static double columns_rate(encoder *e, int effort, int gain)
{
    const ccq_encode_params p = {effort, gain, CCQ_ORDER_FASTDEPLOY};
    ccq_column out[CCQ_PANEL];
    double start;

    for (int c = 0; c < CCQ_PANEL; c++)
        out[c] = (ccq_column){.bytes = e->bytes + K / 4 * c, .local = e->local + K / 64 * c};
    start = cpu();
    ccq_encode_panel(&e->ops, &e->enc, &p, e->w, K, CCQ_PANEL, out, e->scratch);
    return 1e-6 * K * CCQ_PANEL / (cpu() - start);
}

static double search_rate(const encoder *e, int groups)
{
    int16_t u[4 * CCQ_GROUP];
    uint8_t best[1][16];
    uint64_t state = 1;
    int32_t J;
    double start;

    for (int i = 0; i < 4 * CCQ_GROUP; i++)
        u[i] = (int16_t)(check_next(&state) % 4096 - 2048);
    start = cpu();
    for (int g = 0; g < groups; g++)
        e->ops.search(&e->enc.book[0], u + g % 4 * CCQ_GROUP, 8, 8, &J, best);
    return 1e-6 * groups * CCQ_GROUP / (cpu() - start);
}

static double bound_rate(bound_loop *loop, int groups)
{
    int32_t data[64];
    double start = cpu();

    for (int i = 0; i < 64; i++)
        data[i] = i;
    for (int g = 0; g < groups; g++)
        loop(data);
    return 1e-6 * groups * CCQ_GROUP / (cpu() - start);
}

void bench_keep(double *most, double rate)
{
    *most = rate > *most ? rate : *most;
}

static void bench_encoder(const bench_options *o, const ccq_ops *ops)
{
    static double bound[MAX_ROUNDS], search[MAX_ROUNDS], fast[MAX_ROUNDS], plain[MAX_ROUNDS];
    static double normal[MAX_ROUNDS], plain_normal[MAX_ROUNDS];
    bound_loop *loop = bound_of(ops->name);
    int wide = !strcmp(ops->name, "avx512"), scalar = !strcmp(ops->name, "c");
    int groups = scalar ? 50 : 120, slices = scalar ? 1 : SLICES;
    encoder e;

    encoder_init(&e, ops);
    for (int i = 0; i < o->rounds; i++) {
        bound[i] = search[i] = fast[i] = plain[i] = normal[i] = plain_normal[i] = 0;
        for (int j = 0; j < slices; j++) {
            bench_keep(&bound[i], loop ? bound_rate(loop, groups) : 1);
            bench_keep(&search[i], search_rate(&e, groups));
            if (j % 4)
                continue;
            bench_keep(&fast[i], columns_rate(&e, CCQ_EFFORT_FAST, 4));
            bench_keep(&plain[i], columns_rate(&e, CCQ_EFFORT_FAST, 0));
        }
        for (int j = 0; j < slices; j += SLICES / 4) {
            bench_keep(&normal[i], columns_rate(&e, CCQ_EFFORT_NORMAL, 4));
            bench_keep(&plain_normal[i], columns_rate(&e, CCQ_EFFORT_NORMAL, 0));
        }
    }
    if (loop)
        bench_report(o, ops->name, "bound", bound, "Mw/s", NULL, "", 0);
    bench_report(o, ops->name, "search, one scale", search, "Mw/s", loop ? bound : NULL, "bound",
           scalar ? 0 : wide ? 0.90 : 0.85);
    bench_report(o, ops->name, "column, fast", fast, "Mw/s", search, "search",
           scalar ? 0 : wide ? 0.23 : 0.30);
    bench_report(o, ops->name, "column, normal", normal, "Mw/s", search, "search",
           scalar ? 0 : wide ? 0.015 : 0.020);
    bench_report(o, ops->name, "gain at fast", fast, "Mw/s", plain, "gain 0", 0.95);
    bench_report(o, ops->name, "gain at normal", normal, "Mw/s", plain_normal, "gain 0", 0.99);
    encoder_free(&e);
}

/* ---- wint8, wint4 -------------------------------------------------------- */

/* bf16 rows to stored bytes, as the tool does: MB of bf16 a second. */
static double weight_only_rate(const ccq_ops *ops, int bits, const ccq_weight *from, float *panel,
                               uint8_t *stored)
{
    ccq_weight_only out;
    double start = cpu();

    for (int64_t n = 0; n < from->n; n += CCQ_PANEL) {
        ops->unpack(from, 0, from->k, n, panel);
        ccq_weight_only_panel(ops, bits, CCQ_RULE_GPU, panel, from->k, n, CCQ_PANEL, stored, &out);
    }
    return 2e-6 * (double)(from->k * from->n) / (cpu() - start);
}

/* MB copied a second. */
static double copy_rate(const char *from, char *to, size_t size)
{
    double start = cpu();

    memcpy(to, from, size);
    __asm__ volatile("" : : "r"(to) : "memory");
    return 1e-6 * (double)size / (cpu() - start);
}

static void bench_weight_only(const bench_options *o, const ccq_ops *ops)
{
    enum { ROWS = 2048, COLUMNS = 512, COPY = 1 << 26 };
    static double copy[MAX_ROUNDS], eight[MAX_ROUNDS], four[MAX_ROUNDS];
    ccq_weight w = {.type = CCQ_W_BF16, .k = ROWS, .n = COLUMNS, .rounding = CCQ_ROUND_FUSED};
    uint16_t *data = bench_need(2 * ROWS * COLUMNS);
    uint8_t *stored = bench_need(ROWS * COLUMNS);
    float *panel = bench_need(sizeof(float) * ROWS * CCQ_PANEL);
    char *from = bench_need(COPY), *to = bench_need(COPY);
    uint64_t state = 1;

    for (int i = 0; i < ROWS * COLUMNS; i++)
        data[i] = ccq_f32_to_bf16((float)check_uniform(&state) - 0.5f);
    w.data = data;
    for (int i = 0; i < o->rounds; i++) {
        copy[i] = eight[i] = four[i] = 0;
        for (int j = 0; j < SLICES / 8; j++) {
            bench_keep(&copy[i], copy_rate(from, to, COPY));
            bench_keep(&eight[i], weight_only_rate(ops, 8, &w, panel, stored));
            bench_keep(&four[i], weight_only_rate(ops, 4, &w, panel, stored));
        }
    }
    bench_report(o, ops->name, "wint8 quantize+place", eight, "MB/s", copy, "memcpy", 0.1);
    bench_report(o, ops->name, "wint4 quantize+place", four, "MB/s", copy, "memcpy", 0.1);
    free(data), free(stored), free(panel), free(from), free(to);
}

/* ---- main ---------------------------------------------------------------- */

static int parse(bench_options *o, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *v = i + 1 < argc ? argv[i + 1] : "";
        if (!strcmp(argv[i], "--json") || !strcmp(argv[i], "--products")) {
            *(argv[i][2] == 'j' ? &o->json : &o->products) = 1;
            continue;
        }
        if (!strcmp(argv[i], "--rounds"))
            o->rounds = atoi(v);
        else if (!strcmp(argv[i], "--threads"))
            o->threads = atoi(v);
        else if (!strcmp(argv[i], "--isa"))
            o->isa = !strcmp(v, "c") ? 1u : !strcmp(v, "avx2") ? 2u : 4u;
        else
            return -1;
        i++;
    }
    return o->rounds > 0 && o->rounds <= MAX_ROUNDS && o->threads > 0 ? 0 : -1;
}

int main(int argc, char **argv)
{
    bench_options o = {.rounds = 15, .threads = ccq_cpu_count(), .isa = ~0u};
    const char *last = "";
    bench_memory *memory;
    ccq_ops ops;

    if (parse(&o, argc, argv)) {
        fprintf(stderr, "usage: bench_kernels [--json] [--products] [--rounds N] [--threads N] "
                        "[--isa c|avx2|avx512]\n");
        return 64;
    }
    memory = bench_products_open(&o);
    for (unsigned isa = CCQ_ISA_C; isa <= CCQ_ISA_AVX512; isa *= 2) {
        ccq_ops_init(&ops, 2 * isa - 1); /* it and all below */
        if (!strcmp(ops.name, last) || !(o.isa & isa))
            continue;
        last = ops.name;
        if (!o.products) {
            bench_encoder(&o, &ops);
            bench_weight_only(&o, &ops);
        }
        bench_products(&o, &ops, memory);
    }
    bench_products_close(memory);
    return 0;
}
