/* Devices, memory and streams of CUDA. The runtime is linked in, so that a program starts
 * where there is no driver. */
#include "kernels/cuda/blas.cuh"
#include "kernels/gpu/wint2_device.h"

#include <cstdio>
#include <cstdlib>

int ccq_cuda_check(ccq_gpu *gpu, cudaError_t e, const char *what)
{
    int code = e == cudaErrorMemoryAllocation ? CCQ_GPU_NO_MEMORY : CCQ_GPU_FAILED;
    return e == cudaSuccess ? CCQ_GPU_OK
                            : ccq_gpu_fail(gpu, code, "CUDA device %d: %s: %s",
                                           gpu->state ? ccq_cuda_of(gpu)->index : -1, what,
                                           cudaGetErrorString(e));
}

/* ---- Memory -------------------------------------------------------------- */

static int room(ccq_gpu *gpu, uint64_t *bytes)
{
    size_t available = 0, total = 0;
    int code = ccq_cuda_check(gpu, cudaMemGetInfo(&available, &total), "memory left");
    *bytes = available;
    return code;
}

static int alloc(ccq_gpu *gpu, size_t size, void **memory)
{
    cudaError_t e = cudaMalloc(memory, size);
    if (e == cudaErrorMemoryAllocation) {
        cudaGetLastError(); /* it is no error of what follows */
        return ccq_gpu_fail(gpu, CCQ_GPU_NO_MEMORY, "CUDA device %d: no memory for %zu bytes",
                            ccq_cuda_of(gpu)->index, size);
    }
    return ccq_cuda_check(gpu, e, "allocation");
}

static void release(ccq_gpu *gpu, void *memory)
{
    (void)gpu;
    cudaFree(memory);
}

static int pin(ccq_gpu *gpu, size_t size, void **memory)
{
    cudaError_t e = cudaMallocHost(memory, size);
    if (e == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        return ccq_gpu_fail(gpu, CCQ_GPU_NO_MEMORY, "CUDA device %d: %zu bytes cannot be pinned",
                            ccq_cuda_of(gpu)->index, size);
    }
    return ccq_cuda_check(gpu, e, "pinning");
}

static void unpin(ccq_gpu *gpu, void *memory)
{
    (void)gpu;
    cudaFreeHost(memory);
}

static int is_pinned(const void *memory)
{
    cudaPointerAttributes a;
    if (cudaPointerGetAttributes(&a, memory) != cudaSuccess) {
        cudaGetLastError();
        return 0;
    }
    return a.type == cudaMemoryTypeHost;
}

/* Memory that is not pinned is most often read by the time the call returns, but need not be. */
static int upload(ccq_gpu *gpu, void *to, const void *from, size_t size)
{
    cudaError_t e = cudaMemcpyAsync(to, from, size, cudaMemcpyHostToDevice, ccq_cuda_stream(gpu));
    if (e == cudaSuccess && !is_pinned(from))
        e = cudaStreamSynchronize(ccq_cuda_stream(gpu));
    return ccq_cuda_check(gpu, e, "upload");
}

static int download(ccq_gpu *gpu, void *to, const void *from, size_t size)
{
    cudaError_t e = cudaMemcpyAsync(to, from, size, cudaMemcpyDeviceToHost, ccq_cuda_stream(gpu));
    if (e == cudaSuccess && !is_pinned(to))
        e = cudaStreamSynchronize(ccq_cuda_stream(gpu));
    return ccq_cuda_check(gpu, e, "download");
}

static int copy(ccq_gpu *gpu, void *to, const void *from, size_t size)
{
    cudaError_t e = cudaMemcpyAsync(to, from, size, cudaMemcpyDeviceToDevice, ccq_cuda_stream(gpu));
    return ccq_cuda_check(gpu, e, "copy");
}

static int fill(ccq_gpu *gpu, void *to, int byte, size_t size)
{
    return ccq_cuda_check(gpu, cudaMemsetAsync(to, byte, size, ccq_cuda_stream(gpu)), "fill");
}

/* ---- Queues -------------------------------------------------------------- */

static int after(ccq_gpu *gpu, int other)
{
    ccq_cuda *c = ccq_cuda_of(gpu);
    cudaError_t e = cudaEventRecord(c->joint, c->stream[other]);
    if (e == cudaSuccess)
        e = cudaStreamWaitEvent(c->stream[gpu->queue], c->joint, 0);
    return ccq_cuda_check(gpu, e, "waiting for a queue");
}

static int wait(ccq_gpu *gpu, int queue)
{
    return ccq_cuda_check(gpu, cudaStreamSynchronize(ccq_cuda_of(gpu)->stream[queue]), "work");
}

static int mark(ccq_gpu *gpu, int number)
{
    cudaEvent_t *m = &ccq_cuda_of(gpu)->mark[number];
    cudaError_t e = *m ? cudaSuccess : cudaEventCreate(m);
    if (e == cudaSuccess)
        e = cudaEventRecord(*m, ccq_cuda_stream(gpu));
    return ccq_cuda_check(gpu, e, "mark");
}

static int between(ccq_gpu *gpu, int first, int second, float *ms)
{
    ccq_cuda *c = ccq_cuda_of(gpu);
    cudaError_t e = cudaEventSynchronize(c->mark[second]);
    if (e == cudaSuccess)
        e = cudaEventElapsedTime(ms, c->mark[first], c->mark[second]);
    return ccq_cuda_check(gpu, e, "time between marks");
}

/* ---- Graphs -------------------------------------------------------------- */

static int record(ccq_gpu *gpu)
{
    cudaError_t e = cudaStreamBeginCapture(ccq_cuda_stream(gpu), cudaStreamCaptureModeThreadLocal);
    return ccq_cuda_check(gpu, e, "recording");
}

static int recorded(ccq_gpu *gpu, ccq_gpu_graph **graph)
{
    cudaGraph_t g = NULL;
    cudaGraphExec_t exec = NULL;
    cudaError_t e = cudaStreamEndCapture(ccq_cuda_stream(gpu), &g);
    if (e == cudaSuccess)
        e = cudaGraphInstantiate(&exec, g, 0);
    if (g)
        cudaGraphDestroy(g);
    *graph = reinterpret_cast<ccq_gpu_graph *>(exec);
    return ccq_cuda_check(gpu, e, "recording");
}

static int replay(ccq_gpu *gpu, ccq_gpu_graph *graph)
{
    cudaError_t e = cudaGraphLaunch(reinterpret_cast<cudaGraphExec_t>(graph), ccq_cuda_stream(gpu));
    return ccq_cuda_check(gpu, e, "replay");
}

static void graph_free(ccq_gpu *gpu, ccq_gpu_graph *graph)
{
    (void)gpu;
    cudaGraphExecDestroy(reinterpret_cast<cudaGraphExec_t>(graph));
}

/* ---- Open, close --------------------------------------------------------- */

int ccq_gpu_cuda_count(char why[CCQ_GPU_TEXT])
{
    int n = 0;
    cudaError_t e = cudaGetDeviceCount(&n);
    cudaGetLastError();
    if (e != cudaSuccess)
        snprintf(why, CCQ_GPU_TEXT, "no CUDA device: %s", cudaGetErrorString(e));
    else if (!n)
        snprintf(why, CCQ_GPU_TEXT, "no CUDA device");
    return e == cudaSuccess ? n : 0;
}

static void close_cuda(ccq_gpu *gpu)
{
    ccq_cuda *c = ccq_cuda_of(gpu);
    cudaDeviceSynchronize();
    ccq_cuda_blas_close(c->blas);
    for (int i = 0; i < CCQ_GPU_QUEUES; i++)
        if (c->stream[i])
            cudaStreamDestroy(c->stream[i]);
    for (int i = 0; i < CCQ_GPU_MARKS; i++)
        if (c->mark[i])
            cudaEventDestroy(c->mark[i]);
    if (c->joint)
        cudaEventDestroy(c->joint);
    free(c);
    gpu->state = NULL;
}

/* In the order of ccq_gpu_device. */
static const ccq_gpu_device device = {
    CCQ_GPU_CUDA, close_cuda, room,   alloc,  release,  pin,    unpin,      after,   wait,
    upload,       download,   copy,   fill,   mark,     between, record,    recorded, replay,
    graph_free,   &ccq_gpu_model_cuda, &ccq_gpu_wint2_cuda, &ccq_gpu_encode_cuda,
};

static int describe(ccq_gpu *gpu, int index)
{
    cudaDeviceProp p;
    int code = ccq_cuda_check(gpu, cudaGetDeviceProperties(&p, index), "properties");
    if (code)
        return code;
    snprintf(gpu->info.name, sizeof gpu->info.name, "%.127s", p.name);
    gpu->info.major = p.major;
    gpu->info.minor = p.minor;
    gpu->info.multiprocessors = p.multiProcessorCount;
    gpu->info.shared_bytes = static_cast<int>(p.sharedMemPerBlockOptin);
    gpu->info.memory = p.totalGlobalMem;
    gpu->info.l2 = static_cast<uint64_t>(p.l2CacheSize);
    if (p.major < 8)
        return ccq_gpu_fail(gpu, CCQ_GPU_ABSENT,
                            "CUDA device %d: %s has compute capability %d.%d, 8.0 is needed", index,
                            p.name, p.major, p.minor);
    return CCQ_GPU_OK;
}

static int open_streams(ccq_gpu *gpu, ccq_cuda *c)
{
    cudaError_t e = cudaSetDevice(c->index);
    for (int i = 0; i < CCQ_GPU_QUEUES && e == cudaSuccess; i++)
        e = cudaStreamCreateWithFlags(&c->stream[i], cudaStreamNonBlocking);
    if (e == cudaSuccess)
        e = cudaEventCreateWithFlags(&c->joint, cudaEventDisableTiming);
    return ccq_cuda_check(gpu, e, "opening");
}

int ccq_gpu_cuda_open(ccq_gpu *gpu, int index)
{
    char why[CCQ_GPU_TEXT] = "";
    int count = ccq_gpu_cuda_count(why), code;
    if (!count)
        return ccq_gpu_fail(gpu, CCQ_GPU_ABSENT, "%s", why);
    if (index < 0 || index >= count)
        return ccq_gpu_fail(gpu, CCQ_GPU_ABSENT, "CUDA device %d: there are %d", index, count);
    ccq_cuda *c = static_cast<ccq_cuda *>(calloc(1, sizeof *c));
    if (!c)
        return ccq_gpu_fail(gpu, CCQ_GPU_NO_MEMORY, "CUDA device %d: out of memory", index);
    c->index = index;
    gpu->state = c;
    gpu->device = &device;
    code = describe(gpu, index);
    if (!code)
        code = open_streams(gpu, c);
    if (code)
        close_cuda(gpu);
    return code;
}
