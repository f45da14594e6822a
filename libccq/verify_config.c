/* config.json as FastDeploy reads it: keys it must find and must not find, and
 * quantization_config against the tensors (docs/format.md, "config.json"). Only
 * for quantized checkpoints; a BF16 one is input, not what is served. */
#include "libccq/verify.h"

#include "kernels/encode.h"

#include <stdio.h>
#include <string.h>

#define BLOCK "quantization_config."
#define MOE BLOCK "moe_quant_config."

static const char file[] = "config.json";

#define FOUND(v, ...) ccq_verify_add(v, CCQ_CONFIG, file, NULL, __VA_ARGS__)

static int has(const ccq_verifier *v, const char *path)
{
    ccq_kind kind = ccq_config_kind(v->config, path);
    return kind != CCQ_KIND_ABSENT && kind != CCQ_KIND_NULL;
}

/* ---- Keys at the top ------------------------------------------------------ */

static void check_present(ccq_verifier *v)
{
    static const struct {
        const char *key, *fallback;
        int moe;
    } keys[] = {
        {"rope_theta", "10000", 0},
        {"num_key_value_heads", "-1", 0},
        {"vocab_size", "-1", 0},
        {"max_position_embeddings", "512", 0},
        {"rms_norm_eps", "1e-5", 0},
        {"tie_word_embeddings", "false", 0},
        {"hidden_act", NULL, 0},
        {"intermediate_size", NULL, 0},
        {"hidden_size", NULL, 0},
        {"num_attention_heads", NULL, 0},
        {"num_hidden_layers", NULL, 0},
        {"moe_num_experts", NULL, 1},
        {"moe_num_shared_experts", "0", 1},
        {"moe_layer_start_index", "0", 1},
        {"moe_k", NULL, 1},
        {"moe_intermediate_size", NULL, 1},
    };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        if ((keys[i].moe && !v->moe) || has(v, keys[i].key))
            continue;
        if (keys[i].fallback)
            FOUND(v, "\"%s\" is missing: FastDeploy takes %s", keys[i].key, keys[i].fallback);
        else
            FOUND(v, "\"%s\" is missing: FastDeploy stops", keys[i].key);
    }
}

static void check_class(ccq_verifier *v)
{
    const char *name = ccq_config_array_string(v->config, "architectures", 0);
    const char *wanted = v->moe ? "Ernie4_5_MoeForCausalLM" : "Ernie4_5_ForCausalLM";
    if (!name)
        FOUND(v, "\"architectures\" is missing, wanted \"%s\"", wanted);
    else if (strcmp(name, wanted) != 0) {
        char shown[100];
        FOUND(v, "\"architectures\" is \"%s\", wanted \"%s\"",
              ccq_escape(shown, sizeof shown, name, strlen(name)), wanted);
    }
}

static void check_format_keys(ccq_verifier *v)
{
    const char *dtype = ccq_config_string(v->config, "dtype");
    int64_t tail = 0;
    int flag = 0;
    if (!dtype)
        FOUND(v, "\"dtype\" is missing: FastDeploy stops");
    else if (strcmp(dtype, "bfloat16") != 0)
        FOUND(v, "\"dtype\" is not \"bfloat16\"");
    if (has(v, "torch_dtype"))
        FOUND(v, "\"torch_dtype\" makes FastDeploy take this for a torch checkpoint");
    if (has(v, "transformers_version"))
        FOUND(v, "\"transformers_version\" makes FastDeploy take this for a torch checkpoint");
    ccq_config_int(v->config, "remove_tail_layer", &tail);
    ccq_config_bool(v->config, "remove_tail_layer", &flag);
    if (tail || flag)
        ccq_verify_note(v, "config.json: \"remove_tail_layer\": FastDeploy serves fewer layers");
}

static void check_against_tensors(ccq_verifier *v)
{
    const ccq_arch *a = &v->src->arch;
    int tied, aux;
    int64_t start, shared;
    if (ccq_config_bool(v->config, "tie_word_embeddings", &tied) && tied != a->tied)
        FOUND(v, "\"tie_word_embeddings\" is %s, lm_head.weight is %s", tied ? "true" : "false",
              a->tied ? "absent" : "there");
    if (a->experts == 0)
        return;
    if (ccq_config_int(v->config, "moe_layer_start_index", &start) && start != a->moe_start)
        FOUND(v, "\"moe_layer_start_index\" is %lld, the first MoE layer is %lld",
              (long long)start, (long long)a->moe_start);
    if (ccq_config_int(v->config, "moe_num_shared_experts", &shared) && shared != a->shared)
        FOUND(v, "\"moe_num_shared_experts\" is %lld, the tensors hold %lld", (long long)shared,
              (long long)a->shared);
    if (a->correction_bias && !ccq_config_bool(v->config, "moe_use_aux_free", &aux))
        FOUND(v, "\"moe_use_aux_free\" is missing: FastDeploy ignores the correction bias");
}

/* ---- quantization_config -------------------------------------------------- */


static void want_string(ccq_verifier *v, const char *path, const char *wanted)
{
    const char *s = ccq_config_string(v->config, path);
    char shown[100];
    if (!s)
        FOUND(v, "\"%s\" is missing, wanted \"%s\"", path, wanted);
    else if (strcmp(s, wanted) != 0)
        FOUND(v, "\"%s\" is \"%s\", wanted \"%s\"", path,
              ccq_escape(shown, sizeof shown, s, strlen(s)), wanted);
}

static void check_is_quantized(ccq_verifier *v)
{
    int flag;
    if (ccq_config_bool(v->config, BLOCK "is_quantized", &flag)) {
        if (!flag)
            FOUND(v, "\"" BLOCK "is_quantized\" is false, the tensors are quantized");
    } else if (has(v, BLOCK "kv_cache_quant_type")) {
        FOUND(v, "\"" BLOCK "is_quantized\" is missing beside kv_cache_quant_type: FastDeploy "
                 "takes false");
    }
}

/* quant_start_layer and quant_end_layer of one of the two ranges; 0 when missing. */
static int read_range(const ccq_verifier *v, const char *name, int64_t *start, int64_t *end)
{
    char path[100];
    snprintf(path, sizeof path, MOE "%s.quant_start_layer", name);
    int found = ccq_config_int(v->config, path, start);
    snprintf(path, sizeof path, MOE "%s.quant_end_layer", name);
    return ccq_config_int(v->config, path, end) & found;
}

/* Every MoE layer in exactly one range. */
static void check_ranges(ccq_verifier *v, int64_t first, int64_t last)
{
    int64_t s4, e4, s2, e2;
    if (!read_range(v, "moe_w4_quant_config", &s4, &e4) ||
        !read_range(v, "moe_w2_quant_config", &s2, &e2))
        return; /* only the end of the first one is needed, and that is checked by itself */
    for (int64_t i = first; i <= last; i++) {
        int in4 = i >= s4 && i <= e4, in2 = i >= s2 && i <= e2;
        if (in4 + in2 == 1)
            continue;
        FOUND(v,
              "\"" MOE "\": layer %lld is in %s of the ranges %lld..%lld (wint4) and %lld..%lld "
              "(wint2)",
              (long long)i, in4 ? "both" : "neither", (long long)s4, (long long)e4, (long long)s2,
              (long long)e2);
        return;
    }
}

static void check_experts(ccq_verifier *v, int64_t end)
{
    const ccq_arch *a = &v->src->arch;
    unsigned types[sizeof a->layer_moe] = {0}; /* bit 1 << CCQ_TYPE_* a layer */
    for (size_t i = 0; i < v->src->count; i++) {
        const ccq_entry *e = &v->src->entry[i];
        if (e->block == CCQ_BLOCK_EXPERT && ccq_entry_linear(e))
            types[e->layer] |= 1u << e->type;
    }
    for (int64_t i = 0; i < a->layers; i++) {
        ccq_type wanted = i <= end ? CCQ_TYPE_WINT4 : CCQ_TYPE_WINT2;
        if (types[i] & (types[i] - 1))
            ccq_verify_add(v, CCQ_SHAPE_RULE, "", NULL,
                           "layer %lld mixes types: FastDeploy selects by layer and "
                           "quant_end_layer only",
                           (long long)i);
        else if (a->layer_moe[i] && types[i] != 1u << wanted)
            FOUND(v, "experts of layer %lld are not %s, as quant_end_layer %lld wants",
                  (long long)i, ccq_type_name(wanted), (long long)end);
    }
}

/* Linears outside the experts (or all of them) must be wint8. */
static void check_dense(ccq_verifier *v, int experts_too)
{
    uint64_t plain = 0;
    for (size_t i = 0; i < v->src->count; i++) {
        const ccq_entry *e = &v->src->entry[i];
        if (!ccq_entry_linear(e) || (e->block == CCQ_BLOCK_EXPERT && !experts_too))
            continue;
        plain += e->type == CCQ_TYPE_BF16;
        if (e->type != CCQ_TYPE_WINT8 && e->type != CCQ_TYPE_BF16)
            ccq_verify_add(v, CCQ_CONFIG, file, e->name, "is %s, \"dense_quant_type\" is wint8",
                           ccq_type_name(e->type));
    }
    if (plain)
        ccq_verify_note(v, "%llu linears outside the experts are not quantized",
                        (unsigned long long)plain);
}

static void check_wint2(ccq_verifier *v)
{
    int64_t end = 6, first = 0, last = 0;
    int layers = ccq_config_int(v->config, "num_hidden_layers", &last);
    want_string(v, BLOCK "moe_quant_type", "w4w2");
    if (has(v, MOE "quant_type"))
        want_string(v, MOE "quant_type", "w4w2");
    else
        ccq_verify_note(v, "config.json: \"" MOE "quant_type\" is missing");
    if (!ccq_config_int(v->config, MOE "moe_w4_quant_config.quant_end_layer", &end))
        FOUND(v, "\"" MOE "moe_w4_quant_config.quant_end_layer\" is missing: FastDeploy takes 6");
    ccq_config_int(v->config, "moe_layer_start_index", &first);
    if (layers && last <= 4096)
        check_ranges(v, first > 0 ? first : 0, last - 1);
    if (!v->src)
        return;
    check_experts(v, end);
    check_dense(v, 0);
}

/* Either form of block_wise_fp8: plain for models without experts. */
static void check_fp8(ccq_verifier *v, int mixed)
{
    static const char type[] = "block_wise_fp8";
    int64_t rows = 0, columns = 0;
    if (mixed) {
        want_string(v, BLOCK "dense_quant_type", type);
        want_string(v, BLOCK "moe_quant_type", type);
    } else if (v->moe) {
        FOUND(v, "\"" BLOCK "quantization\" is \"%s\": FastDeploy finds the scales of experts "
                 "under \"mix_quant\" only", type);
    }
    ccq_config_array_int(v->config, BLOCK "weight_block_size", 0, &rows);
    ccq_config_array_int(v->config, BLOCK "weight_block_size", 1, &columns);
    if (rows != CCQ_FP8_BLOCK || columns != CCQ_FP8_BLOCK)
        FOUND(v, "\"" BLOCK "weight_block_size\" is not [128, 128]");
    for (size_t i = 0; v->src && i < v->src->count; i++) {
        const ccq_entry *e = &v->src->entry[i];
        if (ccq_entry_linear(e) && e->type != CCQ_TYPE_FP8)
            ccq_verify_add(v, CCQ_CONFIG, file, e->name, "is %s, quantization_config says %s",
                           ccq_type_name(e->type), type);
    }
}

static int is_fp8(const ccq_verifier *v, const char *name)
{
    static const char type[] = "block_wise_fp8";
    const char *moe = ccq_config_string(v->config, BLOCK "moe_quant_type");
    return strcmp(name, type) == 0 ||
           (strcmp(name, "mix_quant") == 0 && moe && strcmp(moe, type) == 0);
}

static void check_quantization(ccq_verifier *v)
{
    char shown[100];
    const char *name = ccq_config_string(v->config, BLOCK "quantization");
    if (!has(v, "quantization_config")) {
        FOUND(v, "\"quantization_config\" is missing, the tensors are quantized");
        return;
    }
    if (!name) {
        FOUND(v, "\"" BLOCK "quantization\" is missing");
        return;
    }
    check_is_quantized(v);
    if (strcmp(name, "wint2") == 0 || strcmp(name, "wint8") == 0)
        want_string(v, BLOCK "dense_quant_type", "wint8");
    if (strcmp(name, "wint2") == 0)
        check_wint2(v);
    else if (is_fp8(v, name))
        check_fp8(v, strcmp(name, "mix_quant") == 0);
    else if (strcmp(name, "wint8") != 0)
        ccq_verify_note(v, "config.json: quantization \"%s\" is not checked",
                        ccq_escape(shown, sizeof shown, name, strlen(name)));
    else if (v->src)
        check_dense(v, 1);
    if (strcmp(name, "wint8") == 0 && v->src && v->src->arch.experts > 0)
        ccq_verify_note(v, "FastDeploy cannot load plain wint8 experts");
}

void ccq_verify_config(ccq_verifier *v)
{
    int flag = 1;
    if (v->quantized) {
        check_present(v);
        check_class(v);
        check_format_keys(v);
        check_quantization(v);
        if (v->src)
            check_against_tensors(v);
        return;
    }
    if (v->src && v->src->recipe && !v->src->arch.torch_names) { /* ours, and FastDeploy loads it */
        check_present(v);
        check_class(v);
        check_format_keys(v);
        check_against_tensors(v);
    }
    if (!v->opened || !has(v, "quantization_config"))
        return;
    ccq_config_bool(v->config, BLOCK "is_quantized", &flag);
    if (flag)
        FOUND(v, "\"quantization_config\" is there, no tensor is quantized");
}
