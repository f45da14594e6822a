/* GFLOP/s of the linear algebra of calibration, per instruction set and second of
 * processor time: others on the machine matter less so; waiting is not seen.
 * usage: bench_solve [N [THREADS [TOKENS]]] */
#include "kernels/ops.h"
#include "libccq/solve.h"
#include "tests/check.h"

#include <math.h>
#include <time.h>

static double spent(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void report(const char *what, double start, double fma)
{
    double s = spent() - start;
    printf("  %-10s %8.3f s  %7.1f GFLOP/s\n", what, s, 2e-9 * fma / s);
}

/* Tiles that stay in L1: what the kernel can do. */
static void peak(const ccq_dense_ops *ops, const double *a)
{
    static double c[96 * 16];
    double start = spent();

    for (int i = 0; i < 2000; i++)
        ops->update(i % 2 ? 1.0 : -1.0, a, 96, a + 96 * 96, 16, 96, 16, 96, c, 16);
    report("tile in L1", start, 2000.0 * 96 * 16 * 96);
}

static void bench(const ccq_solver *s, int64_t n, int64_t tokens, const double *h,
                  double *a, double *b)
{
    const double cube = (double)n * (double)n * (double)n, wide = n < 512 ? (double)n : 512.0;
    const size_t bytes = (size_t)(n * n) * sizeof *a;
    int64_t *pivot = malloc((size_t)n * sizeof *pivot);
    float *x = malloc((size_t)(n * tokens) * sizeof *x);
    double start;

    for (int64_t i = 0; i < n * tokens; i++)
        x[i] = (float)(i % 31 - 15);
    memcpy(b, h, bytes);
    peak(&s->ops, h);
    start = spent();
    ccq_solve_multiply(s, 1.0, 1, h, n, h, n, n, n, n, a, n);
    report("multiply", start, cube);
    memcpy(a, h, bytes);
    start = spent();
    REQUIRE(!ccq_cholesky(s, a, n), "cholesky");
    report("cholesky", start, cube / 6);
    start = spent();
    ccq_cholesky_solve(s, a, n, b, (int64_t)wide);
    report("solve 512", start, wide * (double)n * (double)n);
    memcpy(a, h, bytes);
    start = spent();
    REQUIRE(!ccq_udu(s, a, n), "udu");
    report("udu", start, cube / 6);
    memcpy(a, h, bytes);
    start = spent();
    REQUIRE(!ccq_lu(s, a, n, pivot), "lu");
    report("lu", start, cube / 3);
    memset(a, 0, bytes);
    start = spent();
    ccq_gram(s, x, n, x, n, tokens, n, n, a, n);
    report("gram x'x", start, (double)tokens * (double)(n * n) / 2);
    start = spent();
    ccq_gram(s, x, n, x + n, n, tokens - 1, n, n, a, n);
    report("gram x'y", start, (double)(tokens - 1) * (double)(n * n));
    free(x);
    free(pivot);
}

int main(int argc, char **argv)
{
    static const char *names[] = {"AVX2", "AVX-512"};
    int64_t n = argc > 1 ? atoll(argv[1]) : 1024, tokens = argc > 3 ? atoll(argv[3]) : 1024;
    size_t bytes = (size_t)(n * n) * sizeof(double);
    double *h = malloc(bytes), *a = malloc(bytes), *b = malloc(bytes);
    ccq_pool *pool = ccq_pool_new(argc > 2 ? atoi(argv[2]) : 1);

    REQUIRE(n > 127 && h && a && b && pool, "N below 128, or no memory");
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++)
            h[i * n + j] = (i == j ? 2.0 : 0.0) + 1.0 / (1.0 + (double)llabs(i - j));
    for (int i = 0; i < 2; i++) {
        ccq_solver s = {.pool = pool};
        unsigned isa = i ? CCQ_ISA_AVX512 : CCQ_ISA_AVX2;
        if (!(ccq_cpu_isa() & isa))
            continue;
        printf("%s, n = %d, %d threads\n", names[i], (int)n, ccq_pool_threads(pool));
        ccq_dense_init(&s.ops, isa);
        bench(&s, n, tokens, h, a, b);
    }
    ccq_pool_free(pool);
    free(b);
    free(a);
    free(h);
    return check_done();
}
