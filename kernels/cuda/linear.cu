/* Products on CUDA. */
#include "kernels/cuda/blas.cuh"
#include "kernels/gpu/linear_steps.h"

/* ---- Few rows ------------------------------------------------------------ */

template <int TYPE, int ROWS>
static __device__ void few_block(const ccq_gpu_few &p, int64_t tile, int64_t piece,
                                 ccq_gpu_few_shared *s)
{
    int t = static_cast<int>(threadIdx.x);
    int64_t chunk = ccq_gpu_part(p.chunks, p.pieces, piece);
    int64_t end = ccq_gpu_part(p.chunks, p.pieces, piece + 1);
    ccq_gpu_few_thread r;

    ccq_gpu_few_begin(&p, TYPE, ROWS, tile, t, &r);
    for (; chunk < end; chunk++) {
        ccq_gpu_few_load(&p, TYPE, ROWS, tile, chunk, t, &r, s);
        __syncthreads();
        ccq_gpu_few_multiply(&p, TYPE, ROWS, chunk, t, &r, s);
        __syncthreads();
    }
    CCQ_UNROLL
    for (int pass = 0; pass < ccq_gpu_few_passes(TYPE, ROWS); pass++) {
        ccq_gpu_few_spill(TYPE, ROWS, pass, t, &r, s);
        __syncthreads();
        ccq_gpu_few_sum(&p, TYPE, ROWS, tile, piece, pass, t, s);
        __syncthreads();
    }
}

/* Tiles are grid.x, pieces grid.y. Two blocks at a time: one loads while one multiplies. */
template <int TYPE, int ROWS>
static __global__ void __launch_bounds__(CCQ_GPU_THREADS, TYPE == CCQ_W_WINT2 ? 1 : 2)
    few_kernel(const ccq_gpu_few p)
{
    __shared__ ccq_gpu_few_shared s;
    few_block<TYPE, ROWS>(p, blockIdx.x, blockIdx.y, &s);
}

static __global__ void join_kernel(const ccq_gpu_few p)
{
    int64_t i = static_cast<int64_t>(blockIdx.x) * CCQ_GPU_THREADS + threadIdx.x;
    if (i < p.rows * p.w.n)
        ccq_gpu_few_join(&p, i);
}

/* Tiles are grid.x, experts grid.y. */
template <int TYPE>
static __global__ void __launch_bounds__(CCQ_GPU_THREADS, TYPE == CCQ_W_WINT2 ? 1 : 2)
    groups_kernel(const ccq_gpu_groups g)
{
    __shared__ ccq_gpu_few_shared s;
    int64_t e = blockIdx.y, end = g.start[e + 1];

    for (int64_t row = g.start[e]; row < end; row += CCQ_GPU_FEW) {
        ccq_gpu_few f = ccq_gpu_groups_few(&g, e, row);
        switch (ccq_gpu_few_width(f.rows)) {
        case 1: few_block<TYPE, 1>(f, blockIdx.x, 0, &s); break;
        case 4: few_block<TYPE, 4>(f, blockIdx.x, 0, &s); break;
        default: few_block<TYPE, CCQ_GPU_FEW>(f, blockIdx.x, 0, &s); break;
        }
    }
}

template <int TYPE> static int few_of(ccq_gpu *gpu, const ccq_gpu_few *p)
{
    dim3 grid(static_cast<unsigned>(p->tiles), static_cast<unsigned>(p->pieces));
    cudaStream_t stream = ccq_cuda_stream(gpu);

    switch (ccq_gpu_few_width(p->rows)) {
    case 1: few_kernel<TYPE, 1><<<grid, CCQ_GPU_THREADS, 0, stream>>>(*p); break;
    case 4: few_kernel<TYPE, 4><<<grid, CCQ_GPU_THREADS, 0, stream>>>(*p); break;
    default: few_kernel<TYPE, CCQ_GPU_FEW><<<grid, CCQ_GPU_THREADS, 0, stream>>>(*p); break;
    }
    if (p->part)
        join_kernel<<<static_cast<unsigned>(ccq_gpu_ceil(p->rows * p->w.n, CCQ_GPU_THREADS)),
                      CCQ_GPU_THREADS, 0, stream>>>(*p);
    return ccq_cuda_launched(gpu, "linear");
}

static int few(ccq_gpu *gpu, const ccq_gpu_few *p)
{
    switch (p->w.type) {
    case CCQ_W_BF16: return few_of<CCQ_W_BF16>(gpu, p);
    case CCQ_W_BF16_T: return few_of<CCQ_W_BF16_T>(gpu, p);
    case CCQ_W_WINT8: return few_of<CCQ_W_WINT8>(gpu, p);
    case CCQ_W_WINT4: return few_of<CCQ_W_WINT4>(gpu, p);
    case CCQ_W_WINT2: return few_of<CCQ_W_WINT2>(gpu, p);
    case CCQ_W_FP8: return few_of<CCQ_W_FP8>(gpu, p);
    default: return few_of<CCQ_W_F32>(gpu, p);
    }
}

template <int TYPE> static int groups_of(ccq_gpu *gpu, const ccq_gpu_groups *g)
{
    dim3 grid(static_cast<unsigned>(g->few.tiles), static_cast<unsigned>(g->experts));

    groups_kernel<TYPE><<<grid, CCQ_GPU_THREADS, 0, ccq_cuda_stream(gpu)>>>(*g);
    return ccq_cuda_launched(gpu, "grouped");
}

static int groups(ccq_gpu *gpu, const ccq_gpu_groups *g)
{
    switch (g->few.w.type) {
    case CCQ_W_BF16: return groups_of<CCQ_W_BF16>(gpu, g);
    case CCQ_W_BF16_T: return groups_of<CCQ_W_BF16_T>(gpu, g);
    case CCQ_W_WINT8: return groups_of<CCQ_W_WINT8>(gpu, g);
    case CCQ_W_WINT4: return groups_of<CCQ_W_WINT4>(gpu, g);
    case CCQ_W_WINT2: return groups_of<CCQ_W_WINT2>(gpu, g);
    case CCQ_W_FP8: return groups_of<CCQ_W_FP8>(gpu, g);
    default: return groups_of<CCQ_W_F32>(gpu, g);
    }
}

/* ---- Many rows ----------------------------------------------------------- */

template <int TYPE> static __global__ void unpack_kernel(const ccq_gpu_unpack p)
{
    int64_t unit = static_cast<int64_t>(blockIdx.x) * CCQ_GPU_THREADS + threadIdx.x;
    if (unit < ccq_gpu_unpack_units(&p))
        ccq_gpu_unpack_unit(&p, TYPE, unit);
}

static int unpack(ccq_gpu *gpu, const ccq_gpu_unpack *p)
{
    unsigned grid =
        static_cast<unsigned>(ccq_gpu_ceil(ccq_gpu_unpack_units(p), CCQ_GPU_THREADS));
    cudaStream_t stream = ccq_cuda_stream(gpu);

    switch (p->w.type) {
    case CCQ_W_BF16: unpack_kernel<CCQ_W_BF16><<<grid, CCQ_GPU_THREADS, 0, stream>>>(*p); break;
    case CCQ_W_BF16_T:
        unpack_kernel<CCQ_W_BF16_T><<<grid, CCQ_GPU_THREADS, 0, stream>>>(*p);
        break;
    case CCQ_W_WINT8: unpack_kernel<CCQ_W_WINT8><<<grid, CCQ_GPU_THREADS, 0, stream>>>(*p); break;
    case CCQ_W_WINT4: unpack_kernel<CCQ_W_WINT4><<<grid, CCQ_GPU_THREADS, 0, stream>>>(*p); break;
    case CCQ_W_WINT2: unpack_kernel<CCQ_W_WINT2><<<grid, CCQ_GPU_THREADS, 0, stream>>>(*p); break;
    default: unpack_kernel<CCQ_W_FP8><<<grid, CCQ_GPU_THREADS, 0, stream>>>(*p); break;
    }
    return ccq_cuda_launched(gpu, "dequantizing");
}

/* Rows are grid.x, elements of a row grid.y. */
static dim3 rows_and_columns(int64_t rows, int64_t columns)
{
    return dim3(static_cast<unsigned>(rows),
                static_cast<unsigned>(ccq_gpu_ceil(columns, CCQ_GPU_THREADS)));
}

static __device__ inline int64_t my_column(void)
{
    return static_cast<int64_t>(blockIdx.y) * CCQ_GPU_THREADS + threadIdx.x;
}

static __global__ void narrow_kernel(const ccq_gpu_narrow p)
{
    if (my_column() < p.k)
        ccq_gpu_narrow_at(&p, blockIdx.x, my_column());
}

static int narrow(ccq_gpu *gpu, const ccq_gpu_narrow *p)
{
    narrow_kernel<<<rows_and_columns(p->rows, p->k), CCQ_GPU_THREADS, 0, ccq_cuda_stream(gpu)>>>(
        *p);
    return ccq_cuda_launched(gpu, "narrowing");
}

static __global__ void round_kernel(const ccq_gpu_round p)
{
    if (my_column() < p.n)
        ccq_gpu_round_at(&p, blockIdx.x, my_column());
}

int ccq_gpu_cuda_round(ccq_gpu *gpu, const ccq_gpu_round *p)
{
    round_kernel<<<rows_and_columns(p->rows, p->n), CCQ_GPU_THREADS, 0, ccq_cuda_stream(gpu)>>>(
        *p);
    return ccq_cuda_launched(gpu, "rounding");
}

static const ccq_gpu_linear_steps steps = {
    few, groups, unpack, narrow, ccq_gpu_cuda_round, ccq_cuda_blas, ccq_cuda_dense,
};

int ccq_gpu_cuda_linear(ccq_gpu *gpu, const ccq_gpu_linear *p)
{
    return ccq_gpu_linear_by(gpu, &steps, p);
}

int ccq_gpu_cuda_grouped(ccq_gpu *gpu, const ccq_gpu_grouped *p)
{
    return ccq_gpu_grouped_by(gpu, &steps, p);
}
