/* Gaussian columns, statistics H of several kinds and their factor, for the test and the
 * benchmark of encoding with feedback (docs/design.md, "Calibration"). */
#ifndef CCQ_TESTS_FEEDBACK_DATA_H
#define CCQ_TESTS_FEEDBACK_DATA_H

#include "tests/check.h"

#include <math.h>

/* xoshiro256** seeded by splitmix64; Box-Muller, cosine first. */
typedef struct source {
    uint64_t s[4];
    double kept;
    int has_kept;
} source;

static inline void source_init(source *x, uint64_t seed)
{
    for (int i = 0; i < 4; i++)
        x->s[i] = check_next(&seed);
    x->has_kept = 0;
}

static inline uint64_t source_rotl(uint64_t x, int n)
{
    return x << n | x >> (64 - n);
}

static inline double source_uniform(source *x)
{
    uint64_t *s = x->s, r = source_rotl(s[1] * 5, 7) * 9, t = s[1] << 17;

    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = source_rotl(s[3], 45);
    return ((double)(r >> 11) + 0.5) * 0x1p-53;
}

static inline double source_normal(source *x)
{
    double radius, angle;

    if (x->has_kept) {
        x->has_kept = 0;
        return x->kept;
    }
    radius = sqrt(-2.0 * log(source_uniform(x)));
    angle = 6.283185307179586476925 * source_uniform(x);
    x->kept = radius * sin(angle);
    x->has_kept = 1;
    return radius * cos(angle);
}

/* ---- H ------------------------------------------------------------------- */

/* d[i], the factor of row and column i: exp(0.3 normal), count of them times rare. */
static inline void data_diagonal(source *x, int k, int count, double rare, double *d)
{
    for (int i = 0; i < k; i++)
        d[i] = exp(0.3 * source_normal(x));
    for (int left = count, i = 0; i < k; i++)
        if (source_uniform(x) * (k - i) < left) {
            d[i] *= rare;
            left--;
        }
}

/* c[n][n] += a' b over rows of a and b. */
static inline void data_gram(const float *a, int rows, int n, double *c)
{
    for (int i0 = 0; i0 < n; i0 += 16)
        for (int t = 0; t < rows; t++)
            for (int i = i0; i < i0 + 16; i++) {
                double x = (double)a[(size_t)t * (size_t)n + (size_t)i];
                const float *y = a + (size_t)t * (size_t)n;
                double *to = c + (size_t)i * (size_t)n;
                for (int j = 0; j < n; j++)
                    to[j] += x * (double)y[j];
            }
}

/* Rows of q [n][n]: a random orthonormal basis (Gram-Schmidt). */
static inline void data_basis(source *x, int n, double *q)
{
    for (int i = 0; i < n; i++) {
        double *v = q + (size_t)i * (size_t)n, sum = 0.0;
        for (int j = 0; j < n; j++)
            v[j] = source_normal(x);
        for (int p = 0; p < i; p++) {
            const double *u = q + (size_t)p * (size_t)n;
            double dot[8] = {0};
            for (int j = 0; j < n; j += 8)
                for (int l = 0; l < 8; l++)
                    dot[l] += u[j + l] * v[j + l];
            for (int l = 1; l < 8; l++)
                dot[0] += dot[l];
            for (int j = 0; j < n; j++)
                v[j] -= dot[0] * u[j];
        }
        for (int j = 0; j < n; j++)
            sum += v[j] * v[j];
        for (int j = 0; j < n; j++)
            v[j] /= sqrt(sum);
    }
}

/* Second moments of 2k draws with eigenvalues i^-power in a random basis. */
static inline void data_wishart(source *x, int k, double power, double *h)
{
    size_t n = (size_t)k;
    double *q = malloc(n * n * sizeof *q);
    float *a = malloc(2 * n * n * sizeof *a);
    REQUIRE(q && a, "out of memory");
    data_basis(x, k, q);
    for (int t = 0; t < 2 * k; t++) {
        double row[4096] = {0};
        for (int i = 0; i < k; i++) {
            double z = source_normal(x) * pow(i + 1.0, -0.5 * power);
            for (int j = 0; j < k; j++)
                row[j] += z * q[(size_t)i * n + (size_t)j];
        }
        for (int j = 0; j < k; j++)
            a[(size_t)t * n + (size_t)j] = (float)row[j];
    }
    memset(h, 0, n * n * sizeof *h);
    data_gram(a, 2 * k, k, h);
    for (size_t i = 0; i < n * n; i++)
        h[i] /= 2.0 * k;
    free(q);
    free(a);
}

/* 0: 0.9^|i-j|. 1: (0.8 * 0.9^|i-j| + 0.2 I) d_i d_j, d lognormal 0.3, 1 % of d x10.
 * 2, 3, 4: Wishart with eigenvalues i^-1, i^-0.5, i^-1.5, d lognormal 0.3, 0.5 % x8.
 * k up to 4096. */
static inline void data_h(source *x, int kind, int k, double *h)
{
    static const double powers[] = {1.0, 0.5, 1.5};
    size_t n = (size_t)k;
    double d[4096], mean = 0.0;
    REQUIRE(k <= 4096, "k");
    if (kind >= 2)
        data_wishart(x, k, powers[kind - 2], h);
    for (int i = 0; i < k && kind < 2; i++)
        for (int j = 0; j < k; j++)
            h[(size_t)i * n + (size_t)j] =
                (kind ? 0.8 : 1.0) * pow(0.9, abs(i - j)) + (kind && i == j ? 0.2 : 0.0);
    if (kind)
        data_diagonal(x, k, kind == 1 ? k / 100 : k / 200, kind == 1 ? 10.0 : 8.0, d);
    for (int i = 0; i < k && kind; i++)
        for (int j = 0; j < k; j++)
            h[(size_t)i * n + (size_t)j] *= d[i] * d[j];
    for (size_t i = 0; i < n; i++)
        mean += h[i * n + i] / k;
    for (size_t i = 0; i < n; i++)
        h[i * n + i] += 0.01 * mean;
}

/* H = (U + I) D (U + I)': U above the diagonal of u, D on it. */
static inline void data_factor(const double *h, int k, double *u)
{
    size_t n = (size_t)k;
    double *row = malloc(n * sizeof *row);
    REQUIRE(row, "out of memory");
    memcpy(u, h, n * n * sizeof *u);
    for (size_t p = n; p-- > 0;) {
        double d = u[p * n + p];
        REQUIRE(d > 0.0, "not positive definite");
        for (size_t j = 0; j < p; j++)
            row[j] = u[j * n + p];
        for (size_t i = 0; i < p; i++) {
            double f = row[i] / d;
            for (size_t j = i; j < p; j++)
                u[i * n + j] -= f * row[j];
            u[i * n + p] = f;
        }
    }
    free(row);
}

/* x H x' */
static inline double data_norm(const double *h, int k, const double *x)
{
    double sum = 0.0;

    for (int i = 0; i < k; i++) {
        double y = 0.0;
        for (int j = 0; j < k; j++)
            y += h[(size_t)i * (size_t)k + (size_t)j] * x[j];
        sum += x[i] * y;
    }
    return sum;
}

#endif
