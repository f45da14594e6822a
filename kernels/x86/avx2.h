/* AVX2 + FMA + F16C versions of the table's slots: the bits of the C ones. */
#ifndef CCQ_KERNELS_X86_AVX2_H
#define CCQ_KERNELS_X86_AVX2_H

#include "kernels/ops.h"
#include "kernels/x86/unroll.h"

#include <immintrin.h>

void ccq_search_avx2(const ccq_book *book, const int16_t u[64], int lo, int hi, int32_t *J,
                     uint8_t (*best)[16]);
void ccq_widen_avx2(const uint16_t *x, int64_t count, float *y);
void ccq_round_avx2(const float *x, int64_t count, float *y);
void ccq_unpack_avx2(const ccq_weight *w, int64_t k0, int64_t kc, int64_t n0, float *panel);
void ccq_product_avx2(const float *x, int64_t ldx, int64_t rows, const float *panel, int64_t kc,
                      float *acc, int64_t ldacc);
int64_t ccq_gemv_avx2(const ccq_weight *w, const float *x, int64_t ldx, int64_t rows, int64_t n0,
                      int64_t n1, float *y, int64_t ldy);
void ccq_rms_avx2(const float *x, const float *g, int64_t h, float eps, int bf16, float *y);
void ccq_swiglu_avx2(const float *gu, int64_t n, int bf16, float *a);
void ccq_rope_avx2(float *x, int64_t heads, int64_t d, const float *cos, const float *sin,
                   int bf16);
void ccq_attend_avx2(const float *q, int64_t ld, int64_t rows, int64_t pos0, const void *k,
                     const void *v, int kv_bf16, int64_t heads, int64_t kv_heads, int64_t d,
                     int64_t h0, int64_t h1, int bf16, float *scratch, float *o);

/* Eight bf16 to fp32. */
static inline __m256 ccq_widen8(const uint16_t *x)
{
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)x));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

/* Eight fp32 to the nearest bf16, kept in fp32: ccq_round_bf16. */
static inline __m256 ccq_round8(__m256 x)
{
    const __m256i top = _mm256_set1_epi32((int)0xffff0000);
    __m256i u = _mm256_castps_si256(x);
    __m256i even = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    __m256i near = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), even);
    __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x00400000));
    __m256 nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
    __m256 y = _mm256_blendv_ps(_mm256_castsi256_ps(near), _mm256_castsi256_ps(quiet), nan);
    return _mm256_and_ps(y, _mm256_castsi256_ps(top));
}

static inline __m256 ccq_store8(__m256 x, int bf16)
{
    return bf16 ? ccq_round8(x) : x;
}

/* In place: row i of the 8 x 8 matrix becomes its column i. */
static inline void ccq_transpose8(__m256 v[8])
{
    __m256 a[8], b[8];
    int i;

    for (i = 0; i < 4; i++) {
        a[2 * i] = _mm256_unpacklo_ps(v[2 * i], v[2 * i + 1]);
        a[2 * i + 1] = _mm256_unpackhi_ps(v[2 * i], v[2 * i + 1]);
    }
    for (i = 0; i < 2; i++) {
        b[4 * i] = _mm256_shuffle_ps(a[4 * i], a[4 * i + 2], 0x44);
        b[4 * i + 1] = _mm256_shuffle_ps(a[4 * i], a[4 * i + 2], 0xee);
        b[4 * i + 2] = _mm256_shuffle_ps(a[4 * i + 1], a[4 * i + 3], 0x44);
        b[4 * i + 3] = _mm256_shuffle_ps(a[4 * i + 1], a[4 * i + 3], 0xee);
    }
    for (i = 0; i < 4; i++) {
        v[i] = _mm256_permute2f128_ps(b[i], b[4 + i], 0x20);
        v[4 + i] = _mm256_permute2f128_ps(b[i], b[4 + i], 0x31);
    }
}

/* Rows of 16 bytes to columns of 16 bytes. */
static inline void ccq_turn16(__m128i v[16])
{
    __m128i t[16];
    int step, i;

    for (step = 0; step < 4; step++) { /* a perfect shuffle of 256 bytes, four times */
        for (i = 0; i < 8; i++) {
            t[2 * i] = _mm_unpacklo_epi8(v[i], v[i + 8]);
            t[2 * i + 1] = _mm_unpackhi_epi8(v[i], v[i + 8]);
        }
        for (i = 0; i < 16; i++)
            v[i] = t[i];
    }
}

#endif
