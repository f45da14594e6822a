/* Checked reads and questions about paths. */
#include "formats/file.h"

#include "formats/internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define IO_STEP (UINT64_C(1) << 30) /* one call moves less than 2 GiB on Linux */

ccq_code ccq_file_open(ccq_file *file, const char *path, ccq_code missing, ccq_error *err)
{
    struct stat st;
    ccq_code code;
    memset(file, 0, sizeof *file);
    file->fd = -1;
    /* O_NONBLOCK: opening a FIFO must not wait for a writer. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) {
        int e = errno;
        if (e == ENOENT || e == ENOTDIR)
            return ccq_fail_file(err, missing, path, "no such file");
        int ours = missing == CCQ_CHANGED || missing == CCQ_IO;
        return ccq_fail_errno(err, e == ENXIO || e == ELOOP ? CCQ_NOT_A_FILE
                                   : ours ? CCQ_IO : CCQ_NO_INPUT, path, "cannot open", e);
    }
    if (fstat(fd, &st) != 0)
        code = ccq_fail_errno(err, CCQ_IO, path, "fstat", errno);
    else if (!S_ISREG(st.st_mode))
        code = ccq_fail_file(err, CCQ_NOT_A_FILE, path, "not a regular file");
    else if (!(file->path = strdup(path)))
        code = ccq_fail(err, CCQ_NO_MEMORY, "out of memory");
    else {
        file->fd = fd;
        file->size = (uint64_t)st.st_size;
        file->mtime_s = st.st_mtim.tv_sec;
        file->mtime_ns = st.st_mtim.tv_nsec;
        return CCQ_OK;
    }
    close(fd);
    return code;
}

void ccq_file_close(ccq_file *file)
{
    if (file->path)
        close(file->fd);
    free(file->path);
    memset(file, 0, sizeof *file);
    file->fd = -1;
}

ccq_code ccq_file_read(const ccq_file *file, uint64_t offset, void *dst, uint64_t size,
                       ccq_error *err)
{
    char *p = dst;
    uint64_t end;
    if (__builtin_add_overflow(offset, size, &end) || end > INT64_MAX)
        return ccq_fail_file(err, CCQ_BUG, file->path, "read past 2^63");
    while (offset < end) {
        uint64_t step = end - offset < IO_STEP ? end - offset : IO_STEP;
        ssize_t n = pread(file->fd, p, (size_t)step, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return ccq_fail_errno(err, CCQ_IO, file->path, "read failed", errno);
        if (n == 0)
            return ccq_fail_file(err, CCQ_CHANGED, file->path,
                                 "ends at byte %llu, was %llu bytes when opened",
                                 (unsigned long long)offset, (unsigned long long)file->size);
        p += n;
        offset += (uint64_t)n;
    }
    return CCQ_OK;
}

ccq_code ccq_file_recheck(const ccq_file *file, ccq_error *err)
{
    struct stat now, named;
    if (fstat(file->fd, &now) != 0)
        return ccq_fail_errno(err, CCQ_IO, file->path, "fstat", errno);
    if ((uint64_t)now.st_size != file->size)
        return ccq_fail_file(err, CCQ_CHANGED, file->path,
                             "size changed while it was read: %llu, was %llu",
                             (unsigned long long)now.st_size, (unsigned long long)file->size);
    if (now.st_mtim.tv_sec != file->mtime_s || now.st_mtim.tv_nsec != file->mtime_ns)
        return ccq_fail_file(err, CCQ_CHANGED, file->path, "written to while it was read");
    if (stat(file->path, &named) != 0 || named.st_dev != now.st_dev || named.st_ino != now.st_ino)
        return ccq_fail_file(err, CCQ_CHANGED, file->path, "replaced while it was read");
    return CCQ_OK;
}

int ccq_stamp_take(ccq_stamp *stamp, const char *path)
{
    struct stat st;
    *stamp = (ccq_stamp){0};
    if (stat(path, &st) != 0)
        return -1;
    *stamp = (ccq_stamp){(uint64_t)st.st_size, st.st_mtim.tv_sec, st.st_mtim.tv_nsec};
    return 0;
}

ccq_code ccq_stamp_check(const ccq_stamp *stamp, const char *path, ccq_error *err)
{
    ccq_stamp now;
    if (ccq_stamp_take(&now, path))
        return ccq_fail_file(err, CCQ_CHANGED, path, "has gone since the beginning");
    if (now.size != stamp->size)
        return ccq_fail_file(err, CCQ_CHANGED, path,
                             "size changed since the beginning: %llu, was %llu",
                             (unsigned long long)now.size, (unsigned long long)stamp->size);
    if (now.mtime_s != stamp->mtime_s || now.mtime_ns != stamp->mtime_ns)
        return ccq_fail_file(err, CCQ_CHANGED, path, "written to since the beginning");
    return CCQ_OK;
}

ccq_code ccq_file_load(const char *path, uint64_t max, ccq_code missing, char **data, size_t *size,
                       ccq_error *err)
{
    ccq_file file;
    char *text = NULL;
    ccq_code code = ccq_file_open(&file, path, missing, err);
    *data = NULL;
    if (code)
        return code;
    if (file.size > max || file.size >= SIZE_MAX)
        code = ccq_fail_file(err, CCQ_LIMIT, path, "%llu bytes, at most %llu are read",
                             (unsigned long long)file.size, (unsigned long long)max);
    else if (!(text = malloc((size_t)file.size + 1)))
        code = ccq_fail_file(err, CCQ_NO_MEMORY, path, "no memory for %llu bytes",
                             (unsigned long long)file.size);
    else if (!(code = ccq_file_read(&file, 0, text, file.size, err)))
        code = ccq_file_recheck(&file, err);
    if (!code) {
        text[file.size] = 0;
        *data = text;
        *size = (size_t)file.size;
    } else {
        free(text);
    }
    ccq_file_close(&file);
    return code;
}

int ccq_path_exists(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0;
}

char *ccq_path_join(const char *dir, const char *name)
{
    size_t n = strlen(dir), m = strlen(name);
    while (n > 1 && dir[n - 1] == '/')
        n--;
    char *path = malloc(n + m + 2);
    if (path) {
        memcpy(path, dir, n);
        if (n && dir[n - 1] != '/')
            path[n++] = '/';
        memcpy(path + n, name, m + 1);
    }
    return path;
}

char *ccq_path_parent(const char *path)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    while (n && path[n - 1] != '/')
        n--;
    while (n > 1 && path[n - 1] == '/')
        n--;
    return n ? strndup(path, n) : strdup(".");
}

/* The path itself or its nearest parent that exists, with links resolved; malloc'd. */
static char *nearest(const char *path)
{
    char *p = strdup(path), *real = NULL;
    while (p && !(real = realpath(p, NULL))) {
        char *up = (errno == ENOENT || errno == ENOTDIR) && strcmp(p, ".") && strcmp(p, "/")
                       ? ccq_path_parent(p)
                       : NULL;
        free(p);
        p = up;
    }
    free(p);
    return real;
}

int ccq_path_inside(const char *a, const char *b)
{
    struct stat sa, sb;
    char *p = stat(b, &sb) == 0 ? nearest(a) : NULL;
    int inside = 0;
    while (p && !inside) {
        inside = stat(p, &sa) == 0 && sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino;
        char *up = strcmp(p, "/") && !inside ? ccq_path_parent(p) : NULL;
        free(p);
        p = up;
    }
    free(p);
    return inside;
}

ccq_code ccq_path_free_bytes(const char *path, uint64_t *bytes, ccq_error *err)
{
    struct statvfs fs;
    char *p = nearest(path);
    ccq_code code = CCQ_OK;
    if (!p || statvfs(p, &fs) != 0)
        code = ccq_fail_errno(err, CCQ_IO, path, "cannot ask for free space", errno);
    else if (__builtin_mul_overflow((uint64_t)fs.f_bavail, (uint64_t)fs.f_frsize, bytes))
        *bytes = UINT64_MAX;
    free(p);
    return code;
}

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static ccq_code add_name(char ***names, size_t *count, size_t *cap, const char *name)
{
    if (*count == *cap) {
        size_t want = *cap ? *cap * 2 : 16;
        char **list = realloc(*names, want * sizeof *list);
        if (!list)
            return CCQ_NO_MEMORY;
        *names = list;
        *cap = want;
    }
    if (!((*names)[*count] = strdup(name)))
        return CCQ_NO_MEMORY;
    ++*count;
    return CCQ_OK;
}

/* Closes d, which may be NULL: errno says why. */
static ccq_code list(DIR *d, const char *dir, char ***names, size_t *count, ccq_error *err)
{
    size_t cap = 0;
    ccq_code code = CCQ_OK;
    struct dirent *entry;
    *names = NULL;
    *count = 0;
    if (!d)
        return ccq_fail_errno(err, CCQ_NO_INPUT, dir, "cannot list", errno);
    while (!code && (errno = 0, entry = readdir(d)))
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
            code = add_name(names, count, &cap, entry->d_name);
    if (code)
        ccq_fail(err, code, "out of memory");
    else if (errno)
        code = ccq_fail_errno(err, CCQ_IO, dir, "cannot list", errno);
    closedir(d);
    if (code) {
        ccq_names_free(*names, *count);
        *names = NULL;
        *count = 0;
    } else if (*count) {
        qsort(*names, *count, sizeof **names, by_bytes);
    }
    return code;
}

ccq_code ccq_own_list(const char *dir, char ***names, size_t *count, ccq_code code,
                      ccq_error *err)
{
    ccq_code found = ccq_dir_list(dir, names, count, err);
    if (found != CCQ_NO_INPUT)
        return found;
    if (err)
        err->code = code;
    return code;
}

ccq_code ccq_dir_list(const char *dir, char ***names, size_t *count, ccq_error *err)
{
    return list(opendir(dir), dir, names, count, err);
}

ccq_code ccq_real_list(const char *dir, char ***names, size_t *count, ccq_error *err)
{
    struct stat named, opened;
    DIR *d = opendir(dir);
    if (d && (lstat(dir, &named) != 0 || fstat(dirfd(d), &opened) != 0 ||
              named.st_dev != opened.st_dev || named.st_ino != opened.st_ino)) {
        closedir(d);
        d = NULL;
        errno = ENOTDIR;
    }
    return list(d, dir, names, count, err);
}

void ccq_names_free(char **names, size_t count)
{
    for (size_t i = 0; names && i < count; i++)
        free(names[i]);
    free(names);
}
