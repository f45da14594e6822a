#include "libccq/memory.h"

#include <stdio.h>
#include <sys/resource.h>

static uint64_t smaller(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t machine(void)
{
    char line[256];
    unsigned long long kib;
    uint64_t bytes = UINT64_MAX;
    FILE *f = fopen("/proc/meminfo", "re");

    if (!f)
        return bytes;
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1)
            bytes = (uint64_t)kib * 1024;
    fclose(f);
    return bytes;
}

/* A number in a file; "max" or no such file: UINT64_MAX. */
static uint64_t number_in(const char *path)
{
    unsigned long long bytes;
    uint64_t value = UINT64_MAX;
    FILE *f = fopen(path, "re");

    if (!f)
        return value;
    if (fscanf(f, "%llu", &bytes) == 1)
        value = bytes;
    fclose(f);
    return value;
}

static uint64_t address_space(void)
{
    struct rlimit r;

    return getrlimit(RLIMIT_AS, &r) || r.rlim_cur == RLIM_INFINITY ? UINT64_MAX
                                                                   : (uint64_t)r.rlim_cur;
}

uint64_t ccq_memory_available(void)
{
    uint64_t group = smaller(number_in("/sys/fs/cgroup/memory.max"),
                             number_in("/sys/fs/cgroup/memory/memory.limit_in_bytes"));

    return smaller(machine(), smaller(group, address_space()));
}
