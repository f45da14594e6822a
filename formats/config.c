/* config.json: our scanner judges the whole text (grammar, numbers, repeated
 * keys), then cJSON, which forgives all of these, gives the values. */
#include "formats/config.h"

#include "formats/internal.h"
#include "formats/json.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct checker {
    ccq_json json;
    ccq_config *c;
    ccq_error *err;
    uint64_t objects;
    uint64_t object[65]; /* number of the object open at a level */
    ccq_names keys;
} checker;

static ccq_code fault(checker *k, ccq_code code, const char *text, size_t len, const char *what)
{
    char shown[256];
    ccq_escape(shown, sizeof shown, text, len);
    return ccq_fail_file(k->err, code, k->c->name, "byte %llu: \"%s\": %s",
                         (unsigned long long)k->json.begin, shown, what);
}

static ccq_code no_memory(ccq_error *err)
{
    return ccq_fail(err, CCQ_NO_MEMORY, "out of memory for config.json");
}

static ccq_code add_member(checker *k)
{
    ccq_config *c = k->c;
    if (c->count == c->cap) {
        size_t cap = c->cap ? c->cap * 2 : 64;
        ccq_member *list = realloc(c->members, cap * sizeof *list);
        if (!list)
            return no_memory(k->err);
        c->members = list;
        c->cap = cap;
    }
    ccq_member *m = &c->members[c->count++];
    memset(m, 0, sizeof *m);
    m->key_begin = k->json.begin;
    m->key_end = k->json.end;
    m->key = ccq_arena_text(&c->arena, k->json.text, k->json.len);
    return m->key ? CCQ_OK : no_memory(k->err);
}

static ccq_code check_key(checker *k)
{
    ccq_json *j = &k->json;
    if (memchr(j->text, 0, j->len))
        return fault(k, CCQ_NAME, j->text, j->len, "a key holds a NUL");
    int added = ccq_names_once(&k->keys, &k->c->arena, k->object[j->level], j->text, j->len);
    if (added < 0)
        return no_memory(k->err);
    if (!added)
        return fault(k, CCQ_DUPLICATE, j->text, j->len, "key twice in one object");
    return j->level == 1 ? add_member(k) : CCQ_OK;
}

/* cJSON reads at most 63 characters of a number and makes infinity of 1e999. */
static ccq_code check_number(checker *k)
{
    ccq_json *j = &k->json;
    if (j->len > 60)
        return fault(k, CCQ_NUMBER, j->text, j->len, "number of more than 60 characters");
    if (!isfinite(strtod(j->text, NULL))) /* a delimiter follows, or the NUL behind the text */
        return fault(k, CCQ_NUMBER, j->text, j->len, "number too large for a double");
    return CCQ_OK;
}

/* The value at the top level that just ended or stands alone. */
static void note_value(checker *k, ccq_json_event e)
{
    ccq_json *j = &k->json;
    int opens = e == CCQ_JSON_OBJECT || e == CCQ_JSON_ARRAY;
    int closes = e == CCQ_JSON_OBJECT_END || e == CCQ_JSON_ARRAY_END;
    if (!k->c->count || e == CCQ_JSON_KEY)
        return;
    ccq_member *m = &k->c->members[k->c->count - 1];
    if (j->level == 2 && opens)
        m->begin = j->begin;
    else if (j->level == 1 && closes)
        m->end = j->end;
    else if (j->level == 1) {
        m->begin = j->begin;
        m->end = j->end;
    }
}

static ccq_code check_event(checker *k, ccq_json_event e)
{
    ccq_json *j = &k->json;
    if (e == CCQ_JSON_KEY)
        return check_key(k);
    if (e == CCQ_JSON_NUMBER)
        return check_number(k);
    if (e == CCQ_JSON_STRING && memchr(j->text, 0, j->len))
        return fault(k, CCQ_NAME, j->text, j->len, "a string holds a NUL");
    if (e == CCQ_JSON_OBJECT)
        k->object[j->level] = ++k->objects;
    return CCQ_OK;
}

static ccq_code check_text(ccq_config *c, ccq_error *err)
{
    const ccq_json_limits limits = {64, CCQ_MAX_CONFIG, 0};
    checker k = {.c = c, .err = err};
    ccq_code code = CCQ_OK;
    ccq_json_event e;
    ccq_json_init(&k.json, c->text, c->size, &limits);
    e = ccq_json_next(&k.json);
    if (e != CCQ_JSON_OBJECT && e != CCQ_JSON_ERROR)
        code = ccq_fail_file(err, CCQ_JSON, c->name, "not a JSON object");
    c->open = k.json.begin;
    for (; !code && e != CCQ_JSON_END; e = ccq_json_next(&k.json)) {
        if (e == CCQ_JSON_ERROR) {
            code = ccq_fail_file(err, k.json.code, c->name, "byte %llu: %s",
                                 (unsigned long long)k.json.at, k.json.message);
            break;
        }
        code = check_event(&k, e);
        note_value(&k, e);
        if (k.json.level == 0 && e == CCQ_JSON_OBJECT_END)
            c->close = k.json.begin;
    }
    ccq_json_free(&k.json);
    ccq_names_free_table(&k.keys);
    return code;
}

static ccq_code parse_tree(ccq_config *c, ccq_error *err)
{
    const char *end = NULL;
    c->tree = cJSON_ParseWithLengthOpts(c->text, c->size + 1, &end, 0);
    if (!c->tree)
        return ccq_fail_file(err, CCQ_JSON, c->name, "cJSON stops at byte %llu",
                             (unsigned long long)(end ? end - c->text : 0));
    for (; end < c->text + c->size; end++)
        if (!memchr(" \t\r\n", *end, 4))
            return ccq_fail_file(err, CCQ_JSON, c->name, "text after the object");
    return CCQ_OK;
}

ccq_code ccq_config_parse(ccq_config **out, const char *text, size_t size, const char *name,
                          ccq_error *err)
{
    *out = NULL;
    if (size > CCQ_MAX_CONFIG)
        return ccq_fail_file(err, CCQ_LIMIT, name, "%zu bytes, at most %zu are read", size,
                             CCQ_MAX_CONFIG);
    size_t bad = ccq_utf8_valid(text, size);
    if (bad < size)
        return ccq_fail_file(err, CCQ_UTF8, name, "byte %zu is not UTF-8", bad);
    ccq_code code;
    ccq_config *c = calloc(1, sizeof *c);
    if (!c || !(c->text = malloc(size + 1)) || !(c->name = strdup(name))) {
        code = no_memory(err);
        goto done;
    }
    memcpy(c->text, text, size);
    c->text[size] = 0;
    c->size = size;
    if ((code = check_text(c, err)) || (code = parse_tree(c, err)))
        goto done;
    *out = c;
    c = NULL;
done:
    ccq_config_free(c);
    return code;
}

ccq_code ccq_config_load(ccq_config **config, const char *dir, ccq_error *err)
{
    char *path = ccq_path_join(dir, "config.json"), *text = NULL;
    size_t size = 0;
    *config = NULL;
    if (!path)
        return no_memory(err);
    ccq_code code = ccq_file_load(path, CCQ_MAX_CONFIG, CCQ_NO_CONFIG, &text, &size, err);
    if (!code)
        code = ccq_config_parse(config, text, size, path, err);
    free(text);
    free(path);
    return code;
}

void ccq_config_free(ccq_config *c)
{
    if (!c)
        return;
    cJSON_Delete(c->tree);
    free(c->text);
    free(c->name);
    free(c->members);
    ccq_arena_free(&c->arena);
    free(c);
}

const char *ccq_config_text(const ccq_config *c, size_t *size)
{
    if (size)
        *size = c->size;
    return c->text;
}

const char *ccq_config_name(const ccq_config *c)
{
    return c->name;
}

size_t ccq_config_keys(const ccq_config *c)
{
    return c->count;
}

const char *ccq_config_key(const ccq_config *c, size_t i)
{
    return i < c->count ? c->members[i].key : NULL;
}

/* The child of an object whose key is the first len bytes of key. */
static const cJSON *child(const cJSON *object, const char *key, size_t len)
{
    if (!cJSON_IsObject(object))
        return NULL;
    for (const cJSON *item = object->child; item; item = item->next)
        if (strncmp(item->string, key, len) == 0 && item->string[len] == 0)
            return item;
    return NULL;
}

static const cJSON *find(const ccq_config *c, const char *path)
{
    const cJSON *item = c->tree;
    while (item) {
        size_t len = strcspn(path, ".");
        item = child(item, path, len);
        if (!path[len])
            break;
        path += len + 1;
    }
    return item;
}

static const cJSON *element(const ccq_config *c, const char *path, size_t i)
{
    const cJSON *array = find(c, path), *item = cJSON_IsArray(array) ? array->child : NULL;
    while (item && i--)
        item = item->next;
    return item;
}

ccq_kind ccq_config_kind(const ccq_config *c, const char *path)
{
    const cJSON *item = find(c, path);
    if (!item)
        return CCQ_KIND_ABSENT;
    if (cJSON_IsNull(item))
        return CCQ_KIND_NULL;
    if (cJSON_IsBool(item))
        return CCQ_KIND_BOOL;
    if (cJSON_IsNumber(item))
        return CCQ_KIND_NUMBER;
    if (cJSON_IsString(item))
        return CCQ_KIND_STRING;
    return cJSON_IsArray(item) ? CCQ_KIND_ARRAY : CCQ_KIND_OBJECT;
}

/* valueint saturates at 2^31 - 1. 2^53 itself may be a rounded 2^53 + 1. */
static int integer(const cJSON *item, int64_t *value)
{
    if (!cJSON_IsNumber(item))
        return 0;
    double v = item->valuedouble;
    if (!(fabs(v) < 0x1p53) || v != floor(v))
        return 0;
    *value = (int64_t)v;
    return 1;
}

int ccq_config_int(const ccq_config *c, const char *path, int64_t *value)
{
    return integer(find(c, path), value);
}

int ccq_config_double(const ccq_config *c, const char *path, double *value)
{
    const cJSON *item = find(c, path);
    if (!cJSON_IsNumber(item))
        return 0;
    *value = item->valuedouble;
    return 1;
}

int ccq_config_bool(const ccq_config *c, const char *path, int *value)
{
    const cJSON *item = find(c, path);
    if (!cJSON_IsBool(item))
        return 0;
    *value = cJSON_IsTrue(item);
    return 1;
}

const char *ccq_config_string(const ccq_config *c, const char *path)
{
    const cJSON *item = find(c, path);
    return cJSON_IsString(item) ? item->valuestring : NULL;
}

size_t ccq_config_array_size(const ccq_config *c, const char *path)
{
    const cJSON *item = find(c, path);
    return cJSON_IsArray(item) ? (size_t)cJSON_GetArraySize(item) : 0;
}

int ccq_config_array_int(const ccq_config *c, const char *path, size_t i, int64_t *value)
{
    return integer(element(c, path, i), value);
}

const char *ccq_config_array_string(const ccq_config *c, const char *path, size_t i)
{
    const cJSON *item = element(c, path, i);
    return cJSON_IsString(item) ? item->valuestring : NULL;
}

/* Byte range of the member path[0..len) of the object text[begin..]; 0 when there is none. */
static int member_range(const ccq_config *c, const char *key, size_t len, size_t *begin,
                        size_t *end)
{
    const ccq_json_limits limits = {64, CCQ_MAX_CONFIG, 0};
    ccq_json j;
    int found = 0;
    ccq_json_init(&j, c->text + *begin, *end - *begin, &limits);
    if (ccq_json_next(&j) == CCQ_JSON_OBJECT) {
        while (!found && ccq_json_next(&j) == CCQ_JSON_KEY) {
            int match = j.len == len && memcmp(j.text, key, len) == 0;
            while (strchr(" \t\r\n", j.src[j.at]))
                j.at++;
            size_t from = j.at;
            if (ccq_json_skip(&j))
                break;
            if (match) {
                *end = *begin + j.end;
                *begin += from;
                found = 1;
            }
        }
    }
    ccq_json_free(&j);
    return found;
}

const char *ccq_config_raw(const ccq_config *c, const char *path, size_t *len)
{
    size_t begin = c->open, end = c->close + 1;
    for (;;) {
        size_t n = strcspn(path, ".");
        if (!member_range(c, path, n, &begin, &end))
            return NULL;
        if (!path[n])
            break;
        path += n + 1;
    }
    *len = end - begin;
    return c->text + begin;
}
