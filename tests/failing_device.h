/* A host device whose functions can be made to fail. */
#ifndef CCQ_TESTS_FAILING_DEVICE_H
#define CCQ_TESTS_FAILING_DEVICE_H

#include "kernels/gpu_device.h"
#include "kernels/gpu_host.h"
#include "tests/check.h"

static struct {
    int uploads, downloads, waits; /* before it fails; -1: it does not */
    int pins, allocations;
    uint64_t room; /* 0: what there is */
} failing;

static const ccq_gpu_device *real;

static inline int fails(int *count)
{
    if (*count > 0)
        --*count;
    return *count == 0;
}

static inline int no_upload(ccq_gpu *gpu, void *to, const void *from, size_t size)
{
    return fails(&failing.uploads) ? ccq_gpu_fail(gpu, CCQ_GPU_FAILED, "upload: made to fail")
                                   : real->upload(gpu, to, from, size);
}

static inline int no_download(ccq_gpu *gpu, void *to, const void *from, size_t size)
{
    return fails(&failing.downloads) ? ccq_gpu_fail(gpu, CCQ_GPU_FAILED, "download: made to fail")
                                     : real->download(gpu, to, from, size);
}

static inline int no_wait(ccq_gpu *gpu, int queue)
{
    return fails(&failing.waits) ? ccq_gpu_fail(gpu, CCQ_GPU_FAILED, "wait: made to fail")
                                 : real->wait(gpu, queue);
}

static inline int no_pin(ccq_gpu *gpu, size_t size, void **memory)
{
    return fails(&failing.pins) ? ccq_gpu_fail(gpu, CCQ_GPU_NO_MEMORY, "pin: made to fail")
                                : real->pin(gpu, size, memory);
}

static inline int no_alloc(ccq_gpu *gpu, size_t size, void **memory)
{
    return fails(&failing.allocations) ? ccq_gpu_fail(gpu, CCQ_GPU_NO_MEMORY, "alloc: made to fail")
                                       : real->alloc(gpu, size, memory);
}

static inline int no_room(ccq_gpu *gpu, uint64_t *bytes)
{
    int code = real->room(gpu, bytes);
    *bytes = failing.room ? failing.room : *bytes;
    return code;
}

/* Every byte that comes back is wrong in one bit. */
static inline int wrong_download(ccq_gpu *gpu, void *to, const void *from, size_t size)
{
    int code = real->download(gpu, to, from, size);
    for (size_t i = 0; i < size; i++)
        ((uint8_t *)to)[i] ^= 1;
    return code;
}

/* mine takes the place of the device's functions; they fail as `failing` says: not yet. */
static inline ccq_gpu *failing_open(ccq_gpu_device *mine, int wrong)
{
    char why[CCQ_GPU_TEXT];
    ccq_gpu *gpu;

    REQUIRE(!ccq_gpu_open(CCQ_GPU_HOST, 0, &gpu, why), "%s", why);
    failing.uploads = failing.downloads = failing.waits = -1;
    failing.pins = failing.allocations = -1;
    failing.room = 0;
    real = gpu->device;
    *mine = *real;
    mine->upload = no_upload;
    mine->download = wrong ? wrong_download : no_download;
    mine->wait = no_wait;
    mine->pin = no_pin;
    mine->alloc = no_alloc;
    mine->room = no_room;
    gpu->device = mine;
    return gpu;
}

static inline void failing_close(ccq_gpu *gpu)
{
    CHECK(!ccq_gpu_host_broken(gpu), "written past an end of the device's memory");
    gpu->device = real;
    ccq_gpu_close(gpu);
}

#endif
