/* What the table of ops.h is filled with. Not for callers outside kernels/. */
#ifndef CCQ_KERNELS_INTERNAL_H
#define CCQ_KERNELS_INTERNAL_H

#include "kernels/ops.h"

/* The plain C of every slot: the reference of all other instruction sets. */
void ccq_search_c(const ccq_book *book, const int16_t u[64], int lo, int hi, int32_t *J,
                  uint8_t (*best)[16]);
void ccq_widen_c(const uint16_t *x, int64_t count, float *y);
void ccq_round_c(const float *x, int64_t count, float *y);
void ccq_unpack_c(const ccq_weight *w, int64_t k0, int64_t kc, int64_t n0, float *panel);
void ccq_product_c(const float *x, int64_t ldx, int64_t rows, const float *panel, int64_t kc,
                   float *acc, int64_t ldacc);
/* None: 0. */
int64_t ccq_gemv_c(const ccq_weight *w, const float *x, int64_t ldx, int64_t rows, int64_t n0,
                   int64_t n1, float *y, int64_t ldy);
/* Whether columns n0..n1-1 are in the range that the short cuts of gemv are proved for. */
int ccq_gemv_serves(const ccq_weight *w, int64_t n0, int64_t n1);
/* Whether their lines are multiples of 1/256 with words in 0..32767. */
int ccq_lines_are_exact(const ccq_weight *w, int64_t n0, int64_t n1);
void ccq_rms_c(const float *x, const float *g, int64_t h, float eps, int bf16, float *y);
void ccq_swiglu_c(const float *gu, int64_t n, int bf16, float *a);
void ccq_rope_c(float *x, int64_t heads, int64_t d, const float *cos, const float *sin, int bf16);
void ccq_attend_c(const float *q, int64_t ld, int64_t rows, int64_t pos0, const void *k,
                  const void *v, int kv_bf16, int64_t heads, int64_t kv_heads, int64_t d,
                  int64_t h0, int64_t h1, int bf16, float *scratch, float *o);

void ccq_panel_init_c(ccq_panel_ops *ops);
void ccq_panel_init_avx2(ccq_panel_ops *ops);
void ccq_panel_init_avx512(ccq_panel_ops *ops);

void ccq_feedback_init_c(ccq_feedback_ops *ops);
void ccq_feedback_init_avx2(ccq_feedback_ops *ops);
void ccq_feedback_init_avx512(ccq_feedback_ops *ops);

/* wint8, wint4: 64 rows of integers from a multiple of 64 to the runs of their columns. */
void ccq_place_group(const ccq_panel_ops *ops, int bits, const int8_t *q, int64_t k, int64_t row,
                     int64_t n0, int count, uint8_t *stored);
/* CCQ_COLUMN_* of a stored scale. */
int ccq_integer_status(float bound, float scale);

/* Replaces the slots that AVX2 + FMA + F16C serves, and the name. Call it only
 * where the processor has all three. */
void ccq_ops_init_avx2(ccq_ops *ops);

/* On top of those: F, BW, DQ, VL, VNNI and VBMI. */
void ccq_ops_init_avx512(ccq_ops *ops);

#endif
