/* Cache and work space of a session on a device, in one piece of its memory. */
#include "libccq/device_session.h"

#include <stdlib.h>
#include <string.h>

enum { ARRAYS = 26 };

typedef struct array {
    void **where;
    uint64_t count, size;
} array;

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* ---- Sizes ----------------------------------------------------------------- */

static uint64_t cache_layer(const ccq_session *s)
{
    const ccq_arch *a = s->m->arch;
    uint64_t positions = 0, size = s->m->bf16 ? sizeof(uint16_t) : sizeof(float);
    for (size_t i = 0; i < s->slots; i++)
        positions += (uint64_t)s->capacity[i];
    return 2 * positions * (uint64_t)(a->kv_heads * a->head_dim) * size;
}

static int64_t longest(const ccq_session *s)
{
    int64_t most = 1;
    for (size_t i = 0; i < s->slots; i++)
        most = larger(most, s->capacity[i]);
    return most;
}

/* Of any product of the model, by shapes and types: weights need not be there yet. */
static uint64_t product_work(const ccq_session *s)
{
    const ccq_arch *a = s->m->arch;
    const ccq_gpu *gpu = s->m->options.gpu;
    const ccq_gpu_model_ops *ops = ccq_gpu_model(gpu);
    int64_t q = a->heads * a->head_dim, kv = 2 * a->kv_heads * a->head_dim, h = a->hidden;
    int64_t dense = larger(a->inter, a->shared * a->moe_inter);
    int64_t shape[][2] = {{h, q + kv}, {q, h}, {h, 2 * dense}, {dense, h},
                          {h, 2 * a->moe_inter}, {a->moe_inter, h}, {h, a->vocab}};
    uint64_t most = 0;
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++)
        for (int type = CCQ_W_BF16; type <= CCQ_W_F32; type++) {
            ccq_weight w = {.type = type, .k = shape[i][0], .n = shape[i][1]};
            int64_t rows = i == 4 || i == 5 ? s->max_rows * larger(a->moe_k, 1) : s->max_rows;
            uint64_t bytes = ops->linear_work(gpu, &w, rows, s->m->bf16);
            most = bytes > most ? bytes : most;
        }
    return most;
}

static uint64_t work_bytes(const ccq_session *s)
{
    const ccq_arch *a = s->m->arch;
    const ccq_gpu *gpu = s->m->options.gpu;
    uint64_t most = product_work(s);
    uint64_t other = ccq_gpu_model(gpu)->attend_work(gpu, s->max_rows, a->heads, a->head_dim,
                                                     longest(s));
    most = other > most ? other : most;
    if (!s->m->moe_layers)
        return most;
    other = ccq_gpu_model(gpu)->router_work(gpu, s->max_rows, a->experts);
    most = other > most ? other : most;
    if (!ccq_gpu_wint2(gpu))
        return most;
    other = ccq_gpu_wint2(gpu)->work(gpu, a->experts, a->hidden, a->moe_inter,
                                     s->max_rows * a->moe_k);
    return other > most ? other : most;
}

static int list_arrays(const ccq_session *s, ccq_device_session *d, array out[ARRAYS])
{
    const ccq_arch *a = s->m->arch;
    uint64_t t = (uint64_t)s->max_rows, h = (uint64_t)a->hidden, moe = (uint64_t)s->routed;
    uint64_t k = moe ? (uint64_t)a->moe_k : 0, q = (uint64_t)(a->heads * a->head_dim);
    uint64_t kv = 2 * (uint64_t)(a->kv_heads * a->head_dim), half = (uint64_t)a->head_dim / 2;
    uint64_t width = (uint64_t)larger(larger(a->inter, a->shared * a->moe_inter),
                                      (int64_t)k * a->moe_inter);
    uint64_t f = sizeof(float), i = sizeof(int32_t), l = sizeof(int64_t);
    const array list[] = {
        {(void **)&d->x, t * h, f}, {(void **)&d->h, t * h, f}, {(void **)&d->t, t * h, f},
        {(void **)&d->qkv, t * (q + kv), f}, {(void **)&d->o, t * q, f},
        {(void **)&d->gu, 2 * t * width, f}, {(void **)&d->a, t * width, f},
        {(void **)&d->xg, t * k * h, f}, {(void **)&d->yg, t * larger((int64_t)k, 1) * h, f},
        {(void **)&d->place, t * k, i}, {(void **)&d->from, t * k, i},
        {(void **)&d->start, (uint64_t)a->experts + 1, i},
        {(void **)&d->ids, t * moe * k, i}, {(void **)&d->weights, t * moe * k, f},
        {(void **)&d->margin, t * moe, f}, {(void **)&d->nan, t * moe, 1},
        {(void **)&d->logits, CCQ_DEVICE_LOGITS * (uint64_t)a->vocab, f},
        {(void **)&d->pick, CCQ_DEVICE_LOGITS, i},
        {(void **)&d->places.id, t, i}, {(void **)&d->places.length, t, i},
        {(void **)&d->places.k_at, t, l}, {(void **)&d->places.v_at, t, l},
        {(void **)&d->places.k_first, t, l}, {(void **)&d->places.v_first, t, l},
        {(void **)&d->places.cos, t * half, f}, {(void **)&d->places.sin, t * half, f},
    };
    memcpy(out, list, sizeof list);
    return (int)(sizeof list / sizeof *list);
}

void ccq_device_session_measure(const ccq_session *s, uint64_t *cache, uint64_t *work)
{
    ccq_device_session d;
    array list[ARRAYS];
    int count = list_arrays(s, &d, list);
    *cache = (uint64_t)s->held * ccq_device_rounded(cache_layer(s));
    *work = ccq_device_rounded(work_bytes(s));
    for (int i = 0; i < count; i++)
        *work += ccq_device_rounded(list[i].count * list[i].size);
}

/* ---- Open and close ---------------------------------------------------------- */

static void carve(ccq_session *s, ccq_device_session *d)
{
    array list[ARRAYS];
    int count = list_arrays(s, d, list);
    char *at = d->memory;
    d->layer_bytes = ccq_device_rounded(cache_layer(s));
    d->cache = at;
    at += (uint64_t)s->held * d->layer_bytes;
    for (int i = 0; i < count; i++) {
        *list[i].where = at;
        at += ccq_device_rounded(list[i].count * list[i].size);
    }
    d->work = at;
}

/* Rows' places as the host fills them in, in one piece like the device's, and what comes
 * back of the router. */
static ccq_code pin_places(const ccq_session *s, ccq_device_session *d, ccq_error *err)
{
    const ccq_device_places *p = &d->places;
    size_t half = (size_t)s->m->arch->head_dim / 2;
    const char *first = (const char *)p->id;
    size_t bytes = (size_t)((const char *)(p->sin + (size_t)s->max_rows * half) - first);
    int code = ccq_gpu_pin(d->gpu, bytes + (size_t)(s->routed * s->max_rows), &d->pinned);
    char *at = d->pinned;
    if (code)
        return ccq_device_error(s->m->device, code, err);
    d->host = (ccq_device_places){
        .id = (int32_t *)(void *)at,
        .length = (int32_t *)(void *)(at + ((const char *)p->length - first)),
        .k_at = (int64_t *)(void *)(at + ((const char *)p->k_at - first)),
        .v_at = (int64_t *)(void *)(at + ((const char *)p->v_at - first)),
        .k_first = (int64_t *)(void *)(at + ((const char *)p->k_first - first)),
        .v_first = (int64_t *)(void *)(at + ((const char *)p->v_first - first)),
        .cos = (float *)(void *)(at + ((const char *)p->cos - first)),
        .sin = (float *)(void *)(at + ((const char *)p->sin - first)),
    };
    d->host_nan = (uint8_t *)at + bytes;
    return CCQ_OK;
}

static ccq_code clear(ccq_device_session *d, uint64_t size, ccq_device *device, ccq_error *err)
{
    int code = ccq_gpu_fill(d->gpu, d->memory, 0, (size_t)size);
    if (!code)
        code = ccq_gpu_wait(d->gpu);
    return code ? ccq_device_error(device, code, err) : CCQ_OK;
}

ccq_code ccq_device_session_open(ccq_session *s, ccq_error *err)
{
    ccq_device *device = s->m->device;
    ccq_device_session *d = calloc(1, sizeof *d);
    uint64_t cache, work;
    int64_t first = 0;
    s->device = d;
    if (d)
        d->first = calloc(s->slots + 1, sizeof *d->first);
    if (!d || !d->first)
        return ccq_fail(err, CCQ_NO_MEMORY, "session: out of memory");
    d->gpu = device->gpu;
    d->longest = longest(s);
    for (size_t i = 0; i < s->slots; i++) {
        d->first[i] = first;
        first += s->capacity[i];
    }
    d->positions = first;
    ccq_device_session_measure(s, &cache, &work);
    int status = ccq_gpu_alloc(d->gpu, (size_t)(cache + work), &d->memory);
    if (status)
        return ccq_fail(err, CCQ_NO_MEMORY, "KV cache of %llu bytes and work space of %llu: %s",
                        (unsigned long long)cache, (unsigned long long)work,
                        ccq_gpu_error(d->gpu));
    carve(s, d);
    ccq_code code = clear(d, cache, device, err); /* what a benchmark seeks to is there */
    if (!code)
        code = pin_places(s, d, err);
    return code ? code : ccq_device_place(device, err);
}

void ccq_device_session_close(ccq_device_session *d)
{
    if (!d)
        return;
    if (d->gpu)
        ccq_gpu_wait_all(d->gpu);
    for (int i = 0; i < CCQ_DEVICE_GRAPHS; i++)
        if (d->graph[i])
            ccq_gpu_graph_free(d->gpu, d->graph[i]);
    if (d->memory)
        ccq_gpu_free(d->gpu, d->memory);
    if (d->pinned)
        ccq_gpu_unpin(d->gpu, d->pinned);
    free(d->first);
    free(d);
}
