#include "kernels/encode.h"
#include "kernels/internal.h"
#include "kernels/tile.h"

#include <math.h>
#include <string.h>

enum { BLOCKS = CCQ_GROUP / CCQ_WINDOWS };

/* ---- bf16, fp32 ---------------------------------------------------------- */

static void unpack_bf16(const ccq_weight *w, int64_t k0, int64_t kc, int64_t n0, int cols,
                        float *panel)
{
    const uint16_t *data = w->data;

    for (int64_t k = 0; k < kc; k++)
        for (int j = 0; j < cols; j++)
            panel[k * CCQ_PANEL + j] = ccq_bf16_to_f32(data[(k0 + k) * w->n + n0 + j]);
}

static void unpack_bf16_t(const ccq_weight *w, int64_t k0, int64_t kc, int64_t n0, int cols,
                          float *panel)
{
    const uint16_t *data = w->data;

    for (int j = 0; j < cols; j++)
        for (int64_t k = 0; k < kc; k++)
            panel[k * CCQ_PANEL + j] = ccq_bf16_to_f32(data[(n0 + j) * w->k + k0 + k]);
}

static void unpack_f32(const ccq_weight *w, int64_t k0, int64_t kc, int64_t n0, int cols,
                       float *panel)
{
    const float *data = w->data;

    for (int64_t k = 0; k < kc; k++)
        memcpy(panel + k * CCQ_PANEL, data + (k0 + k) * w->n + n0, (size_t)cols * sizeof *data);
}

/* ---- wint8, wint4: a column's 64-row tile is contiguous ------------------ */

static void scaled_row(const int32_t q[CCQ_PANEL], const float scale[CCQ_PANEL], float *row)
{
    for (int j = 0; j < CCQ_PANEL; j++)
        row[j] = ccq_round_bf16((float)q[j] * scale[j]);
}

static void load_scales(const uint16_t *bits, int cols, float scale[CCQ_PANEL])
{
    memset(scale, 0, CCQ_PANEL * sizeof *scale);
    for (int j = 0; j < cols; j++)
        scale[j] = ccq_bf16_to_f32(bits[j]);
}

static void unpack_wint8(const ccq_weight *w, int64_t k0, int64_t kc, int64_t n0, int cols,
                         float *panel)
{
    const uint8_t *data = w->data, *tile[CCQ_PANEL];
    int32_t q[CCQ_PANEL] = {0};
    float scale[CCQ_PANEL];

    load_scales(w->scale + n0, cols, scale);
    for (int64_t k = 0; k < kc; k += CCQ_GROUP) {
        for (int j = 0; j < cols; j++)
            tile[j] = data + ccq_wint8_byte(k0 + k, n0 + j, w->k);
        for (int r = 0; r < CCQ_GROUP; r++) {
            int64_t at = ccq_wint8_byte(r, 0, CCQ_GROUP);
            for (int j = 0; j < cols; j++)
                q[j] = tile[j][at] - 128;
            scaled_row(q, scale, panel + (k + r) * CCQ_PANEL);
        }
    }
}

static void unpack_wint4(const ccq_weight *w, int64_t k0, int64_t kc, int64_t n0, int cols,
                         float *panel)
{
    const uint8_t *data = w->data, *tile[CCQ_PANEL];
    int32_t q[CCQ_PANEL] = {0};
    float scale[CCQ_PANEL];

    load_scales(w->scale + n0, cols, scale);
    for (int64_t k = 0; k < kc; k += CCQ_GROUP) {
        for (int j = 0; j < cols; j++)
            tile[j] = data + ccq_wint4_nibble(k0 + k, n0 + j, w->k) / 2;
        for (int r = 0; r < CCQ_GROUP; r++) {
            int64_t at = ccq_wint4_nibble(r, 0, CCQ_GROUP);
            int shift = at & 1 ? 4 : 0;
            for (int j = 0; j < cols; j++)
                q[j] = (tile[j][at / 2] >> shift & 15) - 8;
            scaled_row(q, scale, panel + (k + r) * CCQ_PANEL);
        }
    }
}

/* ---- block_wise_fp8 ------------------------------------------------------ */

static void unpack_fp8(const ccq_weight *w, int64_t k0, int64_t kc, int64_t n0, int cols,
                       float *panel)
{
    const uint8_t *data = w->data;
    int64_t blocks = (w->n + CCQ_FP8_BLOCK - 1) / CCQ_FP8_BLOCK;

    for (int64_t k = 0; k < kc; k++)
        for (int j = 0; j < cols; j++) {
            int64_t block = (k0 + k) / CCQ_FP8_BLOCK * blocks + (n0 + j) / CCQ_FP8_BLOCK;
            float x = ccq_e4m3_to_f32(data[(k0 + k) * w->n + n0 + j]);
            panel[k * CCQ_PANEL + j] = ccq_round_bf16(x * w->block_scale[block]);
        }
}

/* ---- wint2 --------------------------------------------------------------- */

/* What 16 columns share; unused columns decode zeros from a harmless line. */
typedef struct lines {
    float cs[CCQ_PANEL], zp[CCQ_PANEL], super[CCQ_PANEL];
    int exact; /* no operation rounds: a product and a sum do for fmaf */
} lines;

/* Multiples of 2^-8 of bounded size (docs/code.md, "Which lines are safe"). */
static int line_is_exact(float cs, float zp)
{
    return fabsf(cs) < 128.0f && fabsf(zp) < 32767.0f && rintf(cs * 256.0f) == cs * 256.0f &&
           rintf(zp * 256.0f) == zp * 256.0f;
}

static void load_lines(const ccq_weight *w, int64_t n0, int cols, lines *x)
{
    memset(x, 0, sizeof *x);
    x->exact = 1;
    for (int j = 0; j < cols; j++) {
        x->cs[j] = w->code_scale[n0 + j];
        x->zp[j] = w->code_zp[n0 + j];
        x->super[j] = ccq_bf16_to_f32(w->super[n0 + j]);
        x->exact = x->exact && line_is_exact(x->cs[j], x->zp[j]);
    }
}

/* The words of one byte row. */
static void words(const lines *x, const int32_t byte[CCQ_PANEL], int rounding,
                  int32_t word[CCQ_PANEL])
{
    if (!x->exact) {
        for (int j = 0; j < CCQ_PANEL; j++)
            word[j] = ccq_code_word(byte[j], x->cs[j], x->zp[j], rounding);
        return;
    }
    for (int j = 0; j < CCQ_PANEL; j++) { /* |f| < 2^16, so floor is a truncation corrected */
        float f = (float)byte[j] * x->cs[j] + (x->zp[j] + 0.5f);
        int32_t t = (int32_t)f;
        word[j] = t - ((float)t > f);
    }
}

/* One window of a byte row to one logical row of the panel. */
static void window_row(const int32_t word[CCQ_PANEL], int i, const float scale[CCQ_PANEL],
                       int rounding, float *row)
{
    if (rounding == CCQ_ROUND_NONE)
        for (int j = 0; j < CCQ_PANEL; j++)
            row[j] = ccq_code_weight(ccq_code_value(word[j], i), scale[j], CCQ_ROUND_NONE);
    else
        for (int j = 0; j < CCQ_PANEL; j++)
            row[j] = ccq_code_weight(ccq_code_value(word[j], i), scale[j], CCQ_ROUND_FUSED);
}

static void group_scales(const ccq_weight *w, const lines *x, int64_t group, int64_t n0, int cols,
                         float scale[CCQ_PANEL])
{
    const uint8_t *pair = w->local + group / 2 * w->n + n0;

    memset(scale, 0, CCQ_PANEL * sizeof *scale);
    for (int j = 0; j < cols; j++)
        scale[j] = ccq_group_scale(ccq_local_scale(pair[j], group), x->super[j], w->rounding);
}

static void unpack_wint2(const ccq_weight *w, int64_t k0, int64_t kc, int64_t n0, int cols,
                         float *panel)
{
    int to[CCQ_GROUP];
    lines x;

    load_lines(w, n0, cols, &x);
    for (int s = 0; s < CCQ_GROUP; s++)
        to[s] = ccq_stored_to_logical(s, w->order) * CCQ_PANEL;
    for (int64_t k = 0; k < kc; k += CCQ_GROUP) {
        const uint8_t *data = (const uint8_t *)w->data + (k0 + k) / CCQ_WINDOWS * w->n + n0;
        int32_t byte[CCQ_PANEL] = {0}, word[CCQ_PANEL];
        float scale[CCQ_PANEL];

        group_scales(w, &x, (k0 + k) / CCQ_GROUP, n0, cols, scale);
        for (int r = 0; r < BLOCKS; r++) {
            for (int j = 0; j < cols; j++)
                byte[j] = data[r * w->n + j];
            words(&x, byte, w->rounding, word);
            for (int i = 0; i < CCQ_WINDOWS; i++)
                window_row(word, i, scale, w->rounding,
                           panel + k * CCQ_PANEL + to[CCQ_WINDOWS * r + i]);
        }
    }
}

/* ---- all ----------------------------------------------------------------- */

static void clear_columns(float *panel, int64_t kc, int cols)
{
    for (int64_t k = 0; k < kc; k++)
        for (int j = cols; j < CCQ_PANEL; j++)
            panel[k * CCQ_PANEL + j] = 0.0f;
}

void ccq_unpack_c(const ccq_weight *w, int64_t k0, int64_t kc, int64_t n0, float *panel)
{
    int cols = w->n - n0 < CCQ_PANEL ? (int)(w->n - n0) : CCQ_PANEL;

    switch (w->type) {
    case CCQ_W_BF16: unpack_bf16(w, k0, kc, n0, cols, panel); break;
    case CCQ_W_BF16_T: unpack_bf16_t(w, k0, kc, n0, cols, panel); break;
    case CCQ_W_WINT8: unpack_wint8(w, k0, kc, n0, cols, panel); break;
    case CCQ_W_WINT4: unpack_wint4(w, k0, kc, n0, cols, panel); break;
    case CCQ_W_WINT2: unpack_wint2(w, k0, kc, n0, cols, panel); break;
    case CCQ_W_FP8: unpack_fp8(w, k0, kc, n0, cols, panel); break;
    case CCQ_W_F32: unpack_f32(w, k0, kc, n0, cols, panel); break;
    default: cols = 0; break;
    }
    if (cols < CCQ_PANEL)
        clear_columns(panel, kc, cols);
}
