/* OpenBLAS, for who links it: a library of its own, so that the quantizer has no part of it. */
#ifndef CCQ_LIBCCQ_BLAS_H
#define CCQ_LIBCCQ_BLAS_H

#include "libccq/run.h"

/* Products by OpenBLAS, for ccq_model_options.blas; NULL: not built in. */
ccq_sgemm ccq_openblas(void);

#endif
