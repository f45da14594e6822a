/* Few rows times a wint2 matrix: what a block of threads does, phase by phase.
 *
 * A block has `cw` pairs of tiles (32 columns each) of one expert and takes its rows 8 * nt at
 * a time. K is split `ks` ways; a warp has one pair and one split. Blocks of 128 rows of codes
 * and x pass through a ring of slots in shared memory, by the turns of
 * kernels/gpu/wint2_ring.h:
 *     per warp: codes of two tiles (2 * 512), their local scales (2 * 16)
 *     per split: 8 * nt rows of x (272 each)
 *     per split: what sums start from, as the lanes want it (form G; 128 * nt)
 * Rows of x that are not there are not fetched, and what they give is not looked at. At the end
 * every warp leaves its sums there, and they are added in the order of the splits. */
#ifndef CCQ_KERNELS_GPU_WINT2_GEMM_H
#define CCQ_KERNELS_GPU_WINT2_GEMM_H

#include "kernels/exp.h"
#include "kernels/gpu/wint2_repack.h"
#include "kernels/gpu/wint2_ring.h"
#include "kernels/gpu/wint2_stage.h"

enum {
    CCQ_W2_WARP_BYTES = 2 * (CCQ_W2_CODES + CCQ_W2_LOCALS),
    CCQ_W2_START = 128, /* of 8 rows: two groups of four lanes' four floats */
    CCQ_W2_MOST = 4     /* nt */
};

/* Constants of a kernel. */
typedef struct ccq_w2_shape {
    int nt, ks, cw;
} ccq_w2_shape;

/* For 8 rows K is split further, as there are more warps than tiles to go round; for more, x
 * is shared by more columns. */
CCQ_W2_FN ccq_w2_shape ccq_w2_shape_of(int nt)
{
    ccq_w2_shape s = {nt, nt == 1 ? 4 : 2, nt == 1 ? 2 : 4};
    return s;
}

/* Of an expert with that many rows. */
static inline CCQ_HD int ccq_w2_tiles_of(int64_t count)
{
    int64_t nt = (count + CCQ_W2_TOKENS - 1) / CCQ_W2_TOKENS;
    return nt < CCQ_W2_MOST ? (int)nt : CCQ_W2_MOST;
}

/* Whether it is a launch's for experts of nt tiles of rows. */
static inline CCQ_HD int ccq_w2_is_for(int64_t count, int nt)
{
    return count > 0 && ccq_w2_tiles_of(count) == nt;
}

/* How many such experts there can be among so many rows. */
static inline int64_t ccq_w2_launch_experts(int nt, int64_t experts, int64_t rows)
{
    int64_t most = rows / ((nt - 1) * CCQ_W2_TOKENS + 1);
    return most < experts ? most : experts;
}

/* Bit i: expert base + i is for nt. A warp's lanes look at one each. */
CCQ_W2_FN uint32_t ccq_w2_votes(const int32_t *start, int64_t experts, int64_t base, int nt,
                                int lane)
{
#ifdef __CUDA_ARCH__
    int64_t e = base + lane;
    return __ballot_sync(0xffffffffu, e < experts && ccq_w2_is_for(start[e + 1] - start[e], nt));
#else
    uint32_t votes = 0;
    (void)lane;
    for (int i = 0; i < 32 && base + i < experts; i++)
        votes |= (uint32_t)ccq_w2_is_for(start[base + i + 1] - start[base + i], nt) << i;
    return votes;
#endif
}

CCQ_W2_FN int ccq_w2_bits_set(uint32_t bits)
{
#ifdef __CUDA_ARCH__
    return __popc(bits);
#else
    return __builtin_popcount(bits);
#endif
}

/* bits is not 0. */
CCQ_W2_FN int ccq_w2_first_bit(uint32_t bits)
{
#ifdef __CUDA_ARCH__
    return __ffs((int)bits) - 1;
#else
    return __builtin_ctz(bits);
#endif
}

/* The expert with number `number` (from 0) of those that are for nt; -1: there are fewer. Called
 * by whole warps. */
CCQ_W2_FN int64_t ccq_w2_expert_of(const int32_t *start, int64_t experts, int nt, int64_t number,
                                   int lane)
{
    int64_t base;

    for (base = 0; base < experts; base += 32) {
        uint32_t votes = ccq_w2_votes(start, experts, base, nt, lane);
        int count = ccq_w2_bits_set(votes);
        if (number >= count) {
            number -= count;
            continue;
        }
        for (; number > 0; number--)
            votes &= votes - 1;
        return base + ccq_w2_first_bit(votes);
    }
    return -1;
}

typedef struct ccq_w2_gemm {
    const ccq_gpu_matrix *matrix; /* [experts] */
    const int32_t *start;
    const uint8_t *x; /* staged rows of all places */
    const int32_t *tau;
    int64_t k, n; /* of every matrix */
    int form, round, order, swiglu;
    uint8_t *h; /* swiglu, but for form G: staged rows of n / 2 */
    float *y;   /* else: [places][n], with swiglu [places][n / 2] */
    int64_t rows; /* places there are */
} ccq_w2_gemm;

/* What all threads of a block know. */
typedef struct ccq_w2_block {
    ccq_gpu_matrix m;
    int64_t pair;        /* the first of its pairs of tiles */
    int64_t first, left; /* places of this pass */
    int exact;
} ccq_w2_block;

/* One thread. Pointers: what it fetches next. Offsets are in a slot. */
typedef struct ccq_w2_thread {
    int split, pair, blocks; /* blocks of 128 rows of its split, from this turn on */
    ccq_w2_known known;
    const uint8_t *codes[2], *locals, *x, *start;
    int put_codes, put_locals, put_x, put_start;
    int left; /* rows of the pass, from that of the first piece of x on */
    int fetches; /* 1: local scales, 2: what sums start from */
    int at_locals, at_x, at_start;
    ccq_w2_line line[2][2]; /* [tile][u] */
    float super[2][2];
    float sum[2][CCQ_W2_MOST][4];
} ccq_w2_thread;

/* ---- Shared memory ------------------------------------------------------- */

CCQ_W2_FN int ccq_w2_x_slot(ccq_w2_shape s)
{
    return s.ks * s.cw * CCQ_W2_WARP_BYTES;
}

CCQ_W2_FN int ccq_w2_start_slot(ccq_w2_shape s)
{
    return ccq_w2_x_slot(s) + s.ks * s.nt * CCQ_W2_TOKENS * CCQ_W2_X;
}

CCQ_W2_FN int ccq_w2_slot_bytes(ccq_w2_shape s)
{
    return ccq_w2_start_slot(s) + s.ks * s.nt * CCQ_W2_START;
}

/* Sums at the end need less. */
CCQ_W2_FN int ccq_w2_shared_bytes(ccq_w2_shape s)
{
    return CCQ_W2_STAGES * ccq_w2_slot_bytes(s);
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

/* On a device: what was worked out stays in registers, and is not worked out again in every
 * turn of the loop, which compilers take for the better thing. */
CCQ_W2_FN void ccq_w2_thread_keep(ccq_w2_thread *t)
{
#ifdef __CUDA_ARCH__
    int lane = (int)(threadIdx.x % 32);
    t->put_codes = __shfl_sync(~0u, t->put_codes, lane);
    t->put_locals = __shfl_sync(~0u, t->put_locals, lane);
    t->put_x = __shfl_sync(~0u, t->put_x, lane);
    t->put_start = __shfl_sync(~0u, t->put_start, lane);
    t->left = __shfl_sync(~0u, t->left, lane);
    t->fetches = __shfl_sync(~0u, t->fetches, lane);
    t->at_locals = __shfl_sync(~0u, t->at_locals, lane);
    t->at_x = __shfl_sync(~0u, t->at_x, lane);
    t->at_start = __shfl_sync(~0u, t->at_start, lane);
#else
    (void)t;
#endif
}

/* How often the threads of a split fetch what sums of two blocks start from. */
CCQ_W2_FN int ccq_w2_starts(ccq_w2_shape s)
{
    return 64 * s.nt <= 32 * s.cw ? 1 : 2;
}

/* Where the thread finds and puts its share of x. peer: its number in the split. What sums
 * start from is laid out as tensor cores hold it, sums of rows 2t, 2t + 1, 2t, 2t + 1. */
CCQ_W2_FN void ccq_w2_thread_x(ccq_w2_shape s, const ccq_w2_gemm *p, const ccq_w2_block *b,
                               int peer, int64_t begin, ccq_w2_thread *t)
{
    int x = ccq_w2_x_slot(s) + t->split * (s.nt * CCQ_W2_TOKENS * CCQ_W2_X);
    int start = ccq_w2_start_slot(s) + t->split * (s.nt * CCQ_W2_START);
    int second = ccq_w2_starts(s) == 1 ? peer / (32 * s.nt) : 0, i = peer % (32 * s.nt);
    int token = i / 16 % s.nt * 8 + i / 4 % 4 * 2 + i % 2, group = i / (16 * s.nt);

    t->left = (b->left < 8 * s.nt ? (int)b->left : 8 * s.nt) - peer / 16;
    t->fetches = peer % 32 < 4 ? 1 : 0;
    if (p->form == CCQ_W2_FORM_G && peer < 64 * s.nt / ccq_w2_starts(s) && token < b->left)
        t->fetches |= 2;
    t->x = p->x + ccq_w2_x_block(b->first + peer / 16, begin, p->rows) + peer % 16 * 16;
    t->start = p->x + ccq_w2_x_block(b->first + token, begin + second, p->rows) +
               CCQ_W2_X_START + group * 4;
    t->put_x = x + peer / 16 * CCQ_W2_X + peer % 16 * 16;
    t->put_start = start + second * ccq_w2_slot_bytes(s) + i * 4;
    t->at_x = x + peer % 32 / 4 * CCQ_W2_X + peer % 4 * 32;
    t->at_start = start + peer % 4 * 16;
}

CCQ_W2_FN void ccq_w2_thread_init(ccq_w2_shape s, const ccq_w2_gemm *p, const ccq_w2_block *b,
                                  const ccq_w2_known *known, int thread, ccq_w2_thread *t)
{
    int64_t blocks = p->k / CCQ_W2_BLOCK, tile, begin;
    int lane = thread % 32, i, u;

    t->split = thread / 32 / s.cw;
    t->pair = thread / 32 % s.cw;
    begin = blocks * t->split / s.ks;
    t->blocks = (int)(blocks * (t->split + 1) / s.ks - begin);
    tile = 2 * (b->pair + t->pair);
    CCQ_W2_UNROLL
    for (i = 0; i < 2; i++) {
        t->codes[i] = b->m.codes + ccq_w2_piece(tile + i, begin, p->k) * CCQ_W2_CODES + lane * 16;
        CCQ_W2_UNROLL
        for (u = 0; u < 2; u++) {
            int64_t c = (tile + i) * CCQ_W2_TILE + lane / 4 + 8 * u;
            t->line[i][u] = ccq_w2_line_of(&b->m, c, b->exact);
            t->super[i][u] = b->m.super[c];
        }
    }
    t->locals = b->m.locals + (ccq_w2_piece(tile + lane % 2, begin, p->k) + lane / 2) *
                                  CCQ_W2_LOCALS;
    t->put_codes = thread / 32 * CCQ_W2_WARP_BYTES + lane * 16;
    t->put_locals = thread / 32 * CCQ_W2_WARP_BYTES + 2 * CCQ_W2_CODES +
                    lane % 2 * CCQ_W2_LOCALS + lane / 2 * ccq_w2_slot_bytes(s);
    t->at_locals = thread / 32 * CCQ_W2_WARP_BYTES + 2 * CCQ_W2_CODES + lane / 4 * 2;
    ccq_w2_thread_x(s, p, b, thread % (32 * s.cw), begin, t);
    t->known = *known;
    ccq_w2_thread_keep(t);
    memset(t->sum, 0, sizeof t->sum);
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

CCQ_W2_FN void ccq_w2_fetch4(uint8_t *to, const uint8_t *from)
{
#ifdef __CUDA_ARCH__
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::
                 "r"((uint32_t)__cvta_generic_to_shared(to)), "l"(from) : "memory");
#else
    memcpy(to, from, 4);
#endif
}

/* p + count * size, one instruction. */
CCQ_W2_FN const uint8_t *ccq_w2_forward(const uint8_t *p, uint32_t count, uint32_t size)
{
#ifdef __CUDA_ARCH__
    const uint8_t *to;
    asm("mad.wide.u32 %0, %1, %2, %3;" : "=l"(to) : "r"(count), "r"(size), "l"(p));
    return to;
#else
    return p + (uint64_t)count * size;
#endif
}

/* Rows of x of the next two blocks. */
CCQ_W2_FN void ccq_w2_fetch_x(ccq_w2_shape s, uint32_t rows, ccq_w2_thread *t, uint8_t *slots)
{
    int two, i;

    CCQ_W2_UNROLL
    for (two = 0; two < 2; two++) {
        uint8_t *to = slots + t->put_x + two * ccq_w2_slot_bytes(s);
        CCQ_W2_UNROLL
        for (i = 0; i < s.nt * 8; i += 2 * s.cw)
            if (t->left > i)
                ccq_w2_fetch16(to + i * CCQ_W2_X, t->x + i * CCQ_W2_X);
        t->x = ccq_w2_forward(t->x, rows, CCQ_W2_X);
    }
}

CCQ_W2_FN void ccq_w2_fetch_start(ccq_w2_shape s, uint32_t rows, ccq_w2_thread *t, uint8_t *slots)
{
    if (t->fetches & 2) {
        ccq_w2_fetch4(slots + t->put_start, t->start);
        if (ccq_w2_starts(s) == 2)
            ccq_w2_fetch4(slots + t->put_start + ccq_w2_slot_bytes(s),
                          ccq_w2_forward(t->start, rows, CCQ_W2_X));
    }
    t->start = ccq_w2_forward(t->start, rows, 2 * CCQ_W2_X);
}

/* The thread's share of the next two blocks of its split, into two slots. Where there is one
 * left the second is of the next split, or whatever lies behind: all of it memory of the
 * matrix and of `work`, and not looked at. */
CCQ_W2_FN void ccq_w2_fetch(ccq_w2_shape s, const ccq_w2_gemm *p, ccq_w2_thread *t,
                            uint8_t *slots)
{
    int i;

    CCQ_W2_UNROLL
    for (i = 0; i < 2; i++) {
        uint8_t *to = slots + t->put_codes + i * CCQ_W2_CODES;
        ccq_w2_fetch16(to, t->codes[i]);
        ccq_w2_fetch16(to + ccq_w2_slot_bytes(s), t->codes[i] + CCQ_W2_CODES);
        t->codes[i] = ccq_w2_forward(t->codes[i], t->known.unit, 2 * CCQ_W2_CODES);
    }
    if (t->fetches & 1)
        ccq_w2_fetch16(slots + t->put_locals, t->locals);
    t->locals = ccq_w2_forward(t->locals, t->known.unit, 2 * CCQ_W2_LOCALS);
    ccq_w2_fetch_x(s, (uint32_t)p->rows, t, slots);
    if (p->form == CCQ_W2_FORM_G)
        ccq_w2_fetch_start(s, (uint32_t)p->rows, t, slots);
}

/* ---- Turns ---------------------------------------------------------------- */

/* Blocks of the split that has most: turns go on for as long as it has any. */
CCQ_W2_FN int ccq_w2_most_blocks(ccq_w2_shape s, const ccq_w2_gemm *p)
{
    return (int)((p->k / CCQ_W2_BLOCK + s.ks - 1) / s.ks);
}

/* The thread's share of block `block` and the next, before the first turn. */
CCQ_W2_FN void ccq_w2_fetch_first(ccq_w2_shape s, const ccq_w2_gemm *p, ccq_w2_thread *t,
                                  int block, uint8_t *ring)
{
    if (ccq_w2_has(t->blocks, block))
        ccq_w2_fetch(s, p, t, ring + block * ccq_w2_slot_bytes(s));
}

/* And in a turn, for one to come. */
CCQ_W2_FN void ccq_w2_fetch_next(ccq_w2_shape s, const ccq_w2_gemm *p, ccq_w2_thread *t, int fill,
                                 uint8_t *ring)
{
    if (ccq_w2_fetches(t->blocks))
        ccq_w2_fetch(s, p, t, ring + fill);
}

/* ---- A block of 128 rows, up to the tensor cores ------------------------- */

/* The codes of group o of a tile: two words, of columns g and g + 8. */
CCQ_W2_FN void ccq_w2_load8(const uint8_t *from, uint32_t to[2])
{
#ifdef __CUDA_ARCH__
    uint2 v = *reinterpret_cast<const uint2 *>(from);
    to[0] = v.x, to[1] = v.y;
#else
    memcpy(to, from, 8);
#endif
}

/* The local scales of columns g and g + 8 of a tile. */
CCQ_W2_FN uint32_t ccq_w2_load_locals(const ccq_w2_thread *t, const uint8_t *slot, int tile)
{
    const uint8_t *from = slot + t->at_locals + tile * CCQ_W2_LOCALS;
#ifdef __CUDA_ARCH__
    return *reinterpret_cast<const uint16_t *>(from);
#else
    return from[0] | (uint32_t)from[1] << 8;
#endif
}

/* A registers of group o of a tile, and the factors of its two columns. */
CCQ_W2_FN void ccq_w2_load_a(int form, int exact, const ccq_w2_thread *t, const uint8_t *slot,
                             uint32_t locals, int tile, int o, uint32_t a[4][4], float local[2])
{
    uint32_t words[2], scale[2];
    int u;

    ccq_w2_load8(slot + t->put_codes + tile * CCQ_W2_CODES + 8 * o, words);
    CCQ_W2_UNROLL
    for (u = 0; u < 2; u++) {
        local[u] = ccq_w2_local_with(locals, u, o, &t->known);
        scale[u] = ccq_w2_scale(form, local[u], t->super[tile][u]);
    }
    ccq_w2_group_with(form, exact, words, t->line[tile], scale, &t->known, a);
}

/* B registers of group o for 8 rows: b[2m + hi]. */
CCQ_W2_FN void ccq_w2_load_b(const ccq_w2_thread *t, const uint8_t *slot, int j, int o,
                             uint32_t b[8])
{
    const uint8_t *x = slot + t->at_x + j * (CCQ_W2_TOKENS * CCQ_W2_X) + o * (2 * CCQ_GROUP);
    ccq_gpu_take16(x, b);
    ccq_gpu_take16(x + 16, b + 4);
}

/* What the sums of group o start from in form G. */
CCQ_W2_FN void ccq_w2_load_start(ccq_w2_shape s, const ccq_w2_thread *t, const uint8_t *slot,
                                 int j, int o, float start[4])
{
    uint32_t bits[4];
    int i;

    ccq_gpu_take16(slot + t->at_start + (o * s.nt + j) * 64, bits);
    CCQ_W2_UNROLL
    for (i = 0; i < 4; i++)
        start[i] = ccq_w2_float(bits[i]);
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

CCQ_W2_FN void ccq_w2_leave(ccq_w2_shape s, const ccq_w2_thread *t, int thread, uint8_t *shared)
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
            ccq_gpu_keep16(shared + ccq_w2_sums_at(s, thread / 32, tile, j) + thread % 32 * 16,
                           bits);
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
    total = total * ccq_w2_power(-half) * b->m.super[c] * ccq_w2_power(half - tau);
    return p->round ? ccq_round_bf16(total) : total;
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
        p->y[place * inter + j] = p->round ? ccq_round_bf16(h) : h;
    } else {
        uint16_t bits = ccq_f32_to_bf16(h);
        memcpy(__builtin_assume_aligned(p->h + ccq_w2_x_at(place, j, p->order, p->rows), 2), &bits,
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
