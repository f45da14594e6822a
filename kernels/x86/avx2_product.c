/* acc += x . panel with 6 x 16 accumulators in registers: 12 of 16, two for the
 * panel's row, one for x. Lanes are columns; k goes up in every lane. */
#include "kernels/internal.h"
#include "kernels/x86/avx2.h"

enum { ROWS = 6 };

/* rows is a constant at every call: the loops over it unroll into registers. */
static inline __attribute__((always_inline)) void
tile(const float *x, int64_t ldx, const int rows, const float *panel, int64_t kc, float *acc,
     int64_t ldacc)
{
    __m256 a[ROWS], b[ROWS];
    int64_t k;
    int r;

    for (r = 0; r < rows; r++) {
        a[r] = _mm256_loadu_ps(acc + r * ldacc);
        b[r] = _mm256_loadu_ps(acc + r * ldacc + 8);
    }
    for (k = 0; k < kc; k++) {
        __m256 low = _mm256_loadu_ps(panel + k * CCQ_PANEL);
        __m256 high = _mm256_loadu_ps(panel + k * CCQ_PANEL + 8);
        for (r = 0; r < rows; r++) {
            __m256 value = _mm256_broadcast_ss(x + r * ldx + k);
            a[r] = _mm256_fmadd_ps(value, low, a[r]);
            b[r] = _mm256_fmadd_ps(value, high, b[r]);
        }
    }
    for (r = 0; r < rows; r++) {
        _mm256_storeu_ps(acc + r * ldacc, a[r]);
        _mm256_storeu_ps(acc + r * ldacc + 8, b[r]);
    }
}

void ccq_product_avx2(const float *x, int64_t ldx, int64_t rows, const float *panel, int64_t kc,
                      float *acc, int64_t ldacc)
{
    int64_t r;

    for (; rows >= ROWS; rows -= ROWS) {
        for (r = ROWS; r < 2 * ROWS && r < rows; r++) /* the next tile's accumulators */
            _mm_prefetch((const char *)(acc + r * ldacc), _MM_HINT_T0);
        tile(x, ldx, ROWS, panel, kc, acc, ldacc);
        x += ROWS * ldx;
        acc += ROWS * ldacc;
    }
    switch (rows) {
    case 5: tile(x, ldx, 5, panel, kc, acc, ldacc); break;
    case 4: tile(x, ldx, 4, panel, kc, acc, ldacc); break;
    case 3: tile(x, ldx, 3, panel, kc, acc, ldacc); break;
    case 2: tile(x, ldx, 2, panel, kc, acc, ldacc); break;
    case 1: tile(x, ldx, 1, panel, kc, acc, ldacc); break;
    default: break;
    }
}

void ccq_ops_init_avx2(ccq_ops *ops)
{
    ops->name = "avx2";
    ccq_panel_init_avx2(&ops->panel);
    ccq_feedback_init_avx2(&ops->feedback);
    ops->search = ccq_search_avx2;
    ops->widen = ccq_widen_avx2;
    ops->round = ccq_round_avx2;
    ops->unpack = ccq_unpack_avx2;
    ops->product = ccq_product_avx2;
    ops->gemv = ccq_gemv_avx2;
    ops->rms = ccq_rms_avx2;
    ops->swiglu = ccq_swiglu_avx2;
    ops->rope = ccq_rope_avx2;
    ops->attend = ccq_attend_avx2;
}
