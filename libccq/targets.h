/* What the codes of a calibrated expert shall come near: not its weights, but those that
 * give the BF16 model's outputs on the inputs that the quantized part before it makes
 * (docs/design.md, "Calibration"). fp64 inside; logical row order; the result is the same
 * for any number of threads and any instruction set. */
#ifndef CCQ_LIBCCQ_TARGETS_H
#define CCQ_LIBCCQ_TARGETS_H

#include "formats/types.h"
#include "libccq/solve.h"

/* h += damping * mean(diag h) I. Returns what was added to each. */
double ccq_damp(double *h, int64_t k, double damping);

/* target = w + share * (H + D)^-1 (C - H) w for up_gate: outputs x^ target come near x w, so
 * C = sum x^' x / n, row i of the quantized stream, column j of BF16's. h: [k][k], damped
 * already; added: what ccq_damp returned, for C is damped alike; c: [k][k], not damped,
 * destroyed; h is kept. w and target: [k][n] fp32, may be the same.
 * NO_MEMORY; NONFINITE: h is not positive definite, which only numbers that are not finite,
 * or no activation above zero at all, can make of a damped sum of squares. */
ccq_code ccq_target_up(const ccq_solver *s, const double *h, double added, double *c, int64_t k,
                       double share, const float *w, int64_t n, float *target, ccq_error *err);

/* Sums over the tokens of one expert, first half and second; each row is times its routing
 * weight r: a hidden activations in the quantized stream, b those in the BF16 stream, d what
 * the residual lacks. [inter][inter] and [inter][hidden], not divided by anything. */
typedef struct ccq_down_sums {
    int64_t inter, hidden;
    double weight[2]; /* sum of r^2 */
    double *aa[2], *ba[2], *bb[2], *ad[2], *bd[2]; /* ad, bd NULL: no residual target */
} ccq_down_sums;

/* Bytes of memory for the arrays of sums (UINT64_MAX: no such memory), and those arrays in
 * it, zeroed; inter, hidden and the pointers are set, the weights too. */
uint64_t ccq_down_sums_bytes(int64_t inter, int64_t hidden, int residual);
void ccq_down_sums_place(ccq_down_sums *m, int64_t inter, int64_t hidden, int residual,
                         void *memory);

/* h [inter][inter] = H + D; target [inter][hidden] from w, w + M^-1 ((b - a) part + alpha
 * residual part); may be the same. correct 0: no b - a part. fixed_alpha: NaN = cross-fitted;
 * *alpha is the one used, 0 without residual target, with a half that has no weight or a
 * singular M.
 * NO_MEMORY; NONFINITE: no weight, h is zero or not finite, or M of all tokens is singular
 * (M is not symmetric, so damping does not exclude it: b near -3 a can do it). */
ccq_code ccq_target_down(const ccq_solver *s, const ccq_down_sums *m, double damping, int correct,
                         double fixed_alpha, const float *w, float *target, double *h,
                         double *alpha, ccq_error *err);

#endif
