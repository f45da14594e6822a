/* Layout of wint2 matrices on CUDA: kernels/gpu/wint2_repack.h thread by thread. */
#include "kernels/cuda/common.cuh"
#include "kernels/gpu/wint2_checks.h"
#include "kernels/gpu/wint2_device.h"

enum { THREADS = 256 };

static __device__ int64_t thread_number()
{
    return static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
}

static unsigned blocks_of(int64_t count, int threads)
{
    return static_cast<unsigned>((count + threads - 1) / threads);
}

/* ---- Layout -------------------------------------------------------------- */

/* A warp's lanes gather from 32 rows of bytes, but the next warp takes the columns beside:
 * a block's loads fill their sectors. */
static __global__ void repack_codes(ccq_w2_repack r)
{
    int64_t lane = threadIdx.x % 32, warps = THREADS / 32, blocks = r.k / CCQ_W2_BLOCK;
    int64_t warp = static_cast<int64_t>(blockIdx.x) * warps + threadIdx.x / 32;
    int64_t tiles = r.n / CCQ_W2_TILE, block = warp / tiles, tile = warp % tiles;
    if (block < blocks)
        ccq_w2_repack_lane(&r, (tile * blocks + block) * 32 + lane);
}

static __global__ void repack_locals(ccq_w2_repack r)
{
    int64_t i = thread_number();
    if (i < r.k * r.n / CCQ_W2_BLOCK)
        ccq_w2_repack_local(&r, i);
}

static __global__ void repack_columns(ccq_w2_repack r)
{
    __shared__ uint8_t flags[CCQ_W2_PROVERS];
    int i = static_cast<int>(threadIdx.x);
    int64_t p = static_cast<int64_t>(blockIdx.x) * CCQ_W2_PROVERS + i;
    if (p < r.n)
        flags[i] = static_cast<uint8_t>(ccq_w2_repack_column(&r, p));
    __syncthreads();
    if (p < r.n && i % CCQ_W2_TILE == 0)
        ccq_w2_repack_tile(&r, p / CCQ_W2_TILE, flags + i);
}

static int repack(ccq_gpu *gpu, const ccq_weight *w, int swiglu, void *to, ccq_gpu_matrix *matrix,
                  ccq_gpu_wint2_found *found)
{
    int code = ccq_w2_check_weight(gpu, w, swiglu);
    if (code)
        return code;
    ccq_w2_repack r = ccq_w2_repack_of(w, swiglu, to);
    cudaStream_t stream = ccq_cuda_stream(gpu);
    repack_codes<<<blocks_of(r.k * r.n / 64, THREADS), THREADS, 0, stream>>>(r);
    repack_locals<<<blocks_of(r.k * r.n / CCQ_W2_BLOCK, THREADS), THREADS, 0, stream>>>(r);
    repack_columns<<<blocks_of(r.n, CCQ_W2_PROVERS), CCQ_W2_PROVERS, 0, stream>>>(r);
    code = ccq_cuda_launched(gpu, "layout of a wint2 matrix");
    if (code)
        return code;
    *matrix = ccq_w2_matrix_of(&r);
    return ccq_w2_count_found(gpu, &r, found);
}

/* ---- Back again ---------------------------------------------------------- */

static __global__ void unpack_bytes(ccq_gpu_matrix m, int swiglu, int rounding, int order,
                                    uint16_t *to)
{
    int64_t i = thread_number();
    if (i < m.k * m.n / 4)
        ccq_w2_unpack_byte(&m, swiglu, rounding, order, i, to);
}

static int unpack(ccq_gpu *gpu, const ccq_gpu_matrix *matrix, int swiglu, int rounding, int order,
                  uint16_t *to)
{
    unpack_bytes<<<blocks_of(matrix->k * matrix->n / 4, THREADS), THREADS, 0,
                   ccq_cuda_stream(gpu)>>>(*matrix, swiglu, rounding, order, to);
    return ccq_cuda_launched(gpu, "weights of a wint2 matrix");
}

static __global__ void decode_codes(const ccq_gpu_codes *codes, int64_t count, uint32_t *to)
{
    int64_t i = thread_number();
    if (i < count)
        ccq_w2_decode_codes(codes + i, to + i * CCQ_GPU_DECODED);
}

static int decode(ccq_gpu *gpu, const ccq_gpu_codes *codes, int64_t count, uint32_t *to)
{
    decode_codes<<<blocks_of(count, THREADS), THREADS, 0, ccq_cuda_stream(gpu)>>>(codes, count,
                                                                                 to);
    return ccq_cuda_launched(gpu, "decoded wint2 codes");
}

/* In the order of ccq_gpu_wint2_ops. */
extern "C" const ccq_gpu_wint2_ops ccq_gpu_wint2_cuda = {
    repack, unpack, ccq_gpu_wint2_cuda_experts, ccq_gpu_wint2_cuda_work,
    ccq_gpu_wint2_cuda_way, decode,
};
