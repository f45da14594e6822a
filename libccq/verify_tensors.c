/* Every tensor by itself and beside its siblings: names, dtypes, shapes,
 * alignment rules, scales and code lines. What the model as a whole must hold
 * (sizes of config.json, the complete set) is checked by opening a source. */
#include "libccq/verify.h"

#include "kernels/convert.h"
#include "kernels/encode.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LINES_KEPT = 1024, BASE_BYTES = 4200 };

typedef struct line_verdict {
    float cs, zp;
    int used, verdict, byte;
} line_verdict;

/* Tensors of one quantized linear. */
typedef struct linear {
    char base[BASE_BYTES];
    const ccq_tensor *part[CCQ_SUFFIXES];
    const ccq_slot *slot;
    int64_t k, n;
    int good; /* nothing found so far */
} linear;

typedef struct tensors {
    ccq_verifier *v;
    line_verdict *lines; /* LINES_KEPT, by hash */
    uint64_t skipped, narrow;
} tensors;

static const char *const suffixes[CCQ_SUFFIXES] = {".weight",       ".quant_weight",
                                                   ".weight_scale", ".super_scales",
                                                   ".code_scale",   ".code_zp"};

static const char *file_of(const tensors *s, const ccq_tensor *t)
{
    return ccq_checkpoint_shard(s->v->files, t->shard)->name;
}

#define FOUND(s, t, code, ...) ccq_verify_add((s)->v, code, file_of(s, t), (t)->name, __VA_ARGS__)

/* ---- Values --------------------------------------------------------------- */

static void *read_all(tensors *s, const ccq_tensor *t)
{
    ccq_error err;
    void *data = malloc(t->bytes + 1);
    if (!data) {
        s->v->failed = 1;
        return NULL;
    }
    if (ccq_checkpoint_read(s->v->files, t, 0, data, t->bytes, &err)) {
        FOUND(s, t, err.code, "%s", err.text);
        free(data);
        return NULL;
    }
    return data;
}

static int is_finite(const ccq_tensor *t, const void *data, uint64_t i)
{
    const uint16_t *half = data;
    const float *f = data;
    if (t->dtype == CCQ_DT_F32)
        return isfinite(f[i]);
    return isfinite(t->dtype == CCQ_DT_F16 ? ccq_f16_to_f32(half[i]) : ccq_bf16_to_f32(half[i]));
}

/* The values of a small tensor, or NULL after a finding. The caller frees it. */
static void *read_finite(tensors *s, const ccq_tensor *t)
{
    uint64_t count = t->bytes / (ccq_dtype_bits((ccq_dtype)t->dtype) / 8), bad = 0, first = 0;
    void *data = read_all(s, t);
    if (!data)
        return NULL;
    for (uint64_t i = 0; i < count; i++)
        if (!is_finite(t, data, i) && bad++ == 0)
            first = i;
    if (!bad)
        return data;
    FOUND(s, t, CCQ_NONFINITE, "%" PRIu64 " non-finite values, first at [%" PRIu64 "]", bad,
          first);
    free(data);
    return NULL;
}

/* ---- Code lines ----------------------------------------------------------- */

/* Most columns share few lines, so a verdict is kept by line. */
static const line_verdict *judge(tensors *s, float cs, float zp)
{
    uint32_t a, b;
    memcpy(&a, &cs, 4);
    memcpy(&b, &zp, 4);
    line_verdict *l = &s->lines[(a * 2654435761u ^ b * 2246822519u) >> 22];
    if (!l->used || memcmp(&l->cs, &cs, 4) != 0 || memcmp(&l->zp, &zp, 4) != 0) {
        l->used = 1;
        l->cs = cs;
        l->zp = zp;
        l->verdict = ccq_line_check(cs, zp, &l->byte);
    }
    return l;
}

static void check_lines(tensors *s, const linear *q, const float *cs, const float *zp)
{
    const ccq_tensor *t = q->part[CCQ_SUFFIX_CODE_SCALE];
    int64_t first[2] = {0, 0};
    uint64_t bad[2] = {0, 0};
    for (int64_t n = 0; n < q->n; n++) {
        int verdict = judge(s, cs[n], zp[n])->verdict;
        if (verdict != CCQ_LINE_RANGE && verdict != CCQ_LINE_UNSAFE)
            continue;
        int i = verdict == CCQ_LINE_UNSAFE;
        if (bad[i]++ == 0)
            first[i] = n;
    }
    for (int i = 0; i < 2; i++) {
        if (!bad[i])
            continue;
        const line_verdict *l = judge(s, cs[first[i]], zp[first[i]]);
        FOUND(s, t, CCQ_CODE_RANGE,
              "%" PRIu64 " columns, first %" PRId64 " (code_scale %.9g, code_zp %.9g): byte %d %s",
              bad[i], first[i], (double)l->cs, (double)l->zp, l->byte,
              i ? "gives another word with and without fused multiply-add"
                : "gives a word outside [-32768, 32767]");
    }
}

/* 480 = 15 x 32, the largest local scale times the largest value. */
static void check_super(tensors *s, const linear *q, const uint16_t *super)
{
    const double largest = (double)ccq_bf16_to_f32(0x7f7f);
    uint64_t bad = 0;
    int64_t first = 0;
    for (int64_t n = 0; n < q->n; n++)
        if (fabs(480 * (double)ccq_bf16_to_f32(super[n])) >= largest && bad++ == 0)
            first = n;
    if (bad)
        FOUND(s, q->part[CCQ_SUFFIX_SUPER_SCALES], CCQ_NONFINITE,
              "%" PRIu64 " columns, first %" PRId64
              ": 480 x super_scale = %g, decoded weights may overflow bf16",
              bad, first, 480 * (double)ccq_bf16_to_f32(super[first]));
}

static void check_columns(tensors *s, const linear *q)
{
    uint16_t *super = read_finite(s, q->part[CCQ_SUFFIX_SUPER_SCALES]);
    float *cs = read_finite(s, q->part[CCQ_SUFFIX_CODE_SCALE]);
    float *zp = read_finite(s, q->part[CCQ_SUFFIX_CODE_ZP]);
    if (super)
        check_super(s, q, super);
    if (cs && zp)
        check_lines(s, q, cs, zp);
    free(super);
    free(cs);
    free(zp);
}

/* ---- Quantized linears ---------------------------------------------------- */

/* dtype and shape [k, n], or [n] with k = 0. */
static void want(tensors *s, linear *q, const ccq_tensor *t, ccq_dtype dtype, int64_t k, int64_t n)
{
    char wanted[64], found[160];
    int rank = k ? 2 : 1, used;
    if (t->dtype != dtype) {
        FOUND(s, t, CCQ_DTYPE, "is %s, wanted %s", ccq_dtype_name((ccq_dtype)t->dtype),
              ccq_dtype_name(dtype));
        q->good = 0;
    }
    if (t->rank == rank && t->shape[rank - 1] == (uint64_t)n &&
        (rank == 1 || t->shape[0] == (uint64_t)k))
        return;
    if (k)
        snprintf(wanted, sizeof wanted, "[%" PRId64 ", %" PRId64 "]", k, n);
    else
        snprintf(wanted, sizeof wanted, "[%" PRId64 "]", n);
    used = snprintf(found, sizeof found, "[");
    for (int i = 0; i < t->rank && used < 130; i++)
        used += snprintf(found + used, sizeof found - (size_t)used, "%s%" PRIu64, i ? ", " : "",
                         t->shape[i]);
    FOUND(s, t, CCQ_SHAPE, "is %s], wanted %s", found, wanted);
    q->good = 0;
}

/* An alignment rule that q breaks. */
#define BROKEN(s, q, ...)                                                                          \
    do {                                                                                           \
        FOUND(s, (q)->part[CCQ_SUFFIX_QUANT_WEIGHT], CCQ_SHAPE_RULE, __VA_ARGS__);                 \
        (q)->good = 0;                                                                             \
    } while (0)

static void check_wint2(tensors *s, linear *q)
{
    const ccq_tensor *w = q->part[CCQ_SUFFIX_QUANT_WEIGHT];
    q->k = 4 * (int64_t)w->shape[0];
    q->n = (int64_t)w->shape[1];
    want(s, q, w, CCQ_DT_U8, q->k / 4, q->n);
    if (q->slot->block != CCQ_BLOCK_EXPERT)
        BROKEN(s, q, "wint2 is served for MoE experts only");
    if (q->k % 128)
        BROKEN(s, q,
               "K=%" PRId64
               " is not a multiple of 128: wint2 packs two 64-row scale groups per byte",
               q->k);
    else
        want(s, q, q->part[CCQ_SUFFIX_WEIGHT_SCALE], CCQ_DT_U8, q->k / 128, q->n);
    if (q->n % 16)
        BROKEN(s, q,
               "N=%" PRId64
               " is not a multiple of 16: the fused kernel copies 16 local scales at a time",
               q->n);
    s->narrow += q->n % 256 != 0;
    want(s, q, q->part[CCQ_SUFFIX_SUPER_SCALES], CCQ_DT_BF16, 0, q->n);
    want(s, q, q->part[CCQ_SUFFIX_CODE_SCALE], CCQ_DT_F32, 0, q->n);
    want(s, q, q->part[CCQ_SUFFIX_CODE_ZP], CCQ_DT_F32, 0, q->n);
    if (q->good)
        check_columns(s, q);
}

static int64_t blocks(int64_t length)
{
    return (length + CCQ_FP8_BLOCK - 1) / CCQ_FP8_BLOCK;
}

static void check_fp8(tensors *s, linear *q)
{
    const ccq_tensor *w = q->part[CCQ_SUFFIX_QUANT_WEIGHT],
                     *scale = q->part[CCQ_SUFFIX_WEIGHT_SCALE];
    q->k = (int64_t)w->shape[0];
    q->n = (int64_t)w->shape[1];
    want(s, q, w, CCQ_DT_I8, q->k, q->n);
    want(s, q, scale, CCQ_DT_F32, blocks(q->k), blocks(q->n));
    if (q->slot->role == CCQ_ROLE_UP_GATE && q->n / 2 % CCQ_FP8_BLOCK)
        BROKEN(s, q,
               "gate/up boundary %" PRId64
               " is not a multiple of 128: a block would span both",
               q->n / 2);
    if (q->good)
        free(read_finite(s, scale));
}

static void check_weight_only(tensors *s, linear *q)
{
    const ccq_tensor *w = q->part[CCQ_SUFFIX_QUANT_WEIGHT],
                     *scale = q->part[CCQ_SUFFIX_WEIGHT_SCALE];
    if (scale->rank == 2 && scale->dtype == CCQ_DT_F32) {
        check_fp8(s, q);
        return;
    }
    q->k = (int64_t)w->shape[1];
    q->n = scale->rank == 1 ? (int64_t)scale->shape[0] : (int64_t)w->shape[0];
    want(s, q, scale, CCQ_DT_BF16, 0, q->n);
    want(s, q, w, CCQ_DT_I8, w->shape[0] == (uint64_t)q->n ? q->n : q->n / 2, q->k);
    if (q->k % 64)
        BROKEN(s, q,
               "K=%" PRId64
               " is not a multiple of 64: the interleaved layout works on 64-row tiles",
               q->k);
    if (q->n % 16)
        BROKEN(s, q, "N=%" PRId64 " is not a multiple of 16", q->n);
    if (q->good)
        free(read_finite(s, scale));
}

/* 1 when all tensors of the linear are there; which are wanted depends on the type. */
static int siblings(tensors *s, linear *q, int wint2)
{
    const ccq_tensor *w = q->part[CCQ_SUFFIX_QUANT_WEIGHT];
    char name[BASE_BYTES + 20];
    int complete = 1;
    for (int i = CCQ_SUFFIX_WEIGHT_SCALE; i < (wint2 ? CCQ_SUFFIXES : CCQ_SUFFIX_SUPER_SCALES);
         i++) {
        if (q->part[i])
            continue;
        snprintf(name, sizeof name, "%s%s", q->base, suffixes[i]);
        ccq_verify_add(s->v, CCQ_INCOMPLETE, file_of(s, w), name, "is missing");
        complete = 0;
    }
    return complete;
}

static void check_linear(tensors *s, linear *q)
{
    const ccq_tensor *w = q->part[CCQ_SUFFIX_QUANT_WEIGHT];
    int wint2 = q->part[CCQ_SUFFIX_SUPER_SCALES] || q->part[CCQ_SUFFIX_CODE_SCALE] ||
                q->part[CCQ_SUFFIX_CODE_ZP] || w->dtype == CCQ_DT_U8;
    q->good = 1;
    if (q->slot->torch || q->slot->part) {
        FOUND(s, w, CCQ_UNSUPPORTED, "quantized tensors come under joined Paddle names only");
        return;
    }
    if (q->part[CCQ_SUFFIX_WEIGHT])
        FOUND(s, q->part[CCQ_SUFFIX_WEIGHT], CCQ_CONFIG, "stands beside a .quant_weight");
    if (w->dtype == CCQ_DT_I16) {
        FOUND(s, w, CCQ_UNSUPPORTED, "wint2.5 is not checked");
        return;
    }
    if (w->rank != 2 || !w->shape[0] || !w->shape[1] || w->shape[0] > INT32_MAX ||
        w->shape[1] > INT32_MAX) {
        FOUND(s, w, CCQ_SHAPE, "is no matrix, or too large");
        return;
    }
    if (!siblings(s, q, wint2))
        return;
    if (wint2)
        check_wint2(s, q);
    else
        check_weight_only(s, q);
}

/* Finds the other tensors of the linear that t (with this suffix) belongs to. */
static void gather(tensors *s, linear *q, const ccq_tensor *t, const ccq_slot *slot)
{
    char name[BASE_BYTES + 20];
    int len = (int)(strlen(t->name) - strlen(suffixes[slot->suffix]));
    memset(q->part, 0, sizeof q->part);
    q->slot = slot;
    snprintf(q->base, sizeof q->base, "%.*s", len, t->name);
    for (int i = 0; i < CCQ_SUFFIXES; i++) {
        snprintf(name, sizeof name, "%s%s", q->base, suffixes[i]);
        q->part[i] = ccq_checkpoint_find(s->v->files, name);
    }
}

static void check_quantized(tensors *s, const ccq_tensor *t, const ccq_slot *slot)
{
    linear q;
    gather(s, &q, t, slot);
    if (slot->suffix == CCQ_SUFFIX_QUANT_WEIGHT) {
        check_linear(s, &q);
        return;
    }
    if (q.part[CCQ_SUFFIX_QUANT_WEIGHT])
        return;
    for (int i = CCQ_SUFFIX_WEIGHT_SCALE; i < (int)slot->suffix; i++)
        if (q.part[i])
            return; /* said for that one */
    FOUND(s, t, CCQ_INCOMPLETE, "has no .quant_weight beside it");
}

/* ---- Unquantized tensors -------------------------------------------------- */

static int is_small(const ccq_slot *slot)
{
    return slot->bias || slot->role == CCQ_ROLE_NORM_IN || slot->role == CCQ_ROLE_NORM_POST ||
           slot->role == CCQ_ROLE_NORM || slot->role == CCQ_ROLE_ROUTER ||
           slot->role == CCQ_ROLE_ROUTER_BIAS;
}

static int is_float(const ccq_tensor *t)
{
    return t->dtype == CCQ_DT_BF16 || t->dtype == CCQ_DT_F16 || t->dtype == CCQ_DT_F32 ||
           t->dtype == CCQ_DT_U16;
}

static void check_plain(tensors *s, const ccq_tensor *t, const ccq_slot *slot)
{
    int router = slot->role == CCQ_ROLE_ROUTER || slot->role == CCQ_ROLE_ROUTER_BIAS;
    ccq_dtype served = router ? CCQ_DT_F32 : CCQ_DT_BF16;
    if (!is_float(t)) {
        FOUND(s, t, CCQ_DTYPE, "is %s, wanted %s", ccq_dtype_name((ccq_dtype)t->dtype),
              ccq_dtype_name(served));
        return;
    }
    if (s->v->quantized && t->dtype != served)
        FOUND(s, t, CCQ_DTYPE, "is %s, FastDeploy wants %s", ccq_dtype_name((ccq_dtype)t->dtype),
              ccq_dtype_name(served));
    if (is_small(slot))
        free(read_finite(s, t));
}

static void check_tensor(tensors *s, const ccq_tensor *t)
{
    ccq_slot slot;
    switch (ccq_name_parse(t->name, &slot)) {
    case CCQ_NAME_MTP:
        s->skipped++;
        break;
    case CCQ_NAME_UNKNOWN:
        if (t->rank != 1 || !is_float(t)) /* a vector is carried along, with a note */
            FOUND(s, t, CCQ_UNKNOWN, "is no tensor of this model family");
        break;
    case CCQ_NAME_KNOWN:
        if (slot.suffix == CCQ_SUFFIX_WEIGHT)
            check_plain(s, t, &slot);
        else
            check_quantized(s, t, &slot);
    }
}

static void look_around(ccq_verifier *v)
{
    ccq_slot slot;
    for (size_t i = 0; i < ccq_checkpoint_count(v->files); i++) {
        if (ccq_name_parse(ccq_checkpoint_at(v->files, i)->name, &slot) != CCQ_NAME_KNOWN)
            continue;
        v->quantized |= slot.suffix == CCQ_SUFFIX_QUANT_WEIGHT;
        v->moe |= slot.block == CCQ_BLOCK_EXPERT;
    }
}

void ccq_verify_tensors(ccq_verifier *v)
{
    tensors s = {v, calloc(LINES_KEPT, sizeof *s.lines), 0, 0};
    if (!s.lines) {
        v->failed = 1;
        return;
    }
    look_around(v);
    v->out->tensors += ccq_checkpoint_count(v->files);
    for (size_t i = 0; i < ccq_checkpoint_count(v->files); i++)
        check_tensor(&s, ccq_checkpoint_at(v->files, i));
    if (s.skipped)
        ccq_verify_note(v, "%" PRIu64 " tensors for multi-token prediction are not looked at",
                        s.skipped);
    if (s.narrow)
        ccq_verify_note(v, "%" PRIu64 " wint2 tensors have N %% 256 != 0: FastDeploy's winx_unzip "
                           "op cannot read them, its serving kernel can",
                        s.narrow);
    free(s.lines);
}
