/* Weights of a source, resident and as they are stored. */
#include "libccq/device.h"

#include <stdlib.h>

ccq_code ccq_model_cancelled(const ccq_model *m, ccq_error *err)
{
    if (!m->options.cancelled || !m->options.cancelled(m->options.cancel_ctx))
        return CCQ_OK;
    return ccq_fail(err, CCQ_INTERRUPTED, "interrupted: no file was written");
}

/* ---- Loading ------------------------------------------------------------- */

static ccq_code load(ccq_model *m, ccq_error *err)
{
    ccq_code code;

    m->moe = calloc((size_t)m->arch->layers, sizeof *m->moe);
    if (!m->moe)
        return ccq_fail(err, CCQ_NO_MEMORY, "%s: out of memory", m->src->dir);
    for (int64_t i = 0; i < m->arch->layers; i++)
        if (m->arch->layer_moe[i])
            m->moe[m->moe_layers++] = (int32_t)i;
    if (m->options.layered)
        return ccq_load_floats(m, CCQ_ROLE_NORM, -1, &m->norm, err);
    m->layer = calloc((size_t)m->arch->layers, sizeof *m->layer);
    if (!m->layer)
        return ccq_fail(err, CCQ_NO_MEMORY, "%s: out of memory", m->src->dir);
    for (int64_t i = 0; i < m->arch->layers; i++)
        if ((code = ccq_layer_load(m, i, &m->layer[i], err)))
            return code;
    if ((code = ccq_embed_load(m, err)) ||
        (code = ccq_load_floats(m, CCQ_ROLE_NORM, -1, &m->norm, err)))
        return code;
    return ccq_head_load(m, err);
}

/* ---- Memory --------------------------------------------------------------- */

uint64_t ccq_model_need(const ccq_source *src)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < src->count; i++)
        if (src->entry[i].role != CCQ_ROLE_VECTOR)
            sum += ccq_entry_need(src, &src->entry[i]);
    return sum;
}

static ccq_code check_memory(const ccq_source *src, const ccq_model_options *o, ccq_error *err)
{
    uint64_t need = ccq_model_need(src);

    return !o->mem_limit || o->layered || need <= o->mem_limit
               ? CCQ_OK
               : ccq_fail(err, CCQ_NO_MEMORY, "%s: weights of %llu bytes: the memory limit is %llu",
                          src->dir, (unsigned long long)need, (unsigned long long)o->mem_limit);
}

/* ---- Open and close ------------------------------------------------------ */

static ccq_code refuse(const ccq_source *src, ccq_error *err)
{
    const ccq_arch *a = &src->arch;

    if (a->use_bias)
        return ccq_fail(err, CCQ_UNSUPPORTED, "%s: linear layers with a bias do not run", src->dir);
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
    ccq_code code = refuse(src, err);

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
    if (!code && options->gpu)
        code = ccq_device_open(&m->device, m, err);
    if (code) {
        ccq_model_close(m);
        return code;
    }
    *model = m;
    return CCQ_OK;
}

void ccq_model_close(ccq_model *m)
{
    if (!m)
        return;
    ccq_device_close(m->device);
    for (int64_t i = 0; m->layer && i < m->arch->layers; i++)
        ccq_layer_free(m, &m->layer[i]);
    free(m->layer);
    free(m->moe);
    free(m->norm);
    ccq_head_free(m);
    ccq_embed_free(m);
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
    return m->most;
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
