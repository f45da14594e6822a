/* Dense linear algebra in fp64 on the pool: own code, for it decides bytes. The result of
 * each element is the same for any number of threads and any instruction set: every sum is
 * one chain of fma in the order of elimination. Matrices are row-major [n][n] without gaps
 * unless said.
 *
 * Functions that return int: 0, or CCQ_SOLVE_*; what they were to write is then garbage. */
#ifndef CCQ_LIBCCQ_SOLVE_H
#define CCQ_LIBCCQ_SOLVE_H

#include "kernels/dense.h"
#include "libccq/pool.h"

enum {
    CCQ_SOLVE_SINGULAR = -1, /* a pivot is zero, not finite, or not above zero where it has to be */
    CCQ_SOLVE_NO_MEMORY = -2 /* for blocks of both sides: (2 to 3) n 192 numbers */
};

typedef struct ccq_solver {
    ccq_dense_ops ops;
    ccq_pool *pool;
} ccq_solver;

/* c = a b (zero: 1) or c + sign a b; a [m][k], b [k][n], c [m][n], row strides in elements. */
int ccq_solve_multiply(const ccq_solver *s, double sign, int zero, const double *a, int64_t lda,
                       const double *b, int64_t ldb, int64_t m, int64_t k, int64_t n, double *c,
                       int64_t ldc);
/* A = L L', L in the lower half; what lies above is neither read nor written. */
int ccq_cholesky(const ccq_solver *s, double *a, int64_t n);
/* B := A^-1 B, B [n][cols]. */
int ccq_cholesky_solve(const ccq_solver *s, const double *l, int64_t n, double *b, int64_t cols);
/* P A = L U with partial pivoting: the largest of the column, the first of equals.
 * pivot [n]: the row that came to place i when i was its turn. */
int ccq_lu(const ccq_solver *s, double *a, int64_t n, int64_t *pivot);
int ccq_lu_solve(const ccq_solver *s, const double *lu, const int64_t *pivot, int64_t n, double *b,
                 int64_t cols);
/* H = (U + I) D (U + I)' from the last row up: U strictly above the diagonal, D on it; what
 * lies below is neither read nor written. */
int ccq_udu(const ccq_solver *s, double *a, int64_t n);
/* g += x' y, tokens in blocks of CCQ_GRAM_TOKENS from the first of this call (kernels/dense.h
 * gram); [rows][cols]. When y is x (and rows = cols, ldy = ldx) g has to be symmetric, as it
 * is from zeros on: half of it is computed. */
void ccq_gram(const ccq_solver *s, const float *x, int64_t ldx, const float *y, int64_t ldy,
              int64_t tokens, int64_t rows, int64_t cols, double *g, int64_t ldg);

#endif
