#include "formats/identity.h"

#include "formats/internal.h"
#include "formats/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct value {
    char *path, *text;
} value;

struct ccq_identity {
    value *value; /* in the order of the text */
    size_t count, cap;
};

/* ---- Reading --------------------------------------------------------------------- */

typedef struct reader {
    ccq_json json;
    ccq_identity *id;
    const char *file;
    ccq_error *err;
} reader;

static ccq_code no_memory(const reader *r)
{
    return ccq_fail(r->err, CCQ_NO_MEMORY, "%s: out of memory", r->file);
}

static ccq_code add(reader *r, ccq_json_event event, const char *path)
{
    const ccq_json *j = &r->json;
    ccq_identity *id = r->id;
    if (id->count == id->cap) {
        size_t cap = id->cap ? 2 * id->cap : 64;
        value *list = realloc(id->value, cap * sizeof *list);
        if (!list)
            return no_memory(r);
        id->value = list;
        id->cap = cap;
    }
    value v = {strdup(path), event == CCQ_JSON_STRING ? strndup(j->text, j->len)
                                                      : strndup(j->src + j->begin,
                                                                j->end - j->begin)};
    id->value[id->count++] = v;
    return v.path && v.text ? CCQ_OK : no_memory(r);
}

static ccq_code damaged(const reader *r)
{
    return ccq_fail_file(r->err, CCQ_CHANGED, r->file, "damaged at byte %zu", r->json.begin);
}

static ccq_code read_value(reader *r, ccq_json_event event, const char *path);

/* Members of an object, or elements of an array; the scanner bounds the depth. */
static ccq_code read_members(reader *r, int array, const char *path)
{
    ccq_code code = CCQ_OK;
    for (size_t i = 0; !code; i++) {
        ccq_json_event event = ccq_json_next(&r->json);
        char *inner = NULL;
        int n;
        if (event == CCQ_JSON_OBJECT_END || event == CCQ_JSON_ARRAY_END)
            break;
        if (event == CCQ_JSON_ERROR || event == CCQ_JSON_END)
            return damaged(r);
        if (array) {
            n = asprintf(&inner, "%s[%zu]", path, i);
        } else {
            n = asprintf(&inner, "%s%s%.*s", path, *path ? "." : "", (int)r->json.len,
                         r->json.text);
            event = ccq_json_next(&r->json);
        }
        if (n < 0)
            return no_memory(r);
        code = read_value(r, event, inner);
        free(inner);
    }
    return code;
}

static ccq_code read_value(reader *r, ccq_json_event event, const char *path)
{
    if (event == CCQ_JSON_OBJECT || event == CCQ_JSON_ARRAY)
        return read_members(r, event == CCQ_JSON_ARRAY, path);
    return event == CCQ_JSON_ERROR || event == CCQ_JSON_END ? damaged(r) : add(r, event, path);
}

ccq_code ccq_identity_new(ccq_identity **id, const char *text, size_t size, const char *path,
                          ccq_error *err)
{
    reader r = {.file = path, .err = err};
    *id = NULL;
    if (!(r.id = calloc(1, sizeof *r.id)))
        return no_memory(&r);
    ccq_json_init(&r.json, text, size, NULL);
    ccq_code code = read_value(&r, ccq_json_next(&r.json), "");
    if (!code && ccq_json_next(&r.json) != CCQ_JSON_END)
        code = damaged(&r);
    ccq_json_free(&r.json);
    if (code)
        ccq_identity_free(r.id);
    else
        *id = r.id;
    return code;
}

void ccq_identity_free(ccq_identity *id)
{
    for (size_t i = 0; id && i < id->count; i++) {
        free(id->value[i].path);
        free(id->value[i].text);
    }
    if (id)
        free(id->value);
    free(id);
}

/* ---- Comparing ------------------------------------------------------------------- */

const char *ccq_identity_value(const ccq_identity *id, const char *path)
{
    for (size_t i = 0; i < id->count; i++)
        if (strcmp(id->value[i].path, path) == 0)
            return id->value[i].text;
    return NULL;
}

static int is_loose(const char *path, const char *const *loose)
{
    const char *last = strrchr(path, '.');
    last = last ? last + 1 : path;
    for (size_t i = 0; loose[i]; i++)
        if (strcmp(last, loose[i]) == 0)
            return 1;
    return 0;
}

static ccq_code differs(const char *file, const char *path, const char *was, const char *now,
                        ccq_error *err)
{
    char field[200], a[200], b[200];
    ccq_escape(field, sizeof field, path, strlen(path));
    ccq_escape(a, sizeof a, was ? was : "absent", strlen(was ? was : "absent"));
    ccq_escape(b, sizeof b, now ? now : "absent", strlen(now ? now : "absent"));
    return ccq_fail_file(err, CCQ_CHANGED, file, "%s is %s, the unfinished job had %s", field, b,
                         a);
}

ccq_code ccq_identity_compare(const ccq_identity *was, const ccq_identity *now,
                              const char *const *loose, const char *path, int *moved,
                              ccq_error *err)
{
    *moved = 0;
    for (size_t i = 0; i < was->count || i < now->count; i++) {
        const value *a = i < was->count ? &was->value[i] : NULL;
        const value *b = i < now->count ? &now->value[i] : NULL;
        if (b && (!a || strcmp(a->path, b->path) != 0) && !ccq_identity_value(was, b->path))
            return differs(path, b->path, NULL, b->text, err);
        if (a && (!b || strcmp(a->path, b->path) != 0))
            return differs(path, a->path, a->text, ccq_identity_value(now, a->path), err);
        if (strcmp(a->text, b->text) == 0)
            continue;
        if (!is_loose(a->path, loose))
            return differs(path, a->path, a->text, b->text, err);
        *moved = 1;
    }
    return CCQ_OK;
}
