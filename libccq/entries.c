/* From stored names to entries: which tensors belong together, how each is
 * stored, and whether its parts fit. Shapes against config.json: arch.c. */
#include "libccq/internal.h"

#include "kernels/encode.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A stored tensor and what its name says. */
typedef struct item {
    ccq_slot slot;
    const ccq_tensor *tensor;
} item;

typedef struct opening {
    ccq_source *src;
    ccq_error *err;
    item *items;
    size_t count;
    char *name_at; /* next free byte of src->memory */
} opening;

static const char *file_of(const ccq_source *src, const ccq_tensor *t)
{
    return ccq_checkpoint_shard(src->files, t->shard)->name;
}

static ccq_code fail_tensor(const opening *o, const ccq_tensor *t, ccq_code code, const char *what)
{
    char name[300];
    return ccq_fail(o->err, code, "%s/%s: \"%s\": %s", o->src->dir, file_of(o->src, t),
                    ccq_escape(name, sizeof name, t->name, strlen(t->name)), what);
}

static int compare_items(const void *a, const void *b)
{
    const item *x = a, *y = b;
    int c = ccq_slot_compare(&x->slot, &y->slot);
    if (c == 0)
        c = (int)x->slot.suffix - (int)y->slot.suffix;
    return c ? c : x->slot.part - y->slot.part;
}

/* An unknown tensor: a vector is carried along, a matrix stops the run. */
static ccq_code take_unknown(opening *o, const ccq_tensor *t, size_t *refused, char *list,
                             size_t size)
{
    ccq_source *src = o->src;
    char name[300];
    ccq_escape(name, sizeof name, t->name, strlen(t->name));
    if (t->rank == 1 && t->bytes &&
        (t->dtype == CCQ_DT_BF16 || t->dtype == CCQ_DT_U16 || t->dtype == CCQ_DT_F16 ||
         t->dtype == CCQ_DT_F32)) {
        ccq_entry *e = &src->entry[src->count++];
        e->name = t->name;
        e->role = CCQ_ROLE_VECTOR;
        e->layer = e->expert = -1;
        e->type = t->dtype == CCQ_DT_F32 ? CCQ_TYPE_F32 : CCQ_TYPE_BF16;
        e->k = 1;
        e->n = (int64_t)t->shape[0];
        e->pieces = 1;
        e->piece[0] = (ccq_piece){t, 0, 0, e->n};
        return ccq_source_note(src, "unknown vector \"%s\" is carried along", name);
    }
    if ((*refused)++ < 8) {
        size_t used = strlen(list);
        snprintf(list + used, size - used, "%s\"%s\" (%s, %u axes)", used ? ", " : "", name,
                 ccq_dtype_name((ccq_dtype)t->dtype), t->rank);
    }
    return CCQ_OK;
}

/* Sorts the checkpoint's tensors into known ones (items), MTP (skipped) and
 * unknown vectors (entries at the front, moved behind later). */
static ccq_code sort_names(opening *o)
{
    ccq_source *src = o->src;
    size_t i, total = ccq_checkpoint_count(src->files), refused = 0, names = 1;
    char list[800] = "";
    o->items = calloc(total + 1, sizeof *o->items);
    src->entry = calloc(total + 1, sizeof *src->entry);
    src->skipped = calloc(total + 1, sizeof *src->skipped);
    if (!o->items || !src->entry || !src->skipped)
        return ccq_fail(o->err, CCQ_NO_MEMORY, "%s: out of memory", src->dir);
    for (i = 0; i < total; i++) {
        const ccq_tensor *t = ccq_checkpoint_at(src->files, i);
        item *it = &o->items[o->count];
        ccq_naming naming = ccq_name_parse(t->name, &it->slot);
        it->tensor = t;
        names += strlen(t->name) + 24;
        if (naming == CCQ_NAME_KNOWN)
            o->count++;
        else if (naming == CCQ_NAME_MTP)
            src->skipped[src->skips++] = t->name;
        else if (take_unknown(o, t, &refused, list, sizeof list))
            return ccq_fail(o->err, CCQ_NO_MEMORY, "%s: out of memory", src->dir);
    }
    if (refused)
        return ccq_fail(o->err, CCQ_UNKNOWN, "%s: unknown tensors (%zu): %s%s", src->dir, refused,
                        list, refused > 8 ? ", ..." : "");
    qsort(o->items, o->count, sizeof *o->items, compare_items);
    src->memory = o->name_at = malloc(names);
    return src->memory ? CCQ_OK : ccq_fail(o->err, CCQ_NO_MEMORY, "%s: out of memory", src->dir);
}

/* lm_head may lie either way: its shape decides, the naming where H == V. */
static int head_transposed(const ccq_arch *a, const ccq_tensor *t)
{
    if (a->hidden == a->vocab)
        return a->torch_names;
    return t->shape[0] == (uint64_t)a->vocab && t->shape[1] == (uint64_t)a->hidden;
}

static int is_vector(const ccq_entry *e)
{
    return e->bias || e->role == CCQ_ROLE_NORM_IN || e->role == CCQ_ROLE_NORM_POST ||
           e->role == CCQ_ROLE_NORM;
}

/* Adds an unquantized tensor as the next columns of e. */
static ccq_code add_piece(opening *o, ccq_entry *e, const item *it)
{
    const ccq_tensor *t = it->tensor;
    ccq_piece *p = &e->piece[e->pieces];
    int64_t k, n;
    int router = e->role == CCQ_ROLE_ROUTER || e->role == CCQ_ROLE_ROUTER_BIAS;
    int flat = e->role == CCQ_ROLE_ROUTER_BIAS && t->rank == 1;
    if (t->dtype != CCQ_DT_BF16 && t->dtype != CCQ_DT_F16 && t->dtype != CCQ_DT_F32 &&
        t->dtype != CCQ_DT_U16)
        return fail_tensor(o, t, CCQ_DTYPE, "a weight must be BF16, F16, F32 or U16");
    if (t->rank != (is_vector(e) || flat ? 1 : 2) || t->bytes == 0)
        return fail_tensor(o, t, CCQ_SHAPE, "wrong number of axes, or empty");
    if (t->shape[0] > INT32_MAX || (t->rank == 2 && t->shape[1] > INT32_MAX))
        return fail_tensor(o, t, CCQ_SHAPE, "an axis is longer than 2^31 - 1");
    k = t->rank == 2 ? (int64_t)t->shape[0] : 1;
    n = (int64_t)t->shape[t->rank - 1];
    p->transposed = e->role == CCQ_ROLE_HEAD ? head_transposed(&o->src->arch, t)
                    : ccq_entry_linear(e) || e->role == CCQ_ROLE_ROUTER ? it->slot.torch
                                                                        : 0;
    p->tensor = t;
    p->n = p->transposed ? k : n;
    k = p->transposed ? n : k;
    if (e->pieces && k != e->k)
        return fail_tensor(o, t, CCQ_SHAPE, "does not fit the other parts of its projection");
    p->n0 = e->n;
    e->k = k;
    e->n += p->n;
    e->pieces++;
    e->type = router ? CCQ_TYPE_F32 : CCQ_TYPE_BF16;
    return CCQ_OK;
}

/* A stored tensor must have this type and shape (n = 0: one axis). */
static ccq_code want(const opening *o, const ccq_tensor *t, ccq_dtype dtype, int64_t k, int64_t n)
{
    char text[160];
    int rank = n ? 2 : 1;
    if (t->dtype == dtype && t->rank == rank && t->shape[0] == (uint64_t)k &&
        (rank == 1 || t->shape[1] == (uint64_t)n))
        return CCQ_OK;
    snprintf(text, sizeof text,
             n ? "found %s with %d axes, wanted %s [%lld, %lld]"
               : "found %s with %d axes, wanted %s [%lld]",
             ccq_dtype_name((ccq_dtype)t->dtype), t->rank, ccq_dtype_name(dtype), (long long)k,
             (long long)n);
    return fail_tensor(o, t, t->dtype == dtype ? CCQ_SHAPE : CCQ_DTYPE, text);
}

static ccq_code settle_wint2(opening *o, ccq_entry *e)
{
    const ccq_tensor *q = e->piece[0].tensor;
    ccq_code code;
    e->type = CCQ_TYPE_WINT2;
    if (q->rank != 2 || q->shape[0] > INT32_MAX / 4 || q->shape[1] > INT32_MAX || q->bytes == 0)
        return fail_tensor(o, q, CCQ_SHAPE, "wanted [K/4, N]");
    e->k = 4 * (int64_t)q->shape[0];
    e->n = (int64_t)q->shape[1];
    if (e->k % 128)
        return fail_tensor(o, q, CCQ_SHAPE_RULE,
                           "K is not a multiple of 128: wint2 packs two 64-row scale groups "
                           "per byte");
    code = want(o, e->weight_scale, CCQ_DT_U8, e->k / 128, e->n);
    if (!code)
        code = want(o, e->super_scales, CCQ_DT_BF16, e->n, 0);
    if (!code)
        code = want(o, e->code_scale, CCQ_DT_F32, e->n, 0);
    return code ? code : want(o, e->code_zp, CCQ_DT_F32, e->n, 0);
}

/* [K, N] with a scale for each block of 128 x 128, fewer at the edges. */
static ccq_code settle_fp8(opening *o, ccq_entry *e)
{
    const ccq_tensor *q = e->piece[0].tensor;
    if (q->rank != 2 || q->shape[0] > INT32_MAX || q->shape[1] > INT32_MAX || q->bytes == 0)
        return fail_tensor(o, q, CCQ_SHAPE, "wanted [K, N]");
    e->type = CCQ_TYPE_FP8;
    e->k = (int64_t)q->shape[0];
    e->n = (int64_t)q->shape[1];
    ccq_code code = want(o, q, CCQ_DT_I8, e->k, e->n);
    return code ? code
                : want(o, e->weight_scale, CCQ_DT_F32, (e->k + CCQ_FP8_BLOCK - 1) / CCQ_FP8_BLOCK,
                       (e->n + CCQ_FP8_BLOCK - 1) / CCQ_FP8_BLOCK);
}

/* wint8 [N, K] or wint4 [N/2, K]; N is that of the scales. */
static ccq_code settle_weight_only(opening *o, ccq_entry *e)
{
    const ccq_tensor *q = e->piece[0].tensor, *s = e->weight_scale;
    ccq_code code;
    if (s->dtype == CCQ_DT_F32 && s->rank == 2)
        return settle_fp8(o, e);
    if (s->rank != 1 || s->shape[0] > INT32_MAX || q->rank != 2 || q->shape[1] > INT32_MAX ||
        q->bytes == 0)
        return fail_tensor(o, q, CCQ_SHAPE, "wanted [N, K] or [N/2, K] with scales [N]");
    e->n = (int64_t)s->shape[0];
    e->k = (int64_t)q->shape[1];
    e->type = q->shape[0] == (uint64_t)e->n ? CCQ_TYPE_WINT8 : CCQ_TYPE_WINT4;
    code = want(o, s, CCQ_DT_BF16, e->n, 0);
    if (!code)
        code = want(o, q, CCQ_DT_I8, e->type == CCQ_TYPE_WINT8 ? e->n : e->n / 2, e->k);
    if (!code && (e->k % 64 || e->n % 16))
        code = fail_tensor(o, q, CCQ_SHAPE_RULE,
                           "K is not a multiple of 64, or N not of 16: no such layout");
    return code;
}

static ccq_code settle_quantized(opening *o, ccq_entry *e)
{
    const ccq_tensor *q = e->piece[0].tensor;
    int wint2 = e->super_scales || e->code_scale || e->code_zp;
    const char *missing = !e->weight_scale             ? ".weight_scale"
                          : wint2 && !e->super_scales ? ".super_scales"
                          : wint2 && !e->code_scale   ? ".code_scale"
                          : wint2 && !e->code_zp      ? ".code_zp"
                                                      : NULL;
    e->piece[0].n = 0;
    if (q->dtype == CCQ_DT_I16)
        return fail_tensor(o, q, CCQ_UNSUPPORTED, "wint2.5 is not read");
    if (missing)
        return ccq_fail(o->err, CCQ_INCOMPLETE, "%s: \"%s%s\" is missing", o->src->dir, e->name,
                        missing);
    o->src->arch.quantized = 1;
    if (wint2 && q->dtype != CCQ_DT_U8)
        return want(o, q, CCQ_DT_U8, (int64_t)q->shape[0], (int64_t)q->shape[1]);
    return wint2 ? settle_wint2(o, e) : settle_weight_only(o, e);
}

static ccq_code check_parts(const opening *o, const ccq_entry *e, unsigned parts)
{
    unsigned all = e->role == CCQ_ROLE_QKV ? 14 : 6;
    if (parts == 1 || parts == all)
        return CCQ_OK;
    return ccq_fail(o->err, parts & 1 ? CCQ_CONFIG : CCQ_INCOMPLETE, "%s: \"%s\" %s", o->src->dir,
                    e->name,
                    parts & 1 ? "is there joined and in parts"
                              : "lacks one of its separate projections");
}

/* Makes one entry of the items that stand for the same tensor; returns how many. */
static ccq_code make_entry(opening *o, const item *it, size_t n)
{
    ccq_entry *e = &o->src->entry[o->src->count++];
    const ccq_tensor **rest[CCQ_SUFFIXES] = {NULL,           NULL,           &e->weight_scale,
                                             &e->super_scales, &e->code_scale, &e->code_zp};
    unsigned parts = 0;
    size_t i;
    ccq_code code = CCQ_OK;
    e->role = it->slot.role;
    e->block = it->slot.block;
    e->layer = it->slot.layer;
    e->expert = it->slot.expert;
    e->bias = it->slot.bias;
    ccq_name_write(&it->slot, o->name_at, strlen(it->tensor->name) + 24);
    e->name = o->name_at;
    o->name_at += strlen(o->name_at) + 1;
    for (i = 0; i < n && !code; i++) {
        ccq_suffix s = it[i].slot.suffix;
        if (s == CCQ_SUFFIX_WEIGHT && (parts & 1u << it[i].slot.part))
            code = fail_tensor(o, it[i].tensor, CCQ_CONFIG, "is there under two names");
        else if (s == CCQ_SUFFIX_WEIGHT) {
            parts |= 1u << it[i].slot.part;
            code = check_parts(o, e, parts & 1 ? parts : 1);
            if (!code)
                code = add_piece(o, e, &it[i]);
        } else if (it[i].slot.part || it[i].slot.torch)
            code = fail_tensor(o, it[i].tensor, CCQ_UNSUPPORTED,
                               "quantized tensors come under joined Paddle names only");
        else if (s == CCQ_SUFFIX_QUANT_WEIGHT && parts)
            code = fail_tensor(o, it[i].tensor, CCQ_CONFIG, "stands beside an unquantized .weight");
        else if (s == CCQ_SUFFIX_QUANT_WEIGHT)
            e->piece[e->pieces++].tensor = it[i].tensor;
        else
            *rest[s] = it[i].tensor;
    }
    if (code)
        return code;
    if (parts && (e->weight_scale || e->super_scales || e->code_scale || e->code_zp))
        return fail_tensor(o, it->tensor, CCQ_CONFIG, "has scales but no .quant_weight");
    if (parts)
        return check_parts(o, e, parts);
    if (!e->pieces)
        return ccq_fail(o->err, CCQ_INCOMPLETE, "%s: \"%s.quant_weight\" is missing", o->src->dir,
                        e->name);
    return settle_quantized(o, e);
}

static ccq_code make_entries(opening *o)
{
    ccq_source *src = o->src;
    size_t vectors = src->count, i = 0, j;
    ccq_code code = CCQ_OK;
    ccq_entry *extra = NULL;
    if (vectors) {
        extra = malloc(vectors * sizeof *extra);
        if (!extra)
            return ccq_fail(o->err, CCQ_NO_MEMORY, "%s: out of memory", src->dir);
        memcpy(extra, src->entry, vectors * sizeof *extra);
        memset(src->entry, 0, vectors * sizeof *extra);
    }
    src->count = 0;
    while (i < o->count && !code) {
        for (j = i + 1; j < o->count; j++)
            if (ccq_slot_compare(&o->items[i].slot, &o->items[j].slot))
                break;
        code = make_entry(o, &o->items[i], j - i);
        i = j;
    }
    for (i = 0; i < vectors && !code; i++)
        src->entry[src->count++] = extra[i];
    for (i = 0; i < src->count && !code; i++) {
        src->parameters += ccq_entry_parameters(&src->entry[i]);
        src->arch.use_bias |= src->entry[i].bias;
        src->arch.correction_bias |= src->entry[i].role == CCQ_ROLE_ROUTER_BIAS;
    }
    free(extra);
    return code;
}

static ccq_code check_prefixes(opening *o)
{
    size_t i;
    int torch = 0, paddle = 0;
    for (i = 0; i < o->count; i++)
        if (o->items[i].slot.role != CCQ_ROLE_HEAD) {
            torch |= o->items[i].slot.torch;
            paddle |= !o->items[i].slot.torch;
        }
    o->src->arch.torch_names = torch;
    if (torch && paddle)
        return ccq_fail(o->err, CCQ_CONFIG, "%s: names of both kinds, ernie. and model.",
                        o->src->dir);
    return CCQ_OK;
}

ccq_code ccq_source_classify(ccq_source *src, ccq_error *err)
{
    opening o = {src, err, NULL, 0, NULL};
    ccq_code code = sort_names(&o);
    if (!code)
        code = check_prefixes(&o);
    if (!code)
        code = make_entries(&o);
    free(o.items);
    return code;
}
