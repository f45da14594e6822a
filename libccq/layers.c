/* The weights of a layer, of the embedding and of the head: read, counted, freed. */
#include "libccq/layers.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- One tensor ------------------------------------------------------------ */

static ccq_code find(const ccq_model *m, ccq_role role, ccq_block block, int64_t layer,
                     int64_t expert, const ccq_entry **e, ccq_error *err)
{
    *e = ccq_source_find(m->src, role, block, (int)layer, (int)expert, 0);
    if (*e)
        return CCQ_OK;
    return ccq_fail(err, CCQ_INCOMPLETE, "layer %lld: no tensor of role %d, block %d, expert %lld",
                    (long long)layer, (int)role, (int)block, (long long)expert);
}

static void count_bytes(ccq_model *m, uint64_t bytes)
{
    m->bytes += bytes;
    m->most = m->bytes > m->most ? m->bytes : m->most;
}

static int is_turned(const ccq_model *m, const ccq_entry *e)
{
    return m->options.transform && ccq_transform_touches(m->options.transform, e);
}

/* What the model's transform makes of it, in fp32. */
static ccq_code load_turned(ccq_model *m, const ccq_entry *e, ccq_linear *l, ccq_error *err)
{
    uint64_t bytes = sizeof(float) * ccq_entry_parameters(e);
    float *w = malloc((size_t)bytes);
    ccq_code code;

    if (!w)
        return ccq_fail(err, CCQ_NO_MEMORY, "%s: out of memory", e->name);
    code = ccq_transform_matrix(m->options.transform, e, m->options.pool, w, err);
    if (code) {
        free(w);
        return code;
    }
    *l = (ccq_linear){{.type = CCQ_W_F32, .k = e->k, .n = e->n, .data = w}, w, bytes};
    count_bytes(m, bytes);
    return CCQ_OK;
}

ccq_code ccq_load_linear(ccq_model *m, ccq_role role, ccq_block block, int64_t layer,
                         int64_t expert, ccq_linear *l, ccq_error *err)
{
    const ccq_entry *e;
    ccq_code code = ccq_model_cancelled(m, err);
    if (code || (code = find(m, role, block, layer, expert, &e, err)))
        return code;
    return ccq_load_entry(m, e, l, err);
}

ccq_code ccq_load_entry(ccq_model *m, const ccq_entry *e, ccq_linear *l, ccq_error *err)
{
    ccq_code code;
    if (is_turned(m, e))
        return load_turned(m, e, l, err);
    code = ccq_source_load(m->src, e, m->options.rounding, &l->w, &l->memory, err);
    l->bytes = l->w.type == CCQ_W_BF16 ? 2 * ccq_entry_parameters(e) : ccq_entry_bytes(e);
    if (!code)
        count_bytes(m, l->bytes);
    return code;
}

ccq_code ccq_load_floats(ccq_model *m, ccq_role role, int64_t layer, float **dst, ccq_error *err)
{
    const ccq_entry *e;
    ccq_code code = find(m, role, CCQ_BLOCK_NONE, layer, -1, &e, err);
    if (code)
        return code;
    size_t count = (size_t)ccq_entry_parameters(e);
    *dst = calloc(count ? count : 1, sizeof **dst);
    if (!*dst)
        return ccq_fail(err, CCQ_NO_MEMORY, "%s: out of memory", e->name);
    count_bytes(m, count * sizeof **dst);
    if (is_turned(m, e))
        return ccq_transform_matrix(m->options.transform, e, m->options.pool, *dst, err);
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

/* ---- One layer ------------------------------------------------------------- */

static ccq_code load_experts(ccq_model *m, ccq_layer *l, int64_t layer, ccq_error *err)
{
    int64_t count = m->arch->experts;
    ccq_code code;

    l->expert = calloc((size_t)count * 2, sizeof *l->expert);
    if (!l->expert)
        return ccq_fail(err, CCQ_NO_MEMORY, "layer %lld: out of memory", (long long)layer);
    for (int64_t e = 0; e < count; e++) {
        ccq_linear *two = &l->expert[2 * e];
        if ((code = ccq_load_linear(m, CCQ_ROLE_UP_GATE, CCQ_BLOCK_EXPERT, layer, e, &two[0],
                                    err)) ||
            (code = ccq_load_linear(m, CCQ_ROLE_DOWN, CCQ_BLOCK_EXPERT, layer, e, &two[1], err)))
            return code;
    }
    return CCQ_OK;
}

static ccq_code load_moe(ccq_model *m, ccq_layer *l, int64_t layer, ccq_error *err)
{
    ccq_code code = ccq_load_floats(m, CCQ_ROLE_ROUTER, layer, &l->router, err);

    if (code)
        return code;
    if (m->arch->correction_bias && m->arch->aux_free &&
        ccq_source_find(m->src, CCQ_ROLE_ROUTER_BIAS, CCQ_BLOCK_NONE, (int)layer, -1, 0)) {
        if ((code = ccq_load_floats(m, CCQ_ROLE_ROUTER_BIAS, layer, &l->bias, err)))
            return code;
        for (int64_t e = 0; e < m->arch->experts; e++)
            if (m->large_bias < 0 && fabsf(l->bias[e]) >= 1)
                m->large_bias = layer;
    }
    l->shared = m->arch->shared > 0;
    return load_experts(m, l, layer, err);
}

static ccq_code load_layer(ccq_model *m, int64_t i, ccq_layer *l, ccq_error *err)
{
    ccq_block block;
    ccq_code code;

    l->moe = m->arch->layer_moe[i];
    if ((code = ccq_load_floats(m, CCQ_ROLE_NORM_IN, i, &l->norm_in, err)) ||
        (code = ccq_load_floats(m, CCQ_ROLE_NORM_POST, i, &l->norm_post, err)) ||
        (code = ccq_load_linear(m, CCQ_ROLE_QKV, CCQ_BLOCK_ATTENTION, i, -1, &l->qkv, err)) ||
        (code = ccq_load_linear(m, CCQ_ROLE_O, CCQ_BLOCK_ATTENTION, i, -1, &l->o, err)))
        return code;
    if (l->moe && (code = load_moe(m, l, i, err)))
        return code;
    if (l->moe && !l->shared)
        return CCQ_OK;
    block = l->moe ? CCQ_BLOCK_SHARED : CCQ_BLOCK_DENSE;
    if ((code = ccq_load_linear(m, CCQ_ROLE_UP_GATE, block, i, -1, &l->up_gate, err)))
        return code;
    return ccq_load_linear(m, CCQ_ROLE_DOWN, block, i, -1, &l->down, err);
}

ccq_code ccq_layer_load(ccq_model *m, int64_t i, ccq_layer *l, ccq_error *err)
{
    uint64_t before = m->bytes;
    ccq_code code;

    memset(l, 0, sizeof *l);
    code = load_layer(m, i, l, err);
    l->bytes = m->bytes - before;
    if (code)
        ccq_layer_free(m, l);
    return code;
}

void ccq_layer_free(ccq_model *m, ccq_layer *l)
{
    free(l->norm_in);
    free(l->norm_post);
    free(l->qkv.memory);
    free(l->o.memory);
    free(l->up_gate.memory);
    free(l->down.memory);
    free(l->router);
    free(l->bias);
    for (int64_t e = 0; l->expert && e < 2 * m->arch->experts; e++)
        free(l->expert[e].memory);
    free(l->expert);
    m->bytes -= l->bytes;
    memset(l, 0, sizeof *l);
}

/* ---- Embedding and head ---------------------------------------------------- */

void ccq_unload_linear(ccq_model *m, ccq_linear *l)
{
    if (l->memory)
        m->bytes -= l->bytes;
    free(l->memory);
    memset(l, 0, sizeof *l);
}

ccq_code ccq_embed_load(ccq_model *m, ccq_error *err)
{
    ccq_code code;

    if (m->embed.memory)
        return CCQ_OK;
    code = ccq_load_linear(m, CCQ_ROLE_EMBED, CCQ_BLOCK_NONE, -1, -1, &m->embed, err);
    if (!code && m->embed.w.type != CCQ_W_BF16 && m->embed.w.type != CCQ_W_F32)
        code = ccq_fail(err, CCQ_BUG, "the embedding is not stored row by row");
    return code;
}

void ccq_embed_free(ccq_model *m)
{
    ccq_unload_linear(m, &m->embed);
}

/* The head: its own tensor, one that a transform adds, or the embedding read as [n][k]. */
ccq_code ccq_head_load(ccq_model *m, ccq_error *err)
{
    const ccq_entry *own = m->options.transform ? ccq_transform_head(m->options.transform) : NULL;
    ccq_code code;

    if (own)
        return m->head.memory ? CCQ_OK : load_turned(m, own, &m->head, err);
    if (!m->arch->tied)
        return m->head.memory ? CCQ_OK
                              : ccq_load_linear(m, CCQ_ROLE_HEAD, CCQ_BLOCK_NONE, -1, -1, &m->head,
                                                err);
    if ((code = ccq_embed_load(m, err)))
        return code;
    m->head.w = m->embed.w;
    m->head.bytes = m->embed.bytes;
    m->head.w.type = CCQ_W_BF16_T;
    m->head.w.k = m->arch->hidden;
    m->head.w.n = m->arch->vocab;
    return CCQ_OK;
}

void ccq_head_free(ccq_model *m)
{
    ccq_unload_linear(m, &m->head);
    if (m->arch->tied && !m->layer)
        ccq_embed_free(m);
}

/* ---- Sizes ----------------------------------------------------------------- */

uint64_t ccq_entry_need(const ccq_source *src, const ccq_entry *e)
{
    uint64_t count = ccq_entry_parameters(e);

    if (e->role == CCQ_ROLE_ROUTER || e->role == CCQ_ROLE_ROUTER_BIAS || e->k == 1)
        return sizeof(float) * count;
    return e->type == CCQ_TYPE_BF16 || src->rank ? 2 * count : ccq_entry_bytes(e);
}

/* What is stored in pieces or transposed passes through a buffer of its own. */
uint64_t ccq_entry_transient(const ccq_source *src, const ccq_entry *e)
{
    uint64_t most = 0;

    if (src->rank)
        return 2 * ccq_entry_need(src, e);
    if (e->weight_scale || (e->pieces == 1 && !e->piece[0].transposed))
        return 0;
    for (int i = 0; i < e->pieces; i++)
        most = e->piece[i].tensor->bytes > most ? e->piece[i].tensor->bytes : most;
    return most;
}

uint64_t ccq_layer_need(const ccq_source *src, const ccq_transform *t, int64_t i)
{
    uint64_t sum = 0, beside = 0;

    for (size_t j = 0; j < src->count; j++) {
        const ccq_entry *e = &src->entry[j];
        int turned = t && ccq_transform_touches(t, e);
        uint64_t more = ccq_entry_transient(src, e);
        if (e->layer != i || e->role == CCQ_ROLE_VECTOR)
            continue;
        sum += turned ? sizeof(float) * ccq_entry_parameters(e) : ccq_entry_need(src, e);
        more += turned ? ccq_transform_memory(t, e) : 0;
        beside = more > beside ? more : beside;
    }
    return sum + beside;
}
