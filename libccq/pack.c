/* Planes <-> stored tensors. Mirrors docs/format.md, "Tensors on disk". */
#include "libccq/job.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN = 64, LOCAL_ROWS = 2 * CCQ_GROUP }; /* rows behind a byte of local scales */

const char *ccq_bytes_kind_name(int kind)
{
    static const char *const names[CCQ_BYTES_KINDS] = {
        [CCQ_BYTES_EMBED] = "embed_tokens bf16",
        [CCQ_BYTES_HEAD] = "lm_head bf16",
        [CCQ_BYTES_NORMS] = "norms bf16",
        [CCQ_BYTES_WINT8_WEIGHT] = "wint8 quant_weight",
        [CCQ_BYTES_WINT8_SCALE] = "wint8 weight_scale",
        [CCQ_BYTES_ROUTER] = "router gate fp32",
        [CCQ_BYTES_ROUTER_BIAS] = "e_score_correction_bias fp32",
        [CCQ_BYTES_WINT4_WEIGHT] = "wint4 quant_weight",
        [CCQ_BYTES_WINT4_SCALE] = "wint4 weight_scale",
        [CCQ_BYTES_WINT2_WEIGHT] = "wint2 quant_weight",
        [CCQ_BYTES_WINT2_SCALE] = "wint2 weight_scale",
        [CCQ_BYTES_WINT2_SUPER] = "wint2 super_scales",
        [CCQ_BYTES_WINT2_CODE_SCALE] = "wint2 code_scale",
        [CCQ_BYTES_WINT2_CODE_ZP] = "wint2 code_zp",
        [CCQ_BYTES_FP8_WEIGHT] = "block_wise_fp8 quant_weight",
        [CCQ_BYTES_FP8_SCALE] = "block_wise_fp8 weight_scale",
        [CCQ_BYTES_LINEAR] = "linears bf16",
        [CCQ_BYTES_BIAS] = "biases bf16",
        [CCQ_BYTES_VECTOR] = "other vectors",
    };
    return kind >= 0 && kind < CCQ_BYTES_KINDS ? names[kind] : NULL;
}

/* A plane of a quantized matrix; rank 1 when there are no rows. */
static ccq_stored plane(const char *suffix, ccq_dtype dtype, uint64_t rows, uint64_t columns,
                        ccq_bytes_kind kind)
{
    ccq_stored s = {.suffix = suffix, .dtype = dtype, .rank = rows ? 2 : 1, .kind = kind};
    s.shape[0] = rows ? rows : columns;
    s.shape[1] = rows ? columns : 0;
    return s;
}

static int describe_wint2(uint64_t k, uint64_t n, ccq_stored *out)
{
    out[0] = plane(".quant_weight", CCQ_DT_U8, k / CCQ_WINDOWS, n, CCQ_BYTES_WINT2_WEIGHT);
    out[1] = plane(".weight_scale", CCQ_DT_U8, k / LOCAL_ROWS, n, CCQ_BYTES_WINT2_SCALE);
    out[2] = plane(".super_scales", CCQ_DT_BF16, 0, n, CCQ_BYTES_WINT2_SUPER);
    out[3] = plane(".code_scale", CCQ_DT_F32, 0, n, CCQ_BYTES_WINT2_CODE_SCALE);
    out[4] = plane(".code_zp", CCQ_DT_F32, 0, n, CCQ_BYTES_WINT2_CODE_ZP);
    return 5;
}

/* The shape is a label: the bytes are interleaved (kernels/tile.h). */
static int describe_weight_only(int bits, uint64_t k, uint64_t n, ccq_stored *out)
{
    out[0] = plane(".quant_weight", CCQ_DT_I8, bits == 8 ? n : n / 2, k,
                   bits == 8 ? CCQ_BYTES_WINT8_WEIGHT : CCQ_BYTES_WINT4_WEIGHT);
    out[1] = plane(".weight_scale", CCQ_DT_BF16, 0, n,
                   bits == 8 ? CCQ_BYTES_WINT8_SCALE : CCQ_BYTES_WINT4_SCALE);
    return 2;
}

static uint64_t fp8_blocks(int64_t length)
{
    return ((uint64_t)length + CCQ_FP8_BLOCK - 1) / CCQ_FP8_BLOCK;
}

static int describe_fp8(int64_t k, int64_t n, ccq_stored *out)
{
    out[0] = plane(".quant_weight", CCQ_DT_I8, (uint64_t)k, (uint64_t)n, CCQ_BYTES_FP8_WEIGHT);
    out[1] = plane(".weight_scale", CCQ_DT_F32, fp8_blocks(k), fp8_blocks(n), CCQ_BYTES_FP8_SCALE);
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
        return ccq_entry_linear(e) ? CCQ_BYTES_LINEAR : CCQ_BYTES_VECTOR;
    }
}

static int matrix(const ccq_entry *e)
{
    return !e->bias && e->role != CCQ_ROLE_NORM_IN && e->role != CCQ_ROLE_NORM_POST &&
           e->role != CCQ_ROLE_NORM && e->role != CCQ_ROLE_VECTOR;
}

/* Columns n0..n0+n-1 of a float tensor. Torch has linears, head and router the
 * other way round. */
static ccq_stored columns(const ccq_action *a, int names, int part, int64_t n0, int64_t n)
{
    const ccq_entry *e = a->entry;
    int linear = ccq_entry_linear(e), torch = names == CCQ_NAMES_TORCH;
    ccq_stored s = plane(torch ? NULL : linear ? ".weight" : "",
                         a->to == CCQ_TYPE_F32 ? CCQ_DT_F32 : CCQ_DT_BF16,
                         matrix(e) ? (uint64_t)a->k : 0, (uint64_t)n, copied_kind(e));
    s.part = part;
    s.n0 = n0;
    s.n = n;
    s.transposed = torch && matrix(e) && e->role != CCQ_ROLE_EMBED &&
                   e->role != CCQ_ROLE_ROUTER_BIAS;
    if (s.transposed) {
        s.shape[0] = (uint64_t)n;
        s.shape[1] = (uint64_t)a->k;
    }
    return s;
}

static int describe_parts(const ccq_action *a, const ccq_arch *arch, ccq_stored *out)
{
    int64_t q = arch->heads * arch->head_dim, kv = arch->kv_heads * arch->head_dim;
    if (a->entry->role == CCQ_ROLE_UP_GATE) {
        out[0] = columns(a, CCQ_NAMES_TORCH, 1, 0, a->n / 2);
        out[1] = columns(a, CCQ_NAMES_TORCH, 2, a->n / 2, a->n / 2);
        return 2;
    }
    out[0] = columns(a, CCQ_NAMES_TORCH, 1, 0, q);
    out[1] = columns(a, CCQ_NAMES_TORCH, 2, q, kv);
    out[2] = columns(a, CCQ_NAMES_TORCH, 3, q + kv, kv);
    return 3;
}

int ccq_pack_describe(const ccq_action *a, const ccq_arch *arch, int names, ccq_stored out[5])
{
    ccq_role role = a->entry->role;
    switch (a->to) {
    case CCQ_TYPE_WINT2:
        return describe_wint2((uint64_t)a->k, (uint64_t)a->n, out);
    case CCQ_TYPE_WINT8:
    case CCQ_TYPE_WINT4:
        return describe_weight_only(a->to == CCQ_TYPE_WINT8 ? 8 : 4, (uint64_t)a->k,
                                    (uint64_t)a->n, out);
    case CCQ_TYPE_FP8:
        return describe_fp8(a->k, a->n, out);
    default:
        if (names == CCQ_NAMES_TORCH && (role == CCQ_ROLE_QKV || role == CCQ_ROLE_UP_GATE))
            return describe_parts(a, arch, out);
        out[0] = columns(a, names, 0, 0, a->n);
        return 1;
    }
}

ccq_code ccq_pack_name(const ccq_action *a, const ccq_stored *s, int names, char *out, size_t size,
                       ccq_error *err)
{
    const ccq_entry *e = a->entry;
    const char *name = e->name, *end = ".weight";
    int len = (int)strlen(name), cut = 0;
    if ((size_t)len + 32 > size)
        return ccq_fail(err, CCQ_LIMIT, "plan: a tensor name of %d bytes", len);
    if (names == CCQ_NAMES_TORCH) {
        ccq_name_torch(e, s->part, out, size);
        return CCQ_OK;
    }
    if (e->role == CCQ_ROLE_HEAD && *s->suffix) /* "lm_head.weight" and its planes */
        cut = (int)strlen(end);
    if (e->role == CCQ_ROLE_VECTOR && strncmp(name, "model.", 6) == 0)
        snprintf(out, size, "ernie.%s", name + 6);
    else
        snprintf(out, size, "%.*s%s", len - cut, name, s->suffix);
    return CCQ_OK;
}

int ccq_stored_bytes(const ccq_stored *s, uint64_t *bytes)
{
    *bytes = ccq_dtype_bits(s->dtype) / 8;
    for (int i = 0; i < s->rank; i++)
        if (__builtin_mul_overflow(*bytes, s->shape[i], bytes))
            return -1;
    return 0;
}

/* A vector or a matrix of a quantized tensor never passes 2^64 bytes: the plan has summed it. */
static int plane_sizes(const ccq_action *a, uint64_t bytes[5], uint64_t *size)
{
    ccq_stored stored[5];
    int count = ccq_pack_describe(a, NULL, CCQ_NAMES_PADDLE, stored);
    *size = 0;
    for (int i = 0; i < count; i++) {
        ccq_stored_bytes(&stored[i], &bytes[i]);
        *size += (bytes[i] + ALIGN - 1) / ALIGN * ALIGN;
    }
    return count;
}

uint64_t ccq_planes_size(const ccq_action *a)
{
    uint64_t bytes[5], size;
    plane_sizes(a, bytes, &size);
    return size;
}

void ccq_planes_place(ccq_planes *p, const ccq_action *a, void *memory)
{
    uint64_t size;
    char *at = memory;
    *p = (ccq_planes){.type = a->to, .k = a->k, .n = a->n, .memory = memory};
    p->count = plane_sizes(a, p->bytes, &size);
    memset(memory, 0, (size_t)size);
    for (int i = 0; i < p->count; i++) {
        p->plane[i] = at;
        at += (p->bytes[i] + ALIGN - 1) / ALIGN * ALIGN;
    }
}

void ccq_planes_place_wint2(const ccq_ops *ops, ccq_planes *p, int64_t n0, int count,
                            const ccq_column *column)
{
    uint16_t *super = p->plane[2];
    float *cs = p->plane[3], *zp = p->plane[4];
    ccq_wint2_place(ops, column[0].bytes, column[0].local, p->k, count, p->n,
                    (uint8_t *)p->plane[0] + n0, (uint8_t *)p->plane[1] + n0);
    for (int j = 0; j < count; j++) {
        super[n0 + j] = column[j].super;
        cs[n0 + j] = column[j].code_scale;
        zp[n0 + j] = column[j].code_zp;
    }
}
