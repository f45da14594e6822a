/* Cache and work space of the sequences that run together. */
#include "libccq/device.h"
#include "libccq/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* One array of the work space. */
typedef struct array {
    void **where;
    uint64_t count[3]; /* elements: the product */
    size_t size;
    uint64_t bytes;
} array;

static int array_bytes(array *a, uint64_t *total)
{
    uint64_t b = a->size;

    for (int i = 0; i < 3; i++)
        if (__builtin_mul_overflow(b, a->count[i], &b))
            return 0;
    a->bytes = b ? b : 1;
    return !__builtin_add_overflow(*total, a->bytes, total) && *total <= SIZE_MAX / 2;
}

static int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Of dense layers and shared experts. */
static int64_t widest(const ccq_arch *a)
{
    int64_t width = 0;

    for (int64_t i = 0; i < a->layers; i++)
        width = max64(width, a->layer_moe[i] ? a->shared * a->moe_inter : a->inter);
    return width;
}

/* Widths of the buffers that dense, shared and routed blocks take turns with. */
static void mlp_widths(const ccq_model *m, uint64_t *gu, uint64_t *a)
{
    int64_t width = widest(m->arch);

    if (m->moe_layers)
        width = max64(width, m->arch->moe_k * m->arch->moe_inter);
    *a = (uint64_t)width;
    *gu = 2 * (uint64_t)width;
}

static size_t scratch_floats(const ccq_session *s)
{
    const ccq_arch *a = s->m->arch;
    int64_t longest = 1;
    size_t n = ccq_matmul_scratch(s->max_rows), other;

    for (size_t i = 0; i < s->slots; i++)
        longest = max64(longest, s->capacity[i]);
    other = ccq_attend_scratch(longest, a->head_dim);
    n = n > other ? n : other;
    other = (size_t)max64(2 * a->experts, a->moe_k * a->hidden);
    n = n > other ? n : other;
    return n > 256 * CCQ_PANEL ? n : 256 * CCQ_PANEL;
}

static uint64_t blas_floats(const ccq_model *m)
{
    const ccq_arch *a = m->arch;
    int64_t k = max64(max64(a->hidden, a->heads * a->head_dim), max64(a->moe_inter, widest(a)));

    return m->options.blas ? (uint64_t)k * CCQ_BLAS_COLUMNS : 0;
}

static ccq_code check_limit(const ccq_session *s, uint64_t total, ccq_error *err)
{
    uint64_t limit = s->m->options.mem_limit;

    if (!limit || (s->m->bytes <= limit && total <= limit - s->m->bytes))
        return CCQ_OK;
    return ccq_fail(err, CCQ_NO_MEMORY,
                    "weights of %llu bytes, KV cache of %llu and work space of %llu: the memory "
                    "limit is %llu",
                    (unsigned long long)s->m->bytes, (unsigned long long)s->cache_bytes,
                    (unsigned long long)s->work_bytes, (unsigned long long)limit);
}

static ccq_code allocate(ccq_session *s, const array *list, size_t count, ccq_error *err)
{
    uint64_t total = s->cache_bytes + s->work_bytes, free_bytes = ccq_memory_available();

    if (check_limit(s, total, err))
        return CCQ_NO_MEMORY;
    if (total > free_bytes)
        return ccq_fail(err, CCQ_NO_MEMORY,
                        "KV cache of %llu bytes and work space of %llu: %llu bytes are available",
                        (unsigned long long)s->cache_bytes, (unsigned long long)s->work_bytes,
                        (unsigned long long)free_bytes);
    s->cache = calloc(1, (size_t)(s->cache_bytes ? s->cache_bytes : 1));
    if (!s->cache)
        return ccq_fail(err, CCQ_NO_MEMORY, "KV cache of %llu bytes: out of memory",
                        (unsigned long long)s->cache_bytes);
    for (size_t i = 0; i < count; i++) {
        *list[i].where = calloc(1, (size_t)list[i].bytes);
        if (!*list[i].where)
            return ccq_fail(err, CCQ_NO_MEMORY, "work space of %llu bytes: out of memory",
                            (unsigned long long)s->work_bytes);
        s->owned[s->owned_count++] = *list[i].where;
    }
    return CCQ_OK;
}

/* The cache: slots one after another. */
static ccq_code measure_cache(ccq_session *s, ccq_error *err)
{
    const ccq_arch *a = s->m->arch;
    uint64_t per = 2 * (uint64_t)s->held * (uint64_t)a->kv_heads * (uint64_t)a->head_dim, n = 0;
    uint64_t size = s->m->bf16 ? sizeof(uint16_t) : sizeof(float), bytes;

    for (size_t i = 0; i < s->slots && !s->m->options.gpu; i++) {
        s->base[i] = n;
        if (__builtin_mul_overflow(per, (uint64_t)s->capacity[i], &bytes) ||
            __builtin_add_overflow(n, bytes, &n))
            return ccq_fail(err, CCQ_NO_MEMORY, "KV cache passes the address space");
    }
    if (__builtin_mul_overflow(n, size, &s->cache_bytes) || s->cache_bytes > SIZE_MAX / 4)
        return ccq_fail(err, CCQ_NO_MEMORY, "KV cache passes the address space");
    return CCQ_OK;
}

enum { ARRAYS = 22 };

/* The arrays of the work space, and s->work_bytes. */
static ccq_code measure_work(ccq_session *s, array out[ARRAYS], ccq_error *err)
{
    const ccq_arch *a = s->m->arch;
    uint64_t t = (uint64_t)s->max_rows, h = (uint64_t)a->hidden, k = (uint64_t)a->moe_k, gu, wa;
    uint64_t q = (uint64_t)a->heads * (uint64_t)a->head_dim, e = (uint64_t)a->experts;
    uint64_t kv = 2 * (uint64_t)a->kv_heads * (uint64_t)a->head_dim;
    uint64_t lm = (uint64_t)s->routed, half = (uint64_t)a->head_dim / 2;
    uint64_t own = s->m->options.layered || s->m->options.gpu ? 0 : t, total = s->cache_bytes;
    uint64_t c = s->m->options.gpu ? 0 : t; /* what the host works on */
    size_t f = sizeof(float), i = sizeof(int32_t);

    k = lm ? k : 0;
    mlp_widths(s->m, &gu, &wa);
    array list[ARRAYS] = {
        {(void **)&s->row, {t, 1, 1}, sizeof *s->row, 0},
        {(void **)&s->own, {own, h, 1}, f, 0},
        {(void **)&s->h, {c, h, 1}, f, 0},
        {(void **)&s->t, {c, h, 1}, f, 0},
        {(void **)&s->qkv, {c, q + kv, 1}, f, 0},
        {(void **)&s->o, {c, q + kv, 1}, f, 0},
        {(void **)&s->gu, {c, gu, 1}, f, 0},
        {(void **)&s->a, {c, wa, 1}, f, 0},
        {(void **)&s->cos, {c, half, 1}, f, 0},
        {(void **)&s->sin, {c, half, 1}, f, 0},
        {(void **)&s->xg, {c, k, h}, f, 0},
        {(void **)&s->yg, {c, k, h}, f, 0},
        {(void **)&s->place, {c, k, 1}, i, 0},
        {(void **)&s->from, {c, k, 1}, i, 0},
        {(void **)&s->start, {e + 1, 1, 1}, i, 0},
        {(void **)&s->products, {e, 1, 1}, sizeof *s->products, 0},
        {(void **)&s->nan_row, {t, 1, 1}, 1, 0},
        {(void **)&s->ids, {t, lm, k}, i, 0},
        {(void **)&s->weights, {t, lm, k}, f, 0},
        {(void **)&s->margin, {t, lm, 1}, f, 0},
        {(void **)&s->arena,
         {(uint64_t)ccq_pool_threads(s->m->options.pool), scratch_floats(s), 1},
         f,
         0},
        {(void **)&s->blas, {blas_floats(s->m), 1, 1}, f, 0},
    };
    for (size_t j = 0; j < ARRAYS; j++)
        if (!array_bytes(&list[j], &total))
            return ccq_fail(err, CCQ_NO_MEMORY, "cache and work space pass the address space");
    s->work_bytes = total - s->cache_bytes;
    memcpy(out, list, sizeof list);
    return CCQ_OK;
}

static ccq_code allocate_slots(ccq_session *s, const int64_t *capacity, ccq_error *err)
{
    int threads = ccq_pool_threads(s->m->options.pool);

    s->capacity = calloc(s->slots ? s->slots : 1, sizeof *s->capacity);
    s->length = calloc(s->slots ? s->slots : 1, sizeof *s->length);
    s->base = calloc(s->slots ? s->slots : 1, sizeof *s->base);
    s->scratch = calloc((size_t)threads, sizeof *s->scratch);
    if (!s->capacity || !s->length || !s->base || !s->scratch)
        return ccq_fail(err, CCQ_NO_MEMORY, "%zu sequences: out of memory", s->slots);
    memcpy(s->capacity, capacity, s->slots * sizeof *capacity);
    return CCQ_OK;
}

/* Everything but cache and work space, whose sizes come out. */
static ccq_code prepare(ccq_session *s, const ccq_model *model, size_t slots,
                        const int64_t *capacity, int64_t max_rows, array list[ARRAYS],
                        ccq_error *err)
{
    ccq_code code;

    s->m = model;
    s->slots = slots;
    s->max_rows = max_rows;
    s->held = model->options.layered ? 1 : model->arch->layers;
    s->routed = model->options.layered ? model->moe_layers > 0 : model->moe_layers;
    if ((code = allocate_slots(s, capacity, err)) || (code = measure_cache(s, err)))
        return code;
    return measure_work(s, list, err);
}

ccq_code ccq_session_measure(const ccq_model *m, size_t slots, const int64_t *capacity,
                             int64_t max_rows, uint64_t *cache, uint64_t *work, ccq_error *err)
{
    ccq_session *s = calloc(1, sizeof *s);
    array list[ARRAYS];
    ccq_code code = s ? prepare(s, m, slots, capacity, max_rows, list, err)
                      : ccq_fail(err, CCQ_NO_MEMORY, "session: out of memory");

    *cache = code ? 0 : s->cache_bytes;
    *work = code ? 0 : s->work_bytes;
    ccq_session_close(s);
    return code;
}

/* From here on the sizes are those of what lies on the device. */
static ccq_code open_device(ccq_session *s, ccq_error *err)
{
    ccq_code code = ccq_device_session_open(s, err);
    ccq_device_session_measure(s, &s->cache_bytes, &s->work_bytes);
    return code;
}

ccq_code ccq_session_open(ccq_session **session, const ccq_model *model, size_t slots,
                          const int64_t *capacity, int64_t max_rows, ccq_error *err)
{
    ccq_session *s = calloc(1, sizeof *s);
    array list[ARRAYS];
    ccq_code code;

    *session = NULL;
    if (!s)
        return ccq_fail(err, CCQ_NO_MEMORY, "session: out of memory");
    if ((code = prepare(s, model, slots, capacity, max_rows, list, err)) ||
        (code = allocate(s, list, ARRAYS, err))) {
        ccq_session_close(s);
        return code;
    }
    for (int i = 0; i < ccq_pool_threads(model->options.pool); i++)
        s->scratch[i] = s->arena + (size_t)i * scratch_floats(s);
    if (model->options.gpu && (code = open_device(s, err))) {
        ccq_session_close(s);
        return code;
    }
    *session = s;
    return CCQ_OK;
}

void ccq_session_close(ccq_session *s)
{
    if (!s)
        return;
    ccq_device_session_close(s->device);
    for (size_t i = 0; i < s->owned_count; i++)
        free(s->owned[i]);
    free(s->cache);
    free(s->capacity);
    free(s->length);
    free(s->base);
    free(s->scratch);
    free(s);
}

uint64_t ccq_session_cache_bytes(const ccq_session *s)
{
    return s->cache_bytes;
}

uint64_t ccq_session_work_bytes(const ccq_session *s)
{
    return s->work_bytes;
}

void ccq_session_reset(ccq_session *s, size_t slot)
{
    s->length[slot] = 0;
}

int64_t ccq_session_length(const ccq_session *s, size_t slot)
{
    return s->length[slot];
}

void ccq_session_seek(ccq_session *s, size_t slot, int64_t length)
{
    const ccq_arch *a = s->m->arch;
    uint64_t row = (uint64_t)(a->kv_heads * a->head_dim), now = (uint64_t)s->length[slot];
    size_t size = s->m->bf16 ? sizeof(uint16_t) : sizeof(float);

    for (int64_t i = 0; !s->device && length > s->length[slot] && i < s->held; i++)
        for (int half = 0; half < 2; half++)
            memset((char *)s->cache + (ccq_cache_at(s, slot, i) +
                                       (uint64_t)half * (uint64_t)s->capacity[slot] * row +
                                       now * row) * size,
                   0, (size_t)((uint64_t)length - now) * row * size);
    s->length[slot] = length;
}

/* ---- Time ------------------------------------------------------------------- */

const char *ccq_step_part_name(ccq_step_part part)
{
    static const char *const names[CCQ_STEP_PARTS] = {"attention", "dense", "router", "experts",
                                                      "head"};

    return names[part];
}

void ccq_spend(ccq_session *s, ccq_step_part part, uint64_t bytes)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    double now = (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;

    if (part < CCQ_STEP_PARTS) {
        s->spent.seconds[part] += now - s->lap;
        s->spent.bytes[part] += bytes;
    }
    s->lap = now;
}

void ccq_session_time_parts(ccq_session *s, int on)
{
    s->parts = on;
}

void ccq_session_spent(const ccq_session *s, ccq_spent *spent)
{
    *spent = s->spent;
}

uint64_t ccq_cache_at(const ccq_session *s, size_t slot, int64_t i)
{
    const ccq_arch *a = s->m->arch;

    return s->base[slot] + 2 * (uint64_t)i * (uint64_t)s->capacity[slot] *
                               (uint64_t)(a->kv_heads * a->head_dim);
}
