/* Every weight of an entry: what is not finite, whether anything is not zero, the
 * top-left corner. Unlike reading for use, nothing is refused here. */
#include "libccq/internal.h"
#include "libccq/scan.h"
#include "libccq/slice.h"

#include "kernels/convert.h"

#include <stdlib.h>
#include <string.h>

enum { ROWS = 512 };       /* decoded at a time; a multiple of 64 */
enum { WINDOW = 1 << 18 }; /* bytes of an unquantized tensor read at a time */

static ccq_code no_memory(const ccq_entry *e, ccq_error *err)
{
    return ccq_fail(err, CCQ_NO_MEMORY, "\"%s\": out of memory to decode [%lld, %lld]", e->name,
                    (long long)e->k, (long long)e->n);
}

/* ---- Places --------------------------------------------------------------- */

/* The first non-finite values seen by one pass, in row order. */
typedef struct places {
    uint64_t count;
    int64_t at[CCQ_PLACES][2];
    int used;
    int any; /* a value that is not 0 */
} places;

static int is_before(const int64_t a[2], int64_t k, int64_t n)
{
    return a[0] < k || (a[0] == k && a[1] < n);
}

static void keep_place(places *p, int64_t k, int64_t n)
{
    int i = p->used;
    if (i == CCQ_PLACES && is_before(p->at[i - 1], k, n))
        return;
    i -= i == CCQ_PLACES; /* the last one falls out */
    for (; i > 0 && !is_before(p->at[i - 1], k, n); i--)
        memcpy(p->at[i], p->at[i - 1], sizeof p->at[i]);
    p->at[i][0] = k;
    p->at[i][1] = n;
    p->used += p->used < CCQ_PLACES;
}

static void see(places *p, float x, int64_t k, int64_t n)
{
    p->any |= x != 0;
    if (x - x == 0)
        return;
    p->count++;
    keep_place(p, k, n);
}

/* Adds p, whose places are those of a slice (NULL: of the whole). */
static void add_places(ccq_decoded *out, const places *p, const ccq_slice *s)
{
    places all = {out->nonfinite + p->count, {{0}}, out->places, 0};
    memcpy(all.at, out->place, sizeof all.at);
    for (int i = 0; i < p->used; i++) {
        int64_t k = p->at[i][0], n = p->at[i][1];
        for (int r = 0; s && r < s->ranges; r++) {
            if (n < s->range[r].count) {
                n += s->range[r].from;
                break;
            }
            n -= s->range[r].count;
        }
        keep_place(&all, k + (s ? s->k0 : 0), n);
    }
    out->nonfinite = all.count;
    out->places = all.used;
    memcpy(out->place, all.at, sizeof all.at);
    out->zero = out->zero && !p->any;
}

/* ---- A quantized entry ---------------------------------------------------- */

typedef struct decoding {
    const ccq_ops *ops;
    const ccq_weight *w;
    float *panels; /* ROWS x 16 a worker */
    places *seen;  /* one a worker: which columns it had does not show */
    ccq_decoded *out;
} decoding;

/* Largest size, as bits, of the values of a panel. */
static int32_t largest(const float *panel, int64_t count)
{
    int32_t most = 0;
    for (int64_t i = 0; i < count; i++) {
        int32_t bits;
        memcpy(&bits, panel + i, sizeof bits);
        bits &= 0x7fffffff;
        most = bits > most ? bits : most;
    }
    return most;
}

/* Columns 16 i .. 16 i + 15; the first panel has the corner. */
static void decode_panel(void *ctx, size_t i, int worker)
{
    const decoding *d = ctx;
    float *panel = d->panels + (size_t)worker * ROWS * CCQ_PANEL;
    int64_t n0 = (int64_t)i * CCQ_PANEL, k = d->w->k;
    int cols = d->w->n - n0 < CCQ_PANEL ? (int)(d->w->n - n0) : CCQ_PANEL;
    for (int64_t k0 = 0; k0 < k; k0 += ROWS) {
        int64_t kc = k - k0 < ROWS ? k - k0 : ROWS;
        d->ops->unpack(d->w, k0, kc, n0, panel);
        int32_t most = largest(panel, kc * CCQ_PANEL); /* what lies past cols is zero */
        d->seen[worker].any |= most != 0;
        for (int64_t r = 0; most >= 0x7f800000 && r < kc; r++)
            for (int j = 0; j < cols; j++)
                see(&d->seen[worker], panel[r * CCQ_PANEL + j], k0 + r, n0 + j);
        for (int r = 0; i == 0 && k0 == 0 && r < d->out->corner_k; r++)
            memcpy(d->out->corner[r], panel + r * CCQ_PANEL, sizeof d->out->corner[r]);
    }
}

/* All tensors of e in one block. *memory is the caller's to free, also on failure. */
static ccq_code load(const ccq_source *src, const ccq_entry *e, ccq_weight *w, void **memory,
                     ccq_error *err)
{
    const ccq_tensor *t[] = {e->piece[0].tensor, e->weight_scale, e->super_scales, e->code_scale,
                             e->code_zp};
    const void *data[5] = {0};
    uint64_t size = 0, at = 0;
    ccq_code code = CCQ_OK;
    for (int i = 0; i < 5; i++)
        size += t[i] ? t[i]->bytes / 64 * 64 + 64 : 0;
    char *block = *memory = aligned_alloc(64, size);
    if (!block)
        return no_memory(e, err);
    for (int i = 0; i < 5 && !code; i++) {
        if (!t[i])
            continue;
        code = ccq_checkpoint_read(src->files, t[i], 0, block + at, t[i]->bytes, err);
        data[i] = block + at;
        at += t[i]->bytes / 64 * 64 + 64;
    }
    *w = (ccq_weight){.k = e->k, .n = e->n, .data = data[0], .order = src->arch.order,
                      .rounding = CCQ_ROUND_FUSED};
    w->type = e->type == CCQ_TYPE_WINT2   ? CCQ_W_WINT2
              : e->type == CCQ_TYPE_WINT4 ? CCQ_W_WINT4
              : e->type == CCQ_TYPE_FP8   ? CCQ_W_FP8
                                          : CCQ_W_WINT8;
    w->local = e->type == CCQ_TYPE_WINT2 ? data[1] : NULL;
    w->block_scale = e->type == CCQ_TYPE_FP8 ? data[1] : NULL;
    w->scale = !w->local && !w->block_scale ? data[1] : NULL;
    w->super = data[2];
    w->code_scale = data[3];
    w->code_zp = data[4];
    return code;
}

static ccq_code scan_quantized(ccq_decoded *out, const ccq_source *src, const ccq_entry *e,
                               const ccq_slice *s, const ccq_ops *ops, ccq_pool *pool,
                               ccq_error *err)
{
    size_t workers = (size_t)ccq_pool_threads(pool);
    ccq_weight w;
    void *memory = NULL;
    float *panels = malloc(workers * ROWS * CCQ_PANEL * sizeof *panels);
    places *seen = calloc(workers, sizeof *seen);
    ccq_decoded corner = {.corner_k = out->corner_k}; /* every rank has one, the first counts */
    ccq_code code = panels && seen ? load(src, e, &w, &memory, err) : no_memory(e, err);
    if (!code) {
        decoding d = {ops, &w, panels, seen, &corner};
        ccq_pool_run(pool, ((size_t)e->n + CCQ_PANEL - 1) / CCQ_PANEL, decode_panel, &d);
        for (size_t i = 0; i < workers; i++)
            add_places(out, &seen[i], s);
        if (!s || (s->k0 == 0 && s->range[0].from == 0))
            memcpy(out->corner, corner.corner, sizeof out->corner);
    }
    free(memory);
    free(panels);
    free(seen);
    return code;
}

/* ---- Another one ---------------------------------------------------------- */

static float value_of(const unsigned char *p, int dtype)
{
    uint16_t half;
    float f;
    if (dtype == CCQ_DT_F32) {
        memcpy(&f, p, 4);
        return f;
    }
    memcpy(&half, p, 2);
    return dtype == CCQ_DT_F16 ? ccq_f16_to_f32(half) : ccq_bf16_to_f32(half);
}

static void see_stored(places *seen, ccq_decoded *out, const ccq_entry *e, const ccq_piece *p,
                       uint64_t index, float x, int corner)
{
    uint64_t width = (uint64_t)(p->transposed ? e->k : p->n);
    int64_t row = (int64_t)(index / width), column = (int64_t)(index % width);
    int64_t k = p->transposed ? column : row, n = p->n0 + (p->transposed ? row : column);
    see(seen, x, k, n);
    if (corner && k < out->corner_k && n < out->corner_n)
        out->corner[k][n] = x;
}

static ccq_code scan_piece(places *seen, ccq_decoded *out, const ccq_source *src,
                           const ccq_entry *e, const ccq_piece *p, int corner, ccq_error *err)
{
    const ccq_tensor *t = p->tensor;
    size_t step = ccq_dtype_bits((ccq_dtype)t->dtype) / 8;
    unsigned char *window = malloc(WINDOW);
    ccq_code code = window ? CCQ_OK : no_memory(e, err);
    for (uint64_t at = 0; at < t->bytes && !code; at += WINDOW) {
        uint64_t size = t->bytes - at < WINDOW ? t->bytes - at : WINDOW;
        code = ccq_checkpoint_read(src->files, t, at, window, size, err);
        for (size_t i = 0; i + step <= size && !code; i += step)
            see_stored(seen, out, e, p, (at + i) / step, value_of(window + i, t->dtype), corner);
    }
    free(window);
    return code;
}

static ccq_code scan_one(ccq_decoded *out, const ccq_source *src, const ccq_entry *e,
                         const ccq_slice *s, const ccq_ops *ops, ccq_pool *pool, ccq_error *err)
{
    places seen = {0};
    int corner = !s || (s->k0 == 0 && s->range[0].from == 0);
    ccq_code code = CCQ_OK;
    if (e->weight_scale)
        return scan_quantized(out, src, e, s, ops, pool, err);
    for (int i = 0; i < e->pieces && !code; i++)
        code = scan_piece(&seen, out, src, e, &e->piece[i], corner, err);
    add_places(out, &seen, s);
    return code;
}

ccq_code ccq_scan_decoded(ccq_decoded *out, const ccq_source *src, const ccq_entry *e,
                          const ccq_ops *ops, ccq_pool *pool, ccq_error *err)
{
    int ranks = !src->rank ? 0 : ccq_cut_of(e) == CCQ_CUT_NONE ? 1 : src->ranks;
    ccq_code code = CCQ_OK;
    *out = (ccq_decoded){.zero = 1};
    out->corner_k = e->k < CCQ_CORNER ? (int)e->k : CCQ_CORNER;
    out->corner_n = e->n < CCQ_CORNER ? (int)e->n : CCQ_CORNER;
    if (!ranks)
        return scan_one(out, src, e, NULL, ops, pool, err);
    for (int r = 0; r < ranks && !code; r++) {
        ccq_slice s;
        ccq_slice_of(&src->arch, e, r, src->ranks, &s);
        code = scan_one(out, src->rank[r], ccq_rank_entry(src, e, r), &s, ops, pool, err);
    }
    return code;
}
