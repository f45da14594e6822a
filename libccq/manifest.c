#include "libccq/manifest.h"

#include "formats/file.h"
#include "formats/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

/* The largest manifest read: 400,000 tensors with long names. */
enum { MAX_BYTES = 256 * 1024 * 1024 };
/* `  "crc32": "01234567"\n}\n`, always the end of the text. */
#define TAIL_HEAD "  \"crc32\": \""
#define TAIL_END "\"\n}\n"
enum { TAIL = sizeof TAIL_HEAD - 1 + 8 + sizeof TAIL_END - 1 };

static int by_name(const void *a, const void *b)
{
    return strcmp(((const ccq_manifest_item *)a)->name, ((const ccq_manifest_item *)b)->name);
}

ccq_manifest *ccq_manifest_new(void)
{
    return calloc(1, sizeof(ccq_manifest));
}

static void free_list(ccq_manifest_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        free(list->item[i].name);
    free(list->item);
}

void ccq_manifest_free(ccq_manifest *m)
{
    if (!m)
        return;
    free_list(&m->shards);
    free_list(&m->files);
    free_list(&m->tensors);
    free(m);
}

int ccq_manifest_add(ccq_manifest_list *list, const char *name, uint64_t bytes, uint32_t crc)
{
    if (list->count == list->cap) {
        size_t cap = list->cap ? 2 * list->cap : 64;
        ccq_manifest_item *item = realloc(list->item, cap * sizeof *item);
        if (!item)
            return -1;
        list->item = item;
        list->cap = cap;
    }
    char *copy = strdup(name);
    if (!copy)
        return -1;
    list->item[list->count++] = (ccq_manifest_item){copy, bytes, crc};
    return 0;
}

static void sort_list(ccq_manifest_list *list)
{
    if (list->count)
        qsort(list->item, list->count, sizeof *list->item, by_name);
}

const ccq_manifest_item *ccq_manifest_find(const ccq_manifest_list *list, const char *name)
{
    size_t lo = 0, hi = list->count;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int order = strcmp(name, list->item[mid].name);
        if (order == 0)
            return &list->item[mid];
        if (order < 0)
            hi = mid;
        else
            lo = mid + 1;
    }
    return NULL;
}

/* ---- Writing ------------------------------------------------------------- */

static void put_hex(ccq_jw *w, uint32_t crc)
{
    char hex[9];
    snprintf(hex, sizeof hex, "%08x", (unsigned)crc);
    ccq_jw_string(w, hex);
}

static void put_files(ccq_jw *w, const char *key, const char *crc_key,
                      const ccq_manifest_list *list)
{
    ccq_jw_key(w, key);
    ccq_jw_object(w);
    for (size_t i = 0; i < list->count; i++) {
        ccq_jw_key(w, list->item[i].name);
        ccq_jw_object(w);
        ccq_jw_ku64(w, "bytes", list->item[i].bytes);
        ccq_jw_key(w, crc_key);
        put_hex(w, list->item[i].crc);
        ccq_jw_end(w);
    }
    ccq_jw_end(w);
}

char *ccq_manifest_text(ccq_manifest *m, size_t *size)
{
    sort_list(&m->shards);
    sort_list(&m->files);
    sort_list(&m->tensors);
    ccq_jw w;
    ccq_jw_init(&w, 2);
    ccq_jw_object(&w);
    ccq_jw_kstring(&w, "schema", "ccq.manifest/1");
    if (m->unsynced)
        ccq_jw_kbool(&w, "synced", 0);
    put_files(&w, "shards", "header_crc32", &m->shards);
    put_files(&w, "files", "crc32", &m->files);
    ccq_jw_key(&w, "tensors");
    ccq_jw_object(&w);
    for (size_t i = 0; i < m->tensors.count; i++) {
        ccq_jw_key(&w, m->tensors.item[i].name);
        put_hex(&w, m->tensors.item[i].crc);
    }
    ccq_jw_end(&w);
    ccq_jw_kstring(&w, "crc32", "00000000");
    ccq_jw_end(&w);
    char *text = ccq_jw_take(&w, size);
    if (!text)
        return NULL;
    char hex[9];
    snprintf(hex, sizeof hex, "%08lx", (unsigned long)crc32_z(0, (Bytef *)text, *size - TAIL));
    memcpy(text + *size - TAIL + sizeof TAIL_HEAD - 1, hex, 8);
    return text;
}

/* ---- Reading ------------------------------------------------------------- */

typedef struct reader {
    ccq_json json;
    const char *path;
    ccq_error *err;
} reader;

static ccq_code damaged(const reader *r, const char *what)
{
    return ccq_fail(r->err, CCQ_MANIFEST, "%s: offset %zu: %s", r->path, r->json.begin, what);
}

/* A token is no C string: it ends with its length. */
static int is_text(const reader *r, const char *text)
{
    return r->json.len == strlen(text) && memcmp(r->json.text, text, r->json.len) == 0;
}

static ccq_code want(reader *r, ccq_json_event event, const char *what)
{
    return ccq_json_next(&r->json) == event ? CCQ_OK : damaged(r, what);
}

static ccq_code read_hex(reader *r, uint32_t *crc)
{
    ccq_code code = want(r, CCQ_JSON_STRING, "a CRC-32 is wanted");
    if (code)
        return code;
    *crc = 0;
    for (size_t i = 0; i < r->json.len; i++) {
        const char *digits = "0123456789abcdef", *at = strchr(digits, r->json.text[i]);
        if (r->json.len != 8 || !r->json.text[i] || !at)
            return damaged(r, "a CRC-32 has eight small hex digits");
        *crc = *crc << 4 | (uint32_t)(at - digits);
    }
    return r->json.len == 8 ? CCQ_OK : damaged(r, "a CRC-32 has eight small hex digits");
}

/* { "bytes": N, "crc32": "..." } of one file */
static ccq_code read_file(reader *r, uint64_t *bytes, uint32_t *crc)
{
    ccq_code code = want(r, CCQ_JSON_OBJECT, "an object is wanted");
    if (!code)
        code = want(r, CCQ_JSON_KEY, "\"bytes\" is wanted");
    if (!code && !is_text(r, "bytes"))
        code = damaged(r, "\"bytes\" is wanted");
    if (!code)
        code = want(r, CCQ_JSON_NUMBER, "a size is wanted");
    if (!code && !ccq_json_u64(r->json.text, r->json.len, bytes))
        code = damaged(r, "a size is wanted");
    if (!code)
        code = want(r, CCQ_JSON_KEY, "a CRC-32 is wanted");
    if (!code)
        code = read_hex(r, crc);
    return code ? code : want(r, CCQ_JSON_OBJECT_END, "the end of an object is wanted");
}

static ccq_code read_list(reader *r, ccq_manifest_list *list, int files)
{
    ccq_code code = want(r, CCQ_JSON_OBJECT, "an object is wanted");
    while (!code) {
        ccq_json_event event = ccq_json_next(&r->json);
        if (event == CCQ_JSON_OBJECT_END)
            break;
        if (event != CCQ_JSON_KEY)
            return damaged(r, "a name is wanted");
        uint64_t bytes = 0;
        uint32_t crc = 0;
        if (memchr(r->json.text, 0, r->json.len))
            return damaged(r, "a name holds a NUL");
        char *name = strndup(r->json.text, r->json.len);
        if (!name)
            return ccq_fail(r->err, CCQ_NO_MEMORY, "%s: out of memory", r->path);
        code = files ? read_file(r, &bytes, &crc) : read_hex(r, &crc);
        if (!code && ccq_manifest_add(list, name, bytes, crc))
            code = ccq_fail(r->err, CCQ_NO_MEMORY, "%s: out of memory", r->path);
        free(name);
    }
    sort_list(list);
    for (size_t i = 1; !code && i < list->count; i++)
        if (strcmp(list->item[i - 1].name, list->item[i].name) == 0)
            code = damaged(r, "a name twice");
    return code;
}

static ccq_code read_all(reader *r, ccq_manifest *m)
{
    ccq_code code = want(r, CCQ_JSON_OBJECT, "an object is wanted");
    while (!code) {
        ccq_json_event event = ccq_json_next(&r->json);
        if (event == CCQ_JSON_OBJECT_END)
            return want(r, CCQ_JSON_END, "text after the object");
        if (event != CCQ_JSON_KEY)
            return damaged(r, "a key is wanted");
        if (is_text(r, "shards"))
            code = read_list(r, &m->shards, 1);
        else if (is_text(r, "files"))
            code = read_list(r, &m->files, 1);
        else if (is_text(r, "tensors"))
            code = read_list(r, &m->tensors, 0);
        else if (ccq_json_skip(&r->json))
            code = damaged(r, "not JSON");
    }
    return code;
}

/* The whole text is what was written: its own CRC first, then its meaning. */
static ccq_code check_tail(reader *r, const char *text, size_t size)
{
    if (size < TAIL || memcmp(text + size - TAIL, TAIL_HEAD, sizeof TAIL_HEAD - 1) != 0 ||
        memcmp(text + size - sizeof TAIL_END + 1, TAIL_END, sizeof TAIL_END - 1) != 0)
        return ccq_fail(r->err, CCQ_MANIFEST, "%s: does not end with its CRC-32", r->path);
    char wanted[9], found[9];
    unsigned long crc = crc32_z(0, (const Bytef *)text, size - TAIL);
    snprintf(found, sizeof found, "%08lx", crc);
    memcpy(wanted, text + size - TAIL + sizeof TAIL_HEAD - 1, 8);
    wanted[8] = 0;
    if (strcmp(wanted, found) != 0) {
        char shown[64];
        ccq_escape(shown, sizeof shown, wanted, 8);
        return ccq_fail(r->err, CCQ_MANIFEST, "%s: its own CRC-32 is %s, recorded %s", r->path,
                        found, shown);
    }
    return CCQ_OK;
}

ccq_code ccq_manifest_load(ccq_manifest **m, const char *dir, ccq_error *err)
{
    *m = NULL;
    char *path = ccq_path_join(dir, CCQ_MANIFEST_NAME), *text = NULL;
    size_t size = 0;
    reader r = {.path = CCQ_MANIFEST_NAME, .err = err};
    ccq_manifest *made = NULL;
    ccq_code code = CCQ_OK;
    if (!path)
        return ccq_fail(err, CCQ_NO_MEMORY, "%s: out of memory", CCQ_MANIFEST_NAME);
    if (!ccq_path_exists(path))
        goto done;
    code = ccq_file_load(path, MAX_BYTES, CCQ_MANIFEST, &text, &size, err);
    if (!code)
        code = check_tail(&r, text, size);
    if (code)
        goto done;
    made = ccq_manifest_new();
    if (!made) {
        code = ccq_fail(err, CCQ_NO_MEMORY, "%s: out of memory", CCQ_MANIFEST_NAME);
        goto done;
    }
    ccq_json_init(&r.json, text, size, NULL);
    code = read_all(&r, made);
    ccq_json_free(&r.json);
    if (!code) {
        *m = made;
        made = NULL;
    }
done:
    ccq_manifest_free(made);
    free(text);
    free(path);
    return code;
}
