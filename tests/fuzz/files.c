/* Inputs as files: one that lives in memory, a directory in shared memory. */
#include "tests/fuzz/fuzz.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* In place: a file that is made anew costs more than what is tested. */
static void fill(int fd, const uint8_t *data, size_t size)
{
    FUZZ_CHECK(pwrite(fd, data, size, 0) == (ssize_t)size && ftruncate(fd, (off_t)size) == 0,
               "an input of %zu bytes cannot be written", size);
}

const char *fuzz_file(const uint8_t *data, size_t size)
{
    static int fd = -1;
    static char path[40];
    if (fd < 0) {
        fd = memfd_create("input", MFD_CLOEXEC);
        FUZZ_CHECK(fd >= 0, "memfd_create");
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    }
    fill(fd, data, size);
    return path;
}

static char dir[40];

static void remove_dir(void)
{
    char command[60];
    snprintf(command, sizeof command, "rm -r %s", dir);
    if (system(command))
        fprintf(stderr, "%s failed\n", command);
}

const char *fuzz_dir(void)
{
    if (!*dir) {
        snprintf(dir, sizeof dir, "%s/ccq-fuzz-XXXXXX",
                 access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
        FUZZ_CHECK(mkdtemp(dir), "%s", dir);
        atexit(remove_dir);
    }
    return dir;
}

const char *fuzz_put(const char *name, const uint8_t *data, size_t size)
{
    static char path[300];
    snprintf(path, sizeof path, "%s/%s", fuzz_dir(), name);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    FUZZ_CHECK(fd >= 0, "%s", path);
    fill(fd, data, size);
    close(fd);
    return path;
}

void fuzz_remove(const char *name)
{
    char path[300];
    snprintf(path, sizeof path, "%s/%s", fuzz_dir(), name);
    unlink(path);
}

const uint8_t *fuzz_part(const uint8_t **rest, size_t *left, size_t *size)
{
    const uint8_t *part = *rest, *end = *left ? memchr(part, 0x1e, *left) : NULL;
    *size = end ? (size_t)(end - part) : *left;
    size_t used = end ? *size + 1 : *size;
    *rest += used;
    *left -= used;
    return part;
}

char *fuzz_text(const uint8_t **rest, size_t *left)
{
    size_t n;
    const uint8_t *part = fuzz_part(rest, left, &n);
    char *text = malloc(n + 1);
    FUZZ_CHECK(text, "out of memory");
    memcpy(text, part, n);
    text[n] = 0;
    return text;
}
