/* Risk: a calibration target that is not the one of the formulas, or an alpha that takes
 * noise for a correction. Against sums and solutions done one element at a time. */
#include "kernels/ops.h"
#include "libccq/targets.h"
#include "tests/check.h"

#include <math.h>

enum { TRIES = 4, I = 37, H = 531, HALF = 90 };

static uint64_t state;
static ccq_solver solvers[TRIES];

static double draw(void)
{
    return 2.0 * check_uniform(&state) - 1.0;
}

static double *zeros(int64_t count)
{
    double *p = check_guarded((size_t)count * sizeof *p);
    memset(p, 0, (size_t)count * sizeof *p);
    return p;
}

static float *weights(int64_t count)
{
    float *p = check_guarded((size_t)count * sizeof *p);
    for (int64_t i = 0; i < count; i++)
        p[i] = (float)draw();
    return p;
}

/* x = a^-1 b, both destroyed. */
static void gauss(double *a, int64_t n, double *b, int64_t cols)
{
    for (int64_t k = 0; k < n; k++) {
        int64_t p = k;
        for (int64_t i = k; i < n; i++)
            p = fabs(a[i * n + k]) > fabs(a[p * n + k]) ? i : p;
        for (int64_t j = 0; j < n + cols; j++) {
            double *row = j < n ? a + j : b + (j - n), v;
            int64_t ld = j < n ? n : cols;
            v = row[k * ld], row[k * ld] = row[p * ld], row[p * ld] = v;
        }
        for (int64_t i = 0; i < n; i++) {
            double f = i == k ? 0.0 : a[i * n + k] / a[k * n + k];
            for (int64_t j = 0; j < n && f != 0.0; j++)
                a[i * n + j] -= f * a[k * n + j];
            for (int64_t j = 0; j < cols && f != 0.0; j++)
                b[i * cols + j] -= f * b[k * cols + j];
        }
    }
    for (int64_t i = 0; i < n * cols; i++)
        b[i] /= a[i / cols * (n + 1)];
}

/* to += f x' y over rows first..end-1. */
static void add(double f, const double *x, int64_t m, const double *y, int64_t n, int64_t first,
                int64_t end, double *to)
{
    for (int64_t t = first; t < end; t++)
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j < n; j++)
                to[i * n + j] += f * x[t * m + i] * y[t * n + j];
}

static void close_to(const char *what, const float *got, const double *want, int64_t count)
{
    double worst = 0.0, most = 0.0;

    for (int64_t i = 0; i < count; i++) {
        double d = fabs((double)got[i] - want[i]);
        worst = d <= worst ? worst : d;
        most = fmax(most, fabs(want[i]));
    }
    CHECK(worst <= 1e-6 * most, "%s: off by %g of %g", what, worst, most);
}

/* ---- up_gate ------------------------------------------------------------- */

static void check_up(double share)
{
    enum { K = 67, N = 530, T = 200 };
    double *x = zeros(T * K), *q = zeros(T * K), *h = zeros(K * K), *c = zeros(K * K);
    double *a = zeros(K * K), *want = zeros(K * N), added, mean = 0.0;
    float *w = weights(K * N), *first = NULL;

    for (int i = 0; i < T * K; i++) {
        x[i] = draw();
        q[i] = x[i] + 0.3 * draw();
    }
    add(1.0 / T, q, K, q, K, 0, T, h);
    add(1.0 / T, q, K, x, K, 0, T, c);
    for (int i = 0; i < K; i++)
        mean += h[i * K + i] / K;
    for (int i = 0; i < K; i++)
        for (int j = 0; j < K; j++) {
            a[i * K + j] = h[i * K + j] + (i == j ? 0.03 * mean : 0.0);
            for (int n = 0; n < N; n++)
                want[i * N + n] += (c[i * K + j] - h[i * K + j]) * (double)w[j * N + n];
        }
    gauss(a, K, want, N);
    for (int i = 0; i < K * N; i++)
        want[i] = (double)w[i] + share * want[i];
    added = ccq_damp(h, K, 0.03);
    CHECK(fabs(added - 0.03 * mean) < 1e-12, "damping %g", added);
    for (int t = 0; t < TRIES; t++) {
        double *cross = zeros(K * K), *kept = zeros(K * K);
        float *target = weights(K * N);
        memcpy(cross, c, K * K * sizeof *c);
        memcpy(kept, h, K * K * sizeof *h);
        if (t == 1) /* in place */
            memcpy(target, w, K * N * sizeof *w);
        CHECK(ccq_target_up(&solvers[t], h, added, cross, K, share, t == 1 ? target : w, N, target,
                            NULL) == CCQ_OK, "refused");
        first = first ? first : target;
        close_to("up", target, want, K * N);
        CHECK(!memcmp(target, first, K * N * sizeof *w), "up: other bits, solver %d", t);
        CHECK(!memcmp(kept, h, K * K * sizeof *h), "h was changed");
    }
}

/* ---- down ---------------------------------------------------------------- */

typedef struct tokens {
    double *a, *b, *d, *z; /* [2 HALF][I or H], times r */
    double *r;
    ccq_down_sums sums;
} tokens;

/* d = truth a X + noise. */
static void make(tokens *k, double truth, double noise)
{
    enum { T = 2 * HALF };
    double *delta = zeros(I * H);
    void *memory = check_guarded(ccq_down_sums_bytes(I, H, 1));

    k->a = zeros(T * I), k->b = zeros(T * I), k->z = zeros(T * I), k->d = zeros(T * H);
    k->r = zeros(T);
    for (int i = 0; i < I * H; i++)
        delta[i] = draw();
    for (int t = 0; t < T; t++) {
        k->r[t] = 0.2 + check_uniform(&state);
        for (int i = 0; i < I; i++) {
            double a = draw(), b = a + 0.3 * draw();
            k->a[t * I + i] = k->r[t] * a;
            k->b[t * I + i] = k->r[t] * b;
            k->z[t * I + i] = k->r[t] * (a + b) / 2.0;
        }
        for (int j = 0; j < H; j++) {
            double sum = noise * draw();
            for (int i = 0; i < I; i++)
                sum += truth * k->a[t * I + i] / k->r[t] * delta[i * H + j];
            k->d[t * H + j] = k->r[t] * sum;
        }
    }
    ccq_down_sums_place(&k->sums, I, H, 1, memory);
    for (int f = 0; f < 2; f++) {
        int first = f * HALF, end = first + HALF;
        add(1.0, k->a, I, k->a, I, first, end, k->sums.aa[f]);
        add(1.0, k->b, I, k->a, I, first, end, k->sums.ba[f]);
        add(1.0, k->b, I, k->b, I, first, end, k->sums.bb[f]);
        add(1.0, k->a, I, k->d, H, first, end, k->sums.ad[f]);
        add(1.0, k->b, I, k->d, H, first, end, k->sums.bd[f]);
        for (int t = first; t < end; t++)
            k->sums.weight[f] += k->r[t] * k->r[t];
    }
}

/* (1/N) sum z'a + D of tokens first..end-1. */
static double *book_m(const tokens *k, int first, int end, double damping, double *weight)
{
    double *m = zeros(I * I), *h = zeros(I * I), total = 0.0, mean = 0.0;

    *weight = 0.0;
    for (int t = 0; t < 2 * HALF; t++) {
        total += k->r[t] * k->r[t];
        *weight += t >= first && t < end ? k->r[t] * k->r[t] : 0.0;
    }
    add(1.0 / total, k->a, I, k->a, I, 0, 2 * HALF, h);
    for (int i = 0; i < I; i++)
        mean += h[i * I + i] / I;
    add(1.0 / *weight, k->z, I, k->a, I, first, end, m);
    for (int i = 0; i < I; i++)
        m[i * I + i] += damping * mean;
    return m;
}

static double book_alpha(const tokens *k, double damping)
{
    double num = 0.0, den = 0.0, weight, alpha;

    for (int f = 0; f < 2; f++) {
        double *m = book_m(k, f * HALF, (f + 1) * HALF, damping, &weight), *x = zeros(I * H);
        add(1.0 / weight, k->z, I, k->d, H, f * HALF, (f + 1) * HALF, x);
        gauss(m, I, x, H);
        for (int t = !f * HALF; t < (!f + 1) * HALF; t++)
            for (int j = 0; j < H; j++) {
                double y = 0.0;
                for (int i = 0; i < I; i++)
                    y += k->a[t * I + i] * x[i * H + j];
                num += y * k->d[t * H + j];
                den += y * y;
            }
    }
    alpha = fmin(fmax(num / den, 0.0), 1.0);
    return 2.0 * alpha / (1.0 + alpha);
}

/* W* as the formula has it; correct 0: M times w in place of z'b W + D W. */
static double *book_target(const tokens *k, double damping, int correct, double alpha,
                           const float *w)
{
    double weight, *m = book_m(k, 0, 2 * HALF, damping, &weight), *x = zeros(I * H);
    double *left = zeros(I * I);

    add(1.0 / weight, k->z, I, correct ? k->b : k->a, I, 0, 2 * HALF, left);
    for (int i = 0; i < I; i++)
        for (int q = 0; q < I; q++)
            for (int j = 0; j < H; j++)
                x[i * H + j] += left[i * I + q] * (double)w[q * H + j];
    memset(left, 0, I * I * sizeof *left);
    add(1.0 / weight, k->z, I, k->a, I, 0, 2 * HALF, left);
    for (int i = 0; i < I; i++)
        for (int j = 0; j < H; j++)
            x[i * H + j] += (m[i * I + i] - left[i * I + i]) * (double)w[i * H + j];
    add(alpha / weight, k->z, I, k->d, H, 0, 2 * HALF, x);
    gauss(m, I, x, H);
    return x;
}

static void check_down(int correct, double fixed, double truth, double noise, double least,
                       double most)
{
    tokens k;
    float *w = weights(I * H), *first = NULL;
    double want, *book, *h0 = zeros(I * I);

    make(&k, truth, noise);
    want = isnan(fixed) ? book_alpha(&k, 0.03) : fixed;
    CHECK(want >= least && want <= most, "alpha %g", want);
    book = book_target(&k, 0.03, correct, want, w);
    for (int t = 0; t < TRIES; t++) {
        double *h = zeros(I * I), alpha = -1.0;
        float *target = weights(I * H);
        CHECK(ccq_target_down(&solvers[t], &k.sums, 0.03, correct, fixed, w, target, h, &alpha,
                              NULL) == CCQ_OK, "refused");
        CHECK(fabs(alpha - want) < 1e-9, "alpha %.12g, want %.12g", alpha, want);
        close_to("down", target, book, I * H);
        if (!first) {
            add(1.0 / (k.sums.weight[0] + k.sums.weight[1]), k.a, I, k.a, I, 0, 2 * HALF, h0);
            ccq_damp(h0, I, 0.03);
            for (int i = 0; i < I * I; i++)
                CHECK(fabs(h[i] - h0[i]) < 1e-12, "h[%d] %g, want %g", i, h[i], h0[i]);
            first = target;
            memcpy(h0, h, I * I * sizeof *h);
        }
        CHECK(!memcmp(target, first, I * H * sizeof *w), "down: other bits, solver %d", t);
        CHECK(!memcmp(h, h0, I * I * sizeof *h), "h: other bits, solver %d", t);
    }
}

/* ---- Corners ------------------------------------------------------------- */

/* One neuron, one output: sums by hand. D = 0.25 (aa0 + aa1) / 2. */
static ccq_code one(double aa0, double aa1, double ba0, double ba1, double n0, double n1,
                    float *target, double *alpha)
{
    double aa[2] = {aa0, aa1}, ba[2] = {ba0, ba1}, bb[2] = {1, 1}, ad[2] = {1, 1}, bd[2] = {1, 1};
    double h;
    float w = 1.0f;
    ccq_down_sums s = {.inter = 1, .hidden = 1, .weight = {n0, n1}, .aa = {aa, aa + 1},
                       .ba = {ba, ba + 1}, .bb = {bb, bb + 1}, .ad = {ad, ad + 1},
                       .bd = {bd, bd + 1}};
    return ccq_target_down(&solvers[0], &s, 0.25, 1, NAN, &w, target, &h, alpha, NULL);
}

static void check_corners(void)
{
    double alpha, h[1] = {0.0}, c[1] = {0.0};
    float t, w = 1.0f;

    CHECK(one(1, 1, 1, 1, 1, 1, &t, &alpha) == CCQ_OK && alpha > 0.5, "alpha %g", alpha);
    CHECK(one(2, 0, 2, 0, 2, 0, &t, &alpha) == CCQ_OK && alpha == 0.0, "one half: %g", alpha);
    CHECK(one(1, 1, -1.5, 1, 1, 1, &t, &alpha) == CCQ_OK && alpha == 0.0, "half singular: %g",
          alpha);
    CHECK(one(1, 1, -1.5, -1.5, 1, 1, &t, &alpha) == CCQ_NONFINITE, "singular");
    CHECK(one(0, 0, 0, 0, 1, 1, &t, &alpha) == CCQ_NONFINITE, "zero");
    CHECK(one(1, 1, 1, 1, 0, 0, &t, &alpha) == CCQ_NONFINITE, "no weight");
    CHECK(one(INFINITY, 1, 1, 1, 1, 1, &t, &alpha) == CCQ_NONFINITE, "infinite");
    CHECK(one(1, 1, NAN, 1, 1, 1, &t, &alpha) == CCQ_NONFINITE, "NaN");
    CHECK(ccq_target_up(&solvers[0], h, 0.0, c, 1, 1.0, &w, 1, &t, NULL) == CCQ_NONFINITE, "zero");
    CHECK(ccq_down_sums_bytes(INT64_MAX / 2, 1, 1) == UINT64_MAX, "no overflow");
}

static void check_no_residual(void)
{
    tokens k;
    float *w = weights(I * H), *target = weights(I * H);
    double alpha = -1.0, *h = zeros(I * I);

    make(&k, 1.0, 0.0);
    for (int f = 0; f < 2; f++)
        k.sums.ad[f] = k.sums.bd[f] = NULL;
    CHECK(!ccq_target_down(&solvers[1], &k.sums, 0.03, 1, 1.0, w, target, h, &alpha, NULL) &&
              alpha == 0.0, "alpha %g", alpha);
    close_to("no residual", target, book_target(&k, 0.03, 1, 0.0, w), I * H);
    CHECK(!ccq_target_down(&solvers[1], &k.sums, 0.03, 0, NAN, w, target, h, &alpha, NULL),
          "refused");
    CHECK(!memcmp(w, target, I * H * sizeof *w), "w and nothing else");
}

int main(void)
{
    static const int threads[TRIES] = {1, 2, 7, 2};
    static const unsigned isas[TRIES] = {CCQ_ISA_C, CCQ_ISA_AVX2, CCQ_ISA_AVX512, CCQ_ISA_C};

    state = check_seed(21);
    for (int t = 0; t < TRIES; t++) {
        solvers[t].pool = ccq_pool_new(threads[t]);
        REQUIRE(solvers[t].pool, "no pool");
        ccq_dense_init(&solvers[t].ops, isas[t]);
    }
    check_up(1.0);
    check_up(0.5);
    check_down(1, NAN, 1.0, 0.5, 0.9, 1.0);
    check_down(1, NAN, 0.1, 1.0, 0.05, 0.95); /* noise as large as the correction */
    check_down(1, NAN, 0.0, 1.0, 0.0, 0.2);
    check_down(0, NAN, 1.0, 0.1, 0.9, 1.0);
    check_down(1, 0.5, 1.0, 1.0, 0.5, 0.5);
    check_corners();
    check_no_residual();
    for (int t = 0; t < TRIES; t++)
        ccq_pool_free(solvers[t].pool);
    return check_done();
}
