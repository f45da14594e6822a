/* Attention of a row over its positions, cut into pieces where rows and heads alone would
 * not fill the device.
 *
 * A block has a row, up to 8 of the queries that share a KV head, and a piece of the
 * positions. It goes through them 256 at a time: keys come into shared memory by steps of 128
 * bytes of every position, a thread makes the scores of one position (one chain over the
 * dimensions for each query, as the CPU does); warp h finds the largest of query h, and the
 * weights relative to the largest so far; then warp w adds the values of every eighth
 * position, a lane having some dimensions. Sums made under a smaller maximum are scaled. At
 * the end warps are added in their order, and pieces by the join, in theirs. */
#ifndef CCQ_KERNELS_GPU_ATTEND_H
#define CCQ_KERNELS_GPU_ATTEND_H

#include "kernels/exp.h"
#include "kernels/gpu/model_base.h"
#include "kernels/gpu_model.h"

enum {
    CCQ_GPU_TILE = CCQ_GPU_THREADS, /* positions */
    CCQ_GPU_QUERIES = 8,
    CCQ_GPU_WARPS = CCQ_GPU_THREADS / 32,
    CCQ_GPU_HEAD = 256,             /* dimensions, at most */
    CCQ_GPU_STEP = 128,             /* bytes of a position's keys at a time */
    CCQ_GPU_STEP_LINE = CCQ_GPU_STEP + 16, /* so that no two positions meet in a bank */
    CCQ_GPU_PASS = 4,               /* queries whose warps are added at a time */
    CCQ_GPU_SCORES = CCQ_GPU_TILE + 8,
    CCQ_GPU_ATTEND_BLOCKS = 4,      /* wanted on a multiprocessor */
    CCQ_GPU_ATTEND_PIECES = 64
};

typedef struct ccq_gpu_attend_plan {
    int64_t groups; /* of queries of a KV head */
    int64_t blocks; /* rows * kv_heads * groups */
    int64_t pieces;
    int width;      /* queries of a group: 1, 4, 8 */
    float scale;    /* of scores */
} ccq_gpu_attend_plan;

static inline ccq_gpu_attend_plan ccq_gpu_plan_attend(const ccq_gpu_attend *p,
                                                      int multiprocessors)
{
    int64_t queries = p->heads / p->kv_heads, want = CCQ_GPU_ATTEND_BLOCKS * multiprocessors;
    int64_t most = ccq_gpu_min(ccq_gpu_ceil(p->longest, CCQ_GPU_TILE), CCQ_GPU_ATTEND_PIECES);
    ccq_gpu_attend_plan a;

    a.groups = ccq_gpu_ceil(queries, CCQ_GPU_QUERIES);
    a.blocks = p->rows * p->kv_heads * a.groups;
    a.width = queries == 1 ? 1 : queries <= 4 ? 4 : 8;
    a.scale = (float)(1.0 / sqrt((double)p->d));
    a.pieces = ccq_gpu_max(1, ccq_gpu_min(most, want / ccq_gpu_max(1, a.blocks)));
    return a;
}

/* With more than one piece there are no more blocks than wanted. */
static inline size_t ccq_gpu_attend_bytes(int64_t d, int multiprocessors)
{
    return (size_t)(CCQ_GPU_ATTEND_BLOCKS * multiprocessors * CCQ_GPU_QUERIES * (d + 2)) * 4;
}

/* NULL, or why not. */
static inline const char *ccq_gpu_attend_refuses(const ccq_gpu_attend *p)
{
    if (p->kv_heads < 1 || p->heads < 1 || p->heads % p->kv_heads)
        return "heads are no multiple of KV heads";
    if (p->d < 8 || p->d > CCQ_GPU_HEAD || p->d % 8)
        return "a head is no multiple of 8 dimensions, or more than 256";
    return (uintptr_t)p->cache % 16 ? "the cache is not aligned to 16 bytes" : NULL;
}

/* What a block works on. */
typedef struct ccq_gpu_attend_block {
    int64_t row, kv_head, head; /* head: the first of its queries */
    int64_t block, piece;
    int64_t length, first, end; /* positions; those of the piece */
    int queries;
    float scale;
} ccq_gpu_attend_block;

CCQ_INLINE void ccq_gpu_attend_range(const ccq_gpu_attend_plan *a, int64_t length, int64_t piece,
                                     int64_t *first, int64_t *end)
{
    int64_t tiles = ccq_gpu_ceil(length, CCQ_GPU_TILE);

    *first = ccq_gpu_part(tiles, a->pieces, piece) * CCQ_GPU_TILE;
    *end = ccq_gpu_min(length, ccq_gpu_part(tiles, a->pieces, piece + 1) * CCQ_GPU_TILE);
}

CCQ_INLINE ccq_gpu_attend_block ccq_gpu_attend_at(const ccq_gpu_attend *p,
                                                  const ccq_gpu_attend_plan *a, int64_t block,
                                                  int64_t piece)
{
    int64_t queries = p->heads / p->kv_heads, group = block % a->groups;
    ccq_gpu_attend_block b;

    b.block = block;
    b.piece = piece;
    b.kv_head = block / a->groups % p->kv_heads;
    b.row = block / a->groups / p->kv_heads;
    b.head = b.kv_head * queries + group * CCQ_GPU_QUERIES;
    b.queries = (int)ccq_gpu_min(CCQ_GPU_QUERIES, queries - group * CCQ_GPU_QUERIES);
    b.scale = a->scale;
    b.length = p->length[b.row];
    ccq_gpu_attend_range(a, b.length, piece, &b.first, &b.end);
    return b;
}

typedef struct ccq_gpu_attend_shared {
    CCQ_ALIGN16 float q[CCQ_GPU_QUERIES][CCQ_GPU_HEAD];
    union {
        CCQ_ALIGN16 uint8_t keys[CCQ_GPU_TILE * CCQ_GPU_STEP_LINE];
        struct {
            CCQ_ALIGN16 float weight[CCQ_GPU_TILE][CCQ_GPU_QUERIES];
            float score[CCQ_GPU_QUERIES][CCQ_GPU_SCORES];
        } tile;
        float sum[CCQ_GPU_WARPS][CCQ_GPU_PASS][CCQ_GPU_HEAD];
    } u;
    float lane[CCQ_GPU_QUERIES][32];
    float shrink[CCQ_GPU_QUERIES];
} ccq_gpu_attend_shared;

typedef struct ccq_gpu_attend_thread {
    float score[CCQ_GPU_QUERIES]; /* of position t */
    float acc[CCQ_GPU_QUERIES * 8];
    float most, sum;              /* of query t / 32; sum: this lane's */
} ccq_gpu_attend_thread;

/* Dimensions of a lane: 2, 4, 8. */
CCQ_INLINE int ccq_gpu_attend_each(int64_t d)
{
    return d <= 64 ? 2 : d <= 128 ? 4 : 8;
}

/* bf16, width and each are constants to the compiler in what follows. */
CCQ_INLINE void ccq_gpu_attend_begin(const ccq_gpu_attend *p, const ccq_gpu_attend_block *b,
                                     int width, int each, int t, ccq_gpu_attend_thread *r,
                                     ccq_gpu_attend_shared *s)
{
    const float *q = p->qkv + b->row * p->ld + b->head * p->d;

    for (int i = t; i < width * CCQ_GPU_HEAD; i += CCQ_GPU_THREADS) {
        int h = i / CCQ_GPU_HEAD, j = i % CCQ_GPU_HEAD;
        s->q[h][j] = h < b->queries && j < p->d ? q[h * p->d + j] : 0;
    }
    CCQ_UNROLL
    for (int i = 0; i < width * each; i++)
        r->acc[i] = 0;
    r->most = -INFINITY;
    r->sum = 0;
}

/* ---- Scores -------------------------------------------------------------- */

CCQ_INLINE int64_t ccq_gpu_attend_steps(int64_t d, int bf16)
{
    return ccq_gpu_ceil(d * (bf16 ? 2 : 4), CCQ_GPU_STEP);
}

/* Keys of tile `base`, step `step`, to shared memory. */
CCQ_INLINE void ccq_gpu_attend_stage(const ccq_gpu_attend *p, const ccq_gpu_attend_block *b,
                                     int bf16, int64_t base, int64_t step, int t,
                                     ccq_gpu_attend_shared *s)
{
    int size = bf16 ? 2 : 4;
    const uint8_t *keys = (const uint8_t *)p->cache +
                          (p->k_first[b->row] + b->kv_head * p->d) * size + step * CCQ_GPU_STEP;
    int64_t stride = p->kv_heads * p->d * size, left = p->d * size - step * CCQ_GPU_STEP;
    uint32_t raw[8][4];

    CCQ_UNROLL
    for (int i = 0; i < 8; i++) {
        int position = t / 8 + 32 * i, at = t % 8 * 16;
        if (base + position < b->end && at < left)
            ccq_gpu_load16(keys + (base + position) * stride + at, raw[i]);
        else
            raw[i][0] = raw[i][1] = raw[i][2] = raw[i][3] = 0;
    }
    CCQ_UNROLL
    for (int i = 0; i < 8; i++)
        ccq_gpu_keep16(s->u.keys + (t / 8 + 32 * i) * CCQ_GPU_STEP_LINE + t % 8 * 16, raw[i]);
}

CCQ_INLINE void ccq_gpu_attend_score(const ccq_gpu_attend *p, const ccq_gpu_attend_block *b,
                                     int bf16, int width, int64_t base, int64_t step, int t,
                                     ccq_gpu_attend_thread *r, const ccq_gpu_attend_shared *s)
{
    int count = bf16 ? 8 : 4, first = (int)step * (CCQ_GPU_STEP / 16) * count;

    CCQ_UNROLL
    for (int h = 0; h < width; h++)
        r->score[h] = step ? r->score[h] : 0;
    if (base + t >= b->end)
        return;
    for (int i = 0; i < CCQ_GPU_STEP / 16 && first + i * count < p->d; i++) {
        uint32_t raw[4];
        float key[8];
        ccq_gpu_take16(s->u.keys + t * CCQ_GPU_STEP_LINE + 16 * i, raw);
        CCQ_UNROLL
        for (int j = 0; j < count; j++)
            key[j] = !bf16 ? ccq_gpu_bits(raw[j])
                           : j & 1 ? ccq_gpu_high(raw[j / 2]) : ccq_gpu_low(raw[j / 2]);
        CCQ_UNROLL
        for (int h = 0; h < width; h++) {
            CCQ_UNROLL
            for (int j = 0; j < count; j++)
                r->score[h] = __builtin_fmaf(s->q[h][first + i * count + j], key[j],
                                             r->score[h]);
        }
    }
}

/* ---- Weights ------------------------------------------------------------- */

CCQ_INLINE void ccq_gpu_attend_show(const ccq_gpu_attend_block *b, int width, int64_t base, int t,
                                    const ccq_gpu_attend_thread *r, ccq_gpu_attend_shared *s)
{
    CCQ_UNROLL
    for (int h = 0; h < width; h++)
        s->u.tile.score[h][t] = base + t < b->end ? r->score[h] * b->scale : -INFINITY;
}

CCQ_INLINE void ccq_gpu_attend_most(int width, int t, ccq_gpu_attend_shared *s)
{
    int h = t / 32, lane = t % 32;
    float m = -INFINITY;

    if (h >= width)
        return;
    CCQ_UNROLL
    for (int i = 0; i < CCQ_GPU_TILE / 32; i++) {
        float score = s->u.tile.score[h][lane + 32 * i];
        m = score > m ? score : m;
    }
    s->lane[h][lane] = m;
}

/* exp(less - more), of which both may be infinite. */
CCQ_INLINE float ccq_gpu_attend_shrink(float less, float more)
{
    return less == more ? 1.0f : ccq_exp_inline(less - more);
}

CCQ_INLINE void ccq_gpu_attend_weigh(const ccq_gpu_attend_block *b, int bf16, int width,
                                     int64_t base, int t, ccq_gpu_attend_thread *r,
                                     ccq_gpu_attend_shared *s)
{
    int h = t / 32, lane = t % 32;
    float most = r->most, below, shrink, sum = 0;

    if (h >= width)
        return;
    for (int i = 0; i < 32; i++)
        most = s->lane[h][i] > most ? s->lane[h][i] : most;
    shrink = ccq_gpu_attend_shrink(r->most, most);
    below = most == -INFINITY ? 0 : most; /* all weights 0, not NaN */
    CCQ_UNROLL
    for (int i = 0; i < CCQ_GPU_TILE / 32; i++) {
        int j = lane + 32 * i;
        float weight = ccq_gpu_store(ccq_exp_inline(s->u.tile.score[h][j] - below), bf16);
        sum += base + j < b->end ? weight : 0;
        s->u.tile.weight[j][h] = weight;
    }
    r->sum = __builtin_fmaf(r->sum, shrink, sum);
    r->most = most;
    if (!lane)
        s->shrink[h] = shrink;
}

/* ---- Values -------------------------------------------------------------- */

CCQ_INLINE void ccq_gpu_attend_value(const void *from, int bf16, int each, float v[8])
{
    uint32_t raw[8];
    int words = bf16 ? each / 2 : each;

    if (words == 1)
        raw[0] = *(const uint32_t *)from;
    else if (words == 2)
        ccq_gpu_load8(from, raw);
    else
        ccq_gpu_load16(from, raw);
    if (words == 8)
        ccq_gpu_load16((const uint8_t *)from + 16, raw + 4);
    CCQ_UNROLL
    for (int i = 0; i < each; i++)
        v[i] = !bf16 ? ccq_gpu_bits(raw[i])
                     : i & 1 ? ccq_gpu_high(raw[i / 2]) : ccq_gpu_low(raw[i / 2]);
}

CCQ_INLINE void ccq_gpu_attend_add(const ccq_gpu_attend *p, const ccq_gpu_attend_block *b,
                                   int bf16, int width, int each, int64_t base, int t,
                                   ccq_gpu_attend_thread *r, const ccq_gpu_attend_shared *s)
{
    int warp = t / 32, dim = t % 32 * each, size = bf16 ? 2 : 4;
    int count = (int)ccq_gpu_min(CCQ_GPU_TILE, b->end - base);
    int64_t stride = p->kv_heads * p->d * size;
    const uint8_t *values = (const uint8_t *)p->cache + base * stride +
                            (p->v_first[b->row] + b->kv_head * p->d + dim) * size;

    CCQ_UNROLL
    for (int i = 0; i < width * each; i++)
        r->acc[i] *= s->shrink[i / each];
    if (dim >= p->d)
        return;
    for (int j0 = warp; j0 < count; j0 += 4 * CCQ_GPU_WARPS) {
        float v[4][8];
        CCQ_UNROLL
        for (int u = 0; u < 4; u++) {
            int j = j0 + u * CCQ_GPU_WARPS;
            if (j < count)
                ccq_gpu_attend_value(values + j * stride, bf16, each, v[u]);
        }
        CCQ_UNROLL
        for (int u = 0; u < 4; u++) {
            int j = j0 + u * CCQ_GPU_WARPS;
            if (j >= count)
                continue;
            CCQ_UNROLL
            for (int i = 0; i < width * each; i++)
                r->acc[i] = __builtin_fmaf(s->u.tile.weight[j][i / each], v[u][i % each],
                                           r->acc[i]);
        }
    }
}

/* ---- The end of a block -------------------------------------------------- */

CCQ_INLINE void ccq_gpu_attend_spill(int width, int each, int pass, int64_t d, int t,
                                     const ccq_gpu_attend_thread *r, ccq_gpu_attend_shared *s)
{
    int warp = t / 32, dim = t % 32 * each;

    if (!pass && warp < width)
        s->lane[warp][t % 32] = r->sum;
    CCQ_UNROLL
    for (int h = 0; h < CCQ_GPU_PASS; h++) {
        CCQ_UNROLL
        for (int i = 0; i < each; i++)
            if (pass * CCQ_GPU_PASS + h < width && dim < d)
                s->u.sum[warp][h][dim + i] = r->acc[(pass * CCQ_GPU_PASS + h) * each + i];
    }
}

/* Of query h of a block's piece: the largest score, the sum of weights, d sums of values. */
CCQ_INLINE float *ccq_gpu_attend_slot(const ccq_gpu_attend *p, const ccq_gpu_attend_plan *a,
                                      int64_t block, int64_t piece, int h)
{
    return (float *)p->work +
           ((block * a->pieces + piece) * CCQ_GPU_QUERIES + h) * (p->d + 2);
}

/* Thread 32 h knows the largest score of query h. */
CCQ_INLINE void ccq_gpu_attend_mark(const ccq_gpu_attend *p, const ccq_gpu_attend_plan *a,
                                    const ccq_gpu_attend_block *b, int t,
                                    const ccq_gpu_attend_thread *r)
{
    if (a->pieces > 1 && t % 32 == 0 && t / 32 < b->queries)
        ccq_gpu_attend_slot(p, a, b->block, b->piece, t / 32)[0] = r->most;
}

CCQ_INLINE void ccq_gpu_attend_write(const ccq_gpu_attend *p, const ccq_gpu_attend_plan *a,
                                     const ccq_gpu_attend_block *b, int pass, int t,
                                     const ccq_gpu_attend_shared *s)
{
    int left = b->queries - pass * CCQ_GPU_PASS, d = (int)p->d;
    int count = (left < CCQ_GPU_PASS ? left : CCQ_GPU_PASS) * d;

    for (int i = t; i < count; i += CCQ_GPU_THREADS) {
        int h = pass * CCQ_GPU_PASS + i / d, j = i % d;
        float sum = 0, acc = 0;
        for (int lane = 0; lane < 32; lane++)
            sum += s->lane[h][lane];
        for (int warp = 0; warp < CCQ_GPU_WARPS; warp++)
            acc += s->u.sum[warp][i / d][j];
        if (a->pieces > 1) {
            float *slot = ccq_gpu_attend_slot(p, a, b->block, b->piece, h);
            slot[2 + j] = acc;
            slot[1] = sum; /* the same from every thread */
        } else {
            p->o[b->row * p->ldo + (b->head + h) * p->d + j] =
                ccq_gpu_store(acc / sum, p->bf16);
        }
    }
}

/* Dimension j of a head: its pieces in their order. */
CCQ_INLINE void ccq_gpu_attend_join(const ccq_gpu_attend *p, const ccq_gpu_attend_plan *a,
                                    int64_t row, int64_t head, int64_t j)
{
    int64_t queries = p->heads / p->kv_heads, query = head % queries, first, end;
    int64_t block = (row * p->kv_heads + head / queries) * a->groups + query / CCQ_GPU_QUERIES;
    int h = (int)(query % CCQ_GPU_QUERIES);
    float most = -INFINITY, sum = 0, acc = 0;

    for (int64_t i = 0; i < a->pieces; i++) {
        ccq_gpu_attend_range(a, p->length[row], i, &first, &end);
        float m = first < end ? ccq_gpu_attend_slot(p, a, block, i, h)[0] : -INFINITY;
        most = m > most ? m : most;
    }
    for (int64_t i = 0; i < a->pieces; i++) {
        const float *slot = ccq_gpu_attend_slot(p, a, block, i, h);
        ccq_gpu_attend_range(a, p->length[row], i, &first, &end);
        if (first >= end)
            continue;
        float shrink = ccq_gpu_attend_shrink(slot[0], most);
        sum = __builtin_fmaf(slot[1], shrink, sum);
        acc = __builtin_fmaf(slot[2 + j], shrink, acc);
    }
    p->o[row * p->ldo + head * p->d + j] = ccq_gpu_store(acc / sum, p->bf16);
}

#endif
