/* Stored weights in the registers of a device: index maps and decoding of a unit, for all
 * CCQ_W_*. A unit is 8 columns of a row (4 rows with wint2), or 8, 16, 32 rows of a column
 * with bf16_t, wint8, wint4: what one load brings. */
#ifndef CCQ_KERNELS_GPU_WEIGHT_H
#define CCQ_KERNELS_GPU_WEIGHT_H

#include "kernels/gpu/linear_plan.h"
#include "kernels/tile.h"

enum { CCQ_GPU_OCTET = 8, CCQ_GPU_FP8_BLOCK = 128 };

/* Rows of a unit that runs along k. */
CCQ_INLINE int ccq_gpu_unit(int type)
{
    return type == CCQ_W_BF16_T ? 8 : type == CCQ_W_WINT8 ? 16 : 32;
}

/* ---- Along k ------------------------------------------------------------- */

/* The unit at row k of column c; k a multiple of the unit's rows. */
CCQ_INLINE void ccq_gpu_unit_load(const ccq_weight *w, int type, int wide, int64_t k, int64_t c,
                                  uint32_t raw[4])
{
    const uint16_t *data = (const uint16_t *)w->data + c * w->k + k;

    if (type == CCQ_W_WINT8) {
        ccq_gpu_load16((const uint8_t *)w->data + ccq_wint8_byte(k, c, w->k), raw);
    } else if (type == CCQ_W_WINT4) {
        ccq_gpu_load16((const uint8_t *)w->data + ccq_wint4_nibble(k, c, w->k) / 2, raw);
    } else if (wide) {
        ccq_gpu_load16(data, raw);
    } else {
        CCQ_UNROLL
        for (int i = 0; i < 4; i++) {
            uint32_t low = k + 2 * i < w->k ? data[2 * i] : 0;
            uint32_t high = k + 2 * i + 1 < w->k ? data[2 * i + 1] : 0;
            raw[i] = high << 16 | low;
        }
    }
}

/* Weights of rows i and i + 1 of the unit, i even. scale: of the column, of bf16_t none. */
CCQ_INLINE void ccq_gpu_unit_pair(int type, const uint32_t raw[4], float scale, int i,
                                  float pair[2])
{
    uint32_t word;

    if (type == CCQ_W_BF16_T) {
        word = raw[i / 2];
    } else if (type == CCQ_W_WINT8) { /* where ccq_wint8_byte has rows i and i + 1 */
        int p = i < 8 ? 2 * i : 2 * (i - 8) + 1, q = p + 2;
        word = ccq_gpu_pack(ccq_gpu_byte(raw[p / 4], p % 4, 128.0f) * scale,
                            ccq_gpu_byte(raw[q / 4], q % 4, 128.0f) * scale);
    } else { /* ccq_wint4_nibble */
        int p = 8 * (i % 8 / 2) + i / 8, q = p + 4;
        word = ccq_gpu_pack(ccq_gpu_nibble(raw[p / 8], p % 8, 8.0f) * scale,
                            ccq_gpu_nibble(raw[q / 8], q % 8, 8.0f) * scale);
    }
    pair[0] = ccq_gpu_low(word);
    pair[1] = ccq_gpu_high(word);
}

CCQ_INLINE float ccq_gpu_unit_scale(const ccq_weight *w, int type, int64_t c)
{
    return type == CCQ_W_BF16_T ? 1.0f : ccq_bf16_to_f32(w->scale[c]);
}

/* ---- Along n ------------------------------------------------------------- */

/* Columns c..c+7 of row k of an array of 1, 2 or 4 bytes an element, zero past n. */
CCQ_INLINE void ccq_gpu_octet_load(const void *data, int bytes, int wide, int64_t n, int64_t k,
                                   int64_t c, uint32_t *raw)
{
    const uint8_t *at = (const uint8_t *)data + (k * n + c) * bytes;

    if (wide && bytes == 1) {
        ccq_gpu_load8(at, raw);
    } else if (wide) {
        ccq_gpu_load16(at, raw);
        if (bytes == 4)
            ccq_gpu_load16(at + 16, raw + 4);
    } else {
        CCQ_UNROLL
        for (int i = 0; i < 2 * bytes; i++)
            raw[i] = 0;
        CCQ_UNROLL
        for (int j = 0; j < CCQ_GPU_OCTET; j++) {
            if (c + j >= n)
                continue;
            if (bytes == 1)
                raw[j / 4] |= (uint32_t)at[j] << j % 4 * 8;
            else if (bytes == 2)
                raw[j / 2] |= (uint32_t)((const uint16_t *)(const void *)at)[j] << j % 2 * 16;
            else
                raw[j] = ((const uint32_t *)(const void *)at)[j];
        }
    }
}

CCQ_INLINE int ccq_gpu_octet_bytes(int type)
{
    return type == CCQ_W_F32 ? 4 : type == CCQ_W_BF16 ? 2 : 1;
}

/* As ccq_e4m3_to_f32: the bits of the exponent shifted to their place are 2^120 too small. */
CCQ_INLINE float ccq_gpu_e4m3(uint32_t code)
{
    float x = ccq_gpu_bits((code & 0x7f) << 20 | (code & 0x80) << 24) * 0x1p120f;
    return (code & 0x7f) == 0x7f ? NAN : x;
}

CCQ_INLINE float ccq_gpu_block_scale(const ccq_weight *w, int64_t k, int64_t c)
{
    int64_t blocks = (w->n + CCQ_GPU_FP8_BLOCK - 1) / CCQ_GPU_FP8_BLOCK;
    return w->block_scale[k / CCQ_GPU_FP8_BLOCK * blocks + c / CCQ_GPU_FP8_BLOCK];
}

/* The eight weights of a row of bf16, fp8 (scale: its block's) or fp32. */
CCQ_INLINE void ccq_gpu_octet(int type, const uint32_t *raw, float scale, float weight[8])
{
    CCQ_UNROLL
    for (int j = 0; j < CCQ_GPU_OCTET; j += 2) {
        uint32_t word;
        if (type == CCQ_W_F32) {
            weight[j] = ccq_gpu_bits(raw[j]);
            weight[j + 1] = ccq_gpu_bits(raw[j + 1]);
            continue;
        }
        word = type == CCQ_W_BF16
                   ? raw[j / 2]
                   : ccq_gpu_pack(ccq_gpu_e4m3(raw[j / 4] >> j % 4 * 8 & 255) * scale,
                                  ccq_gpu_e4m3(raw[j / 4] >> (j % 4 + 1) * 8 & 255) * scale);
        weight[j] = ccq_gpu_low(word);
        weight[j + 1] = ccq_gpu_high(word);
    }
}

/* ---- wint2 as it lies on disk -------------------------------------------- */

typedef struct ccq_gpu_lines {
    float cs[CCQ_GPU_OCTET], zp[CCQ_GPU_OCTET], super[CCQ_GPU_OCTET];
} ccq_gpu_lines;

CCQ_INLINE void ccq_gpu_lines_load(const ccq_weight *w, int64_t c, ccq_gpu_lines *l)
{
    CCQ_UNROLL
    for (int j = 0; j < CCQ_GPU_OCTET; j++) {
        int inside = c + j < w->n;
        l->cs[j] = inside ? w->code_scale[c + j] : 0;
        l->zp[j] = inside ? w->code_zp[c + j] : 0;
        l->super[j] = inside ? ccq_bf16_to_f32(w->super[c + j]) : 0;
    }
}

/* Column j's weights of the four stored rows of a byte row. local: the byte of its group's
 * pair, odd: which of the two. */
CCQ_INLINE void ccq_gpu_word_weights(const ccq_gpu_lines *l, int j, const uint32_t raw[2],
                                     const uint32_t local[2], int odd, int rounding,
                                     float weight[CCQ_WINDOWS])
{
    int byte = (int)(raw[j / 4] >> j % 4 * 8 & 255);
    uint8_t pair = (uint8_t)(local[j / 4] >> j % 4 * 8);
    float scale = ccq_group_scale(ccq_local_scale(pair, odd), l->super[j], rounding);
    int32_t word = ccq_code_word(byte, l->cs[j], l->zp[j], rounding);

    CCQ_UNROLL
    for (int i = 0; i < CCQ_WINDOWS; i++)
        weight[i] = ccq_code_weight(ccq_code_value(word, i), scale, rounding);
}

#endif
