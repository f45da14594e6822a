/* Gain, end and errors of a column: chains of fp64 in stored order, so a thread a column. */
#ifndef CCQ_KERNELS_GPU_ENCODE_FIGURES_H
#define CCQ_KERNELS_GPU_ENCODE_FIGURES_H

#include "kernels/gpu/encode_search.h"

enum { CCQ_FIGURES_THREADS = 64 };

/* A column's codes, and what decodes them. zero: they are to be read as zeros. */
typedef struct ccq_figures_column {
    const uint16_t *x;
    const uint8_t *bytes, *local;
    int64_t groups;
    float cs, zp, s, scale;
    int zero;
} ccq_figures_column;

typedef struct ccq_figures_sums {
    double ww, wv, error, max_error;
} ccq_figures_sums;

/* Eight rows, two bytes. products: x = w * scale, ww += x^2, wv += x v; else error, ww and
 * max_error of w itself. */
CCQ_ENCODE_INLINE void ccq_figures_rows(const ccq_figures_column *c, const uint32_t x[4],
                                        uint32_t bytes, float group_scale, int products,
                                        ccq_figures_sums *sums)
{
    CCQ_ENCODE_UNROLL
    for (int i = 0; i < 8; i++) {
        uint16_t bits = (uint16_t)(x[i / 2] >> 16 * (i % 2) & 0xffff);
        int32_t word = ccq_word_fused((int)(bytes >> 8 * (i / CCQ_WINDOWS) & 255), c->cs, c->zp);
        int value = ccq_code_value(word, i % CCQ_WINDOWS);
        double v = (double)ccq_code_weight(value, group_scale, CCQ_ROUND_FUSED);
        double a = (double)(products ? ccq_bf16_to_f32(bits) * c->scale : ccq_bf16_to_f32(bits));
        double d = a - v, size = fabs(d);
        sums->ww += a * a;
        if (products) {
            sums->wv += a * v;
        } else {
            sums->error += d * d;
            sums->max_error = size > sums->max_error ? size : sums->max_error;
        }
    }
}

/* Stored rows ascending. */
static inline CCQ_HD void ccq_figures_walk(const ccq_figures_column *c, int products,
                                           ccq_figures_sums *sums)
{
    enum { PIECES = CCQ_GROUP / 8 };

    for (int64_t g = 0; g < c->groups; g++) {
        const int local = c->zero ? 0 : c->local[g];
        const float scale = ccq_group_scale(local, c->s, CCQ_ROUND_FUSED);
        uint32_t x[PIECES][4], bytes[4] = {0, 0, 0, 0};
        CCQ_ENCODE_UNROLL
        for (int i = 0; i < PIECES; i++)
            ccq_gpu_take16(c->x + g * CCQ_GROUP + 8 * i, x[i]);
        if (!c->zero)
            ccq_gpu_take16(c->bytes + g * (CCQ_GROUP / CCQ_WINDOWS), bytes);
        CCQ_ENCODE_UNROLL
        for (int i = 0; i < PIECES; i++)
            ccq_figures_rows(c, x[i], bytes[i / 2] >> 16 * (i % 2), scale, products, sums);
    }
}

static inline CCQ_HD void ccq_figures_of(const ccq_gpu_columns *p, const ccq_gpu_encode_work *w,
                                         const ccq_gpu_line *lines, int gain, int64_t n)
{
    const ccq_gpu_chosen *t = &w->chosen[n];
    ccq_figures_sums products = {0, 0, 0, 0}, sums = {0, 0, 0, 0};
    ccq_figures_column c;
    int status;

    c.x = w->x + n * p->k;
    c.bytes = w->bytes + n * (p->k / CCQ_WINDOWS);
    c.local = w->local + n * (p->k / CCQ_GROUP);
    c.groups = p->k / CCQ_GROUP;
    c.cs = lines[t->book].cs;
    c.zp = lines[t->book].zp;
    c.s = t->s;
    c.scale = t->scale;
    c.zero = 0;
    if (gain > 0 && t->encoded) {
        ccq_figures_walk(&c, 1, &products);
        c.s = ccq_gain_scale(c.s, gain, products.ww, products.wv);
    }
    status = ccq_finish_scale(t->encoded, c.s, t->e, &c.s);
    if (status == CCQ_COLUMN_ZERO) {
        c.zero = 1;
        c.cs = lines[0].cs;
        c.zp = lines[0].zp;
    }
    ccq_figures_walk(&c, 0, &sums);
    p->super[n] = ccq_f32_to_bf16(c.s);
    p->code_scale[n] = c.cs;
    p->code_zp[n] = c.zp;
    p->status[n] = (uint8_t)status;
    p->error[n] = sums.error;
    p->energy[n] = sums.ww;
    p->max_error[n] = sums.max_error;
}

#endif
