/* dense.h with tiles of 12 rows x 2 registers: 24 chains in 32 registers. */
#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

enum { ROWS = 12, VD_LANES = 8, VF_LANES = 16 };

typedef __m512d vd;
typedef __m512 vf;
typedef __mmask8 vd_mask;
typedef __mmask16 vf_mask;

#define vd_load _mm512_loadu_pd
#define vd_store _mm512_storeu_pd
#define vd_set _mm512_set1_pd
#define vd_fma _mm512_fmadd_pd
#define vd_fnma _mm512_fnmadd_pd
#define vd_div _mm512_div_pd
#define vd_some(p, m) _mm512_maskz_loadu_pd(m, p)
#define vd_put _mm512_mask_storeu_pd
#define vf_load _mm512_loadu_ps
#define vf_store _mm512_storeu_ps
#define vf_set _mm512_set1_ps
#define vf_fma _mm512_fmadd_ps
#define vf_some(p, m) _mm512_maskz_loadu_ps(m, p)

static inline vd_mask vd_first(int64_t n)
{
    return (vd_mask)(n >= VD_LANES ? 0xff : n <= 0 ? 0 : (1 << n) - 1);
}

static inline vf_mask vf_first(int64_t n)
{
    return (vf_mask)(n >= VF_LANES ? 0xffff : n <= 0 ? 0 : (1 << n) - 1);
}

#include "kernels/x86/dense_body.h"

void ccq_dense_init_avx512(ccq_dense_ops *ops)
{
    ops->update = update;
    ops->forward = forward;
    ops->gram = gram;
}
