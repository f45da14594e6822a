/* Feed-forward blocks of wint2 experts on a device against fp64 with the matching weights. On
 * the host device, or with the argument "cuda" on the first CUDA device. */
#include "kernels/gpu/wint2_stage.h"
#include "tests/gpu_wint2_bed.h"

static ccq_gpu *gpu;

enum { EXPERTS = 6 };

typedef struct bed {
    int64_t hidden, inter;
    tensors t[2][EXPERTS]; /* up_gate, down */
    ccq_gpu_matrix m[2][EXPERTS];
    void *packed[2][EXPERTS], *table[2];
} bed;

static void make_bed(bed *b, uint64_t *seed, int64_t hidden, int64_t inter, float scale)
{
    memset(b, 0, sizeof *b);
    b->hidden = hidden;
    b->inter = inter;
    for (int i = 0; i < 2; i++) {
        int64_t k = i ? inter : hidden, n = i ? hidden : 2 * inter;
        for (int e = 0; e < EXPERTS; e++) {
            ccq_gpu_wint2_found found;
            b->t[i][e] = make_tensors(gpu, seed, k, n, e == 2, i ? 0x1p-7f : scale);
            REQUIRE(!ccq_gpu_alloc(gpu, ccq_gpu_wint2_bytes(k, n), &b->packed[i][e]), "memory");
            REQUIRE(!ccq_gpu_wint2(gpu)->repack(gpu, &b->t[i][e].device, !i, b->packed[i][e],
                                                &b->m[i][e], &found),
                    "%s", ccq_gpu_error(gpu));
        }
        b->table[i] = on_device(gpu, b->m[i], sizeof b->m[i]);
    }
}

static void free_bed(bed *b)
{
    for (int i = 0; i < 2; i++) {
        ccq_gpu_free(gpu, b->table[i]);
        for (int e = 0; e < EXPERTS; e++) {
            ccq_gpu_free(gpu, b->packed[i][e]);
            free_tensors(gpu, &b->t[i][e]);
        }
    }
}

/* Rows by expert, every third row of x twice among them. */
typedef struct step {
    int64_t rows, tokens;
    int32_t start[EXPERTS + 1], *from;
    float *x;
} step;

static step make_step(uint64_t *seed, const bed *b, const int *counts)
{
    step s = {0};

    for (int e = 0; e < EXPERTS; e++)
        s.start[e + 1] = s.start[e] + counts[e];
    s.rows = s.start[EXPERTS];
    s.tokens = s.rows ? s.rows : 1;
    s.from = malloc((size_t)s.tokens * sizeof *s.from);
    s.x = malloc((size_t)(s.tokens * b->hidden) * sizeof *s.x);
    for (int64_t i = 0; i < s.rows; i++)
        s.from[i] = (int32_t)(i % 3 ? s.rows - 1 - i : i / 2);
    for (int64_t i = 0; i < s.tokens * b->hidden; i++)
        s.x[i] = ccq_round_bf16(
            (float)(check_uniform(seed) + check_uniform(seed) + check_uniform(seed) - 1.5));
    return s;
}

static void free_step(step *s)
{
    free(s->from);
    free(s->x);
}

/* ---- The device's ------------------------------------------------------- */

static void run(const bed *b, const step *s, int rounding, int order, int large, float *y)
{
    const ccq_gpu_wint2_ops *w = ccq_gpu_wint2(gpu);
    size_t size = (size_t)(s->rows * b->hidden) * sizeof *y, work;
    void *x = on_device(gpu, s->x, (size_t)(s->tokens * b->hidden) * sizeof *s->x), *to;
    void *start = on_device(gpu, s->start, sizeof s->start), *memory;
    void *from = on_device(gpu, s->from, (size_t)s->tokens * sizeof *s->from);
    ccq_gpu_experts p = {
        .up_gate = b->table[0], .down = b->table[1], .host_up_gate = b->m[0],
        .host_down = b->m[1], .experts = EXPERTS, .hidden = b->hidden, .inter = b->inter, .x = x,
        .ldx = b->hidden, .start = start, .from = from, .rows = s->rows, .most = s->rows,
        .rounding = rounding, .order = order, .large = large};

    work = w->work(gpu, EXPERTS, b->hidden, b->inter, s->rows);
    REQUIRE(!ccq_gpu_alloc(gpu, size, &to) && !ccq_gpu_alloc(gpu, work, &memory), "memory");
    REQUIRE(!ccq_gpu_fill(gpu, to, 0xff, size) && !ccq_gpu_fill(gpu, memory, 0xff, work), "fill");
    p.y = to;
    p.work = memory;
    REQUIRE(!w->experts(gpu, &p), "%s", ccq_gpu_error(gpu));
    from_device(gpu, y, to, size);
    ccq_gpu_free(gpu, to);
    ccq_gpu_free(gpu, memory);
    ccq_gpu_free(gpu, x);
    ccq_gpu_free(gpu, start);
    ccq_gpu_free(gpu, from);
}

/* ---- The oracle ---------------------------------------------------------- */

/* What becomes of a row before it is multiplied. */
static void seen(const double *x, int64_t k, int rounding, double *to)
{
    uint32_t top = 0;
    int tau;

    for (int64_t i = 0; i < k; i++) {
        uint32_t bits = ccq_w2_bits((float)x[i]) & 0x7fffffffu;
        top = bits > top ? bits : top;
    }
    tau = ccq_w2_stage_tau(top);
    for (int64_t i = 0; i < k; i++) {
        float scaled = ccq_w2_scaled((float)x[i], tau);
        to[i] = rounding == CCQ_ROUND_NONE
            ? ldexp((double)ccq_w2_from_f16(ccq_w2_to_f16(scaled)), -tau)
            : (double)ccq_round_bf16((float)x[i]);
    }
}

static void times(const double *x, int64_t k, const float *w, int64_t n, int bf16, double *y)
{
    memset(y, 0, (size_t)n * sizeof *y);
    for (int64_t i = 0; i < k; i++)
        for (int64_t j = 0; j < n; j++)
            y[j] += x[i] * (double)w[i * n + j];
    for (int64_t j = 0; j < n && bf16; j++)
        y[j] = (double)ccq_round_bf16((float)y[j]);
}

static void one_row(const bed *b, const float *x, const float *up_gate, const float *down,
                    int rounding, double *y)
{
    int64_t n = 2 * b->inter, most = b->hidden > n ? b->hidden : n;
    double *in = malloc((size_t)most * sizeof *in), *out = malloc((size_t)most * sizeof *out);
    int bf16 = rounding != CCQ_ROUND_NONE;

    for (int64_t i = 0; i < b->hidden; i++)
        out[i] = (double)x[i];
    seen(out, b->hidden, rounding, in);
    times(in, b->hidden, up_gate, n, bf16, out);
    for (int64_t j = 0; j < b->inter; j++)
        in[j] = out[j] / (1 + exp(-out[j])) * out[j + b->inter];
    seen(in, b->inter, rounding, out);
    times(out, b->inter, down, b->hidden, bf16, y);
    free(in);
    free(out);
}

static double *wanted(const bed *b, const step *s, int rounding, int order)
{
    double *y = malloc((size_t)(s->rows * b->hidden + 1) * sizeof *y);

    for (int e = 0; e < EXPERTS; e++) {
        float *up_gate = decoded(&b->t[0][e], rounding, order);
        float *down = decoded(&b->t[1][e], rounding, order);
        for (int64_t i = s->start[e]; i < s->start[e + 1]; i++)
            one_row(b, s->x + s->from[i] * b->hidden, up_gate, down, rounding,
                    y + i * b->hidden);
        free(up_gate);
        free(down);
    }
    return y;
}

/* Every output within the bf16 of a row like this; all of them together much nearer. For
 * rounding none what is left are halves of h that two sums round to different sides. */
static void compare(const float *y, const double *want, int64_t rows, int64_t n, int rounding,
                    const char *what)
{
    double all = 0, error = 0, limit = rounding == CCQ_ROUND_NONE ? 1e-4 : 3e-3;
    int64_t bad = 0;

    for (int64_t r = 0; r < rows; r++) {
        double square = 0;
        for (int64_t j = 0; j < n; j++)
            square += want[r * n + j] * want[r * n + j];
        all += square;
        for (int64_t j = r * n; j < (r + 1) * n; j++) {
            double e = fabs((double)y[j] - want[j]);
            bad += !(e <= 0x1p-7 * fabs(want[j]) + 4 * limit * sqrt(square / (double)n));
            error += e * e;
        }
    }
    CHECK(!bad, "%s: %" PRId64 " of %" PRId64 " outputs", what, bad, rows * n);
    CHECK(sqrt(error) <= limit * sqrt(all), "%s: error %g of %g", what, sqrt(error), sqrt(all));
}

/* ---- Tests --------------------------------------------------------------- */

static void one_case(const bed *b, const step *s, int rounding, int order, int large)
{
    size_t size = (size_t)(s->rows * b->hidden + 1) * sizeof(float);
    float *y = malloc(size), *again = malloc(size);
    double *want = wanted(b, s, rounding, order);
    char what[100];

    snprintf(what, sizeof what, "%" PRId64 " x %" PRId64 ", %" PRId64 " rows, rounding %d, order %d"
             ", large %d", b->hidden, b->inter, s->rows, rounding, order, large);
    run(b, s, rounding, order, large, y);
    run(b, s, rounding, order, large, again);
    compare(y, want, s->rows, b->hidden, rounding, what);
    CHECK(!memcmp(y, again, size - sizeof(float)), "%s: other bits in a second run", what);
    free(want);
    free(again);
    free(y);
}

static void test_counts(uint64_t *seed, const bed *b, int cases)
{
    const int counts[][EXPERTS] = {
        {1, 0, 9, 17, 3, 2}, {0, 0, 37, 0, 0, 0}, {0, 0, 0, 0, 0, 1}, {8, 1, 1, 0, 0, 25}};

    for (int i = 0; i < cases; i++) {
        step s = make_step(seed, b, counts[i]);
        for (int rounding = 0; rounding < 3; rounding++)
            one_case(b, &s, rounding, (i + rounding) % 2, 0);
        if (!i)
            one_case(b, &s, CCQ_ROUND_FUSED, CCQ_ORDER_PLAIN, 0);
        one_case(b, &s, i % 2 ? CCQ_ROUND_NONE : CCQ_ROUND_FUSED, CCQ_ORDER_FASTDEPLOY, 1);
        free_step(&s);
    }
}

static void test_no_rows(uint64_t *seed, const bed *b)
{
    const int counts[EXPERTS] = {0};
    step s = make_step(seed, b, counts);

    run(b, &s, CCQ_ROUND_FUSED, 0, 0, NULL);
    run(b, &s, CCQ_ROUND_NONE, 0, 1, NULL);
    free_step(&s);
}

/* One value of one row that is no number: all of that row's outputs, and no bit of others. */
static void test_nan(uint64_t *seed, const bed *b)
{
    const int counts[EXPERTS] = {2, 3, 0, 11, 1, 2};
    const float poison[2] = {NAN, INFINITY};
    step s = make_step(seed, b, counts);
    size_t count = (size_t)(s.rows * b->hidden);
    float *y = malloc(count * sizeof *y), *clean = malloc(count * sizeof *y);

    for (int i = 0; i < 4; i++) {
        int rounding = i < 2 ? CCQ_ROUND_FUSED : CCQ_ROUND_NONE, bad = 0;
        int64_t row = s.from[5 + i], at = row * b->hidden + 77 * i;
        float was = s.x[at];
        run(b, &s, rounding, 0, 0, clean);
        s.x[at] = poison[i % 2];
        run(b, &s, rounding, 0, 0, y);
        s.x[at] = was;
        for (size_t j = 0; j < count; j++) {
            int hit = s.from[j / (size_t)b->hidden] == row;
            bad += hit ? !(y[j] - y[j] != 0) : memcmp(y + j, clean + j, sizeof *y) != 0;
        }
        CHECK(!bad, "rounding %d: %d outputs", rounding, bad);
    }
    free(clean);
    free(y);
    free_step(&s);
}

/* Values 2^40 apart in a row, rows of subnormals, of zeros, of the largest. */
static void test_ranges(uint64_t *seed)
{
    const int counts[EXPERTS] = {3, 0, 2, 4, 0, 1};
    bed b;
    step s;

    make_bed(&b, seed, 256, 128, 0x1p118f);
    s = make_step(seed, &b, counts);
    for (int64_t i = 0; i < s.rows * b.hidden; i++) {
        float tiny = ccq_round_bf16(s.x[i] * 0x1p-129f);
        int64_t row = i / b.hidden;
        s.x[i] = row % 3 == 0 ? tiny : row % 3 == 1 ? 0.0f : ldexpf(tiny, (int)(i * 7 % 40) - 36);
    }
    for (int rounding = 0; rounding < 3; rounding++)
        one_case(&b, &s, rounding, 0, 0);
    free_step(&s);
    free_bed(&b);
    make_bed(&b, seed, 256, 128, 0x1p-120f);
    s = make_step(seed, &b, counts);
    for (int64_t i = 0; i < s.rows * b.hidden; i++)
        s.x[i] = ldexpf(s.x[i], 116 - (int)(i * 7 % 40) * (i / b.hidden % 2));
    for (int rounding = 0; rounding < 3; rounding++)
        one_case(&b, &s, rounding, 1, 0);
    free_step(&s);
    free_bed(&b);
}

static void test_refused(const bed *b)
{
    ccq_gpu_experts p = {.host_up_gate = b->m[0], .host_down = b->m[1], .experts = EXPERTS,
                         .hidden = b->hidden, .inter = b->inter + 64};

    CHECK(ccq_gpu_wint2(gpu)->experts(gpu, &p) == CCQ_GPU_FAILED, "a size between blocks");
    p.inter = b->inter + 128;
    CHECK(ccq_gpu_wint2(gpu)->experts(gpu, &p) == CCQ_GPU_FAILED, "other matrices");
    p.inter = b->inter;
    p.rounding = 3;
    CHECK(ccq_gpu_wint2(gpu)->experts(gpu, &p) == CCQ_GPU_FAILED, "a rounding");
}

int main(int argc, char **argv)
{
    uint64_t seed = check_seed(21);
    bed b;

    gpu = bed_open(argc, argv);
    make_bed(&b, &seed, 256, 128, 0x1p-7f);
    test_counts(&seed, &b, 4);
    test_no_rows(&seed, &b);
    test_nan(&seed, &b);
    test_refused(&b);
    free_bed(&b);
    make_bed(&b, &seed, 640, 384, 0x1p-8f);
    test_counts(&seed, &b, 1);
    free_bed(&b);
    test_ranges(&seed);
    return bed_close(gpu);
}
