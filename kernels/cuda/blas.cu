/* cuBLAS at run time. A handle and a workspace for each queue: products of one queue come
 * out the same whatever the others do, and nothing is allocated while one is recorded. */
#include "kernels/cuda/blas.cuh"

#include <cublas_v2.h>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>

static const size_t workspace_bytes = 32u << 20;

namespace {
struct blas {
    void *library;
    int ready;
    cublasHandle_t handle[CCQ_GPU_QUEUES];
    void *workspace[CCQ_GPU_QUEUES];
    decltype(&cublasCreate_v2) create;
    decltype(&cublasDestroy_v2) destroy;
    decltype(&cublasSetStream_v2) set_stream;
    decltype(&cublasSetWorkspace_v2) set_workspace;
    cublasStatus_t(CUBLASWINAPI *gemm_ex)(cublasHandle_t, cublasOperation_t, cublasOperation_t, int,
                                          int, int, const void *, const void *, cudaDataType, int,
                                          const void *, cudaDataType, int, const void *, void *,
                                          cudaDataType, int, cublasComputeType_t, cublasGemmAlgo_t);
    decltype(&cublasSgemm_v2) sgemm;
};
} // namespace

template <typename F> static int find(void *library, const char *name, F *f)
{
    *f = reinterpret_cast<F>(dlsym(library, name));
    return *f != nullptr;
}

static int find_all(blas *b)
{
    return find(b->library, "cublasCreate_v2", &b->create) &&
           find(b->library, "cublasDestroy_v2", &b->destroy) &&
           find(b->library, "cublasSetStream_v2", &b->set_stream) &&
           find(b->library, "cublasSetWorkspace_v2", &b->set_workspace) &&
           find(b->library, "cublasGemmEx", &b->gemm_ex) &&
           find(b->library, "cublasSgemm_v2", &b->sgemm);
}

/* Setting the stream takes the workspace away: first the one, then the other. */
static int start(blas *b, const ccq_cuda *c)
{
    for (int i = 0; i < CCQ_GPU_QUEUES; i++)
        if (b->create(&b->handle[i]) != CUBLAS_STATUS_SUCCESS ||
            b->set_stream(b->handle[i], c->stream[i]) != CUBLAS_STATUS_SUCCESS ||
            cudaMalloc(&b->workspace[i], workspace_bytes) != cudaSuccess ||
            b->set_workspace(b->handle[i], b->workspace[i], workspace_bytes) !=
                CUBLAS_STATUS_SUCCESS)
            return 0;
    return 1;
}

/* Its code stays loaded: what it has told the driver about cannot be taken back. */
static void stop(blas *b)
{
    for (int i = 0; i < CCQ_GPU_QUEUES; i++) {
        if (b->handle[i])
            b->destroy(b->handle[i]);
        cudaFree(b->workspace[i]);
    }
    if (b->library)
        dlclose(b->library);
    memset(b, 0, sizeof *b);
}

/* The first that is there, and that the driver is new enough for. */
static int load(blas *b, const ccq_cuda *c)
{
    static const char *const names[] = {"libcublas.so.13", "libcublas.so.12", "libcublas.so.11",
                                        "libcublas.so"};
    for (const char *name : names) {
        b->library = dlopen(name, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
        if (b->library && find_all(b) && start(b, c))
            return 1;
        stop(b);
    }
    return 0;
}

/* A queue that is being recorded does not allow what start does, unless told. */
static int load_anyway(blas *b, const ccq_cuda *c)
{
    cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    cudaThreadExchangeStreamCaptureMode(&mode);
    int ready = load(b, c);
    cudaThreadExchangeStreamCaptureMode(&mode);
    if (!ready)
        cudaGetLastError(); /* it is no error of what follows */
    return ready;
}

int ccq_cuda_blas(ccq_gpu *gpu)
{
    ccq_cuda *c = ccq_cuda_of(gpu);
    blas *b = static_cast<blas *>(c->blas);

    if (!b) {
        b = static_cast<blas *>(calloc(1, sizeof *b));
        if (!b)
            return 0;
        c->blas = b;
        b->ready = load_anyway(b, c);
    }
    return b->ready;
}

void ccq_cuda_blas_close(void *memory)
{
    blas *b = static_cast<blas *>(memory);

    if (b)
        stop(b);
    free(b);
}

/* Row-major y = x w is column-major y' = w' x'. */
int ccq_cuda_dense(ccq_gpu *gpu, const ccq_gpu_dense *p)
{
    if (!ccq_cuda_blas(gpu))
        return ccq_gpu_fail(gpu, CCQ_GPU_ABSENT, "cuBLAS: not there");
    const blas *b = static_cast<const blas *>(ccq_cuda_of(gpu)->blas);
    cublasHandle_t handle = b->handle[gpu->queue];
    cublasOperation_t turn = p->along_k ? CUBLAS_OP_T : CUBLAS_OP_N;
    int n = static_cast<int>(p->columns), m = static_cast<int>(p->rows);
    int k = static_cast<int>(p->k), ldw = p->along_k ? k : n;
    int ldx = static_cast<int>(p->ldx), ldy = static_cast<int>(p->ldy);
    const float one = 1, zero = 0;
    cublasStatus_t status =
        p->as_float ? b->sgemm(handle, turn, CUBLAS_OP_N, n, m, k, &one,
                               static_cast<const float *>(p->w), ldw,
                               static_cast<const float *>(p->x), ldx, &zero, p->y, ldy)
                    : b->gemm_ex(handle, turn, CUBLAS_OP_N, n, m, k, &one, p->w, CUDA_R_16BF, ldw,
                                 p->x, CUDA_R_16BF, ldx, &zero, p->y, CUDA_R_32F, ldy,
                                 CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    if (status == CUBLAS_STATUS_SUCCESS)
        return CCQ_GPU_OK;
    return ccq_gpu_fail(gpu,
                        status == CUBLAS_STATUS_ALLOC_FAILED ? CCQ_GPU_NO_MEMORY : CCQ_GPU_FAILED,
                        "cuBLAS: a product of %d x %d x %d failed: status %d", m, k, n,
                        static_cast<int>(status));
}
