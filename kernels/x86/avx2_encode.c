/* The encoder's search. One 32-bit lane is one block of four weights: its two
 * int16 pairs meet the two pairs of a code in vpmaddwd, which cannot overflow
 * (|256 value| <= 2^13). The byte rides in the low 8 bits of the score, so a
 * vpminsd keeps score and byte at once. */
#include "kernels/x86/avx2.h"

enum { RUN = 7 }; /* local scales tried in one pass: accumulators stay in registers */

/* Minima over all codes of width x 8 blocks at count local scales. in[0], in[1]:
 * the pairs (u0,u1) and (u2,u3). Both counts are constants where it is called. */
static inline __attribute__((always_inline)) void
pass(const ccq_book *book, const int32_t *first, const __m256i (*in)[2], int width, int count,
     __m256i (*m)[2])
{
    __m256i least[RUN][2];

    for (int l = 0; l < count; l++)
        for (int v = 0; v < width; v++)
            least[l][v] = _mm256_set1_epi32(INT32_MAX);
    for (int b = 0; b < CCQ_CODES; b++) {
        const __m256i c0 = _mm256_set1_epi32(book->pair[0][b]);
        const __m256i c1 = _mm256_set1_epi32(book->pair[1][b]);
        const __m256i start = _mm256_set1_epi32(first[b]), step = _mm256_set1_epi32(book->step[b]);
        for (int v = 0; v < width; v++) {
            __m256i score = _mm256_add_epi32(_mm256_madd_epi16(in[0][v], c0),
                                             _mm256_madd_epi16(in[1][v], c1));
            score = _mm256_add_epi32(score, start);
            for (int l = 0; l < count; l++) {
                if (l)
                    score = _mm256_add_epi32(score, step);
                least[l][v] = _mm256_min_epi32(least[l][v], score);
            }
        }
    }
    for (int l = 0; l < count; l++)
        for (int v = 0; v < width; v++)
            m[l][v] = least[l][v];
}

/* All 16 blocks at once while the minima fit the registers, else 8 and 8. */
static inline __attribute__((always_inline)) void
scan(const ccq_book *book, const int32_t *first, const __m256i in[2][2], int count, __m256i (*m)[2])
{
    if (count <= 5) {
        pass(book, first, in, 2, count, m);
        return;
    }
    for (int v = 0; v < 2; v++) {
        const __m256i half[2][2] = {{in[0][v], in[0][v]}, {in[1][v], in[1][v]}};
        __m256i one[RUN][2];
        pass(book, first, half, 1, count, one);
        for (int l = 0; l < count; l++)
            m[l][v] = one[l][0];
    }
}

static void scan_count(const ccq_book *book, const int32_t *first, const __m256i in[2][2],
                       int count, __m256i (*m)[2])
{
    switch (count) {
    case 1: scan(book, first, in, 1, m); break;
    case 2: scan(book, first, in, 2, m); break;
    case 3: scan(book, first, in, 3, m); break;
    case 4: scan(book, first, in, 4, m); break;
    case 5: scan(book, first, in, 5, m); break;
    case 6: scan(book, first, in, 6, m); break;
    default: scan(book, first, in, 7, m); break;
    }
}

/* u as it lies, (u0 u1 u2 u3) a block, to pairs in the order of the blocks. */
static void load_blocks(const int16_t u[64], __m256i in[2][2])
{
    for (int v = 0; v < 2; v++) {
        __m256 a = _mm256_loadu_ps((const float *)(const void *)(u + 32 * v));
        __m256 b = _mm256_loadu_ps((const float *)(const void *)(u + 32 * v + 16));
        __m256i even = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0x88));
        __m256i odd = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0xdd));
        in[0][v] = _mm256_permute4x64_epi64(even, 0xd8);
        in[1][v] = _mm256_permute4x64_epi64(odd, 0xd8);
    }
}

static int32_t finish(const __m256i m[2], uint8_t best[16])
{
    const __m256i low = _mm256_set1_epi32(255);
    __m256i sum = _mm256_add_epi32(_mm256_srai_epi32(m[0], 8), _mm256_srai_epi32(m[1], 8));
    __m256i words = _mm256_packus_epi32(_mm256_and_si256(m[0], low), _mm256_and_si256(m[1], low));
    __m128i half = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));

    words = _mm256_permute4x64_epi64(words, 0xd8);
    _mm_storeu_si128((__m128i *)best, _mm_packus_epi16(_mm256_castsi256_si128(words),
                                                       _mm256_extracti128_si256(words, 1)));
    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0xb1));
    return _mm_cvtsi128_si32(half);
}

void ccq_search_avx2(const ccq_book *book, const int16_t u[64], int lo, int hi, int32_t *J,
                     uint8_t (*best)[16])
{
    __m256i in[2][2], m[RUN][2];

    load_blocks(u, in);
    for (int l = lo; l <= hi; l += RUN) {
        int count = hi - l + 1 < RUN ? hi - l + 1 : RUN;
        scan_count(book, book->start[l], (const __m256i (*)[2])in, count, m);
        for (int i = 0; i < count; i++)
            J[l - lo + i] = (l + i) * finish(m[i], best[l - lo + i]);
    }
}
