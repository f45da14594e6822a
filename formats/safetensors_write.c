/* The plan of an output: which shard, which offset, which header. Nothing is
 * written here; the bytes go through a stage. */
#include "formats/checkpoint.h"

#include "formats/internal.h"
#include "formats/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct shard {
    char name[72];
    uint64_t data_bytes;
    char *header; /* 8 + N bytes, N a multiple of 8 */
    uint64_t header_bytes;
} shard;

struct ccq_layout {
    char format[8];
    uint64_t max_shard_bytes;
    ccq_arena arena;
    ccq_layout_tensor *tensors; /* in order of adding */
    size_t count, cap;
    shard *shards;
    size_t shard_count;
};

ccq_layout *ccq_layout_new(const char *format, uint64_t max_shard_bytes)
{
    ccq_layout *l = calloc(1, sizeof *l);
    if (!l)
        return NULL;
    snprintf(l->format, sizeof l->format, "%s", format);
    l->max_shard_bytes = max_shard_bytes;
    return l;
}

void ccq_layout_free(ccq_layout *l)
{
    if (!l)
        return;
    for (size_t i = 0; i < l->shard_count; i++)
        free(l->shards[i].header);
    free(l->shards);
    free(l->tensors);
    ccq_arena_free(&l->arena);
    free(l);
}

size_t ccq_layout_add(ccq_layout *l, const char *name, ccq_dtype dtype, int rank,
                      const uint64_t *shape)
{
    if (l->count == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 64;
        ccq_layout_tensor *list = realloc(l->tensors, cap * sizeof *list);
        if (!list)
            return SIZE_MAX;
        l->tensors = list;
        l->cap = cap;
    }
    ccq_layout_tensor t = {.dtype = dtype, .rank = rank};
    if (!(t.name = ccq_arena_text(&l->arena, name, strlen(name))))
        return SIZE_MAX;
    for (int i = 0; i < rank && i < 4; i++)
        t.shape[i] = shape[i];
    l->tensors[l->count] = t;
    return l->count++;
}

/* What our own reader would refuse is a mistake of the caller. */
static ccq_code check_tensor(ccq_layout_tensor *t, ccq_error *err)
{
    uint64_t n = 1;
    size_t len = strlen(t->name);
    if (len > CCQ_MAX_NAME)
        return ccq_fail_name(err, CCQ_LIMIT, "output", t->name, "name longer than 4096 bytes");
    if (strcmp(t->name, "__metadata__") == 0 || ccq_utf8_valid(t->name, len) != len)
        return ccq_fail_name(err, CCQ_NAME, "output", t->name, "cannot be the name of a tensor");
    if (t->rank < 0 || t->rank > 4 || !ccq_dtype_bits(t->dtype))
        return ccq_fail_name(err, CCQ_BUG, "output", t->name,
                             "rank %d or its type cannot be written", t->rank);
    for (int i = 0; i < t->rank; i++)
        if (__builtin_mul_overflow(n, t->shape[i], &n))
            return ccq_fail_name(err, CCQ_OVERFLOW, "output", t->name, "element count passes 2^64");
    if (__builtin_mul_overflow(n, ccq_dtype_bits(t->dtype), &n))
        return ccq_fail_name(err, CCQ_OVERFLOW, "output", t->name, "bit count passes 2^64");
    if (n % 8)
        return ccq_fail_name(err, CCQ_SUBBYTE, "output", t->name, "does not fill whole bytes");
    t->bytes = n / 8;
    return CCQ_OK;
}

static ccq_code check_tensors(ccq_layout *l, ccq_error *err)
{
    ccq_names names = {0};
    ccq_code code = CCQ_OK;
    uint64_t total = 0;
    for (size_t i = 0; i < l->count && !code; i++) {
        ccq_layout_tensor *t = &l->tensors[i];
        int added = ccq_names_add(&names, t->name);
        if (added < 0)
            code = ccq_fail(err, CCQ_NO_MEMORY, "out of memory");
        else if (!added)
            code = ccq_fail_name(err, CCQ_DUPLICATE, "output", t->name, "planned twice");
        else if (!(code = check_tensor(t, err)) &&
                 (__builtin_add_overflow(total, t->bytes, &total) || total > INT64_MAX / 2))
            code = ccq_fail_name(err, CCQ_OVERFLOW, "output", t->name, "output passes 2^62 bytes");
    }
    ccq_names_free_table(&names);
    return code;
}

/* Fills shards in order of adding; returns their number. */
static size_t assign(ccq_layout *l)
{
    uint64_t used = 0;
    uint32_t n = 0;
    int empty = 1;
    for (size_t i = 0; i < l->count; i++) {
        ccq_layout_tensor *t = &l->tensors[i];
        if (!empty && l->max_shard_bytes && used + t->bytes > l->max_shard_bytes) {
            n++;
            used = 0;
        }
        empty = 0;
        t->shard = n;
        used += t->bytes;
    }
    return (size_t)n + 1;
}

static int by_place(const void *a, const void *b)
{
    const ccq_layout_tensor *x = *(ccq_layout_tensor *const *)a,
                            *y = *(ccq_layout_tensor *const *)b;
    unsigned p = ccq_dtype_bits(x->dtype), q = ccq_dtype_bits(y->dtype);
    if (x->shard != y->shard)
        return x->shard < y->shard ? -1 : 1;
    if (p != q)
        return p > q ? -1 : 1;
    return strcmp(x->name, y->name);
}

static void write_entry(ccq_jw *w, const ccq_layout_tensor *t)
{
    ccq_jw_key(w, t->name);
    ccq_jw_object(w);
    ccq_jw_kstring(w, "dtype", ccq_dtype_name(t->dtype));
    ccq_jw_key(w, "shape");
    ccq_jw_array(w);
    for (int i = 0; i < t->rank; i++)
        ccq_jw_u64(w, t->shape[i]);
    ccq_jw_end(w);
    ccq_jw_key(w, "data_offsets");
    ccq_jw_array(w);
    ccq_jw_u64(w, t->offset);
    ccq_jw_u64(w, t->offset + t->bytes);
    ccq_jw_end(w);
    ccq_jw_end(w);
}

/* Header of one shard; its tensors are list[0..n) with offsets into the data. */
static ccq_code make_header(ccq_layout *l, shard *s, ccq_layout_tensor **list, size_t n,
                            ccq_error *err)
{
    ccq_jw w;
    size_t size;
    ccq_jw_init(&w, 0);
    ccq_jw_raw(&w, "12345678", 8); /* place of the length */
    w.first = 1;
    ccq_jw_object(&w);
    ccq_jw_key(&w, "__metadata__");
    ccq_jw_object(&w);
    ccq_jw_kstring(&w, "format", l->format);
    ccq_jw_end(&w);
    for (size_t i = 0; i < n; i++) {
        list[i]->offset = s->data_bytes;
        s->data_bytes += list[i]->bytes;
        write_entry(&w, list[i]);
    }
    ccq_jw_end(&w);
    char *text = ccq_jw_take(&w, &size), *padded = NULL;
    size_t whole = text ? (size + 7) & ~(size_t)7 : 0;
    if (!text || !(padded = realloc(text, whole))) {
        free(text);
        return ccq_fail(err, CCQ_NO_MEMORY, "out of memory for a header");
    }
    s->header = padded;
    s->header_bytes = whole;
    memset(padded + size, ' ', whole - size);
    uint64_t header = whole - 8;
    for (int i = 0; i < 8; i++)
        padded[i] = (char)(header >> 8 * i);
    for (size_t i = 0; i < n; i++)
        list[i]->offset += whole;
    if (header > CCQ_MAX_HEADER)
        return ccq_fail_file(err, CCQ_HEADER_LARGE, s->name,
                             "header of %llu bytes: use more shards", (unsigned long long)header);
    return CCQ_OK;
}

static ccq_code make_shards(ccq_layout *l, ccq_layout_tensor **order, ccq_error *err)
{
    for (size_t i = 0, from = 0, to; i < l->shard_count; i++, from = to) {
        shard *s = &l->shards[i];
        for (to = from; to < l->count && order[to]->shard == i; to++)
            ;
        if (l->shard_count == 1)
            snprintf(s->name, sizeof s->name, "model.safetensors");
        else
            snprintf(s->name, sizeof s->name, "model-%05zu-of-%05zu.safetensors", i + 1,
                     l->shard_count);
        ccq_code code = make_header(l, s, order + from, to - from, err);
        if (code)
            return code;
    }
    return CCQ_OK;
}

ccq_code ccq_layout_finish(ccq_layout *l, ccq_error *err)
{
    ccq_code code = check_tensors(l, err);
    if (code)
        return code;
    size_t shards = assign(l);
    ccq_layout_tensor **order = malloc((l->count + 1) * sizeof *order);
    l->shards = calloc(shards, sizeof *l->shards);
    if (!order || !l->shards) {
        free(order);
        return ccq_fail(err, CCQ_NO_MEMORY, "out of memory for the plan");
    }
    l->shard_count = shards;
    for (size_t i = 0; i < l->count; i++)
        order[i] = &l->tensors[i];
    qsort(order, l->count, sizeof *order, by_place);
    code = make_shards(l, order, err);
    free(order);
    return code;
}

const ccq_layout_tensor *ccq_layout_at(const ccq_layout *l, size_t i)
{
    return i < l->count ? &l->tensors[i] : NULL;
}

size_t ccq_layout_count(const ccq_layout *l)
{
    return l->count;
}

size_t ccq_layout_shards(const ccq_layout *l)
{
    return l->shard_count;
}

const char *ccq_layout_shard_name(const ccq_layout *l, size_t i)
{
    return i < l->shard_count ? l->shards[i].name : NULL;
}

uint64_t ccq_layout_shard_bytes(const ccq_layout *l, size_t i)
{
    return i < l->shard_count ? l->shards[i].header_bytes + l->shards[i].data_bytes : 0;
}

uint64_t ccq_layout_tensor_bytes(const ccq_layout *l)
{
    uint64_t total = 0;
    for (size_t i = 0; i < l->shard_count; i++)
        total += l->shards[i].data_bytes;
    return total;
}

const void *ccq_layout_header(const ccq_layout *l, size_t i, uint64_t *size)
{
    if (i >= l->shard_count)
        return NULL;
    *size = l->shards[i].header_bytes;
    return l->shards[i].header;
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(const ccq_layout_tensor *const *)a)->name,
                  (*(const ccq_layout_tensor *const *)b)->name);
}

char *ccq_layout_index(const ccq_layout *l, size_t *size)
{
    const ccq_layout_tensor **order = malloc((l->count + 1) * sizeof *order);
    ccq_jw w;
    if (!order)
        return NULL;
    for (size_t i = 0; i < l->count; i++)
        order[i] = &l->tensors[i];
    qsort(order, l->count, sizeof *order, by_name);
    ccq_jw_init(&w, 2);
    ccq_jw_object(&w);
    ccq_jw_key(&w, "metadata");
    ccq_jw_object(&w);
    ccq_jw_ku64(&w, "total_size", ccq_layout_tensor_bytes(l));
    ccq_jw_end(&w);
    ccq_jw_key(&w, "weight_map");
    ccq_jw_object(&w);
    for (size_t i = 0; i < l->count; i++)
        ccq_jw_kstring(&w, order[i]->name, l->shards[order[i]->shard].name);
    ccq_jw_end(&w);
    ccq_jw_end(&w);
    free(order);
    return ccq_jw_take(&w, size);
}
