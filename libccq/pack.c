/* Planes <-> stored tensors. Mirrors docs/format.md, "Tensors on disk". */
#include "libccq/job.h"

#include "kernels/tile.h"

#include <stdlib.h>
#include <string.h>

enum { LOCAL_ROWS = 2 * CCQ_GROUP }; /* rows behind one byte of local scales */

const char *ccq_bytes_kind_name(int kind)
{
    static const char *const names[CCQ_BYTES_KINDS] = {
        "embed_tokens bf16",  "lm_head bf16",       "norms bf16",
        "wint8 quant_weight", "wint8 weight_scale", "router gate fp32",
        "e_score_correction_bias fp32",
        "wint4 quant_weight", "wint4 weight_scale", "wint2 quant_weight",
        "wint2 weight_scale", "wint2 super_scales", "wint2 code_scale",
        "wint2 code_zp",      "biases bf16",        "other vectors",
    };
    return kind >= 0 && kind < CCQ_BYTES_KINDS ? names[kind] : NULL;
}

static int describe_wint2(uint64_t k, uint64_t n, ccq_stored *out)
{
    out[0] = (ccq_stored){".quant_weight", CCQ_DT_U8, 2, {k / CCQ_WINDOWS, n},
                          CCQ_BYTES_WINT2_WEIGHT};
    out[1] = (ccq_stored){".weight_scale", CCQ_DT_U8, 2, {k / LOCAL_ROWS, n},
                          CCQ_BYTES_WINT2_SCALE};
    out[2] = (ccq_stored){".super_scales", CCQ_DT_BF16, 1, {n, 0}, CCQ_BYTES_WINT2_SUPER};
    out[3] = (ccq_stored){".code_scale", CCQ_DT_F32, 1, {n, 0}, CCQ_BYTES_WINT2_CODE_SCALE};
    out[4] = (ccq_stored){".code_zp", CCQ_DT_F32, 1, {n, 0}, CCQ_BYTES_WINT2_CODE_ZP};
    return 5;
}

/* The shape is a label: the bytes are interleaved (kernels/tile.h). */
static int describe_weight_only(int bits, uint64_t k, uint64_t n, ccq_stored *out)
{
    out[0] = (ccq_stored){".quant_weight", CCQ_DT_I8, 2, {bits == 8 ? n : n / 2, k},
                          bits == 8 ? CCQ_BYTES_WINT8_WEIGHT : CCQ_BYTES_WINT4_WEIGHT};
    out[1] = (ccq_stored){".weight_scale", CCQ_DT_BF16, 1, {n, 0},
                          bits == 8 ? CCQ_BYTES_WINT8_SCALE : CCQ_BYTES_WINT4_SCALE};
    return 2;
}

static ccq_bytes_kind copied_kind(const ccq_entry *e)
{
    if (e->bias)
        return CCQ_BYTES_BIAS;
    switch (e->role) {
    case CCQ_ROLE_EMBED:
        return CCQ_BYTES_EMBED;
    case CCQ_ROLE_HEAD:
        return CCQ_BYTES_HEAD;
    case CCQ_ROLE_ROUTER:
        return CCQ_BYTES_ROUTER;
    case CCQ_ROLE_ROUTER_BIAS:
        return CCQ_BYTES_ROUTER_BIAS;
    case CCQ_ROLE_NORM_IN:
    case CCQ_ROLE_NORM_POST:
    case CCQ_ROLE_NORM:
        return CCQ_BYTES_NORMS;
    default:
        return CCQ_BYTES_VECTOR;
    }
}

static int matrix(const ccq_entry *e)
{
    return !e->bias && (e->role == CCQ_ROLE_EMBED || e->role == CCQ_ROLE_HEAD ||
                        e->role == CCQ_ROLE_ROUTER || e->role == CCQ_ROLE_ROUTER_BIAS);
}

int ccq_pack_describe(const ccq_entry *e, ccq_type to, ccq_stored out[5])
{
    uint64_t k = (uint64_t)e->k, n = (uint64_t)e->n;
    if (to == CCQ_TYPE_WINT2)
        return describe_wint2(k, n, out);
    if (to == CCQ_TYPE_WINT8 || to == CCQ_TYPE_WINT4)
        return describe_weight_only(to == CCQ_TYPE_WINT8 ? 8 : 4, k, n, out);
    out[0] = (ccq_stored){"", to == CCQ_TYPE_F32 ? CCQ_DT_F32 : CCQ_DT_BF16, 1, {n, 0},
                          copied_kind(e)};
    if (matrix(e))
        out[0].rank = 2, out[0].shape[0] = k, out[0].shape[1] = n;
    return 1;
}

int ccq_stored_bytes(const ccq_stored *s, uint64_t *bytes)
{
    *bytes = ccq_dtype_bits(s->dtype) / 8;
    for (int i = 0; i < s->rank; i++)
        if (__builtin_mul_overflow(*bytes, s->shape[i], bytes))
            return -1;
    return 0;
}

ccq_code ccq_planes_new(ccq_planes *p, const ccq_entry *e, ccq_type to, ccq_error *err)
{
    ccq_stored stored[5];
    *p = (ccq_planes){.type = to, .k = e->k, .n = e->n, .count = ccq_pack_describe(e, to, stored)};
    for (int i = 0; i < p->count; i++) {
        int bad = ccq_stored_bytes(&stored[i], &p->bytes[i]) || p->bytes[i] > SIZE_MAX;
        p->plane[i] = bad ? NULL : calloc(1, p->bytes[i] ? (size_t)p->bytes[i] : 1);
        if (!p->plane[i]) {
            ccq_planes_free(p);
            return ccq_fail(err, CCQ_NO_MEMORY, "%s%s: out of memory", e->name, stored[i].suffix);
        }
    }
    return CCQ_OK;
}

void ccq_planes_free(ccq_planes *p)
{
    for (int i = 0; i < p->count; i++)
        free(p->plane[i]);
    *p = (ccq_planes){0};
}

void ccq_planes_place_wint2(ccq_planes *p, int64_t n0, int count, const ccq_column *column)
{
    uint8_t *weight = p->plane[0], *local = p->plane[1];
    uint16_t *super = p->plane[2];
    float *cs = p->plane[3], *zp = p->plane[4];
    for (int64_t r = 0; r < p->k / CCQ_WINDOWS; r++)
        for (int j = 0; j < count; j++)
            weight[r * p->n + n0 + j] = column[j].bytes[r];
    /* the even group of a pair is the high nibble */
    for (int64_t r = 0; r < p->k / LOCAL_ROWS; r++)
        for (int j = 0; j < count; j++)
            local[r * p->n + n0 + j] =
                (uint8_t)(column[j].local[2 * r] << 4 | column[j].local[2 * r + 1]);
    for (int j = 0; j < count; j++) {
        super[n0 + j] = column[j].super;
        cs[n0 + j] = column[j].code_scale;
        zp[n0 + j] = column[j].code_zp;
    }
}

void ccq_planes_place_weight_only(ccq_planes *p, int64_t n, const int8_t *q, uint16_t scale)
{
    ccq_weight_only_place(p->type == CCQ_TYPE_WINT8 ? 8 : 4, q, p->k, n, p->plane[0]);
    ((uint16_t *)p->plane[1])[n] = scale;
}
