/* Few rows times a wint2 matrix: what a block of threads does, phase by phase.
 *
 * A block has `cw` pairs of tiles (32 columns each) of one expert and takes its rows 8 * nt at
 * a time. K is split `ks` ways; a warp has one pair and one split. Blocks of 128 rows of codes
 * and x pass through a ring of `stages` slots in shared memory:
 *     per warp: codes of two tiles (2 * 512), their local scales (2 * 16)
 *     per split: 8 * nt rows of x (272 each)
 * then every warp leaves its sums there, and they are added in the order of the splits. */
#ifndef CCQ_KERNELS_GPU_WINT2_GEMM_H
#define CCQ_KERNELS_GPU_WINT2_GEMM_H

#include "kernels/exp.h"
#include "kernels/gpu/wint2_repack.h"
#include "kernels/gpu/wint2_stage.h"

enum {
    CCQ_W2_WARP_BYTES = 2 * (CCQ_W2_CODES + CCQ_W2_LOCALS),
    CCQ_W2_MOST = 4 /* nt */
};

/* Constants of a kernel. */
typedef struct ccq_w2_shape {
    int nt, ks, cw, stages;
} ccq_w2_shape;

/* For 8 rows K is split further, as there are more warps than tiles to go round; for more, x
 * is shared by more columns. */
CCQ_W2_FN ccq_w2_shape ccq_w2_shape_of(int nt)
{
    ccq_w2_shape s = {nt, nt == 1 ? 4 : 2, nt == 1 ? 2 : 4, nt == 4 ? 3 : 4};
    return s;
}

/* Of an expert with that many rows. */
static inline CCQ_HD int ccq_w2_tiles_of(int64_t count)
{
    int64_t nt = (count + CCQ_W2_TOKENS - 1) / CCQ_W2_TOKENS;
    return nt < CCQ_W2_MOST ? (int)nt : CCQ_W2_MOST;
}

typedef struct ccq_w2_gemm {
    const ccq_gpu_matrix *matrix; /* [experts] */
    const int32_t *start;
    const uint8_t *x; /* staged rows of all places */
    const int32_t *tau;
    int64_t k, n; /* of every matrix */
    int form, order, swiglu;
    uint8_t *h; /* swiglu, but for form G: staged rows of n / 2 */
    float *y;   /* else: [places][n], with swiglu [places][n / 2] */
} ccq_w2_gemm;

/* What all threads of a block know. */
typedef struct ccq_w2_block {
    ccq_gpu_matrix m;
    int64_t pair;        /* the first of its pairs of tiles */
    int64_t first, left; /* places of this pass */
    int exact;
} ccq_w2_block;

/* One thread. Pointers: what it fetches next. */
typedef struct ccq_w2_thread {
    int warp, lane, split, pair, peer; /* peer: number among the threads of its split */
    int64_t begin, blocks;             /* rows of its split, in blocks */
    const uint8_t *codes[2], *locals, *x, *start;
    ccq_w2_line line[2][2]; /* [tile][u] */
    float super[2][2];
    float sum[2][CCQ_W2_MOST][4];
} ccq_w2_thread;

/* ---- Shared memory ------------------------------------------------------- */

CCQ_W2_FN int ccq_w2_x_slot(ccq_w2_shape s)
{
    return s.ks * s.cw * CCQ_W2_WARP_BYTES;
}

CCQ_W2_FN int ccq_w2_slot_bytes(ccq_w2_shape s)
{
    return ccq_w2_x_slot(s) + s.ks * s.nt * CCQ_W2_TOKENS * CCQ_W2_X;
}

/* Sums at the end need less. */
CCQ_W2_FN int ccq_w2_shared_bytes(ccq_w2_shape s)
{
    return s.stages * ccq_w2_slot_bytes(s);
}

CCQ_W2_FN int ccq_w2_threads(ccq_w2_shape s)
{
    return 32 * s.ks * s.cw;
}

/* ---- Before the loop ----------------------------------------------------- */

/* Column group `group` of an expert, all of its rows to come. Where one of its tiles has no
 * fixed-point line all are decoded by floats, so that a block stays together. */
CCQ_W2_FN void ccq_w2_block_init(ccq_w2_shape s, const ccq_w2_gemm *p, int64_t expert,
                                 int64_t group, ccq_w2_block *b)
{
    int i;

    b->m = p->matrix[expert];
    b->pair = group * s.cw;
    b->first = p->start[expert];
    b->left = p->start[expert + 1] - b->first;
    b->exact = p->form != CCQ_W2_FORM_U;
    for (i = 0; i < 2 * s.cw; i++)
        b->exact = b->exact && b->m.exact[2 * b->pair + i];
}

CCQ_W2_FN void ccq_w2_block_next(ccq_w2_shape s, ccq_w2_block *b)
{
    b->first += s.nt * CCQ_W2_TOKENS;
    b->left -= s.nt * CCQ_W2_TOKENS;
}

CCQ_W2_FN void ccq_w2_thread_init(ccq_w2_shape s, const ccq_w2_gemm *p, const ccq_w2_block *b,
                                  int thread, ccq_w2_thread *t)
{
    int64_t blocks = p->k / CCQ_W2_BLOCK, tile, row = blocks * CCQ_W2_X;
    int i, u;

    t->warp = thread / 32;
    t->lane = thread % 32;
    t->split = t->warp / s.cw;
    t->pair = t->warp % s.cw;
    t->peer = thread % (32 * s.cw);
    t->begin = blocks * t->split / s.ks;
    t->blocks = blocks * (t->split + 1) / s.ks - t->begin;
    tile = 2 * (b->pair + t->pair);
    CCQ_W2_UNROLL
    for (i = 0; i < 2; i++) {
        int64_t piece = ccq_w2_piece(tile + i, t->begin, p->k);
        t->codes[i] = b->m.codes + piece * CCQ_W2_CODES + t->lane * 16;
        CCQ_W2_UNROLL
        for (u = 0; u < 2; u++) {
            int64_t c = (tile + i) * CCQ_W2_TILE + t->lane / 4 + 8 * u;
            t->line[i][u] = ccq_w2_line_of(&b->m, c, b->exact);
            t->super[i][u] = b->m.super[c];
        }
    }
    t->locals = b->m.locals + ccq_w2_piece(tile + t->lane % 2, t->begin, p->k) * CCQ_W2_LOCALS;
    t->x = p->x + (b->first + t->peer / 16) * row + t->begin * CCQ_W2_X + t->peer % 16 * 16;
    t->start = p->x + (b->first + t->peer) * row + t->begin * CCQ_W2_X + CCQ_W2_X_START;
    memset(t->sum, 0, sizeof t->sum);
}

/* Rows of x that are not there are zeros in every slot; nothing is fetched there. */
CCQ_W2_FN void ccq_w2_clear(ccq_w2_shape s, const ccq_w2_block *b, int thread, uint8_t *shared)
{
    int rows = s.nt * CCQ_W2_TOKENS, pieces = CCQ_W2_X / 16;
    int left = b->left < rows ? (int)b->left : rows, missing = (rows - left) * pieces;
    const uint32_t zero[4] = {0, 0, 0, 0};
    int i, part;

    for (part = 0; part < s.stages * s.ks; part++) {
        uint8_t *x = shared + part / s.ks * ccq_w2_slot_bytes(s) + ccq_w2_x_slot(s) +
                     part % s.ks * rows * CCQ_W2_X + left * CCQ_W2_X;
        for (i = thread; i < missing; i += ccq_w2_threads(s))
            ccq_w2_store16(x + i * 16, zero);
    }
}

/* ---- Fetching ------------------------------------------------------------ */

/* 16 bytes from device to shared memory; on a device it returns before they are there. */
CCQ_W2_FN void ccq_w2_fetch16(uint8_t *to, const uint8_t *from)
{
#ifdef __CUDA_ARCH__
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::
                 "r"((uint32_t)__cvta_generic_to_shared(to)), "l"(from) : "memory");
#else
    memcpy(to, from, 16);
#endif
}

/* The thread's share of the next block of its split, into a slot. */
CCQ_W2_FN void ccq_w2_fetch(ccq_w2_shape s, const ccq_w2_gemm *p, const ccq_w2_block *b,
                            ccq_w2_thread *t, uint8_t *slot)
{
    uint8_t *own = slot + t->warp * CCQ_W2_WARP_BYTES;
    uint8_t *x = slot + ccq_w2_x_slot(s) + t->split * (s.nt * CCQ_W2_TOKENS * CCQ_W2_X);
    int64_t row = p->k / CCQ_W2_BLOCK * CCQ_W2_X;
    int i;

    CCQ_W2_UNROLL
    for (i = 0; i < 2; i++) {
        ccq_w2_fetch16(own + i * CCQ_W2_CODES + t->lane * 16, t->codes[i]);
        t->codes[i] += CCQ_W2_CODES;
    }
    if (t->lane < 2)
        ccq_w2_fetch16(own + 2 * CCQ_W2_CODES + t->lane * CCQ_W2_LOCALS, t->locals);
    t->locals += CCQ_W2_LOCALS;
    CCQ_W2_UNROLL
    for (i = 0; i < s.nt * CCQ_W2_TOKENS / (2 * s.cw); i++) {
        int token = t->peer / 16 + i * 2 * s.cw;
        if (token < b->left)
            ccq_w2_fetch16(x + token * CCQ_W2_X + t->peer % 16 * 16, t->x + i * 2 * s.cw * row);
    }
    t->x += CCQ_W2_X;
    if (p->form == CCQ_W2_FORM_G && t->peer < s.nt * CCQ_W2_TOKENS && t->peer < b->left)
        ccq_w2_fetch16(x + t->peer * CCQ_W2_X + CCQ_W2_X_START, t->start);
    t->start += CCQ_W2_X;
}

/* ---- A block of 128 rows, up to the tensor cores ------------------------- */

/* A registers of group o of a tile, and the factors of its two columns. */
CCQ_W2_FN void ccq_w2_load_a(int form, int exact, const ccq_w2_thread *t, const uint8_t *slot,
                             int tile, int o, uint32_t a[4][4], float local[2])
{
    const uint8_t *own = slot + t->warp * CCQ_W2_WARP_BYTES;
    const uint8_t *two = own + 2 * CCQ_W2_CODES + tile * CCQ_W2_LOCALS + 2 * (t->lane / 4);
    uint32_t bytes, words[4], scale[2];
    uint16_t both;
    int u;

    ccq_w2_load16(own + tile * CCQ_W2_CODES + t->lane * 16, words);
    memcpy(&both, __builtin_assume_aligned(two, 2), 2);
    bytes = both;
    CCQ_W2_UNROLL
    for (u = 0; u < 2; u++) {
        local[u] = ccq_w2_local(bytes, u, o);
        scale[u] = ccq_w2_scale(form, local[u], t->super[tile][u]);
    }
    ccq_w2_group(form, exact, words + 2 * o, t->line[tile], scale, a);
}

/* B registers of group o for 8 rows: b[2m + hi]. */
CCQ_W2_FN void ccq_w2_load_b(ccq_w2_shape s, const ccq_w2_thread *t, const uint8_t *slot, int j,
                             int o, uint32_t b[8])
{
    const uint8_t *x = slot + ccq_w2_x_slot(s) +
                       (t->split * (s.nt * CCQ_W2_TOKENS) + j * CCQ_W2_TOKENS + t->lane / 4) *
                           CCQ_W2_X +
                       o * (2 * CCQ_GROUP) + t->lane % 4 * 32;
    ccq_w2_load16(x, b);
    ccq_w2_load16(x + 16, b + 4);
}

/* What the sums of group o start from in form G: rows 2t and 2t + 1. */
CCQ_W2_FN void ccq_w2_load_start(ccq_w2_shape s, const ccq_w2_thread *t, const uint8_t *slot,
                                 int j, int o, float start[2])
{
    const uint8_t *x = slot + ccq_w2_x_slot(s) +
                       (t->split * (s.nt * CCQ_W2_TOKENS) + j * CCQ_W2_TOKENS + t->lane % 4 * 2) *
                           CCQ_W2_X +
                       CCQ_W2_X_START + o * 4;
    memcpy(start, __builtin_assume_aligned(x, 4), 4);
    memcpy(start + 1, __builtin_assume_aligned(x + CCQ_W2_X, 4), 4);
}

/* sum += l * the group's */
CCQ_W2_FN void ccq_w2_add_group(const float group[4], const float local[2], float sum[4])
{
    int i;

    CCQ_W2_UNROLL
    for (i = 0; i < 4; i++)
        sum[i] = __builtin_fmaf(local[i / 2], group[i], sum[i]);
}

/* ---- After the loop ------------------------------------------------------ */

CCQ_W2_FN int ccq_w2_sums_at(ccq_w2_shape s, int warp, int tile, int j)
{
    return ((warp * 2 + tile) * s.nt + j) * 512;
}

CCQ_W2_FN void ccq_w2_leave(ccq_w2_shape s, const ccq_w2_thread *t, uint8_t *shared)
{
    int tile, j, i;

    CCQ_W2_UNROLL
    for (tile = 0; tile < 2; tile++)
        CCQ_W2_UNROLL
        for (j = 0; j < s.nt; j++) {
            uint32_t bits[4];
            CCQ_W2_UNROLL
            for (i = 0; i < 4; i++)
                bits[i] = ccq_w2_bits(t->sum[tile][j][i]);
            ccq_w2_store16(shared + ccq_w2_sums_at(s, t->warp, tile, j) + t->lane * 16, bits);
        }
}

/* Column c of a tile of pair `pair`, row `token` of the pass: all splits, in their order. */
CCQ_W2_FN float ccq_w2_total(ccq_w2_shape s, const uint8_t *shared, int pair, int tile, int c,
                             int token)
{
    int at = ccq_w2_sum_lane(c, token % CCQ_W2_TOKENS) * 16 +
             ccq_w2_sum_register(c, token % CCQ_W2_TOKENS) * 4;
    float total = 0.0f, part;
    int i;

    for (i = 0; i < s.ks; i++) {
        const uint8_t *from = shared + at + ccq_w2_sums_at(s, i * s.cw + pair, tile,
                                                           token / CCQ_W2_TOKENS);
        memcpy(&part, __builtin_assume_aligned(from, 4), 4);
        total = i ? total + part : part;
    }
    return total;
}

/* Super and the row's power of two; half of that before super, lest a product leaves fp32. */
CCQ_W2_FN float ccq_w2_finish(const ccq_w2_gemm *p, const ccq_w2_block *b, float total, int64_t c,
                              int64_t place)
{
    int tau, half;

    if (p->form != CCQ_W2_FORM_G)
        return ccq_round_bf16(total);
    tau = p->tau[place];
    half = tau / 2;
    return total * ccq_w2_power(-half) * b->m.super[c] * ccq_w2_power(half - tau);
}

/* gate and up lie in the two tiles of a pair. */
CCQ_W2_FN void ccq_w2_put_h(ccq_w2_shape s, const ccq_w2_gemm *p, const ccq_w2_block *b,
                            const uint8_t *shared, int i)
{
    int c = i % CCQ_W2_TILE, pair = i / CCQ_W2_TILE % s.cw, token = i / (CCQ_W2_TILE * s.cw);
    int64_t place = b->first + token, inter = p->n / 2;
    int64_t at = (b->pair + pair) * 2 * CCQ_W2_TILE + c, j = (b->pair + pair) * CCQ_W2_TILE + c;
    float gate = ccq_w2_finish(p, b, ccq_w2_total(s, shared, pair, 0, c, token), at, place);
    float up = ccq_w2_finish(p, b, ccq_w2_total(s, shared, pair, 1, c, token), at + CCQ_W2_TILE,
                             place);
    float h = gate / (1.0f + ccq_exp_inline(-gate)) * up;

    if (p->form == CCQ_W2_FORM_G) {
        p->y[place * inter + j] = h;
    } else {
        uint16_t bits = ccq_f32_to_bf16(h);
        memcpy(__builtin_assume_aligned(p->h + ccq_w2_x_at(place, j, p->order, inter), 2), &bits,
               2);
    }
}

CCQ_W2_FN void ccq_w2_put_y(ccq_w2_shape s, const ccq_w2_gemm *p, const ccq_w2_block *b,
                            const uint8_t *shared, int i)
{
    int c = i % 32, pair = i / 32 % s.cw, token = i / (32 * s.cw);
    int64_t place = b->first + token, at = (b->pair + pair) * 32 + c;
    float total = ccq_w2_total(s, shared, pair, c / CCQ_W2_TILE, c % CCQ_W2_TILE, token);

    p->y[place * p->n + at] = ccq_w2_finish(p, b, total, at, place);
}

/* The thread's share of the outputs, sums of all warps being in shared memory. */
CCQ_W2_FN void ccq_w2_put(ccq_w2_shape s, const ccq_w2_gemm *p, const ccq_w2_block *b,
                          const uint8_t *shared, int thread)
{
    int rows = b->left < s.nt * CCQ_W2_TOKENS ? (int)b->left : s.nt * CCQ_W2_TOKENS;
    int all = rows * s.cw * (p->swiglu ? CCQ_W2_TILE : 2 * CCQ_W2_TILE), i;

    for (i = thread; i < all; i += ccq_w2_threads(s)) {
        if (p->swiglu)
            ccq_w2_put_h(s, p, b, shared, i);
        else
            ccq_w2_put_y(s, p, b, shared, i);
    }
}

#endif
