/* fp64 and Gram products of small blocks: what the linear algebra of calibration is made
 * of. Every element is one chain of fma over ascending depth, on every instruction set;
 * callers split rows and columns over threads, never the depth. Not for activations. */
#ifndef CCQ_KERNELS_DENSE_H
#define CCQ_KERNELS_DENSE_H

#include <stdint.h>

enum {
    CCQ_LANES = 16,       /* columns of a panel of forward; update likes ldb = 16 best */
    CCQ_GRAM_TOKENS = 256 /* at most so many tokens in one fp32 chain of gram */
};

typedef struct ccq_dense_ops {
    /* c[i][j] = fma(sign * a[i][k], b[k][j], c[i][j]), k = 0..depth-1 ascending; sign is
     * 1 or -1. Strides in elements; c does not overlap a or b, elements between may. */
    void (*update)(double sign, const double *a, int64_t lda, const double *b, int64_t ldb,
                   int64_t rows, int64_t cols, int64_t depth, double *c, int64_t ldc);
    /* T x = x in place, T the lower half of t[n][n], x[n][16]: a chain of fma over
     * ascending k from x[i] with -t[i][k] x[k], k < i, then divided by t[i][i] (unit: 1,
     * not read: left as it is). undivided [n][16]: the chains before division, or NULL. */
    void (*forward)(const double *t, int64_t ldt, int64_t n, int unit, double *x,
                    double *undivided);
    /* g[i][j] += sum over t of x[t][i] y[t][j], t = 0..tokens-1 (at most CCQ_GRAM_TOKENS)
     * one fp32 fmaf chain from 0, then added to fp64 g. */
    void (*gram)(const float *x, int64_t ldx, const float *y, int64_t ldy, int64_t tokens,
                 int64_t rows, int64_t cols, double *g, int64_t ldg);
} ccq_dense_ops;

/* C and then the best of allowed & ccq_cpu_isa() (CCQ_ISA_*, kernels/ops.h). */
void ccq_dense_init(ccq_dense_ops *ops, unsigned allowed);

#endif
