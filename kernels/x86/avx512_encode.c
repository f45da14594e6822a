/* The encoder's search. A 128-bit lane holds one block against four codes, so a
 * load of four codes goes to all lanes and feeds four or two vectors of blocks:
 * few loads, and the rest is multiply, add and minimum. vpdpwssd adds both pairs
 * of a block onto the start of its score; it cannot overflow (|score| < 2^31).
 * The byte rides in the low 8 bits. */
#include "kernels/internal.h"
#include "kernels/x86/avx512.h"

enum {
    RUN = 7,  /* local scales tried in one pass: accumulators stay in registers */
    WIDE = 4, /* up to this many of them all blocks go at once, above in two halves */
    LANES = 4
};

static inline __m512i four_codes(const int32_t *p)
{
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)p));
}

/* Minima of width vectors at count local scales, the first of them in start.
 * x, y: the pairs (u0,u1) and (u2,u3). Both counts are constants at the calls. */
static inline __attribute__((always_inline)) void
pass(const ccq_book *book, const int32_t *start, const __m512i *x, const __m512i *y, int width,
     int count, __m512i (*m)[LANES])
{
    __m512i least[RUN][LANES];

    for (int l = 0; l < count; l++)
        for (int v = 0; v < width; v++)
            least[l][v] = _mm512_set1_epi32(INT32_MAX);
    for (int b = 0; b < CCQ_CODES; b += 4) {
        const __m512i c0 = four_codes(&book->pair[0][b]), c1 = four_codes(&book->pair[1][b]);
        const __m512i first = four_codes(&start[b]), step = four_codes(&book->step[b]);
        for (int v = 0; v < width; v++) {
            __m512i score = _mm512_dpwssd_epi32(first, x[v], c0);
            score = _mm512_dpwssd_epi32(score, y[v], c1);
            for (int l = 0; l < count; l++) {
                if (l)
                    score = _mm512_add_epi32(score, step);
                least[l][v] = _mm512_min_epi32(least[l][v], score);
            }
        }
    }
    for (int l = 0; l < count; l++)
        for (int v = 0; v < width; v++)
            m[l][v] = least[l][v];
}

/* Lane q of vector v is block 4q + v; over its four codes the minimum, in the
 * order of the blocks. */
static inline __m512i least_of_four(const __m512i m[LANES])
{
    __m512i a = _mm512_min_epi32(_mm512_unpacklo_epi32(m[0], m[1]),
                                 _mm512_unpackhi_epi32(m[0], m[1]));
    __m512i b = _mm512_min_epi32(_mm512_unpacklo_epi32(m[2], m[3]),
                                 _mm512_unpackhi_epi32(m[2], m[3]));

    return _mm512_min_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}

static inline __attribute__((always_inline)) void
scan(const ccq_book *book, int l, const __m512i in[2][LANES], int count, int32_t *J,
     uint8_t (*best)[16])
{
    const int width = count <= WIDE ? LANES : LANES / 2;
    __m512i m[RUN][LANES];

    pass(book, book->start[l], in[0], in[1], width, count, m);
    if (width < LANES) {
        __m512i half[RUN][LANES];
        pass(book, book->start[l], in[0] + width, in[1] + width, width, count, half);
        for (int i = 0; i < count; i++) {
            m[i][2] = half[i][0];
            m[i][3] = half[i][1];
        }
    }
    for (int i = 0; i < count; i++) {
        __m512i least = least_of_four(m[i]);
        J[i] = (l + i) * _mm512_reduce_add_epi32(_mm512_srai_epi32(least, 8));
        _mm_storeu_si128((__m128i *)(void *)best[i], _mm512_cvtepi32_epi8(least));
    }
}

static void scan_count(const ccq_book *book, int l, const __m512i in[2][LANES], int count,
                       int32_t *J, uint8_t (*best)[16])
{
    switch (count) {
    case 1: scan(book, l, in, 1, J, best); break;
    case 2: scan(book, l, in, 2, J, best); break;
    case 3: scan(book, l, in, 3, J, best); break;
    case 4: scan(book, l, in, 4, J, best); break;
    case 5: scan(book, l, in, 5, J, best); break;
    case 6: scan(book, l, in, 6, J, best); break;
    default: scan(book, l, in, RUN, J, best); break;
    }
}

/* u as it lies, (u0 u1 u2 u3) a block, to pairs: dword v of every lane, four times. */
static void load_blocks(const int16_t u[64], __m512i in[2][LANES])
{
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28,
                                           30);
    const __m512i a = _mm512_loadu_si512(u), b = _mm512_loadu_si512(u + 32);

    for (int h = 0; h < 2; h++) {
        __m512i from = _mm512_add_epi32(even, _mm512_set1_epi32(h));
        __m512i pairs = _mm512_permutex2var_epi32(a, from, b);
        in[h][0] = _mm512_shuffle_epi32(pairs, _MM_PERM_AAAA);
        in[h][1] = _mm512_shuffle_epi32(pairs, _MM_PERM_BBBB);
        in[h][2] = _mm512_shuffle_epi32(pairs, _MM_PERM_CCCC);
        in[h][3] = _mm512_shuffle_epi32(pairs, _MM_PERM_DDDD);
    }
}

void ccq_search_avx512(const ccq_book *book, const int16_t u[64], int lo, int hi, int32_t *J,
                       uint8_t (*best)[16])
{
    __m512i in[2][LANES];

    load_blocks(u, in);
    for (int l = lo; l <= hi; l += RUN) {
        int count = hi - l + 1 < RUN ? hi - l + 1 : RUN;
        scan_count(book, l, (const __m512i(*)[LANES])in, count, J + (l - lo), best + (l - lo));
    }
}

void ccq_ops_init_avx512(ccq_ops *ops)
{
    ops->name = "avx512";
    ccq_panel_init_avx512(&ops->panel);
    ccq_feedback_init_avx512(&ops->feedback);
    ops->search = ccq_search_avx512;
    ops->widen = ccq_widen_avx512;
    ops->round = ccq_round_avx512;
    ops->product = ccq_product_avx512;
    ops->gemv = ccq_gemv_avx512;
}
