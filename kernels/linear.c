#include "kernels/encode.h"
#include "kernels/internal.h"
#include "kernels/tile.h"

#include <math.h>
#include <string.h>

/* clamp to +-bound, then half away from zero; bound is an integer, so the order
 * of the two does not matter. NaN gives -bound. */
static int8_t to_integer(float t, float bound)
{
    float x = t > bound ? bound : t >= -bound ? t : -bound;
    int whole = (int)x;
    float rest = x - (float)whole; /* exact */

    return (int8_t)(whole + (rest >= 0.5f) - (rest <= -0.5f));
}

static float column_amax(const float *w, int64_t k)
{
    float amax = 0.0f;

    for (int64_t i = 0; i < k; i++) {
        float a = fabsf(w[i]);
        amax = a > amax ? a : amax;
    }
    return amax;
}

/* Both rules divide first; gpu by the unrounded amax, cpu by the stored scale. */
static void integers(int rule, float bound, float amax, float scale, const float *w, int64_t k,
                     int8_t *q)
{
    if (amax == 0.0f || (rule == CCQ_RULE_CPU && scale == 0.0f)) {
        memset(q, 0, (size_t)k);
    } else if (rule == CCQ_RULE_CPU) {
        for (int64_t i = 0; i < k; i++)
            q[i] = to_integer(w[i] / scale, bound);
    } else {
        for (int64_t i = 0; i < k; i++)
            q[i] = to_integer(w[i] / amax * bound, bound);
    }
}

static void measure(const float *w, int64_t k, const int8_t *q, float scale, double *error,
                    double *energy, double *max_error)
{
    double e = 0.0, s = 0.0, m = 0.0;

    for (int64_t i = 0; i < k; i++) {
        double d = (double)w[i] - (double)ccq_round_bf16((float)q[i] * scale);
        e += d * d;
        s += (double)w[i] * (double)w[i];
        m = fabs(d) > m ? fabs(d) : m;
    }
    if (error)
        *error = e;
    if (energy)
        *energy = s;
    if (max_error)
        *max_error = m;
}

void ccq_weight_only_column(int bits, int rule, const float *w, int64_t k, int8_t *q,
                            uint16_t *scale, double *error, double *energy, double *max_error)
{
    float bound = bits == 8 ? 127.0f : 7.0f, amax = column_amax(w, k);
    float s;

    *scale = ccq_f32_to_bf16(amax / bound);
    s = ccq_bf16_to_f32(*scale);
    integers(rule, bound, amax, s, w, k, q);
    if (error || energy || max_error)
        measure(w, k, q, s, error, energy, max_error);
}

void ccq_weight_only_place(int bits, const int8_t *q, int64_t k, int64_t n, uint8_t *stored)
{
    if (bits == 8) {
        for (int64_t i = 0; i < k; i++)
            stored[ccq_wint8_byte(i, n, k)] = (uint8_t)(q[i] + 128);
        return;
    }
    for (int64_t i = 0; i < k; i++) {
        int64_t at = ccq_wint4_nibble(i, n, k);
        unsigned v = (unsigned)(q[i] + 8) & 15u, byte = stored[at / 2];
        stored[at / 2] = (uint8_t)(at & 1 ? (byte & 0x0fu) | v << 4 : (byte & 0xf0u) | v);
    }
}

/* ---- Sixteen columns ----------------------------------------------------- */

/* q = w / by * factor. A column that has no scale, or nothing to scale, gives 0. */
static float divisors(int rule, float bound, const float amax[CCQ_PANEL], const float *scale,
                      float by[CCQ_PANEL])
{
    for (int c = 0; c < CCQ_PANEL; c++) {
        by[c] = rule == CCQ_RULE_CPU ? scale[c] : amax[c];
        by[c] = by[c] == 0.0f ? INFINITY : by[c];
    }
    return rule == CCQ_RULE_CPU ? 1.0f : bound;
}

void ccq_place_group(const ccq_panel_ops *ops, int bits, const int8_t *q, int64_t k, int64_t row,
                     int64_t n0, int count, uint8_t *stored)
{
    uint8_t turned[CCQ_GROUP / 16][16][CCQ_PANEL];
    int8_t column[CCQ_GROUP];

    for (int part = 0; part < CCQ_GROUP / 16; part++)
        ops->turn((const uint8_t *)q + part * 16 * CCQ_PANEL, CCQ_PANEL, turned[part]);
    for (int c = 0; c < count; c++) {
        for (int part = 0; part < CCQ_GROUP / 16; part++)
            memcpy(column + 16 * part, turned[part][c], 16);
        ops->place(bits, column, stored + (bits == 8 ? ccq_wint8_byte(row, n0 + c, k)
                                                     : ccq_wint4_nibble(row, n0 + c, k) / 2));
    }
}

int ccq_integer_status(float bound, float scale)
{
    float most = ccq_round_bf16(bound * scale);

    return scale == 0.0f ? CCQ_COLUMN_ZERO : most - most == 0.0f ? CCQ_COLUMN_OK : CCQ_COLUMN_HUGE;
}

void ccq_weight_only_panel(const ccq_ops *ops, int bits, int rule, const float *w, int64_t k,
                           int64_t n0, int count, uint8_t *stored, ccq_weight_only *out)
{
    float bound = bits == 8 ? 127.0f : 7.0f, factor;
    float amax[CCQ_PANEL], scale[CCQ_PANEL], by[CCQ_PANEL];
    ccq_panel_sums sums = {{0}, {0}, {0}, {0}};
    int8_t q[CCQ_GROUP * CCQ_PANEL];

    ops->panel.amax(w, k, amax);
    for (int c = 0; c < CCQ_PANEL; c++) {
        out->scale[c] = ccq_f32_to_bf16(amax[c] / bound);
        scale[c] = ccq_bf16_to_f32(out->scale[c]);
        out->status[c] = ccq_integer_status(bound, scale[c]);
    }
    factor = divisors(rule, bound, amax, scale, by);
    for (int64_t row = 0; row < k; row += CCQ_GROUP, w += CCQ_GROUP * CCQ_PANEL) {
        ops->panel.integers(w, CCQ_GROUP, by, factor, bound, q);
        ops->panel.integer_errors(w, q, CCQ_GROUP, scale, &sums);
        ccq_place_group(&ops->panel, bits, q, k, row, n0, count, stored);
    }
    memcpy(out->error, sums.error, sizeof sums.error);
    memcpy(out->energy, sums.ww, sizeof sums.ww);
    memcpy(out->max_error, sums.max_error, sizeof sums.max_error);
}
