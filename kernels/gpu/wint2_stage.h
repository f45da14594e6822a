/* Rows of x as tensor cores take them: gathered by place, in the order of the codes' bytes,
 * in halves. For form G in fp16: a power of two per row brings its largest value into
 * [2^14, 2^15), every half is folded by what its field's step counts, and what the fields'
 * zeros add up to is the sum that a group starts from, made of the very same halves. For the
 * others in bf16. A block of threads has a row. */
#ifndef CCQ_KERNELS_GPU_WINT2_STAGE_H
#define CCQ_KERNELS_GPU_WINT2_STAGE_H

#include "kernels/gpu/wint2_decode.h"
#include "kernels/gpu/wint2_layout.h"
#include "kernels/gpu/words.h"

#include <string.h>

enum { CCQ_W2_STAGERS = 128, CCQ_W2_TOP = 14 };

typedef struct ccq_w2_stage {
    const float *x;
    int64_t ldx, rows, k;
    const int32_t *from; /* NULL: row i is place i's */
    int form, order;
    uint8_t *to;
    int32_t *tau; /* [rows], form G */
} ccq_w2_stage;

/* ---- The row's power of two ---------------------------------------------- */

static inline CCQ_HD const float *ccq_w2_stage_row(const ccq_w2_stage *s, int64_t row)
{
    return s->x + (s->from ? (int64_t)s->from[row] : row) * s->ldx;
}

/* The largest finite |x| of the thread's values, as bits: they sort like the numbers. */
static inline CCQ_HD uint32_t ccq_w2_stage_top(const ccq_w2_stage *s, int64_t row, int thread)
{
    const float *x = ccq_w2_stage_row(s, row);
    uint32_t top = 0;
    int64_t k;

    for (k = thread; k < s->k; k += CCQ_W2_STAGERS) {
        uint32_t a = ccq_w2_bits(x[k]) & 0x7fffffffu;
        top = a < 0x7f800000u && a > top ? a : top;
    }
    return top;
}

static inline CCQ_HD int ccq_w2_stage_tau(uint32_t top)
{
    int e = (int)(top >> 23) - 127;
    if (!top)
        return 0;
    if (e == -127)
        e = (int)(ccq_w2_bits((float)top) >> 23) - 127 - 149;
    return CCQ_W2_TOP - e;
}

/* ---- A group ------------------------------------------------------------- */

/* Half i of a staged group whose logical rows start at x. */
static inline CCQ_HD uint16_t ccq_w2_stage_half(const ccq_w2_stage *s, const float *x, int i,
                                                int tau)
{
    float value = x[ccq_stored_to_logical(ccq_w2_x_row(i), s->order)];
    return s->form == CCQ_W2_FORM_G ? ccq_w2_to_f16(ccq_w2_scaled(value, tau) * ccq_w2_fold(i))
                                    : ccq_f32_to_bf16(value);
}

static inline CCQ_HD void ccq_w2_stage_group(const ccq_w2_stage *s, int64_t row, int64_t group,
                                             int tau)
{
    const float *x = ccq_w2_stage_row(s, row) + group * CCQ_GROUP;
    uint8_t *to = s->to + ccq_w2_x_block(row, group / 2, s->rows);
    uint32_t words[4], start[2] = {0, 0};
    float sum = 0.0f;
    int i, j;

    for (i = 0; i < CCQ_GROUP; i += 8) {
        for (j = 0; j < 4; j++) {
            uint16_t low = ccq_w2_stage_half(s, x, i + 2 * j, tau);
            uint16_t high = ccq_w2_stage_half(s, x, i + 2 * j + 1, tau);
            float zero = ccq_w2_zero_field(2 * j);
            words[j] = ccq_w2_pair(low, high);
            sum = __builtin_fmaf(-zero, ccq_w2_from_f16(low), sum);
            sum = __builtin_fmaf(-zero, ccq_w2_from_f16(high), sum);
        }
        ccq_gpu_keep16(to + group % 2 * (2 * CCQ_GROUP) + 2 * i, words);
    }
    start[0] = ccq_w2_bits(s->form == CCQ_W2_FORM_G ? sum : 0.0f);
    memcpy(to + CCQ_W2_X_START + group % 2 * 4, start, 4);
    memcpy(to + CCQ_W2_X_START + 8 + group % 2 * 4, start + 1, 4);
}

#endif
