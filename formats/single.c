#include "formats/single.h"

#include "formats/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct ccq_single {
    const ccq_layout *layout;
    char *path, *tmp;
    int fd;
};

ccq_code ccq_single_create(ccq_single **single, const ccq_layout *layout, const char *path,
                           ccq_error *err)
{
    uint64_t size = 0;
    const void *header = ccq_layout_header(layout, 0, &size);
    ccq_single *s = calloc(1, sizeof *s);
    ccq_code code;

    *single = NULL;
    if (!s || !(s->path = strdup(path))) {
        free(s);
        return ccq_fail(err, CCQ_NO_MEMORY, "out of memory");
    }
    s->layout = layout;
    s->fd = -1;
    if ((code = ccq_temp_open(path, &s->tmp, &s->fd, err))) {
        free(s->path);
        free(s);
        return code;
    }
    if (ftruncate(s->fd, (off_t)ccq_layout_shard_bytes(layout, 0)))
        code = ccq_fail_errno(err, CCQ_IO, path, "ftruncate", errno);
    if (!code)
        code = ccq_pwrite_all(s->fd, path, 0, header, size, err);
    if (code) {
        ccq_single_abandon(s);
        return code;
    }
    *single = s;
    return CCQ_OK;
}

ccq_code ccq_single_write(ccq_single *s, size_t i, uint64_t offset, const void *data,
                          uint64_t size, ccq_error *err)
{
    const ccq_layout_tensor *t = ccq_layout_at(s->layout, i);

    if (offset > t->bytes || size > t->bytes - offset)
        return ccq_fail(err, CCQ_BUG, "%s: bytes outside their tensor", t->name);
    return ccq_pwrite_all(s->fd, s->path, t->offset + offset, data, size, err);
}

static void release(ccq_single *s)
{
    free(s->path);
    free(s->tmp);
    free(s);
}

ccq_code ccq_single_finish(ccq_single *s, ccq_error *err)
{
    ccq_code code = ccq_temp_commit(s->path, s->tmp, s->fd, err);

    if (code)
        unlink(s->tmp);
    release(s);
    return code;
}

void ccq_single_abandon(ccq_single *s)
{
    if (!s)
        return;
    if (s->fd >= 0)
        close(s->fd);
    if (s->tmp)
        unlink(s->tmp);
    release(s);
}
