/* The simple kernels of kernels/gpu_model.h on CUDA. Rows are grid.x, elements of a row
 * grid.y. */
#include "kernels/cuda/blas.cuh"
#include "kernels/gpu/attend.h"
#include "kernels/gpu/linear_plan.h"
#include "kernels/gpu/model.h"
#include "kernels/gpu/model_router.h"
#include "kernels/gpu/model_sort.h"
#include "kernels/gpu_model_device.h"

/* One thread an element. */
static dim3 grid_of(int64_t rows, int64_t columns)
{
    return dim3(static_cast<unsigned>(rows),
                static_cast<unsigned>(ccq_gpu_ceil(columns, CCQ_GPU_THREADS)));
}

static __device__ inline int64_t my_column(void)
{
    return static_cast<int64_t>(blockIdx.y) * CCQ_GPU_THREADS + threadIdx.x;
}

static __device__ inline int my_thread(void)
{
    return static_cast<int>(threadIdx.x);
}

/* ---- Every output by itself ---------------------------------------------- */

static __global__ void embed_kernel(ccq_gpu_embed p)
{
    if (my_column() < p.h)
        ccq_gpu_embed_at(&p, blockIdx.x, my_column());
}

static int embed(ccq_gpu *gpu, const ccq_gpu_embed *p)
{
    if (!p->rows || !p->h)
        return CCQ_GPU_OK;
    embed_kernel<<<grid_of(p->rows, p->h), CCQ_GPU_THREADS, 0, ccq_cuda_stream(gpu)>>>(*p);
    return ccq_cuda_launched(gpu, "embed");
}

static __global__ void add_kernel(ccq_gpu_add p)
{
    int64_t i = static_cast<int64_t>(blockIdx.x) * CCQ_GPU_THREADS + threadIdx.x;
    if (i < p.count)
        ccq_gpu_add_at(&p, i);
}

static int add(ccq_gpu *gpu, const ccq_gpu_add *p)
{
    if (!p->count)
        return CCQ_GPU_OK;
    add_kernel<<<grid_of(ccq_gpu_ceil(p->count, CCQ_GPU_THREADS), 1), CCQ_GPU_THREADS, 0,
                 ccq_cuda_stream(gpu)>>>(*p);
    return ccq_cuda_launched(gpu, "add");
}

static __global__ void rope_kernel(ccq_gpu_rope p)
{
    if (my_column() < (p.heads + 2 * p.kv_heads) * (p.d / 2))
        ccq_gpu_rope_at(&p, blockIdx.x, my_column());
}

static int rope(ccq_gpu *gpu, const ccq_gpu_rope *p)
{
    int64_t pairs = (p->heads + 2 * p->kv_heads) * (p->d / 2);
    if (!p->rows || !pairs)
        return CCQ_GPU_OK;
    rope_kernel<<<grid_of(p->rows, pairs), CCQ_GPU_THREADS, 0, ccq_cuda_stream(gpu)>>>(*p);
    return ccq_cuda_launched(gpu, "rope");
}

static __global__ void swiglu_kernel(ccq_gpu_swiglu p)
{
    if (my_column() < p.n)
        ccq_gpu_swiglu_at(&p, blockIdx.x, my_column());
}

static int swiglu(ccq_gpu *gpu, const ccq_gpu_swiglu *p)
{
    if (!p->rows || !p->n)
        return CCQ_GPU_OK;
    swiglu_kernel<<<grid_of(p->rows, p->n), CCQ_GPU_THREADS, 0, ccq_cuda_stream(gpu)>>>(*p);
    return ccq_cuda_launched(gpu, "swiglu");
}

static __global__ void gather_kernel(ccq_gpu_gather p)
{
    if (my_column() < p.h)
        ccq_gpu_gather_at(&p, blockIdx.x, my_column());
}

static int gather(ccq_gpu *gpu, const ccq_gpu_gather *p)
{
    if (!p->rows || !p->h)
        return CCQ_GPU_OK;
    gather_kernel<<<grid_of(p->rows, p->h), CCQ_GPU_THREADS, 0, ccq_cuda_stream(gpu)>>>(*p);
    return ccq_cuda_launched(gpu, "gather");
}

static __global__ void combine_kernel(ccq_gpu_combine p)
{
    if (my_column() < p.h)
        ccq_gpu_combine_at(&p, blockIdx.x, my_column());
}

static int combine(ccq_gpu *gpu, const ccq_gpu_combine *p)
{
    if (!p->rows || !p->h)
        return CCQ_GPU_OK;
    combine_kernel<<<grid_of(p->rows, p->h), CCQ_GPU_THREADS, 0, ccq_cuda_stream(gpu)>>>(*p);
    return ccq_cuda_launched(gpu, "combine");
}

/* ---- Every row by a block ------------------------------------------------ */

static __global__ void rms_kernel(ccq_gpu_rms p)
{
    __shared__ float sums[CCQ_GPU_RMS_THREADS];

    sums[my_thread()] = ccq_gpu_rms_sum(&p, blockIdx.x, my_thread());
    for (int half = CCQ_GPU_RMS_THREADS / 2; half; half /= 2) {
        __syncthreads();
        ccq_gpu_rms_fold(sums, half, my_thread());
    }
    __syncthreads();
    ccq_gpu_rms_write(&p, blockIdx.x, my_thread(), sums[0]);
}

static int rms(ccq_gpu *gpu, const ccq_gpu_rms *p)
{
    if (!p->rows || !p->h)
        return CCQ_GPU_OK;
    rms_kernel<<<static_cast<unsigned>(p->rows), CCQ_GPU_RMS_THREADS, 0, ccq_cuda_stream(gpu)>>>(
        *p);
    return ccq_cuda_launched(gpu, "rms");
}

static __global__ void router_sums_kernel(ccq_gpu_router p, ccq_gpu_router_grid g)
{
    __shared__ ccq_gpu_router_shared shared;

    ccq_gpu_router_add(&p, &g, blockIdx.z, blockIdx.y, blockIdx.x, my_thread(), &shared);
    __syncthreads();
    ccq_gpu_router_piece(&p, blockIdx.z, blockIdx.y, blockIdx.x, my_thread(), &shared);
}

static __global__ void router_choice_kernel(ccq_gpu_router p, ccq_gpu_router_grid g)
{
    __shared__ float score[CCQ_GPU_ROUTER_MOST], chance[CCQ_GPU_ROUTER_MOST];
    int threads = static_cast<int>(blockDim.x);

    ccq_gpu_router_logits(&p, g.pieces, blockIdx.x, my_thread(), threads, score);
    __syncthreads();
    ccq_gpu_router_raise(&p, my_thread(), threads, score, chance);
    __syncthreads();
    float sum = ccq_router_sum(chance, p.experts);
    ccq_gpu_router_score(&p, sum, my_thread(), threads, chance, score);
    __syncthreads();
    ccq_gpu_router_choose(&p, sum, blockIdx.x, my_thread(), threads, chance, score);
}

static int router(ccq_gpu *gpu, const ccq_gpu_router *p)
{
    ccq_gpu_router_grid g =
        ccq_gpu_router_plan(p->rows, p->hidden, p->experts, gpu->info.multiprocessors);
    dim3 grid(static_cast<unsigned>(g.rows), static_cast<unsigned>(g.experts),
              static_cast<unsigned>(g.pieces));
    int threads = static_cast<int>(ccq_gpu_min(CCQ_GPU_THREADS, 32 * g.experts));

    if (!p->rows || !p->experts)
        return CCQ_GPU_OK;
    if (p->experts > CCQ_GPU_ROUTER_MOST || p->k > p->experts)
        return ccq_gpu_fail(gpu, CCQ_GPU_FAILED, "router: %lld of %lld experts, at most %d",
                            static_cast<long long>(p->k), static_cast<long long>(p->experts),
                            CCQ_GPU_ROUTER_MOST);
    router_sums_kernel<<<grid, CCQ_GPU_THREADS, 0, ccq_cuda_stream(gpu)>>>(*p, g);
    router_choice_kernel<<<static_cast<unsigned>(p->rows), threads, 0, ccq_cuda_stream(gpu)>>>(*p,
                                                                                               g);
    return ccq_cuda_launched(gpu, "router");
}

static __global__ void sort_kernel(ccq_gpu_sort p)
{
    __shared__ ccq_gpu_sort_shared shared;

    ccq_gpu_sort_count(&p, blockIdx.x, my_thread(), &shared);
    __syncthreads();
    ccq_gpu_sort_place(&p, blockIdx.x, my_thread(), &shared);
}

static int sort(ccq_gpu *gpu, const ccq_gpu_sort *p)
{
    if (!p->experts)
        return CCQ_GPU_OK;
    sort_kernel<<<static_cast<unsigned>(p->experts), CCQ_GPU_THREADS, 0, ccq_cuda_stream(gpu)>>>(
        *p);
    return ccq_cuda_launched(gpu, "sort");
}

/* ---- For benchmarks ------------------------------------------------------ */

static __global__ void __launch_bounds__(CCQ_GPU_THREADS, 4) read_kernel(ccq_gpu_read p)
{
    __shared__ uint32_t words[CCQ_GPU_THREADS];
    uint32_t all = 0;

    words[my_thread()] = ccq_gpu_read_thread(&p, blockIdx.x, my_thread());
    __syncthreads();
    for (int t = 0; t < CCQ_GPU_THREADS && !my_thread(); t++)
        all ^= words[t];
    if (!my_thread())
        p.to[blockIdx.x] = all;
}

static int read_all(ccq_gpu *gpu, const ccq_gpu_read *p)
{
    if (p->size < CCQ_GPU_READ)
        return CCQ_GPU_OK;
    read_kernel<<<static_cast<unsigned>(p->size / CCQ_GPU_READ), CCQ_GPU_THREADS, 0,
                  ccq_cuda_stream(gpu)>>>(*p);
    return ccq_cuda_launched(gpu, "reading");
}

/* ---- The table ----------------------------------------------------------- */

static size_t attend_work(const ccq_gpu *gpu, int64_t rows, int64_t heads, int64_t d,
                          int64_t longest)
{
    (void)rows, (void)heads, (void)longest;
    return ccq_gpu_attend_bytes(d, gpu->info.multiprocessors);
}

static size_t linear_work(const ccq_gpu *gpu, const ccq_weight *w, int64_t rows, int bf16)
{
    return ccq_gpu_linear_bytes(w, rows, bf16, gpu->info.multiprocessors);
}

static size_t router_work(const ccq_gpu *gpu, int64_t rows, int64_t experts)
{
    return ccq_gpu_router_bytes(rows, experts, gpu->info.multiprocessors);
}

/* In the order of ccq_gpu_model_ops. */
const ccq_gpu_model_ops ccq_gpu_model_cuda = {
    embed,  rms,    add,     rope,
    ccq_gpu_cuda_attend,     swiglu, router, sort,
    gather, combine, ccq_gpu_cuda_linear, ccq_gpu_cuda_grouped,
    attend_work, linear_work, router_work, ccq_cuda_dense, read_all,
};
