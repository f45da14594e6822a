/* Experts of few rows on CUDA: the phases of kernels/gpu/wint2_gemm.h, a ring of asynchronous
 * copies around them, and mma.sync in the middle. */
#include "kernels/cuda/blas.cuh"
#include "kernels/gpu/wint2_device.h"
#include "kernels/gpu/wint2_dense.h"

/* ---- Staging ------------------------------------------------------------- */

static __global__ void __launch_bounds__(CCQ_W2_STAGERS) stage_rows(ccq_w2_stage s)
{
    __shared__ uint32_t tops[CCQ_W2_STAGERS];
    int64_t row = blockIdx.x;
    int thread = static_cast<int>(threadIdx.x), tau;
    uint32_t top = 0;

    if (s.form == CCQ_W2_FORM_G) {
        tops[thread] = ccq_w2_stage_top(&s, row, thread);
        __syncthreads();
        for (int i = 0; i < CCQ_W2_STAGERS; i++)
            top = tops[i] > top ? tops[i] : top;
        if (!thread)
            s.tau[row] = ccq_w2_stage_tau(top);
    }
    tau = ccq_w2_stage_tau(top);
    for (int64_t group = thread; group < s.k / CCQ_GROUP; group += CCQ_W2_STAGERS)
        ccq_w2_stage_group(&s, row, group, tau);
}

static int stage(ccq_gpu *gpu, const ccq_w2_stage *s)
{
    stage_rows<<<static_cast<unsigned>(s->rows), CCQ_W2_STAGERS, 0, ccq_cuda_stream(gpu)>>>(*s);
    return ccq_cuda_launched(gpu, "rows of wint2 experts");
}

/* ---- Tensor cores -------------------------------------------------------- */

/* d = a . b + c; d and c may be the same. */
template <int FORM>
static __device__ __forceinline__ void mma(const uint32_t a[4], const uint32_t b[2],
                                           const float c[4], float d[4])
{
    if (FORM == CCQ_W2_FORM_G)
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
            "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
            : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]),
              "f"(c[1]), "f"(c[2]), "f"(c[3]));
    else
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
            "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
            : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]),
              "f"(c[1]), "f"(c[2]), "f"(c[3]));
}

/* 8 rows of a group: straight into the sums, or in form G by way of the group's own. */
template <int FORM>
static __device__ __forceinline__ void multiply(const uint32_t a[4][4], const uint32_t b[8],
                                                const float start[4], const float local[2],
                                                float sum[4])
{
    if (FORM == CCQ_W2_FORM_G) {
        float d[4];
        mma<FORM>(a[0], b, start, d);
#pragma unroll
        for (int m = 1; m < 4; m++)
            mma<FORM>(a[m], b + 2 * m, d, d);
        ccq_w2_add_group(d, local, sum);
    } else {
#pragma unroll
        for (int m = 0; m < 4; m++)
            mma<FORM>(a[m], b + 2 * m, sum, sum);
    }
}

/* A warp's part of a slot. */
template <int NT, int FORM, int EXACT>
static __device__ __forceinline__ void warp_step(ccq_w2_shape s, ccq_w2_thread &t,
                                                 const uint8_t *slot)
{
    uint32_t locals[2] = {ccq_w2_load_locals(&t, slot, 0), ccq_w2_load_locals(&t, slot, 1)};

#pragma unroll
    for (int o = 0; o < 2; o++) {
        uint32_t b[NT][8];
        float start[NT][4];
#pragma unroll
        for (int j = 0; j < NT; j++) {
            ccq_w2_load_b(&t, slot, j, o, b[j]);
            if (FORM == CCQ_W2_FORM_G)
                ccq_w2_load_start(s, &t, slot, j, o, start[j]);
        }
#pragma unroll
        for (int tile = 0; tile < 2; tile++) {
            uint32_t a[4][4];
            float local[2];
            ccq_w2_load_a(FORM, EXACT, &t, slot, locals[tile], tile, o, a, local);
#pragma unroll
            for (int j = 0; j < NT; j++)
                multiply<FORM>(a, b[j], start[j], local, t.sum[tile][j]);
        }
    }
}

/* ---- Blocks -------------------------------------------------------------- */

static __device__ __forceinline__ void commit_copies()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int PENDING> static __device__ __forceinline__ void await_copies()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

/* All blocks of K of the thread's split, by the turns of kernels/gpu/wint2_ring.h. */
template <int NT, int FORM, int EXACT>
static __device__ __forceinline__ void run_blocks(const ccq_w2_gemm &p, ccq_w2_thread &t,
                                                  uint8_t *shared)
{
    const ccq_w2_shape s = ccq_w2_shape_of(NT);
    const int size = ccq_w2_slot_bytes(s);
    ccq_w2_ring ring = ccq_w2_ring_of(size);

#pragma unroll
    for (int i = 0; i < CCQ_W2_AHEAD; i += CCQ_W2_TURN) {
        ccq_w2_fetch_first(s, &p, &t, i, shared);
        commit_copies();
    }
#pragma unroll 1
    for (int most = ccq_w2_most_blocks(s, &p); most > 0; most -= CCQ_W2_TURN) {
        await_copies<CCQ_W2_PENDING>();
        __syncthreads();
        ccq_w2_fetch_next(s, &p, &t, ring.fill, shared);
        commit_copies();
#pragma unroll
        for (int i = 0; i < CCQ_W2_TURN; i++)
            if (ccq_w2_has(t.blocks, i))
                warp_step<NT, FORM, EXACT>(s, t, shared + ring.now + i * size);
        t.blocks -= CCQ_W2_TURN;
        ccq_w2_ring_next(size, &ring);
    }
    await_copies<0>();
    __syncthreads();
}

/* The constants as no compiler knows them: read back from memory that it thinks may change. */
static __device__ __forceinline__ void keep_known(const ccq_w2_known &from, ccq_w2_known &to)
{
    __shared__ ccq_w2_known kept;
    const volatile ccq_w2_known *seen = &kept;

    if (!threadIdx.x)
        kept = from;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 4; i++) {
        to.one[i] = seen->one[i];
        to.base[i] = seen->base[i];
    }
    to.field = seen->field;
    to.unit = from.unit;
}

/* Found by one warp; from memory, as nothing that a compiler would rather find again. */
template <int NT>
static __device__ __forceinline__ int find_expert(const int32_t *start, int64_t all, int thread)
{
    __shared__ int found;

    if (thread < 32) {
        int64_t expert = ccq_w2_expert_of(start, all, NT, blockIdx.y, thread);
        if (!thread)
            found = static_cast<int>(expert);
    }
    __syncthreads();
    return *const_cast<volatile int *>(&found);
}

/* Column group blockIdx.x of the blockIdx.y-th expert with NT tiles of rows. */
template <int NT, int FORM>
static __global__ void __launch_bounds__(256, NT < 3 ? 2 : 1)
    experts(ccq_w2_gemm params, ccq_w2_known constants, int64_t all)
{
    extern __shared__ __align__(16) uint8_t shared[];
    const ccq_w2_shape s = ccq_w2_shape_of(NT);
    const int thread = static_cast<int>(threadIdx.x);
    const int expert = find_expert<NT>(params.start, all, thread);
    ccq_w2_gemm p = params;
    ccq_w2_block b;
    ccq_w2_thread t;
    ccq_w2_known known;

    if (expert < 0)
        return;
    p.form = FORM;
    keep_known(constants, known);
    ccq_w2_block_init(s, &p, expert, blockIdx.x, &b);
    for (; b.left > 0; ccq_w2_block_next(s, &b)) {
        ccq_w2_thread_init(s, &p, &b, &known, thread, &t);
        if (FORM != CCQ_W2_FORM_U && b.exact)
            run_blocks<NT, FORM, 1>(p, t, shared);
        else
            run_blocks<NT, FORM, 0>(p, t, shared);
        ccq_w2_leave(s, &t, thread, shared);
        __syncthreads();
        ccq_w2_put(s, &p, &b, shared, thread);
        __syncthreads();
    }
}

/* ---- Launches ------------------------------------------------------------ */

template <int NT, int FORM>
static int launch(ccq_gpu *gpu, const ccq_w2_gemm *p, int64_t count)
{
    const ccq_w2_shape s = ccq_w2_shape_of(NT);
    const int bytes = ccq_w2_shared_bytes(s);
    const int64_t most = ccq_w2_launch_experts(NT, count, p->rows);
    dim3 grid(static_cast<unsigned>(p->n / (32 * s.cw)), static_cast<unsigned>(most));
    if (!most)
        return CCQ_GPU_OK;
    cudaError_t e = cudaFuncSetAttribute(experts<NT, FORM>,
                                         cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (e != cudaSuccess)
        return ccq_cuda_check(gpu, e, "shared memory of wint2 experts");
    experts<NT, FORM><<<grid, ccq_w2_threads(s), static_cast<size_t>(bytes),
                        ccq_cuda_stream(gpu)>>>(*p, ccq_w2_known_of(), count);
    return ccq_cuda_launched(gpu, "wint2 experts");
}

/* A kernel for every number of tiles of rows that an expert may have. */
template <int FORM>
static int gemm_of(ccq_gpu *gpu, const ccq_w2_gemm *p, int64_t count, int64_t most)
{
    int code = launch<1, FORM>(gpu, p, count);
    if (!code && most > CCQ_W2_TOKENS)
        code = launch<2, FORM>(gpu, p, count);
    if (!code && most > 2 * CCQ_W2_TOKENS)
        code = launch<3, FORM>(gpu, p, count);
    if (!code && most > 3 * CCQ_W2_TOKENS)
        code = launch<4, FORM>(gpu, p, count);
    return code;
}

static int gemm(ccq_gpu *gpu, const ccq_w2_gemm *p, int64_t count, int64_t most)
{
    if (p->form == CCQ_W2_FORM_G)
        return gemm_of<CCQ_W2_FORM_G>(gpu, p, count, most);
    if (p->form == CCQ_W2_FORM_B)
        return gemm_of<CCQ_W2_FORM_B>(gpu, p, count, most);
    return gemm_of<CCQ_W2_FORM_U>(gpu, p, count, most);
}

extern "C" int ccq_gpu_wint2_cuda_way(ccq_gpu *gpu, const ccq_gpu_experts *p)
{
    const int wide = ccq_gpu_wint2_cuda_has_wide(gpu);

    if (ccq_w2_dense_takes(p, wide) && ccq_cuda_blas(gpu))
        return CCQ_GPU_WAY_DENSE;
    return p->large && wide && ccq_w2_wide_takes(p) ? CCQ_GPU_WAY_WIDE : CCQ_GPU_WAY_FEW;
}

extern "C" int ccq_gpu_wint2_cuda_experts(ccq_gpu *gpu, const ccq_gpu_experts *p)
{
    int code = ccq_w2_check_experts(gpu, p);

    if (code || !p->rows || !p->experts)
        return code;
    const int way = ccq_gpu_wint2_cuda_way(gpu, p);
    if (way == CCQ_GPU_WAY_DENSE)
        return ccq_gpu_wint2_cuda_dense(gpu, p);
    if (way == CCQ_GPU_WAY_WIDE)
        return ccq_gpu_wint2_cuda_wide(gpu, p);
    ccq_w2_plan plan = ccq_w2_plan_of(p);
    code = stage(gpu, &plan.x);
    if (!code)
        code = gemm(gpu, &plan.up_gate, p->experts, p->most);
    if (plan.h.form == CCQ_W2_FORM_G && !code)
        code = stage(gpu, &plan.h);
    return code ? code : gemm(gpu, &plan.down, p->experts, p->most);
}
