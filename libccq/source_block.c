/* Any block of rows and columns of an entry as it lies in the files: what lets a
 * matrix be worked in pieces. */
#include "libccq/internal.h"

#include <stdlib.h>
#include <string.h>

enum {
    BOUNCE = 1 << 18,     /* bytes read at once where they cannot go straight to their place:
                             what the second cache holds */
    SHORT = 4096,         /* bytes of a row's part that are worth a read of their own */
    MOST_WASTE = 6        /* else whole rows are read, unless they are so many times longer */
};

/* Columns of one piece: the block's rows k0..k0+kc-1, its own columns j0..j0+jc-1. */
typedef struct part {
    const ccq_source *src;
    const ccq_entry *e;
    const ccq_piece *p;
    int64_t k0, kc, j0, jc;
    uint16_t *dst;
    int64_t ld;
} part;

static ccq_code take_bounce(const part *t, int64_t row, uint16_t **buffer, int64_t *rows,
                            ccq_error *err)
{
    *rows = row < BOUNCE / 2 ? BOUNCE / 2 / row : 1;
    *buffer = malloc((size_t)*rows * (size_t)row * sizeof **buffer);
    return *buffer ? CCQ_OK : ccq_fail(err, CCQ_NO_MEMORY, "%s: out of memory", t->e->name);
}

/* A row's part at a time, or whole rows of which a part is kept. */
static ccq_code read_rows(const part *t, ccq_error *err)
{
    int64_t n = t->p->n, step = 1;
    uint16_t *buffer = NULL;
    ccq_code code = CCQ_OK;
    if (t->jc == n && t->ld == n)
        return ccq_read_elements(t->src, t->p->tensor, (uint64_t)(t->k0 * n),
                                 (uint64_t)(t->kc * n), t->dst, err);
    int whole = 2 * t->jc < SHORT && n <= MOST_WASTE * t->jc;
    if (whole && (code = take_bounce(t, n, &buffer, &step, err)))
        return code;
    for (int64_t r = 0; r < t->kc && !code; r += step) {
        int64_t rows = t->kc - r < step ? t->kc - r : step, at = (t->k0 + r) * n;
        uint16_t *to = t->dst + r * t->ld;
        if (!whole) {
            code = ccq_read_elements(t->src, t->p->tensor, (uint64_t)(at + t->j0),
                                     (uint64_t)t->jc, to, err);
            continue;
        }
        code = ccq_read_elements(t->src, t->p->tensor, (uint64_t)at, (uint64_t)(rows * n), buffer,
                                 err);
        for (int64_t i = 0; i < rows && !code; i++)
            memcpy(to + i * t->ld, buffer + i * n + t->j0, (size_t)t->jc * sizeof *to);
    }
    free(buffer);
    return code;
}

/* y[i][j] = x[j][i] for i < k, j < n. */
static void turn(const uint16_t *x, int64_t k, int64_t n, uint16_t *y, int64_t ld)
{
    enum { SIDE = 64 };
    for (int64_t i0 = 0; i0 < k; i0 += SIDE)
        for (int64_t j0 = 0; j0 < n; j0 += SIDE)
            for (int64_t i = i0; i < k && i < i0 + SIDE; i++)
                for (int64_t j = j0; j < n && j < j0 + SIDE; j++)
                    y[i * ld + j] = x[j * k + i];
}

/* Stored [n][k]: the block's columns are stored rows. */
static ccq_code read_turned(const part *t, ccq_error *err)
{
    int64_t k = t->e->k, step;
    uint16_t *buffer;
    ccq_code code = take_bounce(t, t->kc, &buffer, &step, err);
    for (int64_t j = 0; j < t->jc && !code; j += step) {
        int64_t count = t->jc - j < step ? t->jc - j : step, at = (t->j0 + j) * k + t->k0;
        if (t->kc == k)
            code = ccq_read_elements(t->src, t->p->tensor, (uint64_t)at, (uint64_t)(count * k),
                                     buffer, err);
        else
            for (int64_t i = 0; i < count && !code; i++)
                code = ccq_read_elements(t->src, t->p->tensor, (uint64_t)(at + i * k),
                                         (uint64_t)t->kc, buffer + i * t->kc, err);
        if (!code)
            turn(buffer, t->kc, count, t->dst + j, t->ld);
    }
    free(buffer);
    return code;
}

ccq_code ccq_source_read_block(const ccq_source *src, const ccq_entry *e, int64_t k0, int64_t kc,
                               int64_t n0, int64_t nc, uint16_t *dst, int64_t ld, ccq_error *err)
{
    if (src->rank || e->weight_scale || k0 < 0 || kc > e->k - k0 || n0 < 0 || nc > e->n - n0)
        return ccq_fail(err, CCQ_BUG, "%s: no block of %lld rows from %lld, %lld columns from %lld",
                        e->name, (long long)kc, (long long)k0, (long long)nc, (long long)n0);
    for (int i = 0; i < e->pieces; i++) {
        const ccq_piece *p = &e->piece[i];
        int64_t from = n0 > p->n0 ? n0 : p->n0;
        int64_t end = n0 + nc < p->n0 + p->n ? n0 + nc : p->n0 + p->n;
        part t = {src, e, p, k0, kc, from - p->n0, end - from, dst + (from - n0), ld};
        ccq_code code = from >= end ? CCQ_OK : p->transposed ? read_turned(&t, err)
                                                             : read_rows(&t, err);
        if (code)
            return code;
    }
    return CCQ_OK;
}

ccq_code ccq_source_blame(const ccq_source *src, const ccq_entry *e, ccq_error *err)
{
    int64_t n = e->n, step = n < BOUNCE ? BOUNCE / n : 1, bad = 0, first = 0;
    uint16_t *x = malloc((size_t)(step * n) * sizeof *x);
    ccq_code code = x ? CCQ_OK : ccq_fail(err, CCQ_NO_MEMORY, "%s: out of memory", e->name);
    for (int64_t k0 = 0; k0 < e->k && !code; k0 += step) {
        int64_t rows = e->k - k0 < step ? e->k - k0 : step;
        code = ccq_source_read_block(src, e, k0, rows, 0, n, x, n, err);
        for (int64_t i = 0; i < rows * n && !code; i++)
            if ((x[i] & 0x7f80) == 0x7f80 && bad++ == 0)
                first = k0 * n + i;
    }
    free(x);
    if (code)
        return code;
    return bad ? ccq_nonfinite(e->name, bad, first, 0, n, err)
               : ccq_fail(err, CCQ_CHANGED, "%s: changed while it was read", e->name);
}
