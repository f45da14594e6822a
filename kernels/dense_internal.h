/* What the table of dense.h is filled with. Not for callers outside kernels/. */
#ifndef CCQ_KERNELS_DENSE_INTERNAL_H
#define CCQ_KERNELS_DENSE_INTERNAL_H

#include "kernels/dense.h"

/* All slots; only where the processor has what CCQ_ISA_AVX2 and CCQ_ISA_AVX512 mean. */
void ccq_dense_init_avx2(ccq_dense_ops *ops);
void ccq_dense_init_avx512(ccq_dense_ops *ops);

#endif
