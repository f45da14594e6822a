/* The dict of a .pdparams file as tensors: names, slices that are joined again. */
#include "formats/pdparams.h"

#include "formats/json.h"
#include "formats/pickle.h"

#include <stdlib.h>
#include <string.h>

#define NO_ARRAY UINT32_MAX

typedef struct entry {
    uint32_t array; /* object, NO_ARRAY for Paddle's own keys */
    uint8_t used;   /* a slice of a tensor that was joined */
} entry;

typedef struct reader {
    ccq_pickle p;
    ccq_names keys; /* of the dict, and the name of every joined tensor behind them */
    entry *entries; /* by key */
    size_t count;   /* keys of the dict */
    const ccq_pk_object *unpack; /* UnpackBigParamInfor@@, or NULL */
    ccq_arena *arena;
    uint32_t shard;
    uint64_t latin1; /* bytes of all such arrays */
    ccq_pd *out;
} reader;

static ccq_code no_memory(reader *r)
{
    return ccq_fail_file(r->p.err, CCQ_NO_MEMORY, r->p.file->path, "out of memory");
}

/* ---- Names ----------------------------------------------------------------------- */

static ccq_code check_name(reader *r, ccq_pk_value v, const char *name)
{
    size_t n = (size_t)v.n, good = ccq_utf8_valid(name, n);
    if (memchr(name, 0, n))
        return ccq_pickle_fail(&r->p, CCQ_NAME, v.a, "a NUL in a name");
    for (size_t i = 0; v.kind == CCQ_PK_STRING && i < good; i++)
        if ((unsigned char)name[i] >= 0x80)
            good = i; /* its encoding is nowhere said */
    if (good < n)
        return ccq_pickle_fail(&r->p, CCQ_UTF8, v.a + good, "a name that is not valid UTF-8");
    return CCQ_OK;
}

/* The name that v, a text, holds. */
static ccq_code get_name(reader *r, ccq_pk_value v, char buf[CCQ_MAX_NAME + 1])
{
    if (v.n > CCQ_MAX_NAME)
        return ccq_pickle_fail(&r->p, CCQ_LIMIT, v.a, "a name of %llu bytes, at most %d",
                               (unsigned long long)v.n, CCQ_MAX_NAME);
    ccq_code code = ccq_pickle_text(&r->p, v, buf, CCQ_MAX_NAME + 1);
    return code ? code : check_name(r, v, buf);
}

/* A name that was not there before: number keys.count - 1. */
static ccq_code new_name(reader *r, ccq_pk_value v)
{
    char name[CCQ_MAX_NAME + 1];
    ccq_code code = get_name(r, v, name);
    if (code)
        return code;
    if (r->keys.count >= CCQ_MAX_TENSORS)
        return ccq_pickle_fail(&r->p, CCQ_LIMIT, v.a, "more than %d names", CCQ_MAX_TENSORS);
    int added = ccq_names_intern(&r->keys, r->arena, name, (size_t)v.n);
    if (added < 0)
        return no_memory(r);
    return added ? CCQ_OK
                 : ccq_fail_name(r->p.err, CCQ_DUPLICATE, r->p.file->path, name,
                                 "byte %llu: the name is there twice", (unsigned long long)v.a);
}

/* ---- Tensors --------------------------------------------------------------------- */

/* shape: a tuple or list whose items were checked (build_array, check_shape). */
static ccq_code add_tensor(reader *r, const char *name, const ccq_pk_object *shape,
                           ccq_dtype dtype, const ccq_payload *first, uint64_t bytes)
{
    uint64_t *axes = ccq_arena_alloc(r->arena, shape->count * sizeof *axes + 1);
    if (!axes)
        return no_memory(r);
    for (size_t i = 0; i < shape->count; i++)
        axes[i] = shape->items[i].a;
    r->out->tensors[r->out->count++] = (ccq_tensor){
        .name = name, .shape = axes, .offset = first->offset, .bytes = bytes, .shard = r->shard,
        .dtype = (uint8_t)dtype, .rank = (uint8_t)shape->count};
    return CCQ_OK;
}

/* How an array's bytes are stored. Its size was checked against the file. */
static ccq_code get_payload(reader *r, const ccq_pk_object *array, ccq_payload *part)
{
    const ccq_pk_object *shape = &r->p.objects[array->items[0].a];
    ccq_pk_value v = array->items[1];
    *part = (ccq_payload){.offset = v.a, .stored = v.n, .bytes = v.n};
    if (v.kind != CCQ_PK_LATIN1)
        return CCQ_OK;
    part->bytes = ccq_dtype_bits((ccq_dtype)array->dtype) / 8;
    for (size_t i = 0; i < shape->count; i++)
        part->bytes *= shape->items[i].a;
    /* One array may stand under two names, tied ones do. The places of many could fill
     * the memory from a short file. */
    if (part->bytes / 4 > r->p.file->size - r->latin1 / 4)
        return ccq_pickle_fail(&r->p, CCQ_LIMIT, v.a, "arrays of more than four times the file");
    r->latin1 += part->bytes;
    size_t places = (size_t)(part->bytes / CCQ_LATIN1_STEP) + 1;
    if (!(part->place = ccq_arena_alloc(r->arena, places * sizeof *part->place)))
        return no_memory(r);
    for (size_t i = 0; i < places; i++)
        atomic_init(&part->place[i], 0);
    return CCQ_OK;
}

static ccq_parts *new_parts(reader *r, const char *name, size_t count)
{
    ccq_parts *parts = ccq_arena_alloc(r->arena, sizeof *parts + count * sizeof *parts->part);
    if (parts) {
        parts->next = r->out->parts;
        parts->name = name;
        parts->count = count;
        r->out->parts = parts;
    }
    return parts;
}

/* The array of a value: itself, or that of a bare Paddle tensor's (name, array). */
static ccq_code get_array(reader *r, const char *name, ccq_pk_value key, ccq_pk_value v,
                          uint32_t *array)
{
    const ccq_pk_object *o = v.kind == CCQ_PK_TUPLE ? &r->p.objects[v.a] : NULL;
    if (o && o->count == 2 && ccq_pickle_is_text(o->items[0]))
        v = o->items[1];
    if (v.kind != CCQ_PK_ARRAY)
        return ccq_fail_name(r->p.err, CCQ_UNSUPPORTED, r->p.file->path, name,
                             "byte %llu: its value is no array", (unsigned long long)key.a);
    *array = (uint32_t)v.a;
    if (r->p.objects[v.a].built)
        return CCQ_OK;
    return ccq_fail_name(r->p.err, CCQ_PICKLE, r->p.file->path, name,
                         "byte %llu: an array without content",
                         (unsigned long long)r->p.objects[v.a].at);
}

static ccq_code add_plain(reader *r, size_t key)
{
    const ccq_pk_object *array = &r->p.objects[r->entries[key].array];
    ccq_payload part;
    ccq_code code = get_payload(r, array, &part);
    if (code)
        return code;
    if (part.place) {
        ccq_parts *parts = new_parts(r, r->keys.name[key], 1);
        if (!parts)
            return no_memory(r);
        parts->part[0] = part;
    }
    return add_tensor(r, r->keys.name[key], &r->p.objects[array->items[0].a],
                      (ccq_dtype)array->dtype, &part, part.bytes);
}

/* ---- Arrays cut into slices -------------------------------------------------------- */

/* The value of a key in a dict of the file, or NULL. */
static const ccq_pk_value *member(reader *r, const ccq_pk_object *dict, const char *key)
{
    for (size_t i = 0; i < dict->count; i += 2)
        if (ccq_pickle_is(&r->p, dict->items[i], key))
            return &dict->items[i + 1];
    return NULL;
}

static const ccq_pk_object *sequence(reader *r, const ccq_pk_value *v)
{
    return v && (v->kind == CCQ_PK_TUPLE || v->kind == CCQ_PK_LIST) ? &r->p.objects[v->a] : NULL;
}

/* Elements of OriginShape. */
static ccq_code check_shape(reader *r, const char *name, const ccq_pk_object *shape,
                            uint64_t *elements)
{
    *elements = 1;
    if (shape->count > CCQ_MAX_RANK)
        return ccq_fail_name(r->p.err, CCQ_LIMIT, r->p.file->path, name, "%u axes, at most %d",
                             shape->count, CCQ_MAX_RANK);
    for (size_t i = 0; i < shape->count; i++) {
        ccq_pk_value v = shape->items[i];
        if (v.kind != CCQ_PK_INT || (int64_t)v.a < 0)
            return ccq_fail_name(r->p.err, CCQ_SHAPE, r->p.file->path, name,
                                 "byte %llu: axis %zu of OriginShape is no size",
                                 (unsigned long long)shape->at, i);
        if (__builtin_mul_overflow(*elements, v.a, elements))
            return ccq_fail_name(r->p.err, CCQ_OVERFLOW, r->p.file->path, name,
                                 "OriginShape passes 2^64 elements");
    }
    return CCQ_OK;
}

/* The slice that v, a text, names: a flat array of the same dtype as the first, not used before. */
static ccq_code take_slice(reader *r, const char *name, ccq_pk_value v,
                           const ccq_pk_object **first, ccq_payload *part)
{
    char slice[CCQ_MAX_NAME + 1], shown[256];
    ccq_code code = get_name(r, v, slice);
    if (code)
        return code;
    uint32_t key = ccq_names_find(&r->keys, slice, (size_t)v.n);
    const ccq_pk_object *a = NULL;
    if (key < r->count && r->entries[key].array != NO_ARRAY && !r->entries[key].used)
        a = &r->p.objects[r->entries[key].array];
    if (!*first)
        *first = a;
    if (!a || a->dtype != (*first)->dtype || r->p.objects[a->items[0].a].count != 1)
        return ccq_fail_name(r->p.err, CCQ_PICKLE, r->p.file->path, name,
                             "byte %llu: slice \"%s\" %s", (unsigned long long)v.a,
                             ccq_escape(shown, sizeof shown, slice, (size_t)v.n),
                             a ? "has another dtype or is not flat" : "is missing or used twice");
    r->entries[key].used = 1;
    return get_payload(r, a, part);
}

static ccq_code join_slices(reader *r, const char *name, const ccq_pk_object *shape,
                            const ccq_pk_object *slices)
{
    const ccq_pk_object *first = NULL;
    uint64_t elements, bytes = 0, wanted;
    ccq_code code = check_shape(r, name, shape, &elements);
    ccq_parts *parts = code ? NULL : new_parts(r, name, slices->count);
    if (!code && !parts)
        code = no_memory(r);
    for (size_t i = 0; i < slices->count && !code; i++) {
        code = take_slice(r, name, slices->items[i], &first, &parts->part[i]);
        if (!code && __builtin_add_overflow(bytes, parts->part[i].bytes, &bytes))
            code = ccq_fail_name(r->p.err, CCQ_OVERFLOW, r->p.file->path, name,
                                 "the slices pass 2^64 bytes");
    }
    if (code)
        return code;
    if (__builtin_mul_overflow(elements, ccq_dtype_bits((ccq_dtype)first->dtype) / 8, &wanted) ||
        wanted != bytes)
        return ccq_fail_name(r->p.err, CCQ_SIZE, r->p.file->path, name,
                             "byte %llu: OriginShape has %llu elements, the slices %llu bytes",
                             (unsigned long long)shape->at, (unsigned long long)elements,
                             (unsigned long long)bytes);
    return add_tensor(r, name, shape, (ccq_dtype)first->dtype, &parts->part[0], bytes);
}

/* One tensor of UnpackBigParamInfor@@: name -> {OriginShape, slices}. */
static ccq_code add_joined(reader *r, ccq_pk_value key, ccq_pk_value info)
{
    ccq_code code = new_name(r, key);
    if (code)
        return code;
    const char *name = r->keys.name[r->keys.count - 1];
    const ccq_pk_object *dict = info.kind == CCQ_PK_DICT ? &r->p.objects[info.a] : NULL;
    if (dict && dict->count != 4)
        dict = NULL;
    const ccq_pk_object *shape = dict ? sequence(r, member(r, dict, "OriginShape")) : NULL;
    const ccq_pk_object *slices = dict ? sequence(r, member(r, dict, "slices")) : NULL;
    int good = shape && slices && slices->count && slices->count <= r->count;
    for (size_t i = 0; good && i < slices->count; i++)
        good = ccq_pickle_is_text(slices->items[i]);
    if (!good)
        return ccq_fail_name(r->p.err, CCQ_PICKLE, r->p.file->path, name,
                             "byte %llu: not {OriginShape, slices} in UnpackBigParamInfor@@",
                             (unsigned long long)key.a);
    return join_slices(r, name, shape, slices);
}

/* ---- The file ---------------------------------------------------------------------- */

static ccq_code read_entry(reader *r, size_t i, ccq_pk_value key, ccq_pk_value value)
{
    ccq_code code = new_name(r, key);
    const char *name = code ? NULL : r->keys.name[i];
    if (code)
        return code;
    r->entries[i] = (entry){.array = NO_ARRAY};
    int unpack = strcmp(name, "UnpackBigParamInfor@@") == 0;
    if (!unpack && strcmp(name, "StructuredToParameterName@@") != 0)
        return get_array(r, name, key, value, &r->entries[i].array);
    if (value.kind != CCQ_PK_DICT)
        return ccq_pickle_fail(&r->p, CCQ_PICKLE, key.a, "%s is no dict", name);
    if (unpack)
        r->unpack = &r->p.objects[value.a];
    return CCQ_OK;
}

static ccq_code read_dict(reader *r, const ccq_pk_object *dict)
{
    ccq_code code = CCQ_OK;
    r->count = dict->count / 2;
    if (r->count > CCQ_MAX_TENSORS)
        return ccq_pickle_fail(&r->p, CCQ_LIMIT, dict->at, "%zu names, at most %d", r->count,
                               CCQ_MAX_TENSORS);
    if (!(r->entries = calloc(r->count + 1, sizeof *r->entries)))
        return no_memory(r);
    for (size_t i = 0; i < r->count && !code; i++)
        code = read_entry(r, i, dict->items[2 * i], dict->items[2 * i + 1]);
    size_t joined = !code && r->unpack ? r->unpack->count / 2 : 0;
    /* one byte more: malloc(0) may give NULL */
    if (!code && !(r->out->tensors = malloc((r->count + joined) * sizeof *r->out->tensors + 1)))
        code = no_memory(r);
    for (size_t i = 0; i < joined && !code; i++)
        code = add_joined(r, r->unpack->items[2 * i], r->unpack->items[2 * i + 1]);
    for (size_t i = 0; i < r->count && !code; i++)
        if (r->entries[i].array != NO_ARRAY && !r->entries[i].used)
            code = add_plain(r, i);
    return code;
}

ccq_code ccq_pd_read(ccq_pd *pd, const ccq_file *file, uint32_t shard, ccq_arena *arena,
                     ccq_error *err)
{
    ccq_pk_value top;
    reader *r = calloc(1, sizeof *r);
    memset(pd, 0, sizeof *pd);
    if (!r)
        return ccq_fail_file(err, CCQ_NO_MEMORY, file->path, "out of memory");
    r->arena = arena;
    r->shard = shard;
    r->out = pd;
    ccq_code code = ccq_pickle_run(&r->p, file, &top, err);
    if (!code && top.kind != CCQ_PK_DICT)
        code = ccq_pickle_fail(&r->p, CCQ_UNSUPPORTED, r->p.at, "not a dict of named arrays");
    if (!code)
        code = read_dict(r, &r->p.objects[top.a]);
    if (code) {
        free(pd->tensors);
        memset(pd, 0, sizeof *pd);
    }
    ccq_pickle_free(&r->p);
    ccq_names_free_table(&r->keys);
    free(r->entries);
    free(r);
    return code;
}

ccq_code ccq_pd_here(const ccq_file *file, int *yes, ccq_error *err)
{
    unsigned char b[9] = {0};
    uint64_t size = file->size < sizeof b ? file->size : sizeof b, n = 0;
    ccq_code code = ccq_file_read(file, 0, b, size, err);
    for (int i = 8; i--;)
        n = n << 8 | b[i];
    /* A header of 640 bytes also starts with 0x80 0x02. */
    int header = size == 9 && n <= CCQ_MAX_HEADER && (n <= file->size - 8 || b[8] == '{');
    *yes = !code && b[0] == 0x80 && b[1] >= 2 && b[1] <= 5 && !header;
    return code;
}
