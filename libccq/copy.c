/* Tensors that stay float: copied, cut into torch's projections, turned, or decoded
 * from a quantized input. */
#include "libccq/job.h"
#include "libccq/slice.h"

#include <stdlib.h>
#include <string.h>

enum { WINDOW = 16 << 20 }; /* bytes of a copied tensor held at once */

static ccq_code no_memory(const ccq_action *a, ccq_error *err)
{
    return ccq_fail(err, CCQ_NO_MEMORY, "%s: out of memory", a->entry->name);
}

static int touched(const ccq_plan *plan, const ccq_action *a)
{
    return plan->transform && ccq_transform_touches(plan->transform, a->entry);
}

/* One stored tensor in Paddle order on both sides: any run of its rows can go alone. */
static int plain(const ccq_plan *plan, const ccq_action *a)
{
    const ccq_entry *e = a->entry;
    return !touched(plan, a) && plan->options.names == CCQ_NAMES_PADDLE && !e->weight_scale &&
           e->pieces == 1 && !e->piece[0].transposed;
}

static int64_t window_rows(const ccq_action *a)
{
    uint64_t row = 2 * (uint64_t)a->entry->n;
    int64_t rows = row && row < WINDOW ? (int64_t)(WINDOW / row) : 1;
    return rows > a->k ? a->k : rows;
}

uint64_t ccq_copy_memory(const ccq_plan *plan, const ccq_action *a)
{
    uint64_t whole = 2 * ccq_entry_parameters(a->entry);
    uint64_t part = a->bytes_out / (uint64_t)plan->ranks;
    int cut = plan->ranks > 1, turned = plan->options.names == CCQ_NAMES_TORCH;
    if (a->to == CCQ_TYPE_F32)
        return 2 * part;
    if (plain(plan, a))
        return (uint64_t)(cut ? 4 : 2) * (uint64_t)window_rows(a) * (uint64_t)a->entry->n;
    uint64_t stored = a->entry->weight_scale ? a->bytes_in : 0;
    return whole + (cut || turned ? part : 0) +
           (touched(plan, a) ? ccq_transform_memory(plan->transform, a->entry) : stored);
}

/* Number of tensor i of the action in a rank. */
static size_t number(const ccq_plan *plan, const ccq_action *a, int i, int rank)
{
    return (size_t)rank * ccq_layout_count(plan->layout) + a->tensor[i];
}

/* Of x, rows k0..k0+kc-1 of the slice's rows in all columns, what belongs to the slice. */
static const uint16_t *take(const ccq_slice *s, int64_t kc, const uint16_t *x, uint16_t *y)
{
    ccq_slice window = *s;
    if (s->n == s->whole_n)
        return x;
    window.k0 = 0;
    window.k = kc;
    ccq_slice_take(&window, x, y);
    return y;
}

static ccq_code copy_rows(const ccq_engine *engine, const ccq_action *a, int rank, uint16_t *x,
                          uint16_t *y, ccq_put put, void *ctx, ccq_error *err)
{
    const ccq_plan *plan = engine->plan;
    uint64_t row = 2 * (uint64_t)a->n;
    int64_t rows = window_rows(a);
    ccq_slice s;
    ccq_code code = CCQ_OK;
    ccq_slice_of(&plan->src->arch, a->entry, rank, plan->ranks, &s);
    for (int64_t k0 = 0; k0 < s.k && !code; k0 += rows) {
        int64_t kc = s.k - k0 < rows ? s.k - k0 : rows;
        code = k0 ? ccq_engine_poll(engine, err) : CCQ_OK;
        if (!code)
            code = ccq_source_read_rows(plan->src, a->entry, s.k0 + k0, kc, x, err);
        if (!code)
            code = put(ctx, number(plan, a, 0, rank), (uint64_t)k0 * row, take(&s, kc, x, y),
                       (uint64_t)kc * row, k0 + kc >= s.k, err);
    }
    return code;
}

static ccq_code copy_windows(const ccq_engine *engine, const ccq_action *a, ccq_put put, void *ctx,
                             ccq_error *err)
{
    size_t size = (size_t)window_rows(a) * (size_t)a->entry->n * sizeof(uint16_t) + 1;
    uint16_t *x = malloc(size), *y = engine->plan->ranks > 1 ? malloc(size) : NULL;
    ccq_code code = x && (y || engine->plan->ranks == 1) ? CCQ_OK : no_memory(a, err);
    for (int r = 0; r < engine->plan->ranks && !code; r++)
        code = copy_rows(engine, a, r, x, y, put, ctx, err);
    free(x);
    free(y);
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

/* All stored tensors of a rank's matrix x. */
static ccq_code put_parts(const ccq_engine *engine, const ccq_action *a, int rank, const void *x,
                          size_t size, ccq_put put, void *ctx, ccq_error *err)
{
    const ccq_plan *plan = engine->plan;
    uint64_t bytes = (uint64_t)a->k * (uint64_t)a->n * size;
    ccq_stored stored[5];
    int count = ccq_pack_describe(a, &plan->src->arch, plan->options.names, stored);
    void *y = NULL;
    ccq_code code = CCQ_OK;
    if (count == 1 && !stored[0].transposed)
        return put(ctx, number(plan, a, 0, rank), 0, x, bytes, 1, err);
    y = malloc((size_t)bytes + 1);
    if (!y)
        return no_memory(a, err);
    for (int i = 0; !code && i < count; i++) {
        cut(x, size, a, &stored[i], y);
        code = put(ctx, number(plan, a, i, rank), 0, y,
                   (uint64_t)a->k * (uint64_t)stored[i].n * size, 1, err);
    }
    free(y);
    return code;
}

/* Router and bias: small, and whole in every rank. */
static ccq_code copy_f32(const ccq_engine *engine, const ccq_action *a, ccq_put put, void *ctx,
                         ccq_error *err)
{
    const ccq_plan *plan = engine->plan;
    float *x = malloc((size_t)ccq_entry_parameters(a->entry) * sizeof *x + 1);
    ccq_code code = !x                ? no_memory(a, err)
                    : plan->transform ? ccq_transform_matrix(plan->transform, a->entry,
                                                             engine->run->pool, x, err)
                                      : ccq_source_read_f32(plan->src, a->entry, x, err);
    for (int r = 0; r < engine->plan->ranks && !code; r++)
        code = put_parts(engine, a, r, x, sizeof *x, put, ctx, err);
    free(x);
    return code;
}

/* What has to be joined, turned, decoded or cut whole. */
static ccq_code copy_matrix(const ccq_engine *engine, const ccq_action *a, ccq_put put, void *ctx,
                            ccq_error *err)
{
    const ccq_plan *plan = engine->plan;
    uint16_t *x = NULL, *y = NULL;
    ccq_slice s;
    ccq_code code = CCQ_OK;
    if (plan->ranks > 1 && !(y = malloc((size_t)a->k * (size_t)a->n * sizeof *y + 1)))
        code = no_memory(a, err);
    if (!code)
        code = ccq_read_matrix(engine, a, &x, err);
    for (int r = 0; r < plan->ranks && !code; r++) {
        ccq_slice_of(&plan->src->arch, a->entry, r, plan->ranks, &s);
        if (y)
            ccq_slice_take(&s, x, y);
        code = put_parts(engine, a, r, y ? y : x, sizeof *x, put, ctx, err);
    }
    free(x);
    free(y);
    return code;
}

ccq_code ccq_copy_tensor(const ccq_engine *engine, const ccq_action *a, ccq_put put, void *ctx,
                         ccq_error *err)
{
    if (a->to == CCQ_TYPE_F32)
        return copy_f32(engine, a, put, ctx, err);
    return plain(engine->plan, a) ? copy_windows(engine, a, put, ctx, err)
                                  : copy_matrix(engine, a, put, ctx, err);
}
