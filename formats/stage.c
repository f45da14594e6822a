/* Output directories: staged under OUT/.ccq, then renamed into place with
 * config.json last. At every moment OUT is the old checkpoint, something that no
 * loader opens, or the new one. */
#include "formats/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

typedef struct entry {
    char *name;
    int closed;  /* synced and whole */
    int renamed; /* in place */
} entry;

struct ccq_stage {
    char *out, *work, *stage; /* OUT, OUT/.ccq, OUT/.ccq/stage */
    int made_out, made_work, overwrite;
    int lock;       /* fd, or -1 */
    entry *entries; /* in order of creation */
    size_t count, cap;
    char **forgotten; /* files of the old checkpoint that go with it */
    size_t forgets;
};

struct ccq_out {
    ccq_stage *stage;
    size_t entry;
    int fd;
    char *path;
    uint64_t size;
    _Atomic uint64_t written;
};

static ccq_code no_memory(ccq_error *err)
{
    return ccq_fail(err, CCQ_NO_MEMORY, "out of memory");
}

/* Length of the "rankN" in "rankN/NAME" when NAME is a plain file name; else 0. */
static size_t rank_part(const char *name)
{
    size_t n = 4;
    if (strncmp(name, "rank", 4) != 0)
        return 0;
    while (name[n] >= '0' && name[n] <= '9')
        n++;
    return n > 4 && name[n] == '/' && ccq_name_is_plain(name + n + 1, strlen(name + n + 1)) ? n : 0;
}

/* The directory of a staged name inside base: base itself, or its rank directory. */
static char *directory_of(const char *base, const char *name)
{
    char rank[64];
    size_t n = rank_part(name);
    if (!n)
        return strdup(base);
    snprintf(rank, sizeof rank, "%.*s", (int)n, name);
    return ccq_path_join(base, rank);
}

/* Creates it where it is a rank directory. */
static ccq_code make_directory(const char *base, const char *name, ccq_error *err)
{
    char *path = directory_of(base, name);
    ccq_code code = path ? CCQ_OK : no_memory(err);
    if (!code && rank_part(name) && mkdir(path, 0777) != 0 && errno != EEXIST)
        code = ccq_fail_errno(err, CCQ_CREATE, path, "cannot create", errno);
    free(path);
    return code;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *where)
{
    (void)st, (void)kind, (void)where;
    remove(path);
    return 0;
}

static void remove_tree(const char *path)
{
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void free_stage(ccq_stage *s)
{
    if (s->lock >= 0)
        close(s->lock);
    for (size_t i = 0; i < s->count; i++)
        free(s->entries[i].name);
    free(s->entries);
    ccq_names_free(s->forgotten, s->forgets);
    free(s->out);
    free(s->work);
    free(s->stage);
    free(s);
}

void ccq_stage_abandon(ccq_stage *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < s->count; i++) {
        char *path = s->entries[i].renamed ? ccq_path_join(s->out, s->entries[i].name) : NULL;
        char *dir = path && rank_part(s->entries[i].name)
                        ? directory_of(s->out, s->entries[i].name) : NULL;
        if (path)
            unlink(path);
        if (dir)
            rmdir(dir); /* with the last of its files */
        free(dir);
        free(path);
    }
    if (s->made_work)
        remove_tree(s->work);
    if (s->made_out)
        rmdir(s->out);
    free_stage(s);
}

static ccq_code make_out(ccq_stage *s, ccq_error *err)
{
    struct stat st;
    if (mkdir(s->out, 0777) == 0) {
        s->made_out = 1;
        return CCQ_OK;
    }
    int bad = errno;
    if (bad == ENOENT || bad == ENOTDIR) {
        char *parent = ccq_path_parent(s->out);
        ccq_code code = ccq_fail_file(err, CCQ_CREATE, parent ? parent : s->out,
                                      "no such directory (parents of the output are not created)");
        free(parent);
        return code;
    }
    if (bad != EEXIST)
        return ccq_fail_errno(err, CCQ_CREATE, s->out, "cannot create", bad);
    if (stat(s->out, &st) != 0 || !S_ISDIR(st.st_mode))
        return ccq_fail_file(err, CCQ_EXISTS, s->out, "exists and is not a directory");
    return ccq_old_check(s->out, s->overwrite, err);
}

/* OUT/.ccq, locked. Where flock does not work the run goes on without it. */
static ccq_code make_work(ccq_stage *s, ccq_error *err)
{
    s->made_work = mkdir(s->work, 0777) == 0;
    if (!s->made_work && errno != EEXIST)
        return ccq_fail_errno(err, CCQ_CREATE, s->work, "cannot create", errno);
    char *path = ccq_path_join(s->work, "lock.0-of-1");
    if (!path)
        return no_memory(err);
    s->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    ccq_code code = CCQ_OK;
    if (s->lock < 0)
        code = ccq_fail_errno(err, CCQ_CREATE, path, "cannot create", errno);
    else if (flock(s->lock, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
        code = ccq_fail_file(err, CCQ_CREATE, s->out, "another ccq is writing to it");
    free(path);
    if (code)
        return code;
    s->made_work = 1; /* ours from here, what an earlier run left included */
    remove_tree(s->stage);
    if (mkdir(s->stage, 0777) != 0)
        return ccq_fail_errno(err, CCQ_CREATE, s->stage, "cannot create", errno);
    return CCQ_OK;
}

ccq_code ccq_stage_open(ccq_stage **stage, const char *out_dir, int overwrite, ccq_error *err)
{
    *stage = NULL;
    ccq_stage *s = calloc(1, sizeof *s);
    if (!s)
        return no_memory(err);
    s->lock = -1;
    s->overwrite = overwrite;
    s->out = strdup(out_dir);
    s->work = ccq_path_join(out_dir, ".ccq");
    s->stage = s->work ? ccq_path_join(s->work, "stage") : NULL;
    ccq_code code = s->out && s->stage ? make_out(s, err) : no_memory(err);
    if (!code)
        code = make_work(s, err);
    if (code)
        ccq_stage_abandon(s);
    else
        *stage = s;
    return code;
}

static ccq_code add_entry(ccq_stage *s, const char *name, ccq_error *err)
{
    if (s->count == s->cap) {
        size_t cap = s->cap ? s->cap * 2 : 16;
        entry *list = realloc(s->entries, cap * sizeof *list);
        if (!list)
            return no_memory(err);
        s->entries = list;
        s->cap = cap;
    }
    entry e = {.name = strdup(name)};
    if (!e.name)
        return no_memory(err);
    s->entries[s->count++] = e;
    return CCQ_OK;
}

/* The blocks, so that a full disk shows now; posix_fallocate would write them. */
static ccq_code reserve(ccq_out *o, ccq_error *err)
{
    int bad;
    while ((bad = o->size && fallocate(o->fd, 0, 0, (off_t)o->size) != 0 ? errno : 0) == EINTR)
        ;
    if (bad == EOPNOTSUPP || bad == ENOSYS)
        bad = ftruncate(o->fd, (off_t)o->size) != 0 ? errno : 0;
    if (bad == ENOSPC || bad == EDQUOT) {
        uint64_t left = 0;
        ccq_path_free_bytes(o->stage->out, &left, NULL);
        return ccq_fail_file(err, CCQ_NO_SPACE, o->path,
                             "disk full: needs %llu bytes, %llu are free",
                             (unsigned long long)o->size, (unsigned long long)left);
    }
    return bad ? ccq_fail_errno(err, CCQ_IO, o->path, "cannot reserve space", bad) : CCQ_OK;
}

static void free_out(ccq_out *o)
{
    if (o->fd >= 0)
        close(o->fd);
    free(o->path);
    free(o);
}

ccq_code ccq_stage_create(ccq_stage *s, const char *name, uint64_t size, ccq_out **out,
                          ccq_error *err)
{
    *out = NULL;
    if ((!ccq_name_is_plain(name, strlen(name)) && !rank_part(name)) || size > INT64_MAX)
        return ccq_fail_file(err, CCQ_BUG, s->out, "staged file with a bad name or size");
    ccq_out *o = calloc(1, sizeof *o);
    if (!o)
        return no_memory(err);
    o->fd = -1;
    o->stage = s;
    o->entry = s->count;
    o->size = size;
    ccq_code code =
        (o->path = ccq_path_join(s->stage, name)) ? add_entry(s, name, err) : no_memory(err);
    if (!code)
        code = make_directory(s->stage, name, err);
    if (!code && (o->fd = open(o->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666)) < 0)
        code = errno == EEXIST ? ccq_fail_file(err, CCQ_BUG, o->path, "staged twice")
                               : ccq_fail_errno(err, CCQ_CREATE, o->path, "cannot create", errno);
    if (!code)
        code = reserve(o, err);
    if (code)
        free_out(o);
    else
        *out = o;
    return code;
}

ccq_code ccq_out_write(ccq_out *o, uint64_t offset, const void *data, uint64_t size, ccq_error *err)
{
    if (offset > o->size || size > o->size - offset)
        return ccq_fail_file(err, CCQ_BUG, o->path, "write of %llu bytes at %llu in a file of %llu",
                             (unsigned long long)size, (unsigned long long)offset,
                             (unsigned long long)o->size);
    ccq_code code = ccq_pwrite_all(o->fd, o->path, offset, data, size, err);
    if (!code)
        atomic_fetch_add(&o->written, size);
    return code;
}

ccq_code ccq_out_close(ccq_out *o, ccq_error *err)
{
    ccq_code code = CCQ_OK;
    uint64_t written = atomic_load(&o->written);
    if (written < o->size) /* the rest would be a hole of the right size */
        code = ccq_fail_file(err, CCQ_BUG, o->path, "%llu of %llu bytes were written",
                             (unsigned long long)written, (unsigned long long)o->size);
    else if (fsync(o->fd) != 0)
        code = ccq_fail_errno(err, CCQ_IO, o->path, "fsync failed", errno);
    int fd = o->fd;
    o->fd = -1;
    if (close(fd) != 0 && !code)
        code = ccq_fail_errno(err, CCQ_IO, o->path, "close failed", errno);
    if (!code)
        o->stage->entries[o->entry].closed = 1;
    free_out(o);
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
        free_out(out);
        return code;
    }
    return ccq_out_close(out, err);
}

static ccq_code copy_blocks(const ccq_file *from, ccq_out *out, uint32_t *crc, ccq_error *err)
{
    enum { BLOCK = 1 << 20 };
    unsigned char *block = malloc(BLOCK);
    ccq_code code = block ? CCQ_OK : no_memory(err);
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
            free_out(out);
        else
            code = ccq_out_close(out, err);
    }
    ccq_file_close(&from);
    return code;
}

static ccq_code move_entry(ccq_stage *s, entry *e, ccq_error *err)
{
    char *from = ccq_path_join(s->stage, e->name), *to = ccq_path_join(s->out, e->name);
    ccq_code code = from && to ? make_directory(s->out, e->name, err) : no_memory(err);
    if (!code && rename(from, to) != 0)
        code = ccq_fail_errno(err, CCQ_CREATE, to, "cannot rename into place", errno);
    e->renamed = !code;
    free(from);
    free(to);
    return code;
}

/* The rank directory of an entry, at the first of its files that follow each other. */
static ccq_code sync_rank(const ccq_stage *s, size_t i, ccq_error *err)
{
    const char *name = s->entries[i].name;
    size_t n = rank_part(name);
    if (!n || (i && strncmp(s->entries[i - 1].name, name, n + 1) == 0))
        return CCQ_OK;
    char *dir = directory_of(s->out, name);
    ccq_code code = dir ? ccq_sync_dir(dir, err) : no_memory(err);
    free(dir);
    return code;
}

/* All but config.json (last = 0), or config.json alone; then the directories are synced. */
static ccq_code move_entries(ccq_stage *s, int last, ccq_error *err)
{
    for (size_t i = 0; i < s->count; i++) {
        if ((strcmp(s->entries[i].name, "config.json") == 0) != last)
            continue;
        ccq_code code = move_entry(s, &s->entries[i], err);
        if (code)
            return code;
    }
    for (size_t i = 0; !last && i < s->count; i++) {
        ccq_code code = sync_rank(s, i, err);
        if (code)
            return code;
    }
    return ccq_sync_dir(s->out, err);
}

static ccq_code sync_parent(const ccq_stage *s, ccq_error *err)
{
    char *parent = ccq_path_parent(s->out);
    ccq_code code = parent ? ccq_sync_dir(parent, err) : no_memory(err);
    free(parent);
    return code;
}

ccq_code ccq_stage_forget(ccq_stage *s, const char *name, ccq_error *err)
{
    char **grown = realloc(s->forgotten, (s->forgets + 1) * sizeof *grown);
    if (!grown)
        return no_memory(err);
    s->forgotten = grown;
    if (!ccq_name_is_plain(name, strlen(name)))
        return ccq_fail_name(err, CCQ_PATH, s->out, name, "is not a plain file name");
    if (!(grown[s->forgets] = strdup(name)))
        return no_memory(err);
    s->forgets++;
    return CCQ_OK;
}

static ccq_code clear_old(const ccq_stage *s, ccq_error *err)
{
    ccq_code code = ccq_old_clear(s->out, err);
    for (size_t i = 0; i < s->forgets && !code; i++)
        code = ccq_old_remove(s->out, s->forgotten[i], err);
    return code;
}

ccq_code ccq_stage_commit(ccq_stage *s, ccq_error *err)
{
    ccq_code code = CCQ_OK;
    for (size_t i = 0; i < s->count; i++)
        if (!s->entries[i].closed)
            return ccq_fail_name(err, CCQ_BUG, s->out, s->entries[i].name,
                                 "committed before it was closed");
    if (s->overwrite)
        code = clear_old(s, err);
    if (!code)
        code = move_entries(s, 0, err);
    if (!code && s->made_out)
        code = sync_parent(s, err);
    if (!code)
        code = move_entries(s, 1, err);
    if (code)
        return code;
    remove_tree(s->work); /* what stays of it hides nothing: the result is whole and synced */
    free_stage(s);
    return CCQ_OK;
}
