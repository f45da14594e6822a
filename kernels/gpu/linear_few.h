/* Products of at most 8 rows, the stored weights read once and decoded in registers.
 *
 * A block has a tile of columns and goes through its chunks of k: first the threads load
 * their units of the weight and put x into shared memory, then, after a barrier, they
 * multiply. At the end the threads that share a column are added in their order.
 *
 * Along n: thread t has columns 8 (t%8).. of the tile and rows t/8 + 32 i of the chunk.
 * Along k: 256 rows lie across a warp, which has 4 columns (bf16_t), 8 (wint8) or 16
 * (wint4); a thread has 4 of them, and one unit of each in either half of the chunk. So a
 * warp's load is 512 bytes in a row, but for the tiles of wint8 and wint4, of 128. */
#ifndef CCQ_KERNELS_GPU_LINEAR_FEW_H
#define CCQ_KERNELS_GPU_LINEAR_FEW_H

#include "kernels/gpu/weight.h"

typedef struct ccq_gpu_few {
    ccq_weight w; /* host structure, device arrays */
    int wide;     /* ccq_gpu_is_wide */
    const float *x;
    int64_t ldx, rows;
    int bf16;     /* round y */
    float *y;
    int64_t ldy;
    float *part;  /* [pieces][rows][n]; NULL: one piece */
    int64_t tiles, chunks, pieces;
} ccq_gpu_few;

enum {
    CCQ_GPU_FEW_SLOTS = 32, /* sums of a thread that are added at a time */
    CCQ_GPU_FEW_LINE = CCQ_GPU_THREADS + 8, /* no two of them in a bank */
    CCQ_GPU_FEW_SHARED = CCQ_GPU_FEW_SLOTS * CCQ_GPU_FEW_LINE
};

/* First x of a chunk, then sums. */
typedef struct ccq_gpu_few_shared {
    CCQ_ALIGN16 float f[CCQ_GPU_FEW_SHARED];
} ccq_gpu_few_shared;

typedef struct ccq_gpu_few_thread {
    float acc[64]; /* [column][row] */
    uint32_t raw[32];
    float scale[4];
    ccq_gpu_lines lines;
} ccq_gpu_few_thread;

/* The kernel is made for 1, 4 and 8 rows. */
CCQ_INLINE int ccq_gpu_few_width(int64_t rows)
{
    return rows == 1 ? 1 : rows <= 4 ? 4 : CCQ_GPU_FEW;
}

/* Columns of a thread. */
CCQ_INLINE int ccq_gpu_few_columns(int type)
{
    return ccq_gpu_along_k(type) ? 4 : 8;
}

/* Column j of thread t in the tile. */
CCQ_INLINE int ccq_gpu_few_column(int type, int t, int j)
{
    int warp = t / 32, eighth = t % 8;

    switch (type) {
    case CCQ_W_BF16_T: return 4 * warp + j;
    case CCQ_W_WINT8: return 8 * warp + 2 * j + eighth / 4;
    case CCQ_W_WINT4: return 16 * warp + 4 * j + eighth / 2;
    default: return 8 * eighth + j;
    }
}

/* Row of thread t's unit in half `half` of a chunk; along k. */
CCQ_INLINE int ccq_gpu_few_row(int type, int t, int half)
{
    int lane = t % 32, tile = 256 * half + 64 * (lane / 8);

    switch (type) {
    case CCQ_W_BF16_T: return 256 * half + 8 * lane;
    case CCQ_W_WINT8: return tile + 16 * (lane % 4);
    default: return tile + 32 * (lane % 2);
    }
}

/* Where x of row k of a chunk is in shared memory. Units are 4 floats apart, so that threads
 * with different ones do not meet in a bank. */
CCQ_INLINE int ccq_gpu_few_at(int type, int rows, int k)
{
    return ccq_gpu_along_k(type) ? k * rows + k / ccq_gpu_unit(type) * 4 : k * rows;
}

CCQ_INLINE void ccq_gpu_few_begin(const ccq_gpu_few *p, int type, int rows, int64_t tile, int t,
                                  ccq_gpu_few_thread *r)
{
    int64_t c0 = tile * ccq_gpu_few_tile(type);

    CCQ_UNROLL
    for (int i = 0; i < ccq_gpu_few_columns(type) * rows; i++)
        r->acc[i] = 0;
    if (type == CCQ_W_WINT2)
        ccq_gpu_lines_load(&p->w, c0 + ccq_gpu_few_column(type, t, 0), &r->lines);
    CCQ_UNROLL
    for (int j = 0; j < 4; j++) {
        int64_t c = c0 + ccq_gpu_few_column(type, t, j);
        r->scale[j] =
            ccq_gpu_along_k(type) && c < p->w.n ? ccq_gpu_unit_scale(&p->w, type, c) : 0;
    }
}

/* ---- A chunk, before the barrier ----------------------------------------- */

/* A thread has one row of x, and every stride-th element of it: addresses that differ by
 * constants, in memory as in shared memory. */
CCQ_INLINE void ccq_gpu_few_stage(const ccq_gpu_few *p, int type, int rows, int64_t k0, int t,
                                  ccq_gpu_few_shared *s)
{
    int r = t % rows, k = t / rows, stride = CCQ_GPU_THREADS / rows;
    int chunk = ccq_gpu_few_chunk(type), left = (int)ccq_gpu_min(chunk, p->w.k - k0);
    const float *from = p->x + r * p->ldx + k0 + k;
    float *to = s->f + ccq_gpu_few_at(type, rows, k) + r, x[16];

    left = r < p->rows ? left : 0;
    CCQ_UNROLL
    for (int j = 0; j * stride < chunk; j++)
        x[j] = k + j * stride < left ? from[j * stride] : 0;
    CCQ_UNROLL
    for (int j = 0; j * stride < chunk; j++) {
        if (k + j * stride >= chunk)
            continue;
        if (type == CCQ_W_WINT2)
            s->f[(int)ccq_wint2_stored_row(k + j * stride, p->w.order) * rows + r] = x[j];
        else
            to[ccq_gpu_few_at(type, rows, j * stride)] = x[j];
    }
}

CCQ_INLINE void ccq_gpu_few_load_k(const ccq_gpu_few *p, int type, int wide, int64_t c0,
                                   int64_t k0, int t, ccq_gpu_few_thread *r)
{
    CCQ_UNROLL
    for (int i = 0; i < 8; i++) {
        int64_t k = k0 + ccq_gpu_few_row(type, t, i / 4);
        int64_t c = c0 + ccq_gpu_few_column(type, t, i % 4);
        r->raw[4 * i] = r->raw[4 * i + 1] = r->raw[4 * i + 2] = r->raw[4 * i + 3] = 0;
        if (k < p->w.k && c < p->w.n)
            ccq_gpu_unit_load(&p->w, type, wide, k, c, r->raw + 4 * i);
    }
}

/* How many rows a thread has of a chunk (wint2: byte rows), along n. */
CCQ_INLINE int ccq_gpu_few_steps(int type)
{
    return ccq_gpu_few_chunk(type) / (type == CCQ_W_WINT2 ? 128 : 32);
}

CCQ_INLINE void ccq_gpu_few_load_n(const ccq_gpu_few *p, int type, int wide, int64_t c0,
                                   int64_t k0, int t, ccq_gpu_few_thread *r)
{
    int bytes = ccq_gpu_octet_bytes(type), words = 2 * bytes;
    int64_t c = c0 + ccq_gpu_few_column(type, t, 0);

    CCQ_UNROLL
    for (int i = 0; i < ccq_gpu_few_steps(type); i++) {
        int64_t row = (type == CCQ_W_WINT2 ? k0 / CCQ_WINDOWS : k0) + t / 8 + 32 * i;
        int inside = c < p->w.n && (type == CCQ_W_WINT2 ? row * CCQ_WINDOWS : row) < p->w.k;
        CCQ_UNROLL
        for (int j = 0; j < words; j++)
            r->raw[words * i + j] = 0;
        if (type == CCQ_W_WINT2)
            r->raw[8 + 2 * i] = r->raw[9 + 2 * i] = 0;
        if (inside)
            ccq_gpu_octet_load(p->w.data, bytes, wide, p->w.n, row, c, r->raw + words * i);
        if (type == CCQ_W_WINT2 && inside)
            ccq_gpu_octet_load(p->w.local, 1, wide, p->w.n, row / 32, c, r->raw + 8 + 2 * i);
        if (type == CCQ_W_FP8 && i % 4 == 0)
            r->scale[i / 4] = inside ? ccq_gpu_block_scale(&p->w, row, c) : 0;
    }
}

CCQ_INLINE void ccq_gpu_few_load(const ccq_gpu_few *p, int type, int rows, int64_t tile,
                                 int64_t chunk, int t, ccq_gpu_few_thread *r,
                                 ccq_gpu_few_shared *s)
{
    int64_t c0 = tile * ccq_gpu_few_tile(type), k0 = chunk * ccq_gpu_few_chunk(type);

    if (ccq_gpu_along_k(type) && (type != CCQ_W_BF16_T || p->wide))
        ccq_gpu_few_load_k(p, type, 1, c0, k0, t, r);
    else if (ccq_gpu_along_k(type))
        ccq_gpu_few_load_k(p, type, 0, c0, k0, t, r);
    else if (p->wide)
        ccq_gpu_few_load_n(p, type, 1, c0, k0, t, r);
    else
        ccq_gpu_few_load_n(p, type, 0, c0, k0, t, r);
    ccq_gpu_few_stage(p, type, rows, k0, t, s);
}

/* ---- A chunk, after the barrier ------------------------------------------ */

CCQ_INLINE void ccq_gpu_few_multiply_k(const ccq_gpu_few *p, int type, int rows, int64_t k0,
                                       int t, ccq_gpu_few_thread *r, const ccq_gpu_few_shared *s)
{
    CCQ_UNROLL
    for (int half = 0; half < 2; half++) {
        int row = ccq_gpu_few_row(type, t, half);
        const float *x = s->f + ccq_gpu_few_at(type, rows, row);
        if (k0 + row >= p->w.k)
            continue;
        CCQ_UNROLL
        for (int i = 0; i < ccq_gpu_unit(type); i += 2)
            CCQ_UNROLL
            for (int j = 0; j < 4; j++) {
                float pair[2];
                ccq_gpu_unit_pair(type, r->raw + 4 * (4 * half + j), r->scale[j], i, pair);
                CCQ_UNROLL
                for (int h = 0; h < 2; h++)
                    CCQ_UNROLL
                    for (int q = 0; q < rows; q++)
                        r->acc[j * rows + q] = __builtin_fmaf(x[(i + h) * rows + q], pair[h],
                                                              r->acc[j * rows + q]);
            }
    }
}

CCQ_INLINE void ccq_gpu_few_multiply_n(const ccq_gpu_few *p, int type, int rows, int64_t k0,
                                       int t, ccq_gpu_few_thread *r, const ccq_gpu_few_shared *s)
{
    int words = 2 * ccq_gpu_octet_bytes(type);

    CCQ_UNROLL
    for (int i = 0; i < ccq_gpu_few_steps(type); i++) {
        int row = t / 8 + 32 * i;
        float weight[CCQ_GPU_OCTET];
        if (k0 + row >= p->w.k)
            continue;
        ccq_gpu_octet(type, r->raw + words * i, r->scale[i / 4], weight);
        CCQ_UNROLL
        for (int j = 0; j < CCQ_GPU_OCTET; j++)
            CCQ_UNROLL
            for (int q = 0; q < rows; q++)
                r->acc[j * rows + q] =
                    __builtin_fmaf(s->f[row * rows + q], weight[j], r->acc[j * rows + q]);
    }
}

CCQ_INLINE void ccq_gpu_few_multiply_2(const ccq_gpu_few *p, int rows, int64_t k0, int t,
                                       ccq_gpu_few_thread *r, const ccq_gpu_few_shared *s)
{
    CCQ_UNROLL
    for (int i = 0; i < ccq_gpu_few_steps(CCQ_W_WINT2); i++) {
        int row = t / 8 + 32 * i;
        if (k0 + CCQ_WINDOWS * row >= p->w.k)
            continue;
        CCQ_UNROLL
        for (int j = 0; j < CCQ_GPU_OCTET; j++) {
            float weight[CCQ_WINDOWS];
            ccq_gpu_word_weights(&r->lines, j, r->raw + 2 * i, r->raw + 8 + 2 * i,
                                 t / 128, p->w.rounding, weight);
            CCQ_UNROLL
            for (int h = 0; h < CCQ_WINDOWS; h++)
                CCQ_UNROLL
                for (int q = 0; q < rows; q++)
                    r->acc[j * rows + q] =
                        __builtin_fmaf(s->f[(CCQ_WINDOWS * row + h) * rows + q], weight[h],
                                       r->acc[j * rows + q]);
        }
    }
}

CCQ_INLINE void ccq_gpu_few_multiply(const ccq_gpu_few *p, int type, int rows, int64_t chunk,
                                     int t, ccq_gpu_few_thread *r, const ccq_gpu_few_shared *s)
{
    int64_t k0 = chunk * ccq_gpu_few_chunk(type);

    if (ccq_gpu_along_k(type))
        ccq_gpu_few_multiply_k(p, type, rows, k0, t, r, s);
    else if (type == CCQ_W_WINT2)
        ccq_gpu_few_multiply_2(p, rows, k0, t, r, s);
    else
        ccq_gpu_few_multiply_n(p, type, rows, k0, t, r, s);
}

/* ---- Sums ---------------------------------------------------------------- */

CCQ_INLINE int ccq_gpu_few_passes(int type, int rows)
{
    return (ccq_gpu_few_columns(type) * rows + CCQ_GPU_FEW_SLOTS - 1) / CCQ_GPU_FEW_SLOTS;
}

CCQ_INLINE int ccq_gpu_few_slots(int type, int rows)
{
    int all = ccq_gpu_few_columns(type) * rows;
    return all < CCQ_GPU_FEW_SLOTS ? all : CCQ_GPU_FEW_SLOTS;
}

CCQ_INLINE void ccq_gpu_few_spill(int type, int rows, int pass, int t,
                                  const ccq_gpu_few_thread *r, ccq_gpu_few_shared *s)
{
    CCQ_UNROLL
    for (int i = 0; i < ccq_gpu_few_slots(type, rows); i++)
        s->f[i * CCQ_GPU_FEW_LINE + t] = r->acc[pass * CCQ_GPU_FEW_SLOTS + i];
}

/* Threads that have the same columns: how many, and which of group `group` is the i-th. */
CCQ_INLINE int ccq_gpu_few_peers(int type)
{
    return type == CCQ_W_WINT8 ? 16 : type == CCQ_W_WINT4 ? 8 : 32;
}

CCQ_INLINE int ccq_gpu_few_peer(int type, int group, int i)
{
    switch (type) {
    case CCQ_W_BF16_T: return 32 * group + i;
    case CCQ_W_WINT8: return 32 * (group / 2) + 4 * (group % 2) + 8 * (i / 4) + i % 4;
    case CCQ_W_WINT4: return 32 * (group / 4) + 2 * (group % 4) + 8 * (i / 2) + i % 2;
    default: return group + 8 * i;
    }
}

CCQ_INLINE void ccq_gpu_few_write(const ccq_gpu_few *p, int64_t piece, int64_t c, int r,
                                  float sum)
{
    if (c >= p->w.n || r >= p->rows)
        return;
    if (p->part)
        p->part[(piece * p->rows + r) * p->w.n + c] = sum;
    else
        p->y[r * p->ldy + c] = ccq_gpu_store(sum, p->bf16);
}

CCQ_INLINE void ccq_gpu_few_sum(const ccq_gpu_few *p, int type, int rows, int64_t tile,
                                int64_t piece, int pass, int t, const ccq_gpu_few_shared *s)
{
    int peers = ccq_gpu_few_peers(type), groups = CCQ_GPU_THREADS / peers;
    int count = groups * ccq_gpu_few_slots(type, rows);

    for (int i = t; i < count; i += CCQ_GPU_THREADS) {
        int group = i % groups, slot = i / groups, index = pass * CCQ_GPU_FEW_SLOTS + slot;
        int column = ccq_gpu_few_column(type, ccq_gpu_few_peer(type, group, 0), index / rows);
        float sum = 0;
        for (int q = 0; q < peers; q++)
            sum += s->f[slot * CCQ_GPU_FEW_LINE + ccq_gpu_few_peer(type, group, q)];
        ccq_gpu_few_write(p, piece, tile * ccq_gpu_few_tile(type) + column, index % rows, sum);
    }
}

/* Output i of rows * n: its pieces in their order. */
CCQ_INLINE void ccq_gpu_few_join(const ccq_gpu_few *p, int64_t i)
{
    float sum = 0;

    for (int64_t piece = 0; piece < p->pieces; piece++)
        sum += p->part[piece * p->rows * p->w.n + i];
    p->y[i / p->w.n * p->ldy + i % p->w.n] = ccq_gpu_store(sum, p->bf16);
}

/* ---- All experts --------------------------------------------------------- */

typedef struct ccq_gpu_groups {
    const ccq_weight *table;
    int64_t experts;
    const int32_t *start;
    ccq_gpu_few few; /* of expert 0; x and y of all, rows not used */
} ccq_gpu_groups;

/* The product of rows row.. of expert e, at most 8. */
CCQ_INLINE ccq_gpu_few ccq_gpu_groups_few(const ccq_gpu_groups *g, int64_t e, int64_t row)
{
    ccq_gpu_few f = g->few;

    f.w = g->table[e];
    f.rows = ccq_gpu_min(CCQ_GPU_FEW, g->start[e + 1] - row);
    f.x += row * f.ldx;
    f.y += row * f.ldy;
    return f;
}

#endif
