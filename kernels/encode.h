/* Weights -> codes, one column at a time. Pure functions; every result is a
 * function of the column and the parameters alone.
 *
 * Formulas: docs/design.md "The encoder". */
#ifndef CCQ_KERNELS_ENCODE_H
#define CCQ_KERNELS_ENCODE_H

#include "kernels/ops.h"

/* BEST encodes as NORMAL: what it adds are statistics (feedback.h). SCALES is normal before
 * its second stage (one line, four scales): what the benchmark of docs/design.md compares
 * with. */
enum { CCQ_EFFORT_FAST, CCQ_EFFORT_NORMAL, CCQ_EFFORT_BEST, CCQ_EFFORT_SCALES };
enum { CCQ_BOOKS = 9 }; /* default pair, then p0..p7 */

/* The code tables. Fill once, then read-only and shared by threads. */
typedef struct ccq_encoder {
    ccq_book book[CCQ_BOOKS];
} ccq_encoder;

/* 0, or -1 when a built-in line fails its proof (a bug). */
int ccq_encoder_init(ccq_encoder *enc);
/* Fills one book; returns CCQ_LINE_*. */
int ccq_book_init(ccq_book *book, float cs, float zp);

typedef struct ccq_encode_params {
    int effort; /* CCQ_EFFORT_* */
    int gain;   /* eighths of the shrinkage to undo, 0..8 (default 4) */
    int order;  /* CCQ_ORDER_* */
} ccq_encode_params;

enum {
    CCQ_COLUMN_OK = 0,
    CCQ_COLUMN_ZERO = 1, /* all zero, or its super scale would be below 2^-110: written as zeros */
    CCQ_COLUMN_HUGE = 2  /* |480 * super| reaches the largest bf16: must be refused */
};

/* One encoded column. */
typedef struct ccq_column {
    uint8_t *bytes; /* k/4, stored order; caller's */
    uint8_t *local; /* k/64, 0..15; caller's */
    uint16_t super; /* bf16 */
    float code_scale, code_zp;
    int status;           /* CCQ_COLUMN_* */
    /* sum (w - w^)^2 and sum w^2; w^ by the fused two-rounding decode, stored rows ascending */
    double error, energy;
    double max_error;     /* largest |w - w^| */
} ccq_column;

/* Bytes of scratch for a column or a panel of k rows. */
size_t ccq_encode_scratch(int64_t k);
/* w: k finite values in logical order, k a multiple of 128. */
void ccq_encode_column(const ccq_ops *ops, const ccq_encoder *enc, const ccq_encode_params *p,
                       const float *w, int64_t k, ccq_column *out, void *scratch);
/* The same for count <= 16 columns at once, much faster. w: [k][16] as ops->unpack
 * gives it, columns past count zero. out: count of them. */
void ccq_encode_panel(const ccq_ops *ops, const ccq_encoder *enc, const ccq_encode_params *p,
                      const float *w, int64_t k, int count, ccq_column *out, void *scratch);

/* Columns of codes, one after the other as above, to their place in the stored tensors
 * (docs/format.md): weight [k/4][n] and scale [k/128][n], both from the first column on.
 * Threads may place different columns at once. */
void ccq_wint2_place(const ccq_ops *ops, const uint8_t *bytes, const uint8_t *local, int64_t k,
                     int count, int64_t n, uint8_t *weight, uint8_t *scale);

/* ---- wint8 and wint4 (Paddle's weight_quantize) -------------------------- */
enum { CCQ_RULE_GPU, CCQ_RULE_CPU };

/* One column: integers q[k] in -B..B (B = 127 or 7) and the stored scale (bf16
 * bits). An all-zero column gives q = 0, scale 0. error, energy, max_error as
 * in ccq_column (decoded value bf16(q * scale)); NULL allowed. */
void ccq_weight_only_column(int bits, int rule, const float *w, int64_t k, int8_t *q,
                            uint16_t *scale, double *error, double *energy, double *max_error);
/* Puts column n (from 0) into the stored tensor, k or k/2 bytes a column.
 * Columns never share a byte, so threads may place different ones at once. */
void ccq_weight_only_place(int bits, const int8_t *q, int64_t k, int64_t n, uint8_t *stored);

/* What ccq_weight_only_panel tells of its columns. */
typedef struct ccq_weight_only {
    uint16_t scale[CCQ_PANEL]; /* bf16 */
    int status[CCQ_PANEL];     /* CCQ_COLUMN_*: ZERO when the scale is zero, HUGE when the
                                  largest decoded weight would not be finite in bf16 */
    double error[CCQ_PANEL], energy[CCQ_PANEL], max_error[CCQ_PANEL];
} ccq_weight_only;

/* Both of the above, with the figures, for columns n0..n0+count-1, count <= 16, n0 a
 * multiple of 16, k of 64; much faster. w: as for ccq_encode_panel. */
void ccq_weight_only_panel(const ccq_ops *ops, int bits, int rule, const float *w, int64_t k,
                           int64_t n0, int count, uint8_t *stored, ccq_weight_only *out);

/* ---- block_wise_fp8 ------------------------------------------------------ */
enum { CCQ_FP8_BLOCK = 128 }; /* rows and columns that share a scale; fewer at the edges */

/* e4m3fn: 4 bits of exponent, 3 of significand, no infinity, 0x7f and 0xff NaN. */
float ccq_e4m3_to_f32(uint8_t bits);
/* To nearest, ties to even, subnormals kept, saturating at 448. x is no NaN. */
uint8_t ccq_f32_to_e4m3(float x);

/* Sums as in ccq_column, of the decoded value bf16(e4m3 * scale). */
typedef struct ccq_fp8_error {
    double error, energy, max_error;
} ccq_fp8_error;

/* One block of finite bf16 weights, row stride ldw, to codes with row stride ldq
 * and the scale that multiplies them on decoding. Adds to *sum, rows ascending. */
void ccq_fp8_block(const uint16_t *w, int64_t ldw, int rows, int cols, uint8_t *q, int64_t ldq,
                   float *scale, ccq_fp8_error *sum);
/* The same of fp32 weights. */
void ccq_fp8_block_f32(const float *w, int64_t ldw, int rows, int cols, uint8_t *q, int64_t ldq,
                       float *scale, ccq_fp8_error *sum);

#endif
