/* Our CPU product against one thread of OpenBLAS sgemm in the same run, and one
 * row (decode) of every kind of weight. Times alternate and medians are taken:
 * the machine may be shared. Set OPENBLAS_CORETYPE=Haswell to hold OpenBLAS to
 * AVX2. --json: one JSON object a line. */
#include "kernels/ops.h"
#include "tests/check.h"

#include <math.h>
#include <time.h>

#ifdef CCQ_HAVE_OPENBLAS
#include <cblas.h>
#endif

enum { REPEATS = 9 };

static int as_json;

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double *t, int count)
{
    qsort(t, (size_t)count, sizeof *t, by_value);
    return t[count / 2];
}

static void *need(size_t size)
{
    void *p = malloc(size);

    REQUIRE(p, "out of memory");
    return p;
}

/* Random contents of every array of a weight; plausible lines and scales. */
static ccq_weight make_weight(int type, int64_t k, int64_t n, uint64_t *state)
{
    ccq_weight w = {.type = type, .k = k, .n = n};
    size_t bytes = (size_t)(k * n) * 2, i;
    uint8_t *data = need(bytes), *local = need((size_t)(k / 128 * n));
    uint16_t *scale = need((size_t)n * 2);
    float *cs = need((size_t)n * 4), *zp = need((size_t)n * 4);

    for (i = 0; i < bytes / 2; i++) {
        uint16_t v = type <= CCQ_W_BF16_T ? ccq_f32_to_bf16((float)check_uniform(state) - 0.5f)
                                          : (uint16_t)check_next(state);
        memcpy(data + 2 * i, &v, 2);
    }
    for (i = 0; i < (size_t)(k / 128 * n); i++)
        local[i] = (uint8_t)check_next(state);
    for (i = 0; i < (size_t)n; i++) {
        scale[i] = ccq_f32_to_bf16((float)check_uniform(state) * 0.01f);
        cs[i] = 120.94921875f;
        zp[i] = 1253.75f;
    }
    w.data = data;
    w.scale = w.super = scale;
    w.local = local;
    w.code_scale = cs;
    w.code_zp = zp;
    return w;
}

static void free_weight(ccq_weight *w)
{
    free((void *)(uintptr_t)w->data);
    free((void *)(uintptr_t)w->local);
    free((void *)(uintptr_t)w->super);
    free((void *)(uintptr_t)w->code_scale);
    free((void *)(uintptr_t)w->code_zp);
}

static void report(const char *what, const char *isa, int64_t rows, int64_t k, int64_t n,
                   double ours, double theirs)
{
    double flop = 2e-9 * (double)rows * (double)k * (double)n;

    if (as_json) {
        printf("{\"bench\":\"matmul\",\"weight\":\"%s\",\"isa\":\"%s\",\"rows\":%lld,\"k\":%lld,"
               "\"n\":%lld,\"ms\":%.4f,\"gflops\":%.2f",
               what, isa, (long long)rows, (long long)k, (long long)n, ours * 1e3, flop / ours);
        if (theirs > 0)
            printf(",\"sgemm_gflops\":%.2f,\"ratio\":%.3f", flop / theirs, theirs / ours);
        printf("}\n");
        return;
    }
    printf("%-7s %-5s %4lld x %5lld x %5lld: %8.3f ms %7.2f GFLOP/s", what, isa, (long long)rows,
           (long long)k, (long long)n, ours * 1e3, flop / ours);
    if (theirs > 0)
        printf("   sgemm %7.2f GFLOP/s   ratio %.3f", flop / theirs, theirs / ours);
    printf("\n");
}

static double blas(int64_t rows, int64_t n, int64_t k, const float *x, const float *b, float *y)
{
#ifdef CCQ_HAVE_OPENBLAS
    double start = now();

    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)rows, (int)n, (int)k, 1.0f, x,
                (int)k, b, (int)n, 0.0f, y, (int)n);
    return now() - start;
#else
    (void)rows, (void)n, (void)k, (void)x, (void)b, (void)y;
    return 0;
#endif
}

static void bench(const ccq_ops *ops, const char *name, int type, int64_t rows, int64_t k,
                  int64_t n, int peer)
{
    uint64_t state = 1;
    ccq_weight w = make_weight(type, k, n, &state);
    float *x = need((size_t)(rows * k) * 4), *y = need((size_t)(rows * n) * 4);
    float *b = need((size_t)(k * n) * 4), *scratch = need(ccq_matmul_scratch(rows) * 4);
    double ours[REPEATS], theirs[REPEATS];
    int64_t i;
    int t, few = 1;

    for (i = 0; i < rows * k; i++)
        x[i] = ccq_round_bf16((float)check_uniform(&state) - 0.5f);
    for (i = 0; i < k * n; i++)
        b[i] = (float)check_uniform(&state) - 0.5f;
    few = rows < 16 ? 8 : 1;
    for (t = -1; t < REPEATS; t++) { /* the first round warms up */
        double start = now();
        for (i = 0; i < few; i++)
            ccq_matmul(ops, &w, x, k, rows, 0, n, 0, y, n, scratch);
        ours[t < 0 ? 0 : t] = (now() - start) / few;
        theirs[t < 0 ? 0 : t] = peer ? blas(rows, n, k, x, b, y) : 0;
    }
    report(name, ops->name, rows, k, n, median(ours, REPEATS), median(theirs, REPEATS));
    free(x), free(y), free(b), free(scratch);
    free_weight(&w);
}

int main(int argc, char **argv)
{
    static const char *const names[] = {"bf16", "bf16_t", "wint8", "wint4", "wint2"};
    static const int64_t shape[][2] = {{2048, 2048}, {1024, 4096}, {4096, 1024}, {2560, 3072}};
    const char *core = "none";
    ccq_ops ops;
    size_t i;
    int type;

    as_json = argc > 1 && !strcmp(argv[1], "--json");
    ccq_ops_init(&ops, ~0u);
#ifdef CCQ_HAVE_OPENBLAS
    openblas_set_num_threads(1);
    core = openblas_get_corename();
#endif
    if (as_json)
        printf("{\"bench\":\"matmul\",\"openblas_core\":\"%s\",\"isa\":\"%s\"}\n", core, ops.name);
    else
        printf("OpenBLAS core type: %s; one thread; median of %d, alternating\n", core, REPEATS);
    for (i = 0; i < sizeof shape / sizeof *shape; i++)
        bench(&ops, "bf16", CCQ_W_BF16, 256, shape[i][0], shape[i][1], 1);
    for (type = CCQ_W_BF16_T; type <= CCQ_W_WINT2; type++)
        bench(&ops, names[type], type, 256, 2048, 2048, 1);
    for (type = CCQ_W_BF16; type <= CCQ_W_WINT2; type++)
        bench(&ops, names[type], type, 1, 2048, 2048, 0);
    return 0;
}
