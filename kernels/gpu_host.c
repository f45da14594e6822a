/* A device of plain memory: everything is done at once, in order. Guard bands around every
 * allocation are looked at when it is freed. */
#include "kernels/gpu_device.h"
#include "kernels/gpu/wint2_device.h"
#include "kernels/gpu_host.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { ALIGN = 256, GUARD = 256, GUARD_BYTE = 0xa5 };

typedef struct piece {
    struct piece *next, *before;
    size_t size;
} piece; /* at the start of the first guard */

typedef struct host {
    piece *first;
    double mark[CCQ_GPU_MARKS];
    int broken; /* a guard was written to */
} host;

/* ---- Memory -------------------------------------------------------------- */

static size_t rounded(size_t size)
{
    return (size + ALIGN - 1) / ALIGN * ALIGN;
}

static int alloc(ccq_gpu *gpu, size_t size, void **memory)
{
    host *h = gpu->state;
    char *base = size < SIZE_MAX / 2 ? aligned_alloc(ALIGN, 2 * GUARD + rounded(size)) : NULL;
    piece *p = (piece *)(void *)base;

    if (!base)
        return ccq_gpu_fail(gpu, CCQ_GPU_NO_MEMORY, "host device: no memory for %zu bytes", size);
    memset(base, GUARD_BYTE, GUARD);
    memset(base + GUARD, 0xff, size);
    memset(base + GUARD + size, GUARD_BYTE, GUARD + rounded(size) - size);
    *p = (piece){h->first, NULL, size};
    if (h->first)
        h->first->before = p;
    h->first = p;
    *memory = base + GUARD;
    return CCQ_GPU_OK;
}

static int all_guard(const char *from, const char *end)
{
    for (; from < end; from++)
        if ((unsigned char)*from != GUARD_BYTE)
            return 0;
    return 1;
}

static void release(ccq_gpu *gpu, void *memory)
{
    host *h = gpu->state;
    char *base = (char *)memory - GUARD;
    piece *p = (piece *)(void *)base;

    h->broken |= !all_guard(base + sizeof *p, base + GUARD) ||
                 !all_guard(base + GUARD + p->size, base + 2 * GUARD + rounded(p->size));
    if (p->before)
        p->before->next = p->next;
    else
        h->first = p->next;
    if (p->next)
        p->next->before = p->before;
    free(base);
}

int ccq_gpu_host_broken(const ccq_gpu *gpu)
{
    const host *h = gpu->state;
    return h->broken;
}

static int room(ccq_gpu *gpu, uint64_t *bytes)
{
    (void)gpu;
    *bytes = (uint64_t)sysconf(_SC_AVPHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    return CCQ_GPU_OK;
}

static int pin(ccq_gpu *gpu, size_t size, void **memory)
{
    *memory = aligned_alloc(ALIGN, rounded(size));
    return *memory ? CCQ_GPU_OK
                   : ccq_gpu_fail(gpu, CCQ_GPU_NO_MEMORY, "host device: no memory for %zu bytes",
                                  size);
}

static void unpin(ccq_gpu *gpu, void *memory)
{
    (void)gpu;
    free(memory);
}

static int copy(ccq_gpu *gpu, void *to, const void *from, size_t size)
{
    (void)gpu;
    memmove(to, from, size);
    return CCQ_GPU_OK;
}

static int fill(ccq_gpu *gpu, void *to, int byte, size_t size)
{
    (void)gpu;
    memset(to, byte, size);
    return CCQ_GPU_OK;
}

/* ---- Queues -------------------------------------------------------------- */

static int nothing(ccq_gpu *gpu, int queue)
{
    (void)gpu;
    (void)queue;
    return CCQ_GPU_OK;
}

static int mark(ccq_gpu *gpu, int number)
{
    host *h = gpu->state;
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    h->mark[number] = 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
    return CCQ_GPU_OK;
}

static int between(ccq_gpu *gpu, int first, int second, float *ms)
{
    const host *h = gpu->state;

    *ms = (float)(h->mark[second] - h->mark[first]);
    return CCQ_GPU_OK;
}

static int record(ccq_gpu *gpu)
{
    return ccq_gpu_fail(gpu, CCQ_GPU_ABSENT, "host device: no graphs");
}

static int recorded(ccq_gpu *gpu, ccq_gpu_graph **graph)
{
    (void)graph;
    return record(gpu);
}

static int replay(ccq_gpu *gpu, ccq_gpu_graph *graph)
{
    (void)graph;
    return record(gpu);
}

static void graph_free(ccq_gpu *gpu, ccq_gpu_graph *graph)
{
    (void)gpu;
    (void)graph;
}

/* ---- Open, close --------------------------------------------------------- */

static void close_host(ccq_gpu *gpu)
{
    host *h = gpu->state;

    while (h->first)
        release(gpu, (char *)h->first + GUARD);
    free(h);
}

static const ccq_gpu_device device = {
    .kind = CCQ_GPU_HOST,
    .close = close_host,
    .room = room,
    .alloc = alloc,
    .free = release,
    .pin = pin,
    .unpin = unpin,
    .after = nothing,
    .wait = nothing,
    .upload = copy,
    .download = copy,
    .copy = copy,
    .fill = fill,
    .mark = mark,
    .between = between,
    .record = record,
    .recorded = recorded,
    .replay = replay,
    .graph_free = graph_free,
    .wint2 = &ccq_gpu_wint2_host,
    .model = &ccq_gpu_model_host,
    .encode = &ccq_gpu_encode_host,
};

int ccq_gpu_host_open(ccq_gpu *gpu, int index)
{
    if (index)
        return ccq_gpu_fail(gpu, CCQ_GPU_ABSENT, "host device %d: there is only 0", index);
    gpu->state = calloc(1, sizeof(host));
    if (!gpu->state)
        return ccq_gpu_fail(gpu, CCQ_GPU_NO_MEMORY, "host device: out of memory");
    gpu->device = &device;
    gpu->info = (ccq_gpu_info){.name = "host", .multiprocessors = 2, .shared_bytes = 227 << 10};
    room(gpu, &gpu->info.memory);
    return CCQ_GPU_OK;
}
