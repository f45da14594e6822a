/* Encoding with feedback: kernels/gpu/feedback*.h, a block of threads at a time. */
#include "kernels/cuda/common.cuh"
#include "kernels/gpu/feedback_pass.h"
#include "kernels/gpu/feedback_sums.h"
#include "kernels/gpu_feedback.h"

namespace {

#define BLOCK_KERNEL static __global__ void __launch_bounds__(CCQ_FB_THREADS, 2)

BLOCK_KERNEL measure_kernel(const __grid_constant__ ccq_fb p)
{
    __shared__ ccq_fb_measure_shared sh;
    ccq_fb_measure(&p, blockIdx.x, &sh);
}

BLOCK_KERNEL gather_kernel(const __grid_constant__ ccq_fb p)
{
    __shared__ ccq_fb_gather_shared sh;
    ccq_fb_gather(&p, blockIdx.x, blockIdx.y, &sh);
}

BLOCK_KERNEL lines_kernel(const __grid_constant__ ccq_fb p)
{
    extern __shared__ __align__(16) unsigned char memory[];
    ccq_fb_thread th[1];
    ccq_fb_lines(&p, blockIdx.x, static_cast<int>(blockIdx.y),
                 reinterpret_cast<ccq_fb_lines_shared *>(memory), th);
}

BLOCK_KERNEL choose_kernel(const __grid_constant__ ccq_fb p)
{
    ccq_fb_choose(&p, blockIdx.x, blockIdx.y);
}

BLOCK_KERNEL times_kernel(const __grid_constant__ ccq_fb p)
{
    extern __shared__ __align__(16) unsigned char memory[];
    const unsigned z = blockIdx.z;
    ccq_fb_thread th[1];
    ccq_fb_times(&p, blockIdx.x, blockIdx.y, z == 0 ? p.d : z == 1 ? p.w : p.x,
                 z == 0 ? p.r : z == 1 ? p.hw : p.hx, reinterpret_cast<ccq_fb_chain *>(memory),
                 th);
}

BLOCK_KERNEL pass_kernel(const __grid_constant__ ccq_fb p)
{
    extern __shared__ __align__(16) unsigned char memory[];
    ccq_fb_thread th[1];
    ccq_fb_pass(&p, blockIdx.x, reinterpret_cast<ccq_fb_pass_shared *>(memory), th);
}

BLOCK_KERNEL settle_kernel(const __grid_constant__ ccq_fb p)
{
    extern __shared__ __align__(16) unsigned char memory[];
    ccq_fb_thread th[1];
    ccq_fb_settle(&p, blockIdx.x, blockIdx.y, reinterpret_cast<ccq_fb_chain *>(memory), th);
}

BLOCK_KERNEL place_kernel(const __grid_constant__ ccq_fb p)
{
    ccq_fb_place(&p, blockIdx.x, blockIdx.y);
}

/* A thread a column: kernels that wait for memory, and have few threads. */
template <int KERNEL> __global__ void __launch_bounds__(32)
column_kernel(const __grid_constant__ ccq_fb p)
{
    const int64_t column = static_cast<int64_t>(blockIdx.x) * 32 + threadIdx.x;
    if (KERNEL == CCQ_FB_FINISH) {
        if (column < p.n)
            ccq_fb_finish(&p, column);
    } else if (KERNEL == CCQ_FB_SCALES) {
        ccq_fb_scales(&p, column);
    } else if (KERNEL == CCQ_FB_REFIT) {
        ccq_fb_refit(&p, column);
    } else {
        ccq_fb_judge(&p, column, KERNEL == CCQ_FB_JUDGE_FIRST);
    }
}

/* ---- Launches ------------------------------------------------------------ */

typedef void (*kernel_function)(ccq_fb);

struct launch {
    kernel_function function;
    size_t shared;
    int threads;
};

launch launch_of(ccq_fb_kernel kernel)
{
    switch (kernel) {
    case CCQ_FB_MEASURE: return {measure_kernel, 0, CCQ_FB_THREADS};
    case CCQ_FB_GATHER: return {gather_kernel, 0, CCQ_FB_THREADS};
    case CCQ_FB_SCALES: return {column_kernel<CCQ_FB_SCALES>, 0, 32};
    case CCQ_FB_LINES: return {lines_kernel, sizeof(ccq_fb_lines_shared), CCQ_FB_THREADS};
    case CCQ_FB_CHOOSE: return {choose_kernel, 0, CCQ_FB_THREADS};
    case CCQ_FB_TIMES: return {times_kernel, sizeof(ccq_fb_chain), CCQ_FB_THREADS};
    case CCQ_FB_JUDGE_FIRST: return {column_kernel<CCQ_FB_JUDGE_FIRST>, 0, 32};
    case CCQ_FB_JUDGE: return {column_kernel<CCQ_FB_JUDGE>, 0, 32};
    case CCQ_FB_REFIT: return {column_kernel<CCQ_FB_REFIT>, 0, 32};
    case CCQ_FB_PASS: return {pass_kernel, sizeof(ccq_fb_pass_shared), CCQ_FB_THREADS};
    case CCQ_FB_SETTLE: return {settle_kernel, sizeof(ccq_fb_chain), CCQ_FB_THREADS};
    case CCQ_FB_FINISH: return {column_kernel<CCQ_FB_FINISH>, 0, 32};
    default: return {place_kernel, 0, CCQ_FB_THREADS};
    }
}

int run(ccq_gpu *gpu, ccq_fb_kernel kernel, const ccq_fb *p, int64_t x, int64_t y, int64_t z)
{
    const launch l = launch_of(kernel);
    if (l.threads == 32)
        x = p->strips;
    if (l.shared) {
        cudaError_t e = cudaFuncSetAttribute(l.function,
                                             cudaFuncAttributeMaxDynamicSharedMemorySize,
                                             static_cast<int>(l.shared));
        if (e != cudaSuccess)
            return ccq_cuda_check(gpu, e, "shared memory of encoding with feedback");
    }
    const dim3 grid(static_cast<unsigned>(x), static_cast<unsigned>(y), static_cast<unsigned>(z));
    l.function<<<grid, l.threads, l.shared, ccq_cuda_stream(gpu)>>>(*p);
    return ccq_cuda_launched(gpu, "encoding with feedback");
}

} // namespace

extern "C" int ccq_gpu_feedback_cuda(ccq_gpu *gpu, const ccq_encoder *enc,
                                     const ccq_feedback_params *params,
                                     const ccq_gpu_feedback *p)
{
    return ccq_gpu_feedback_columns(gpu, run, enc, params, p);
}
