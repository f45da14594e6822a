/* CRC-32 by folding: 16 bytes are a polynomial a x^64 + b over GF(2); d bits further on
 * they count as a x^(d + 64) + b x^d, and modulo the CRC's polynomial each power is 32 bits.
 * Bits are reflected, which shifts each factor by one and the powers by 32. */
#include "kernels/x86/clmul.h"

#include <immintrin.h>

/* (x^n mod P) of both halves, reflected, times x, for a distance of 512 and of 128 bits:
 * n = 512 + 32, 512 - 32; 128 + 32, 128 - 32 */
static const uint64_t far[2] = {0x154442bd4, 0x1c6e41596}, near[2] = {0x1751997d0, 0x0ccaa009e};

static __m128i load(const uint8_t *p)
{
    return _mm_loadu_si128((const __m128i *)(const void *)p);
}

/* x, moved on by the distance of k, and y, which is there. */
static __m128i fold(__m128i x, __m128i k, __m128i y)
{
    __m128i low = _mm_clmulepi64_si128(x, k, 0x00), high = _mm_clmulepi64_si128(x, k, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), y);
}

size_t ccq_crc_fold_clmul(uint32_t crc, const void *data, size_t size, uint8_t rest[16])
{
    const uint8_t *p = data;
    __m128i k = _mm_set_epi64x((long long)far[1], (long long)far[0]);
    __m128i x0 = _mm_xor_si128(load(p), _mm_cvtsi32_si128((int)~crc));
    __m128i x1 = load(p + 16), x2 = load(p + 32), x3 = load(p + 48);
    size_t at = 64;
    for (; size - at >= 64; at += 64) {
        x0 = fold(x0, k, load(p + at));
        x1 = fold(x1, k, load(p + at + 16));
        x2 = fold(x2, k, load(p + at + 32));
        x3 = fold(x3, k, load(p + at + 48));
    }
    k = _mm_set_epi64x((long long)near[1], (long long)near[0]);
    x0 = fold(fold(fold(x0, k, x1), k, x2), k, x3);
    for (; size - at >= 16; at += 16)
        x0 = fold(x0, k, load(p + at));
    _mm_storeu_si128((__m128i *)(void *)rest, x0);
    return at;
}
