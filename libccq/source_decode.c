/* A whole entry as bf16, whatever its type: what conversion back to BF16 writes. */
#include "libccq/internal.h"
#include "libccq/source.h"

#include "kernels/convert.h"

#include <stdlib.h>

enum { ROWS = 512 }; /* decoded at a time; a multiple of 64 */

typedef struct decoding {
    const ccq_ops *ops;
    const ccq_weight *w;
    float *panels; /* ROWS x 16 a worker */
    uint16_t *dst;
} decoding;

/* Columns 16 i .. 16 i + 15. The panel holds bf16 values, so the last step is exact. */
static void decode_panel(void *ctx, size_t i, int worker)
{
    const decoding *d = ctx;
    float *panel = d->panels + (size_t)worker * ROWS * CCQ_PANEL;
    int64_t n0 = (int64_t)i * CCQ_PANEL, n = d->w->n, k = d->w->k;
    int cols = n - n0 < CCQ_PANEL ? (int)(n - n0) : CCQ_PANEL;
    for (int64_t k0 = 0; k0 < k; k0 += ROWS) {
        int64_t kc = k - k0 < ROWS ? k - k0 : ROWS;
        d->ops->unpack(d->w, k0, kc, n0, panel);
        for (int64_t r = 0; r < kc; r++)
            for (int j = 0; j < cols; j++)
                d->dst[(k0 + r) * n + n0 + j] = ccq_f32_to_bf16(panel[r * CCQ_PANEL + j]);
    }
}

static ccq_code check_finite(const ccq_entry *e, const uint16_t *x, ccq_error *err)
{
    int64_t count = e->k * e->n, i = ccq_bf16_find_nonfinite(x, count);
    return i == count ? CCQ_OK
                      : ccq_fail(err, CCQ_NONFINITE,
                                 "%s: a decoded weight is not finite, first at [%lld,%lld]",
                                 e->name, (long long)(i / e->n), (long long)(i % e->n));
}

ccq_code ccq_source_decode(const ccq_source *src, const ccq_entry *e, int rounding,
                           const ccq_ops *ops, ccq_pool *pool, uint16_t *dst, ccq_error *err)
{
    if (!e->weight_scale)
        return ccq_source_read_bf16(src, e, dst, err);
    if (src->rank)
        return ccq_ranks_decode(src, e, rounding, ops, pool, dst, err);
    ccq_weight w;
    void *memory = NULL;
    size_t workers = (size_t)ccq_pool_threads(pool);
    float *panels = malloc(workers * ROWS * CCQ_PANEL * sizeof *panels);
    ccq_code code = panels ? ccq_source_load(src, e, rounding, &w, &memory, err)
                           : ccq_fail(err, CCQ_NO_MEMORY, "%s: out of memory", e->name);
    if (!code) {
        decoding d = {ops, &w, panels, dst};
        ccq_pool_run(pool, ((size_t)e->n + CCQ_PANEL - 1) / CCQ_PANEL, decode_panel, &d);
        code = check_finite(e, dst, err);
    }
    free(memory);
    free(panels);
    return code;
}
