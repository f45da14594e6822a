/* Feedback (kernels/feedback_body.h): sixteen columns, or codes, are one register. */
#include "kernels/internal.h"
#include "kernels/x86/avx512.h"

enum { TRIALS = 4, ROWS = 16 };

typedef __m512 lanes;

static inline lanes v_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void v_store(float *p, lanes a) { _mm512_storeu_ps(p, a); }
static inline lanes v_set(float x) { return _mm512_set1_ps(x); }
static inline lanes v_add(lanes a, lanes b) { return _mm512_add_ps(a, b); }
static inline lanes v_sub(lanes a, lanes b) { return _mm512_sub_ps(a, b); }
static inline lanes v_mul(lanes a, lanes b) { return _mm512_mul_ps(a, b); }
static inline lanes v_fma(lanes a, lanes b, lanes c) { return _mm512_fmadd_ps(a, b, c); }
static inline lanes v_fnma(lanes a, lanes b, lanes c) { return _mm512_fnmadd_ps(a, b, c); }
static inline lanes v_min(lanes a, lanes b) { return _mm512_min_ps(a, b); }

static inline lanes v_pick(lanes a, lanes b, lanes x, lanes y)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
}

static inline int v_lowest(lanes a)
{
    lanes least = _mm512_set1_ps(_mm512_reduce_min_ps(a));

    return __builtin_ctz(_mm512_cmp_ps_mask(a, least, _CMP_EQ_OQ) | 0x10000u) & 15;
}

#include "kernels/feedback_rows.h"

void ccq_feedback_init_avx512(ccq_feedback_ops *ops)
{
    fill(ops);
}
