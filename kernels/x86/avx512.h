/* AVX-512 (F, BW, DQ, VL, VNNI, VBMI) versions of the table's slots: the bits of
 * the C ones. */
#ifndef CCQ_KERNELS_X86_AVX512_H
#define CCQ_KERNELS_X86_AVX512_H

#include "kernels/ops.h"
#include "kernels/x86/unroll.h"

#include <immintrin.h>

void ccq_search_avx512(const ccq_book *book, const int16_t u[64], int lo, int hi, int32_t *J,
                       uint8_t (*best)[16]);
void ccq_widen_avx512(const uint16_t *x, int64_t count, float *y);
void ccq_round_avx512(const float *x, int64_t count, float *y);
void ccq_product_avx512(const float *x, int64_t ldx, int64_t rows, const float *panel, int64_t kc,
                        float *acc, int64_t ldacc);
int64_t ccq_gemv_avx512(const ccq_weight *w, const float *x, int64_t ldx, int64_t rows, int64_t n0,
                        int64_t n1, float *y, int64_t ldy);

/* Sixteen bf16 to fp32. */
static inline __m512 ccq_widen16(const uint16_t *x)
{
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)x));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

/* Sixteen fp32 to the nearest bf16, kept in fp32: ccq_round_bf16. */
static inline __m512 ccq_round16(__m512 x)
{
    __m512i u = _mm512_castps_si512(x);
    __m512i even = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    __m512i near = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), even);
    __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    __m512i y = _mm512_mask_or_epi32(near, nan, u, _mm512_set1_epi32(0x00400000));
    return _mm512_castsi512_ps(_mm512_and_si512(y, _mm512_set1_epi32((int)0xffff0000)));
}

#endif
