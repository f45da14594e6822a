/* acc += x . panel, a row of 16 columns in one register, 14 rows of x at a time: a
 * chain is stepped every seventh cycle, above the latency of fmaf. Conversions. */
#include "kernels/internal.h"
#include "kernels/x86/avx512.h"

enum { ROWS = 14 };

/* rows is a constant at every call: the loops over it unroll into registers. */
static inline __attribute__((always_inline)) void
tile(const float *x, int64_t ldx, const int rows, const float *panel, int64_t kc, float *acc,
     int64_t ldacc)
{
    __m512 a[ROWS];

    for (int r = 0; r < rows; r++)
        a[r] = _mm512_loadu_ps(acc + r * ldacc);
    for (int64_t k = 0; k < kc; k++) {
        __m512 row = _mm512_loadu_ps(panel + k * CCQ_PANEL);
        for (int r = 0; r < rows; r++)
            a[r] = _mm512_fmadd_ps(_mm512_set1_ps(x[r * ldx + k]), row, a[r]);
    }
    for (int r = 0; r < rows; r++)
        _mm512_storeu_ps(acc + r * ldacc, a[r]);
}

void ccq_product_avx512(const float *x, int64_t ldx, int64_t rows, const float *panel, int64_t kc,
                        float *acc, int64_t ldacc)
{
    for (; rows >= ROWS; rows -= ROWS) {
        for (int64_t r = ROWS; r < 2 * ROWS && r < rows; r++) /* the next tile's accumulators */
            _mm_prefetch((const char *)(acc + r * ldacc), _MM_HINT_T0);
        tile(x, ldx, ROWS, panel, kc, acc, ldacc);
        x += ROWS * ldx;
        acc += ROWS * ldacc;
    }
    for (; rows >= 4; rows -= 4) {
        tile(x, ldx, 4, panel, kc, acc, ldacc);
        x += 4 * ldx;
        acc += 4 * ldacc;
    }
    switch (rows) {
    case 3: tile(x, ldx, 3, panel, kc, acc, ldacc); break;
    case 2: tile(x, ldx, 2, panel, kc, acc, ldacc); break;
    case 1: tile(x, ldx, 1, panel, kc, acc, ldacc); break;
    default: break;
    }
}

void ccq_widen_avx512(const uint16_t *x, int64_t count, float *y)
{
    int64_t i;

    for (i = 0; i + 16 <= count; i += 16)
        _mm512_storeu_ps(y + i, ccq_widen16(x + i));
    for (; i < count; i++)
        y[i] = ccq_bf16_to_f32(x[i]);
}

void ccq_round_avx512(const float *x, int64_t count, float *y)
{
    int64_t i;

    for (i = 0; i + 16 <= count; i += 16)
        _mm512_storeu_ps(y + i, ccq_round16(_mm512_loadu_ps(x + i)));
    for (; i < count; i++)
        y[i] = ccq_round_bf16(x[i]);
}
