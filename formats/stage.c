/* Files of an output directory, staged under OUT/.ccq until they are whole. */
#include "formats/stage_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

struct ccq_out {
    ccq_stage *stage;
    size_t entry;
    int fd;
    char *path;
    uint64_t size;
    _Atomic uint64_t written;
};

ccq_code ccq_stage_no_memory(ccq_error *err)
{
    return ccq_fail(err, CCQ_NO_MEMORY, "out of memory");
}

int ccq_stage_state(const ccq_stage *s)
{
    return s->state;
}

int ccq_stage_moved(const ccq_stage *s)
{
    return s->moved;
}

int ccq_stage_planned(const ccq_stage *s)
{
    return s->planned;
}

const char *ccq_stage_work(const ccq_stage *s)
{
    return s->work;
}

const char *ccq_stage_journal(const ccq_stage *s)
{
    return s->journal;
}

size_t ccq_stage_rank_part(const char *name)
{
    size_t n = 4;
    if (strncmp(name, "rank", 4) != 0)
        return 0;
    while (name[n] >= '0' && name[n] <= '9')
        n++;
    return n > 4 && name[n] == '/' && ccq_name_is_plain(name + n + 1, strlen(name + n + 1)) ? n : 0;
}

char *ccq_stage_directory(const char *base, const char *name)
{
    char rank[64];
    size_t n = ccq_stage_rank_part(name);
    if (!n)
        return strdup(base);
    snprintf(rank, sizeof rank, "%.*s", (int)n, name);
    return ccq_path_join(base, rank);
}

ccq_code ccq_stage_real(const char *path, ccq_error *err)
{
    struct stat st;
    return lstat(path, &st) != 0 || S_ISDIR(st.st_mode)
               ? CCQ_OK
               : ccq_fail_file(err, CCQ_CREATE, path,
                               "%s where a directory is to be: nothing behind it is touched",
                               S_ISLNK(st.st_mode) ? "a link" : "a file");
}

ccq_code ccq_stage_mkdir(const char *path, int *made, ccq_error *err)
{
    *made = mkdir(path, 0777) == 0;
    if (*made)
        return CCQ_OK;
    return errno == EEXIST ? ccq_stage_real(path, err)
                           : ccq_fail_errno(err, CCQ_CREATE, path, "cannot create", errno);
}

ccq_code ccq_stage_make_directory(const char *base, const char *name, ccq_error *err)
{
    char *path = ccq_stage_directory(base, name);
    int made;
    ccq_code code = path ? CCQ_OK : ccq_stage_no_memory(err);
    if (!code && ccq_stage_rank_part(name))
        code = ccq_stage_mkdir(path, &made, err);
    free(path);
    return code;
}

static ccq_code add_entry(ccq_stage *s, const char *name, int shard, ccq_error *err)
{
    if (s->count == s->cap) {
        size_t cap = s->cap ? s->cap * 2 : 16;
        ccq_staged *list = realloc(s->entries, cap * sizeof *list);
        if (!list)
            return ccq_stage_no_memory(err);
        s->entries = list;
        s->cap = cap;
    }
    ccq_staged e = {.name = strdup(name), .shard = shard};
    if (!e.name)
        return ccq_stage_no_memory(err);
    s->entries[s->count++] = e;
    return CCQ_OK;
}

/* The blocks, so that a full disk shows now; posix_fallocate would write them. */
static ccq_code reserve(ccq_out *o, ccq_error *err)
{
    int bad;
    while ((bad = o->size && fallocate(o->fd, 0, 0, (off_t)o->size) != 0 ? errno : 0) == EINTR)
        ;
    if ((bad == EOPNOTSUPP || bad == ENOSYS) && !o->stage->unreserved && o->stage->warn)
        o->stage->warn(o->stage->ctx, "the output's file system cannot reserve space: a full disk "
                                      "shows only when it is full");
    o->stage->unreserved |= bad == EOPNOTSUPP || bad == ENOSYS;
    if (bad == EOPNOTSUPP || bad == ENOSYS)
        bad = ftruncate(o->fd, (off_t)o->size) != 0 ? errno : 0;
    if (bad == ENOSPC || bad == EDQUOT)
        return ccq_fail_full(err, o->path, o->size - atomic_load(&o->written));
    return bad ? ccq_fail_errno(err, CCQ_IO, o->path, "cannot reserve space", bad) : CCQ_OK;
}

void ccq_out_drop(ccq_out *o)
{
    if (!o)
        return;
    if (o->fd >= 0)
        close(o->fd);
    free(o->path);
    free(o);
}

/* A new ccq_out, not yet open. */
static ccq_code new_out(ccq_stage *s, const char *name, uint64_t size, int shard, ccq_out **out,
                        ccq_error *err)
{
    *out = NULL;
    if ((!ccq_name_is_plain(name, strlen(name)) && !ccq_stage_rank_part(name)) || size > INT64_MAX)
        return ccq_fail_file(err, CCQ_BUG, s->out, "staged file with a bad name or size");
    ccq_out *o = calloc(1, sizeof *o);
    if (!o)
        return ccq_stage_no_memory(err);
    *out = o;
    o->fd = -1;
    o->stage = s;
    o->entry = s->count;
    o->size = size;
    ccq_code code = (o->path = ccq_path_join(s->stage, name)) ? add_entry(s, name, shard, err)
                                                              : ccq_stage_no_memory(err);
    return code ? code : ccq_stage_make_directory(s->stage, name, err);
}

static ccq_code opened(ccq_out **out, ccq_code code, ccq_error *err)
{
    if (!code)
        code = reserve(*out, err);
    if (code) {
        ccq_out_drop(*out);
        *out = NULL;
    }
    return code;
}

ccq_code ccq_stage_create(ccq_stage *s, const char *name, uint64_t size, ccq_out **out,
                          ccq_error *err)
{
    ccq_out *o;
    for (size_t i = 0; i < s->count; i++)
        if (strcmp(s->entries[i].name, name) == 0)
            return ccq_fail_name(err, CCQ_BUG, s->out, name, "staged twice");
    ccq_code code = new_out(s, name, size, 0, out, err);
    if (!(o = *out))
        return code;
    if (!code && s->state == CCQ_STAGE_CONTINUED)
        unlink(o->path); /* of a commit that was broken off */
    if (!code && (o->fd = open(o->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666)) < 0)
        code = ccq_fail_errno(err, CCQ_CREATE, o->path, "cannot create", errno);
    return opened(out, code, err);
}

/* One that a commit has put into place, and that must be written to again after all,
 * comes back; nothing may open the directory meanwhile. */
static ccq_code take_back(const ccq_stage *s, const ccq_out *o, const char *name, ccq_error *err)
{
    char *place = ccq_path_join(s->out, name);
    ccq_code code = place ? CCQ_OK : ccq_stage_no_memory(err);
    if (!code && !ccq_path_exists(o->path) && ccq_path_exists(place)) {
        if (!(code = ccq_old_remove(s->out, "config.json", err)))
            code = ccq_stage_sync_dir(s, s->out, err);
        if (!code && rename(place, o->path) != 0)
            code = ccq_fail_errno(err, CCQ_IO, place, "cannot move back", errno);
    }
    free(place);
    return code;
}

ccq_code ccq_stage_shard(ccq_stage *s, const char *name, uint64_t size, uint64_t have,
                         ccq_out **out, ccq_error *err)
{
    struct stat st;
    ccq_out *o;
    ccq_code code = new_out(s, name, size, 1, out, err);
    if (!(o = *out))
        return code;
    if (!code && s->committing)
        code = take_back(s, o, name, err);
    atomic_store(&o->written, have);
    if (!code && (o->fd = open(o->path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666)) < 0)
        code = ccq_fail_errno(err, CCQ_CREATE, o->path, "cannot create", errno);
    if (!code && fstat(o->fd, &st) == 0 && (uint64_t)st.st_size > size &&
        ftruncate(o->fd, (off_t)size) != 0)
        code = ccq_fail_errno(err, CCQ_IO, o->path, "cannot shorten", errno);
    char *dir = code ? NULL : ccq_stage_directory(s->stage, name);
    if (dir)
        code = ccq_stage_sync_dir(s, dir, err);
    free(dir);
    return opened(out, code, err);
}

/* Where a finished file lies now: staged, or in place (*placed); NULL: out of memory. */
static char *place_of(const ccq_stage *s, const char *name, int *placed)
{
    char *path = ccq_path_join(s->stage, name);
    *placed = path && s->committing && !ccq_path_exists(path);
    if (*placed) {
        free(path);
        path = ccq_path_join(s->out, name);
    }
    return path;
}

ccq_code ccq_stage_adopt(ccq_stage *s, const char *name, uint64_t size, ccq_error *err)
{
    ccq_file file = {0};
    int placed;
    char *path = place_of(s, name, &placed);
    ccq_code code = path ? ccq_file_open(&file, path, CCQ_CHANGED, err) : ccq_stage_no_memory(err);
    if (!code && file.size != size)
        code = ccq_fail_file(err, CCQ_CHANGED, path, "%llu bytes, %llu are planned",
                             (unsigned long long)file.size, (unsigned long long)size);
    if (!code && s->sync && fsync(file.fd) != 0)
        code = ccq_fail_errno(err, CCQ_IO, path, "fsync failed", errno);
    if (!code && !(code = add_entry(s, name, 1, err))) {
        s->entries[s->count - 1].closed = 1;
        s->entries[s->count - 1].renamed = placed;
    }
    ccq_file_close(&file);
    free(path);
    return code;
}

ccq_code ccq_stage_read(const ccq_stage *s, const char *name, uint64_t offset, void *dst,
                        uint64_t size, ccq_error *err)
{
    ccq_file file = {0};
    int placed;
    char *path = place_of(s, name, &placed);
    ccq_code code = path ? ccq_file_open(&file, path, CCQ_CHANGED, err) : ccq_stage_no_memory(err);
    if (!code)
        code = ccq_file_read(&file, offset, dst, size, err);
    ccq_file_close(&file);
    free(path);
    return code;
}

ccq_code ccq_out_write(ccq_out *o, uint64_t offset, const void *data, uint64_t size, ccq_error *err)
{
    if (offset > o->size || size > o->size - offset)
        return ccq_fail_file(err, CCQ_BUG, o->path, "write of %llu bytes at %llu in a file of %llu",
                             (unsigned long long)size, (unsigned long long)offset,
                             (unsigned long long)o->size);
    ccq_code code = ccq_pwrite_all(o->fd, o->path, offset, data, size, err);
    if (code == CCQ_NO_SPACE)
        return ccq_fail_full(err, o->path, o->size - atomic_load(&o->written));
    if (!code)
        atomic_fetch_add(&o->written, size);
    return code;
}

ccq_code ccq_out_sync(ccq_out *o, ccq_error *err)
{
    if (o->stage->sync && fdatasync(o->fd) != 0)
        return ccq_fail_errno(err, CCQ_IO, o->path, "fdatasync failed", errno);
    return CCQ_OK;
}

ccq_code ccq_out_close(ccq_out *o, ccq_error *err)
{
    ccq_code code = CCQ_OK;
    uint64_t written = atomic_load(&o->written);
    if (written < o->size) /* the rest would be a hole of the right size */
        code = ccq_fail_file(err, CCQ_BUG, o->path, "%llu of %llu bytes were written",
                             (unsigned long long)written, (unsigned long long)o->size);
    else if (o->stage->sync && fsync(o->fd) != 0)
        code = ccq_fail_errno(err, CCQ_IO, o->path, "fsync failed", errno);
    int fd = o->fd;
    o->fd = -1;
    if (close(fd) != 0 && !code)
        code = ccq_fail_errno(err, CCQ_IO, o->path, "close failed", errno);
    if (!code)
        o->stage->entries[o->entry].closed = 1;
    ccq_out_drop(o);
    return code;
}

ccq_code ccq_stage_put(ccq_stage *s, const char *name, const void *data, size_t size,
                       ccq_error *err)
{
    ccq_out *out;
    ccq_code code = ccq_stage_create(s, name, size, &out, err);
    if (code)
        return code;
    if ((code = ccq_out_write(out, 0, data, size, err))) {
        ccq_out_drop(out);
        return code;
    }
    return ccq_out_close(out, err);
}

static ccq_code copy_blocks(const ccq_file *from, ccq_out *out, uint32_t *crc, ccq_error *err)
{
    enum { BLOCK = 1 << 20 };
    unsigned char *block = malloc(BLOCK);
    ccq_code code = block ? CCQ_OK : ccq_stage_no_memory(err);
    uLong sum = crc32(0, NULL, 0);
    for (uint64_t at = 0; !code && at < from->size;) {
        uint64_t n = from->size - at < BLOCK ? from->size - at : BLOCK;
        if (!(code = ccq_file_read(from, at, block, n, err)))
            code = ccq_out_write(out, at, block, n, err);
        sum = crc32(sum, block, (uInt)n);
        at += n;
    }
    free(block);
    if (crc)
        *crc = (uint32_t)sum;
    return code ? code : ccq_file_recheck(from, err);
}

ccq_code ccq_stage_copy(ccq_stage *s, const char *from_path, const char *name, uint32_t *crc,
                        ccq_error *err)
{
    ccq_file from;
    ccq_out *out;
    ccq_code code = ccq_file_open(&from, from_path, CCQ_NO_INPUT, err);
    if (code)
        return code;
    if (!(code = ccq_stage_create(s, name, from.size, &out, err))) {
        if ((code = copy_blocks(&from, out, crc, err)))
            ccq_out_drop(out);
        else
            code = ccq_out_close(out, err);
    }
    ccq_file_close(&from);
    return code;
}

