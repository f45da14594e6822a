/* Feedback (kernels/feedback_body.h): sixteen columns, or codes, are two registers. */
#include "kernels/internal.h"
#include "kernels/x86/avx2.h"

enum { TRIALS = 1, ROWS = 4 };

typedef struct lanes {
    __m256 a, b;
} lanes;

#define BOTH(x, y) return (lanes){x, y}

static inline lanes v_load(const float *p) { BOTH(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)); }
static inline lanes v_set(float x) { BOTH(_mm256_set1_ps(x), _mm256_set1_ps(x)); }
static inline lanes v_add(lanes x, lanes y)
{
    BOTH(_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b));
}

static inline lanes v_sub(lanes x, lanes y)
{
    BOTH(_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b));
}

static inline lanes v_mul(lanes x, lanes y)
{
    BOTH(_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b));
}

static inline lanes v_fma(lanes x, lanes y, lanes z)
{
    BOTH(_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b));
}

static inline lanes v_fnma(lanes x, lanes y, lanes z)
{
    BOTH(_mm256_fnmadd_ps(x.a, y.a, z.a), _mm256_fnmadd_ps(x.b, y.b, z.b));
}

static inline lanes v_min(lanes x, lanes y)
{
    BOTH(_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b));
}

static inline __m256 pick8(__m256 a, __m256 b, __m256 x, __m256 y)
{
    return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}

static inline lanes v_pick(lanes a, lanes b, lanes x, lanes y)
{
    BOTH(pick8(a.a, b.a, x.a, y.a), pick8(a.b, b.b, x.b, y.b));
}

static inline void v_store(float *p, lanes x)
{
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}

static inline int v_lowest(lanes x)
{
    __m256 m = _mm256_min_ps(x.a, x.b);
    unsigned low, high;

    m = _mm256_min_ps(m, _mm256_permute2f128_ps(m, m, 1));
    m = _mm256_min_ps(m, _mm256_permute_ps(m, 0x4e));
    m = _mm256_min_ps(m, _mm256_permute_ps(m, 0xb1));
    low = (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(x.a, m, _CMP_EQ_OQ));
    high = (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(x.b, m, _CMP_EQ_OQ));
    return __builtin_ctz(low | high << 8 | 0x10000u) & 15;
}

#include "kernels/feedback_rows.h"

void ccq_feedback_init_avx2(ccq_feedback_ops *ops)
{
    fill(ops);
}
