/* Tensors that stay float: copied, cut into torch's projections, turned, or decoded
 * from a quantized input. */
#include "libccq/job.h"

#include <stdlib.h>
#include <string.h>

enum { WINDOW = 16 << 20 }; /* bytes of a copied tensor held at once */

static ccq_code no_memory(const ccq_action *a, ccq_error *err)
{
    return ccq_fail(err, CCQ_NO_MEMORY, "%s: out of memory", a->entry->name);
}

/* One stored tensor in Paddle order on both sides: any run of its rows can go alone. */
static int plain(const ccq_plan *plan, const ccq_action *a)
{
    const ccq_entry *e = a->entry;
    return plan->options.names == CCQ_NAMES_PADDLE && !e->weight_scale && e->pieces == 1 &&
           !e->piece[0].transposed && a->k == e->k && a->n == e->n;
}

static int64_t window_rows(const ccq_action *a)
{
    uint64_t row = 2 * (uint64_t)a->n;
    int64_t rows = row && row < WINDOW ? (int64_t)(WINDOW / row) : 1;
    return rows > a->k ? a->k : rows;
}

uint64_t ccq_copy_memory(const ccq_plan *plan, const ccq_action *a)
{
    if (a->to == CCQ_TYPE_F32)
        return 2 * a->bytes_out;
    if (plain(plan, a))
        return 2 * (uint64_t)window_rows(a) * (uint64_t)a->n;
    uint64_t stored = a->entry->weight_scale ? a->bytes_in : 0;
    return (plan->options.names == CCQ_NAMES_TORCH ? 2 : 1) * a->bytes_out + stored;
}

static ccq_code copy_rows(const ccq_engine *engine, const ccq_action *a, ccq_put put, void *ctx,
                          ccq_error *err)
{
    uint64_t row = 2 * (uint64_t)a->n;
    int64_t rows = window_rows(a), k0 = 0;
    uint16_t *x = malloc((size_t)((uint64_t)rows * row) + 1);
    ccq_code code = x ? CCQ_OK : no_memory(a, err);
    while (!code) {
        int64_t kc = a->k - k0 < rows ? a->k - k0 : rows;
        code = ccq_source_read_rows(engine->plan->src, a->entry, k0, kc, x, err);
        if (!code)
            code = put(ctx, a->tensor[0], (uint64_t)k0 * row, x, (uint64_t)kc * row,
                       k0 + kc >= a->k, err);
        k0 += kc;
        if (k0 >= a->k)
            break;
        if (!code)
            code = ccq_engine_poll(engine, err);
    }
    free(x);
    return code;
}

/* y[c][r] = x[r][c], x with row stride ld. */
static void turn16(const uint16_t *x, int64_t ld, int64_t k, int64_t n, uint16_t *y)
{
    enum { BLOCK = 64 };
    for (int64_t r0 = 0; r0 < k; r0 += BLOCK)
        for (int64_t c = 0; c < n; c++)
            for (int64_t r = r0; r < k && r < r0 + BLOCK; r++)
                y[c * k + r] = x[r * ld + c];
}

static void turn32(const uint32_t *x, int64_t ld, int64_t k, int64_t n, uint32_t *y)
{
    for (int64_t r = 0; r < k; r++)
        for (int64_t c = 0; c < n; c++)
            y[c * k + r] = x[r * ld + c];
}

/* Columns of x [k][n], items of size bytes, as they will be stored. */
static void cut(const void *x, size_t size, const ccq_action *a, const ccq_stored *s, void *y)
{
    const char *from = (const char *)x + (size_t)s->n0 * size;
    char *to = y;
    if (s->transposed && size == sizeof(uint16_t))
        turn16((const uint16_t *)x + s->n0, a->n, a->k, s->n, y);
    else if (s->transposed)
        turn32((const uint32_t *)x + s->n0, a->n, a->k, s->n, y);
    else
        for (int64_t r = 0; r < a->k; r++)
            memcpy(to + (size_t)(r * s->n) * size, from + (size_t)(r * a->n) * size,
                   (size_t)s->n * size);
}

/* All stored tensors of the matrix x. */
static ccq_code put_parts(const ccq_engine *engine, const ccq_action *a, const void *x,
                          size_t size, ccq_put put, void *ctx, ccq_error *err)
{
    const ccq_plan *plan = engine->plan;
    ccq_stored stored[5];
    int count = ccq_pack_describe(a, &plan->src->arch, plan->options.names, stored);
    void *y = NULL;
    ccq_code code = CCQ_OK;
    if (count == 1 && !stored[0].transposed)
        return put(ctx, a->tensor[0], 0, x, a->bytes_out, 1, err);
    y = malloc((size_t)a->bytes_out + 1);
    if (!y)
        return no_memory(a, err);
    for (int i = 0; !code && i < count; i++) {
        cut(x, size, a, &stored[i], y);
        code = put(ctx, a->tensor[i], 0, y, (uint64_t)a->k * (uint64_t)stored[i].n * size, 1, err);
    }
    free(y);
    return code;
}

/* Router and bias: small. */
static ccq_code read_f32(const ccq_engine *engine, const ccq_action *a, float **x, ccq_error *err)
{
    *x = malloc((size_t)a->bytes_out + 1);
    return *x ? ccq_source_read_f32(engine->plan->src, a->entry, *x, err) : no_memory(a, err);
}

ccq_code ccq_copy_tensor(const ccq_engine *engine, const ccq_action *a, ccq_put put, void *ctx,
                         ccq_error *err)
{
    float *f = NULL;
    uint16_t *h = NULL;
    ccq_code code;
    if (a->to == CCQ_TYPE_BF16 && plain(engine->plan, a))
        return copy_rows(engine, a, put, ctx, err);
    if (a->to == CCQ_TYPE_F32)
        code = read_f32(engine, a, &f, err);
    else
        code = ccq_read_matrix(engine, a, &h, err);
    if (!code)
        code = f ? put_parts(engine, a, f, sizeof *f, put, ctx, err)
                 : put_parts(engine, a, h, sizeof *h, put, ctx, err);
    free(h);
    free(f);
    return code;
}
