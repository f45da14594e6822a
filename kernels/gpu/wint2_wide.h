/* Many rows times a wint2 matrix, for wgmma: what a block of threads does, phase by phase.
 *
 * A block has 8 tiles (128 columns) of one expert and up to N of its rows; a warp decodes one
 * tile, the four warps of a warpgroup are the 64 rows of its product's A, from registers; x is
 * its B, from shared memory. Blocks of 128 rows of k pass through a ring of slots:
 *     x: two groups of [N][64] halves, a row of 128 bytes in the order of the products' slots,
 *        its 16-byte pieces exchanged as wgmma's 128-byte swizzle wants them
 *     codes of 8 tiles (512 each), their local scales (16 each)
 * The order of slots is that of kernels/gpu/wint2_ring.h. Weights are decoded to form B, or W:
 * sums of all of k, nothing in between. */
#ifndef CCQ_KERNELS_GPU_WINT2_WIDE_H
#define CCQ_KERNELS_GPU_WINT2_WIDE_H

#include "kernels/gpu/wint2_plan.h"

enum {
    CCQ_W2_WIDE_TILES = 8, /* of a block: one a warp */
    CCQ_W2_WIDE_COLUMNS = CCQ_W2_WIDE_TILES * CCQ_W2_TILE,
    CCQ_W2_WIDE_THREADS = CCQ_W2_WIDE_TILES * 32,
    CCQ_W2_WIDE_ROW = 2 * CCQ_GROUP, /* bytes of a row of x in a group */
    CCQ_W2_WIDE_LD = CCQ_W2_WIDE_COLUMNS + 4, /* floats between the sums of two rows */
    CCQ_W2_WIDE_MOST = 256
};

/* ---- Staged x: [rows][k / 64] groups of 64 halves ------------------------- */

/* Stored row of a group in half i = 16 m + slot of the staged group. */
static inline CCQ_HD int ccq_w2_wide_row(int i)
{
    int m = i / 16, hi = i % 16 / 8, t = i % 8 / 2, e = i % 2;
    return 16 * t + 8 * (m / 2) + 4 * e + 3 - 2 * (m % 2) - hi;
}

static inline CCQ_HD int ccq_w2_wide_half(int stored)
{
    int t = stored / 16, p = stored / 8 % 2, e = stored / 4 % 2, w = 3 - stored % 4;
    return 16 * (2 * p + w / 2) + 8 * (w % 2) + 2 * t + e;
}

/* Bytes from the start of the staged rows to logical row k of x's row. */
static inline CCQ_HD int64_t ccq_w2_wide_x_at(int64_t row, int64_t k, int order, int64_t rows)
{
    int i = ccq_w2_wide_half(ccq_logical_to_stored((int)(k % CCQ_GROUP), order));
    return (row * (rows / CCQ_GROUP) + k / CCQ_GROUP) * CCQ_W2_WIDE_ROW + 2 * i;
}

/* Piece `piece` of 8 halves of a staged group. */
static inline CCQ_HD void ccq_w2_wide_stage(const ccq_w2_stage *s, int64_t row, int64_t group,
                                            int piece, int tau)
{
    const float *x = ccq_w2_stage_row(s, row) + group * CCQ_GROUP;
    uint8_t *to = s->to + (row * (s->k / CCQ_GROUP) + group) * CCQ_W2_WIDE_ROW + 16 * piece;
    uint32_t words[4];
    uint16_t half[2];
    int i, j;

    for (i = 0; i < 4; i++) {
        for (j = 0; j < 2; j++) {
            int stored = ccq_w2_wide_row(8 * piece + 2 * i + j);
            float value = x[ccq_stored_to_logical(stored, s->order)];
            half[j] = s->form == CCQ_W2_FORM_W ? ccq_w2_to_f16(ccq_w2_scaled(value, tau))
                                               : ccq_f32_to_bf16(value);
        }
        words[i] = ccq_w2_pair(half[0], half[1]);
    }
    ccq_gpu_keep16(to, words);
}

/* ---- Shared memory -------------------------------------------------------- */

/* N: rows of a block, 32, 64, 128 or 256. */
CCQ_W2_FN int ccq_w2_wide_x_bytes(int n)
{
    return 2 * n * CCQ_W2_WIDE_ROW;
}

/* A multiple of 1024, as the swizzle repeats itself. */
CCQ_W2_FN int ccq_w2_wide_slot_bytes(int n)
{
    int codes = CCQ_W2_WIDE_TILES * (CCQ_W2_CODES + CCQ_W2_LOCALS);
    return ccq_w2_wide_x_bytes(n) + (codes + 1023) / 1024 * 1024;
}

/* The ring, or the sums at the end. */
CCQ_W2_FN int ccq_w2_wide_shared_bytes(int n)
{
    int ring = ccq_w2_wide_stages(n) * ccq_w2_wide_slot_bytes(n);
    int sums = n * CCQ_W2_WIDE_LD * 4;
    return ring > sums ? ring : sums;
}

/* Byte of half i (of 64) of a row in its group's part of a slot: bits 4 to 6 of an address are
 * exchanged by bits 7 to 9. */
CCQ_W2_FN int ccq_w2_wide_swizzle(int row, int i)
{
    return row * CCQ_W2_WIDE_ROW + ((i / 8 ^ (row & 7)) * 16) + i % 8 * 2;
}

/* ---- A block of threads --------------------------------------------------- */

typedef struct ccq_w2_wide_block {
    ccq_gpu_matrix m;
    int64_t tile;        /* the first */
    int64_t first, left; /* places: its rows */
    int exact;
} ccq_w2_wide_block;

typedef struct ccq_w2_wide_thread {
    int warp, lane;
    ccq_w2_line line[2]; /* of columns g and g + 8 of the warp's tile */
    float super[2];
} ccq_w2_wide_thread;

CCQ_W2_FN void ccq_w2_wide_init(int n, const ccq_w2_gemm *p, int64_t expert, int64_t columns,
                                int64_t chunk, ccq_w2_wide_block *b)
{
    int i;

    b->m = p->matrix[expert];
    b->tile = columns * CCQ_W2_WIDE_TILES;
    b->first = p->start[expert] + chunk * n;
    b->left = p->start[expert + 1] - b->first;
    b->exact = 1;
    for (i = 0; i < CCQ_W2_WIDE_TILES; i++)
        b->exact = b->exact && b->m.exact[b->tile + i];
}

CCQ_W2_FN void ccq_w2_wide_thread_init(const ccq_w2_wide_block *b, int thread,
                                       ccq_w2_wide_thread *t)
{
    int u;

    t->warp = thread / 32;
    t->lane = thread % 32;
    CCQ_W2_UNROLL
    for (u = 0; u < 2; u++) {
        int64_t c = (b->tile + t->warp) * CCQ_W2_TILE + t->lane / 4 + 8 * u;
        t->line[u] = ccq_w2_line_of(&b->m, c, b->exact);
        t->super[u] = b->m.super[c];
    }
}

/* Rows that are not there are zeros in every slot. */
CCQ_W2_FN void ccq_w2_wide_clear(int n, const ccq_w2_wide_block *b, int thread, uint8_t *shared)
{
    const uint32_t zero[4] = {0, 0, 0, 0};
    int left = b->left < n ? (int)b->left : n, missing = (n - left) * (CCQ_W2_WIDE_ROW / 16);
    int part, i;

    for (part = 0; part < 2 * ccq_w2_wide_stages(n); part++) {
        uint8_t *x = shared + part / 2 * ccq_w2_wide_slot_bytes(n) +
                     part % 2 * n * CCQ_W2_WIDE_ROW + left * CCQ_W2_WIDE_ROW;
        for (i = thread; i < missing; i += CCQ_W2_WIDE_THREADS)
            ccq_gpu_keep16(x + 16 * i, zero);
    }
}

/* The thread's share of block `block` of k, into a slot. */
CCQ_W2_FN void ccq_w2_wide_fetch(int n, const ccq_w2_gemm *p, const ccq_w2_wide_block *b,
                                 const ccq_w2_wide_thread *t, int64_t block, uint8_t *slot)
{
    int64_t groups = p->k / CCQ_GROUP, piece = ccq_w2_piece(b->tile + t->warp, block, p->k);
    int thread = 32 * t->warp + t->lane, left = b->left < n ? (int)b->left : n, i;
    uint8_t *codes = slot + ccq_w2_wide_x_bytes(n);

    for (i = 0; i < 16 * n / CCQ_W2_WIDE_THREADS; i++) { /* 16 pieces of a row, both groups */
        int at = thread + i * CCQ_W2_WIDE_THREADS, row = at / 16, group = at / 8 % 2;
        const uint8_t *from = p->x + ((b->first + row) * groups + 2 * block) * CCQ_W2_WIDE_ROW +
                              at % 16 * 16;
        if (row < left)
            ccq_w2_fetch16(slot + group * n * CCQ_W2_WIDE_ROW +
                               ccq_w2_wide_swizzle(row, at % 8 * 8),
                           from);
    }
    ccq_w2_fetch16(codes + t->warp * CCQ_W2_CODES + t->lane * 16,
                   b->m.codes + piece * CCQ_W2_CODES + t->lane * 16);
    if (!t->lane)
        ccq_w2_fetch16(codes + CCQ_W2_WIDE_TILES * CCQ_W2_CODES + t->warp * CCQ_W2_LOCALS,
                       b->m.locals + piece * CCQ_W2_LOCALS);
}

/* The turn's next block of k, if there is one, into its slot of the ring. */
CCQ_W2_FN void ccq_w2_wide_fetch_next(int n, const ccq_w2_gemm *p, const ccq_w2_wide_block *b,
                                      const ccq_w2_wide_thread *t, const ccq_w2_wide_ring *ring,
                                      uint8_t *shared)
{
    if (ring->next < (int)(p->k / CCQ_W2_BLOCK))
        ccq_w2_wide_fetch(n, p, b, t, ring->next, shared + ring->to * ccq_w2_wide_slot_bytes(n));
}

/* A registers of the four products of group o. */
CCQ_W2_FN void ccq_w2_wide_load_a(int n, int form, int exact, const ccq_w2_wide_thread *t,
                                  const uint8_t *slot, int o, uint32_t a[4][4])
{
    const uint8_t *codes = slot + ccq_w2_wide_x_bytes(n);
    const uint8_t *two = codes + CCQ_W2_WIDE_TILES * CCQ_W2_CODES + t->warp * CCQ_W2_LOCALS +
                         t->lane / 4 * 2;
    uint32_t words[4], scale[2];
    uint16_t both;
    int u;

    ccq_gpu_take16(codes + t->warp * CCQ_W2_CODES + t->lane * 16, words);
    memcpy(&both, __builtin_assume_aligned(two, 2), 2);
    CCQ_W2_UNROLL
    for (u = 0; u < 2; u++)
        scale[u] = ccq_w2_scale(form, ccq_w2_local(both, u, o), t->super[u]);
    ccq_w2_group(form, exact, words + 2 * o, t->line, scale, a);
}

/* ---- After the loop -------------------------------------------------------- */

/* The sums of a thread, d[4j + i] of 8 rows each, to [row][column]. */
CCQ_W2_FN void ccq_w2_wide_leave(int n, const ccq_w2_wide_thread *t, const float *d,
                                 float *shared)
{
    int j, i;

    CCQ_W2_UNROLL
    for (j = 0; j < n / 8; j++)
        CCQ_W2_UNROLL
        for (i = 0; i < 4; i++) {
            int row = 8 * j + t->lane % 4 * 2 + i % 2, c = t->lane / 4 + i / 2 * 8;
            shared[row * CCQ_W2_WIDE_LD + t->warp * CCQ_W2_TILE + c] = d[4 * j + i];
        }
}

CCQ_W2_FN float ccq_w2_wide_finish(const ccq_w2_gemm *p, const ccq_w2_wide_block *b, float total,
                                   int64_t c, int64_t place)
{
    int tau, half;

    if (p->form != CCQ_W2_FORM_W)
        return ccq_round_bf16(total);
    tau = p->tau[place];
    half = tau / 2;
    total = total * ccq_w2_power(-half) * b->m.super[c] * ccq_w2_power(half - tau);
    return p->round ? ccq_round_bf16(total) : total;
}

CCQ_W2_FN void ccq_w2_wide_put_h(const ccq_w2_gemm *p, const ccq_w2_wide_block *b,
                                 const float *shared, int row, int i)
{
    int pair = i / CCQ_W2_TILE, c = 2 * pair * CCQ_W2_TILE + i % CCQ_W2_TILE;
    const float *sum = shared + row * CCQ_W2_WIDE_LD + c;
    int64_t place = b->first + row, at = b->tile * CCQ_W2_TILE + c, inter = p->n / 2;
    int64_t j = b->tile / 2 * CCQ_W2_TILE + i;
    float gate = ccq_w2_wide_finish(p, b, sum[0], at, place);
    float up = ccq_w2_wide_finish(p, b, sum[CCQ_W2_TILE], at + CCQ_W2_TILE, place);
    float h = gate / (1.0f + ccq_exp_inline(-gate)) * up;

    if (p->form == CCQ_W2_FORM_W) {
        p->y[place * inter + j] = p->round ? ccq_round_bf16(h) : h;
    } else {
        uint16_t bits = ccq_f32_to_bf16(h);
        memcpy(__builtin_assume_aligned(p->h + ccq_w2_wide_x_at(place, j, p->order, inter), 2),
               &bits, 2);
    }
}

/* The thread's share of the outputs. */
CCQ_W2_FN void ccq_w2_wide_put(int n, const ccq_w2_gemm *p, const ccq_w2_wide_block *b,
                               const float *shared, int thread)
{
    int rows = b->left < n ? (int)b->left : n;
    int width = p->swiglu ? CCQ_W2_WIDE_COLUMNS / 2 : CCQ_W2_WIDE_COLUMNS, i;

    for (i = thread; i < rows * width; i += CCQ_W2_WIDE_THREADS) {
        int row = i / width, c = i % width;
        int64_t place = b->first + row, at = b->tile * CCQ_W2_TILE + c;
        if (p->swiglu)
            ccq_w2_wide_put_h(p, b, shared, row, c);
        else
            p->y[place * p->n + at] = ccq_w2_wide_finish(
                p, b, shared[row * CCQ_W2_WIDE_LD + c], at, place);
    }
}

/* ---- A call ----------------------------------------------------------------- */

/* Rows of a block: about an expert's, so that few are missing and weights are decoded for as
 * many as can be. */
static inline int ccq_w2_wide_rows(const ccq_gpu_experts *p)
{
    int64_t mean = p->rows / (p->experts ? p->experts : 1);
    return mean > 128 ? 256 : mean > 64 ? 128 : mean > 32 ? 64 : 32;
}

/* These shapes and roundings are for these kernels. */
static inline int ccq_w2_wide_takes(const ccq_gpu_experts *p)
{
    return p->rounding != CCQ_ROUND_UNZIP && p->hidden % CCQ_W2_WIDE_COLUMNS == 0 &&
           p->inter % (CCQ_W2_WIDE_COLUMNS / 2) == 0;
}

/* As ccq_w2_plan_of, whose memory it takes. */
static inline ccq_w2_plan ccq_w2_wide_plan_of(const ccq_gpu_experts *p)
{
    ccq_w2_plan plan = ccq_w2_plan_of(p);
    int form = p->rounding == CCQ_ROUND_NONE ? CCQ_W2_FORM_W : CCQ_W2_FORM_B;

    plan.x.form = plan.h.form = plan.up_gate.form = plan.down.form = form;
    return plan;
}

#endif
