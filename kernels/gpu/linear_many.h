/* What goes around the dense products of many rows: dequantized runs of columns, x in bf16,
 * rounding. */
#ifndef CCQ_KERNELS_GPU_LINEAR_MANY_H
#define CCQ_KERNELS_GPU_LINEAR_MANY_H

#include "kernels/gpu/weight.h"

/* Columns c0..c0+columns-1 of w to `to`: along n [k][columns], along k [columns][k]; fp32 or
 * bf16. A thread has a unit. */
typedef struct ccq_gpu_unpack {
    ccq_weight w;
    int wide;
    int64_t c0, columns;
    int as_float;
    void *to;
} ccq_gpu_unpack;

CCQ_INLINE int64_t ccq_gpu_unpack_units(const ccq_gpu_unpack *p)
{
    int64_t octets = ccq_gpu_ceil(p->columns, CCQ_GPU_OCTET);

    if (ccq_gpu_along_k(p->w.type))
        return ccq_gpu_ceil(p->w.k, ccq_gpu_unit(p->w.type)) * p->columns;
    return octets * (p->w.type == CCQ_W_WINT2 ? p->w.k / CCQ_WINDOWS : p->w.k);
}

/* Elements i and i + 1 of which `left` belong there; i even where both do and whole = 1. */
CCQ_INLINE void ccq_gpu_unpack_pair(const ccq_gpu_unpack *p, int64_t i, int64_t left, int whole,
                                    const float pair[2])
{
    uint32_t word = ccq_gpu_pack(pair[0], pair[1]);
    float *f = (float *)p->to + i;
    uint16_t *h = (uint16_t *)p->to + i;

    if (p->as_float) {
        if (left > 0)
            f[0] = pair[0];
        if (left > 1)
            f[1] = pair[1];
    } else if (whole) {
        *(uint32_t *)(void *)h = word;
    } else {
        if (left > 0)
            h[0] = (uint16_t)word;
        if (left > 1)
            h[1] = (uint16_t)(word >> 16);
    }
}

CCQ_INLINE void ccq_gpu_unpack_along_k(const ccq_gpu_unpack *p, int type, int64_t unit)
{
    int size = ccq_gpu_unit(type);
    int64_t units = ccq_gpu_ceil(p->w.k, size), c = unit / units, k = unit % units * size;
    float scale = ccq_gpu_unit_scale(&p->w, type, p->c0 + c), pair[2];
    uint32_t raw[4];

    ccq_gpu_unit_load(&p->w, type, p->wide, k, p->c0 + c, raw);
    CCQ_UNROLL
    for (int i = 0; i < size; i += 2) {
        ccq_gpu_unit_pair(type, raw, scale, i, pair);
        ccq_gpu_unpack_pair(p, c * p->w.k + k + i, p->w.k - k - i, p->w.k % 2 == 0, pair);
    }
}

CCQ_INLINE void ccq_gpu_unpack_row(const ccq_gpu_unpack *p, int64_t k, int64_t c,
                                   const float weight[CCQ_GPU_OCTET])
{
    CCQ_UNROLL
    for (int j = 0; j < CCQ_GPU_OCTET; j += 2)
        ccq_gpu_unpack_pair(p, k * p->columns + c + j, p->columns - c - j,
                            p->columns % 8 == 0, weight + j);
}

CCQ_INLINE void ccq_gpu_unpack_along_n(const ccq_gpu_unpack *p, int type, int64_t unit)
{
    int64_t octets = ccq_gpu_ceil(p->columns, CCQ_GPU_OCTET);
    int64_t k = unit / octets, c = unit % octets * CCQ_GPU_OCTET;
    float scale = type == CCQ_W_FP8 ? ccq_gpu_block_scale(&p->w, k, p->c0 + c) : 0;
    float weight[CCQ_GPU_OCTET];
    uint32_t raw[8];

    ccq_gpu_octet_load(p->w.data, ccq_gpu_octet_bytes(type), p->wide, p->w.n, k, p->c0 + c, raw);
    ccq_gpu_octet(type, raw, scale, weight);
    ccq_gpu_unpack_row(p, k, c, weight);
}

CCQ_INLINE void ccq_gpu_unpack_wint2(const ccq_gpu_unpack *p, int64_t unit)
{
    int64_t octets = ccq_gpu_ceil(p->columns, CCQ_GPU_OCTET);
    int64_t row = unit / octets, c = unit % octets * CCQ_GPU_OCTET, group = row / 16;
    float weight[CCQ_WINDOWS][CCQ_GPU_OCTET], four[CCQ_WINDOWS];
    uint32_t raw[2], local[2];
    ccq_gpu_lines lines;

    ccq_gpu_lines_load(&p->w, p->c0 + c, &lines);
    ccq_gpu_octet_load(p->w.data, 1, p->wide, p->w.n, row, p->c0 + c, raw);
    ccq_gpu_octet_load(p->w.local, 1, p->wide, p->w.n, group / 2, p->c0 + c, local);
    CCQ_UNROLL
    for (int j = 0; j < CCQ_GPU_OCTET; j++) {
        ccq_gpu_word_weights(&lines, j, raw, local, (int)(group & 1), p->w.rounding, four);
        CCQ_UNROLL
        for (int i = 0; i < CCQ_WINDOWS; i++)
            weight[i][j] = four[i];
    }
    CCQ_UNROLL
    for (int i = 0; i < CCQ_WINDOWS; i++) {
        int stored = (int)(CCQ_WINDOWS * row % CCQ_GROUP) + i;
        int64_t k = group * CCQ_GROUP + ccq_stored_to_logical(stored, p->w.order);
        ccq_gpu_unpack_row(p, k, c, weight[i]);
    }
}

CCQ_INLINE void ccq_gpu_unpack_unit(const ccq_gpu_unpack *p, int type, int64_t unit)
{
    if (ccq_gpu_along_k(type))
        ccq_gpu_unpack_along_k(p, type, unit);
    else if (type == CCQ_W_WINT2)
        ccq_gpu_unpack_wint2(p, unit);
    else
        ccq_gpu_unpack_along_n(p, type, unit);
}

/* ---- x, y ---------------------------------------------------------------- */

typedef struct ccq_gpu_narrow {
    const float *x;
    int64_t ldx, rows, k;
    uint16_t *to; /* [rows][k] */
} ccq_gpu_narrow;

CCQ_INLINE void ccq_gpu_narrow_at(const ccq_gpu_narrow *p, int64_t r, int64_t k)
{
    p->to[r * p->k + k] = ccq_f32_to_bf16(p->x[r * p->ldx + k]);
}

typedef struct ccq_gpu_round {
    float *y;
    int64_t ldy, rows, n;
} ccq_gpu_round;

CCQ_INLINE void ccq_gpu_round_at(const ccq_gpu_round *p, int64_t r, int64_t c)
{
    p->y[r * p->ldy + c] = ccq_round_bf16(p->y[r * p->ldy + c]);
}

#endif
