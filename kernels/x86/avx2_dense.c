/* dense.h with tiles of 6 rows x 2 registers: 12 chains in 16 registers. */
#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

enum { ROWS = 6, VD_LANES = 4, VF_LANES = 8 };

typedef __m256d vd;
typedef __m256 vf;
typedef __m256i vd_mask;
typedef __m256i vf_mask;

#define vd_load _mm256_loadu_pd
#define vd_store _mm256_storeu_pd
#define vd_set _mm256_set1_pd
#define vd_fma _mm256_fmadd_pd
#define vd_fnma _mm256_fnmadd_pd
#define vd_div _mm256_div_pd
#define vd_some _mm256_maskload_pd
#define vd_put _mm256_maskstore_pd
#define vf_load _mm256_loadu_ps
#define vf_store _mm256_storeu_ps
#define vf_set _mm256_set1_ps
#define vf_fma _mm256_fmadd_ps
#define vf_some _mm256_maskload_ps

static inline vd_mask vd_first(int64_t n)
{
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3));
}

static inline vf_mask vf_first(int64_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n),
                              _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

#include "kernels/x86/dense_body.h"

void ccq_dense_init_avx2(ccq_dense_ops *ops)
{
    ops->update = update;
    ops->forward = forward;
    ops->gram = gram;
}
