/* Risk: the linear algebra of calibration is wrong, or its bits hang on blocks, threads or
 * instruction set. The reference is the textbook, one element at a time: since the order
 * of every chain is stated, it has to give the same bits. */
#include "kernels/dense.h"
#include "kernels/ops.h"
#include "libccq/solve.h"
#include "tests/check.h"

#include <math.h>

enum { TRIES = 9 }; /* threads 1, 2, 7 and three instruction sets */

static uint64_t state;
static ccq_solver solvers[TRIES];

static int64_t below(int64_t n)
{
    return (int64_t)(check_next(&state) % (uint64_t)n);
}

static double draw(void)
{
    return check_uniform(&state) + check_uniform(&state) - 1.0;
}

static double *numbers(int64_t count)
{
    double *p = check_guarded((size_t)count * sizeof *p);
    for (int64_t i = 0; i < count; i++)
        p[i] = draw();
    return p;
}

static double *copy(const double *p, int64_t count)
{
    double *q = check_guarded((size_t)count * sizeof *q);
    memcpy(q, p, (size_t)count * sizeof *q);
    return q;
}

static void same(const char *what, int try, int64_t n, const double *a, const double *b,
                 int64_t count)
{
    CHECK(!memcmp(a, b, (size_t)count * sizeof *a),
          "%s, n %d, pool %d, isa %d: not the bits of the textbook", what, (int)n, try / 3,
          try % 3);
}

/* ---- Kernels ------------------------------------------------------------- */

static void check_update(const ccq_dense_ops *c, const ccq_dense_ops *x)
{
    int64_t rows = below(30), cols = below(40), depth = below(20);
    int64_t lda = depth + below(3), ldb = cols + below(3), ldc = cols + below(3);
    double sign = below(2) ? 1.0 : -1.0;
    double *a = numbers(rows * lda), *b = numbers(depth * ldb);
    double *p = numbers(rows * ldc), *q = copy(p, rows * ldc);

    c->update(sign, a, lda, b, ldb, rows, cols, depth, p, ldc);
    x->update(sign, a, lda, b, ldb, rows, cols, depth, q, ldc);
    CHECK(!memcmp(p, q, (size_t)(rows * ldc) * sizeof *p), "update %dx%dx%d", (int)rows, (int)cols,
          (int)depth);
}

static void check_forward(const ccq_dense_ops *c, const ccq_dense_ops *x)
{
    int64_t n = 1 + below(40), ldt = n + below(3), count = n * CCQ_LANES;
    int unit = (int)below(2);
    double *t = numbers(n * ldt), *p = numbers(count), *q = copy(p, count);
    double *u = numbers(count), *v = numbers(count);

    c->forward(t, ldt, n, unit, p, u);
    x->forward(t, ldt, n, unit, q, v);
    CHECK(!memcmp(p, q, (size_t)count * sizeof *p), "forward %d", (int)n);
    CHECK(!memcmp(u, v, (size_t)count * sizeof *u), "forward %d, undivided", (int)n);
}

static float *floats(int64_t count)
{
    float *p = check_guarded((size_t)count * sizeof *p);
    for (int64_t i = 0; i < count; i++)
        p[i] = (float)draw();
    return p;
}

static void check_gram_kernel(const ccq_dense_ops *c, const ccq_dense_ops *x)
{
    int64_t rows = 1 + below(30), cols = 1 + below(70), tokens = 1 + below(CCQ_GRAM_TOKENS);
    float *a = floats(tokens * rows), *b = floats(tokens * cols);
    double *p = numbers(rows * cols), *q = copy(p, rows * cols);

    c->gram(a, rows, b, cols, tokens, rows, cols, p, cols);
    x->gram(a, rows, b, cols, tokens, rows, cols, q, cols);
    CHECK(!memcmp(p, q, (size_t)(rows * cols) * sizeof *p), "gram %dx%d", (int)rows, (int)cols);
}

static void check_kernels(void)
{
    ccq_dense_ops c, x;

    ccq_dense_init(&c, CCQ_ISA_C);
    for (unsigned isa = CCQ_ISA_AVX2; isa <= CCQ_ISA_AVX512; isa *= 2)
        for (int i = 0; i < 150; i++) {
            ccq_dense_init(&x, isa);
            check_update(&c, &x);
            check_forward(&c, &x);
            check_gram_kernel(&c, &x);
        }
}

/* ---- Textbook ------------------------------------------------------------ */

static void book_cholesky(double *a, int64_t n)
{
    for (int64_t k = 0; k < n; k++) {
        a[k * n + k] = sqrt(a[k * n + k]);
        for (int64_t i = k + 1; i < n; i++)
            a[i * n + k] /= a[k * n + k];
        for (int64_t i = k + 1; i < n; i++)
            for (int64_t j = k + 1; j <= i; j++)
                a[i * n + j] = fma(-a[i * n + k], a[j * n + k], a[i * n + j]);
    }
}

static void book_udu(double *a, int64_t n)
{
    for (int64_t k = n - 1; k >= 0; k--) {
        double d = a[k * n + k];
        for (int64_t i = 0; i < k; i++)
            for (int64_t j = i; j < k; j++)
                a[i * n + j] = fma(-(a[i * n + k] / d), a[j * n + k], a[i * n + j]);
        for (int64_t i = 0; i < k; i++)
            a[i * n + k] /= d;
    }
}

static int book_lu(double *a, int64_t n, int64_t *pivot)
{
    for (int64_t k = 0; k < n; k++) {
        pivot[k] = k;
        for (int64_t i = k + 1; i < n; i++)
            if (fabs(a[i * n + k]) > fabs(a[pivot[k] * n + k]))
                pivot[k] = i;
        for (int64_t j = 0; j < n; j++) {
            double v = a[k * n + j];
            a[k * n + j] = a[pivot[k] * n + j];
            a[pivot[k] * n + j] = v;
        }
        if (!(fabs(a[k * n + k]) > 0.0))
            return -1;
        for (int64_t i = k + 1; i < n; i++) {
            a[i * n + k] /= a[k * n + k];
            for (int64_t j = k + 1; j < n; j++)
                a[i * n + j] = fma(-a[i * n + k], a[k * n + j], a[i * n + j]);
        }
    }
    return 0;
}

/* Symmetric: x' x of fewer rows than n (singular) and a little damping. */
static double *statistics(int64_t n, double damping)
{
    int64_t m = n / 2 + 1;
    double *x = numbers(m * n), *h = numbers(n * n), mean = 0.0;

    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j <= i; j++) {
            double sum = 0.0;
            for (int64_t t = 0; t < m; t++)
                sum += x[t * n + i] * x[t * n + j];
            h[i * n + j] = h[j * n + i] = sum;
        }
    for (int64_t i = 0; i < n; i++)
        mean += h[i * n + i] / (double)n;
    for (int64_t i = 0; i < n; i++)
        h[i * n + i] += damping * mean;
    return h;
}

/* Largest |A x - b| over |A| |x| + |b|. */
static double residual(const double *a, int64_t n, const double *x, const double *b, int64_t cols)
{
    double worst = 0.0;

    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < cols; j++) {
            double sum = -b[i * cols + j], size = fabs(sum);
            for (int64_t k = 0; k < n; k++) {
                sum += a[i * n + k] * x[k * cols + j];
                size += fabs(a[i * n + k] * x[k * cols + j]);
            }
            if (!(fabs(sum) <= worst * size))
                worst = fabs(sum) / size;
        }
    return worst;
}

/* ---- Factors and solutions ----------------------------------------------- */

static void check_symmetric(int64_t n, double damping)
{
    int64_t cols = 1 + below(40);
    double *h = statistics(n, damping), *l = copy(h, n * n), *u = copy(h, n * n);
    double *b = numbers(n * cols), *first = NULL;

    book_cholesky(l, n);
    book_udu(u, n);
    for (int t = 0; t < TRIES; t++) {
        double *a = copy(h, n * n), *x = copy(b, n * cols);
        CHECK(!ccq_cholesky(&solvers[t], a, n), "n %d is not positive definite", (int)n);
        same("cholesky", t, n, a, l, n * n);
        CHECK(!ccq_cholesky_solve(&solvers[t], a, n, x, cols), "no memory");
        if (!first) {
            double r = residual(h, n, x, b, cols);
            CHECK(r < 1e-13, "n %d: residual %g", (int)n, r);
            first = x;
        }
        same("cholesky_solve", t, n, x, first, n * cols);
        memcpy(a, h, (size_t)(n * n) * sizeof *a);
        CHECK(!ccq_udu(&solvers[t], a, n), "n %d is not positive definite", (int)n);
        same("udu", t, n, a, u, n * n);
    }
}

/* e H e' = sum of D_k (e_k + sum_{j<k} e_j U_jk)^2. */
static void check_identity(int64_t n)
{
    double *h = statistics(n, 0.03), *u = copy(h, n * n), *e = numbers(n), left = 0.0, right = 0.0;

    REQUIRE(!ccq_udu(&solvers[0], u, n), "n %d", (int)n);
    for (int64_t k = 0; k < n; k++) {
        double f = e[k];
        for (int64_t j = 0; j < n; j++)
            left += e[k] * e[j] * h[k * n + j];
        for (int64_t j = 0; j < k; j++)
            f += e[j] * u[j * n + k];
        right += u[k * n + k] * f * f;
    }
    CHECK(fabs(left - right) <= 1e-11 * left, "e H e' = %.17g, by factors %.17g", left, right);
}

/* kind 0: anything; 1: many equal elements; 2: a diagonal of zeros; 3: rows of 10^+-8 */
static double *square(int64_t n, int kind)
{
    double *a = numbers(n * n);

    for (int64_t i = 0; i < n * n && kind; i++) {
        if (kind == 1)
            a[i] = (double)(below(5) - 2);
        if (kind == 2 && i % (n + 1) == 0)
            a[i] = 0.0;
        if (kind == 3)
            a[i] *= pow(10.0, (double)(i / n % 17) - 8.0);
    }
    return a;
}

static void check_lu(int64_t n, int kind)
{
    int64_t cols = 1 + below(40), bytes = n * (int64_t)sizeof(int64_t);
    double *m = square(n, kind), *lu = copy(m, n * n), *b = numbers(n * cols), *first = NULL;
    int64_t *want = check_guarded((size_t)bytes), *got = check_guarded((size_t)bytes);
    int rc = book_lu(lu, n, want);

    for (int t = 0; t < TRIES; t++) {
        double *a = copy(m, n * n), *x = copy(b, n * cols);
        CHECK(ccq_lu(&solvers[t], a, n, got) == rc, "n %d, kind %d: want %d", (int)n, kind, rc);
        if (rc)
            continue;
        same("lu", t, n, a, lu, n * n);
        CHECK(!memcmp(want, got, (size_t)bytes), "n %d, kind %d: other pivots", (int)n, kind);
        CHECK(!ccq_lu_solve(&solvers[t], a, got, n, x, cols), "no memory");
        if (!first) {
            double r = residual(m, n, x, b, cols);
            CHECK(r < 1e-10, "n %d, kind %d: residual %g", (int)n, kind, r);
            first = x;
        }
        same("lu_solve", t, n, x, first, n * cols);
    }
}

static void check_refusals(void)
{
    static const int64_t sizes[] = {1, 17, 150};
    int64_t pivot[150];

    for (int s = 0; s < 3; s++) {
        int64_t n = sizes[s], at = below(n);
        for (int kind = 0; kind < 3; kind++) {
            double bad = kind == 0 ? NAN : kind == 1 ? INFINITY : 0.0;
            double *h = statistics(n, 0.1), *u = copy(h, n * n), *a = square(n, 0);
            for (int64_t i = 0; i < n; i++) /* row and column of it */
                h[i * n + at] = h[at * n + i] = u[i * n + at] = u[at * n + i] = a[i * n + at] = bad;
            CHECK(ccq_cholesky(&solvers[4], h, n) == CCQ_SOLVE_SINGULAR, "%d, %g", (int)n, bad);
            CHECK(ccq_udu(&solvers[4], u, n) == CCQ_SOLVE_SINGULAR, "%d, %g", (int)n, bad);
            CHECK(ccq_lu(&solvers[4], a, n, pivot) == CCQ_SOLVE_SINGULAR, "%d, %g", (int)n, bad);
        }
    }
}

/* ---- Products ------------------------------------------------------------ */

static void check_multiply(int64_t m, int64_t k, int64_t n)
{
    int64_t lda = k + below(3), ldb = n + below(3), ldc = n + below(3);
    double *a = numbers(m * lda), *b = numbers(k * ldb), *c = numbers(m * ldc);

    for (int kind = 0; kind < 3; kind++) {
        double sign = kind == 2 ? -1.0 : 1.0, *want = copy(c, m * ldc);
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j < n; j++) {
                double v = kind ? want[i * ldc + j] : 0.0;
                for (int64_t q = 0; q < k; q++)
                    v = fma(sign * a[i * lda + q], b[q * ldb + j], v);
                want[i * ldc + j] = v;
            }
        for (int t = 0; t < TRIES; t++) {
            double *got = copy(c, m * ldc);
            CHECK(!ccq_solve_multiply(&solvers[t], sign, !kind, a, lda, b, ldb, m, k, n, got, ldc),
                  "no memory");
            same("multiply", t, n, got, want, m * ldc);
        }
    }
}

static void check_gram(int64_t tokens, int64_t rows, int64_t cols, int symmetric)
{
    float *x = floats(tokens * rows), *y = symmetric ? x : floats(tokens * cols);
    double *want = numbers(rows * cols), *start;

    memset(want, 0, (size_t)(rows * cols) * sizeof *want);
    start = copy(want, rows * cols);
    for (int64_t t0 = 0; t0 < tokens; t0 += CCQ_GRAM_TOKENS)
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < cols; j++) {
                float sum = 0.0f;
                for (int64_t t = t0; t < tokens && t < t0 + CCQ_GRAM_TOKENS; t++)
                    sum = fmaf(x[t * rows + i], y[t * cols + j], sum);
                want[i * cols + j] += (double)sum;
            }
    for (int t = 0; t < TRIES; t++) {
        double *g = copy(start, rows * cols);
        ccq_gram(&solvers[t], x, rows, y, cols, tokens, rows, cols, g, cols);
        same("gram", t, rows, g, want, rows * cols);
    }
}

int main(void)
{
    static const int64_t sizes[] = {1, 2, 3, 5, 15, 16, 17, 31, 64, 95, 96, 97, 113, 193, 200};
    static const int threads[] = {1, 2, 7};
    static const unsigned isas[] = {CCQ_ISA_C, CCQ_ISA_AVX2, CCQ_ISA_AVX512};

    state = check_seed(20);
    for (int t = 0; t < TRIES; t++) {
        solvers[t].pool = t % 3 ? solvers[t - 1].pool : ccq_pool_new(threads[t / 3]);
        REQUIRE(solvers[t].pool, "no pool");
        ccq_dense_init(&solvers[t].ops, isas[t % 3]);
    }
    check_kernels();
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        check_symmetric(sizes[i], i % 2 ? 0.03 : 1e-6);
        check_identity(sizes[i]);
        check_lu(sizes[i], (int)i % 4);
        check_lu(sizes[i], ((int)i + 1) % 4);
    }
    check_refusals();
    check_multiply(3, 5, 7);
    check_multiply(113, 207, 99);
    check_multiply(20, 193, 300);
    check_gram(700, 101, 101, 1);
    check_gram(300, 97, 150, 0);
    check_gram(5, 200, 200, 1);
    for (int t = 0; t < TRIES; t += 3)
        ccq_pool_free(solvers[t].pool);
    return check_done();
}
