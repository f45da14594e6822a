/* The encoder on a device: where things lie, and the two turns between rows and columns.
 *
 * Four kernels. turn: the matrix to one column after the other in stored order. search
 * (encode_search.h): codes and scales, a block of threads a column. figures
 * (encode_figures.h): gain, end and errors, a thread a column, for their sums have an order.
 * place: columns of codes to the stored tensors.
 *
 * Everything is a function of one thread between two barriers; CUDA calls it per thread, the
 * host device in loops over (block, thread). */
#ifndef CCQ_KERNELS_GPU_ENCODE_BODY_H
#define CCQ_KERNELS_GPU_ENCODE_BODY_H

#include "kernels/column.h"
#include "kernels/gpu_encode.h"

#include <string.h>

/* Arrays of a thread are registers only where every loop over them is unrolled. */
#ifdef __CUDA_ARCH__
#define CCQ_ENCODE_UNROLL _Pragma("unroll")
#else
#define CCQ_ENCODE_UNROLL
#endif
#define CCQ_ENCODE_INLINE static inline __attribute__((always_inline)) CCQ_HD

/* Four bytes at once, from and to where they are aligned. */
CCQ_ENCODE_INLINE uint32_t ccq_encode_load4(const uint8_t *from)
{
    uint32_t v;

    memcpy(&v, __builtin_assume_aligned(from, 4), sizeof v);
    return v;
}

CCQ_ENCODE_INLINE void ccq_encode_store4(uint8_t *to, uint32_t v)
{
    memcpy(__builtin_assume_aligned(to, 4), &v, sizeof v);
}

/* A line as the search wants it. */
typedef struct ccq_gpu_code {
    uint32_t values; /* four int8, the first one low */
    int32_t step;    /* 2048 norm */
} ccq_gpu_code;

typedef struct ccq_gpu_line {
    ccq_gpu_code code[CCQ_CODES];
    float cs, zp, rms, unused;
} ccq_gpu_line;

/* What the search has found for a column. */
typedef struct ccq_gpu_chosen {
    float s, scale; /* the super scale of the scaled column; 2^-e */
    int32_t e;
    uint8_t encoded, book;
} ccq_gpu_chosen;

/* The work memory: columns in stored order, k apart. */
typedef struct ccq_gpu_encode_work {
    uint16_t *x;     /* [n][k] */
    uint8_t *bytes;  /* [n][k/4] */
    uint8_t *local;  /* [n][k/64] */
    ccq_gpu_chosen *chosen; /* [n] */
} ccq_gpu_encode_work;

/* Bytes of it; carved from base unless that is NULL. */
static inline size_t ccq_gpu_encode_carve(void *base, int64_t k, int64_t n,
                                          ccq_gpu_encode_work *w)
{
    const size_t rows = (size_t)k, columns = (size_t)n, align = 255;
    char *at = (char *)base;
    size_t x = (2 * rows * columns + align) & ~align;
    size_t bytes = (rows / CCQ_WINDOWS * columns + align) & ~align;
    size_t local = (rows / CCQ_GROUP * columns + align) & ~align;

    if (at) {
        w->x = (uint16_t *)(void *)at;
        w->bytes = (uint8_t *)(at + x);
        w->local = (uint8_t *)(at + x + bytes);
        w->chosen = (ccq_gpu_chosen *)(void *)(at + x + bytes + local);
    }
    return x + bytes + local + columns * sizeof(ccq_gpu_chosen);
}

/* Host: a book as a line. */
static inline void ccq_gpu_line_of(const ccq_book *book, ccq_gpu_line *line)
{
    memset(line, 0, sizeof *line);
    line->cs = book->cs;
    line->zp = book->zp;
    line->rms = book->rms;
    for (int b = 0; b < CCQ_CODES; b++) {
        for (int i = 0; i < CCQ_WINDOWS; i++)
            line->code[b].values |= (uint32_t)(uint8_t)(book->value[i][b] / -256) << 8 * i;
        line->code[b].step = book->step[b];
    }
}

/* ---- Turn: a group's rows of 64 columns ---------------------------------- */

enum {
    CCQ_TURN_COLUMNS = 64,
    CCQ_TURN_THREADS = 256,
    CCQ_TURN_LD = CCQ_GROUP + 2 /* an odd number of banks */
};

typedef struct ccq_turn_shared {
    uint32_t tile[CCQ_TURN_COLUMNS * CCQ_TURN_LD / 2]; /* of uint16, column after column */
} ccq_turn_shared;

static inline CCQ_HD int64_t ccq_turn_blocks(int64_t k, int64_t n)
{
    return k / CCQ_GROUP * ((n + CCQ_TURN_COLUMNS - 1) / CCQ_TURN_COLUMNS);
}

/* Index of a weight of row 0, and how far apart the rows of its strip are. */
static inline CCQ_HD int64_t ccq_strip_index(const ccq_gpu_columns *p, int64_t column, int64_t *ld)
{
    int64_t first = column - column % p->strip;

    *ld = p->n - first < p->strip ? p->n - first : p->strip;
    return first * p->k + column - first;
}

/* Neighbours in a warp read neighbours in a row. */
static inline CCQ_HD void ccq_turn_read(const ccq_gpu_columns *p, int order, int64_t block, int t,
                                        ccq_turn_shared *sh)
{
    const int64_t groups = p->k / CCQ_GROUP, group = block % groups;
    const int column = t % CCQ_TURN_COLUMNS;
    const int64_t n = block / groups * CCQ_TURN_COLUMNS + column;
    uint16_t *tile = (uint16_t *)(void *)sh->tile;
    int64_t ld, from;

    if (n >= p->n)
        return;
    from = ccq_strip_index(p, n, &ld);
    from += group * CCQ_GROUP * ld;
    for (int r = t / CCQ_TURN_COLUMNS; r < CCQ_GROUP; r += CCQ_TURN_THREADS / CCQ_TURN_COLUMNS)
        tile[column * CCQ_TURN_LD + ccq_logical_to_stored(r, order)] = p->w[from + r * ld];
}

/* Neighbours write neighbours of a column, 16 bytes each. */
static inline CCQ_HD void ccq_turn_write(const ccq_gpu_columns *p, const ccq_gpu_encode_work *w,
                                         int64_t block, int t, const ccq_turn_shared *sh)
{
    enum { PIECES = CCQ_GROUP / 8 };
    const int64_t groups = p->k / CCQ_GROUP, group = block % groups;

    for (int i = t; i < CCQ_TURN_COLUMNS * PIECES; i += CCQ_TURN_THREADS) {
        const int column = i / PIECES, piece = i % PIECES;
        const int64_t n = block / groups * CCQ_TURN_COLUMNS + column;
        const uint32_t *from = sh->tile + (column * CCQ_TURN_LD + piece * 8) / 2;
        if (n < p->n) {
            uint16_t *to = w->x + n * p->k + group * CCQ_GROUP + piece * 8;
#ifdef __CUDA_ARCH__
            *reinterpret_cast<uint4 *>(to) = make_uint4(from[0], from[1], from[2], from[3]);
#else
            memcpy(to, from, 16);
#endif
        }
    }
}

/* ---- Place: 64 rows of bytes of 64 columns ------------------------------- */

enum {
    CCQ_PLACE_SIDE = 64, /* columns, and rows of bytes */
    CCQ_PLACE_THREADS = 256,
    CCQ_PLACE_LD = CCQ_PLACE_SIDE + 4
};

typedef struct ccq_place_shared {
    uint32_t tile[CCQ_PLACE_SIDE * CCQ_PLACE_LD / 4];
} ccq_place_shared;

static inline CCQ_HD int64_t ccq_place_blocks(int64_t k, int64_t n)
{
    return (k / CCQ_WINDOWS + CCQ_PLACE_SIDE - 1) / CCQ_PLACE_SIDE *
           ((n + CCQ_PLACE_SIDE - 1) / CCQ_PLACE_SIDE);
}

static inline CCQ_HD void ccq_place_read(const ccq_gpu_columns *p, const ccq_gpu_encode_work *w,
                                         int64_t block, int t, ccq_place_shared *sh)
{
    enum { WORDS = CCQ_PLACE_SIDE / 4 };
    const int64_t rows = p->k / CCQ_WINDOWS, tiles = (rows + CCQ_PLACE_SIDE - 1) / CCQ_PLACE_SIDE;
    const int64_t row = block % tiles * CCQ_PLACE_SIDE, first = block / tiles * CCQ_PLACE_SIDE;

    for (int i = t; i < CCQ_PLACE_SIDE * WORDS; i += CCQ_PLACE_THREADS) {
        const int column = i / WORDS, word = i % WORDS;
        const int64_t n = first + column;
        uint32_t v = 0;
        if (n >= p->n || row + 4 * word >= rows)
            continue;
        if (p->status[n] != CCQ_COLUMN_ZERO)
            v = ccq_encode_load4(w->bytes + n * rows + row + 4 * word);
        sh->tile[column * CCQ_PLACE_LD / 4 + word] = v;
    }
}

static inline CCQ_HD void ccq_place_write(const ccq_gpu_columns *p, const ccq_gpu_encode_work *w,
                                          int64_t block, int t, const ccq_place_shared *sh)
{
    const int64_t rows = p->k / CCQ_WINDOWS, tiles = (rows + CCQ_PLACE_SIDE - 1) / CCQ_PLACE_SIDE;
    const int64_t row = block % tiles * CCQ_PLACE_SIDE;
    const int64_t n = block / tiles * CCQ_PLACE_SIDE + t % CCQ_PLACE_SIDE;
    const int step = CCQ_PLACE_THREADS / CCQ_PLACE_SIDE, first = t / CCQ_PLACE_SIDE;
    const uint8_t *tile = (const uint8_t *)sh->tile + t % CCQ_PLACE_SIDE * CCQ_PLACE_LD;
    const int pairs = CCQ_PLACE_SIDE * CCQ_WINDOWS / (2 * CCQ_GROUP); /* rows of local scales */

    if (n >= p->n)
        return;
    for (int r = first; r < CCQ_PLACE_SIDE && row + r < rows; r += step)
        p->weight[(row + r) * p->n + n] = tile[r];
    for (int r = first; r < pairs; r += step) {
        const int64_t at = row * CCQ_WINDOWS / (2 * CCQ_GROUP) + r;
        const uint8_t *local = w->local + n * (p->k / CCQ_GROUP) + 2 * at;
        if (at < p->k / (2 * CCQ_GROUP)) /* the even group is the high nibble */
            p->scale[at * p->n + n] = (uint8_t)(
                p->status[n] == CCQ_COLUMN_ZERO ? 0 : local[0] << 4 | local[1]);
    }
}

#endif
