#include "libccq/inspect.h"
#include "libccq/internal.h"
#include "libccq/slice.h"

#include "kernels/convert.h"
#include "kernels/encode.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- Summary -------------------------------------------------------------- */

/* Keys of config.json that some part of ccq acts on or checks. */
static const char *const used_keys[] = {
    "architectures", "bos_token_id", "compression_ratio", "dtype", "eos_token_id", "head_dim",
    "hidden_act", "hidden_size", "intermediate_size", "kv_cache_quant_type",
    "max_position_embeddings", "moe_gate_act", "moe_intermediate_size", "moe_k",
    "moe_layer_end_index", "moe_layer_interval", "moe_layer_start_index", "moe_num_experts",
    "moe_num_shared_experts", "moe_use_aux_free", "num_attention_heads", "num_hidden_layers",
    "num_key_value_heads", "pad_token_id", "partial_rotary_factor", "quantization_config",
    "remove_tail_layer", "rms_norm_eps", "rope_parameters", "rope_scaling", "rope_theta",
    "rope_type", "tie_word_embeddings", "torch_dtype", "transformers_version", "use_bias",
    "vocab_size"};

const char *ccq_part_name(int part)
{
    static const char *const names[CCQ_PARTS] = {"attention", "mlp", "shared", "experts"};
    return names[part];
}

double ccq_total_bits(const ccq_total *t)
{
    return t->parameters ? 8.0 * (double)t->bytes / (double)t->parameters : 0;
}

const char *ccq_part_type(const ccq_layer_part *part, char *out, size_t size)
{
    size_t used = 0;
    out[0] = 0;
    for (int t = 0; t < CCQ_TYPES; t++) {
        const char *name = ccq_type_name((ccq_type)t);
        size_t len = strlen(name);
        if (!(part->types >> t & 1) || used + len + 2 > size)
            continue;
        if (used)
            out[used++] = '+';
        memcpy(out + used, name, len + 1);
        used += len;
    }
    return out;
}

const char *ccq_part_granularity(const ccq_layer_part *part)
{
    const unsigned channel = 1u << CCQ_TYPE_WINT8 | 1u << CCQ_TYPE_WINT4;
    if (part->types == 1u << CCQ_TYPE_WINT2)
        return "pp_acc";
    if (part->types && (part->types & ~channel) == 0)
        return "per_channel";
    if (part->types == 1u << CCQ_TYPE_FP8)
        return "block_wise";
    return part->types & (channel | 1u << CCQ_TYPE_WINT2 | 1u << CCQ_TYPE_FP8) ? "mixed" : "none";
}

int ccq_part_group_size(const ccq_layer_part *part)
{
    return part->types == 1u << CCQ_TYPE_WINT2  ? CCQ_GROUP
           : part->types == 1u << CCQ_TYPE_FP8 ? CCQ_FP8_BLOCK
                                               : 0;
}

int ccq_layer_same(const ccq_layer_row *a, const ccq_layer_row *b)
{
    for (int p = 0; p < CCQ_PARTS; p++) {
        const ccq_layer_part *x = &a->part[p], *y = &b->part[p];
        if (x->types != y->types || x->total.entries != y->total.entries ||
            x->total.parameters != y->total.parameters || x->total.bytes != y->total.bytes)
            return 0;
    }
    return 1;
}

static int part_of(const ccq_entry *e)
{
    switch (e->block) {
    case CCQ_BLOCK_ATTENTION: return CCQ_PART_ATTENTION;
    case CCQ_BLOCK_DENSE: return CCQ_PART_MLP;
    case CCQ_BLOCK_SHARED: return CCQ_PART_SHARED;
    case CCQ_BLOCK_EXPERT: return CCQ_PART_EXPERTS;
    default: return -1;
    }
}

static void count(ccq_total *t, const ccq_entry *e)
{
    t->entries++;
    t->parameters += ccq_entry_parameters(e);
    t->bytes += ccq_entry_bytes(e);
}

static void count_entry(ccq_summary *s, const ccq_entry *e)
{
    count(&s->all, e);
    count(&s->type[e->type], e);
    if (e->type != CCQ_TYPE_BF16 && e->type != CCQ_TYPE_F32)
        count(&s->quantized, e);
    int part = part_of(e);
    if (part < 0 || !ccq_entry_linear(e) || e->bias || e->layer < 0 ||
        (size_t)e->layer >= s->layers)
        return;
    ccq_layer_part *p = &s->layer[e->layer].part[part];
    count(&p->total, e);
    p->types |= 1u << e->type;
}

static int is_used(const char *key)
{
    for (size_t i = 0; i < sizeof used_keys / sizeof *used_keys; i++)
        if (strcmp(key, used_keys[i]) == 0)
            return 1;
    return 0;
}

ccq_code ccq_summary_make(ccq_summary *s, const ccq_source *src, ccq_error *err)
{
    size_t keys = ccq_config_keys(src->config), i;
    memset(s, 0, sizeof *s);
    s->layers = (size_t)src->arch.layers;
    s->layer = calloc(s->layers ? s->layers : 1, sizeof *s->layer);
    s->used = calloc(keys + 1, sizeof *s->used);
    s->ignored = calloc(keys + 1, sizeof *s->ignored);
    if (!s->layer || !s->used || !s->ignored) {
        ccq_summary_free(s);
        return ccq_fail(err, CCQ_NO_MEMORY, "out of memory for a summary of %zu layers",
                        (size_t)src->arch.layers);
    }
    for (i = 0; i < s->layers; i++)
        s->layer[i].layer = (int)i;
    for (i = 0; i < src->count; i++)
        count_entry(s, &src->entry[i]);
    ccq_source_shards(src, &s->file_bytes);
    for (i = 0; i < keys; i++) {
        const char *key = ccq_config_key(src->config, i);
        if (is_used(key))
            s->used[s->useds++] = key;
        else
            s->ignored[s->ignoreds++] = key;
    }
    return CCQ_OK;
}

void ccq_summary_free(ccq_summary *s)
{
    free(s->layer);
    free(s->used);
    free(s->ignored);
    memset(s, 0, sizeof *s);
}

/* ---- One tensor ----------------------------------------------------------- */

enum { WINDOW = 1 << 18 }; /* bytes read at a time; a multiple of every item size */

static void add_value(ccq_values *v, double x)
{
    v->count++;
    if (!isfinite(x)) {
        v->nonfinite++;
        return;
    }
    uint64_t seen = v->count - v->nonfinite;
    v->zeros += x == 0;
    v->min = seen == 1 || x < v->min ? x : v->min;
    v->max = seen == 1 || x > v->max ? x : v->max;
    v->mean += x;
    v->rms += x * x;
}

/* Sums to means. */
static void finish_values(ccq_values *v)
{
    double n = (double)(v->count - v->nonfinite);
    v->mean = n > 0 ? v->mean / n : 0;
    v->rms = n > 0 ? sqrt(v->rms / n) : 0;
}

static float item(const unsigned char *p, int dtype)
{
    uint16_t half;
    float f;
    if (dtype == CCQ_DT_F32) {
        memcpy(&f, p, 4);
        return f;
    }
    memcpy(&half, p, 2);
    return dtype == CCQ_DT_F16 ? ccq_f16_to_f32(half) : ccq_bf16_to_f32(half);
}

static void take_values(ccq_detail *d, const ccq_tensor *t, const unsigned char *p, size_t size)
{
    size_t step = ccq_dtype_bits((ccq_dtype)t->dtype) / 8;
    for (size_t i = 0; i + step <= size; i += step)
        add_value(&d->values, (double)item(p + i, t->dtype));
}

static void take_bytes(ccq_detail *d, const ccq_tensor *t, const unsigned char *p, size_t size)
{
    (void)t;
    for (size_t i = 0; i < size; i++)
        d->code[p[i]]++;
}

static void take_nibbles(ccq_detail *d, const ccq_tensor *t, const unsigned char *p, size_t size)
{
    (void)t;
    for (size_t i = 0; i < size; i++) {
        d->code[p[i] & 15]++;
        d->code[p[i] >> 4]++;
    }
}

static void take_local(ccq_detail *d, const ccq_tensor *t, const unsigned char *p, size_t size)
{
    (void)t;
    for (size_t i = 0; i < size; i++) {
        d->local[p[i] & 15]++;
        d->local[p[i] >> 4]++;
    }
}

typedef void (*take_fn)(ccq_detail *d, const ccq_tensor *t, const unsigned char *p, size_t size);

static ccq_code each_window(ccq_detail *d, const ccq_source *src, const ccq_tensor *t,
                            take_fn take, ccq_error *err)
{
    ccq_code code = CCQ_OK;
    unsigned char *window = malloc(WINDOW);
    if (!window)
        return ccq_fail(err, CCQ_NO_MEMORY, "out of memory for a window of %d bytes", WINDOW);
    for (uint64_t at = 0; at < t->bytes && !code; at += WINDOW) {
        uint64_t size = t->bytes - at < WINDOW ? t->bytes - at : WINDOW;
        code = ccq_checkpoint_read(src->files, t, at, window, size, err);
        if (!code)
            take(d, t, window, (size_t)size);
    }
    free(window);
    return code;
}

static int by_bits(const void *a, const void *b)
{
    return memcmp(a, b, 2 * sizeof(float));
}

static int by_use(const void *a, const void *b)
{
    const ccq_line_use *x = a, *y = b;
    if (x->columns != y->columns)
        return x->columns < y->columns ? 1 : -1;
    return by_bits(a, b);
}

static void see_words(ccq_detail *d, const ccq_line_use *line, int first)
{
    for (int b = 0; b < CCQ_CODES; b++) {
        int32_t v = ccq_word_fused(b, line->cs, line->zp);
        int start = first && b == 0;
        d->v_min = start || v < d->v_min ? v : d->v_min;
        d->v_max = start || v > d->v_max ? v : d->v_max;
    }
}

/* Adds the lines of e to those of other ranks. */
static ccq_code read_lines(ccq_detail *d, const ccq_source *src, const ccq_entry *e,
                           ccq_error *err)
{
    size_t n = (size_t)e->n, all = n + d->lines, i, count = 0;
    float *cs = calloc(n + 1, sizeof *cs), *zp = calloc(n + 1, sizeof *zp);
    ccq_line_use *line = calloc(all + 1, sizeof *line);
    ccq_code code = CCQ_OK;
    if (!cs || !zp || !line)
        code = ccq_fail(err, CCQ_NO_MEMORY, "\"%s\": out of memory for %zu columns", e->name, n);
    if (!code)
        code = ccq_checkpoint_read(src->files, e->code_scale, 0, cs, n * sizeof *cs, err);
    if (!code)
        code = ccq_checkpoint_read(src->files, e->code_zp, 0, zp, n * sizeof *zp, err);
    if (code)
        goto done;
    for (i = 0; i < n; i++)
        line[i] = (ccq_line_use){cs[i], zp[i], 1};
    for (; i < all; i++)
        line[i] = d->line[i - n];
    qsort(line, all, sizeof *line, by_bits);
    for (i = 0; i < all; i++) {
        if (count && by_bits(&line[count - 1], &line[i]) == 0) {
            line[count - 1].columns += line[i].columns;
            continue;
        }
        see_words(d, &line[i], count == 0);
        line[count++] = line[i];
    }
    qsort(line, count, sizeof *line, by_use);
    free(d->line);
    d->line = line;
    d->lines = count;
    line = NULL;
done:
    free(cs);
    free(zp);
    free(line);
    return code;
}

static void list_tensors(ccq_detail *d, const ccq_entry *e)
{
    const ccq_tensor *scales[] = {e->weight_scale, e->super_scales, e->code_scale, e->code_zp};
    for (int i = 0; i < e->pieces; i++)
        d->tensor[d->tensors++] = e->piece[i].tensor;
    for (int i = 0; i < 4; i++)
        if (scales[i])
            d->tensor[d->tensors++] = scales[i];
}

static ccq_code take_entry(ccq_detail *d, const ccq_source *src, const ccq_entry *e,
                           ccq_error *err)
{
    ccq_code code = CCQ_OK;
    switch (e->type) {
    case CCQ_TYPE_WINT2:
        code = each_window(d, src, e->piece[0].tensor, take_bytes, err);
        if (!code)
            code = each_window(d, src, e->weight_scale, take_local, err);
        if (!code)
            code = each_window(d, src, e->super_scales, take_values, err);
        if (!code)
            code = read_lines(d, src, e, err);
        break;
    case CCQ_TYPE_WINT8:
    case CCQ_TYPE_WINT4:
    case CCQ_TYPE_FP8:
        code = each_window(d, src, e->piece[0].tensor,
                           e->type == CCQ_TYPE_WINT4 ? take_nibbles : take_bytes, err);
        if (!code)
            code = each_window(d, src, e->weight_scale, take_values, err);
        break;
    default:
        for (int i = 0; i < e->pieces && !code; i++)
            code = each_window(d, src, e->piece[i].tensor, take_values, err);
    }
    return code;
}

ccq_code ccq_detail_make(ccq_detail *d, const ccq_source *src, const ccq_entry *e, ccq_error *err)
{
    int ranks = src->rank && ccq_cut_of(e) != CCQ_CUT_NONE ? src->ranks : 1;
    ccq_code code = CCQ_OK;
    memset(d, 0, sizeof *d);
    d->entry = e;
    list_tensors(d, src->rank ? ccq_rank_entry(src, e, 0) : e);
    for (int r = 0; r < ranks && !code; r++)
        code = src->rank ? take_entry(d, src->rank[r], ccq_rank_entry(src, e, r), err)
                         : take_entry(d, src, e, err);
    finish_values(&d->values);
    return code;
}

void ccq_detail_free(ccq_detail *d)
{
    free(d->line);
    memset(d, 0, sizeof *d);
}
