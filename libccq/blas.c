#include "libccq/blas.h"

#include <stddef.h>

#ifdef CCQ_HAVE_OPENBLAS
#include <cblas.h>

static void multiply(int threads, int64_t rows, int64_t n, int64_t k, const float *x, int64_t ldx,
                     const float *w, int64_t ldw, float *y, int64_t ldy)
{
    openblas_set_num_threads(threads);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)rows, (blasint)n, (blasint)k,
                1, x, (blasint)ldx, w, (blasint)ldw, 0, y, (blasint)ldy);
}

ccq_sgemm ccq_openblas(void)
{
    return multiply;
}
#else
ccq_sgemm ccq_openblas(void)
{
    return NULL;
}
#endif
