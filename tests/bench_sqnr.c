/* SQNR and speed of the encoder at gain 0, on the sources and against the goals
 * below (docs/design.md, "The encoder"). One core.
 *
 *   bench_sqnr [--columns N] [--seeds N] [--effort fast|scales|normal]
 *              [--isa c|avx2|avx512] [--json] */
#include "kernels/encode.h"
#include "tests/check.h"

#include <math.h>
#include <time.h>

enum { K = 4096 };

/* ---- The sources --------------------------------------------------------- */

typedef struct source {
    uint64_t s[4];
    double kept; /* the sine of the last pair */
    int has_kept;
} source;

static void source_init(source *x, uint64_t seed)
{
    for (int i = 0; i < 4; i++)
        x->s[i] = check_next(&seed);
    x->has_kept = 0;
}

static uint64_t rotl(uint64_t x, int n)
{
    return x << n | x >> (64 - n);
}

/* xoshiro256**, to (0, 1) */
static double uniform(source *x)
{
    uint64_t *s = x->s, r = rotl(s[1] * 5, 7) * 9, t = s[1] << 17;

    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotl(s[3], 45);
    return ((double)(r >> 11) + 0.5) * 0x1p-53;
}

/* Box-Muller, cosine first */
static double normal(source *x)
{
    double radius, angle;

    if (x->has_kept) {
        x->has_kept = 0;
        return x->kept;
    }
    radius = sqrt(-2.0 * log(uniform(x)));
    angle = 6.283185307179586476925 * uniform(x);
    x->kept = radius * sin(angle);
    x->has_kept = 1;
    return radius * cos(angle);
}

static double laplace(source *x)
{
    double u = uniform(x) - 0.5;
    double a = -log(1.0 - 2.0 * fabs(u)) / sqrt(2.0);

    return u < 0.0 ? -a : a;
}

static double student5(source *x)
{
    double z = normal(x), sum = 0.0;

    for (int i = 0; i < 5; i++) {
        double n = normal(x);
        sum += n * n;
    }
    return z * sqrt(3.0 / 5.0) / sqrt(sum / 5.0);
}

enum { GAUSS, LAPLACE, T5, LN07, SOURCES };
static const char *const source_name[SOURCES] = {"gauss", "laplace", "t5", "ln0.7"};

static void draw_column(source *x, int kind, float *w)
{
    for (int k = 0; k < K; k++)
        w[k] = (float)(kind == LAPLACE ? laplace(x) : kind == T5 ? student5(x) : normal(x));
    for (int g = 0; kind == LN07 && g < K; g += CCQ_GROUP) {
        double factor = exp(0.7 * normal(x));
        for (int i = 0; i < CCQ_GROUP; i++)
            w[g + i] = (float)((double)w[g + i] * factor);
    }
}

/* ---- One measurement ----------------------------------------------------- */

typedef struct setup {
    const char *name;
    int effort, columns, seeds;
    double goal[SOURCES]; /* dB */
} setup;

typedef struct figure {
    double db, worst, rate; /* mean and least over seeds; million weights a second */
} figure;

typedef struct bench {
    ccq_ops ops;
    ccq_encoder enc;
    uint8_t bytes[K / CCQ_WINDOWS], local[K / CCQ_GROUP];
    float w[K];
    void *scratch;
} bench;

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double one_seed(bench *b, const setup *s, int kind, uint64_t seed, double *seconds)
{
    const ccq_encode_params p = {s->effort, 0, CCQ_ORDER_PLAIN};
    ccq_column c = {b->bytes, b->local, 0, 0, 0, 0, 0, 0, 0};
    double error = 0.0, energy = 0.0;
    source x;

    source_init(&x, seed);
    for (int n = 0; n < s->columns; n++) {
        double start;
        draw_column(&x, kind, b->w);
        start = now();
        ccq_encode_column(&b->ops, &b->enc, &p, b->w, K, &c, b->scratch);
        *seconds += now() - start;
        error += c.error;
        energy += c.energy;
    }
    return 10.0 * log10(energy / error);
}

static figure measure(bench *b, const setup *s, int kind)
{
    figure f = {0.0, 1e9, 0.0};
    double seconds = 0.0;

    for (int seed = 1; seed <= s->seeds; seed++) {
        double db = one_seed(b, s, kind, (uint64_t)seed, &seconds);
        f.db += db / s->seeds;
        f.worst = db < f.worst ? db : f.worst;
    }
    f.rate = (double)K * s->columns * s->seeds / seconds / 1e6;
    return f;
}

/* The search alone: one local scale a group. */
static double search_rate(bench *b)
{
    enum { GROUPS = 20000 };
    uint64_t seed = 1;
    double start;
    int16_t u[CCQ_GROUP];
    uint8_t best[1][16];
    int32_t J;

    for (int i = 0; i < CCQ_GROUP; i++)
        u[i] = (int16_t)(check_next(&seed) % 4096) - 2048;
    start = now();
    for (int g = 0; g < GROUPS; g++) {
        u[0] = (int16_t)g;
        b->ops.search(&b->enc.book[0], u, 8, 8, &J, best);
    }
    return CCQ_GROUP * (double)GROUPS / (now() - start) / 1e6;
}

/* ---- Arguments and printing ---------------------------------------------- */

typedef struct options {
    int columns, seeds, json;
    const char *effort;
    unsigned isa;
} options;

static int parse(options *o, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *v = i + 1 < argc ? argv[i + 1] : "";
        if (!strcmp(argv[i], "--json")) {
            o->json = 1;
            continue;
        }
        if (!strcmp(argv[i], "--columns"))
            o->columns = atoi(v);
        else if (!strcmp(argv[i], "--seeds"))
            o->seeds = atoi(v);
        else if (!strcmp(argv[i], "--effort"))
            o->effort = v;
        else if (!strcmp(argv[i], "--isa"))
            o->isa = !strcmp(v, "c") ? CCQ_ISA_C : !strcmp(v, "avx2") ? 3u : 7u;
        else
            return -1;
        i++;
    }
    return o->columns >= 0 && o->seeds >= 0 ? 0 : -1;
}

static void print_row(const options *o, const setup *s, int kind, figure f)
{
    int met = f.db >= s->goal[kind];

    if (o->json)
        printf("{\"effort\":\"%s\",\"source\":\"%s\",\"columns\":%d,\"seeds\":%d,\"db\":%.4f,"
               "\"worst_seed_db\":%.4f,\"goal_db\":%.2f,\"met\":%s,\"mw_per_s\":%.2f}\n",
               s->name, source_name[kind], s->columns, s->seeds, f.db, f.worst, s->goal[kind],
               met ? "true" : "false", f.rate);
    else
        printf("%-7s %-8s %6dx%d %9.3f %9.3f %9.2f  %-4s %9.2f\n", s->name, source_name[kind],
               s->columns, s->seeds, f.db, f.worst, s->goal[kind], met ? "met" : "MISS", f.rate);
    fflush(stdout);
}

static int run(bench *b, const options *o, setup s)
{
    int missed = 0;

    if (*o->effort && strcmp(o->effort, s.name))
        return 0;
    s.columns = o->columns ? o->columns : s.columns;
    s.seeds = o->seeds ? o->seeds : s.seeds;
    for (int kind = 0; kind < SOURCES; kind++) {
        figure f = measure(b, &s, kind);
        print_row(o, &s, kind, f);
        missed += !(f.db >= s.goal[kind]);
    }
    return missed;
}

int main(int argc, char **argv)
{
    static const setup setups[] = {
        {"fast", CCQ_EFFORT_FAST, 512, 4, {9.82, 8.11, 8.05, 9.72}},
        {"scales", CCQ_EFFORT_SCALES, 512, 4, {9.82, 8.12, 8.09, 9.74}},
        {"normal", CCQ_EFFORT_NORMAL, 256, 2, {9.88, 8.16, 8.12, 9.89}},
    };
    static bench b;
    options o = {0, 0, 0, "", ~0u};
    int missed = 0;

    if (parse(&o, argc, argv)) {
        fprintf(stderr, "usage: bench_sqnr [--columns N] [--seeds N] "
                        "[--effort fast|scales|normal] [--isa c|avx2|avx512] [--json]\n");
        return 64;
    }
    ccq_ops_init(&b.ops, o.isa);
    b.scratch = malloc(ccq_encode_scratch(K));
    REQUIRE(b.scratch && ccq_encoder_init(&b.enc) == 0, "setup");
    if (o.json)
        printf("{\"isa\":\"%s\",\"search_mw_per_s\":%.1f}\n", b.ops.name, search_rate(&b));
    else
        printf("instruction set %s, one-scale search %.1f Mw/s\n"
               "effort  source   columns        dB worst seed      goal           Mw/s\n",
               b.ops.name, search_rate(&b));
    for (size_t i = 0; i < sizeof setups / sizeof *setups; i++)
        missed += run(&b, &o, setups[i]);
    free(b.scratch);
    return missed ? 1 : 0;
}
