#include "kernels/gpu/wint2_gemm.h"
#include "kernels/gpu_device.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

int ccq_gpu_fail(ccq_gpu *gpu, int code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(gpu->error, sizeof gpu->error, fmt, ap);
    va_end(ap);
    return code;
}

int ccq_gpu_count(int kind, char why[CCQ_GPU_TEXT])
{
    *why = 0;
    return kind == CCQ_GPU_HOST ? 1 : ccq_gpu_cuda_count(why);
}

int ccq_gpu_open(int kind, int index, ccq_gpu **gpu, char why[CCQ_GPU_TEXT])
{
    ccq_gpu *g = calloc(1, sizeof *g);
    int code = CCQ_GPU_NO_MEMORY;

    *gpu = NULL;
    *why = 0;
    if (g)
        code = kind == CCQ_GPU_HOST ? ccq_gpu_host_open(g, index) : ccq_gpu_cuda_open(g, index);
    if (code) {
        snprintf(why, CCQ_GPU_TEXT, "%s", g ? g->error : "out of memory");
        free(g);
        return code;
    }
    *gpu = g;
    return CCQ_GPU_OK;
}

void ccq_gpu_close(ccq_gpu *gpu)
{
    if (!gpu)
        return;
    gpu->device->close(gpu);
    free(gpu);
}

int ccq_gpu_kind(const ccq_gpu *gpu)
{
    return gpu->device->kind;
}

const ccq_gpu_info *ccq_gpu_describe(const ccq_gpu *gpu)
{
    return &gpu->info;
}

const char *ccq_gpu_error(const ccq_gpu *gpu)
{
    return gpu->error;
}

int ccq_gpu_room(ccq_gpu *gpu, uint64_t *bytes)
{
    return gpu->device->room(gpu, bytes);
}

/* ---- Memory -------------------------------------------------------------- */

int ccq_gpu_alloc(ccq_gpu *gpu, size_t size, void **memory)
{
    *memory = NULL;
    return gpu->device->alloc(gpu, size ? size : 1, memory);
}

void ccq_gpu_free(ccq_gpu *gpu, void *memory)
{
    if (memory)
        gpu->device->free(gpu, memory);
}

int ccq_gpu_pin(ccq_gpu *gpu, size_t size, void **memory)
{
    *memory = NULL;
    return gpu->device->pin(gpu, size ? size : 1, memory);
}

void ccq_gpu_unpin(ccq_gpu *gpu, void *memory)
{
    if (memory)
        gpu->device->unpin(gpu, memory);
}

int ccq_gpu_upload(ccq_gpu *gpu, void *to, const void *from, size_t size)
{
    return size ? gpu->device->upload(gpu, to, from, size) : CCQ_GPU_OK;
}

int ccq_gpu_download(ccq_gpu *gpu, void *to, const void *from, size_t size)
{
    return size ? gpu->device->download(gpu, to, from, size) : CCQ_GPU_OK;
}

int ccq_gpu_copy(ccq_gpu *gpu, void *to, const void *from, size_t size)
{
    return size ? gpu->device->copy(gpu, to, from, size) : CCQ_GPU_OK;
}

int ccq_gpu_fill(ccq_gpu *gpu, void *to, int byte, size_t size)
{
    return size ? gpu->device->fill(gpu, to, byte, size) : CCQ_GPU_OK;
}

/* ---- Queues -------------------------------------------------------------- */

void ccq_gpu_queue(ccq_gpu *gpu, int queue)
{
    gpu->queue = queue;
}

int ccq_gpu_after(ccq_gpu *gpu, int other)
{
    return gpu->device->after(gpu, other);
}

int ccq_gpu_wait(ccq_gpu *gpu)
{
    return gpu->device->wait(gpu, gpu->queue);
}

int ccq_gpu_wait_all(ccq_gpu *gpu)
{
    int code = CCQ_GPU_OK;

    for (int q = 0; q < CCQ_GPU_QUEUES && !code; q++)
        code = gpu->device->wait(gpu, q);
    return code;
}

int ccq_gpu_mark(ccq_gpu *gpu, int mark)
{
    return gpu->device->mark(gpu, mark);
}

int ccq_gpu_between(ccq_gpu *gpu, int first, int second, float *ms)
{
    return gpu->device->between(gpu, first, second, ms);
}

int ccq_gpu_record(ccq_gpu *gpu)
{
    return gpu->device->record(gpu);
}

int ccq_gpu_recorded(ccq_gpu *gpu, ccq_gpu_graph **graph)
{
    *graph = NULL;
    return gpu->device->recorded(gpu, graph);
}

int ccq_gpu_replay(ccq_gpu *gpu, ccq_gpu_graph *graph)
{
    return gpu->device->replay(gpu, graph);
}

void ccq_gpu_graph_free(ccq_gpu *gpu, ccq_gpu_graph *graph)
{
    if (graph)
        gpu->device->graph_free(gpu, graph);
}

/* ---- Kernels ------------------------------------------------------------- */

const ccq_gpu_model_ops *ccq_gpu_model(const ccq_gpu *gpu)
{
    return gpu->device->model;
}

const ccq_gpu_wint2_ops *ccq_gpu_wint2(const ccq_gpu *gpu)
{
    const ccq_w2_shape largest = ccq_w2_shape_of(CCQ_W2_MOST);

    return gpu->info.shared_bytes >= ccq_w2_shared_bytes(largest) ? gpu->device->wint2 : NULL;
}

const ccq_gpu_encode_ops *ccq_gpu_encode(const ccq_gpu *gpu)
{
    return gpu->device->encode;
}
