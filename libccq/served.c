/* config.json of the output: the input's bytes, with the few values spliced in
 * that FastDeploy must find or must not (docs/format.md, "config.json"). */
#include "libccq/job.h"

#include "formats/json.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_EDITS = 32 };

typedef struct edits {
    ccq_plan *plan;
    const ccq_config *in;
    ccq_config_edit edit[MAX_EDITS];
    char *value[MAX_EDITS]; /* owned text of the edits */
    size_t count;
    int failed; /* out of memory */
} edits;

/* value NULL removes; why goes into the change line. */
static void change(edits *e, const char *key, const char *value, const char *why)
{
    char *copy = value ? strdup(value) : NULL;
    if (e->count == MAX_EDITS || (value && !copy)) {
        free(copy);
        e->failed = 1;
        return;
    }
    e->value[e->count] = copy;
    e->edit[e->count++] = (ccq_config_edit){key, copy};
    if (!value)
        e->failed |= ccq_text_add(&e->plan->changes, "%s removed: %s", key, why) != 0;
    else if (strlen(value) > 60)
        e->failed |= ccq_text_add(&e->plan->changes, "%s written: %s", key, why) != 0;
    else
        e->failed |= ccq_text_add(&e->plan->changes, "%s set to %s: %s", key, value, why) != 0;
}

static void want_string(edits *e, const char *key, const char *value, const char *why)
{
    const char *have = ccq_config_string(e->in, key);
    char quoted[64];
    snprintf(quoted, sizeof quoted, "\"%s\"", value);
    if (!have || strcmp(have, value) != 0)
        change(e, key, quoted, why);
}

static void want_int(edits *e, const char *key, int64_t value, const char *why)
{
    int64_t have;
    char text[32];
    snprintf(text, sizeof text, "%" PRId64, value);
    if (!ccq_config_int(e->in, key, &have) || have != value)
        change(e, key, text, why);
}

static void want_bool(edits *e, const char *key, int value, const char *why)
{
    int have;
    if (!ccq_config_bool(e->in, key, &have) || !have != !value)
        change(e, key, value ? "true" : "false", why);
}

static void drop(edits *e, const char *key, const char *why)
{
    if (ccq_config_kind(e->in, key) != CCQ_KIND_ABSENT)
        change(e, key, NULL, why);
}

/* ---- quantization_config --------------------------------------------------- */

static void range(ccq_jw *w, const char *key, const char *type, const char *granularity,
                  int group, int64_t start, int64_t end)
{
    ccq_jw_key(w, key);
    ccq_jw_object(w);
    ccq_jw_kstring(w, "quant_type", type);
    ccq_jw_kstring(w, "quant_granularity", granularity);
    if (group)
        ccq_jw_ki64(w, "quant_group_size", group);
    ccq_jw_ki64(w, "quant_start_layer", start);
    ccq_jw_ki64(w, "quant_end_layer", end);
    ccq_jw_end(w);
}

/* The loader reads moe_quant_config.quant_type and the end layer of wint4; the
 * rest is kept truthful. */
static void put_w4w2(ccq_jw *w, const ccq_plan *plan)
{
    ccq_jw_kstring(w, "quantization", "wint2");
    ccq_jw_kstring(w, "dense_quant_type", "wint8");
    ccq_jw_kstring(w, "moe_quant_type", "w4w2");
    ccq_jw_kbool(w, "is_quantized", 1);
    ccq_jw_key(w, "moe_quant_config");
    ccq_jw_object(w);
    ccq_jw_kstring(w, "quant_type", "w4w2");
    range(w, "moe_w4_quant_config", "wint4", "per_channel", 0, 0, plan->w4_end);
    range(w, "moe_w2_quant_config", "wint2", "pp_acc", CCQ_GROUP, plan->w4_end + 1,
          plan->src->arch.layers - 1);
    ccq_jw_end(w);
}

/* Where there are experts the loader finds their scales by moe_quant_type, which
 * the plain form does not carry. */
static void put_fp8(ccq_jw *w, const ccq_plan *plan)
{
    const char *name = ccq_scheme_name(CCQ_SCHEME_FP8);
    int moe = plan->src->arch.experts > 0;
    ccq_jw_kstring(w, "quantization", moe ? "mix_quant" : name);
    if (moe) {
        ccq_jw_kstring(w, "dense_quant_type", name);
        ccq_jw_kstring(w, "moe_quant_type", name);
    }
    ccq_jw_key(w, "weight_block_size");
    ccq_jw_array(w);
    ccq_jw_i64(w, CCQ_FP8_BLOCK);
    ccq_jw_i64(w, CCQ_FP8_BLOCK);
    ccq_jw_end(w);
    ccq_jw_kbool(w, "is_quantized", 1);
}

static char *quantization(const ccq_plan *plan)
{
    ccq_jw w;
    ccq_jw_init(&w, 2);
    ccq_jw_object(&w);
    if (plan->options.scheme == CCQ_SCHEME_WINT8) {
        ccq_jw_kstring(&w, "quantization", "wint8");
        ccq_jw_kstring(&w, "dense_quant_type", "wint8");
        ccq_jw_kbool(&w, "is_quantized", 1);
    } else if (plan->options.scheme == CCQ_SCHEME_FP8) {
        put_fp8(&w, plan);
    } else {
        put_w4w2(&w, plan);
    }
    ccq_jw_end(&w);
    return ccq_jw_take(&w, &(size_t){0});
}

static void quantization_key(edits *e)
{
    static const char key[] = "quantization_config";
    if (e->plan->options.scheme == CCQ_SCHEME_BF16) {
        drop(e, key, "nothing is quantized");
        return;
    }
    char *block = quantization(e->plan);
    if (block)
        change(e, key, block, ccq_scheme_name(e->plan->options.scheme));
    else
        e->failed = 1;
    free(block);
}

/* ---- The other keys ---------------------------------------------------------- */

static void class_key(edits *e, const char *name, const char *why)
{
    const char *have = ccq_config_array_string(e->in, "architectures", 0);
    char list[64];
    snprintf(list, sizeof list, "[\"%s\"]", name);
    if (!have || strcmp(have, name) != 0 || ccq_config_array_size(e->in, "architectures") != 1)
        change(e, "architectures", list, why);
}

/* What transformers looks at. */
static void torch_keys(edits *e)
{
    int moe = e->plan->src->arch.experts > 0;
    class_key(e, moe ? "Ernie4_5_MoeForCausalLM" : "Ernie4_5ForCausalLM", "the torch name");
    drop(e, "dtype", "the torch name of it is torch_dtype");
    want_string(e, "torch_dtype", "bfloat16", "what the tensors are");
    want_string(e, "model_type", moe ? "ernie4_5_moe" : "ernie4_5", "the class of transformers");
}

static void format_keys(edits *e)
{
    if (e->plan->options.names == CCQ_NAMES_TORCH) {
        torch_keys(e);
        return;
    }
    class_key(e, e->plan->src->arch.experts > 0 ? "Ernie4_5_MoeForCausalLM"
                                                : "Ernie4_5_ForCausalLM", "the Paddle name");
    drop(e, "torch_dtype", "it would select the torch loader");
    want_string(e, "dtype", "bfloat16", "what the unquantized tensors are");
    drop(e, "transformers_version", "with dtype it would mark a torch checkpoint");
}

static ccq_code rope_key(edits *e, ccq_error *err)
{
    double value;
    size_t len;
    if (ccq_config_double(e->in, "rope_theta", &value))
        return CCQ_OK;
    static const char nested[] = "rope_parameters.rope_theta";
    const char *raw = ccq_config_raw(e->in, nested, &len);
    char text[64];
    if (!raw || len >= sizeof text || !ccq_config_double(e->in, nested, &value))
        return ccq_fail(err, CCQ_CONFIG, "config.json: rope_theta is missing");
    memcpy(text, raw, len);
    text[len] = 0;
    change(e, "rope_theta", text, "lifted from rope_parameters");
    return CCQ_OK;
}

static void moe_keys(edits *e)
{
    const ccq_arch *arch = &e->plan->src->arch;
    int use = 1;
    if (arch->experts < 1)
        return;
    want_int(e, "moe_num_shared_experts", arch->shared, "as the tensors are");
    want_int(e, "moe_layer_start_index", arch->moe_start, "as the tensors are");
    if (!arch->correction_bias)
        return;
    int64_t number;
    if (ccq_config_int(e->in, "moe_use_aux_free", &number))
        use = number != 0; /* as Python reads it */
    if (ccq_config_kind(e->in, "moe_use_aux_free") != CCQ_KIND_NUMBER &&
        !ccq_config_bool(e->in, "moe_use_aux_free", &use))
        change(e, "moe_use_aux_free", "true", "e_score_correction_bias is there to be used");
    else if (!use)
        e->failed |= ccq_text_add(&e->plan->warnings,
                                  "config.json: moe_use_aux_free is false: the "
                                  "e_score_correction_bias tensors are kept and ignored by every "
                                  "reader") != 0;
}

static void missing_number(edits *e, const char *key, double value)
{
    double have;
    if (ccq_config_double(e->in, key, &have) || !(value > 0))
        return;
    ccq_jw w;
    ccq_jw_init(&w, 0);
    ccq_jw_double(&w, value);
    char *text = ccq_jw_take(&w, &(size_t){0});
    if (text)
        change(e, key, text, "missing in the input");
    else
        e->failed = 1;
    free(text);
}

static void size_keys(edits *e)
{
    const ccq_arch *arch = &e->plan->src->arch;
    const ccq_transform *t = e->plan->transform;
    int tied = arch->tied && !(t && ccq_transform_head(t));
    want_bool(e, "tie_word_embeddings", tied,
              tied ? "there is no lm_head.weight" : "lm_head.weight is there");
    missing_number(e, "num_key_value_heads", (double)arch->kv_heads);
    if (!ccq_config_string(e->in, "hidden_act"))
        change(e, "hidden_act", "\"silu\"", "missing in the input");
}

static void tail_layer(edits *e)
{
    int flag = 0;
    int64_t count = 0;
    ccq_config_bool(e->in, "remove_tail_layer", &flag);
    ccq_config_int(e->in, "remove_tail_layer", &count);
    if (flag || count)
        e->failed |= ccq_text_add(&e->plan->warnings, "config.json: remove_tail_layer is kept: "
                                                      "FastDeploy serves fewer layers") != 0;
}

/* Keys without which FastDeploy stops and that ccq does not guess. */
static ccq_code required_keys(const edits *e, ccq_error *err)
{
    static const char *const keys[] = {"intermediate_size", "moe_num_experts", "moe_k",
                                       "moe_intermediate_size"};
    size_t count = e->plan->src->arch.experts ? 4 : 1;
    for (size_t i = 0; i < count; i++)
        if (ccq_config_kind(e->in, keys[i]) != CCQ_KIND_NUMBER)
            return ccq_fail(err, CCQ_CONFIG, "%s: \"%s\" is missing, FastDeploy needs it",
                            ccq_config_name(e->in), keys[i]);
    return CCQ_OK;
}

ccq_code ccq_served_config(ccq_plan *plan, ccq_error *err)
{
    edits *e = calloc(1, sizeof *e);
    ccq_code code = CCQ_OK;
    if (!e)
        return ccq_fail(err, CCQ_NO_MEMORY, "config.json: out of memory");
    e->plan = plan;
    e->in = plan->src->config;
    format_keys(e);
    size_keys(e);
    code = required_keys(e, err);
    if (!code)
        code = rope_key(e, err);
    if (code)
        goto done;
    moe_keys(e);
    tail_layer(e);
    quantization_key(e);
    if (e->failed)
        code = ccq_fail(err, CCQ_NO_MEMORY, "config.json: out of memory");
    else
        code = ccq_config_splice(e->in, e->edit, e->count, &plan->config, err);
done:
    for (size_t i = 0; i < e->count; i++)
        free(e->value[i]);
    free(e);
    return code;
}
