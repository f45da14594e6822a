/* Output SQNR and speed of encoding with feedback on one core: 128 Gaussian columns of
 * K = 1024 under five kinds of H (tests/feedback_data.h), step by step at gain 0, against
 * the figures and tolerances of docs/design.md, "Calibration".
 *
 *   bench_feedback [--columns N] [--seed N] [--h 0..4] [--isa c|avx2|avx512] [--speed] [--json]
 */
#include "kernels/feedback.h"
#include "tests/feedback_data.h"

#include <time.h>

enum { K = 1024, KINDS = 5 };

typedef struct options {
    int columns, only, speed, json;
    uint64_t seed;
    unsigned isa;
} options;

typedef struct bench {
    ccq_ops ops;
    ccq_encoder enc;
    double *h, *u, *d;
    float *w; /* [columns/16][K][16] */
    void *metric, *diagonal, *scratch;
    const ccq_metric *m, *dm;
    uint8_t bytes[CCQ_PANEL][K / CCQ_WINDOWS], local[CCQ_PANEL][K / CCQ_GROUP];
    ccq_column column[CCQ_PANEL];
} bench;

enum { PLAIN, DIAGONAL, LOOP, DESCENT, FULL, ROWS };

typedef struct step {
    const char *name;
    unsigned leave;
    int passes;
    double want[KINDS], within[KINDS]; /* dB; within 0: no goal */
} step;

/* Whose figures those are did not fix the draw of H, which moves all rows of H1 by 0.3 dB
 * and of H4 by 1 dB alike; these draws come near theirs in the two rows without feedback. */
static const uint64_t draw[KINDS] = {1001, 1001, 1004, 1001, 1008};

static const step steps[ROWS] = {
    {"plain nearest", 0, 0, {9.88, 9.96, 9.78, 9.87, 9.61}, {0.1, 0.0, 0.0, 0.0, 0.0}},
    {"diagonal metric", CCQ_FEEDBACK_NO_TABLE | CCQ_FEEDBACK_NO_PASSES, 0,
     {9.88, 12.76, 10.66, 10.92, 10.73}, {0.1, 0.0, 0.0, 0.0, 0.0}},
    {"feedback, l in the loop", CCQ_FEEDBACK_NO_TABLE | CCQ_FEEDBACK_NO_PASSES, 0,
     {16.89, 16.02, 15.35, 12.55, 21.00}, {0.1, 0.1, 0.5, 0.5, 0.5}},
    {"+ 10 passes", CCQ_FEEDBACK_NO_TABLE | CCQ_FEEDBACK_NO_JOINT, 10,
     {16.96, 16.15, 15.76, 13.15, 21.24}, {0.1, 0.1, 0.5, 0.5, 0.5}},
    {"all of it", 0, 0, {0}, {0}},
};

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* x H x' of what is left of column c. */
static double loss_of(const bench *b, const float *w, int c)
{
    const ccq_column *x = &b->column[c];
    static double e[K];

    for (int i = 0; i < K; i++) {
        int l = x->local[i / CCQ_GROUP];
        float g = ccq_group_scale(l, ccq_bf16_to_f32(x->super), CCQ_ROUND_FUSED);
        int32_t word = ccq_word_fused(x->bytes[i / CCQ_WINDOWS], x->code_scale, x->code_zp);
        int value = ccq_code_value(word, i % CCQ_WINDOWS);
        e[i] = (double)w[i * CCQ_PANEL + c] - (double)ccq_code_weight(value, g, CCQ_ROUND_FUSED);
    }
    return data_norm(b->h, K, e);
}

static void encode(bench *b, int row, const float *w, int count)
{
    const ccq_encode_params plain = {CCQ_EFFORT_SCALES, 0, CCQ_ORDER_PLAIN};
    const ccq_feedback_params p = {.leave = steps[row].leave, .passes = steps[row].passes};

    if (row == PLAIN)
        ccq_encode_panel(&b->ops, &b->enc, &plain, w, K, count, b->column, b->scratch);
    else
        ccq_feedback_panel(&b->ops, &b->enc, row == DIAGONAL ? b->dm : b->m, &p, w, w, count,
                           b->column, NULL, b->scratch);
}

/* dB of one step; *rate: million weights a second. */
static double measure(bench *b, const options *o, int row, double *rate)
{
    double loss = 0.0, plain = 0.0, seconds = 0.0;
    static double x[K];

    for (int n = 0; n < o->columns; n += CCQ_PANEL) {
        const float *w = b->w + (size_t)n * K;
        int count = o->columns - n < CCQ_PANEL ? o->columns - n : CCQ_PANEL;
        double start = now();
        encode(b, row, w, count);
        seconds += now() - start;
        for (int c = 0; c < count; c++) {
            for (int i = 0; i < K; i++)
                x[i] = (double)w[i * CCQ_PANEL + c];
            plain += data_norm(b->h, K, x);
            loss += loss_of(b, w, c);
        }
    }
    *rate = 1e-6 * K * o->columns / seconds;
    return -10.0 * log10(loss / plain);
}

static void prepare(bench *b, const options *o, int kind)
{
    source x;

    source_init(&x, o->seed);
    memset(b->w, 0, (size_t)(o->columns + CCQ_PANEL) * K * sizeof *b->w);
    for (int n = 0; n < o->columns; n++)
        for (int i = 0; i < K; i++)
            b->w[(size_t)(n / CCQ_PANEL * K + i) * CCQ_PANEL + (size_t)(n % CCQ_PANEL)] =
                (float)source_normal(&x);
    source_init(&x, draw[kind] + o->seed - 1);
    data_h(&x, kind, K, b->h);
    data_factor(b->h, K, b->u);
    b->m = ccq_metric_fill(&b->enc, K, CCQ_BOOKS, 1, b->h, b->u, b->metric);
    memset(b->d, 0, sizeof(double) * K * K);
    for (int i = 0; i < K; i++)
        b->d[i * K + i] = b->h[i * K + i];
    b->dm = ccq_metric_fill(&b->enc, K, 1, 1, b->d, b->d, b->diagonal);
}

static int run_kind(bench *b, const options *o, int kind)
{
    double base = 0.0; /* the diagonal row: what is over it depends little on the draw */
    int missed = 0;

    prepare(b, o, kind);
    for (int row = 0; row < ROWS; row++) {
        const step *s = &steps[row];
        double rate, db = measure(b, o, row, &rate);
        int met = !(s->within[kind] > 0.0) || fabs(db - s->want[kind]) <= s->within[kind];
        double other = s->want[kind] - (row < ROWS - 1 ? steps[DIAGONAL].want[kind] : 0.0);
        base = row == DIAGONAL ? db : base;
        missed += !met;
        if (o->json)
            printf("{\"h\":%d,\"step\":\"%s\",\"db\":%.3f,\"want_db\":%.2f,\"within_db\":%.1f,"
                   "\"over_diagonal_db\":%.3f,\"met\":%s,\"mw_per_s\":%.3f}\n", kind, s->name, db,
                   s->want[kind], s->within[kind], db - base, met ? "true" : "false", rate);
        else if (row <= DIAGONAL)
            printf("H%d  %-24s %6.2f %6.2f +-%.1f %4s %21s %8.2f\n", kind, s->name, db,
                   s->want[kind], s->within[kind], met ? "" : "MISS", "", rate);
        else
            printf("H%d  %-24s %6.2f %6.2f +-%.1f %4s %10.2f %10.2f %8.2f\n", kind, s->name, db,
                   s->want[kind], s->within[kind], met ? "" : "MISS", db - base, other, rate);
        fflush(stdout);
    }
    return missed;
}

/* Million weights a second, the best of some rounds: other work on the machine slows. */
static double rate_of(bench *b, int bits, int rounds)
{
    static int32_t order[K];
    static uint8_t stored[K * CCQ_PANEL / 2];
    double best = 1e9;
    ccq_weight_only out;

    for (int i = 0; i < K; i++)
        order[i] = i;
    for (int r = 0; r < rounds; r++) {
        double start = now(), seconds;
        if (bits == 2)
            encode(b, FULL, b->w, CCQ_PANEL);
        else
            ccq_feedback4_panel(&b->ops, b->m, order, b->w, b->w, 0, CCQ_PANEL, stored, &out,
                                b->scratch);
        seconds = now() - start;
        best = seconds < best ? seconds : best;
    }
    return 1e-6 * K * CCQ_PANEL / best;
}

/* All of it, and wint4, on every instruction set. */
static void speed(bench *b, const options *o)
{
    static const unsigned isa[] = {CCQ_ISA_C, CCQ_ISA_C | CCQ_ISA_AVX2, ~0u};

    prepare(b, o, 0);
    for (int i = 0; i < 3; i++) {
        double two, four;
        if (o->isa < isa[i] && i)
            continue;
        ccq_ops_init(&b->ops, isa[i]);
        two = rate_of(b, 2, i ? 40 : 1);
        four = rate_of(b, 4, i ? 100 : 2);
        if (o->json)
            printf("{\"isa\":\"%s\",\"wint2_mw_per_s\":%.3f,\"wint4_mw_per_s\":%.2f}\n",
                   b->ops.name, two, four);
        else
            printf("%-7s wint2 %8.3f Mw/s, wint4 %8.2f Mw/s\n", b->ops.name, two, four);
    }
}

static int parse(options *o, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *v = i + 1 < argc ? argv[i + 1] : "";
        if (!strcmp(argv[i], "--json") || !strcmp(argv[i], "--speed")) {
            *(argv[i][2] == 'j' ? &o->json : &o->speed) = 1;
            continue;
        }
        if (!strcmp(argv[i], "--columns"))
            o->columns = atoi(v);
        else if (!strcmp(argv[i], "--seed"))
            o->seed = strtoull(v, NULL, 0);
        else if (!strcmp(argv[i], "--h"))
            o->only = atoi(v);
        else if (!strcmp(argv[i], "--isa"))
            o->isa = !strcmp(v, "c") ? CCQ_ISA_C : !strcmp(v, "avx2") ? 3u : ~0u;
        else
            return -1;
        i++;
    }
    return o->columns > 0 && o->only < KINDS ? 0 : -1;
}

static void *room(size_t size)
{
    void *p = aligned_alloc(64, (size + 63) / 64 * 64);

    REQUIRE(p, "out of memory");
    return p;
}

int main(int argc, char **argv)
{
    static bench b;
    options o = {128, -1, 0, 0, 1, ~0u};
    size_t scratch = ccq_feedback_scratch(K), other = ccq_encode_scratch(K);
    int missed = 0;

    if (parse(&o, argc, argv)) {
        fprintf(stderr, "usage: bench_feedback [--columns N] [--seed N] [--h 0..4] "
                        "[--isa c|avx2|avx512] [--speed] [--json]\n");
        return 64;
    }
    ccq_ops_init(&b.ops, o.isa);
    REQUIRE(ccq_encoder_init(&b.enc) == 0, "encoder");
    b.h = room(sizeof(double) * K * K), b.u = room(sizeof(double) * K * K);
    b.d = room(sizeof(double) * K * K);
    b.w = room((size_t)(o.columns + CCQ_PANEL) * K * sizeof *b.w);
    b.metric = room(ccq_metric_bytes(K, CCQ_BOOKS, 1));
    b.diagonal = room(ccq_metric_bytes(K, 1, 1));
    b.scratch = room(scratch > other ? scratch : other);
    for (int c = 0; c < CCQ_PANEL; c++)
        b.column[c] = (ccq_column){.bytes = b.bytes[c], .local = b.local[c]};
    if (!o.json)
        printf("H   step                         dB   want within      over diag.       want"
               "     Mw/s\n");
    for (int kind = 0; kind < KINDS && !o.speed; kind++)
        if (o.only < 0 || o.only == kind)
            missed += run_kind(&b, &o, kind);
    speed(&b, &o);
    return missed ? 1 : 0;
}
