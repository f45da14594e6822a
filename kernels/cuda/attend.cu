/* Attention on CUDA. */
#include "kernels/cuda/common.cuh"
#include "kernels/gpu/attend.h"
#include "kernels/gpu_model_device.h"

template <int BF16, int WIDTH, int EACH>
static __global__ void __launch_bounds__(CCQ_GPU_THREADS)
    attend_kernel(const ccq_gpu_attend p, const ccq_gpu_attend_plan a)
{
    __shared__ ccq_gpu_attend_shared s;
    int t = static_cast<int>(threadIdx.x);
    ccq_gpu_attend_block b = ccq_gpu_attend_at(&p, &a, blockIdx.x, blockIdx.y);
    ccq_gpu_attend_thread r;

    ccq_gpu_attend_begin(&p, &b, WIDTH, EACH, t, &r, &s);
    for (int64_t base = b.first; base < b.end; base += CCQ_GPU_TILE) {
        for (int64_t step = 0; step < ccq_gpu_attend_steps(p.d, BF16); step++) {
            ccq_gpu_attend_stage(&p, &b, BF16, base, step, t, &s);
            __syncthreads();
            ccq_gpu_attend_score(&p, &b, BF16, WIDTH, base, step, t, &r, &s);
            __syncthreads();
        }
        ccq_gpu_attend_show(&b, WIDTH, base, t, &r, &s);
        __syncthreads();
        ccq_gpu_attend_most(WIDTH, t, &s);
        __syncthreads();
        ccq_gpu_attend_weigh(&b, BF16, WIDTH, base, t, &r, &s);
        __syncthreads();
        ccq_gpu_attend_add(&p, &b, BF16, WIDTH, EACH, base, t, &r, &s);
        __syncthreads();
    }
    ccq_gpu_attend_mark(&p, &a, &b, t, &r);
    CCQ_UNROLL
    for (int pass = 0; pass * CCQ_GPU_PASS < WIDTH; pass++) {
        ccq_gpu_attend_spill(WIDTH, EACH, pass, p.d, t, &r, &s);
        __syncthreads();
        ccq_gpu_attend_write(&p, &a, &b, pass, t, &s);
        __syncthreads();
    }
}

/* Rows are grid.x, elements of a row grid.y. */
static __global__ void join_kernel(const ccq_gpu_attend p, const ccq_gpu_attend_plan a)
{
    int64_t i = static_cast<int64_t>(blockIdx.y) * CCQ_GPU_THREADS + threadIdx.x;
    if (i < p.heads * p.d)
        ccq_gpu_attend_join(&p, &a, blockIdx.x, i / p.d, i % p.d);
}

template <int BF16, int WIDTH>
static void launch(const ccq_gpu_attend &p, const ccq_gpu_attend_plan &a, dim3 grid,
                   cudaStream_t stream)
{
    switch (ccq_gpu_attend_each(p.d)) {
    case 2: attend_kernel<BF16, WIDTH, 2><<<grid, CCQ_GPU_THREADS, 0, stream>>>(p, a); break;
    case 4: attend_kernel<BF16, WIDTH, 4><<<grid, CCQ_GPU_THREADS, 0, stream>>>(p, a); break;
    default: attend_kernel<BF16, WIDTH, 8><<<grid, CCQ_GPU_THREADS, 0, stream>>>(p, a); break;
    }
}

template <int BF16>
static void launch_width(const ccq_gpu_attend &p, const ccq_gpu_attend_plan &a, dim3 grid,
                         cudaStream_t stream)
{
    switch (a.width) {
    case 1: launch<BF16, 1>(p, a, grid, stream); break;
    case 4: launch<BF16, 4>(p, a, grid, stream); break;
    default: launch<BF16, 8>(p, a, grid, stream); break;
    }
}

int ccq_gpu_cuda_attend(ccq_gpu *gpu, const ccq_gpu_attend *p)
{
    const char *why = ccq_gpu_attend_refuses(p);
    cudaStream_t stream = ccq_cuda_stream(gpu);

    if (why)
        return ccq_gpu_fail(gpu, CCQ_GPU_FAILED, "attend: %s", why);
    ccq_gpu_attend_plan a = ccq_gpu_plan_attend(p, gpu->info.multiprocessors);
    if (!a.blocks)
        return CCQ_GPU_OK;
    if (a.blocks > INT32_MAX)
        return ccq_gpu_fail(gpu, CCQ_GPU_FAILED, "attend: too many rows at once");
    dim3 grid(static_cast<unsigned>(a.blocks), static_cast<unsigned>(a.pieces));
    dim3 join(static_cast<unsigned>(p->rows),
              static_cast<unsigned>(ccq_gpu_ceil(p->heads * p->d, CCQ_GPU_THREADS)));
    if (p->bf16)
        launch_width<1>(*p, a, grid, stream);
    else
        launch_width<0>(*p, a, grid, stream);
    if (a.pieces > 1)
        join_kernel<<<join, CCQ_GPU_THREADS, 0, stream>>>(*p, a);
    return ccq_cuda_launched(gpu, "attend");
}
