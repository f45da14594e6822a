/* model.safetensors.index.json: which shard holds which tensor. */
#include "formats/internal.h"
#include "formats/json.h"

#include <stdlib.h>
#include <string.h>

#define MAX_INDEX (UINT64_C(256) << 20)

typedef struct reader {
    ccq_json json;
    const char *path;
    ccq_arena *arena;
    ccq_error *err;
    ccq_index *index;
    size_t cap;
    uint64_t objects;
    ccq_names keys;
    ccq_arena scrap;
} reader;

int ccq_name_is_plain(const char *name, size_t len)
{
    if (len == 0 || memchr(name, '/', len) || memchr(name, 0, len))
        return 0;
    return !(name[0] == '.' && (len == 1 || (len == 2 && name[1] == '.')));
}

static ccq_code json_fault(reader *r)
{
    return ccq_fail_file(r->err, r->json.code, r->path, "byte %llu: %s",
                         (unsigned long long)r->json.at, r->json.message);
}

static ccq_code fault(reader *r, ccq_code code, const char *text, size_t len, const char *what)
{
    char shown[256];
    ccq_escape(shown, sizeof shown, text, len);
    return ccq_fail_file(r->err, code, r->path, "byte %llu: \"%s\": %s",
                         (unsigned long long)r->json.begin, shown, what);
}

static ccq_code no_memory(reader *r)
{
    return ccq_fail_file(r->err, CCQ_NO_MEMORY, r->path, "out of memory for the index");
}

static ccq_code plain_key(reader *r, uint64_t object)
{
    ccq_json *j = &r->json;
    if (memchr(j->text, 0, j->len))
        return fault(r, CCQ_NAME, j->text, j->len, "a key holds a NUL");
    int added = ccq_names_once(&r->keys, &r->scrap, object, j->text, j->len);
    if (added < 0)
        return no_memory(r);
    return added ? CCQ_OK : fault(r, CCQ_DUPLICATE, j->text, j->len, "key twice in one object");
}

/* A value that is not used, or metadata of which only total_size is. */
static ccq_code read_other(reader *r, int metadata)
{
    uint64_t object[8] = {0}; /* nesting is limited to 4 */
    ccq_json *j = &r->json;
    unsigned level = j->level;
    int total = 0;
    do {
        ccq_json_event e = ccq_json_next(j);
        ccq_code code = CCQ_OK;
        if (e == CCQ_JSON_ERROR)
            return json_fault(r);
        if (e == CCQ_JSON_OBJECT)
            object[j->level & 7] = ++r->objects;
        else if (e == CCQ_JSON_KEY)
            code = plain_key(r, object[j->level & 7]);
        else if (e == CCQ_JSON_NUMBER && total)
            r->index->has_total_size = ccq_json_u64(j->text, j->len, &r->index->total_size);
        if (code)
            return code;
        total = metadata && e == CCQ_JSON_KEY && j->level == level + 1 && j->len == 10 &&
                memcmp(j->text, "total_size", 10) == 0;
    } while (j->level > level);
    return CCQ_OK;
}

static ccq_code keep(reader *r, const char *file, size_t len)
{
    ccq_index *x = r->index;
    uint32_t tensor = x->names.count - 1;
    if (tensor >= r->cap) {
        size_t cap = r->cap ? r->cap + r->cap / 2 : 256;
        uint32_t *list = realloc(x->shard, cap * sizeof *list);
        if (!list)
            return no_memory(r);
        x->shard = list;
        r->cap = cap;
    }
    uint32_t shard = ccq_names_find(&x->shards, file, len);
    if (shard == CCQ_NO_NAME) {
        if (ccq_names_intern(&x->shards, r->arena, file, len) < 0)
            return no_memory(r);
        shard = x->shards.count - 1;
    }
    x->shard[tensor] = shard;
    return CCQ_OK;
}

/* The key is the scanner's last token. */
static ccq_code read_entry(reader *r)
{
    ccq_json *j = &r->json;
    if (memchr(j->text, 0, j->len))
        return fault(r, CCQ_NAME, j->text, j->len, "a tensor name holds a NUL");
    int added = ccq_names_intern(&r->index->names, r->arena, j->text, j->len);
    if (added < 0)
        return no_memory(r);
    if (!added)
        return fault(r, CCQ_DUPLICATE, j->text, j->len, "tensor named twice");
    const char *name = r->index->names.name[r->index->names.count - 1];
    if (r->index->names.count > CCQ_MAX_TENSORS)
        return fault(r, CCQ_LIMIT, name, strlen(name), "more than 1000000 tensors");
    ccq_json_event e = ccq_json_next(j);
    if (e == CCQ_JSON_ERROR)
        return json_fault(r);
    if (e != CCQ_JSON_STRING)
        return fault(r, CCQ_INDEX, name, strlen(name), "the shard of a tensor is not a string");
    if (!ccq_name_is_plain(j->text, j->len))
        return fault(r, CCQ_PATH, j->text, j->len, "shard is not a plain file name");
    return keep(r, j->text, j->len);
}

static ccq_code read_weight_map(reader *r)
{
    ccq_json *j = &r->json;
    ccq_json_event e = ccq_json_next(j);
    if (e == CCQ_JSON_ERROR)
        return json_fault(r);
    if (e != CCQ_JSON_OBJECT)
        return fault(r, CCQ_INDEX, "weight_map", 10, "not an object");
    while ((e = ccq_json_next(j)) == CCQ_JSON_KEY) {
        ccq_code code = read_entry(r);
        if (code)
            return code;
    }
    return e == CCQ_JSON_ERROR ? json_fault(r) : CCQ_OK;
}

static ccq_code read_object(reader *r)
{
    ccq_json *j = &r->json;
    ccq_json_event e = ccq_json_next(j);
    uint64_t object = ++r->objects;
    if (e == CCQ_JSON_ERROR)
        return json_fault(r);
    if (e != CCQ_JSON_OBJECT)
        return ccq_fail_file(r->err, CCQ_INDEX, r->path, "not a JSON object");
    while ((e = ccq_json_next(j)) == CCQ_JSON_KEY) {
        int map = j->len == 10 && memcmp(j->text, "weight_map", 10) == 0;
        int metadata = j->len == 8 && memcmp(j->text, "metadata", 8) == 0;
        ccq_code code = plain_key(r, object);
        if (!code)
            code = map ? read_weight_map(r) : read_other(r, metadata);
        if (code)
            return code;
    }
    if (e == CCQ_JSON_ERROR || ccq_json_next(j) == CCQ_JSON_ERROR)
        return json_fault(r);
    if (!r->index->names.count)
        return ccq_fail_file(r->err, CCQ_INDEX, r->path, "weight_map is missing or empty");
    return CCQ_OK;
}

ccq_code ccq_index_read(ccq_index *index, const char *path, ccq_arena *arena, ccq_error *err)
{
    const ccq_json_limits limits = {4, CCQ_MAX_NAME, CCQ_MAX_NUMBERS};
    char *text;
    size_t size;
    memset(index, 0, sizeof *index);
    ccq_code code = ccq_file_load(path, MAX_INDEX, CCQ_NO_SHARD, &text, &size, err);
    if (code)
        return code;
    size_t bad = ccq_utf8_valid(text, size);
    if (bad < size) {
        code = ccq_fail_file(err, CCQ_UTF8, path, "byte %zu is not UTF-8", bad);
    } else {
        reader r = {.path = path, .arena = arena, .err = err, .index = index};
        ccq_json_init(&r.json, text, size, &limits);
        code = read_object(&r);
        ccq_json_free(&r.json);
        ccq_names_free_table(&r.keys);
        ccq_arena_free(&r.scrap);
    }
    free(text);
    return code;
}

void ccq_index_free(ccq_index *index)
{
    ccq_names_free_table(&index->names);
    ccq_names_free_table(&index->shards);
    free(index->shard);
    memset(index, 0, sizeof *index);
}
