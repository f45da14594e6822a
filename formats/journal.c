#include "formats/journal.h"

#include "formats/internal.h"
#include "formats/json.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

enum { MAX_BYTES = 1 << 30 }; /* a record of a million tensors with names of 800 bytes */

struct ccq_journal {
    char *path;
    int fd, sync, failed;
    uint64_t at; /* where the next flush writes */
    char *text;  /* not yet flushed */
    size_t len, cap;
};

/* ---- Reading --------------------------------------------------------------------- */

/* A line, from front to back. */
typedef struct cursor {
    const char *at, *end;
} cursor;

static int take_blank(cursor *c)
{
    return c->at < c->end && *c->at++ == ' ';
}

static int take_hex(cursor *c, uint32_t *value)
{
    *value = 0;
    if (c->end - c->at < 8)
        return 0;
    for (int i = 0; i < 8; i++) {
        const char *digits = "0123456789abcdef", *d = strchr(digits, *c->at);
        if (!*c->at++ || !d)
            return 0;
        *value = *value << 4 | (uint32_t)(d - digits);
    }
    return 1;
}

static int take_number(cursor *c, uint64_t *value)
{
    const char *from = c->at;
    while (c->at < c->end && *c->at >= '0' && *c->at <= '9')
        c->at++;
    return ccq_json_u64(from, (size_t)(c->at - from), value);
}

/* To the next blank; malloc'd. */
static char *take_word(cursor *c)
{
    const char *from = c->at;
    while (c->at < c->end && *c->at != ' ')
        c->at++;
    return c->at > from && !memchr(from, 0, (size_t)(c->at - from))
               ? strndup(from, (size_t)(c->at - from)) : NULL;
}

static char *take_string(cursor *c)
{
    ccq_json json;
    char *text = NULL;
    ccq_json_init(&json, c->at, (size_t)(c->end - c->at), NULL);
    if (c->at < c->end && *c->at == '"' && ccq_json_next(&json) == CCQ_JSON_STRING &&
        !memchr(json.text, 0, json.len)) {
        text = strndup(json.text, json.len);
        c->at += json.end;
    }
    ccq_json_free(&json);
    return text;
}

/* 1 when the line is one that fn takes. */
static int take_line(const char *line, size_t len, ccq_record_fn fn, void *ctx)
{
    cursor c = {line, line + len};
    ccq_record r = {0};
    uint32_t crc = 0;
    int good = take_hex(&c, &crc) && take_blank(&c) &&
               crc == (uint32_t)crc32_z(0, (const Bytef *)c.at, (size_t)(c.end - c.at));
    char *tensor = good ? take_string(&c) : NULL;
    char *shard = tensor && take_blank(&c) ? take_word(&c) : NULL;
    good = shard && take_blank(&c) && take_number(&c, &r.offset) && take_blank(&c) &&
           take_number(&c, &r.length) && take_blank(&c) && take_hex(&c, &r.crc) &&
           take_blank(&c) && take_hex(&c, &r.source) && c.at == c.end;
    r.tensor = tensor;
    r.shard = shard;
    good = good && !fn(ctx, &r);
    free(tensor);
    free(shard);
    return good;
}

ccq_code ccq_journal_read(const char *path, ccq_record_fn fn, void *ctx, uint64_t *good,
                          uint64_t *size, ccq_error *err)
{
    char *text = NULL;
    size_t n = 0, at = 0;
    *good = *size = 0;
    if (!ccq_path_exists(path))
        return CCQ_OK;
    ccq_code code = ccq_file_load(path, MAX_BYTES, CCQ_IO, &text, &n, err);
    if (code)
        return code;
    for (;;) {
        const char *end = memchr(text + at, '\n', n - at);
        if (!end || !take_line(text + at, (size_t)(end - text) - at, fn, ctx))
            break;
        at = (size_t)(end - text) + 1;
    }
    free(text);
    *good = at;
    *size = n;
    return CCQ_OK;
}

/* ---- Appending ------------------------------------------------------------------- */

static ccq_code no_memory(ccq_error *err)
{
    return ccq_fail(err, CCQ_NO_MEMORY, "journal: out of memory");
}

ccq_code ccq_journal_open(ccq_journal **journal, const char *path, uint64_t keep, int sync,
                          ccq_error *err)
{
    *journal = NULL;
    ccq_journal *j = calloc(1, sizeof *j);
    if (!j || !(j->path = strdup(path))) {
        free(j);
        return no_memory(err);
    }
    j->sync = sync;
    j->at = keep;
    j->fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    ccq_code code = CCQ_OK;
    if (j->fd < 0)
        code = ccq_fail_errno(err, CCQ_IO, path, "cannot open", errno);
    else if (ftruncate(j->fd, (off_t)keep) != 0)
        code = ccq_fail_errno(err, CCQ_IO, path, "cannot cut off the broken end", errno);
    if (code)
        ccq_journal_close(j);
    else
        *journal = j;
    return code;
}

static int append(ccq_journal *j, const char *text, size_t len)
{
    if (len > j->cap - j->len) {
        size_t cap = 2 * (j->cap + len);
        char *grown = realloc(j->text, cap);
        if (!grown)
            return -1;
        j->text = grown;
        j->cap = cap;
    }
    memcpy(j->text + j->len, text, len);
    j->len += len;
    return 0;
}

ccq_code ccq_journal_add(ccq_journal *j, const ccq_record *r, ccq_error *err)
{
    ccq_jw w;
    size_t size = 0;
    char *line = NULL, *name;
    char crc[16];
    ccq_jw_init(&w, 0);
    ccq_jw_string(&w, r->tensor);
    name = ccq_jw_take(&w, &size);
    int n = name ? asprintf(&line, "%s %s %" PRIu64 " %" PRIu64 " %08x %08x", name, r->shard,
                            r->offset, r->length, (unsigned)r->crc, (unsigned)r->source) : -1;
    free(name);
    if (n < 0)
        return no_memory(err);
    snprintf(crc, sizeof crc, "%08lx ", (unsigned long)crc32_z(0, (Bytef *)line, (size_t)n));
    int failed = append(j, crc, 9) || append(j, line, (size_t)n) || append(j, "\n", 1);
    free(line);
    return failed ? no_memory(err) : CCQ_OK;
}

ccq_code ccq_journal_flush(ccq_journal *j, ccq_error *err)
{
    if (j->failed)
        return ccq_fail_file(err, CCQ_IO, j->path, "an earlier write failed");
    if (!j->len)
        return CCQ_OK;
    ccq_code code = ccq_pwrite_all(j->fd, j->path, j->at, j->text, j->len, err);
    if (!code && j->sync && fdatasync(j->fd) != 0)
        code = ccq_fail_errno(err, CCQ_IO, j->path, "fdatasync failed", errno);
    j->failed = code != CCQ_OK;
    j->at += j->len;
    j->len = 0;
    return code;
}

void ccq_journal_close(ccq_journal *j)
{
    if (!j)
        return;
    if (j->fd >= 0)
        close(j->fd);
    free(j->text);
    free(j->path);
    free(j);
}
