/* .npz writer: deflate level 6, one fixed time, zip64 fields only where needed.
 * The sizes of a member are known after it is compressed, so its local header
 * is written last. */
#include "formats/internal.h"
#include "formats/npz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#define BLOCK ((size_t)256 << 10)
#define DOS_DATE 0x0021 /* 1980-01-01 */

typedef struct member {
    char *name; /* with ".npy" */
    uint64_t offset, packed, unpacked;
    uint32_t crc;
    int wide; /* sizes in a zip64 field */
} member;

struct ccq_npz_writer {
    char *path, *tmp;
    int fd;
    uint64_t at; /* end of what is written */
    member *members;
    size_t count, cap;
    z_stream z;
    int z_open;
    unsigned char *out;
};

static unsigned char *put(unsigned char *p, uint64_t v, int bytes)
{
    while (bytes--) {
        *p++ = (unsigned char)v;
        v >>= 8;
    }
    return p;
}

static void free_writer(ccq_npz_writer *w)
{
    if (w->fd >= 0)
        close(w->fd);
    if (w->z_open)
        deflateEnd(&w->z);
    for (size_t i = 0; i < w->count; i++)
        free(w->members[i].name);
    free(w->members);
    free(w->out);
    free(w->path);
    free(w->tmp);
    free(w);
}

void ccq_npz_abandon(ccq_npz_writer *w)
{
    if (!w)
        return;
    if (w->tmp)
        unlink(w->tmp);
    free_writer(w);
}

ccq_code ccq_npz_create(ccq_npz_writer **out, const char *path, ccq_error *err)
{
    *out = NULL;
    ccq_npz_writer *w = calloc(1, sizeof *w);
    if (!w)
        return ccq_fail(err, CCQ_NO_MEMORY, "out of memory");
    w->fd = -1;
    ccq_code code;
    if (!(w->path = strdup(path)) || !(w->out = malloc(BLOCK)) ||
        deflateInit2(&w->z, 6, Z_DEFLATED, -MAX_WBITS, 8, Z_DEFAULT_STRATEGY) != Z_OK) {
        code = ccq_fail(err, CCQ_NO_MEMORY, "out of memory");
    } else {
        w->z_open = 1;
        code = ccq_temp_open(path, &w->tmp, &w->fd, err);
    }
    if (code)
        ccq_npz_abandon(w);
    else
        *out = w;
    return code;
}

static ccq_code write_bytes(ccq_npz_writer *w, const void *data, uint64_t size, ccq_error *err)
{
    ccq_code code = ccq_pwrite_all(w->fd, w->path, w->at, data, size, err);
    if (!code)
        w->at += size;
    return code;
}

static ccq_code deflate_bytes(ccq_npz_writer *w, member *m, const void *data, uint64_t size,
                              int flush, ccq_error *err)
{
    const unsigned char *p = data;
    do {
        uInt step = size < (1u << 30) ? (uInt)size : 1u << 30;
        int mode = step == size ? flush : Z_NO_FLUSH;
        /* zlib's type is not const; it does not write there. */
        union {
            const unsigned char *in;
            Bytef *next;
        } cast = {.in = p};
        w->z.next_in = cast.next;
        w->z.avail_in = step;
        m->crc = (uint32_t)crc32(m->crc, p, step);
        do {
            w->z.next_out = w->out;
            w->z.avail_out = (uInt)BLOCK;
            if (deflate(&w->z, mode) == Z_STREAM_ERROR)
                return ccq_fail_file(err, CCQ_BUG, w->path, "deflate failed");
            ccq_code code = write_bytes(w, w->out, BLOCK - w->z.avail_out, err);
            if (code)
                return code;
        } while (w->z.avail_out == 0);
        p += step;
        size -= step;
    } while (size);
    return CCQ_OK;
}

/* npy 1.0, padded with spaces so that the data starts at a multiple of 64. */
static size_t npy_header(char out[512], ccq_dtype dtype, int rank, const uint64_t *shape)
{
    const char *descr = dtype == CCQ_DT_F32   ? "<f4"
                        : dtype == CCQ_DT_I32 ? "<i4"
                        : dtype == CCQ_DT_U8  ? "|u1"
                                              : "<i8";
    size_t n = 10;
    n += (size_t)sprintf(out + n, "{'descr': '%s', 'fortran_order': False, 'shape': (", descr);
    for (int i = 0; i < rank; i++)
        n += (size_t)sprintf(out + n, "%s%llu", i ? ", " : "", (unsigned long long)shape[i]);
    n += (size_t)sprintf(out + n, "%s), }", rank == 1 ? "," : "");
    size_t whole = (n + 1 + 63) & ~(size_t)63;
    memset(out + n, ' ', whole - n);
    out[whole - 1] = '\n';
    memcpy(out, "\x93NUMPY\x01\x00", 8);
    put((unsigned char *)out + 8, whole - 10, 2);
    return whole;
}

/* The fields that local and central header share, from "version needed" on. */
static unsigned char *put_common(unsigned char *p, const member *m, int wide)
{
    int ascii = 1;
    for (const char *c = m->name; *c; c++)
        ascii &= (unsigned char)*c < 0x80;
    p = put(p, wide ? 45 : 20, 2);
    p = put(p, ascii ? 0 : 0x800, 2);
    p = put(p, 8, 2);
    p = put(p, 0, 2);
    p = put(p, DOS_DATE, 2);
    p = put(p, m->crc, 4);
    p = put(p, m->wide ? UINT32_MAX : m->packed, 4);
    p = put(p, m->wide ? UINT32_MAX : m->unpacked, 4);
    return put(p, strlen(m->name), 2);
}

static size_t local_header(unsigned char *buf, const member *m)
{
    unsigned char *p = put(buf, 0x04034b50, 4);
    p = put_common(p, m, m->wide);
    p = put(p, m->wide ? 20 : 0, 2);
    memcpy(p, m->name, strlen(m->name));
    p += strlen(m->name);
    if (m->wide) {
        p = put(p, 1, 2);
        p = put(p, 16, 2);
        p = put(p, m->unpacked, 8);
        p = put(p, m->packed, 8);
    }
    return (size_t)(p - buf);
}

static size_t central_header(unsigned char *buf, const member *m)
{
    int far = m->offset >= UINT32_MAX;
    unsigned extra = (m->wide ? 16u : 0) + (far ? 8u : 0);
    unsigned char *p = put(buf, 0x02014b50, 4);
    p = put(p, 3 << 8 | (extra ? 45 : 20), 2);
    p = put_common(p, m, extra != 0);
    p = put(p, extra ? extra + 4 : 0, 2);
    p = put(p, 0, 2 + 2 + 2); /* comment, disk, internal attributes */
    p = put(p, UINT64_C(0100600) << 16, 4);
    p = put(p, far ? UINT32_MAX : m->offset, 4);
    memcpy(p, m->name, strlen(m->name));
    p += strlen(m->name);
    if (extra) {
        p = put(p, 1, 2);
        p = put(p, extra, 2);
    }
    if (m->wide) {
        p = put(p, m->unpacked, 8);
        p = put(p, m->packed, 8);
    }
    if (far)
        p = put(p, m->offset, 8);
    return (size_t)(p - buf);
}

static member *new_member(ccq_npz_writer *w, const char *name)
{
    if (w->count == w->cap) {
        size_t cap = w->cap ? w->cap * 2 : 16;
        member *list = realloc(w->members, cap * sizeof *list);
        if (!list)
            return NULL;
        w->members = list;
        w->cap = cap;
    }
    member *m = &w->members[w->count];
    memset(m, 0, sizeof *m);
    if (asprintf(&m->name, "%s.npy", name) < 0)
        return NULL;
    w->count++;
    return m;
}

static ccq_code check_args(const ccq_npz_writer *w, const char *name, ccq_dtype dtype, int rank,
                           const uint64_t *shape, uint64_t *bytes, ccq_error *err)
{
    int known =
        dtype == CCQ_DT_F32 || dtype == CCQ_DT_I32 || dtype == CCQ_DT_U8 || dtype == CCQ_DT_I64;
    if (!ccq_name_is_plain(name, strlen(name)) || strlen(name) > 200 || !known || rank < 0 ||
        rank > 8)
        return ccq_fail_name(err, CCQ_BUG, w->path, name, "cannot be written to an npz");
    for (size_t i = 0; i < w->count; i++)
        if (strncmp(w->members[i].name, name, strlen(name)) == 0 &&
            strcmp(w->members[i].name + strlen(name), ".npy") == 0)
            return ccq_fail_name(err, CCQ_DUPLICATE, w->path, name, "member twice");
    *bytes = ccq_dtype_bits(dtype) / 8;
    for (int i = 0; i < rank; i++)
        if (__builtin_mul_overflow(*bytes, shape[i], bytes) || *bytes > INT64_MAX)
            return ccq_fail_name(err, CCQ_OVERFLOW, w->path, name, "byte count passes 2^63");
    return CCQ_OK;
}

ccq_code ccq_npz_add(ccq_npz_writer *w, const char *name, ccq_dtype dtype, int rank,
                     const uint64_t *shape, const void *data, ccq_error *err)
{
    char header[512];
    unsigned char local[512];
    uint64_t bytes = 0;
    ccq_code code = check_args(w, name, dtype, rank, shape, &bytes, err);
    if (code)
        return code;
    member *m = new_member(w, name);
    if (!m)
        return ccq_fail(err, CCQ_NO_MEMORY, "out of memory");
    size_t head = npy_header(header, dtype, rank, shape);
    m->offset = w->at;
    m->unpacked = head + bytes;
    /* deflate grows what it cannot shrink, by less than this */
    m->wide = m->unpacked + m->unpacked / 1000 + 1024 >= UINT32_MAX;
    m->crc = (uint32_t)crc32(0, NULL, 0);
    w->at += local_header(local, m);
    uint64_t from = w->at;
    deflateReset(&w->z);
    code = deflate_bytes(w, m, header, head, bytes ? Z_NO_FLUSH : Z_FINISH, err);
    if (!code && bytes)
        code = deflate_bytes(w, m, data, bytes, Z_FINISH, err);
    if (code)
        return code;
    m->packed = w->at - from;
    return ccq_pwrite_all(w->fd, w->path, m->offset, local, local_header(local, m), err);
}

static ccq_code write_end(ccq_npz_writer *w, uint64_t directory, ccq_error *err)
{
    unsigned char end[128], *p = end;
    uint64_t size = w->at - directory;
    if (w->count >= UINT16_MAX || size >= UINT32_MAX || directory >= UINT32_MAX) {
        p = put(p, 0x06064b50, 4);
        p = put(p, 44, 8);
        p = put(p, 3 << 8 | 45, 2);
        p = put(p, 45, 2);
        p = put(p, 0, 8); /* disks */
        p = put(p, w->count, 8);
        p = put(p, w->count, 8);
        p = put(p, size, 8);
        p = put(p, directory, 8);
        p = put(p, 0x07064b50, 4);
        p = put(p, 0, 4);
        p = put(p, w->at, 8);
        p = put(p, 1, 4);
    }
    p = put(p, 0x06054b50, 4);
    p = put(p, 0, 4);
    uint64_t count = w->count < UINT16_MAX ? w->count : UINT16_MAX;
    p = put(p, count, 2);
    p = put(p, count, 2);
    p = put(p, size < UINT32_MAX ? size : UINT32_MAX, 4);
    p = put(p, directory < UINT32_MAX ? directory : UINT32_MAX, 4);
    p = put(p, 0, 2);
    return write_bytes(w, end, (uint64_t)(p - end), err);
}

ccq_code ccq_npz_finish(ccq_npz_writer *w, ccq_error *err)
{
    uint64_t directory = w->at;
    ccq_code code = CCQ_OK;
    for (size_t i = 0; i < w->count && !code; i++) {
        unsigned char central[512];
        if (!w->members[i].packed) { /* its add failed */
            code =
                ccq_fail_name(err, CCQ_BUG, w->path, w->members[i].name, "member was not written");
            break;
        }
        code = write_bytes(w, central, central_header(central, &w->members[i]), err);
    }
    if (!code)
        code = write_end(w, directory, err);
    if (!code) {
        int fd = w->fd;
        w->fd = -1;
        code = ccq_temp_commit(w->path, w->tmp, fd, err);
    }
    if (code)
        ccq_npz_abandon(w);
    else
        free_writer(w);
    return code;
}
