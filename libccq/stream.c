#include "libccq/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct ccq_stream {
    uint64_t rows, row_bytes;
    char *data; /* NULL: in the file */
    int fd;     /* -1: none */
    char *dir;  /* for messages */
};

static ccq_code fail_errno(const ccq_stream *s, ccq_code code, const char *what, ccq_error *err)
{
    int why = errno;
    char shown[512];

    if (why == ENOSPC || why == EDQUOT || why == EFBIG)
        code = CCQ_NO_SPACE;
    return ccq_fail(err, code, "%s: %s of a temporary file for %llu rows of %llu bytes: %s",
                    ccq_escape(shown, sizeof shown, s->dir, strlen(s->dir)), what,
                    (unsigned long long)s->rows, (unsigned long long)s->row_bytes, strerror(why));
}

/* A file without a name; where the file system cannot do that, one that loses it at once. */
static int open_nameless(const char *dir)
{
    char *path;
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL && errno != ENOENT))
        return fd;
    if (asprintf(&path, "%s/.ccq-XXXXXX", dir) < 0)
        return -1;
    fd = mkostemp(path, O_CLOEXEC);
    if (fd >= 0)
        unlink(path);
    free(path);
    return fd;
}

static ccq_code open_file(ccq_stream *s, uint64_t bytes, const char *dir, ccq_error *err)
{
    int why;

    s->dir = strdup(dir);
    if (!s->dir)
        return ccq_fail(err, CCQ_NO_MEMORY, "out of memory");
    s->fd = open_nameless(dir);
    if (s->fd < 0)
        return fail_errno(s, CCQ_CREATE, "creation", err);
    why = bytes ? posix_fallocate(s->fd, 0, (off_t)bytes) : 0;
    errno = why;
    /* a file system that cannot reserve room says so when it is full */
    if (why == EOPNOTSUPP || why == EINVAL)
        return ftruncate(s->fd, (off_t)bytes) ? fail_errno(s, CCQ_IO, "the size", err) : CCQ_OK;
    return why ? fail_errno(s, CCQ_IO, "the size", err) : CCQ_OK;
}

ccq_code ccq_stream_open(ccq_stream **stream, uint64_t rows, uint64_t row_bytes, const char *dir,
                         ccq_error *err)
{
    ccq_stream *s = calloc(1, sizeof *s);
    uint64_t bytes;
    ccq_code code = CCQ_OK;

    *stream = NULL;
    if (!s)
        return ccq_fail(err, CCQ_NO_MEMORY, "out of memory");
    s->rows = rows;
    s->row_bytes = row_bytes;
    s->fd = -1;
    if (__builtin_mul_overflow(rows, row_bytes, &bytes) || bytes > INT64_MAX || bytes > SIZE_MAX) {
        code = ccq_fail(err, CCQ_NO_MEMORY, "%llu rows of %llu bytes pass the address space",
                        (unsigned long long)rows, (unsigned long long)row_bytes);
    } else if (dir) {
        code = open_file(s, bytes, dir, err);
    } else {
        s->data = calloc(1, bytes ? (size_t)bytes : 1);
        if (!s->data)
            code = ccq_fail(err, CCQ_NO_MEMORY, "%llu rows of %llu bytes: out of memory",
                            (unsigned long long)rows, (unsigned long long)row_bytes);
    }
    if (code)
        ccq_stream_close(s);
    else
        *stream = s;
    return code;
}

void ccq_stream_close(ccq_stream *s)
{
    if (!s)
        return;
    if (s->fd >= 0)
        close(s->fd);
    free(s->data);
    free(s->dir);
    free(s);
}

static ccq_code check(const ccq_stream *s, uint64_t first, uint64_t rows, ccq_error *err)
{
    if (first <= s->rows && rows <= s->rows - first)
        return CCQ_OK;
    return ccq_fail(err, CCQ_BUG, "stream: rows %llu + %llu of %llu", (unsigned long long)first,
                    (unsigned long long)rows, (unsigned long long)s->rows);
}

void *ccq_stream_get(ccq_stream *s, uint64_t first, uint64_t rows, void *buffer, ccq_error *err)
{
    uint64_t at = first * s->row_bytes, left = rows * s->row_bytes;
    char *p = buffer;

    if (check(s, first, rows, err))
        return NULL;
    if (s->data)
        return s->data + at;
    while (left) {
        ssize_t n = pread(s->fd, p, left < 1 << 30 ? (size_t)left : 1 << 30, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            errno = n ? errno : EIO;
            fail_errno(s, CCQ_IO, "reading", err);
            return NULL;
        }
        p += n;
        at += (uint64_t)n;
        left -= (uint64_t)n;
    }
    return buffer;
}

ccq_code ccq_stream_put(ccq_stream *s, uint64_t first, uint64_t rows, const void *data,
                        ccq_error *err)
{
    uint64_t at = first * s->row_bytes, left = rows * s->row_bytes;
    const char *p = data;
    ccq_code code = check(s, first, rows, err);

    if (code)
        return code;
    if (s->data) {
        if (left && s->data + at != p)
            memmove(s->data + at, p, (size_t)left);
        return CCQ_OK;
    }
    while (left) {
        ssize_t n = pwrite(s->fd, p, left < 1 << 30 ? (size_t)left : 1 << 30, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return fail_errno(s, CCQ_IO, "writing", err);
        p += n;
        at += (uint64_t)n;
        left -= (uint64_t)n;
    }
    return CCQ_OK;
}

int ccq_stream_in_memory(const ccq_stream *s)
{
    return s->data != NULL;
}
