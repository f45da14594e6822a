/* The encoder: kernels/gpu/encode*.h, a block of threads at a time. */
#include "kernels/cuda/common.cuh"
#include "kernels/gpu/encode_figures.h"
#include "kernels/gpu_feedback.h"

#include <cstdlib>

namespace {

constexpr unsigned ALL = 0xffffffffu;

__global__ void __launch_bounds__(CCQ_TURN_THREADS)
turn_kernel(ccq_gpu_columns p, ccq_gpu_encode_work w, int order)
{
    __shared__ ccq_turn_shared sh;
    ccq_turn_read(&p, order, blockIdx.x, static_cast<int>(threadIdx.x), &sh);
    __syncthreads();
    ccq_turn_write(&p, &w, blockIdx.x, static_cast<int>(threadIdx.x), &sh);
}

__global__ void __launch_bounds__(CCQ_PLACE_THREADS)
place_kernel(ccq_gpu_columns p, ccq_gpu_encode_work w)
{
    __shared__ ccq_place_shared sh;
    ccq_place_read(&p, &w, blockIdx.x, static_cast<int>(threadIdx.x), &sh);
    __syncthreads();
    ccq_place_write(&p, &w, blockIdx.x, static_cast<int>(threadIdx.x), &sh);
}

__global__ void __launch_bounds__(CCQ_FIGURES_THREADS)
figures_kernel(ccq_gpu_columns p, ccq_gpu_encode_work w, const ccq_gpu_line *lines, int gain)
{
    int64_t n = static_cast<int64_t>(blockIdx.x) * CCQ_FIGURES_THREADS + threadIdx.x;
    if (n < p.n)
        ccq_figures_of(&p, &w, lines, gain, n);
}

/* ---- The search ---------------------------------------------------------- */

/* A column at work, as the thread sees it. */
struct column {
    const uint16_t *x;
    const ccq_gpu_line *lines;
    ccq_search_shared *sh;
    int64_t k, tasks;
    int t, threads, rounds;
};

__device__ void warps_most(const column &c, uint32_t most)
{
    most = __reduce_max_sync(ALL, most);
    if (c.t % 32 == 0)
        c.sh->most[c.t / 32] = most;
    __syncthreads();
}

__device__ void warps_sum(const column &c, int64_t sum)
{
    for (int other = 16; other; other /= 2)
        sum += __shfl_xor_sync(ALL, static_cast<long long>(sum), other);
    if (c.t % 32 == 0)
        c.sh->sum[c.t / 32] = sum;
    __syncthreads();
}

__device__ __forceinline__ void quads_add_energies(ccq_search_thread *th, int other)
{
#pragma unroll
    for (int r = 0; r < CCQ_SEARCH_BLOCKS; r++)
        th->q[r] = th->q[r] + __shfl_xor_sync(ALL, th->q[r], other);
}

template <int LOCALS> __device__ __forceinline__ void quads_add_sums(ccq_search_thread *th,
                                                                     int other)
{
#pragma unroll
    for (int i = 0; i < LOCALS; i++)
        th->j[i] += __shfl_xor_sync(ALL, th->j[i], other);
}

__device__ void measure(const column &c)
{
    ccq_search_thread th;
    th.most = 0;
    for (int round = 0; round < c.rounds; round++) {
        int64_t task = static_cast<int64_t>(round) * c.threads + c.t;
        bool mine = task < c.tasks;
        ccq_search_energies(&th, c.x + 16 * (mine ? task : 0), c.sh);
        quads_add_energies(&th, 2);
        quads_add_energies(&th, 1);
        if (mine)
            ccq_search_rms_keep(&th, task, ccq_search_rms(c.sh));
    }
    warps_most(c, th.most);
    if (c.t == 0)
        ccq_search_measured(c.sh, c.threads);
    __syncthreads();
}

template <int LOCALS> __device__ void try_scale(const column &c, ccq_trial trial)
{
    const ccq_gpu_line *line = &c.lines[trial.book];
    const float s = ccq_search_scale(c.sh, line, trial), *rms = ccq_search_rms(c.sh);
    const int half = ccq_search_half(c.sh);
    uint8_t *bytes = ccq_search_bytes(c.sh, c.k, half), *local = ccq_search_local(c.sh, c.k, half);
    ccq_search_thread th;
    th.sum = 0;
    ccq_search_line(c.sh, line, c.t, c.threads);
    __syncthreads();
    for (int round = 0; round < c.rounds; round++) {
        int64_t task = static_cast<int64_t>(round) * c.threads + c.t;
        bool mine = task < c.tasks;
        int64_t at = mine ? task : 0;
        ccq_search_blocks(&th, c.x + 16 * at, c.sh, s, line->rms, rms[at / CCQ_SEARCH_QUAD],
                          LOCALS);
        quads_add_sums<LOCALS>(&th, 2);
        quads_add_sums<LOCALS>(&th, 1);
        if (mine)
            ccq_search_pick(&th, LOCALS, task % CCQ_SEARCH_QUAD == 0, bytes + 4 * task,
                            local + task / CCQ_SEARCH_QUAD);
    }
    warps_sum(c, th.sum);
    if (c.t == 0)
        ccq_search_decide(c.sh, c.threads, trial.book, s);
    __syncthreads();
}

__global__ void __launch_bounds__(CCQ_SEARCH_THREADS)
search_kernel(ccq_gpu_encode_work w, const ccq_gpu_line *lines, int64_t k, int effort)
{
    extern __shared__ __align__(16) unsigned char memory[];
    const int64_t n = blockIdx.x;
    column c = {w.x + n * k, lines, reinterpret_cast<ccq_search_shared *>(memory), k,
                k / CCQ_GROUP * CCQ_SEARCH_QUAD, static_cast<int>(threadIdx.x),
                static_cast<int>(blockDim.x), ccq_search_rounds(k)};
    warps_most(c, ccq_search_amax(c.x, k, c.t, c.threads));
    if (c.t == 0)
        ccq_search_begin(c.sh, c.threads);
    __syncthreads();
    if (c.sh->encoded) {
        measure(c);
        for (int i = 0; i < ccq_trials(effort); i++) {
            ccq_trial trial = ccq_trial_at(effort, i);
            if (trial.width == 3)
                try_scale<7>(c, trial);
            else
                try_scale<5>(c, trial);
        }
    }
    ccq_search_end(c.sh, &w, k, n, c.t, c.threads);
}

/* ---- Launches ------------------------------------------------------------ */

int tables(ccq_gpu *gpu, const ccq_encoder *enc, void *to)
{
    size_t size = CCQ_BOOKS * sizeof(ccq_gpu_line);
    ccq_gpu_line *line = static_cast<ccq_gpu_line *>(malloc(size));
    if (!line)
        return ccq_gpu_fail(gpu, CCQ_GPU_NO_MEMORY, "encoder's tables: out of memory");
    for (int i = 0; i < CCQ_BOOKS; i++)
        ccq_gpu_line_of(&enc->book[i], &line[i]);
    int code = ccq_gpu_upload(gpu, to, line, size);
    free(line); /* not pinned: it has been read */
    return code;
}

size_t work_size(const ccq_gpu *gpu, int64_t k, int64_t n)
{
    if (k < 1 || k % (2 * CCQ_GROUP) || n < 1 || n > INT32_MAX ||
        ccq_search_shared_bytes(k) > ccq_gpu_describe(gpu)->shared_bytes ||
        ccq_turn_blocks(k, n) > INT32_MAX)
        return 0;
    return ccq_gpu_encode_carve(nullptr, k, n, nullptr);
}

int launch_search(ccq_gpu *gpu, const ccq_gpu_columns *p, const ccq_gpu_encode_work &w,
                  const ccq_gpu_line *lines, int effort)
{
    size_t size = static_cast<size_t>(ccq_search_shared_bytes(p->k));
    cudaError_t e = cudaSuccess;
    if (size > 48 << 10)
        e = cudaFuncSetAttribute(search_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(size));
    if (e == cudaSuccess)
        search_kernel<<<static_cast<unsigned>(p->n), ccq_search_threads(p->k), size,
                        ccq_cuda_stream(gpu)>>>(w, lines, p->k, effort);
    return ccq_cuda_check(gpu, e, "encoding");
}

int columns(ccq_gpu *gpu, const void *tables, const ccq_encode_params *params,
            const ccq_gpu_columns *p)
{
    const ccq_gpu_line *lines = static_cast<const ccq_gpu_line *>(tables);
    cudaStream_t stream = ccq_cuda_stream(gpu);
    ccq_gpu_encode_work w = {};
    if (!work_size(gpu, p->k, p->n) || p->strip < 1)
        return ccq_gpu_fail(gpu, CCQ_GPU_FAILED, "encoding %lld x %lld: not served",
                            static_cast<long long>(p->k), static_cast<long long>(p->n));
    ccq_gpu_encode_carve(p->work, p->k, p->n, &w);
    unsigned turns = static_cast<unsigned>(ccq_turn_blocks(p->k, p->n));
    unsigned places = static_cast<unsigned>(ccq_place_blocks(p->k, p->n));
    unsigned figures = static_cast<unsigned>((p->n + CCQ_FIGURES_THREADS - 1) /
                                             CCQ_FIGURES_THREADS);
    turn_kernel<<<turns, CCQ_TURN_THREADS, 0, stream>>>(*p, w, params->order);
    int code = launch_search(gpu, p, w, lines, params->effort);
    if (code)
        return code;
    figures_kernel<<<figures, CCQ_FIGURES_THREADS, 0, stream>>>(*p, w, lines, params->gain);
    place_kernel<<<places, CCQ_PLACE_THREADS, 0, stream>>>(*p, w);
    return ccq_cuda_launched(gpu, "encoding");
}

} // namespace

extern "C" const ccq_gpu_encode_ops ccq_gpu_encode_cuda = {
    tables, columns, work_size, ccq_gpu_feedback_cuda, ccq_gpu_feedback_work,
};
