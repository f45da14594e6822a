/* AVX-512 (F, BW, DQ, VL, VNNI, VBMI) versions of the table's slots: the bits of
 * the C ones. */
#ifndef CCQ_KERNELS_X86_AVX512_H
#define CCQ_KERNELS_X86_AVX512_H

#include "kernels/ops.h"

#include <immintrin.h>

void ccq_search_avx512(const ccq_book *book, const int16_t u[64], int lo, int hi, int32_t *J,
                       uint8_t (*best)[16]);

#endif
