/* Arrays out of .npz and .npy: stored or inflated in order, bounded by the size
 * that directory and npy header agree on. */
#include "formats/npz.h"

#include "formats/npz_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#define BLOCK ((size_t)64 << 10)
#define MAX_NPY_HEADER ((size_t)64 << 10)

struct ccq_npz {
    ccq_zip zip;
    char **names; /* without ".npy" */
};

/* Bytes of one member in order. */
typedef struct stream {
    const ccq_file *file;
    const char *name;  /* for messages */
    uint64_t at, left; /* packed bytes not yet read */
    uint64_t unread;   /* content bytes not yet given out */
    int deflated, ended;
    z_stream z;
    unsigned char *in;
    uint32_t crc;
} stream;

static ccq_code fail_zip(const stream *s, const char *what, ccq_error *err)
{
    return ccq_fail_name(err, CCQ_ZIP, s->file->path, s->name, "%s", what);
}

static ccq_code stream_open(stream *s, const ccq_file *file, const char *name, uint64_t at,
                            uint64_t packed, uint64_t unpacked, int deflated, ccq_error *err)
{
    memset(s, 0, sizeof *s);
    s->file = file;
    s->name = name;
    s->at = at;
    s->left = packed;
    s->unread = unpacked;
    s->crc = (uint32_t)crc32(0, NULL, 0);
    if (!deflated)
        return CCQ_OK;
    if (!(s->in = malloc(BLOCK)) || inflateInit2(&s->z, -MAX_WBITS) != Z_OK) {
        free(s->in);
        s->in = NULL;
        return ccq_fail(err, CCQ_NO_MEMORY, "out of memory");
    }
    s->deflated = 1;
    return CCQ_OK;
}

static void stream_close(stream *s)
{
    if (s->deflated)
        inflateEnd(&s->z);
    free(s->in);
}

static ccq_code refill(stream *s, ccq_error *err)
{
    size_t n = s->left < BLOCK ? (size_t)s->left : BLOCK;
    ccq_code code = ccq_file_read(s->file, s->at, s->in, n, err);
    s->z.next_in = s->in;
    s->z.avail_in = (uInt)n;
    s->at += n;
    s->left -= n;
    return code;
}

/* Up to n bytes; *got is less only at the end of the deflate stream. */
static ccq_code inflate_some(stream *s, unsigned char *dst, size_t n, size_t *got, ccq_error *err)
{
    s->z.next_out = dst;
    s->z.avail_out = (uInt)n;
    while (s->z.avail_out && !s->ended) {
        if (!s->z.avail_in && s->left) {
            ccq_code code = refill(s, err);
            if (code)
                return code;
        }
        int rc = inflate(&s->z, Z_NO_FLUSH);
        if (rc == Z_STREAM_END)
            s->ended = 1;
        else if (rc == Z_MEM_ERROR)
            return ccq_fail(err, CCQ_NO_MEMORY, "out of memory");
        else if (rc != Z_OK)
            return fail_zip(s, rc == Z_BUF_ERROR ? "deflate data cut short" : "bad deflate data",
                            err);
    }
    *got = n - s->z.avail_out;
    return CCQ_OK;
}

/* Exactly n bytes. */
static ccq_code pull(stream *s, void *dst, uint64_t n, ccq_error *err)
{
    unsigned char *p = dst;
    if (n > s->unread)
        return ccq_fail_name(err, CCQ_NPY, s->file->path, s->name, "content ends too early");
    s->unread -= n;
    while (n) {
        size_t step = n < (1u << 30) ? (size_t)n : 1u << 30, got = step;
        ccq_code code;
        if (s->deflated) {
            if ((code = inflate_some(s, p, step, &got, err)))
                return code;
            if (got < step)
                return fail_zip(s, "less data than the directory says", err);
        } else {
            if ((code = ccq_file_read(s->file, s->at, p, step, err)))
                return code;
            s->at += step;
            s->left -= step;
        }
        s->crc = (uint32_t)crc32(s->crc, p, (uInt)step);
        p += step;
        n -= step;
    }
    return CCQ_OK;
}

/* Nothing may be left on either side. */
static ccq_code stream_end(stream *s, ccq_error *err)
{
    unsigned char more;
    size_t got = 0;
    if (!s->deflated)
        return CCQ_OK;
    ccq_code code = inflate_some(s, &more, 1, &got, err);
    if (code)
        return code;
    if (got || s->left || s->z.avail_in)
        return fail_zip(s, "more data than the directory says", err);
    return CCQ_OK;
}

/* Magic, version, header; the array must then fill what is left exactly. */
static ccq_code read_header(stream *s, ccq_array *a, ccq_error *err)
{
    unsigned char head[12];
    const char *path = s->file->path;
    ccq_code code = pull(s, head, 10, err);
    if (code)
        return code;
    if (memcmp(head, "\x93NUMPY", 6) != 0)
        return ccq_fail_name(err, CCQ_NPY, path, s->name, "not an npy array");
    if (head[6] < 1 || head[6] > 3 || head[7] != 0)
        return ccq_fail_name(err, CCQ_NPY, path, s->name, "npy version %u.%u (1.0 to 3.0 are read)",
                             head[6], head[7]);
    size_t len = (size_t)head[8] | (size_t)head[9] << 8;
    if (head[6] > 1) {
        if ((code = pull(s, head + 10, 2, err)))
            return code;
        len |= (size_t)head[10] << 16 | (size_t)head[11] << 24;
    }
    if (len > MAX_NPY_HEADER)
        return ccq_fail_name(err, CCQ_LIMIT, path, s->name, "npy header of %zu bytes", len);
    char *text = malloc(len + 1);
    if (!text)
        return ccq_fail(err, CCQ_NO_MEMORY, "out of memory");
    if (!(code = pull(s, text, len, err)))
        code = ccq_npy_header(text, len, path, s->name, a, err);
    free(text);
    uint64_t bytes;
    if (code)
        return code;
    if (__builtin_mul_overflow(a->count, ccq_dtype_bits(a->dtype) / 8, &bytes))
        return ccq_fail_name(err, CCQ_OVERFLOW, path, s->name, "byte count passes 2^64");
    if (bytes != s->unread)
        return ccq_fail_name(err, CCQ_SIZE, path, s->name, "shape needs %llu bytes, %llu are there",
                             (unsigned long long)bytes, (unsigned long long)s->unread);
    return CCQ_OK;
}

/* Several numpy versions make int64 of a list of ids. Halves the data in place. */
static ccq_code narrow(const stream *s, ccq_array *a, void *data, ccq_error *err)
{
    for (uint64_t i = 0; i < a->count; i++) {
        int64_t v;
        memcpy(&v, (char *)data + 8 * i, 8);
        if (v < INT32_MIN || v > INT32_MAX)
            return ccq_fail_name(err, CCQ_NPY, s->file->path, s->name,
                                 "element %llu is %lld, outside int32", (unsigned long long)i,
                                 (long long)v);
        int32_t n = (int32_t)v;
        memcpy((char *)data + 4 * i, &n, 4);
    }
    a->dtype = CCQ_DT_I32;
    return CCQ_OK;
}

static ccq_code read_array(stream *s, ccq_dtype want, ccq_array *a, void **data, ccq_error *err)
{
    ccq_code code = read_header(s, a, err);
    int shrink = want == CCQ_DT_I32 && a->dtype == CCQ_DT_I64;
    if (code)
        return code;
    if (want != CCQ_DT_COUNT && want != a->dtype && !shrink)
        return ccq_fail_name(err, CCQ_NPY, s->file->path, s->name, "type %s, wanted %s",
                             ccq_dtype_name(a->dtype), ccq_dtype_name(want));
    uint64_t bytes = s->unread;
    void *p = bytes < SIZE_MAX ? malloc((size_t)bytes + 1) : NULL;
    if (!p)
        return ccq_fail_name(err, CCQ_NO_MEMORY, s->file->path, s->name, "no memory for %llu bytes",
                             (unsigned long long)bytes);
    code = pull(s, p, bytes, err);
    if (!code)
        code = stream_end(s, err);
    if (!code && shrink)
        code = narrow(s, a, p, err);
    if (code)
        free(p);
    else
        *data = p;
    return code;
}

ccq_code ccq_npz_open(ccq_npz **out, const char *path, ccq_error *err)
{
    *out = NULL;
    ccq_npz *npz = calloc(1, sizeof *npz);
    if (!npz)
        return ccq_fail(err, CCQ_NO_MEMORY, "out of memory");
    ccq_code code = ccq_zip_open(&npz->zip, path, err);
    if (!code && !(npz->names = calloc(npz->zip.count + 1, sizeof *npz->names)))
        code = ccq_fail(err, CCQ_NO_MEMORY, "out of memory");
    for (size_t i = 0; i < npz->zip.count && !code; i++) {
        const char *name = npz->zip.members[i].name;
        size_t n = strlen(name);
        if (n > 4 && strcmp(name + n - 4, ".npy") == 0)
            n -= 4;
        if (!(npz->names[i] = strndup(name, n)))
            code = ccq_fail(err, CCQ_NO_MEMORY, "out of memory");
    }
    if (code)
        ccq_npz_close(npz);
    else
        *out = npz;
    return code;
}

void ccq_npz_close(ccq_npz *npz)
{
    if (!npz)
        return;
    if (npz->names)
        ccq_names_free(npz->names, npz->zip.count);
    ccq_zip_close(&npz->zip);
    free(npz);
}

size_t ccq_npz_count(const ccq_npz *npz)
{
    return npz->zip.count;
}

const char *ccq_npz_name(const ccq_npz *npz, size_t i)
{
    return i < npz->zip.count ? npz->names[i] : NULL;
}

static const ccq_zip_member *find(const ccq_npz *npz, const char *name)
{
    char full[512];
    int n = snprintf(full, sizeof full, "%s.npy", name);
    if (n < 0 || (size_t)n >= sizeof full)
        return NULL;
    uint32_t i = ccq_names_find(&npz->zip.names, full, (size_t)n);
    return i == CCQ_NO_NAME ? NULL : &npz->zip.members[i];
}

int ccq_npz_has(const ccq_npz *npz, const char *name)
{
    return find(npz, name) != NULL;
}

/* m: NULL when there is none of this name. */
static ccq_code open_member(const ccq_npz *npz, const char *name, const ccq_zip_member *m,
                            stream *s, ccq_error *err)
{
    const ccq_file *file = &npz->zip.file;
    uint64_t at = 0;
    if (!m)
        return ccq_fail_name(err, CCQ_NPY, file->path, name, "no such member");
    ccq_code code = ccq_zip_data(&npz->zip, m, &at, err);
    return code ? code
                : stream_open(s, file, m->name, at, m->packed, m->unpacked, m->method == 8, err);
}

ccq_code ccq_npz_describe(ccq_npz *npz, const char *name, ccq_array *array, ccq_error *err)
{
    stream s;
    ccq_code code = open_member(npz, name, find(npz, name), &s, err);
    if (code)
        return code;
    code = read_header(&s, array, err);
    stream_close(&s);
    return code;
}

ccq_code ccq_npz_read(ccq_npz *npz, const char *name, ccq_dtype want, ccq_array *array, void **data,
                      ccq_error *err)
{
    const ccq_zip_member *m = find(npz, name);
    const ccq_file *file = &npz->zip.file;
    stream s;
    *data = NULL;
    ccq_code code = open_member(npz, name, m, &s, err);
    if (code)
        return code;
    code = read_array(&s, want, array, data, err);
    if (!code && s.crc != m->crc)
        code = ccq_fail_name(err, CCQ_CRC, file->path, m->name,
                             "CRC-32 %08x, the directory says %08x", s.crc, m->crc);
    if (!code)
        code = ccq_file_recheck(file, err);
    stream_close(&s);
    if (code) {
        free(*data);
        *data = NULL;
    }
    return code;
}

ccq_code ccq_npy_describe(const char *path, ccq_array *array, ccq_error *err)
{
    ccq_file file;
    stream s;
    ccq_code code = ccq_file_open(&file, path, CCQ_NO_INPUT, err);
    if (code)
        return code;
    if (!(code = stream_open(&s, &file, "array", 0, file.size, file.size, 0, err))) {
        code = read_header(&s, array, err);
        stream_close(&s);
    }
    ccq_file_close(&file);
    return code;
}

ccq_code ccq_npy_load(const char *path, ccq_dtype want, ccq_array *array, void **data,
                      ccq_error *err)
{
    ccq_file file;
    stream s;
    *data = NULL;
    ccq_code code = ccq_file_open(&file, path, CCQ_NO_INPUT, err);
    if (code)
        return code;
    if (!(code = stream_open(&s, &file, "array", 0, file.size, file.size, 0, err))) {
        code = read_array(&s, want, array, data, err);
        if (!code)
            code = ccq_file_recheck(&file, err);
        stream_close(&s);
    }
    if (code) {
        free(*data);
        *data = NULL;
    }
    ccq_file_close(&file);
    return code;
}
