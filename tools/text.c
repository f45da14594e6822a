#include "tools/text.h"

#include "formats/file.h"
#include "formats/json.h"
#include "tools/pieces.h"
#include "tools/spm.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_MODEL = 256 << 20, MAX_ADDED = 1 << 20 };

typedef struct added {
    char *name;
    size_t size;
    int32_t id;
} added;

struct text {
    char *path, *model;
    size_t size;
    int64_t pieces;
    spm *spm;
    added *added; /* of added_tokens.json, longest first */
    size_t count;
    uint8_t starts[256]; /* 1: the first byte of an added token */
};

/* ---- Added tokens ------------------------------------------------------------------ */

static int longest_first(const void *pa, const void *pb)
{
    const added *a = pa, *b = pb;

    return (a->size < b->size) - (a->size > b->size);
}

/* One "token": id; 0 at the end, -1 for anything else. */
static int next_added(text *t, ccq_json *json)
{
    ccq_json_event e = ccq_json_next(json);
    uint64_t id;
    added a;

    if (e == CCQ_JSON_OBJECT_END)
        return ccq_json_next(json) == CCQ_JSON_END ? 0 : -1;
    if (e != CCQ_JSON_KEY || !json->len || memchr(json->text, 0, json->len))
        return -1;
    a.size = json->len;
    a.name = strndup(json->text, json->len);
    if (!a.name)
        return -1;
    t->added[t->count++] = a; /* owned from here on */
    if (ccq_json_next(json) != CCQ_JSON_NUMBER || !ccq_json_u64(json->text, json->len, &id) ||
        id > INT32_MAX)
        return -1;
    t->added[t->count - 1].id = (int32_t)id;
    return 1;
}

static ccq_code parse_added(text *t, const char *path, const char *data, size_t size,
                            ccq_error *err)
{
    char shown[512];
    ccq_json json;
    int more;

    t->added = calloc(size / 4 + 1, sizeof *t->added); /* "":0 is the shortest */
    if (!t->added)
        return ccq_fail(err, CCQ_NO_MEMORY, "out of memory");
    ccq_json_init(&json, data, size, NULL);
    more = ccq_json_next(&json) == CCQ_JSON_OBJECT ? 1 : -1;
    while (more == 1)
        more = next_added(t, &json);
    ccq_json_free(&json);
    if (more)
        return ccq_fail(err, CCQ_JSON, "%s: an object of \"token\": id is wanted",
                        ccq_escape(shown, sizeof shown, path, strlen(path)));
    for (size_t i = 0; i < t->count; i++)
        t->starts[(unsigned char)t->added[i].name[0]] = 1;
    qsort(t->added, t->count, sizeof *t->added, longest_first);
    return CCQ_OK;
}

static ccq_code read_added(text *t, const char *dir, ccq_error *err)
{
    char *path = ccq_path_join(dir, "added_tokens.json"), *data = NULL;
    size_t size = 0;
    ccq_code code = CCQ_OK;

    if (!path)
        return ccq_fail(err, CCQ_NO_MEMORY, "out of memory");
    if (ccq_path_exists(path)) {
        code = ccq_file_load(path, MAX_ADDED, CCQ_NO_INPUT, &data, &size, err);
        if (!code)
            code = parse_added(t, path, data, size, err);
    }
    free(data);
    free(path);
    return code;
}

/* ---- Open ----------------------------------------------------------------------------- */

static char *find_model(const char *dir)
{
    static const char *const names[] = {"tokenizer.model", "spm.model", "ernie_token_100k.model"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *path = ccq_path_join(dir, names[i]);
        if (path && ccq_path_exists(path))
            return path;
        free(path);
    }
    return NULL;
}

ccq_code text_open(text **out, const char *dir, ccq_error *err)
{
    char *path = find_model(dir);
    text *t;
    ccq_code code;

    *out = NULL;
    if (!path)
        return CCQ_OK;
    t = calloc(1, sizeof *t);
    if (!t) {
        free(path);
        return ccq_fail(err, CCQ_NO_MEMORY, "out of memory");
    }
    t->path = path;
    code = ccq_file_load(path, MAX_MODEL, CCQ_NO_INPUT, &t->model, &t->size, err);
    if (!code && (t->pieces = pieces_count(t->model, t->size)) < 1)
        code = ccq_fail(err, CCQ_CONFIG, "%s: not a SentencePiece model", path);
    if (!code)
        code = read_added(t, dir, err);
    if (code) {
        text_close(t);
        return code;
    }
    t->spm = spm_load(t->model, t->size);
    *out = t;
    return CCQ_OK;
}

void text_close(text *t)
{
    if (!t)
        return;
    spm_free(t->spm);
    for (size_t i = 0; i < t->count; i++)
        free(t->added[i].name);
    free(t->added);
    free(t->model);
    free(t->path);
    free(t);
}

int64_t text_pieces(const text *t)
{
    return t ? t->pieces : 0;
}

int32_t text_id(const text *t, const char *name)
{
    for (size_t i = 0; t && i < t->count; i++)
        if (!strcmp(t->added[i].name, name))
            return t->added[i].id;
    return t ? (int32_t)pieces_find(t->model, t->size, name) : -1;
}

int text_is_added(const text *t, int32_t id)
{
    for (size_t i = 0; t && i < t->count; i++)
        if (t->added[i].id == id)
            return 1;
    return 0;
}

ccq_code text_usable(const text *t, const char *dir, ccq_error *err)
{
    if (!t)
        return ccq_fail(err, CCQ_USAGE, "%s: no tokenizer.model, so no text; give ids", dir);
    if (t->spm && spm_piece_count(t->spm) == t->pieces)
        return CCQ_OK;
    if (!CCQ_HAVE_SENTENCEPIECE)
        return ccq_fail(err, CCQ_UNAVAILABLE,
                        "this build has no SentencePiece, so no text; give ids");
    return ccq_fail(err, CCQ_CONFIG, "%s: SentencePiece does not take it", t->path);
}

/* ---- Encode ----------------------------------------------------------------------------- */

typedef struct list {
    int32_t *at;
    size_t count, room;
} list;

static ccq_code append(list *l, const int32_t *ids, size_t count, ccq_error *err)
{
    if (l->count + count > l->room || !l->at) {
        size_t room = 2 * (l->count + count) + 16;
        int32_t *at = realloc(l->at, room * sizeof *at);
        if (!at)
            return ccq_fail(err, CCQ_NO_MEMORY, "out of memory");
        l->at = at;
        l->room = room;
    }
    if (count)
        memcpy(l->at + l->count, ids, count * sizeof *ids);
    l->count += count;
    return CCQ_OK;
}

static ccq_code append_gap(const text *t, list *l, const char *s, size_t size, ccq_error *err)
{
    int32_t *ids = NULL;
    size_t count = 0;
    ccq_code code;

    if (!size)
        return CCQ_OK;
    if (spm_encode(t->spm, s, size, &ids, &count))
        return ccq_fail(err, CCQ_USAGE, "SentencePiece cannot encode the text");
    code = append(l, ids, count, err);
    free(ids);
    return code;
}

static const added *match(const text *t, const char *s, size_t size)
{
    if (!t->starts[(unsigned char)*s])
        return NULL;
    for (size_t i = 0; i < t->count; i++)
        if (t->added[i].size <= size && !memcmp(t->added[i].name, s, t->added[i].size))
            return &t->added[i];
    return NULL;
}

ccq_code text_encode(const text *t, const char *s, size_t size, int32_t **ids, size_t *count,
                     ccq_error *err)
{
    list l = {NULL, 0, 0};
    size_t gap = 0, i = 0;
    ccq_code code = append(&l, NULL, 0, err);

    while (!code && i < size) {
        const added *a = match(t, s + i, size - i);
        if (!a) {
            i++;
            continue;
        }
        code = append_gap(t, &l, s + gap, i - gap, err);
        if (!code)
            code = append(&l, &a->id, 1, err);
        i += a->size;
        gap = i;
    }
    if (!code)
        code = append_gap(t, &l, s + gap, size - gap, err);
    if (code) {
        free(l.at);
        return code;
    }
    *ids = l.at;
    *count = l.count;
    return CCQ_OK;
}

ccq_code text_chat(const text *t, const char *user, size_t size, int32_t bos, int32_t **ids,
                   size_t *count, ccq_error *err)
{
    static const char head[] = "User: ", tail[] = "\nAssistant: ";
    int32_t start = text_id(t, "<|begin_of_sentence|>"), *body = NULL;
    size_t n = 0, all = sizeof head - 1 + size + sizeof tail - 1;
    list l = {NULL, 0, 0};
    char *s = malloc(all);
    ccq_code code;

    if (!s)
        return ccq_fail(err, CCQ_NO_MEMORY, "out of memory");
    memcpy(s, head, sizeof head - 1);
    memcpy(s + sizeof head - 1, user, size);
    memcpy(s + sizeof head - 1 + size, tail, sizeof tail - 1);
    start = start < 0 ? bos : start;
    code = text_encode(t, s, all, &body, &n, err);
    if (!code)
        code = append(&l, &start, 1, err);
    if (!code)
        code = append(&l, body, n, err);
    free(body);
    free(s);
    if (code) {
        free(l.at);
        return code;
    }
    *ids = l.at;
    *count = l.count;
    return CCQ_OK;
}

/* ---- Decode ----------------------------------------------------------------------------- */

static const added *by_id(const text *t, int32_t id)
{
    for (size_t i = 0; i < t->count; i++)
        if (t->added[i].id == id)
            return &t->added[i];
    return NULL;
}

/* Appends to *s; 0 when out of memory. */
static int join(char **s, size_t *size, const char *more)
{
    size_t n = strlen(more);
    char *p = realloc(*s, *size + n + 1);

    if (!p)
        return 0;
    memcpy(p + *size, more, n + 1);
    *s = p;
    *size += n;
    return 1;
}

static int join_pieces(const text *t, const int32_t *ids, size_t count, char **s, size_t *size)
{
    char *part = NULL;
    int ok = !count || (!spm_decode(t->spm, ids, count, &part) && join(s, size, part));

    free(part);
    return ok;
}

char *text_decode(const text *t, const int32_t *ids, size_t count)
{
    char *s = NULL;
    size_t size = 0, run = 0, i;

    if (!t || !t->spm || !join(&s, &size, ""))
        return NULL;
    for (i = 0; i < count; i++) {
        const added *a = by_id(t, ids[i]);
        int skip = ids[i] < 0 || ids[i] >= t->pieces; /* padding of the vocabulary */
        if (!a && !skip)
            continue;
        if (!join_pieces(t, ids + run, i - run, &s, &size) || (a && !join(&s, &size, a->name))) {
            free(s);
            return NULL;
        }
        run = i + 1;
    }
    if (!join_pieces(t, ids + run, count - run, &s, &size)) {
        free(s);
        return NULL;
    }
    return s;
}

char *text_continue(const text *t, int32_t before, const int32_t *ids, size_t count)
{
    int32_t *all = malloc((count + 1) * sizeof *all);
    char *head, *whole = NULL;
    size_t n;

    if (!all)
        return NULL;
    all[0] = before;
    if (count)
        memcpy(all + 1, ids, count * sizeof *ids);
    head = text_decode(t, all, 1);
    whole = head ? text_decode(t, all, count + 1) : NULL;
    free(all);
    n = head ? strlen(head) : 0;
    if (whole && !strncmp(whole, head, n)) {
        memmove(whole, whole + n, strlen(whole + n) + 1);
    } else if (whole) { /* bytes of one character on both sides */
        free(whole);
        whole = text_decode(t, ids, count);
    }
    free(head);
    return whole;
}
