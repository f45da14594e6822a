/* Passes over a panel in plain C: the reference of all other instruction sets. */
#include "kernels/column.h"
#include "kernels/internal.h"
#include "kernels/tile.h"

#include <math.h>
#include <string.h>

enum { BLOCKS = CCQ_GROUP / CCQ_WINDOWS };

static void widen(const uint16_t *w, int64_t ld, int64_t k, float *x)
{
    float *second = x + k * CCQ_PANEL;

    for (int64_t i = 0; i < k; i++, w += ld)
        for (int c = 0; c < CCQ_PANEL; c++) {
            x[i * CCQ_PANEL + c] = ccq_bf16_to_f32(w[c]);
            second[i * CCQ_PANEL + c] = ccq_bf16_to_f32(w[CCQ_PANEL + c]);
        }
}

static void amax(const float *w, int64_t k, float most[CCQ_PANEL])
{
    memset(most, 0, CCQ_PANEL * sizeof *most);
    for (int64_t i = 0; i < k; i++)
        for (int c = 0; c < CCQ_PANEL; c++) {
            float a = fabsf(w[i * CCQ_PANEL + c]);
            most[c] = a > most[c] ? a : most[c];
        }
}

static void gather(const float *w, int64_t k, int order, const float scale[CCQ_PANEL], float *x)
{
    for (int64_t i = 0; i < k; i++) {
        const float *row = w + (i - i % CCQ_GROUP) * CCQ_PANEL;
        row += ccq_stored_to_logical((int)(i % CCQ_GROUP), order) * CCQ_PANEL;
        for (int c = 0; c < CCQ_PANEL; c++)
            x[c * k + i] = row[c] * scale[c];
    }
}

/* ---- One column ---------------------------------------------------------- */

/* Whether every square of the group is exact in fp32: bf16 values (8 significant
 * bits) that are zero or at least 2^-60. Then a product and a sum round as fmaf
 * does, and need no call of the C library. */
static int squares_are_exact(const float *w)
{
    uint32_t bits[CCQ_GROUP], inexact = 0;

    memcpy(bits, w, sizeof bits);
    for (int i = 0; i < CCQ_GROUP; i++) {
        uint32_t size = bits[i] & 0x7fffffffu;
        inexact |= (size & 0xffffu) | (uint32_t)(size - 1 < 0x21800000u - 1);
    }
    return !inexact;
}

static float group_rms(const float *w)
{
    int exact = squares_are_exact(w);
    float q[BLOCKS];

    for (int j = 0; j < BLOCKS; j++) {
        const float *v = w + CCQ_WINDOWS * j;
        if (exact)
            q[j] = v[0] * v[0] + v[1] * v[1] + v[2] * v[2] + v[3] * v[3];
        else
            q[j] = ccq_block_energy(v);
    }
    for (int step = BLOCKS / 2; step > 0; step /= 2)
        for (int j = 0; j < step; j++)
            q[j] += q[j + step];
    return sqrtf(q[0] / (float)CCQ_GROUP);
}

static void rms(const float *x, int64_t groups, float *to)
{
    for (int64_t g = 0; g < groups; g++)
        to[g] = group_rms(x + g * CCQ_GROUP);
}

static void units(const float *x, int64_t k, float inv, int16_t *u)
{
    for (int64_t i = 0; i < k; i++)
        u[i] = ccq_unit(x[i], inv);
}

static void turn(const uint8_t *from, int64_t ld, uint8_t to[16][CCQ_PANEL])
{
    for (int c = 0; c < CCQ_PANEL; c++)
        for (int r = 0; r < 16; r++)
            to[r][c] = from[c * ld + r];
}

/* ---- Decoded values ------------------------------------------------------ */

/* A line that passed its proof gives the same words in any order of evaluation;
 * they fit 16 bits, so floor is a truncation corrected. */
static void words(const ccq_coded_group *g, int r, int32_t word[CCQ_PANEL])
{
    for (int c = 0; c < CCQ_PANEL; c++) {
        float f = (float)g->bytes[r][c] * g->cs[c] + g->zp[c] + 0.5f;
        int32_t t = (int32_t)f;
        word[c] = t - ((float)t > f);
    }
}

static void products(const ccq_coded_group *g, const float *w, const float scale[CCQ_PANEL],
                     ccq_panel_sums *sums)
{
    int32_t word[CCQ_PANEL];

    for (int s = 0; s < CCQ_GROUP; s++) {
        const float *row = w + g->row[s] * CCQ_PANEL;
        if (s % CCQ_WINDOWS == 0)
            words(g, s / CCQ_WINDOWS, word);
        for (int c = 0; c < CCQ_PANEL; c++) {
            int value = ccq_code_value(word[c], s % CCQ_WINDOWS);
            double x = (double)(row[c] * scale[c]);
            sums->ww[c] += x * x;
            sums->wv[c] += x * (double)ccq_code_weight(value, g->scale[c], CCQ_ROUND_FUSED);
        }
    }
}

static void add_errors(const float *row, const float v[CCQ_PANEL], ccq_panel_sums *sums)
{
    for (int c = 0; c < CCQ_PANEL; c++) {
        double a = (double)row[c], d = a - (double)v[c];
        sums->error[c] += d * d;
        sums->ww[c] += a * a;
        sums->max_error[c] = fabs(d) > sums->max_error[c] ? fabs(d) : sums->max_error[c];
    }
}

static void errors(const ccq_coded_group *g, const float *w, ccq_panel_sums *sums)
{
    int32_t word[CCQ_PANEL];
    float v[CCQ_PANEL];

    for (int s = 0; s < CCQ_GROUP; s++) {
        if (s % CCQ_WINDOWS == 0)
            words(g, s / CCQ_WINDOWS, word);
        for (int c = 0; c < CCQ_PANEL; c++) {
            int value = ccq_code_value(word[c], s % CCQ_WINDOWS);
            v[c] = ccq_code_weight(value, g->scale[c], CCQ_ROUND_FUSED);
        }
        add_errors(w + g->row[s] * CCQ_PANEL, v, sums);
    }
}

/* ---- wint8, wint4 -------------------------------------------------------- */

/* Clamped first, bound being an integer. */
static void integers(const float *w, int64_t k, const float by[CCQ_PANEL], float factor,
                     float bound, int8_t *q)
{
    for (int64_t i = 0; i < k; i++, w += CCQ_PANEL, q += CCQ_PANEL)
        for (int c = 0; c < CCQ_PANEL; c++) {
            float t = w[c] / by[c] * factor, x = t > bound ? bound : t >= -bound ? t : -bound;
            int whole = (int)x;
            float rest = x - (float)whole; /* exact */
            q[c] = (int8_t)(whole + (rest >= 0.5f) - (rest <= -0.5f));
        }
}

static void integer_errors(const float *w, const int8_t *q, int64_t k,
                           const float scale[CCQ_PANEL], ccq_panel_sums *sums)
{
    float v[CCQ_PANEL];

    for (int64_t i = 0; i < k; i++) {
        for (int c = 0; c < CCQ_PANEL; c++)
            v[c] = ccq_round_bf16((float)q[i * CCQ_PANEL + c] * scale[c]);
        add_errors(w + i * CCQ_PANEL, v, sums);
    }
}

static void place(int bits, const int8_t q[CCQ_GROUP], uint8_t *run)
{
    if (bits == 8) {
        for (int i = 0; i < CCQ_GROUP; i++)
            run[ccq_wint8_byte(i, 0, CCQ_GROUP)] = (uint8_t)(q[i] + 128);
        return;
    }
    memset(run, 0, CCQ_GROUP / 2);
    for (int i = 0; i < CCQ_GROUP; i++) {
        int64_t at = ccq_wint4_nibble(i, 0, CCQ_GROUP);
        run[at / 2] |= (uint8_t)(((unsigned)(q[i] + 8) & 15u) << 4 * (at & 1));
    }
}

void ccq_panel_init_c(ccq_panel_ops *ops)
{
    ops->widen = widen;
    ops->amax = amax;
    ops->gather = gather;
    ops->rms = rms;
    ops->units = units;
    ops->turn = turn;
    ops->products = products;
    ops->errors = errors;
    ops->integers = integers;
    ops->integer_errors = integer_errors;
    ops->place = place;
}
