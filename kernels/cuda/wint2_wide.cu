/* Experts of many rows by wgmma: kernels/gpu/wint2_wide.h thread by thread. Needs sm_90a. */
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/blas.cuh"
#include "kernels/cuda/wgmma.cuh"
#include "kernels/gpu/linear_steps.h"
#include "kernels/gpu/wint2_dense.h"
#include "kernels/gpu/wint2_device.h"

/* ---- Staging --------------------------------------------------------------- */

static __global__ void wide_stage(ccq_w2_stage s)
{
    __shared__ uint32_t tops[CCQ_W2_STAGERS];
    int64_t row = blockIdx.x;
    int thread = static_cast<int>(threadIdx.x), tau;

    tops[thread] = s.form == CCQ_W2_FORM_W ? ccq_w2_stage_top(&s, row, thread) : 0;
    for (int half = CCQ_W2_STAGERS / 2; half; half /= 2) {
        __syncthreads();
        if (thread < half && tops[thread + half] > tops[thread])
            tops[thread] = tops[thread + half];
    }
    __syncthreads();
    tau = ccq_w2_stage_tau(tops[0]);
    if (s.form == CCQ_W2_FORM_W && !thread)
        s.tau[row] = tau;
    for (int64_t i = thread; i < s.k / 8; i += CCQ_W2_STAGERS)
        ccq_w2_wide_stage(&s, row, i / 8, static_cast<int>(i % 8), tau);
}

/* ---- Products ---------------------------------------------------------------- */

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define CCQ_W2_WIDE_HERE 1
#else
#define CCQ_W2_WIDE_HERE 0
#endif

#if CCQ_W2_WIDE_HERE

/* What the threads have copied is seen by the tensor cores, and all of it is there. */
template <int PENDING> static __device__ __forceinline__ void arrive()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
}

static __device__ __forceinline__ void commit_copies()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* One group. With two buffers for A it is decoded while the products of the one before are
 * under way; the sums of 256 rows leave registers for one, and the other warpgroup's products
 * for that time. */
template <int N, int FORM, bool EXACT, int BUFFERS>
static __device__ __forceinline__ void group(const ccq_w2_wide_thread &t, const uint8_t *slot,
                                             int o, uint32_t (&a)[4][4], float (&d)[N / 2])
{
    uint32_t x = static_cast<uint32_t>(__cvta_generic_to_shared(slot)) +
                 static_cast<uint32_t>(o * N * CCQ_W2_WIDE_ROW);

    ccq_wgmma_wait<BUFFERS - 1>(); /* those that read this a */
    ccq_w2_wide_load_a(N, FORM, EXACT, &t, slot, o, a);
    ccq_wgmma_fence();
#pragma unroll
    for (int m = 0; m < 4; m++)
        ccq_wgmma<N, FORM == CCQ_W2_FORM_W>(d, a[m], ccq_wgmma_descriptor(x + 32 * m));
    ccq_wgmma_commit();
}

template <int N, int FORM, bool EXACT>
static __device__ __forceinline__ void loop(const ccq_w2_gemm &p, const ccq_w2_wide_block &b,
                                            const ccq_w2_wide_thread &t, uint8_t *shared,
                                            float (&d)[N / 2])
{
    constexpr int buffers = CCQ_W2_WIDE_BUFFERS;
    const int blocks = static_cast<int>(p.k / CCQ_W2_BLOCK);
    uint32_t a[buffers][4][4];
    ccq_w2_wide_ring ring = ccq_w2_wide_ring_of();

    for (int k = 0; k < ccq_w2_wide_ahead(N); k++) {
        ccq_w2_wide_fetch_next(N, &p, &b, &t, &ring, shared);
        commit_copies();
        ccq_w2_wide_filled(N, &ring);
    }
    for (int k = 0; k < blocks; k++) {
        arrive<ccq_w2_wide_pending(N)>();
        ccq_w2_wide_fetch_next(N, &p, &b, &t, &ring, shared);
        commit_copies();
        ccq_w2_wide_filled(N, &ring);
        const uint8_t *slot = shared + ring.slot * ccq_w2_wide_slot_bytes(N);
        group<N, FORM, EXACT, buffers>(t, slot, 0, a[0], d);
        group<N, FORM, EXACT, buffers>(t, slot, 1, a[buffers - 1], d);
        ccq_w2_wide_used(N, &ring);
    }
    ccq_wgmma_wait<0>();
}

#endif

template <int N, int FORM>
static __global__ void __launch_bounds__(CCQ_W2_WIDE_THREADS, 1) wide(ccq_w2_gemm p)
{
#if CCQ_W2_WIDE_HERE
    extern __shared__ __align__(1024) uint8_t shared[];
    const int thread = static_cast<int>(threadIdx.x);
    ccq_w2_wide_block b;
    ccq_w2_wide_thread t;
    float d[N / 2];

    ccq_w2_wide_init(N, &p, blockIdx.y, blockIdx.x, blockIdx.z, &b);
    if (b.left <= 0)
        return;
    ccq_w2_wide_thread_init(&b, thread, &t);
    ccq_w2_wide_clear(N, &b, thread, shared);
#pragma unroll
    for (int i = 0; i < N / 2; i++)
        d[i] = 0.0f;
    if (b.exact)
        loop<N, FORM, true>(p, b, t, shared, d);
    else
        loop<N, FORM, false>(p, b, t, shared, d);
    __syncthreads(); /* all have read the ring */
    ccq_w2_wide_leave(N, &t, d, reinterpret_cast<float *>(shared));
    __syncthreads();
    ccq_w2_wide_put(N, &p, &b, reinterpret_cast<const float *>(shared), thread);
#endif
}

/* ---- Launches ------------------------------------------------------------------ */

template <int N, int FORM>
static int launch(ccq_gpu *gpu, const ccq_w2_gemm *p, int64_t experts, int64_t most)
{
    const int bytes = ccq_w2_wide_shared_bytes(N);
    dim3 grid(static_cast<unsigned>(p->n / CCQ_W2_WIDE_COLUMNS), static_cast<unsigned>(experts),
              static_cast<unsigned>((most + N - 1) / N));
    cudaError_t e = cudaFuncSetAttribute(wide<N, FORM>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         bytes);
    if (e != cudaSuccess)
        return ccq_cuda_check(gpu, e, "shared memory of wide experts");
    wide<N, FORM><<<grid, CCQ_W2_WIDE_THREADS, static_cast<size_t>(bytes),
                    ccq_cuda_stream(gpu)>>>(*p);
    return ccq_cuda_launched(gpu, "wide experts");
}

template <int N>
static int gemm_of(ccq_gpu *gpu, const ccq_w2_gemm *p, int64_t experts, int64_t most)
{
    return p->form == CCQ_W2_FORM_W ? launch<N, CCQ_W2_FORM_W>(gpu, p, experts, most)
                                    : launch<N, CCQ_W2_FORM_B>(gpu, p, experts, most);
}

static int gemm(ccq_gpu *gpu, const ccq_w2_gemm *p, int64_t experts, int64_t most, int n)
{
    switch (n) {
    case 32:
        return gemm_of<32>(gpu, p, experts, most);
    case 64:
        return gemm_of<64>(gpu, p, experts, most);
    case 128:
        return gemm_of<128>(gpu, p, experts, most);
    default:
        return gemm_of<256>(gpu, p, experts, most);
    }
}

static int stage(ccq_gpu *gpu, const ccq_w2_stage *s)
{
    wide_stage<<<static_cast<unsigned>(s->rows), CCQ_W2_STAGERS, 0, ccq_cuda_stream(gpu)>>>(*s);
    return ccq_cuda_launched(gpu, "staging of wide experts");
}

/* 1: this device has wgmma. */
int ccq_gpu_wint2_cuda_has_wide(const ccq_gpu *gpu)
{
    return gpu->info.major == 9 && gpu->info.minor == 0;
}

int ccq_gpu_wint2_cuda_wide(ccq_gpu *gpu, const ccq_gpu_experts *p)
{
    ccq_w2_plan plan = ccq_w2_wide_plan_of(p);
    int n = ccq_w2_wide_rows(p), code = stage(gpu, &plan.x);

    if (!code)
        code = gemm(gpu, &plan.up_gate, p->experts, p->most, n);
    if (!code && plan.h.form == CCQ_W2_FORM_W)
        code = stage(gpu, &plan.h);
    return code ? code : gemm(gpu, &plan.down, p->experts, p->most, n);
}

/* ---- Dequantized ------------------------------------------------------------------ */

static __global__ void dequant_kernel(ccq_w2_dequant p)
{
    int64_t warp = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
    if (warp < ccq_w2_dequant_warps(&p))
        ccq_w2_dequant_lane(&p, warp, static_cast<int>(threadIdx.x % 32));
}

static int dequant(ccq_gpu *gpu, const ccq_w2_dequant *p)
{
    const int64_t warps = CCQ_W2_WIDE_THREADS / 32;
    unsigned grid = static_cast<unsigned>((ccq_w2_dequant_warps(p) + warps - 1) / warps);
    dequant_kernel<<<grid, CCQ_W2_WIDE_THREADS, 0, ccq_cuda_stream(gpu)>>>(*p);
    return ccq_cuda_launched(gpu, "weights of wint2 experts");
}

static __global__ void hidden_kernel(ccq_w2_hidden p)
{
    int64_t j = static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x;
    if (j < p.inter)
        ccq_w2_hidden_at(&p, blockIdx.x, j);
}

static int hidden(ccq_gpu *gpu, const ccq_w2_hidden *p)
{
    const int64_t threads = CCQ_W2_WIDE_THREADS;
    dim3 grid(static_cast<unsigned>(p->rows),
              static_cast<unsigned>((p->inter + threads - 1) / threads));
    hidden_kernel<<<grid, CCQ_W2_WIDE_THREADS, 0, ccq_cuda_stream(gpu)>>>(*p);
    return ccq_cuda_launched(gpu, "hidden activations of wint2 experts");
}

static const ccq_w2_dense_steps dense_steps = {stage, dequant, ccq_cuda_dense, hidden,
                                               ccq_gpu_cuda_round};

int ccq_gpu_wint2_cuda_dense(ccq_gpu *gpu, const ccq_gpu_experts *p)
{
    return ccq_gpu_wint2_dense_by(gpu, &dense_steps, p);
}

size_t ccq_gpu_wint2_cuda_work(const ccq_gpu *gpu, int64_t experts, int64_t hidden, int64_t inter,
                               int64_t rows)
{
    return ccq_gpu_wint2_work(experts, hidden, inter, rows, ccq_gpu_wint2_cuda_has_wide(gpu));
}
