/* The header of one .safetensors file, scanned without a tree. The checks come in
 * the order of the reference implementation (docs/format.md), so the first fault
 * is the same. */
#include "formats/internal.h"
#include "formats/json.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

typedef struct reader {
    ccq_json json;
    const ccq_file *file;
    ccq_arena *arena;
    ccq_error *err;
    ccq_st *st;
    char *text; /* of the header */
    size_t cap;
    uint32_t shard;
    uint64_t objects; /* objects numbered so far, for repeated keys */
    ccq_names keys;   /* of every object but that of the tensors */
    ccq_arena scrap;  /* their text */
} reader;

/* A tensor under way: while its members are read, offset and bytes hold begin and end. */
typedef struct draft {
    ccq_tensor t;
    uint64_t shape[CCQ_MAX_RANK];
    int has_dtype, has_shape, has_offsets;
} draft;

static ccq_code json_fault(reader *r)
{
    ccq_json *j = &r->json;
    return ccq_fail_file(r->err, j->code, r->file->path, "header byte %llu: %s",
                         (unsigned long long)(8 + j->at), j->message);
}

static ccq_code fault(reader *r, ccq_code code, const char *name, const char *what)
{
    if (name)
        return ccq_fail_name(r->err, code, r->file->path, name, "%s (header byte %llu)", what,
                             (unsigned long long)(8 + r->json.begin));
    return ccq_fail_file(r->err, code, r->file->path, "%s (header byte %llu)", what,
                         (unsigned long long)(8 + r->json.begin));
}

static ccq_code no_memory(reader *r)
{
    return ccq_fail_file(r->err, CCQ_NO_MEMORY, r->file->path, "out of memory for the header");
}

/* A key that is not a tensor's: no NUL, not twice in its object. */
static ccq_code plain_key(reader *r, uint64_t object)
{
    ccq_json *j = &r->json;
    char shown[256];
    if (memchr(j->text, 0, j->len))
        return fault(r, CCQ_NAME, NULL, "a key holds a NUL");
    int added = ccq_names_once(&r->keys, &r->scrap, object, j->text, j->len);
    if (added < 0)
        return no_memory(r);
    if (!added)
        return fault(r, CCQ_DUPLICATE, ccq_escape(shown, sizeof shown, j->text, j->len),
                     "key twice in one object");
    return CCQ_OK;
}

/* One value that we do not use; repeated keys in it are refused all the same. */
static ccq_code skip_extra(reader *r)
{
    uint64_t object[8] = {0}; /* nesting is limited to 4 */
    ccq_json *j = &r->json;
    unsigned level = j->level;
    do {
        ccq_json_event e = ccq_json_next(j);
        ccq_code code = CCQ_OK;
        if (e == CCQ_JSON_ERROR)
            return json_fault(r);
        if (e == CCQ_JSON_OBJECT)
            object[j->level & 7] = ++r->objects;
        else if (e == CCQ_JSON_KEY)
            code = plain_key(r, object[j->level & 7]);
        if (code)
            return code;
    } while (j->level > level);
    return CCQ_OK;
}

static ccq_code read_metadata(reader *r)
{
    ccq_json *j = &r->json;
    ccq_json_event e = ccq_json_next(j);
    uint64_t object = ++r->objects;
    if (e == CCQ_JSON_ERROR)
        return json_fault(r);
    if (e == CCQ_JSON_NULL)
        return CCQ_OK;
    if (e != CCQ_JSON_OBJECT)
        return fault(r, CCQ_METADATA, NULL, "__metadata__ is not an object of strings");
    while ((e = ccq_json_next(j)) == CCQ_JSON_KEY) {
        int is_format = j->len == 6 && memcmp(j->text, "format", 6) == 0;
        ccq_code code = plain_key(r, object);
        if (code)
            return code;
        if ((e = ccq_json_next(j)) == CCQ_JSON_ERROR)
            return json_fault(r);
        if (e != CCQ_JSON_STRING)
            return fault(r, CCQ_METADATA, NULL, "a value of __metadata__ is not a string");
        if (is_format && !(r->st->format = ccq_arena_text(r->arena, j->text, j->len)))
            return no_memory(r);
    }
    return e == CCQ_JSON_ERROR ? json_fault(r) : CCQ_OK;
}

/* [integer, ...] into list; more than max is refused with the code over. */
static ccq_code read_integers(reader *r, draft *d, uint64_t *list, unsigned max, unsigned *count,
                              ccq_code code, ccq_code over, const char *what)
{
    ccq_json *j = &r->json;
    ccq_json_event e = ccq_json_next(j);
    *count = 0;
    if (e == CCQ_JSON_ERROR)
        return json_fault(r);
    if (e != CCQ_JSON_ARRAY)
        return fault(r, code, d->t.name, what);
    while ((e = ccq_json_next(j)) != CCQ_JSON_ARRAY_END) {
        uint64_t v;
        if (e == CCQ_JSON_ERROR)
            return json_fault(r);
        if (e != CCQ_JSON_NUMBER)
            return fault(r, code, d->t.name, what);
        if (!ccq_json_u64(j->text, j->len, &v))
            return fault(r, CCQ_NUMBER, d->t.name, "not a plain integer below 2^64");
        if (*count == max)
            return fault(r, over, d->t.name, over == CCQ_LIMIT ? "more than 16 axes" : what);
        list[(*count)++] = v;
    }
    return CCQ_OK;
}

static ccq_code read_dtype(reader *r, draft *d)
{
    ccq_json *j = &r->json;
    ccq_json_event e = ccq_json_next(j);
    char shown[64];
    if (e == CCQ_JSON_ERROR)
        return json_fault(r);
    if (e != CCQ_JSON_STRING)
        return fault(r, CCQ_DTYPE, d->t.name, "dtype is not a string");
    ccq_dtype dtype = ccq_dtype_parse(j->text, j->len);
    if (dtype == CCQ_DT_COUNT)
        return ccq_fail_name(r->err, CCQ_DTYPE, r->file->path, d->t.name, "unknown dtype \"%s\"",
                             ccq_escape(shown, sizeof shown, j->text, j->len));
    d->t.dtype = (uint8_t)dtype;
    return CCQ_OK;
}

static ccq_code read_offsets(reader *r, draft *d)
{
    uint64_t pair[2];
    unsigned n;
    const char *what = "data_offsets is not a list of two integers";
    ccq_code code = read_integers(r, d, pair, 2, &n, CCQ_OFFSETS, CCQ_OFFSETS, what);
    if (!code && n != 2)
        code = fault(r, CCQ_OFFSETS, d->t.name, what);
    if (!code) {
        d->t.offset = pair[0];
        d->t.bytes = pair[1];
    }
    return code;
}

static int is_key(const ccq_json *j, const char *key)
{
    return j->len == strlen(key) && memcmp(j->text, key, j->len) == 0;
}

static ccq_code read_member(reader *r, draft *d, uint64_t *object)
{
    ccq_json *j = &r->json;
    unsigned rank;
    int *seen = is_key(j, "dtype")          ? &d->has_dtype
                : is_key(j, "shape")        ? &d->has_shape
                : is_key(j, "data_offsets") ? &d->has_offsets
                                            : NULL;
    if (!seen) {
        if (!*object)
            *object = ++r->objects;
        ccq_code code = plain_key(r, *object);
        return code ? code : skip_extra(r);
    }
    if ((*seen)++)
        return fault(r, CCQ_DUPLICATE, d->t.name, "member twice");
    if (seen == &d->has_dtype)
        return read_dtype(r, d);
    if (seen == &d->has_offsets)
        return read_offsets(r, d);
    ccq_code code = read_integers(r, d, d->shape, CCQ_MAX_RANK, &rank, CCQ_SHAPE, CCQ_LIMIT,
                                  "shape is not a list of integers");
    d->t.rank = (uint8_t)rank;
    return code;
}

static ccq_code keep(reader *r, draft *d)
{
    ccq_st *st = r->st;
    if (st->count == r->cap) {
        size_t cap = r->cap ? r->cap + r->cap / 2 : 64;
        ccq_tensor *list = realloc(st->tensors, cap * sizeof *list);
        if (!list)
            return no_memory(r);
        st->tensors = list;
        r->cap = cap;
    }
    const ccq_tensor *before = st->count ? &st->tensors[st->count - 1] : NULL;
    size_t size = d->t.rank * sizeof *d->shape;
    if (before && before->rank == d->t.rank && memcmp(before->shape, d->shape, size) == 0) {
        d->t.shape = before->shape; /* experts come in rows */
    } else {
        uint64_t *shape = ccq_arena_alloc(r->arena, size);
        if (!shape)
            return no_memory(r);
        d->t.shape = memcpy(shape, d->shape, size);
    }
    d->t.shard = r->shard;
    st->tensors[st->count++] = d->t;
    return CCQ_OK;
}

/* The scanner's last token, with a NUL behind it: where it stands, the quote is not
 * needed any more. */
static char *keep_name(reader *r)
{
    ccq_json *j = &r->json;
    char *name = r->text + j->begin + 1;
    if (j->text != name)
        return ccq_arena_text(r->arena, j->text, j->len);
    name[j->len] = 0;
    return name;
}

/* "name": {...}; the key is the scanner's last token. */
static ccq_code read_tensor(reader *r)
{
    ccq_json *j = &r->json;
    uint64_t object = 0;
    draft d = {0};
    ccq_json_event e;
    if (j->len > CCQ_MAX_NAME)
        return fault(r, CCQ_LIMIT, NULL, "tensor name longer than 4096 bytes");
    if (memchr(j->text, 0, j->len))
        return fault(r, CCQ_NAME, NULL, "a tensor name holds a NUL");
    if (!(d.t.name = keep_name(r)))
        return no_memory(r);
    int added = ccq_names_add_n(&r->st->names, d.t.name, j->len);
    if (added <= 0)
        return added ? no_memory(r) : fault(r, CCQ_DUPLICATE, d.t.name, "tensor named twice");
    if (r->st->names.count > CCQ_MAX_TENSORS)
        return fault(r, CCQ_LIMIT, d.t.name, "more than 1000000 tensors");
    if ((e = ccq_json_next(j)) == CCQ_JSON_ERROR)
        return json_fault(r);
    if (e != CCQ_JSON_OBJECT)
        return fault(r, CCQ_JSON, d.t.name, "not an object");
    while ((e = ccq_json_next(j)) == CCQ_JSON_KEY) {
        ccq_code code = read_member(r, &d, &object);
        if (code)
            return code;
    }
    if (e == CCQ_JSON_ERROR)
        return json_fault(r);
    if (!d.has_dtype)
        return fault(r, CCQ_DTYPE, d.t.name, "no dtype");
    if (!d.has_shape)
        return fault(r, CCQ_SHAPE, d.t.name, "no shape");
    if (!d.has_offsets)
        return fault(r, CCQ_OFFSETS, d.t.name, "no data_offsets");
    return keep(r, &d);
}

static ccq_code read_object(reader *r)
{
    ccq_json *j = &r->json;
    ccq_json_event e = ccq_json_next(j);
    int metadata = 0;
    if (e == CCQ_JSON_ERROR)
        return json_fault(r);
    if (e != CCQ_JSON_OBJECT)
        return fault(r, CCQ_JSON, NULL, "the header is not an object");
    while ((e = ccq_json_next(j)) == CCQ_JSON_KEY) {
        ccq_code code;
        if (!is_key(j, "__metadata__"))
            code = read_tensor(r);
        else if (metadata++)
            code = fault(r, CCQ_DUPLICATE, NULL, "__metadata__ twice");
        else
            code = read_metadata(r);
        if (code)
            return code;
    }
    if (e == CCQ_JSON_ERROR || ccq_json_next(j) == CCQ_JSON_ERROR)
        return json_fault(r);
    return CCQ_OK;
}

/* The text as a whole is judged before its meaning: behind a fault of meaning the
 * scan goes on, and a fault of grammar or of limits further down comes first. */
static ccq_code grammar_first(reader *r, ccq_code code)
{
    ccq_json *j = &r->json;
    uint64_t tensors = r->st->names.count;
    for (;;) {
        ccq_json_event e = ccq_json_next(j);
        if (e == CCQ_JSON_END)
            return code;
        if (e == CCQ_JSON_ERROR)
            return j->code == CCQ_NUMBER ? code : json_fault(r);
        if (e == CCQ_JSON_KEY && j->level == 1) {
            if (++tensors > CCQ_MAX_TENSORS)
                return fault(r, CCQ_LIMIT, NULL, "more than 1000000 tensors");
            if (j->len > CCQ_MAX_NAME)
                return fault(r, CCQ_LIMIT, NULL, "tensor name longer than 4096 bytes");
        }
    }
}

static ccq_code scan(ccq_st *st, const ccq_file *file, char *text, uint32_t shard,
                     ccq_arena *arena, ccq_error *err)
{
    const ccq_json_limits limits = {4, CCQ_MAX_HEADER, CCQ_MAX_NUMBERS};
    reader r = {.file = file, .arena = arena, .err = err, .st = st, .text = text, .shard = shard};
    ccq_names_reserve(&st->names,
                      (size_t)st->header_size / 96); /* a usual entry has 80 to 140 bytes */
    ccq_json_init(&r.json, text, (size_t)st->header_size, &limits);
    ccq_code code = read_object(&r);
    if (code && code != CCQ_NO_MEMORY && r.json.code == CCQ_OK)
        code = grammar_first(&r, code);
    ccq_json_free(&r.json);
    ccq_names_free_table(&r.keys);
    ccq_arena_free(&r.scrap);
    return code;
}

ccq_code ccq_st_read(ccq_st *st, const ccq_file *file, uint32_t shard, ccq_arena *arena,
                     ccq_error *err)
{
    unsigned char head[8];
    uint64_t n = 0;
    memset(st, 0, sizeof *st);
    if (file->size < 8)
        return ccq_fail_file(err, CCQ_SHORT, file->path, "%llu bytes, at least 8 are wanted",
                             (unsigned long long)file->size);
    ccq_code code = ccq_file_read(file, 0, head, 8, err);
    if (code)
        return code;
    for (int i = 7; i >= 0; i--)
        n = n << 8 | head[i];
    if (n > CCQ_MAX_HEADER)
        return ccq_fail_file(err, CCQ_HEADER_LARGE, file->path,
                             "header of %llu bytes, at most 100000000 (is it a safetensors file?)",
                             (unsigned long long)n);
    if (n > file->size - 8)
        return ccq_fail_file(err, CCQ_HEADER_LENGTH, file->path,
                             "header of %llu bytes in a file of %llu", (unsigned long long)n,
                             (unsigned long long)file->size);
    char *text = ccq_arena_alloc(arena, (size_t)n + 1);
    if (!text)
        return ccq_fail_file(err, CCQ_NO_MEMORY, file->path, "no memory for the header");
    st->header_size = n;
    if (!(code = ccq_file_read(file, 8, text, n, err))) {
        size_t bad = ccq_utf8_valid(text, (size_t)n);
        st->header_crc = (uint32_t)crc32(crc32(0, head, 8), (const Bytef *)text, (uInt)n);
        if (bad < n)
            code = ccq_fail_file(err, CCQ_UTF8, file->path, "header byte %llu is not UTF-8",
                                 (unsigned long long)(8 + bad));
        else
            code = scan(st, file, text, shard, arena, err);
    }
    if (!code)
        code = ccq_st_check_layout(st, file, err);
    if (!code)
        code = ccq_file_recheck(file, err);
    if (code)
        ccq_st_free(st);
    return code;
}

void ccq_st_free(ccq_st *st)
{
    free(st->tensors);
    ccq_names_free_table(&st->names);
    st->tensors = NULL;
    st->count = 0;
}
