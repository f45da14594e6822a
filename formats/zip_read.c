/* The directory of a zip archive. numpy leaves 0xFFFFFFFF in local headers and may
 * put sizes behind the data, so only the central directory counts. */
#include "formats/json.h"
#include "formats/npz_internal.h"

#include <stdlib.h>
#include <string.h>

#define END_SIZE 22
#define END64_SIZE 56
#define LOCATOR_SIZE 20
#define ENTRY_SIZE 46
#define LOCAL_SIZE 30
#define MAX_DIRECTORY (UINT64_C(64) << 20)
#define MAX_UNPACKED (UINT64_C(64) << 30) /* one member; the reader allocates it */
#define MAX_RATIO 1032                    /* of deflate, by its definition */

static uint64_t le(const unsigned char *p, int n)
{
    uint64_t v = 0;
    while (n--)
        v = v << 8 | p[n];
    return v;
}

typedef struct ends {
    uint64_t count, size, offset; /* of the central directory */
    uint64_t limit;               /* where the records behind it begin */
} ends;

static ccq_code bad(const ccq_zip *z, const char *what, ccq_error *err)
{
    return ccq_fail_file(err, CCQ_ZIP, z->file.path, "%s", what);
}

/* The zip64 record, when a locator stands before the end record. */
static ccq_code read_end64(const ccq_zip *z, uint64_t end, ends *e, ccq_error *err)
{
    unsigned char loc[LOCATOR_SIZE], rec[END64_SIZE];
    if (end < LOCATOR_SIZE)
        return CCQ_OK;
    ccq_code code = ccq_file_read(&z->file, end - LOCATOR_SIZE, loc, LOCATOR_SIZE, err);
    if (code || le(loc, 4) != 0x07064b50)
        return code;
    uint64_t at = le(loc + 8, 8);
    if (le(loc + 4, 4) != 0 || le(loc + 16, 4) > 1 || end - LOCATOR_SIZE < END64_SIZE ||
        at > end - LOCATOR_SIZE - END64_SIZE)
        return bad(z, "zip64 locator points outside the archive", err);
    if ((code = ccq_file_read(&z->file, at, rec, END64_SIZE, err)))
        return code;
    if (le(rec, 4) != 0x06064b50 || le(rec + 16, 4) != 0 || le(rec + 20, 4) != 0 ||
        le(rec + 24, 8) != le(rec + 32, 8))
        return bad(z, "bad zip64 end record", err);
    e->count = le(rec + 32, 8);
    e->size = le(rec + 40, 8);
    e->offset = le(rec + 48, 8);
    e->limit = at;
    return CCQ_OK;
}

/* The last record whose comment ends with the file. */
static ccq_code find_end(const ccq_zip *z, ends *e, ccq_error *err)
{
    uint64_t size = z->file.size, n = size < END_SIZE + 65535 ? size : END_SIZE + 65535;
    unsigned char *tail = malloc((size_t)n + 1);
    ccq_code code = tail ? ccq_file_read(&z->file, size - n, tail, n, err)
                         : ccq_fail(err, CCQ_NO_MEMORY, "out of memory");
    uint64_t i = n >= END_SIZE ? n - END_SIZE + 1 : 0;
    while (!code && i--)
        if (le(tail + i, 4) == 0x06054b50 && i + END_SIZE + le(tail + i + 20, 2) == n)
            break;
    if (!code && (n < END_SIZE || i == UINT64_MAX))
        code = bad(z, "no end record: cut short, or not a zip archive", err);
    if (!code) {
        const unsigned char *p = tail + i;
        e->count = le(p + 10, 2);
        e->size = le(p + 12, 4);
        e->offset = le(p + 16, 4);
        e->limit = size - n + i;
        int split = le(p + 4, 2) != 0 || le(p + 6, 2) != 0 || le(p + 8, 2) != e->count;
        code = read_end64(z, e->limit, e, err);
        if (!code && split && e->limit == size - n + i)
            code = ccq_fail_file(err, CCQ_UNSUPPORTED, z->file.path, "split archive");
    }
    free(tail);
    return code;
}

/* Sizes that do not fit 32 bits stand in extra field 1, in a fixed order. */
static int read_extra64(const unsigned char *p, size_t len, uint64_t *wide[3])
{
    while (len >= 4) {
        size_t id = (size_t)le(p, 2), n = (size_t)le(p + 2, 2);
        p += 4;
        len -= 4;
        if (n > len)
            return 0;
        if (id == 1) {
            for (int i = 0; i < 3; i++) {
                if (!wide[i])
                    continue;
                if (n < 8)
                    return 0;
                *wide[i] = le(p, 8);
                p += 8;
                n -= 8;
            }
            return 1;
        }
        p += n;
        len -= n;
    }
    return !wide[0] && !wide[1] && !wide[2];
}

static int name_is_safe(const char *s, size_t len)
{
    if (!len || memchr(s, 0, len) || ccq_utf8_valid(s, len) != len)
        return 0;
    for (size_t i = 0, n; i <= len; i += n + 1) { /* parts between slashes */
        const char *slash = memchr(s + i, '/', len - i);
        n = slash ? (size_t)(slash - s) - i : len - i;
        if (!n || !ccq_name_is_plain(s + i, n))
            return 0;
    }
    return 1;
}

static ccq_code check_member(const ccq_zip *z, const ccq_zip_member *m, unsigned flags,
                             ccq_error *err)
{
    const char *path = z->file.path;
    if (flags & 1)
        return ccq_fail_name(err, CCQ_UNSUPPORTED, path, m->name, "encrypted member");
    if (m->method != 0 && m->method != 8)
        return ccq_fail_name(err, CCQ_UNSUPPORTED, path, m->name,
                             "compression method %u (0 and 8 are read)", m->method);
    if (m->method == 0 && m->packed != m->unpacked)
        return ccq_fail_name(err, CCQ_ZIP, path, m->name, "stored member with two sizes");
    if (m->offset > z->directory || m->packed > z->directory - m->offset)
        return ccq_fail_name(err, CCQ_ZIP, path, m->name, "data end lies in the directory");
    if (m->unpacked / MAX_RATIO > m->packed)
        return ccq_fail_name(err, CCQ_ZIP, path, m->name, "%llu bytes cannot come out of %llu",
                             (unsigned long long)m->unpacked, (unsigned long long)m->packed);
    if (m->unpacked > MAX_UNPACKED)
        return ccq_fail_name(err, CCQ_LIMIT, path, m->name, "more than 64 GiB");
    return CCQ_OK;
}

/* The entry at *p; moves *p behind it. */
static ccq_code read_entry(ccq_zip *z, const unsigned char **p, const unsigned char *end,
                           ccq_error *err)
{
    const unsigned char *e = *p;
    if (end - e < ENTRY_SIZE || le(e, 4) != 0x02014b50)
        return bad(z, "bad entry in the directory", err);
    size_t name = (size_t)le(e + 28, 2), extra = (size_t)le(e + 30, 2);
    size_t rest = name + extra + (size_t)le(e + 32, 2);
    if ((size_t)(end - e) - ENTRY_SIZE < rest)
        return bad(z, "directory entry without end", err);
    ccq_zip_member *m = &z->members[z->count];
    m->method = (uint16_t)le(e + 10, 2);
    m->crc = (uint32_t)le(e + 16, 4);
    m->packed = le(e + 20, 4);
    m->unpacked = le(e + 24, 4);
    m->offset = le(e + 42, 4);
    uint64_t *wide[3] = {m->unpacked == UINT32_MAX ? &m->unpacked : NULL,
                         m->packed == UINT32_MAX ? &m->packed : NULL,
                         m->offset == UINT32_MAX ? &m->offset : NULL};
    const char *text = (const char *)e + ENTRY_SIZE;
    char shown[256];
    ccq_escape(shown, sizeof shown, text, name);
    if (!name_is_safe(text, name))
        return ccq_fail_file(err, CCQ_PATH, z->file.path, "\"%s\": not a plain member name", shown);
    if (!read_extra64(e + ENTRY_SIZE + name, extra, wide))
        return ccq_fail_file(err, CCQ_ZIP, z->file.path, "\"%s\": bad extra field", shown);
    int added = ccq_names_intern(&z->names, &z->arena, text, name);
    if (added < 0)
        return ccq_fail(err, CCQ_NO_MEMORY, "out of memory");
    if (!added)
        return ccq_fail_file(err, CCQ_DUPLICATE, z->file.path, "\"%s\": member twice", shown);
    m->name = z->names.name[z->count];
    z->count++;
    *p = e + ENTRY_SIZE + rest;
    return check_member(z, m, (unsigned)le(e + 8, 2), err);
}

static int by_offset(const void *a, const void *b)
{
    const ccq_zip_member *x = *(const ccq_zip_member *const *)a;
    const ccq_zip_member *y = *(const ccq_zip_member *const *)b;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* Members that share bytes are how a small archive becomes a huge one. */
static ccq_code check_overlap(const ccq_zip *z, ccq_error *err)
{
    const ccq_zip_member **list = malloc((z->count + 1) * sizeof *list);
    ccq_code code = list ? CCQ_OK : ccq_fail(err, CCQ_NO_MEMORY, "out of memory");
    if (list) {
        for (size_t i = 0; i < z->count; i++)
            list[i] = &z->members[i];
        qsort(list, z->count, sizeof *list, by_offset);
    }
    for (size_t i = 0; i < z->count && !code; i++) {
        uint64_t next = i + 1 < z->count ? list[i + 1]->offset : z->directory;
        uint64_t room = next - list[i]->offset;
        uint64_t head = LOCAL_SIZE + strlen(list[i]->name);
        if (room < head || room - head < list[i]->packed)
            code = ccq_fail_name(err, CCQ_ZIP, z->file.path, list[i]->name,
                                 "shares bytes with what follows it");
    }
    free(list);
    return code;
}

static ccq_code read_directory(ccq_zip *z, const ends *e, ccq_error *err)
{
    if (e->size > MAX_DIRECTORY)
        return ccq_fail_file(err, CCQ_LIMIT, z->file.path, "directory of %llu bytes",
                             (unsigned long long)e->size);
    if (e->offset > e->limit || e->size != e->limit - e->offset || e->count > e->size / ENTRY_SIZE)
        return bad(z, "the end record does not fit the directory", err);
    z->directory = e->offset;
    unsigned char *text = malloc((size_t)e->size + 1);
    z->members = calloc((size_t)e->count + 1, sizeof *z->members);
    ccq_code code = text && z->members ? ccq_file_read(&z->file, e->offset, text, e->size, err)
                                       : ccq_fail(err, CCQ_NO_MEMORY, "out of memory");
    const unsigned char *p = text;
    for (uint64_t i = 0; i < e->count && !code; i++)
        code = read_entry(z, &p, text + e->size, err);
    if (!code && p != text + e->size)
        code = bad(z, "directory longer than its entries", err);
    free(text);
    return code ? code : check_overlap(z, err);
}

ccq_code ccq_zip_open(ccq_zip *z, const char *path, ccq_error *err)
{
    ends e = {0};
    memset(z, 0, sizeof *z);
    ccq_code code = ccq_file_open(&z->file, path, CCQ_NO_INPUT, err);
    if (!code && !(code = find_end(z, &e, err)))
        code = read_directory(z, &e, err);
    return code;
}

void ccq_zip_close(ccq_zip *z)
{
    ccq_file_close(&z->file);
    free(z->members);
    ccq_names_free_table(&z->names);
    ccq_arena_free(&z->arena);
    memset(z, 0, sizeof *z);
}

ccq_code ccq_zip_data(const ccq_zip *z, const ccq_zip_member *m, uint64_t *offset, ccq_error *err)
{
    unsigned char head[LOCAL_SIZE];
    size_t len = strlen(m->name);
    char *name = malloc(len + 1);
    ccq_code code = name ? ccq_file_read(&z->file, m->offset, head, LOCAL_SIZE, err)
                         : ccq_fail(err, CCQ_NO_MEMORY, "out of memory");
    if (!code)
        code = ccq_file_read(&z->file, m->offset + LOCAL_SIZE, name, len, err);
    if (!code) {
        uint64_t at = m->offset + LOCAL_SIZE + len + le(head + 28, 2);
        if (le(head, 4) != 0x04034b50 || le(head + 26, 2) != len ||
            memcmp(name, m->name, len) != 0 || le(head + 8, 2) != m->method ||
            (le(head + 6, 2) & 1))
            code = ccq_fail_name(err, CCQ_ZIP, z->file.path, m->name,
                                 "local header differs from the directory");
        else if (at > z->directory || m->packed > z->directory - at)
            code = ccq_fail_name(err, CCQ_ZIP, z->file.path, m->name,
                                 "data end lies in the directory");
        *offset = at;
    }
    free(name);
    return code;
}
