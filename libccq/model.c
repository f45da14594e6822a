/* Weights of a source, resident and as they are stored. */
#include "libccq/model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int ccq_have_blas(void)
{
#ifdef CCQ_HAVE_OPENBLAS
    return 1;
#else
    return 0;
#endif
}

ccq_code ccq_model_cancelled(const ccq_model *m, ccq_error *err)
{
    if (!m->options.cancelled || !m->options.cancelled(m->options.cancel_ctx))
        return CCQ_OK;
    return ccq_fail(err, CCQ_INTERRUPTED, "interrupted: no file was written");
}

/* ---- Loading ------------------------------------------------------------- */

static ccq_code find(const ccq_model *m, ccq_role role, ccq_block block, int64_t layer,
                     int64_t expert, const ccq_entry **e, ccq_error *err)
{
    *e = ccq_source_find(m->src, role, block, (int)layer, (int)expert, 0);
    if (*e)
        return CCQ_OK;
    return ccq_fail(err, CCQ_INCOMPLETE, "layer %lld: no tensor of role %d, block %d, expert %lld",
                    (long long)layer, (int)role, (int)block, (long long)expert);
}

static ccq_code load_linear(ccq_model *m, ccq_role role, ccq_block block, int64_t layer,
                            int64_t expert, ccq_linear *l, ccq_error *err)
{
    const ccq_entry *e;
    ccq_code code = ccq_model_cancelled(m, err);
    if (code || (code = find(m, role, block, layer, expert, &e, err)))
        return code;
    code = ccq_source_load(m->src, e, m->options.rounding, &l->w, &l->memory, err);
    l->bytes = l->w.type == CCQ_W_BF16 ? 2 * ccq_entry_parameters(e) : ccq_entry_bytes(e);
    if (!code)
        m->bytes += l->bytes;
    return code;
}

/* A vector or the router, as fp32. */
static ccq_code load_floats(ccq_model *m, ccq_role role, int64_t layer, float **dst, ccq_error *err)
{
    const ccq_entry *e;
    ccq_code code = find(m, role, CCQ_BLOCK_NONE, layer, -1, &e, err);
    if (code)
        return code;
    size_t count = (size_t)ccq_entry_parameters(e);
    *dst = calloc(count ? count : 1, sizeof **dst);
    if (!*dst)
        return ccq_fail(err, CCQ_NO_MEMORY, "%s: out of memory", e->name);
    m->bytes += count * sizeof **dst;
    if (role == CCQ_ROLE_ROUTER || role == CCQ_ROLE_ROUTER_BIAS)
        return ccq_source_read_f32(m->src, e, *dst, err);
    /* Norms count as bf16 whatever their storage: rounded once, then widened. */
    uint16_t *bits = calloc(count ? count : 1, sizeof *bits);
    if (!bits)
        return ccq_fail(err, CCQ_NO_MEMORY, "%s: out of memory", e->name);
    code = ccq_source_read_bf16(m->src, e, bits, err);
    if (!code)
        m->options.ops.widen(bits, (int64_t)count, *dst);
    free(bits);
    return code;
}

static ccq_code load_experts(ccq_model *m, ccq_layer *l, int64_t layer, ccq_error *err)
{
    int64_t count = m->arch->experts;
    ccq_code code;

    l->expert = calloc((size_t)count * 2, sizeof *l->expert);
    if (!l->expert)
        return ccq_fail(err, CCQ_NO_MEMORY, "layer %lld: out of memory", (long long)layer);
    for (int64_t e = 0; e < count; e++) {
        if ((code = load_linear(m, CCQ_ROLE_UP_GATE, CCQ_BLOCK_EXPERT, layer, e, &l->expert[2 * e],
                                err)) ||
            (code = load_linear(m, CCQ_ROLE_DOWN, CCQ_BLOCK_EXPERT, layer, e, &l->expert[2 * e + 1],
                                err)))
            return code;
    }
    return CCQ_OK;
}

static ccq_code load_moe(ccq_model *m, ccq_layer *l, int64_t layer, ccq_error *err)
{
    ccq_code code = load_floats(m, CCQ_ROLE_ROUTER, layer, &l->router, err);

    if (code)
        return code;
    if (m->arch->correction_bias && m->arch->aux_free &&
        ccq_source_find(m->src, CCQ_ROLE_ROUTER_BIAS, CCQ_BLOCK_NONE, (int)layer, -1, 0)) {
        if ((code = load_floats(m, CCQ_ROLE_ROUTER_BIAS, layer, &l->bias, err)))
            return code;
        for (int64_t e = 0; e < m->arch->experts; e++)
            if (m->large_bias < 0 && fabsf(l->bias[e]) >= 1)
                m->large_bias = layer;
    }
    m->moe[m->moe_layers++] = (int32_t)layer;
    l->shared = m->arch->shared > 0;
    return load_experts(m, l, layer, err);
}

static ccq_code load_layer(ccq_model *m, int64_t i, ccq_error *err)
{
    ccq_layer *l = &m->layer[i];
    ccq_block block;
    ccq_code code;

    l->moe = m->arch->layer_moe[i];
    if ((code = load_floats(m, CCQ_ROLE_NORM_IN, i, &l->norm_in, err)) ||
        (code = load_floats(m, CCQ_ROLE_NORM_POST, i, &l->norm_post, err)) ||
        (code = load_linear(m, CCQ_ROLE_QKV, CCQ_BLOCK_ATTENTION, i, -1, &l->qkv, err)) ||
        (code = load_linear(m, CCQ_ROLE_O, CCQ_BLOCK_ATTENTION, i, -1, &l->o, err)))
        return code;
    if (l->moe && (code = load_moe(m, l, i, err)))
        return code;
    if (l->moe && !l->shared)
        return CCQ_OK;
    block = l->moe ? CCQ_BLOCK_SHARED : CCQ_BLOCK_DENSE;
    if ((code = load_linear(m, CCQ_ROLE_UP_GATE, block, i, -1, &l->up_gate, err)))
        return code;
    return load_linear(m, CCQ_ROLE_DOWN, block, i, -1, &l->down, err);
}

/* The head: its own tensor, or the embedding read as [n][k]. */
static ccq_code load_ends(ccq_model *m, ccq_error *err)
{
    ccq_code code;

    if ((code = load_linear(m, CCQ_ROLE_EMBED, CCQ_BLOCK_NONE, -1, -1, &m->embed, err)))
        return code;
    if (m->embed.w.type != CCQ_W_BF16)
        return ccq_fail(err, CCQ_BUG, "the embedding is not stored row by row");
    if ((code = load_floats(m, CCQ_ROLE_NORM, -1, &m->norm, err)))
        return code;
    if (!m->arch->tied)
        return load_linear(m, CCQ_ROLE_HEAD, CCQ_BLOCK_NONE, -1, -1, &m->head, err);
    m->head.w = m->embed.w;
    m->head.bytes = m->embed.bytes;
    m->head.w.type = CCQ_W_BF16_T;
    m->head.w.k = m->arch->hidden;
    m->head.w.n = m->arch->vocab;
    return CCQ_OK;
}

static ccq_code load(ccq_model *m, ccq_error *err)
{
    ccq_code code;

    m->layer = calloc((size_t)m->arch->layers, sizeof *m->layer);
    m->moe = calloc((size_t)m->arch->layers, sizeof *m->moe);
    if (!m->layer || !m->moe)
        return ccq_fail(err, CCQ_NO_MEMORY, "%s: out of memory", m->src->dir);
    for (int64_t i = 0; i < m->arch->layers; i++)
        if ((code = load_layer(m, i, err)))
            return code;
    return load_ends(m, err);
}

/* ---- Memory --------------------------------------------------------------- */

static uint64_t entry_need(const ccq_source *src, const ccq_entry *e)
{
    uint64_t count = ccq_entry_parameters(e);

    if (e->role == CCQ_ROLE_ROUTER || e->role == CCQ_ROLE_ROUTER_BIAS || e->k == 1)
        return sizeof(float) * count;
    return e->type == CCQ_TYPE_BF16 || src->rank ? 2 * count : ccq_entry_bytes(e);
}

uint64_t ccq_model_need(const ccq_source *src)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < src->count; i++)
        if (src->entry[i].role != CCQ_ROLE_VECTOR)
            sum += entry_need(src, &src->entry[i]);
    return sum;
}

static ccq_code check_memory(const ccq_source *src, const ccq_model_options *o, ccq_error *err)
{
    uint64_t need = ccq_model_need(src);

    return !o->mem_limit || need <= o->mem_limit
               ? CCQ_OK
               : ccq_fail(err, CCQ_NO_MEMORY, "%s: weights of %llu bytes: the memory limit is %llu",
                          src->dir, (unsigned long long)need, (unsigned long long)o->mem_limit);
}

/* ---- Open and close ------------------------------------------------------ */

static ccq_code refuse(const ccq_source *src, const ccq_model_options *o, ccq_error *err)
{
    const ccq_arch *a = &src->arch;

    if (a->use_bias)
        return ccq_fail(err, CCQ_UNSUPPORTED, "%s: linear layers with a bias do not run", src->dir);
    if (o->blas && !ccq_have_blas())
        return ccq_fail(err, CCQ_UNAVAILABLE, "this build has no OpenBLAS");
    if (a->head_dim % 2 || a->heads % a->kv_heads)
        return ccq_fail(err, CCQ_UNSUPPORTED,
                        "%s: head_dim %lld must be even and %lld heads a multiple of %lld KV heads",
                        src->dir, (long long)a->head_dim, (long long)a->heads,
                        (long long)a->kv_heads);
    return CCQ_OK;
}

ccq_code ccq_model_open(ccq_model **model, const ccq_source *src, const ccq_model_options *options,
                        ccq_error *err)
{
    ccq_model *m;
    ccq_code code = refuse(src, options, err);

    if (!code)
        code = check_memory(src, options, err);

    *model = NULL;
    if (code)
        return code;
    m = calloc(1, sizeof *m);
    if (!m)
        return ccq_fail(err, CCQ_NO_MEMORY, "%s: out of memory", src->dir);
    m->src = src;
    m->arch = &src->arch;
    m->options = *options;
    m->bf16 = options->numerics == CCQ_FASTDEPLOY;
    m->large_bias = -1;
    code = load(m, err);
    if (code) {
        ccq_model_close(m);
        return code;
    }
    *model = m;
    return CCQ_OK;
}

static void close_layer(ccq_layer *l, int64_t experts)
{
    free(l->norm_in);
    free(l->norm_post);
    free(l->qkv.memory);
    free(l->o.memory);
    free(l->up_gate.memory);
    free(l->down.memory);
    free(l->router);
    free(l->bias);
    for (int64_t e = 0; l->expert && e < 2 * experts; e++)
        free(l->expert[e].memory);
    free(l->expert);
}

void ccq_model_close(ccq_model *m)
{
    if (!m)
        return;
    for (int64_t i = 0; m->layer && i < m->arch->layers; i++)
        close_layer(&m->layer[i], m->arch->experts);
    free(m->layer);
    free(m->moe);
    free(m->norm);
    free(m->embed.memory);
    free(m->head.memory);
    free(m);
}

const ccq_source *ccq_model_source(const ccq_model *m)
{
    return m->src;
}

const ccq_model_options *ccq_model_settings(const ccq_model *m)
{
    return &m->options;
}

uint64_t ccq_model_bytes(const ccq_model *m)
{
    return m->bytes;
}

int64_t ccq_model_moe_layers(const ccq_model *m)
{
    return m->moe_layers;
}

int32_t ccq_model_moe_layer(const ccq_model *m, int64_t i)
{
    return m->moe[i];
}

int64_t ccq_model_large_bias(const ccq_model *m)
{
    return m->large_bias;
}
