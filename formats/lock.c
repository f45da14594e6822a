#include "formats/lock.h"

#include "formats/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static ccq_code held(int fd, const char *path, const char *what, ccq_error *err)
{
    char text[300], shown[400];
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    while (n > 0 && text[n - 1] == '\n')
        n--;
    return ccq_fail_file(err, CCQ_CREATE, path, "another ccq %s (%s)", what,
                         ccq_escape(shown, sizeof shown, text, n > 0 ? (size_t)n : 0));
}

/* For the message of who comes second; nothing depends on it. */
static void sign(int fd)
{
    char host[200] = "", text[256];
    gethostname(host, sizeof host - 1);
    int n = snprintf(text, sizeof text, "%s %ld\n", host, (long)getpid());
    if (ftruncate(fd, 0) == 0 && pwrite(fd, text, (size_t)n, 0) < n)
        errno = 0;
}

/* 1 while path is the file that was locked: its holder may have removed it meanwhile. */
static int is_there(int fd, const char *path)
{
    struct stat a, b;
    return fstat(fd, &a) == 0 && lstat(path, &b) == 0 && a.st_dev == b.st_dev &&
           a.st_ino == b.st_ino;
}

ccq_code ccq_lock_take(ccq_lock *lock, const char *path, const char *what, ccq_error *err)
{
    int rc;
    *lock = (ccq_lock){.fd = -1};
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (fd < 0)
        return ccq_fail_errno(err, CCQ_CREATE, path, "cannot create", errno);
    while ((rc = flock(fd, LOCK_EX | LOCK_NB)) != 0 && errno == EINTR)
        ;
    ccq_code code = CCQ_OK;
    if (rc != 0 && errno == EWOULDBLOCK)
        code = held(fd, path, what, err);
    else if (!is_there(fd, path))
        code = ccq_fail_file(err, CCQ_CREATE, path, "another ccq has just ended here");
    if (code) {
        close(fd);
        return code;
    }
    *lock = (ccq_lock){fd, rc == 0};
    sign(fd);
    return CCQ_OK;
}

ccq_code ccq_lock_look(const char *path, const char *what, ccq_error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return CCQ_OK;
    int is = flock(fd, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    ccq_code code = is ? held(fd, path, what, err) : CCQ_OK;
    close(fd);
    return code;
}

int ccq_lock_held(const char *path)
{
    return ccq_lock_look(path, "", NULL) != CCQ_OK;
}

void ccq_lock_drop(ccq_lock *lock)
{
    if (lock->fd >= 0)
        close(lock->fd);
    lock->fd = -1;
}
