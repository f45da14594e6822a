/* What tests of wint2 experts stand on: experts and rows on a device, a call, and fp64 of both
 * of its products. What lies between them, h, is taken from the work memory of the call: so
 * each product is held to the bounds of one product, the second by the h that it had. */
#ifndef CCQ_TESTS_GPU_EXPERTS_BED_H
#define CCQ_TESTS_GPU_EXPERTS_BED_H

#include "kernels/gpu/wint2_dense.h"
#include "kernels/gpu/wint2_stage.h"
#include "tests/gpu_wint2_bed.h"

enum { EXPERTS = 6 }; /* at most */

typedef struct bed {
    ccq_gpu *gpu;
    int64_t hidden, inter;
    int experts;
    tensors t[2][EXPERTS]; /* up_gate, down */
    ccq_gpu_matrix m[2][EXPERTS];
    void *packed[2][EXPERTS], *table[2];
} bed;

/* Expert `nasty` has a tile with lines of all kinds. */
static inline void make_bed(bed *b, ccq_gpu *gpu, uint64_t *seed, int experts, int nasty,
                            int64_t hidden, int64_t inter, float scale)
{
    memset(b, 0, sizeof *b);
    b->gpu = gpu;
    b->hidden = hidden;
    b->inter = inter;
    b->experts = experts;
    for (int i = 0; i < 2; i++) {
        int64_t k = i ? inter : hidden, n = i ? hidden : 2 * inter;
        for (int e = 0; e < experts; e++) {
            ccq_gpu_wint2_found found;
            b->t[i][e] = make_tensors(gpu, seed, k, n, e == nasty, i ? 0x1p-7f : scale);
            REQUIRE(!ccq_gpu_alloc(gpu, ccq_gpu_wint2_bytes(k, n), &b->packed[i][e]), "memory");
            REQUIRE(!ccq_gpu_wint2(gpu)->repack(gpu, &b->t[i][e].device, !i, b->packed[i][e],
                                                &b->m[i][e], &found),
                    "%s", ccq_gpu_error(gpu));
        }
        b->table[i] = on_device(gpu, b->m[i], sizeof b->m[i]);
    }
}

static inline void free_bed(bed *b)
{
    for (int i = 0; i < 2; i++) {
        ccq_gpu_free(b->gpu, b->table[i]);
        for (int e = 0; e < b->experts; e++) {
            ccq_gpu_free(b->gpu, b->packed[i][e]);
            free_tensors(b->gpu, &b->t[i][e]);
        }
    }
}

/* Rows by expert, every third row of x twice among them. */
typedef struct step {
    int64_t rows, tokens;
    int32_t start[EXPERTS + 1], *from;
    float *x;
} step;

static inline step make_step(uint64_t *seed, const bed *b, const int *counts)
{
    step s = {0};

    for (int e = 0; e < b->experts; e++)
        s.start[e + 1] = s.start[e] + counts[e];
    s.rows = s.start[b->experts];
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

static inline void free_step(step *s)
{
    free(s->from);
    free(s->x);
}

/* ---- A call -------------------------------------------------------------- */

/* goes: CCQ_GPU_WAY_* that a device with all ways must go; another goes its own. */
typedef struct way {
    int rounding, order, large, goes;
} way;

/* h [rows][inter] from work memory p->work, which is the host's. */
static inline void take_h(const ccq_gpu_experts *p, int goes, float *h)
{
    ccq_w2_plan plan = ccq_w2_plan_of(p);

    for (int64_t i = 0; i < p->rows * p->inter; i++) {
        int64_t row = i / p->inter, j = i % p->inter;
        uint16_t bits;
        memcpy(&bits, plan.h.to + (goes == CCQ_GPU_WAY_FEW
                                       ? ccq_w2_x_at(row, j, p->order, p->rows)
                                       : ccq_w2_wide_x_at(row, j, p->order, p->inter)), 2);
        h[i] = p->rounding == CCQ_ROUND_NONE ? plan.h.x[i] : ccq_bf16_to_f32(bits);
    }
}

/* h, y: NULL, or where they go. */
static inline void run(const bed *b, const step *s, way w, float *h, float *y)
{
    const ccq_gpu_wint2_ops *ops = ccq_gpu_wint2(b->gpu);
    size_t size = (size_t)(s->rows * b->hidden) * sizeof *y, work;
    int goes;
    void *x = on_device(b->gpu, s->x, (size_t)(s->tokens * b->hidden) * sizeof *s->x), *to;
    void *start = on_device(b->gpu, s->start, sizeof s->start), *memory;
    void *from = on_device(b->gpu, s->from, (size_t)s->tokens * sizeof *s->from);
    ccq_gpu_experts p = {
        .up_gate = b->table[0], .down = b->table[1], .host_up_gate = b->m[0],
        .host_down = b->m[1], .experts = b->experts, .hidden = b->hidden, .inter = b->inter,
        .x = x, .ldx = b->hidden, .start = start, .from = from, .rows = s->rows, .most = s->rows,
        .rounding = w.rounding, .order = w.order, .large = w.large};

    work = ops->work(b->gpu, b->experts, b->hidden, b->inter, s->rows);
    REQUIRE(!ccq_gpu_alloc(b->gpu, size, &to) && !ccq_gpu_alloc(b->gpu, work, &memory), "memory");
    REQUIRE(!ccq_gpu_fill(b->gpu, to, 0xff, size) && !ccq_gpu_fill(b->gpu, memory, 0xff, work),
            "fill");
    p.y = to;
    p.work = memory;
    goes = ops->way(b->gpu, &p);
    CHECK(goes == w.goes || ccq_gpu_kind(b->gpu) != CCQ_GPU_HOST, "way %d, not %d", goes, w.goes);
    REQUIRE(!ops->experts(b->gpu, &p), "%s", ccq_gpu_error(b->gpu));
    from_device(b->gpu, y, to, size);
    if (h) {
        p.work = malloc(work);
        from_device(b->gpu, p.work, memory, work);
        take_h(&p, goes, h);
        free(p.work);
    }
    ccq_gpu_free(b->gpu, to);
    ccq_gpu_free(b->gpu, memory);
    ccq_gpu_free(b->gpu, x);
    ccq_gpu_free(b->gpu, start);
    ccq_gpu_free(b->gpu, from);
}

/* ---- The oracle ---------------------------------------------------------- */

/* What becomes of a row before it is multiplied. */
static inline void seen(const float *x, int64_t k, int rounding, double *to)
{
    uint32_t top = 0;
    int tau;

    for (int64_t i = 0; i < k; i++) {
        uint32_t bits = ccq_w2_bits(x[i]) & 0x7fffffffu;
        top = bits > top ? bits : top;
    }
    tau = ccq_w2_stage_tau(top);
    for (int64_t i = 0; i < k; i++)
        to[i] = rounding == CCQ_ROUND_NONE
            ? ldexp((double)ccq_w2_from_f16(ccq_w2_to_f16(ccq_w2_scaled(x[i], tau))), -tau)
            : (double)ccq_round_bf16(x[i]);
}

/* One product of one row, nothing rounded in it. */
static inline void times(const float *x, int64_t k, int rounding, const float *w, int64_t n,
                         double *y)
{
    double *in = malloc((size_t)k * sizeof *in);

    seen(x, k, rounding, in);
    memset(y, 0, (size_t)n * sizeof *y);
    for (int64_t i = 0; i < k; i++)
        for (int64_t j = 0; j < n; j++)
            y[j] += in[i] * (double)w[i * n + j];
    free(in);
}

/* ---- Bounds -------------------------------------------------------------- */

/* Squares of errors and of truths of all rows, outputs out of bounds, the largest part of its
 * bound that an output has. */
typedef struct sums {
    double error, all, worst;
    int64_t bad;
} sums;

static inline void count(sums *s, double got, double want, double bound)
{
    double e = fabs(got - want);

    s->error += e * e;
    s->all += want * want;
    s->bad += !(e <= bound);
    s->worst = e > s->worst * bound ? e / bound : s->worst;
}

static inline double rms(const double *y, int64_t n)
{
    double square = 0;
    for (int64_t i = 0; i < n; i++)
        square += y[i] * y[i];
    return sqrt(square / (double)n);
}

/* Of one product, whose outputs are rounded to bf16 but for rounding none. */
static inline double bound_of(double y, double row, int rounding)
{
    return rounding == CCQ_ROUND_NONE ? 1e-4 * row : 0x1p-8 * fabs(y) + 4e-3 * row;
}

/* y of a row with h. */
static inline void down_row(const bed *b, const float *h, const float *w, int rounding,
                            const float *y, sums *s)
{
    double *want = malloc((size_t)b->hidden * sizeof *want), row;

    times(h, b->inter, rounding, w, b->hidden, want);
    row = rms(want, b->hidden);
    for (int64_t j = 0; j < b->hidden; j++)
        count(s, (double)y[j], want[j], bound_of(want[j], row, rounding));
    free(want);
}

/* h of a row. Its gate g and up u are a product's outputs and off by bound_of(), silu(g) by
 * 1.1 times that, as its slope is no steeper; and then h is rounded. */
static inline void up_row(const bed *b, const float *x, const float *w, int rounding,
                          const float *h, sums *s)
{
    double *g = malloc((size_t)(2 * b->inter) * sizeof *g), *u = g + b->inter, rows[2];
    double half = rounding == CCQ_ROUND_NONE ? 0x1p-20 : 0x1p-8;

    times(x, b->hidden, rounding, w, 2 * b->inter, g);
    rows[0] = rms(g, b->inter);
    rows[1] = rms(u, b->inter);
    for (int64_t j = 0; j < b->inter; j++) {
        double silu = g[j] / (1 + exp(-g[j])), want = silu * u[j];
        double gate = 1.1 * bound_of(g[j], rows[0], rounding);
        double up = bound_of(u[j], rows[1], rounding);
        double bound = gate * fabs(u[j]) + up * fabs(silu) + gate * up;
        count(s, (double)h[j], want, bound + half * (fabs(want) + bound));
    }
    free(g);
}

/* Of all tests: the largest errors as a whole and parts of a bound, by product, bf16 or not. */
static double bed_worst[2][2], bed_part[2][2];

static inline void judge(const sums *s, int product, int rounding, const char *what)
{
    int none = rounding == CCQ_ROUND_NONE;
    double limit = none ? 1e-5 : product ? 3e-3 : 5.2e-3, whole = sqrt(s->error);

    if (s->all > 0 && whole / sqrt(s->all) > bed_worst[product][none])
        bed_worst[product][none] = whole / sqrt(s->all);
    if (s->worst > bed_part[product][none])
        bed_part[product][none] = s->worst;
    CHECK(!s->bad, "%s, %s: %" PRId64 " outputs", what, product ? "y" : "h", s->bad);
    CHECK(whole <= limit * sqrt(s->all), "%s, %s: error %g of %g", what, product ? "y" : "h", whole,
          sqrt(s->all));
}

/* As a whole: 1e-5 of fp32; 3e-3 of a product in bf16; of h, that has three roundings, gate's,
 * up's and its own, the root of three times that. */
static inline void check_products(const bed *b, const step *s, way w, const float *h,
                                  const float *y, const char *what)
{
    sums all[2] = {{0}};

    for (int e = 0; e < b->experts; e++) {
        float *m[2];
        if (s->start[e] == s->start[e + 1])
            continue;
        for (int i = 0; i < 2; i++)
            m[i] = decoded(&b->t[i][e], w.rounding, w.order);
        for (int64_t i = s->start[e]; i < s->start[e + 1]; i++) {
            up_row(b, s->x + s->from[i] * b->hidden, m[0], w.rounding, h + i * b->inter, all);
            down_row(b, h + i * b->inter, m[1], w.rounding, y + i * b->hidden, all + 1);
        }
        free(m[0]);
        free(m[1]);
    }
    judge(all, 0, w.rounding, what);
    judge(all + 1, 1, w.rounding, what);
}

/* A call, whose y it leaves, against the oracle, and with `again` once more. */
static inline void check_call(const bed *b, const step *s, way w, int again, float *y)
{
    size_t size = (size_t)(s->rows * b->hidden + 1) * sizeof(float);
    float *h = malloc((size_t)(s->rows * b->inter + 1) * sizeof *h), *second = malloc(size);
    char what[120];

    snprintf(what, sizeof what,
             "%" PRId64 " x %" PRId64 ", %" PRId64 " rows, rounding %d, order %d, large %d",
             b->hidden, b->inter, s->rows, w.rounding, w.order, w.large);
    run(b, s, w, h, y);
    check_products(b, s, w, h, y, what);
    if (again) {
        run(b, s, w, NULL, second);
        CHECK(!memcmp(y, second, size - sizeof *y), "%s: other bits in a second run", what);
    }
    free(h);
    free(second);
}

static inline void print_worst(void)
{
    for (int i = 0; i < 2; i++)
        printf("%s: bf16 %.2g as a whole, %.2g of an output's bound; fp32 %.2g, %.2g\n",
               i ? "y" : "h", bed_worst[i][0], bed_part[i][0], bed_worst[i][1], bed_part[i][1]);
}

#endif
