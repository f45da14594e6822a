/* Sizes of the model: config.json and tensors must tell the same. Whatever the
 * tensors can tell, the tensors decide; whatever they cannot must be written. */
#include "libccq/internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_LAYERS = (int)(sizeof((ccq_arch *)0)->layer_moe) };

static ccq_code bad(const ccq_config *config, ccq_error *err, const char *key, const char *what)
{
    return ccq_fail(err, CCQ_CONFIG, "%s: \"%s\" %s", ccq_config_name(config), key, what);
}

/* A size: absent leaves 0 unless required. */
static ccq_code read_size(const ccq_config *config, const char *key, int required, int64_t max,
                          int64_t *value, ccq_error *err)
{
    ccq_kind kind = ccq_config_kind(config, key);
    *value = 0;
    if (kind == CCQ_KIND_ABSENT || kind == CCQ_KIND_NULL)
        return required ? bad(config, err, key, "is missing") : CCQ_OK;
    if (kind == CCQ_KIND_ARRAY)
        return ccq_fail(err, CCQ_UNSUPPORTED,
                        "%s: \"%s\" is a list: a vision-language model, which is not supported",
                        ccq_config_name(config), key);
    if (!ccq_config_int(config, key, value) || *value < 0 || *value > max)
        return ccq_fail(err, CCQ_CONFIG, "%s: \"%s\" is not an integer of 0..%lld",
                        ccq_config_name(config), key, (long long)max);
    return *value == 0 && required ? bad(config, err, key, "is 0") : CCQ_OK;
}

/* Keys whose other values change the model in ways that nothing here computes. */
static ccq_code refuse_variants(const ccq_config *config, ccq_error *err)
{
    static const struct {
        const char *key, *want;
    } strings[] = {{"hidden_act", "silu"},
                   {"moe_gate_act", "softmax"},
                   {"rope_type", "default"},
                   {"rope_parameters.rope_type", "default"}};
    static const char *const ones[] = {"compression_ratio", "partial_rotary_factor",
                                       "rope_parameters.partial_rotary_factor"};
    static const char *const absent[] = {"rope_scaling", "kv_cache_quant_type",
                                         "quantization_config.kv_cache_quant_type"};
    size_t i;
    for (i = 0; i < sizeof strings / sizeof *strings; i++) {
        const char *s = ccq_config_string(config, strings[i].key);
        char shown[100];
        if (s && strcmp(s, strings[i].want) != 0)
            return ccq_fail(err, CCQ_UNSUPPORTED, "%s: \"%s\" is \"%s\", only \"%s\" is supported",
                            ccq_config_name(config), strings[i].key,
                            ccq_escape(shown, sizeof shown, s, strlen(s)), strings[i].want);
    }
    for (i = 0; i < sizeof ones / sizeof *ones; i++) {
        double v;
        if (ccq_config_double(config, ones[i], &v) && v != 1)
            return ccq_fail(err, CCQ_UNSUPPORTED, "%s: \"%s\" is %g, only 1 is supported",
                            ccq_config_name(config), ones[i], v);
    }
    for (i = 0; i < sizeof absent / sizeof *absent; i++) {
        ccq_kind kind = ccq_config_kind(config, absent[i]);
        if (kind != CCQ_KIND_ABSENT && kind != CCQ_KIND_NULL)
            return ccq_fail(err, CCQ_UNSUPPORTED, "%s: \"%s\" is not supported",
                            ccq_config_name(config), absent[i]);
    }
    return CCQ_OK;
}

static ccq_code read_ids(const ccq_config *config, ccq_arch *arch, ccq_error *err)
{
    size_t i, n = ccq_config_array_size(config, "eos_token_id");
    arch->bos = 1;
    arch->pad = 0;
    arch->eos[0] = 2;
    arch->eos_count = 1;
    ccq_config_int(config, "bos_token_id", &arch->bos);
    ccq_config_int(config, "pad_token_id", &arch->pad);
    if (ccq_config_kind(config, "eos_token_id") != CCQ_KIND_ARRAY) {
        ccq_config_int(config, "eos_token_id", &arch->eos[0]);
        return CCQ_OK;
    }
    if (n > sizeof arch->eos / sizeof *arch->eos)
        return bad(config, err, "eos_token_id", "lists more than 8 ids");
    for (i = 0; i < n; i++)
        if (!ccq_config_array_int(config, "eos_token_id", i, &arch->eos[i]))
            return bad(config, err, "eos_token_id", "is not a list of integers");
    arch->eos_count = (int)n;
    return CCQ_OK;
}

static ccq_code read_real(const ccq_config *config, const char *key, double *value, ccq_error *err)
{
    if (ccq_config_double(config, key, value))
        return CCQ_OK;
    return bad(config, err, key,
               ccq_config_kind(config, key) == CCQ_KIND_ABSENT ? "is missing" : "is not a number");
}

static ccq_code read_reals(const ccq_config *config, ccq_arch *arch, ccq_error *err)
{
    static const char nested[] = "rope_parameters.rope_theta";
    int inside = ccq_config_kind(config, nested) != CCQ_KIND_ABSENT;
    int outside = ccq_config_kind(config, "rope_theta") != CCQ_KIND_ABSENT;
    double other;
    ccq_code code = read_real(config, "rms_norm_eps", &arch->eps, err);
    if (!code)
        code = read_real(config, inside && !outside ? nested : "rope_theta", &arch->rope_theta,
                         err);
    if (code)
        return code;
    if (inside && outside && ccq_config_double(config, nested, &other) && other != arch->rope_theta)
        return ccq_fail(err, CCQ_CONFIG, "%s: \"rope_theta\" is %g, \"%s\" is %g",
                        ccq_config_name(config), arch->rope_theta, nested, other);
    if (!(arch->eps > 0) || !(arch->eps < 1))
        return bad(config, err, "rms_norm_eps", "is not between 0 and 1");
    if (!(arch->rope_theta > 0) || !isfinite(arch->rope_theta))
        return bad(config, err, "rope_theta", "is not a positive number");
    return CCQ_OK;
}

ccq_code ccq_arch_read(const ccq_config *config, ccq_arch *arch, ccq_error *err)
{
    const int64_t big = 1 << 24;
    struct {
        const char *key;
        int required;
        int64_t max, *value;
    } sizes[] = {
        {"num_hidden_layers", 1, MAX_LAYERS, &arch->layers},
        {"hidden_size", 1, big, &arch->hidden},
        {"num_attention_heads", 1, 1 << 16, &arch->heads},
        {"num_key_value_heads", 0, 1 << 16, &arch->kv_heads},
        {"head_dim", 0, 1 << 16, &arch->head_dim},
        {"vocab_size", 1, big, &arch->vocab},
        {"intermediate_size", 0, big, &arch->inter},
        {"moe_num_experts", 0, 1 << 16, &arch->experts},
        {"moe_intermediate_size", 0, big, &arch->moe_inter},
        {"moe_k", 0, 1 << 16, &arch->moe_k},
        {"moe_num_shared_experts", 0, 1 << 16, &arch->shared},
        {"max_position_embeddings", 1, (int64_t)1 << 31, &arch->max_position},
    };
    ccq_code code = CCQ_OK;
    int64_t number;
    size_t i;
    for (i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        code = read_size(config, sizes[i].key, sizes[i].required, sizes[i].max, sizes[i].value,
                         err);
        if (code)
            return code;
    }
    if (arch->head_dim == 0) {
        if (arch->hidden % arch->heads)
            return bad(config, err, "hidden_size", "is not a multiple of num_attention_heads");
        arch->head_dim = arch->hidden / arch->heads;
    }
    if (arch->head_dim % 2)
        return bad(config, err, "head_dim", "is odd");
    ccq_config_bool(config, "use_bias", &arch->use_bias);
    arch->aux_free = 1;
    if (ccq_config_int(config, "moe_use_aux_free", &number))
        arch->aux_free = number != 0;
    ccq_config_bool(config, "moe_use_aux_free", &arch->aux_free);
    code = read_reals(config, arch, err);
    if (!code)
        code = read_ids(config, arch, err);
    return code ? code : refuse_variants(config, err);
}

void ccq_arch_shape(const ccq_arch *a, const ccq_entry *e, int64_t *k, int64_t *n)
{
    int64_t width = e->block == CCQ_BLOCK_EXPERT   ? a->moe_inter
                    : e->block == CCQ_BLOCK_SHARED ? a->shared * a->moe_inter
                                                   : a->inter;
    *k = 1;
    *n = a->hidden;
    switch (e->role) {
    case CCQ_ROLE_EMBED:
        *k = a->vocab;
        break;
    case CCQ_ROLE_HEAD:
        *k = a->hidden;
        *n = a->vocab;
        break;
    case CCQ_ROLE_QKV:
        *k = a->hidden;
        *n = (a->heads + 2 * a->kv_heads) * a->head_dim;
        break;
    case CCQ_ROLE_O:
        *k = a->heads * a->head_dim;
        break;
    case CCQ_ROLE_UP_GATE:
        *k = a->hidden;
        *n = 2 * width;
        break;
    case CCQ_ROLE_DOWN:
        *k = width;
        break;
    case CCQ_ROLE_ROUTER:
        *k = a->hidden;
        *n = a->experts;
        break;
    case CCQ_ROLE_ROUTER_BIAS:
        *n = a->experts;
        break;
    default:
        break;
    }
    if (e->bias)
        *k = 1;
}

/* The config's figure must be absent or the tensors' one. */
static ccq_code settle(const ccq_source *src, const char *key, int64_t found, const char *tensor,
                       int64_t *value, ccq_error *err)
{
    int64_t stated;
    if (ccq_config_int(src->config, key, &stated) && *value != found)
        return ccq_fail(err, CCQ_CONFIG, "%s: \"%s\" is %lld, \"%s\" says %lld",
                        ccq_config_name(src->config), key, (long long)*value, tensor,
                        (long long)found);
    *value = found;
    return CCQ_OK;
}

/* Half the columns of an up_gate: gate and up are equally wide. */
static ccq_code half_width(const ccq_source *src, const ccq_entry *e, int64_t *width,
                           ccq_error *err)
{
    *width = e->n / 2;
    if (e->n < 2 || e->n % 2)
        return ccq_fail(err, CCQ_SHAPE, "%s: \"%s\" has %lld columns, wanted an even number",
                        src->dir, e->name, (long long)e->n);
    return CCQ_OK;
}

static ccq_code settle_kv(ccq_source *src, ccq_error *err)
{
    ccq_arch *a = &src->arch;
    const ccq_entry *e = ccq_source_find(src, CCQ_ROLE_QKV, CCQ_BLOCK_ATTENTION, 0, -1, 0);
    int64_t columns, kv;
    if (!e)
        return CCQ_OK; /* said by the completeness check */
    columns = e->n - a->heads * a->head_dim;
    kv = columns / (2 * a->head_dim);
    if (columns <= 0 || columns % (2 * a->head_dim) || a->heads % kv)
        return ccq_fail(err, CCQ_CONFIG,
                        "%s: %lld heads of %lld do not fit \"%s\" with %lld columns",
                        ccq_config_name(src->config), (long long)a->heads, (long long)a->head_dim,
                        e->name, (long long)e->n);
    if (!a->torch_names && (a->kv_heads == 0 || a->kv_heads == a->heads))
        return ccq_fail(err, CCQ_UNSUPPORTED,
                        "%s: \"num_key_value_heads\" is %s: Paddle files without grouped heads "
                        "have another column order",
                        ccq_config_name(src->config),
                        a->kv_heads ? "num_attention_heads" : "missing");
    return settle(src, "num_key_value_heads", kv, e->name, &a->kv_heads, err);
}

/* Which layers are MoE: those with a router. The config has two readings (the
 * whole rule, and FastDeploy's "from start on"); the tensors must fit one. */
static ccq_code settle_layers(ccq_source *src, ccq_error *err)
{
    ccq_arch *a = &src->arch;
    const ccq_config *c = src->config;
    int64_t start = -1, end = -1, interval = 1, i;
    int has_start = ccq_config_int(c, "moe_layer_start_index", &start);
    int moe = a->experts || ccq_config_kind(c, "moe_num_experts") != CCQ_KIND_NUMBER;
    ccq_config_int(c, "moe_layer_end_index", &end);
    ccq_config_int(c, "moe_layer_interval", &interval);
    if (end < 0)
        end = a->layers - 1;
    if (interval < 1)
        return bad(c, err, "moe_layer_interval", "is below 1");
    a->moe_start = 0;
    a->moe_end = -1;
    for (i = 0; i < a->layers; i++) {
        int router = ccq_source_find(src, CCQ_ROLE_ROUTER, CCQ_BLOCK_NONE, (int)i, -1, 0) != NULL;
        int dense = ccq_source_find(src, CCQ_ROLE_UP_GATE, CCQ_BLOCK_DENSE, (int)i, -1, 0) != NULL;
        int whole = has_start && moe && i >= start && i <= end && (i + 1) % interval == 0;
        int simple = has_start && moe && i >= start;
        if (router == dense)
            return ccq_fail(err, router ? CCQ_CONFIG : CCQ_INCOMPLETE,
                            "%s: layer %lld has %s", src->dir, (long long)i,
                            router ? "both a router and a dense MLP"
                                   : "neither a router nor a dense MLP");
        if (router && !moe)
            return ccq_fail(err, CCQ_CONFIG,
                            "%s: \"moe_num_experts\" is 0, layer %lld has a router",
                            ccq_config_name(c), (long long)i);
        if (has_start && router != whole && router != simple)
            return ccq_fail(err, CCQ_CONFIG,
                            "%s: moe_layer_start_index %lld, end %lld, interval %lld make layer "
                            "%lld %s, its tensors say %s",
                            ccq_config_name(c), (long long)start, (long long)end,
                            (long long)interval, (long long)i, whole ? "MoE" : "dense",
                            router ? "MoE" : "dense");
        a->layer_moe[i] = (uint8_t)router;
        if (router && a->moe_end < a->moe_start)
            a->moe_start = i;
        if (router)
            a->moe_end = i;
    }
    return CCQ_OK;
}

static ccq_code settle_moe(ccq_source *src, ccq_error *err)
{
    ccq_arch *a = &src->arch;
    const ccq_entry *router, *up, *shared;
    int64_t width;
    ccq_code code;
    int layer = (int)a->moe_start;
    if (a->moe_end < a->moe_start) {
        a->experts = a->moe_k = a->moe_inter = a->shared = 0;
        return CCQ_OK;
    }
    router = ccq_source_find(src, CCQ_ROLE_ROUTER, CCQ_BLOCK_NONE, layer, -1, 0);
    up = ccq_source_find(src, CCQ_ROLE_UP_GATE, CCQ_BLOCK_EXPERT, layer, 0, 0);
    shared = ccq_source_find(src, CCQ_ROLE_UP_GATE, CCQ_BLOCK_SHARED, layer, -1, 0);
    code = settle(src, "moe_num_experts", router->n, router->name, &a->experts, err);
    if (code)
        return code;
    if (a->moe_k < 1 || a->moe_k > a->experts)
        return ccq_fail(err, CCQ_CONFIG, "%s: \"moe_k\" is %s, wanted 1..%lld",
                        ccq_config_name(src->config), a->moe_k ? "too large" : "missing",
                        (long long)a->experts);
    if (!up)
        return ccq_fail(err, CCQ_INCOMPLETE,
                        "%s: \"ernie.layers.%d.mlp.experts.0.up_gate_proj.weight\" is missing",
                        src->dir, layer);
    code = half_width(src, up, &width, err);
    if (!code)
        code = settle(src, "moe_intermediate_size", width, up->name, &a->moe_inter, err);
    if (code)
        return code;
    if (!shared && a->shared)
        return ccq_fail(err, CCQ_INCOMPLETE,
                        "%s: \"ernie.layers.%d.mlp.shared_experts.up_gate_proj.weight\" is "
                        "missing, config.json counts %lld shared experts",
                        src->dir, layer, (long long)a->shared);
    return shared ? settle(src, "moe_num_shared_experts", shared->n / 2 / a->moe_inter,
                           shared->name, &a->shared, err)
                  : CCQ_OK;
}

static ccq_code settle_dense(ccq_source *src, ccq_error *err)
{
    ccq_arch *a = &src->arch;
    int64_t i, width;
    for (i = 0; i < a->layers; i++) {
        const ccq_entry *e =
            ccq_source_find(src, CCQ_ROLE_UP_GATE, CCQ_BLOCK_DENSE, (int)i, -1, 0);
        if (!e)
            continue;
        ccq_code code = half_width(src, e, &width, err);
        return code ? code : settle(src, "intermediate_size", width, e->name, &a->inter, err);
    }
    return CCQ_OK;
}

static ccq_code check_shapes(const ccq_source *src, ccq_error *err)
{
    size_t i;
    for (i = 0; i < src->count; i++) {
        const ccq_entry *e = &src->entry[i];
        int64_t k, n;
        if (e->role == CCQ_ROLE_VECTOR)
            continue;
        if (e->layer >= src->arch.layers)
            return ccq_fail(err, CCQ_CONFIG, "%s: \"num_hidden_layers\" is %lld, \"%s\" exists",
                            ccq_config_name(src->config), (long long)src->arch.layers, e->name);
        if (e->expert >= src->arch.experts)
            return ccq_fail(err, CCQ_CONFIG, "%s: \"moe_num_experts\" is %lld, \"%s\" exists",
                            ccq_config_name(src->config), (long long)src->arch.experts, e->name);
        ccq_arch_shape(&src->arch, e, &k, &n);
        if (e->k != k || e->n != n)
            return ccq_fail(err, CCQ_CONFIG,
                            "%s: \"%s\" is [%lld, %lld], config.json asks for [%lld, %lld]",
                            src->dir, e->name, (long long)e->k, (long long)e->n, (long long)k,
                            (long long)n);
    }
    return CCQ_OK;
}

static int has_biases(const ccq_source *src)
{
    size_t i;
    for (i = 0; i < src->count; i++)
        if (src->entry[i].bias)
            return 1;
    return 0;
}

ccq_code ccq_arch_settle(ccq_source *src, ccq_error *err)
{
    ccq_arch *a = &src->arch;
    int declared = 0;
    ccq_code code = settle_layers(src, err);
    if (!code)
        code = settle_kv(src, err);
    if (!code)
        code = settle_dense(src, err);
    if (!code)
        code = settle_moe(src, err);
    if (!code)
        code = check_shapes(src, err);
    a->tied = ccq_source_find(src, CCQ_ROLE_HEAD, CCQ_BLOCK_NONE, -1, -1, 0) == NULL;
    if (!code && ccq_config_bool(src->config, "tie_word_embeddings", &declared) &&
        declared != a->tied)
        code = ccq_source_note(src,
                               "tie_word_embeddings is %s in config.json, lm_head.weight is %s: "
                               "the tensor decides",
                               declared ? "true" : "false", a->tied ? "absent" : "there");
    if (!code && a->use_bias && !has_biases(src))
        code = ccq_source_note(src, "use_bias is true, no linear has a .bias");
    if (!code && a->correction_bias && !a->aux_free)
        code = ccq_source_note(src, "moe_use_aux_free is false: the correction bias is not used");
    return code;
}
