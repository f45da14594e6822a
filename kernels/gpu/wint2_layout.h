/* Where a wint2 matrix and its activations lie on a device: index maps only, both ways.
 *
 * A matrix [k][n] comes in tiles of 16 columns and blocks of 128 rows: 32 rows of bytes, 512
 * bytes, of which lane 4g + t of a warp loads 16 at once. It thereby holds the columns g and
 * g + 8 as an mma.m16n8k16 wants them: W transposed is its A, four products a group of 64
 * rows. Which row of W sits in which slot of k does not matter as long as X, the B of the
 * product, sits alike; so the order of rows in a checkpoint is a matter of staging X alone.
 *
 * With g = c % 8, u = c / 8 of a column c of its tile; o the group of the block, t = byte row
 * of the group / 4, q = byte row % 4; p the pair of bytes (2p, 2p+1) of a word, e the byte of
 * the pair, h the half of the four windows, hi the upper half of the slots of k:
 *     product m = 2p + h, window 3 - 2h - hi, slot 8 hi + 2t + e, A register 2 hi + u. */
#ifndef CCQ_KERNELS_GPU_WINT2_LAYOUT_H
#define CCQ_KERNELS_GPU_WINT2_LAYOUT_H

#include "kernels/code.h"

enum {
    CCQ_W2_TILE = 16,   /* columns */
    CCQ_W2_BLOCK = 128, /* rows */
    CCQ_W2_CODES = 512, /* bytes of codes of a tile's block */
    CCQ_W2_LOCALS = 16, /* bytes of local scales of a tile's block */
    CCQ_W2_TOKENS = 8,  /* rows of x of an mma */
    /* Bytes of one row's staged block: 128 halves, what the two groups' sums start from
     * (float), 8 of nothing. 16 modulo 32: the lanes of a load meet no bank twice. */
    CCQ_W2_X = 272,
    CCQ_W2_X_START = 256
};

/* ---- Columns ------------------------------------------------------------- */

/* Column of the checkpoint in place p: with swiglu, tiles of gate and up take turns. */
static inline CCQ_HD int64_t ccq_w2_column(int64_t p, int64_t n, int swiglu)
{
    int64_t tile = p / CCQ_W2_TILE;
    return swiglu ? (tile & 1) * (n / 2) + tile / 2 * CCQ_W2_TILE + p % CCQ_W2_TILE : p;
}

static inline CCQ_HD int64_t ccq_w2_place(int64_t column, int64_t n, int swiglu)
{
    int64_t up = swiglu && column >= n / 2, c = up ? column - n / 2 : column;
    return swiglu ? (2 * (c / CCQ_W2_TILE) + up) * CCQ_W2_TILE + c % CCQ_W2_TILE : column;
}

/* ---- Codes and local scales ---------------------------------------------- */

/* Index of a tile's block: of its codes and locals in units of theirs. */
static inline CCQ_HD int64_t ccq_w2_piece(int64_t tile, int64_t block, int64_t k)
{
    return tile * (k / CCQ_W2_BLOCK) + block;
}

/* Byte of row r of bytes, place p. */
static inline CCQ_HD int64_t ccq_w2_code_at(int64_t r, int64_t p, int64_t k)
{
    int c = (int)(p % CCQ_W2_TILE), g = c % 8, u = c / 8;
    int i = (int)(r % 32), o = i / 16, t = i % 16 / 4, q = i % 4;
    return ccq_w2_piece(p / CCQ_W2_TILE, r / 32, k) * CCQ_W2_CODES + (4 * g + t) * 16 + 8 * o +
           4 * u + q;
}

static inline CCQ_HD void ccq_w2_code_of(int64_t at, int64_t k, int64_t *r, int64_t *p)
{
    int64_t piece = at / CCQ_W2_CODES, blocks = k / CCQ_W2_BLOCK;
    int i = (int)(at % CCQ_W2_CODES), lane = i / 16, g = lane / 4, t = lane % 4;
    int o = i % 16 / 8, u = i % 8 / 4, q = i % 4;
    *r = piece % blocks * 32 + 16 * o + 4 * t + q;
    *p = piece / blocks * CCQ_W2_TILE + 8 * u + g;
}

/* The byte that the two groups of a block share, of place p. */
static inline CCQ_HD int64_t ccq_w2_local_at(int64_t block, int64_t p, int64_t k)
{
    int c = (int)(p % CCQ_W2_TILE);
    return ccq_w2_piece(p / CCQ_W2_TILE, block, k) * CCQ_W2_LOCALS + 2 * (c % 8) + c / 8;
}

static inline CCQ_HD void ccq_w2_local_of(int64_t at, int64_t k, int64_t *block, int64_t *p)
{
    int64_t piece = at / CCQ_W2_LOCALS, blocks = k / CCQ_W2_BLOCK;
    int i = (int)(at % CCQ_W2_LOCALS);
    *block = piece % blocks;
    *p = piece / blocks * CCQ_W2_TILE + i / 2 + i % 2 * 8;
}

/* ---- Activations --------------------------------------------------------- */

/* Stored row of a group in half i = 16t + 4m + 2hi + e of the staged group: a lane's 16 for
 * the four products are 32 bytes in a row. */
static inline CCQ_HD int ccq_w2_x_row(int i)
{
    int t = i / 16, m = i % 16 / 4, hi = i % 4 / 2, e = i % 2;
    return 16 * t + 8 * (m / 2) + 4 * e + 3 - 2 * (m % 2) - hi;
}

static inline CCQ_HD int ccq_w2_x_half(int stored)
{
    int t = stored / 16, p = stored / 8 % 2, e = stored / 4 % 2, w = 3 - stored % 4;
    return 16 * t + 4 * (2 * p + w / 2) + 2 * (w % 2) + e;
}

/* Byte of the staged block of a row, of `rows` rows; blocks of all rows come one after the
 * other. */
static inline CCQ_HD int64_t ccq_w2_x_block(int64_t row, int64_t block, int64_t rows)
{
    return (block * rows + row) * CCQ_W2_X;
}

/* Byte of logical row k of x's row. */
static inline CCQ_HD int64_t ccq_w2_x_at(int64_t row, int64_t k, int order, int64_t rows)
{
    int i = ccq_w2_x_half(ccq_logical_to_stored((int)(k % CCQ_GROUP), order));
    return ccq_w2_x_block(row, k / CCQ_W2_BLOCK, rows) +
           k % CCQ_W2_BLOCK / CCQ_GROUP * (2 * CCQ_GROUP) + 2 * i;
}

static inline CCQ_HD int64_t ccq_w2_x_bytes(int64_t rows, int64_t k)
{
    return rows * (k / CCQ_W2_BLOCK) * CCQ_W2_X;
}

/* ---- Fragments of mma.m16n8k16 ------------------------------------------- */

/* Lane and register of sum (column c of the tile, token). */
static inline CCQ_HD int ccq_w2_sum_lane(int c, int token)
{
    return 4 * (c % 8) + token / 2;
}

static inline CCQ_HD int ccq_w2_sum_register(int c, int token)
{
    return 2 * (c / 8) + token % 2;
}

#endif
