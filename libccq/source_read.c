/* Reading what a source describes: joined, transposed, rounded to bf16, checked. */
#include "libccq/internal.h"
#include "libccq/source.h"

#include "kernels/convert.h"

#include <stdlib.h>
#include <string.h>

ccq_code ccq_nonfinite(const char *name, int64_t bad, int64_t at, int64_t row0, int64_t n,
                       ccq_error *err)
{
    char safe[300];
    return ccq_fail(err, CCQ_NONFINITE, "%s: %lld non-finite values, first at [%lld,%lld]",
                    ccq_escape(safe, sizeof safe, name, strlen(name)), (long long)bad,
                    (long long)(row0 + at / n), (long long)(at % n));
}

static ccq_code check_bf16(const ccq_entry *e, const uint16_t *x, int64_t row0, int64_t rows,
                           ccq_error *err)
{
    int64_t count = rows * e->n, first = ccq_bf16_find_nonfinite(x, count), at = first, bad = 0;
    while (at < count) {
        bad++;
        at++;
        at += ccq_bf16_find_nonfinite(x + at, count - at);
    }
    return bad ? ccq_nonfinite(e->name, bad, first, row0, e->n, err) : CCQ_OK;
}

ccq_code ccq_read_elements(const ccq_source *src, const ccq_tensor *t, uint64_t first,
                           uint64_t count, uint16_t *dst, ccq_error *err)
{
    unsigned size = ccq_dtype_bits((ccq_dtype)t->dtype) / 8;
    uint64_t window = count < 1 << 18 ? count + 1 : 1 << 18, at;
    void *buffer;
    ccq_code code = CCQ_OK;
    if (t->dtype == CCQ_DT_BF16 || t->dtype == CCQ_DT_U16)
        return ccq_checkpoint_read(src->files, t, first * 2, dst, count * 2, err);
    buffer = malloc(window * size);
    if (!buffer)
        return ccq_fail(err, CCQ_NO_MEMORY, "no memory for a read window");
    for (at = 0; at < count && !code; at += window) {
        uint64_t n = count - at < window ? count - at : window;
        code = ccq_checkpoint_read(src->files, t, (first + at) * size, buffer, n * size, err);
        if (!code && t->dtype == CCQ_DT_F32)
            ccq_f32_to_bf16_row(buffer, (int64_t)n, dst + at);
        else if (!code)
            ccq_f16_to_bf16_row(buffer, (int64_t)n, dst + at);
    }
    free(buffer);
    return code;
}

/* Puts a piece [k][pn], or [pn][k] when transposed, into its columns of dst. */
static void place(const ccq_piece *p, const uint16_t *x, int64_t k, int64_t n, uint16_t *dst)
{
    enum { BLOCK = 64 };
    int64_t i, j, bi, bj;
    if (!p->transposed) {
        for (i = 0; i < k; i++)
            memcpy(dst + i * n + p->n0, x + i * p->n, (size_t)p->n * 2);
        return;
    }
    for (bi = 0; bi < k; bi += BLOCK)
        for (bj = 0; bj < p->n; bj += BLOCK)
            for (i = bi; i < k && i < bi + BLOCK; i++)
                for (j = bj; j < p->n && j < bj + BLOCK; j++)
                    dst[i * n + p->n0 + j] = x[j * k + i];
}

ccq_code ccq_source_read_bf16(const ccq_source *src, const ccq_entry *e, uint16_t *dst,
                              ccq_error *err)
{
    uint16_t *buffer = NULL;
    ccq_code code = CCQ_OK;
    int i;
    if (src->rank)
        return ccq_ranks_read_bf16(src, e, dst, err);
    if (e->pieces == 1 && !e->piece[0].transposed)
        return ccq_source_read_rows(src, e, 0, e->k, dst, err);
    for (i = 0; i < e->pieces && !code; i++) {
        const ccq_piece *p = &e->piece[i];
        uint64_t count = (uint64_t)e->k * (uint64_t)p->n;
        free(buffer);
        buffer = malloc(count * 2);
        if (!buffer)
            return ccq_fail(err, CCQ_NO_MEMORY, "%s: no memory for %llu bytes", e->name,
                            (unsigned long long)count * 2);
        code = ccq_read_elements(src, p->tensor, 0, count, buffer, err);
        if (!code)
            place(p, buffer, e->k, e->n, dst);
    }
    free(buffer);
    return code ? code : check_bf16(e, dst, 0, e->k, err);
}

ccq_code ccq_source_read_rows(const ccq_source *src, const ccq_entry *e, int64_t k0, int64_t kc,
                              uint16_t *dst, ccq_error *err)
{
    uint64_t first = (uint64_t)k0 * (uint64_t)e->n, count = (uint64_t)kc * (uint64_t)e->n;
    ccq_code code;
    if (e->pieces != 1 || e->piece[0].transposed || e->weight_scale || k0 < 0 || k0 + kc > e->k)
        return ccq_fail(err, CCQ_BUG, "%s: no plain rows [%lld, %lld)", e->name, (long long)k0,
                        (long long)(k0 + kc));
    if (src->rank)
        return ccq_ranks_read_rows(src, e, k0, kc, dst, err);
    code = ccq_read_elements(src, e->piece[0].tensor, first, count, dst, err);
    return code ? code : check_bf16(e, dst, k0, kc, err);
}

/* One value of a stored tensor, exactly. */
static float widen(const void *x, int dtype, int64_t i)
{
    if (dtype == CCQ_DT_F32)
        return ((const float *)x)[i];
    uint16_t half = ((const uint16_t *)x)[i];
    return dtype == CCQ_DT_F16 ? ccq_f16_to_f32(half) : ccq_bf16_to_f32(half);
}

/* Router and bias, small: nothing is rounded. */
static ccq_code read_wide(const ccq_source *src, const ccq_entry *e, float *dst, ccq_error *err)
{
    const ccq_piece *p = &e->piece[0];
    void *x = malloc(p->tensor->bytes);
    ccq_code code = x ? ccq_checkpoint_read(src->files, p->tensor, 0, x, p->tensor->bytes, err)
                      : ccq_fail(err, CCQ_NO_MEMORY, "%s: out of memory", e->name);
    for (int64_t i = 0; i < e->k && !code; i++)
        for (int64_t j = 0; j < e->n; j++)
            dst[i * e->n + j] =
                widen(x, p->tensor->dtype, p->transposed ? j * e->k + i : i * e->n + j);
    free(x);
    return code;
}

ccq_code ccq_source_read_f32(const ccq_source *src, const ccq_entry *e, float *dst, ccq_error *err)
{
    int64_t count = e->k * e->n, i, at, bad = 0;
    ccq_code code;
    if (src->rank && e->pieces == 1)
        return ccq_ranks_read_f32(src, e, dst, err);
    if (e->type == CCQ_TYPE_F32 && e->pieces == 1) {
        code = read_wide(src, e, dst, err);
    } else {
        uint16_t *x = malloc((size_t)count * 2);
        if (!x)
            return ccq_fail(err, CCQ_NO_MEMORY, "%s: out of memory", e->name);
        code = ccq_source_read_bf16(src, e, x, err);
        for (i = 0; i < count && !code; i++)
            dst[i] = ccq_bf16_to_f32(x[i]);
        free(x);
    }
    if (code)
        return code;
    at = ccq_f32_find_nonfinite(dst, count);
    for (i = at; i < count; i++)
        bad += !(dst[i] - dst[i] == 0.0f);
    return bad ? ccq_nonfinite(e->name, bad, at, 0, e->n, err) : CCQ_OK;
}

/* ---- As stored, for the kernels ------------------------------------------- */

static uint64_t padded(uint64_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

/* Reads a scale vector and sees that every value is finite. */
static ccq_code load_vector(const ccq_source *src, const ccq_tensor *t, char **at,
                            const void **out, ccq_error *err)
{
    int64_t first, count;
    ccq_code code = ccq_checkpoint_read(src->files, t, 0, *at, t->bytes, err);
    *out = *at;
    *at += padded(t->bytes);
    if (code || t->dtype == CCQ_DT_U8)
        return code;
    count = (int64_t)(t->bytes / (t->dtype == CCQ_DT_F32 ? 4 : 2));
    first = t->dtype == CCQ_DT_F32 ? ccq_f32_find_nonfinite(*out, count)
                                   : ccq_bf16_find_nonfinite(*out, count);
    if (first < count)
        return ccq_fail(err, CCQ_NONFINITE, "%s: value %lld of %lld is not finite", t->name,
                        (long long)first, (long long)count);
    return CCQ_OK;
}

/* Of the 256 codes two are NaN. */
static ccq_code check_fp8(const ccq_entry *e, const uint8_t *q, ccq_error *err)
{
    int64_t count = e->k * e->n, first = 0, bad = 0;
    for (int64_t i = 0; i < count; i++)
        if ((q[i] & 0x7f) == 0x7f && bad++ == 0)
            first = i;
    return bad ? ccq_nonfinite(e->name, bad, first, 0, e->n, err) : CCQ_OK;
}

static ccq_code load_quantized(const ccq_source *src, const ccq_entry *e, char *at, ccq_weight *w,
                               ccq_error *err)
{
    const void *scale = NULL, *super = NULL, *code_scale = NULL, *code_zp = NULL;
    const ccq_tensor *q = e->piece[0].tensor;
    ccq_code code = ccq_checkpoint_read(src->files, q, 0, at, q->bytes, err);
    w->data = at;
    at += padded(q->bytes);
    if (!code)
        code = load_vector(src, e->weight_scale, &at, &scale, err);
    if (!code && e->type == CCQ_TYPE_WINT2) {
        code = load_vector(src, e->super_scales, &at, &super, err);
        if (!code)
            code = load_vector(src, e->code_scale, &at, &code_scale, err);
        if (!code)
            code = load_vector(src, e->code_zp, &at, &code_zp, err);
        w->local = scale;
        scale = NULL;
    }
    if (!code && e->type == CCQ_TYPE_FP8) {
        code = check_fp8(e, w->data, err);
        w->block_scale = scale;
        scale = NULL;
    }
    w->scale = scale;
    w->super = super;
    w->code_scale = code_scale;
    w->code_zp = code_zp;
    return code;
}

ccq_code ccq_source_load(const ccq_source *src, const ccq_entry *e, int rounding, ccq_weight *w,
                         void **memory, ccq_error *err)
{
    static const int types[CCQ_TYPES] = {CCQ_W_BF16,  -1,          CCQ_W_WINT8,
                                          CCQ_W_WINT4, CCQ_W_WINT2, CCQ_W_FP8};
    uint64_t size = padded((uint64_t)e->k * (uint64_t)e->n * 2);
    ccq_code code;
    if (src->rank)
        return ccq_ranks_load(src, e, rounding, w, memory, err);
    *memory = NULL;
    memset(w, 0, sizeof *w);
    w->type = types[e->type];
    w->k = e->k;
    w->n = e->n;
    w->order = src->arch.order;
    w->rounding = rounding;
    if (w->type < 0)
        return ccq_fail(err, CCQ_BUG, "%s: an fp32 tensor is no kernel weight", e->name);
    if (e->type != CCQ_TYPE_BF16)
        size = ccq_entry_bytes(e) + 5 * 64;
    *memory = aligned_alloc(64, padded(size));
    if (!*memory)
        return ccq_fail(err, CCQ_NO_MEMORY, "%s: no memory for %llu bytes", e->name,
                        (unsigned long long)size);
    if (e->type == CCQ_TYPE_BF16) {
        w->data = *memory;
        code = ccq_source_read_bf16(src, e, *memory, err);
    } else {
        code = load_quantized(src, e, *memory, w, err);
    }
    if (code) {
        free(*memory);
        *memory = NULL;
    }
    return code;
}
