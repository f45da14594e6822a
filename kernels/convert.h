/* Exact conversions between storage types. bf16: kernels/code.h. */
#ifndef CCQ_KERNELS_CONVERT_H
#define CCQ_KERNELS_CONVERT_H

#include "kernels/code.h"

float ccq_f16_to_f32(uint16_t bits);
/* Rounds each of count little-endian fp32 / fp16 values once to bf16. */
void ccq_f32_to_bf16_row(const float *x, int64_t count, uint16_t *y);
void ccq_f16_to_bf16_row(const uint16_t *x, int64_t count, uint16_t *y);
/* First index whose value is NaN or Inf, or count. */
int64_t ccq_bf16_find_nonfinite(const uint16_t *x, int64_t count);
int64_t ccq_f16_find_nonfinite(const uint16_t *x, int64_t count);
int64_t ccq_f32_find_nonfinite(const float *x, int64_t count);

#endif
