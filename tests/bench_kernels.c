/* Speed of the kernels as ratios inside one run, on every instruction set: the
 * search over a register-only loop of its multiply, add and minimum instructions,
 * whole columns over the search, the gain over all, wint8 and wint4 over memcpy,
 * products of one row over the BF16 one. What is compared takes turns, in slices
 * of milliseconds of processor time, and the median of the ratios is printed: the
 * machine may be shared. One core, but for the products.
 *
 *   bench_kernels [--json] [--rounds N] [--threads N] [--isa c|avx2|avx512] */
#include "kernels/encode.h"
#include "tests/check.h"

#include <pthread.h>
#include <time.h>

enum { MAX_ROUNDS = 201, K = 2048, PASSES = 64 };

typedef struct options {
    int json, rounds, threads;
    unsigned isa;
} options;

static double clock_of(clockid_t id)
{
    struct timespec t;

    clock_gettime(id, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double cpu(void)
{
    return clock_of(CLOCK_THREAD_CPUTIME_ID);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(const double *t, int count)
{
    double sorted[MAX_ROUNDS];

    memcpy(sorted, t, (size_t)count * sizeof *t);
    qsort(sorted, (size_t)count, sizeof *sorted, by_value);
    return sorted[count / 2];
}

/* goal 0: none */
static void report(const options *o, const char *isa, const char *what, const double *rate,
                   const char *unit, const double *base, const char *to, double goal)
{
    double ratio[MAX_ROUNDS], r = 0;

    for (int i = 0; base && i < o->rounds; i++)
        ratio[i] = rate[i] / base[i];
    if (base)
        r = median(ratio, o->rounds);
    if (o->json) {
        printf("{\"bench\":\"kernels\",\"isa\":\"%s\",\"what\":\"%s\",\"rate\":%.2f,"
               "\"unit\":\"%s\"", isa, what, median(rate, o->rounds), unit);
        if (base)
            printf(",\"over\":\"%s\",\"ratio\":%.4f", to, r);
        if (goal > 0)
            printf(",\"goal\":%.3f,\"met\":%s", goal, r >= goal ? "true" : "false");
        printf("}\n");
    } else {
        printf("%-7s %-22s %9.1f %-5s", isa, what, median(rate, o->rounds), unit);
        if (base)
            printf(" %7.3f of %s", r, to);
        if (goal > 0)
            printf(", goal %.3f%s", goal, r >= goal ? "" : " MISSED");
        printf("\n");
    }
    fflush(stdout);
}

static void *need(size_t size)
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
    e->w = need(sizeof(float) * K * CCQ_PANEL);
    e->bytes = need(K / 4 * CCQ_PANEL);
    e->local = need(K / 64 * CCQ_PANEL);
    e->scratch = need(ccq_encode_scratch(K));
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
static double columns_rate(encoder *e, int effort, int gain, int times)
{
    const ccq_encode_params p = {effort, gain, CCQ_ORDER_FASTDEPLOY};
    ccq_column out[CCQ_PANEL];
    double start;

    for (int c = 0; c < CCQ_PANEL; c++)
        out[c] = (ccq_column){.bytes = e->bytes + K / 4 * c, .local = e->local + K / 64 * c};
    start = cpu();
    for (int i = 0; i < times; i++)
        ccq_encode_panel(&e->ops, &e->enc, &p, e->w, K, CCQ_PANEL, out, e->scratch);
    return 1e-6 * times * K * CCQ_PANEL / (cpu() - start);
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

static void bench_encoder(const options *o, const ccq_ops *ops)
{
    static double bound[MAX_ROUNDS], search[MAX_ROUNDS], fast[MAX_ROUNDS], plain[MAX_ROUNDS];
    static double normal[MAX_ROUNDS], plain_normal[MAX_ROUNDS];
    bound_loop *loop = bound_of(ops->name);
    int wide = !strcmp(ops->name, "avx512"), scalar = !strcmp(ops->name, "c");
    int groups = scalar ? 500 : 4000, times = scalar ? 1 : 4;
    encoder e;

    encoder_init(&e, ops);
    for (int i = -1; i < o->rounds; i++) { /* the first round warms up */
        int at = i < 0 ? 0 : i;
        bound[at] = loop ? bound_rate(loop, groups) : 1;
        search[at] = search_rate(&e, groups);
        fast[at] = columns_rate(&e, CCQ_EFFORT_FAST, 4, times);
        plain[at] = columns_rate(&e, CCQ_EFFORT_FAST, 0, times);
        normal[at] = columns_rate(&e, CCQ_EFFORT_NORMAL, 4, 1);
        plain_normal[at] = columns_rate(&e, CCQ_EFFORT_NORMAL, 0, 1);
    }
    if (loop)
        report(o, ops->name, "bound", bound, "Mw/s", NULL, "", 0);
    report(o, ops->name, "search, one scale", search, "Mw/s", loop ? bound : NULL, "bound",
           scalar ? 0 : wide ? 0.90 : 0.85);
    report(o, ops->name, "column, fast", fast, "Mw/s", search, "search",
           scalar ? 0 : wide ? 0.23 : 0.30);
    report(o, ops->name, "column, normal", normal, "Mw/s", search, "search",
           scalar ? 0 : wide ? 0.015 : 0.020);
    report(o, ops->name, "gain at fast", fast, "Mw/s", plain, "gain 0", 0.95);
    report(o, ops->name, "gain at normal", normal, "Mw/s", plain_normal, "gain 0", 0.99);
    encoder_free(&e);
}

/* ---- main ---------------------------------------------------------------- */

static int parse(options *o, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *v = i + 1 < argc ? argv[i + 1] : "";
        if (!strcmp(argv[i], "--json")) {
            o->json = 1;
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
    options o = {0, 15, (int)sysconf(_SC_NPROCESSORS_ONLN), ~0u};
    const char *last = "";
    ccq_ops ops;

    if (parse(&o, argc, argv)) {
        fprintf(stderr, "usage: bench_kernels [--json] [--rounds N] [--threads N] "
                        "[--isa c|avx2|avx512]\n");
        return 64;
    }
    for (unsigned isa = CCQ_ISA_C; isa <= CCQ_ISA_AVX512; isa *= 2) {
        ccq_ops_init(&ops, 2 * isa - 1); /* it and all below */
        if (!strcmp(ops.name, last) || !(o.isa & isa))
            continue;
        last = ops.name;
        bench_encoder(&o, &ops);
    }
    return 0;
}
