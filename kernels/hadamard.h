/* Orthogonal matrices that are quick to multiply with: R = diag(signs) Hd / sqrt(n). Hd
 * is Sylvester's for n = 2^k and Hd_20 (x) Hd_(n/20) for n = 20 * 2^k, Hd_20 by Paley:
 * I + S, S_00 = 0, S_0j = 1, S_i0 = -1, S_ij = chi(i - j mod 19), chi the quadratic
 * character. fp64; every sum has one order, so the bits depend on the input alone. */
#ifndef CCQ_KERNELS_HADAMARD_H
#define CCQ_KERNELS_HADAMARD_H

#include <stdint.h>

enum { CCQ_HADAMARD_LANES = 16 };

/* 1: n is such a size. */
int ccq_hadamard_size(int64_t n);
/* factor[i] = +-1 / sqrt(n): the signs of a seed. */
void ccq_hadamard_factors(uint64_t seed, int64_t n, double *factor);
/* 16 vectors side by side, x [n][16]: each becomes Hd' x. With x_i = factor_i w_i it is
 * R' w, which is also (w' R)'. */
void ccq_hadamard_turn(double *x, int64_t n);

#endif
