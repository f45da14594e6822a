/* The chains of dense.h in plain C: the reference of all other instruction sets. */
#include "kernels/dense.h"
#include "kernels/dense_internal.h"
#include "kernels/ops.h"

static void update(double sign, const double *a, int64_t lda, const double *b, int64_t ldb,
                   int64_t rows, int64_t cols, int64_t depth, double *c, int64_t ldc)
{
    int64_t i, j, k;

    for (i = 0; i < rows; i++)
        for (k = 0; k < depth; k++)
            for (j = 0; j < cols; j++)
                c[i * ldc + j] = __builtin_fma(sign * a[i * lda + k], b[k * ldb + j],
                                               c[i * ldc + j]);
}

static void forward(const double *t, int64_t ldt, int64_t n, int unit, double *x,
                    double *undivided)
{
    int64_t i, k;
    int j;

    for (i = 0; i < n; i++)
        for (j = 0; j < CCQ_LANES; j++) {
            double v = x[i * CCQ_LANES + j];
            for (k = 0; k < i; k++)
                v = __builtin_fma(-t[i * ldt + k], x[k * CCQ_LANES + j], v);
            if (undivided)
                undivided[i * CCQ_LANES + j] = v;
            x[i * CCQ_LANES + j] = unit ? v : v / t[i * ldt + i];
        }
}

static void gram(const float *x, int64_t ldx, const float *y, int64_t ldy, int64_t tokens,
                 int64_t rows, int64_t cols, double *g, int64_t ldg)
{
    int64_t i, j, t;

    for (i = 0; i < rows; i++)
        for (j = 0; j < cols; j++) {
            float sum = 0.0f;
            for (t = 0; t < tokens; t++)
                sum = __builtin_fmaf(x[t * ldx + i], y[t * ldy + j], sum);
            g[i * ldg + j] += (double)sum;
        }
}

void ccq_dense_init(ccq_dense_ops *ops, unsigned allowed)
{
    unsigned isa = allowed & ccq_cpu_isa();

    ops->update = update;
    ops->forward = forward;
    ops->gram = gram;
#ifdef CCQ_HAVE_X86
    if (isa & CCQ_ISA_AVX2)
        ccq_dense_init_avx2(ops);
    if (isa & CCQ_ISA_AVX512)
        ccq_dense_init_avx512(ops);
#endif
    (void)isa;
}
