/* Matrix products. One law: an output is one fp32 chain over ascending k. The
 * loops below may go over rows, columns and blocks of k in any order, because
 * an accumulator that is stored and loaded again keeps its bits. */
#include "kernels/internal.h"
#include "kernels/ops.h"

#include <math.h>
#include <string.h>

enum {
    BLOCK_K = 320,    /* rows of w decoded at a time: a panel of 20 KiB, in L1 */
    BLOCK_ROWS = 384, /* rows of x packed at a time: 480 KiB, in L2 */
    BLOCK_N = 64,     /* columns decoded at a time: whole cache lines of bf16 rows */
    FEW_ROWS = 8      /* up to here x is read where it lies */
};

void ccq_product_c(const float *x, int64_t ldx, int64_t rows, const float *panel, int64_t kc,
                   float *acc, int64_t ldacc)
{
    int64_t r, k;
    int j;

    for (r = 0; r < rows; r++)
        for (k = 0; k < kc; k++)
            for (j = 0; j < CCQ_PANEL; j++)
                acc[r * ldacc + j] = __builtin_fmaf(x[r * ldx + k], panel[k * CCQ_PANEL + j],
                                                    acc[r * ldacc + j]);
}

int64_t ccq_gemv_c(const ccq_weight *w, const float *x, int64_t ldx, int64_t rows, int64_t n0,
                   int64_t n1, float *y, int64_t ldy)
{
    (void)w, (void)x, (void)ldx, (void)rows, (void)n0, (void)n1, (void)y, (void)ldy;
    return 0;
}

static int scale_serves(uint16_t bits)
{
    return fabsf(ccq_bf16_to_f32(bits)) <= 0x1p90f;
}

int ccq_gemv_serves(const ccq_weight *w, int64_t n0, int64_t n1)
{
    int64_t n;

    if (w->type == CCQ_W_BF16)
        return 1;
    if (w->type == CCQ_W_WINT8 || w->type == CCQ_W_WINT4) {
        for (n = n0; n < n1 && scale_serves(w->scale[n]);)
            n++;
        return n == n1 && w->k % CCQ_GROUP == 0;
    }
    if (w->type != CCQ_W_WINT2 || w->rounding != CCQ_ROUND_FUSED)
        return 0;
    for (n = n0; n < n1; n++) /* every word fits int32: words rise or fall with the byte */
        if (!scale_serves(w->super[n]) || !(fabsf(w->code_zp[n]) < 0x1p29f) ||
            !(fabsf(w->code_scale[n]) < 0x1p20f))
            return 0;
    return 1;
}

static int is_256th(float f)
{
    return fabsf(f) < 32768.0f && f * 256.0f == rintf(f * 256.0f);
}

int ccq_lines_are_exact(const ccq_weight *w, int64_t n0, int64_t n1)
{
    int64_t n;

    for (n = n0; n < n1; n++) {
        float cs = w->code_scale[n], zp = w->code_zp[n], last = 255.0f * cs + zp;
        if (!is_256th(cs) || !is_256th(zp) || !(zp >= -0.5f) || !(last >= -0.5f) ||
            !(zp < 32767.5f) || !(last < 32767.5f))
            return 0;
    }
    return 1;
}

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

size_t ccq_matmul_scratch(int64_t rows)
{
    size_t block = (size_t)min64(rows, BLOCK_ROWS);
    return block * BLOCK_K + (size_t)BLOCK_K * BLOCK_N + block * CCQ_PANEL;
}

/* One block of the product: what its loops share. */
typedef struct block {
    const ccq_ops *ops;
    const ccq_weight *w;
    const float *x; /* rows x kc, from row k0 of w */
    int64_t ldx, rows, k0, kc;
    float *y;
    int64_t ldy;
    float *panels; /* BLOCK_N / 16 panels of kc x 16 */
    float *edge;   /* rows x 16, for a panel that y does not hold whole */
} block;

/* y[r][n..n+width-1] += block, width < 16. */
static void product_edge(const block *b, const float *panel, int64_t n, int64_t width)
{
    size_t bytes = (size_t)width * sizeof(float);
    int64_t r;

    for (r = 0; r < b->rows; r++)
        memcpy(b->edge + r * CCQ_PANEL, b->y + r * b->ldy + n, bytes);
    b->ops->product(b->x, b->ldx, b->rows, panel, b->kc, b->edge, CCQ_PANEL);
    for (r = 0; r < b->rows; r++)
        memcpy(b->y + r * b->ldy + n, b->edge + r * CCQ_PANEL, bytes);
}

/* Columns n..n1-1, at most BLOCK_N of them. */
static void product_columns(const block *b, int64_t n, int64_t n1)
{
    int64_t c, k, part;

    /* 64 rows at a time: neighbouring panels share the cache lines of w. */
    for (k = 0; k < b->kc; k += CCQ_GROUP)
        for (c = n; c < n1; c += CCQ_PANEL) {
            part = min64(CCQ_GROUP, b->kc - k);
            b->ops->unpack(b->w, b->k0 + k, part, c,
                           b->panels + ((c - n) * b->kc) + k * CCQ_PANEL);
        }
    for (c = n; c < n1; c += CCQ_PANEL) {
        const float *panel = b->panels + (c - n) * b->kc;
        if (n1 - c < CCQ_PANEL)
            product_edge(b, panel, c, n1 - c);
        else
            b->ops->product(b->x, b->ldx, b->rows, panel, b->kc, b->y + c, b->ldy);
    }
}

static void pack(const float *x, int64_t ldx, int64_t rows, int64_t kc, float *to)
{
    int64_t r;

    for (r = 0; r < rows; r++)
        memcpy(to + r * kc, x + r * ldx, (size_t)kc * sizeof *to);
}

/* With few rows the weights are read once and memory sets the pace: where a row
 * of w is contiguous, go through it with as few rows open as unpack allows. */
static int64_t block_k(const ccq_weight *w, int64_t rows)
{
    int contiguous = w->type == CCQ_W_BF16 || w->type == CCQ_W_F32 || w->type == CCQ_W_WINT2;

    return rows <= FEW_ROWS && contiguous ? CCQ_GROUP : BLOCK_K;
}

/* At most BLOCK_ROWS rows. */
static void matmul_rows(block *b, const float *x, int64_t ldx, int64_t n0, int64_t n1, int bf16,
                        float *packed)
{
    int64_t n, r, end;

    for (r = 0; r < b->rows; r++)
        memset(b->y + r * b->ldy + n0, 0, (size_t)(n1 - n0) * sizeof(float));
    for (b->k0 = 0; b->k0 < b->w->k; b->k0 += b->kc) {
        b->kc = min64(block_k(b->w, b->rows), b->w->k - b->k0);
        b->x = x + b->k0;
        b->ldx = ldx;
        if (b->rows > FEW_ROWS) {
            pack(b->x, ldx, b->rows, b->kc, packed);
            b->x = packed;
            b->ldx = b->kc;
        }
        for (n = n0; n < n1; n = end) {
            end = min64(n + BLOCK_N, n1);
            product_columns(b, n, end);
        }
    }
    for (r = 0; bf16 && r < b->rows; r++)
        b->ops->round(b->y + r * b->ldy + n0, n1 - n0, b->y + r * b->ldy + n0);
}

void ccq_matmul(const ccq_ops *ops, const ccq_weight *w, const float *x, int64_t ldx, int64_t rows,
                int64_t n0, int64_t n1, int bf16, float *y, int64_t ldy, float *scratch)
{
    int64_t r, most = min64(rows, BLOCK_ROWS), done = 0;
    float *packed = scratch, *panels = packed + most * BLOCK_K;
    block b = {.ops = ops, .w = w, .ldy = ldy, .panels = panels,
               .edge = panels + BLOCK_K * BLOCK_N};

    if (rows <= CCQ_FEW && n1 - n0 >= CCQ_PANEL)
        done = ops->gemv(w, x, ldx, rows, n0, n1, y, ldy);
    for (r = 0; bf16 && done && r < rows; r++)
        ops->round(y + r * ldy + n0, done, y + r * ldy + n0);
    n0 += done;
    if (n0 == n1)
        return;
    for (r = 0; r < rows; r += b.rows) {
        b.rows = min64(BLOCK_ROWS, rows - r);
        b.y = y + r * ldy;
        matmul_rows(&b, x + r * ldx, ldx, n0, n1, bf16, packed);
    }
}
