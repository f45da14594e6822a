/* A column of every block that a device has encoded, encoded by the CPU as well: a device
 * whose results are not the CPU's is found while it works, not by who serves the model. */
#include "libccq/device_check.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct ccq_device_check {
    ccq_engine *engine;
    float *x;       /* a column */
    uint8_t *bytes; /* its codes, its local scales */
    void *scratch;
    uint64_t blocks; /* so far */
};

ccq_device_check *ccq_device_check_new(ccq_engine *engine, int64_t longest)
{
    ccq_device_check *d = calloc(1, sizeof *d);
    size_t k = (size_t)longest, scratch = (ccq_encode_scratch(longest) + 63) / 64 * 64;
    if (!d)
        return NULL;
    d->engine = engine;
    d->x = malloc(k * sizeof *d->x);
    d->bytes = malloc(k / CCQ_WINDOWS + k / CCQ_GROUP + 1);
    d->scratch = aligned_alloc(64, scratch);
    if (d->x && d->bytes && d->scratch)
        return d;
    ccq_device_check_free(d);
    return NULL;
}

void ccq_device_check_free(ccq_device_check *d)
{
    if (!d)
        return;
    free(d->x);
    free(d->bytes);
    free(d->scratch);
    free(d);
}

static void take_column(ccq_device_check *d, const ccq_columns *c, int64_t n)
{
    int64_t k = c->a->k, first = n - n % c->strip;
    int64_t ld = c->nc - first < c->strip ? c->nc - first : c->strip;
    for (int64_t i = 0; i < k; i++)
        d->x[i] = ccq_bf16_to_f32(c->w[first * k + i * ld + n - first]);
}

static int same_codes(const ccq_device_check *d, const ccq_columns *c, const ccq_columns_got *got,
                      int64_t n)
{
    int64_t k = c->a->k, groups = k / CCQ_GROUP;
    const uint8_t *local = d->bytes + k / CCQ_WINDOWS;
    for (int64_t r = 0; r < k / CCQ_WINDOWS; r++)
        if (got->weight[r * c->nc + n] != d->bytes[r])
            return 0;
    for (int64_t r = 0; r < groups / 2; r++)
        if (got->scale[r * c->nc + n] != (local[2 * r] << 4 | local[2 * r + 1]))
            return 0;
    return 1;
}

ccq_code ccq_device_check_block(ccq_device_check *d, const ccq_columns *c,
                                const ccq_columns_got *got, ccq_error *err)
{
    const ccq_quantize_options *o = &d->engine->plan->options;
    ccq_encode_params p = {o->effort, o->gain, o->order};
    int64_t k = c->a->k, n = (int64_t)(d->blocks++ * 37 % (uint64_t)c->nc);
    ccq_column column = {.bytes = d->bytes, .local = d->bytes + k / CCQ_WINDOWS};
    take_column(d, c, n);
    ccq_encode_column(d->engine->run->ops, &d->engine->encoder, &p, d->x, k, &column, d->scratch);
    if (column.status == got->status[n] &&
        (column.status == CCQ_COLUMN_HUGE ||
         (column.super == got->super[n] &&
          memcmp(&column.code_scale, &got->code_scale[n], sizeof column.code_scale) == 0 &&
          memcmp(&column.code_zp, &got->code_zp[n], sizeof column.code_zp) == 0 &&
          memcmp(&column.error, &got->error[n], sizeof column.error) == 0 &&
          same_codes(d, c, got, n))))
        return CCQ_OK;
    return ccq_fail(err, CCQ_BUG,
                    "%s: column %" PRId64 ": the device does not encode it as the CPU does; "
                    "--device cpu does without it",
                    c->a->entry->name, c->n0 + n);
}
