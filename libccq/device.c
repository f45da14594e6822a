#include "libccq/device.h"

#include "kernels/encode.h"

#include <stdlib.h>
#include <string.h>

enum { PARTS = 5 };

/* Left free on a device beside what is known: cuBLAS, recorded steps, code. */
static const uint64_t margin = 256 << 20;
static const uint64_t page = 2 << 20; /* in which a device gives memory */

ccq_code ccq_device_error(const ccq_device *d, int code, ccq_error *err)
{
    return ccq_fail(err, code == CCQ_GPU_NO_MEMORY ? CCQ_NO_MEMORY : CCQ_UNAVAILABLE, "%s",
                    ccq_gpu_error(d->gpu));
}

static ccq_code no_memory(ccq_error *err)
{
    return ccq_fail(err, CCQ_NO_MEMORY, "device: out of memory for its tables");
}

/* ---- Sizes ----------------------------------------------------------------- */

/* The arrays of a weight: where the pointer is, and its bytes. */
typedef struct part {
    const void *from;
    const void **to; /* the same member of a copy */
    uint64_t bytes;
} part;

static uint64_t data_bytes(const ccq_weight *w)
{
    uint64_t count = (uint64_t)w->k * (uint64_t)w->n;
    switch (w->type) {
    case CCQ_W_F32:
        return 4 * count;
    case CCQ_W_BF16:
    case CCQ_W_BF16_T:
        return 2 * count;
    case CCQ_W_WINT4:
        return count / 2;
    case CCQ_W_WINT2:
        return count / CCQ_WINDOWS;
    default:
        return count;
    }
}

static uint64_t blocks(int64_t length)
{
    return ((uint64_t)length + CCQ_FP8_BLOCK - 1) / CCQ_FP8_BLOCK;
}

/* to: a copy of w whose pointers are to be changed. */
static void parts_of(const ccq_weight *w, ccq_weight *to, part out[PARTS])
{
    uint64_t n = (uint64_t)w->n;
    out[0] = (part){w->data, &to->data, data_bytes(w)};
    out[1] = (part){w->scale, (const void **)(void *)&to->scale, 2 * n};
    out[2] = (part){w->local, (const void **)(void *)&to->local,
                    (uint64_t)w->k / (2 * CCQ_GROUP) * n};
    out[3] = (part){w->super, (const void **)(void *)&to->super, 2 * n};
    out[4] = (part){w->block_scale, (const void **)(void *)&to->block_scale,
                    4 * blocks(w->k) * blocks(w->n)};
}

static uint64_t weight_bytes(const ccq_weight *w)
{
    ccq_weight copy = *w;
    part p[PARTS];
    uint64_t sum = w->code_scale ? 2 * ccq_device_rounded(4 * (uint64_t)w->n) : 0;
    parts_of(w, &copy, p);
    for (int i = 0; i < PARTS; i++)
        sum += p[i].from ? ccq_device_rounded(p[i].bytes) : 0;
    return sum;
}

/* wint2 experts go through kernels of their own where the numerics are theirs. */
static int lies_as_matrix(const ccq_device *d, const ccq_layer *l)
{
    const ccq_model *m = d->m;
    int64_t count = l->moe ? 2 * m->arch->experts : 0;
    if (!count || !m->bf16 || !ccq_gpu_wint2(d->gpu))
        return 0;
    for (int64_t i = 0; i < count; i++) {
        const ccq_weight *w = &l->expert[i].w;
        if (w->type != CCQ_W_WINT2 || w->rounding == CCQ_ROUND_UNZIP ||
            !ccq_gpu_wint2_bytes(w->k, w->n))
            return 0;
    }
    return 1;
}

static uint64_t experts_bytes(const ccq_device *d, const ccq_layer *l)
{
    uint64_t count = l->moe ? (uint64_t)d->m->arch->experts : 0, sum = 0;
    int matrix = lies_as_matrix(d, l);
    for (uint64_t i = 0; i < 2 * count; i++)
        sum += matrix ? ccq_device_rounded(ccq_gpu_wint2_bytes(l->expert[i].w.k, l->expert[i].w.n))
                      : weight_bytes(&l->expert[i].w);
    return sum + 2 * ccq_device_rounded(count * (sizeof(ccq_weight) + sizeof(ccq_gpu_matrix)));
}

static uint64_t layer_bytes(const ccq_device *d, const ccq_layer *l)
{
    const ccq_arch *a = d->m->arch;
    uint64_t h = (uint64_t)a->hidden, e = (uint64_t)a->experts;
    uint64_t sum = 2 * ccq_device_rounded(4 * h) + weight_bytes(&l->qkv.w) + weight_bytes(&l->o.w);
    if (l->router)
        sum += ccq_device_rounded(4 * h * e) + ccq_device_rounded(4 * e);
    if (l->up_gate.w.data)
        sum += weight_bytes(&l->up_gate.w) + weight_bytes(&l->down.w);
    return sum + experts_bytes(d, l);
}

/* ---- Uploading ---------------------------------------------------------------- */

/* Where the next array goes. */
typedef struct stack {
    ccq_device *d;
    char *at;
} stack;

static ccq_code put(stack *s, const void *from, uint64_t bytes, const void **to, ccq_error *err)
{
    int code = ccq_gpu_upload(s->d->gpu, s->at, from, (size_t)bytes);
    *to = s->at;
    s->at += ccq_device_rounded(bytes);
    return code ? ccq_device_error(s->d, code, err) : CCQ_OK;
}

static ccq_code put_floats(stack *s, const float *from, int64_t count, float **to, ccq_error *err)
{
    const void *at = NULL;
    ccq_code code = from ? put(s, from, 4 * (uint64_t)count, &at, err) : CCQ_OK;
    *to = from ? (float *)(void *)(s->at - ccq_device_rounded(4 * (uint64_t)count)) : NULL;
    return code;
}

static ccq_code put_weight(stack *s, const ccq_weight *w, ccq_weight *to, ccq_error *err)
{
    part p[PARTS];
    const void *line[2] = {NULL, NULL};
    ccq_code code = CCQ_OK;
    *to = *w;
    if (!w->data)
        return CCQ_OK;
    parts_of(w, to, p);
    for (int i = 0; i < PARTS && !code; i++)
        if (p[i].from)
            code = put(s, p[i].from, p[i].bytes, p[i].to, err);
    if (!code && w->code_scale)
        code = put(s, w->code_scale, 4 * (uint64_t)w->n, &line[0], err);
    if (!code && w->code_scale)
        code = put(s, w->code_zp, 4 * (uint64_t)w->n, &line[1], err);
    to->code_scale = line[0];
    to->code_zp = line[1];
    return code;
}

static ccq_code reserve_disk(ccq_device *d, uint64_t size, ccq_error *err)
{
    if (size <= d->disk_size)
        return CCQ_OK;
    ccq_gpu_free(d->gpu, d->disk);
    d->disk_size = 0;
    int code = ccq_gpu_alloc(d->gpu, (size_t)size, &d->disk);
    d->disk_size = code ? 0 : size;
    return code ? ccq_device_error(d, code, err) : CCQ_OK;
}

/* By way of d->disk. */
static ccq_code put_matrix(stack *s, const ccq_weight *w, int swiglu, ccq_gpu_matrix *to,
                           ccq_gpu_wint2_found *found, ccq_error *err)
{
    ccq_device *d = s->d;
    ccq_gpu_wint2_found one = {0, 0};
    ccq_weight there;
    ccq_code code = reserve_disk(d, weight_bytes(w), err);
    stack disk = {d, d->disk};
    if (code || (code = put_weight(&disk, w, &there, err)))
        return code;
    int status = ccq_gpu_wint2(d->gpu)->repack(d->gpu, &there, swiglu, s->at, to, &one);
    found->inexact += one.inexact;
    found->orders += one.orders;
    s->at += ccq_device_rounded(ccq_gpu_wint2_bytes(w->k, w->n));
    return status ? ccq_device_error(d, status, err) : CCQ_OK;
}

/* The structures of all experts to device memory, beside what they point to. */
static ccq_code put_table(stack *s, const void *from, size_t bytes, void **to, ccq_error *err)
{
    const void *unused;
    *to = s->at;
    return put(s, from, bytes, &unused, err);
}

/* half: up_gate or down. */
static ccq_code put_experts(stack *s, const ccq_layer *l, int half, ccq_device_layer *to,
                            ccq_error *err)
{
    size_t count = (size_t)s->d->m->arch->experts;
    ccq_gpu_matrix *matrix = to->matrix[half] = calloc(count, sizeof *matrix);
    ccq_weight *expert = to->expert[half] = calloc(count, sizeof *expert);
    void *table = NULL;
    ccq_code code = matrix && expert ? CCQ_OK : no_memory(err);
    for (size_t e = 0; e < count && !code; e++) {
        const ccq_weight *w = &l->expert[2 * e + (size_t)half].w;
        code = to->wint2 ? put_matrix(s, w, !half, &matrix[e], &to->found, err)
                         : put_weight(s, w, &expert[e], err);
    }
    if (!code && to->wint2)
        code = put_table(s, matrix, count * sizeof *matrix, &table, err);
    else if (!code)
        code = put_table(s, expert, count * sizeof *expert, &table, err);
    to->matrix_table[half] = table;
    to->expert_table[half] = table;
    return code;
}

static void forget_tables(ccq_device_layer *l)
{
    for (int half = 0; half < 2; half++) {
        free(l->matrix[half]);
        free(l->expert[half]);
        l->matrix[half] = NULL;
        l->expert[half] = NULL;
    }
}

/* to->memory is large enough. */
static ccq_code put_layer(ccq_device *d, const ccq_layer *l, ccq_device_layer *to, ccq_error *err)
{
    const ccq_arch *a = d->m->arch;
    stack s = {d, to->memory};
    ccq_code code;
    forget_tables(to);
    to->moe = l->moe;
    to->shared = l->shared;
    to->wint2 = lies_as_matrix(d, l);
    to->found = (ccq_gpu_wint2_found){0, 0};
    if ((code = put_floats(&s, l->norm_in, a->hidden, &to->norm_in, err)) ||
        (code = put_floats(&s, l->norm_post, a->hidden, &to->norm_post, err)) ||
        (code = put_floats(&s, l->router, a->hidden * a->experts, &to->router, err)) ||
        (code = put_floats(&s, l->bias, a->experts, &to->bias, err)) ||
        (code = put_weight(&s, &l->qkv.w, &to->qkv, err)) ||
        (code = put_weight(&s, &l->o.w, &to->o, err)) ||
        (code = put_weight(&s, &l->up_gate.w, &to->up_gate, err)) ||
        (code = put_weight(&s, &l->down.w, &to->down, err)))
        return code;
    if (!l->moe || (code = put_experts(&s, l, 0, to, err)))
        return code;
    return put_experts(&s, l, 1, to, err);
}

static ccq_code give_memory(ccq_device *d, ccq_device_layer *l, uint64_t size, ccq_error *err)
{
    if (l->memory && l->size >= size)
        return CCQ_OK;
    ccq_gpu_free(d->gpu, l->memory);
    l->memory = NULL;
    l->size = 0;
    int code = ccq_gpu_alloc(d->gpu, (size_t)size, &l->memory);
    l->size = code ? 0 : size;
    return code ? ccq_device_error(d, code, err) : CCQ_OK;
}

/* ---- Placing -------------------------------------------------------------------- */

/* What there is of them: layer by layer they come and go. */
ccq_code ccq_device_ends(ccq_device *d, ccq_error *err)
{
    const ccq_model *m = d->m;
    int tied = m->head.w.data == m->embed.w.data;
    uint64_t size = weight_bytes(&m->embed.w) + ccq_device_rounded(4 * (uint64_t)m->arch->hidden) +
                    (tied ? 0 : weight_bytes(&m->head.w));
    if (d->ends && d->ends_of == m->head.w.data)
        return CCQ_OK;
    ccq_gpu_free(d->gpu, d->ends);
    d->ends = NULL;
    d->ends_of = m->head.w.data;
    int status = ccq_gpu_alloc(d->gpu, (size_t)size, &d->ends);
    if (status)
        return ccq_device_error(d, status, err);
    stack s = {d, d->ends};
    ccq_code code = put_weight(&s, &m->embed.w, &d->embed, err);
    if (!code)
        code = put_floats(&s, m->norm, m->arch->hidden, &d->norm, err);
    if (!code && !tied)
        return put_weight(&s, &m->head.w, &d->head, err);
    d->head = m->head.w;
    d->head.data = d->embed.data;
    return code;
}

static uint64_t largest_layer(const ccq_device *d)
{
    uint64_t most = 0;
    for (int64_t i = 0; i < d->m->arch->layers; i++) {
        uint64_t bytes = layer_bytes(d, &d->m->layer[i]);
        most = bytes > most ? bytes : most;
    }
    return most;
}

static uint64_t largest_matrix(const ccq_device *d)
{
    uint64_t most = 0;
    for (int64_t i = 0; i < d->m->arch->layers; i++)
        for (int64_t e = 0; d->m->layer[i].moe && e < 2 * d->m->arch->experts; e++) {
            uint64_t bytes = weight_bytes(&d->m->layer[i].expert[e].w);
            most = bytes > most ? bytes : most;
        }
    return most;
}

/* There was less room than was said: those that stay make place for those that pass. */
static void take_back(ccq_device *d)
{
    for (int i = 0; i < CCQ_DEVICE_PASSING && d->resident > 0; i++) {
        ccq_device_layer *l = &d->layer[--d->resident];
        forget_tables(l);
        ccq_gpu_free(d->gpu, l->memory);
        l->memory = NULL;
        l->size = 0;
    }
}

/* Layers from the first on stay, as many as leave room for the rest to pass. */
static ccq_code put_resident(ccq_device *d, ccq_error *err)
{
    const ccq_model *m = d->m;
    uint64_t room = 0, all = 0, most = largest_layer(d);
    int status = ccq_gpu_room(d->gpu, &room);
    ccq_code code = CCQ_OK;
    if (status)
        return ccq_device_error(d, status, err);
    room -= room < margin ? room : margin;
    room /= m->options.gpu_models > 1 ? (uint64_t)m->options.gpu_models : 1;
    for (int64_t i = 0; i < m->arch->layers; i++)
        all += (layer_bytes(d, &m->layer[i]) + page - 1) / page * page;
    if (all > room)
        room -= room < CCQ_DEVICE_PASSING * most ? room : CCQ_DEVICE_PASSING * most;
    for (int64_t i = 0; i < m->arch->layers && !code; i++) {
        uint64_t size = layer_bytes(d, &m->layer[i]), pages = (size + page - 1) / page * page;
        if (pages > room || (code = ccq_model_cancelled(m, err)))
            break;
        room -= pages;
        if ((code = give_memory(d, &d->layer[i], size, err)) == CCQ_NO_MEMORY) {
            take_back(d);
            return CCQ_OK;
        }
        if (!code)
            code = put_layer(d, &m->layer[i], &d->layer[i], err);
        d->resident += !code;
    }
    return code;
}

ccq_code ccq_device_place(ccq_device *d, ccq_error *err)
{
    ccq_code code;
    if (d->placed || !d->m->layer)
        return CCQ_OK;
    if (!(code = ccq_device_ends(d, err)) && !(code = reserve_disk(d, largest_matrix(d), err)))
        code = put_resident(d, err);
    d->placed = !code;
    return code;
}

/* ---- One layer -------------------------------------------------------------------- */

/* Layer by layer the same structure holds one layer after the other. */
static ccq_device_layer *passing(ccq_device *d, const ccq_layer *l, int64_t number)
{
    for (int i = 0; i < CCQ_DEVICE_PASSING; i++)
        if (d->passed[i] == l && d->number[i] == number)
            return &d->passing[i];
    return NULL;
}

/* Into the place of the layer that was brought longest ago. */
static ccq_code pass(ccq_device *d, const ccq_layer *l, int64_t number, ccq_error *err)
{
    ccq_device_layer *to = &d->passing[d->next];
    uint64_t size = layer_bytes(d, l);
    d->passed[d->next] = NULL;
    ccq_code code = give_memory(d, to, size, err);
    if (!code)
        code = put_layer(d, l, to, err);
    if (!code) {
        d->passed[d->next] = l;
        d->number[d->next] = number;
    }
    d->next = (d->next + 1) % CCQ_DEVICE_PASSING;
    return code;
}

ccq_code ccq_device_bring(ccq_device *d, const ccq_layer *l, int64_t number,
                          const ccq_device_layer **layer, ccq_error *err)
{
    ccq_code code = CCQ_OK;
    int status;
    if (d->layer[number].memory) {
        *layer = &d->layer[number];
        return CCQ_OK;
    }
    ccq_gpu_queue(d->gpu, 1);
    status = ccq_gpu_after(d->gpu, 0); /* its place may be that of the layer before last */
    if (!status && !passing(d, l, number))
        code = pass(d, l, number, err);
    ccq_gpu_queue(d->gpu, 0);
    if (!status && !code)
        status = ccq_gpu_after(d->gpu, 1);
    *layer = passing(d, l, number);
    return status ? ccq_device_error(d, status, err) : code;
}

ccq_code ccq_device_ahead(ccq_device *d, const ccq_layer *next, int64_t number, ccq_error *err)
{
    if (d->layer[number].memory || passing(d, next, number))
        return CCQ_OK;
    ccq_gpu_queue(d->gpu, 1);
    ccq_code code = pass(d, next, number, err);
    ccq_gpu_queue(d->gpu, 0);
    return code;
}

/* ---- Open and close ----------------------------------------------------------------- */

ccq_code ccq_device_open(ccq_device **device, const ccq_model *m, ccq_error *err)
{
    ccq_device *d = calloc(1, sizeof *d);
    *device = d;
    if (!d)
        return no_memory(err);
    d->gpu = m->options.gpu;
    d->m = m;
    d->layer = calloc((size_t)m->arch->layers, sizeof *d->layer);
    return d->layer ? CCQ_OK : no_memory(err);
}

void ccq_device_close(ccq_device *d)
{
    if (!d)
        return;
    ccq_gpu_wait_all(d->gpu);
    for (int64_t i = 0; d->layer && i < d->m->arch->layers; i++) {
        forget_tables(&d->layer[i]);
        ccq_gpu_free(d->gpu, d->layer[i].memory);
    }
    for (int i = 0; i < CCQ_DEVICE_PASSING; i++) {
        forget_tables(&d->passing[i]);
        ccq_gpu_free(d->gpu, d->passing[i].memory);
    }
    ccq_gpu_free(d->gpu, d->disk);
    ccq_gpu_free(d->gpu, d->ends);
    free(d->layer);
    free(d);
}
