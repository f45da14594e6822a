/* Encoding with error feedback on a device: what kernels/feedback.c does, and in its order, so
 * that the bits are the same. 32 columns are a strip, and a warp's lane is a column; arrays
 * lie strip after strip, [rows][32].
 *
 * A chain over all rows before a group, or over all rows, goes tile by tile (chain below).
 * Where the CPU adds a finished group to all that comes after it, here a group fetches what
 * those before it have left: the chain of each element is the same. */
#ifndef CCQ_KERNELS_GPU_FEEDBACK_BODY_H
#define CCQ_KERNELS_GPU_FEEDBACK_BODY_H

#include "kernels/column.h"
#include "kernels/feedback_metric.h"
#include "kernels/gpu/block.h"
#include "kernels/gpu_encode.h"

enum {
    CCQ_FB_COLUMNS = 32,
    CCQ_FB_THREADS = 256,
    CCQ_FB_WARPS = CCQ_FB_THREADS / 32,
    CCQ_FB_ROWS = CCQ_GROUP / CCQ_FB_WARPS, /* of a group, a warp's */
    CCQ_FB_BYTES = CCQ_GROUP / CCQ_WINDOWS,
    CCQ_FB_TILE = CCQ_GROUP * CCQ_GROUP,
    CCQ_FB_PANEL = CCQ_GROUP * CCQ_FB_COLUMNS, /* a group of a strip */
    CCQ_FB_VALUES = CCQ_CODES * CCQ_WINDOWS,
    CCQ_FB_ARRAYS = 5 /* after the lines: d and back, x, r, hw, hx */
};

typedef struct ccq_fb_line {
    float cs, zp, rms;
} ccq_fb_line;

/* Everything a kernel needs. Sizes are those of padded columns: strips * 32. */
typedef struct ccq_fb {
    int64_t k, n, groups, strips;
    int entries, norms, width, joint, gain; /* norms: lines of the metric */
    ccq_fb_line line[CCQ_BOOKS];
    /* The metric: kernels/feedback_metric.h. */
    const float *u, *h, *metric, *norm, *turned_norm, *value;
    const float *target, *original; /* [k][n] */
    const int32_t *rows;            /* logical row at each place */
    ccq_gpu_columns out;            /* where the tensors and figures go */
    /* By column */
    float *scale, *s, *by, *line_s; /* 2^-e; super scale; what it was multiplied by; [entries] */
    double *line_loss, *before;     /* [entries]; the loss after the last pass */
    int32_t *e;
    uint8_t *encoded, *active, *entry;
    /* By row and column */
    float *rms;              /* of groups of w */
    float *w, *line_e;       /* target, scaled; what the lines get wrong: [entries] */
    float *d, *x, *r, *hw, *hx; /* in the place of line_e: w - q or old less new; original,
                                   scaled; H (w - q); H w; H x */
    uint8_t *line_bytes, *line_local; /* [entries] */
    uint8_t *bytes, *local;
    uint8_t *changed;        /* by strip and group: this pass has changed codes */
} ccq_fb;

/* What a thread keeps between barriers. */
typedef struct ccq_fb_thread {
    float acc[CCQ_FB_ROWS];
    float l, g, inv, loss;
    double total;
} ccq_fb_thread;

/* ---- Where things lie ---------------------------------------------------- */

static inline CCQ_HD int64_t ccq_fb_columns(const ccq_fb *p)
{
    return p->strips * CCQ_FB_COLUMNS;
}

/* Element 0 of group g of a strip in an array with `rows` rows a group. */
static inline CCQ_HD int64_t ccq_fb_group(const ccq_fb *p, int64_t strip, int64_t g, int rows)
{
    return (strip * p->groups + g) * rows * CCQ_FB_COLUMNS;
}

/* From line to line of an array with `rows` rows a group. */
static inline CCQ_HD int64_t ccq_fb_line_step(const ccq_fb *p, int rows)
{
    return p->groups * rows * ccq_fb_columns(p);
}

/* Element 0 of a column; rows are CCQ_FB_COLUMNS apart. */
static inline CCQ_HD int64_t ccq_fb_column(const ccq_fb *p, int64_t column, int rows)
{
    return ccq_fb_group(p, column / CCQ_FB_COLUMNS, 0, rows) + column % CCQ_FB_COLUMNS;
}

CCQ_INLINE void ccq_fb_take4(const float *from, float to[4])
{
#ifdef __CUDA_ARCH__
    float4 v = *reinterpret_cast<const float4 *>(from);
    to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
#else
    memcpy(to, from, 4 * sizeof *to);
#endif
}

/* The values of a byte on a line. */
CCQ_INLINE void ccq_fb_values(const ccq_fb *p, int entry, int byte, float c[CCQ_WINDOWS])
{
    int32_t word = ccq_word_fused(byte, p->line[entry].cs, p->line[entry].zp);

    CCQ_UNROLL
    for (int i = 0; i < CCQ_WINDOWS; i++)
        c[i] = (float)ccq_code_value(word, i);
}

/* ---- Chains -------------------------------------------------------------- */

/* Two tiles of a matrix and what they are multiplied with, one on its way. */
typedef struct ccq_fb_chain {
    float a[2][CCQ_FB_TILE], x[2][CCQ_FB_PANEL];
} ccq_fb_chain;

/* acc[i] += the chain of a[8 warp + i][j] x[j] over a group. */
CCQ_INLINE void ccq_fb_add_tile(const float *a, const float *x, int t, float acc[CCQ_FB_ROWS])
{
    a += t / 32 * CCQ_FB_ROWS * CCQ_GROUP;
    x += t % 32;
    CCQ_UNROLL_BY(4)
    for (int j = 0; j < CCQ_GROUP; j += 4) {
        float v[4], u[4];
        CCQ_UNROLL
        for (int q = 0; q < 4; q++)
            v[q] = x[(j + q) * CCQ_FB_COLUMNS];
        CCQ_UNROLL
        for (int i = 0; i < CCQ_FB_ROWS; i++) {
            ccq_fb_take4(a + i * CCQ_GROUP + j, u);
            CCQ_UNROLL
            for (int q = 0; q < 4; q++)
                acc[i] = __builtin_fmaf(u[q], v[q], acc[i]);
        }
    }
}

CCQ_INLINE void ccq_fb_fetch(ccq_fb_chain *c, int64_t turn, const float *a, const float *x, int t)
{
    ccq_block_copy(c->a[turn & 1], a, (int)sizeof c->a[0], t, CCQ_FB_THREADS);
    ccq_block_copy(c->x[turn & 1], x, (int)sizeof c->x[0], t, CCQ_FB_THREADS);
}

/* The first group from j on that counts: all where flags is NULL. */
static inline CCQ_HD int64_t ccq_fb_next(const uint8_t *flags, int64_t j, int64_t end)
{
    while (j < end && flags && !flags[j])
        j++;
    return j;
}

/* acc of all threads += the chain over groups j..end-1 of tiles a + j and panels x + j. */
CCQ_INLINE void ccq_fb_add_tiles(ccq_fb_chain *c, const float *a, const float *x,
                                 const uint8_t *flags, int64_t j, int64_t end, ccq_fb_thread *th)
{
    int64_t turn = 0;

    j = ccq_fb_next(flags, j, end);
    if (j >= end)
        return;
    CCQ_THREADS(CCQ_FB_THREADS, t) {
        ccq_fb_fetch(c, 0, a + j * CCQ_FB_TILE, x + j * CCQ_FB_PANEL, t);
        ccq_block_batch();
    }
    while (j < end) {
        const int64_t next = ccq_fb_next(flags, j + 1, end);
        CCQ_THREADS(CCQ_FB_THREADS, t) {
            if (next < end)
                ccq_fb_fetch(c, turn + 1, a + next * CCQ_FB_TILE, x + next * CCQ_FB_PANEL, t);
            ccq_block_batch();
            ccq_block_landed(1);
        }
        CCQ_THREADS(CCQ_FB_THREADS, t)
            ccq_fb_add_tile(c->a[turn & 1], c->x[turn & 1], t, th[CCQ_OWN(t)].acc);
        j = next;
        turn++;
    }
}

/* Thread t's rows of a group, 8 warp + i. */
CCQ_INLINE void ccq_fb_load_rows(const float *from, int t, float acc[CCQ_FB_ROWS])
{
    CCQ_UNROLL
    for (int i = 0; i < CCQ_FB_ROWS; i++)
        acc[i] = from[(t / 32 * CCQ_FB_ROWS + i) * CCQ_FB_COLUMNS + t % 32];
}

CCQ_INLINE void ccq_fb_store_rows(const float acc[CCQ_FB_ROWS], int t, float *to)
{
    CCQ_UNROLL
    for (int i = 0; i < CCQ_FB_ROWS; i++)
        to[(t / 32 * CCQ_FB_ROWS + i) * CCQ_FB_COLUMNS + t % 32] = acc[i];
}

#endif
