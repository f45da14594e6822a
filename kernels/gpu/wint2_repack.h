/* A wint2 matrix from a checkpoint's layout into the device's and back: what one thread does.
 * A thread's number says what it has; nothing is shared but the flags of a tile's columns. */
#ifndef CCQ_KERNELS_GPU_WINT2_REPACK_H
#define CCQ_KERNELS_GPU_WINT2_REPACK_H

#include "kernels/gpu/wint2_decode.h"
#include "kernels/gpu/wint2_layout.h"
#include "kernels/gpu_wint2.h"

/* Columns of a block of the kernel that proves lines. */
enum { CCQ_W2_PROVERS = 128 };

typedef struct ccq_w2_repack {
    int64_t k, n;
    int swiglu;
    const uint8_t *codes, *local; /* as the tensors lie in a checkpoint */
    const uint16_t *super;
    const float *code_scale, *code_zp;
    uint8_t *to_codes, *to_locals;
    uint32_t *to_line;
    float *to_super, *to_plain;
    uint8_t *to_exact; /* first: 1 | columns of other orders << 1 */
} ccq_w2_repack;

/* The arrays of a matrix one after the other; all of them start at multiples of 16. */
static inline void ccq_w2_repack_to(ccq_w2_repack *r, void *to)
{
    r->to_codes = (uint8_t *)to;
    r->to_locals = r->to_codes + r->k * r->n / 4;
    r->to_line = (uint32_t *)(void *)(r->to_locals + r->k * r->n / CCQ_W2_BLOCK);
    r->to_super = (float *)(void *)(r->to_line + 2 * r->n);
    r->to_plain = r->to_super + r->n;
    r->to_exact = (uint8_t *)(void *)(r->to_plain + 2 * r->n);
}

/* The 16 bytes that a lane loads at once; i < k * n / 64. */
static inline CCQ_HD void ccq_w2_repack_lane(const ccq_w2_repack *r, int64_t i)
{
    int b;

    for (b = 0; b < 16; b++) {
        int64_t row, p;
        ccq_w2_code_of(16 * i + b, r->k, &row, &p);
        r->to_codes[16 * i + b] = r->codes[row * r->n + ccq_w2_column(p, r->n, r->swiglu)];
    }
}

/* i < k * n / 128 */
static inline CCQ_HD void ccq_w2_repack_local(const ccq_w2_repack *r, int64_t i)
{
    int64_t block, p;

    ccq_w2_local_of(i, r->k, &block, &p);
    r->to_locals[i] = r->local[block * r->n + ccq_w2_column(p, r->n, r->swiglu)];
}

/* The column's constants; returns 1 where the line is proved, 2 where orders differ. p < n */
static inline CCQ_HD int ccq_w2_repack_column(const ccq_w2_repack *r, int64_t p)
{
    int64_t column = ccq_w2_column(p, r->n, r->swiglu);
    float cs = r->code_scale[column], zp = r->code_zp[column];
    ccq_w2_proof proof = ccq_w2_prove(cs, zp);

    r->to_line[2 * p] = proof.line.slope;
    r->to_line[2 * p + 1] = proof.line.start;
    r->to_super[p] = ccq_bf16_to_f32(r->super[column]);
    r->to_plain[2 * p] = cs;
    r->to_plain[2 * p + 1] = zp;
    return (proof.exact ? 1 : 0) | (proof.orders ? 2 : 0);
}

/* What the columns of a tile found, in its byte. */
static inline CCQ_HD void ccq_w2_repack_tile(const ccq_w2_repack *r, int64_t tile,
                                             const uint8_t flags[CCQ_W2_TILE])
{
    int exact = 1, orders = 0, i;

    for (i = 0; i < CCQ_W2_TILE; i++) {
        exact &= flags[i];
        orders += flags[i] >> 1;
    }
    r->to_exact[tile] = (uint8_t)(exact | orders << 1);
}

/* ---- Back again ---------------------------------------------------------- */

static inline CCQ_HD ccq_w2_line ccq_w2_line_of(const ccq_gpu_matrix *m, int64_t p, int exact)
{
    ccq_w2_line line;
    line.slope = exact ? m->line[2 * p] : ccq_w2_bits(m->plain[2 * p]);
    line.start = exact ? m->line[2 * p + 1] : ccq_w2_bits(m->plain[2 * p + 1]);
    return line;
}

static inline CCQ_HD void ccq_w2_decode_codes(const ccq_gpu_codes *c, uint32_t *to)
{
    ccq_w2_line line[2];
    uint32_t scale[2], a[4][4];
    int u, i;

    for (u = 0; u < 2; u++) {
        float local = ccq_w2_local(c->locals, u, c->upper);
        line[u].slope = c->line[u][0];
        line[u].start = c->line[u][1];
        scale[u] = ccq_w2_scale(c->form, local, c->super[u]);
        to[16 + u] = ccq_w2_bits(local);
        to[18 + u] = scale[u];
    }
    ccq_w2_group(c->form, c->exact, c->word, line, scale, a);
    for (i = 0; i < 16; i++)
        to[i] = a[i / 4][i % 4];
}

static inline CCQ_HD int32_t ccq_w2_word_of(const ccq_gpu_matrix *m, int64_t p, int byte,
                                            int rounding)
{
    int exact = m->exact[p / CCQ_W2_TILE] && rounding != CCQ_ROUND_UNZIP;
    ccq_w2_line line = ccq_w2_line_of(m, p, exact);
    return ccq_w2_word(exact ? ccq_w2_fixed((uint32_t)byte, 0, 1, line)
                             : ccq_w2_plain((uint32_t)byte, 0, line, rounding));
}

/* The four weights of byte i = row of bytes * n + column, to bf16 [k][n]. i < k * n / 4 */
static inline CCQ_HD void ccq_w2_unpack_byte(const ccq_gpu_matrix *m, int swiglu, int rounding,
                                             int order, int64_t i, uint16_t *to)
{
    int64_t r = i / m->n, column = i % m->n, p = ccq_w2_place(column, m->n, swiglu);
    int64_t block = r / 32, first = 4 * r / CCQ_GROUP * CCQ_GROUP;
    int stored = (int)(4 * r % CCQ_GROUP), j;
    int local = ccq_local_scale(m->locals[ccq_w2_local_at(block, p, m->k)], r / 16);
    float scale = ccq_group_scale(local, m->super[p], rounding);
    int32_t word = ccq_w2_word_of(m, p, m->codes[ccq_w2_code_at(r, p, m->k)], rounding);

    for (j = 0; j < CCQ_WINDOWS; j++) {
        int64_t row = first + ccq_stored_to_logical(stored + j, order);
        float w = ccq_code_weight(ccq_code_value(word, j), scale, rounding);
        to[row * m->n + column] = ccq_f32_to_bf16(w);
    }
}

#endif
