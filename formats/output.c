/* One output file: checked writes, fsync, and a temporary name until it is whole. */
#include "formats/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define IO_STEP (UINT64_C(1) << 30) /* one call moves less than 2 GiB on Linux */

ccq_code ccq_pwrite_all(int fd, const char *path, uint64_t offset, const void *data, uint64_t size,
                        ccq_error *err)
{
    const char *p = data;
    while (size) {
        ssize_t n = pwrite(fd, p, (size_t)(size < IO_STEP ? size : IO_STEP), (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == ENOSPC || errno == EDQUOT))
            return ccq_fail_full(err, path, size);
        if (n <= 0)
            return ccq_fail_errno(err, CCQ_IO, path, "write failed", n < 0 ? errno : EIO);
        p += n;
        offset += (uint64_t)n;
        size -= (uint64_t)n;
    }
    return CCQ_OK;
}

ccq_code ccq_sync_dir(const char *path, ccq_error *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return ccq_fail_errno(err, CCQ_IO, path, "cannot open the directory", errno);
    /* EINVAL: a file system that has no fsync for directories. */
    int bad = fsync(fd) != 0 && errno != EINVAL ? errno : 0;
    close(fd);
    return bad ? ccq_fail_errno(err, CCQ_IO, path, "fsync of the directory failed", bad) : CCQ_OK;
}

ccq_code ccq_temp_open(const char *path, char **tmp, int *fd, ccq_error *err)
{
    struct stat st;
    *tmp = NULL;
    *fd = -1;
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode))
        return ccq_fail_file(err, CCQ_CREATE, path, "exists and is not a regular file");
    if (asprintf(tmp, "%s.ccq-%ld", path, (long)getpid()) < 0) {
        *tmp = NULL;
        return ccq_fail(err, CCQ_NO_MEMORY, "out of memory");
    }
    unlink(*tmp); /* of a dead process with our number */
    *fd = open(*tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (*fd >= 0)
        return CCQ_OK;
    ccq_code code = ccq_fail_errno(err, CCQ_CREATE, path, "cannot create", errno);
    free(*tmp);
    *tmp = NULL;
    return code;
}

ccq_code ccq_temp_commit(const char *path, const char *tmp, int fd, ccq_error *err)
{
    int bad = fsync(fd) != 0 ? errno : 0;
    if (close(fd) != 0 && !bad)
        bad = errno;
    if (bad)
        return ccq_fail_errno(err, CCQ_IO, path, "fsync or close failed", bad);
    if (rename(tmp, path) != 0)
        return ccq_fail_errno(err, CCQ_CREATE, path, "cannot rename into place", errno);
    char *dir = ccq_path_parent(path);
    ccq_code code = dir ? ccq_sync_dir(dir, err) : ccq_fail(err, CCQ_NO_MEMORY, "out of memory");
    free(dir);
    return code;
}
