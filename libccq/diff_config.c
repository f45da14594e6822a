/* config.json against config.json: each text flattened to paths and leaves
 * ("moe_quant_config.quant_type", "architectures[0]"), sorted, merged. */
#include "libccq/diff_internal.h"

#include "formats/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH = 512, DEPTH = 64 };

typedef struct leaf {
    char *path, *text; /* text: a JSON token as it stands, "{}" or "[]" */
    int number;
} leaf;

typedef struct flat {
    leaf *at;
    size_t count, cap;
    int failed;
    /* while walking */
    char path[PATH];
    size_t length[DEPTH + 2]; /* of path at each level, before its key or index */
    long index[DEPTH + 2];    /* of the next element; -1: an object */
    int level, empty;
} flat;

static void flat_free(flat *f)
{
    for (size_t i = 0; i < f->count; i++) {
        free(f->at[i].path);
        free(f->at[i].text);
    }
    free(f->at);
}

static void add_leaf(flat *f, const char *text, size_t len, int number)
{
    if (f->count == f->cap) {
        size_t cap = f->cap ? 2 * f->cap : 64;
        leaf *grown = realloc(f->at, cap * sizeof *grown);
        if (!grown) {
            f->failed = 1;
            return;
        }
        f->at = grown;
        f->cap = cap;
    }
    leaf l = {strdup(f->path), strndup(text, len), number};
    if (l.path && l.text) {
        f->at[f->count++] = l;
        return;
    }
    free(l.path);
    free(l.text);
    f->failed = 1;
}

/* What stands at the end of path: a key, or the number of an element. Names too
 * long are cut, which may call two leaves the same, never hide one. */
static void extend(flat *f, const char *key, size_t len)
{
    size_t at = f->length[f->level];
    if (key)
        snprintf(f->path + at, PATH - at, "%s%.*s", at ? "." : "", (int)(len < PATH ? len : PATH),
                 key);
    else
        snprintf(f->path + at, PATH - at, "[%ld]", f->index[f->level]);
}

static void open_level(flat *f, int array)
{
    f->level++;
    f->length[f->level] = strlen(f->path);
    f->index[f->level] = array ? 0 : -1;
    f->empty = 1;
}

static void close_level(flat *f, int array)
{
    f->path[f->length[f->level]] = 0;
    if (f->empty && f->level > 1)
        add_leaf(f, array ? "[]" : "{}", 2, 0);
    f->level--;
    f->empty = 0;
}

/* One event; before a value in an array its index is set. */
static void take(flat *f, ccq_json_event e, const char *text, const ccq_json *json)
{
    int array = f->level > 0 && f->index[f->level] >= 0;
    switch (e) {
    case CCQ_JSON_KEY:
        extend(f, json->text, json->len);
        return;
    case CCQ_JSON_OBJECT_END:
    case CCQ_JSON_ARRAY_END:
        close_level(f, e == CCQ_JSON_ARRAY_END);
        return;
    default:
        break;
    }
    if (array) {
        extend(f, NULL, 0);
        f->index[f->level]++;
    }
    if (e == CCQ_JSON_OBJECT || e == CCQ_JSON_ARRAY) {
        open_level(f, e == CCQ_JSON_ARRAY);
        return;
    }
    f->empty = 0;
    add_leaf(f, text + json->begin, json->end - json->begin, e == CCQ_JSON_NUMBER);
}

static int by_path(const void *a, const void *b)
{
    return strcmp(((const leaf *)a)->path, ((const leaf *)b)->path);
}

/* The text is a config's: judged already. */
static void flatten(flat *f, const ccq_config *config)
{
    size_t size;
    const char *text = ccq_config_text(config, &size);
    const ccq_json_limits limits = {DEPTH, 1 << 20, 0};
    ccq_json json;
    ccq_json_event e;
    ccq_json_init(&json, text, size, &limits);
    while ((e = ccq_json_next(&json)) != CCQ_JSON_END && e != CCQ_JSON_ERROR && !f->failed)
        take(f, e, text, &json);
    f->failed |= e == CCQ_JSON_ERROR; /* out of memory: it has been parsed before */
    ccq_json_free(&json);
    if (f->count)
        qsort(f->at, f->count, sizeof *f->at, by_path);
}

static int same(const leaf *a, const leaf *b)
{
    if (a->number && b->number)
        return strtod(a->text, NULL) == strtod(b->text, NULL);
    return strcmp(a->text, b->text) == 0;
}

/* A leaf for a person: "" for none, a string in plain quotes. */
static const char *show(const leaf *l, char out[240])
{
    char safe[230];
    size_t len = l ? strlen(l->text) : 0;
    if (len >= 2 && *l->text == '"')
        snprintf(out, 240, "\"%s\"", ccq_escape(safe, sizeof safe, l->text + 1, len - 2));
    else
        ccq_escape(out, 240, l ? l->text : "", len);
    return out;
}

ccq_code ccq_diff_config(ccq_diff_result *r, const ccq_config *a, const ccq_config *b,
                         const char *file, ccq_error *err)
{
    flat x = {.level = 0}, y = {.level = 0};
    size_t i = 0, j = 0;
    int failed = 0;
    char prefix[64], left[240], right[240];
    flatten(&x, a);
    flatten(&y, b);
    snprintf(prefix, sizeof prefix, "%s: ", file);
    while (i < x.count || j < y.count) {
        int c = i == x.count ? 1 : j == y.count ? -1 : strcmp(x.at[i].path, y.at[j].path);
        const leaf *l = c <= 0 ? &x.at[i++] : NULL, *m = c >= 0 ? &y.at[j++] : NULL;
        if (l && m && same(l, m))
            continue;
        ccq_diff_add(r, CCQ_DIFF_CONFIG, prefix, l ? l->path : m->path,
                     show(l, left), show(m, right), &failed);
    }
    failed |= x.failed | y.failed;
    flat_free(&x);
    flat_free(&y);
    return failed ? ccq_fail(err, CCQ_NO_MEMORY, "%s: out of memory", file) : CCQ_OK;
}
