/* Calls that fail, or end the process, when the environment says so: linked into a tool
 * with -Wl,--wrap for each of them.
 *
 *     CCQ_FAULT=fail:K   the K-th call fails, the others do not
 *     CCQ_FAULT=all:K    it and all later ones fail
 *     CCQ_FAULT=kill:K   the process is killed in its place
 *     CCQ_FAULT=signal:K SIGTERM arrives at the K-th call
 *     CCQ_FAULT=short:K  the K-th read or write moves one byte, or is interrupted
 *     CCQ_FAULT_CLASS=io|memory|thread   which calls count (default io)
 *     CCQ_FAULT_COUNT=FILE               how many there were */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { IO = 1, MEMORY, THREAD };
enum { NONE, FAIL, ALL, KILL, SHORT, SIGNAL };

static atomic_long calls;
static long when;
static int what, class;
static atomic_int begun; /* what libraries do before main, and after it, is their own */

__attribute__((constructor)) static void setup(void)
{
    const char *fault = getenv("CCQ_FAULT"), *kind = getenv("CCQ_FAULT_CLASS");
    static const char *const names[] = {"none:", "fail:", "all:", "kill:", "short:",
                                        "signal:"};
    class = kind && strcmp(kind, "memory") == 0   ? MEMORY
            : kind && strcmp(kind, "thread") == 0 ? THREAD
                                                  : IO;
    for (int i = 0; fault && i < 6; i++)
        if (strncmp(fault, names[i], strlen(names[i])) == 0) {
            what = i;
            when = atol(fault + strlen(names[i]));
        }
}

__attribute__((destructor)) static void report(void)
{
    const char *path = getenv("CCQ_FAULT_COUNT");
    FILE *f = path ? fopen(path, "w") : NULL;
    if (f) {
        fprintf(f, "%ld\n", atomic_load(&calls));
        fclose(f);
    }
}

/* 1: this call is the one. */
static int hit(int of)
{
    if (of != class || !atomic_load(&begun))
        return 0;
    long n = atomic_fetch_add(&calls, 1) + 1;
    if (what == NONE || n < when || (n > when && what != ALL))
        return 0;
    if (what == KILL)
        raise(SIGKILL);
    if (what == SIGNAL)
        raise(SIGTERM);
    return what != SIGNAL;
}

/* 1: fail with error. */
static int fails(int of, int error)
{
    if (!hit(of) || what == SHORT)
        return 0;
    errno = error;
    return 1;
}

#define REAL(type, name, ...)                                                                      \
    type __real_##name(__VA_ARGS__);                                                               \
    type __wrap_##name(__VA_ARGS__);                                                               \
    type __wrap_##name(__VA_ARGS__)

REAL(int, main, int argc, char **argv)
{
    atomic_store(&begun, 1);
    int rc = __real_main(argc, argv);
    atomic_store(&begun, 0);
    return rc;
}

int __real_open64(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    unsigned mode = flags & O_CREAT ? va_arg(args, unsigned) : 0;
    va_end(args);
    return fails(IO, flags & O_CREAT ? ENOSPC : EIO) ? -1 : __real_open64(path, flags, mode);
}

REAL(ssize_t, pread64, int fd, void *data, size_t size, off64_t at)
{
    if (hit(IO)) {
        errno = what == SHORT && when % 2 ? EINTR : EIO;
        if (what != SHORT || when % 2)
            return -1;
        size = size < 1 ? size : 1;
    }
    return __real_pread64(fd, data, size, at);
}

REAL(ssize_t, pwrite64, int fd, const void *data, size_t size, off64_t at)
{
    if (hit(IO)) {
        errno = what == SHORT && when % 2 ? EINTR : ENOSPC;
        if (what != SHORT || when % 2)
            return -1;
        size = size < 1 ? size : 1;
    }
    return __real_pwrite64(fd, data, size, at);
}

REAL(int, fallocate64, int fd, int mode, off64_t at, off64_t size)
{
    return fails(IO, when % 2 ? ENOSPC : EOPNOTSUPP) ? -1 : __real_fallocate64(fd, mode, at, size);
}

REAL(int, ftruncate64, int fd, off64_t size)
{
    return fails(IO, EIO) ? -1 : __real_ftruncate64(fd, size);
}

REAL(int, fsync, int fd)
{
    return fails(IO, EIO) ? -1 : __real_fsync(fd);
}

REAL(int, fdatasync, int fd)
{
    return fails(IO, EIO) ? -1 : __real_fdatasync(fd);
}

REAL(int, close, int fd)
{
    int bad = fails(IO, EIO);
    int rc = __real_close(fd);
    if (bad)
        errno = EIO;
    return bad ? -1 : rc;
}

REAL(int, rename, const char *from, const char *to)
{
    return fails(IO, EIO) ? -1 : __real_rename(from, to);
}

REAL(int, link, const char *from, const char *to)
{
    return fails(IO, EPERM) ? -1 : __real_link(from, to);
}

REAL(int, unlink, const char *path)
{
    return fails(IO, EIO) ? -1 : __real_unlink(path);
}

REAL(int, rmdir, const char *path)
{
    return fails(IO, EIO) ? -1 : __real_rmdir(path);
}

REAL(int, remove, const char *path)
{
    return fails(IO, EIO) ? -1 : __real_remove(path);
}

REAL(int, mkdir, const char *path, mode_t mode)
{
    return fails(IO, EIO) ? -1 : __real_mkdir(path, mode);
}

REAL(int, flock, int fd, int how)
{
    return fails(IO, ENOLCK) ? -1 : __real_flock(fd, how);
}

REAL(int, pthread_create, pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *),
     void *arg)
{
    return fails(THREAD, EAGAIN) ? EAGAIN : __real_pthread_create(thread, attr, run, arg);
}

REAL(void *, malloc, size_t size)
{
    return fails(MEMORY, ENOMEM) ? NULL : __real_malloc(size);
}

REAL(void *, calloc, size_t count, size_t size)
{
    return fails(MEMORY, ENOMEM) ? NULL : __real_calloc(count, size);
}

REAL(void *, realloc, void *old, size_t size)
{
    return fails(MEMORY, ENOMEM) ? NULL : __real_realloc(old, size);
}

REAL(void *, aligned_alloc, size_t align, size_t size)
{
    return fails(MEMORY, ENOMEM) ? NULL : __real_aligned_alloc(align, size);
}

REAL(char *, strdup, const char *text)
{
    return fails(MEMORY, ENOMEM) ? NULL : __real_strdup(text);
}
