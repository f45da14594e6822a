/* Passes over a panel (kernels/panel.h), eight of its columns at a time. */
#include "kernels/internal.h"
#include "kernels/x86/avx2.h"

#include <math.h>

static void widen(const uint16_t *w, int64_t ld, int64_t k, float *x)
{
    for (int64_t i = 0; i < k; i++, w += ld, x += CCQ_PANEL) {
        _mm_prefetch((const char *)(w + (i + CCQ_ROWS_AHEAD < k ? CCQ_ROWS_AHEAD * ld : 0)),
                     _MM_HINT_T0);
        for (int c = 0; c < CCQ_PANEL; c += 8) {
            _mm256_storeu_ps(x + c, ccq_widen8(w + c));
            _mm256_storeu_ps(x + k * CCQ_PANEL + c, ccq_widen8(w + CCQ_PANEL + c));
        }
    }
}

static void amax(const float *w, int64_t k, float most[CCQ_PANEL])
{
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 m[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(),
                   _mm256_setzero_ps()};
    int64_t i;

    for (i = 0; i < k; i++)
        for (int h = 0; h < 2; h++) {
            __m256 row = _mm256_loadu_ps(w + i * CCQ_PANEL + 8 * h);
            m[h] = _mm256_max_ps(m[h], _mm256_andnot_ps(sign, row));
        }
    for (int h = 0; h < 2; h++)
        _mm256_storeu_ps(most + 8 * h, m[h]);
}

static void gather(const float *w, int64_t k, int order, const float scale[CCQ_PANEL], float *x)
{
    int from[CCQ_GROUP];
    __m256 v[8];

    for (int i = 0; i < CCQ_GROUP; i++)
        from[i] = ccq_stored_to_logical(i, order);
    for (int h = 0; h < CCQ_PANEL; h += 8) {
        const __m256 s = _mm256_loadu_ps(scale + h);
        for (int64_t i = 0; i < k; i += 8) {
            for (int j = 0; j < 8; j++) {
                int64_t row = i - i % CCQ_GROUP + from[i % CCQ_GROUP + j];
                v[j] = _mm256_mul_ps(_mm256_loadu_ps(w + row * CCQ_PANEL + h), s);
            }
            ccq_transpose8(v);
            for (int c = 0; c < 8; c++)
                _mm256_storeu_ps(x + (h + c) * k + i, v[c]);
        }
    }
}

/* ---- One column ---------------------------------------------------------- */

/* Sums of squares of the blocks of 32 rows: lane q, element z is block 2 z + q. */
static inline __m256 block_squares(const float *x)
{
    __m256 v[4], t[4], q;

    for (int i = 0; i < 4; i++)
        v[i] = _mm256_loadu_ps(x + 8 * i);
    t[0] = _mm256_unpacklo_ps(v[0], v[1]);
    t[1] = _mm256_unpackhi_ps(v[0], v[1]);
    t[2] = _mm256_unpacklo_ps(v[2], v[3]);
    t[3] = _mm256_unpackhi_ps(v[2], v[3]);
    v[0] = _mm256_shuffle_ps(t[0], t[2], 0x44);
    v[1] = _mm256_shuffle_ps(t[0], t[2], 0xee);
    v[2] = _mm256_shuffle_ps(t[1], t[3], 0x44);
    v[3] = _mm256_shuffle_ps(t[1], t[3], 0xee);
    q = _mm256_mul_ps(v[0], v[0]);
    for (int i = 1; i < 4; i++)
        q = _mm256_fmadd_ps(v[i], v[i], q);
    return q;
}

static void rms(const float *x, int64_t groups, float *to)
{
    for (int64_t g = 0; g < groups; g++, x += CCQ_GROUP) {
        __m256 q = _mm256_add_ps(block_squares(x), block_squares(x + 32)); /* j and j + 8 */
        __m128 r;
        q = _mm256_add_ps(q, _mm256_permute_ps(q, 0x4e)); /* + 4: z and z + 2 */
        q = _mm256_add_ps(q, _mm256_permute_ps(q, 0xb1)); /* + 2: z and z + 1 */
        r = _mm_add_ps(_mm256_castps256_ps128(q), _mm256_extractf128_ps(q, 1));
        to[g] = sqrtf(_mm_cvtss_f32(r) / (float)CCQ_GROUP);
    }
}

/* The conversion gives the least int32 to what is below it, which saturates. */
static inline __m256i unit8(const float *x, __m256 inv)
{
    __m256 p = _mm256_min_ps(_mm256_mul_ps(_mm256_loadu_ps(x), inv), _mm256_set1_ps(32767.0f));
    p = _mm256_round_ps(p, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    return _mm256_cvttps_epi32(p);
}

static void units(const float *x, int64_t k, float inv, int16_t *u)
{
    const __m256 by = _mm256_set1_ps(inv);

    for (int64_t i = 0; i < k; i += 16) {
        __m256i both = _mm256_packs_epi32(unit8(x + i, by), unit8(x + i + 8, by));
        both = _mm256_permute4x64_epi64(both, 0xd8);
        _mm256_storeu_si256((__m256i *)(void *)(u + i), both);
    }
}

static void turn(const uint8_t *from, int64_t ld, uint8_t to[16][CCQ_PANEL])
{
    __m128i v[16];

    for (int i = 0; i < 16; i++)
        v[i] = _mm_loadu_si128((const __m128i *)(const void *)(from + i * ld));
    ccq_turn16(v);
    for (int i = 0; i < 16; i++)
        _mm_storeu_si128((__m128i *)(void *)to[i], v[i]);
}

/* ---- Decoded values ------------------------------------------------------ */

/* Scales of eight columns; the short cut of avx2_unpack.c where it is proved. It
 * loses the sign of zero, which no sum sees. */
typedef struct scales {
    __m256 s, low, high;
    int safe;
} scales;

static inline scales load_scales(const float *scale)
{
    const __m256 bound = _mm256_set1_ps(0x1p90f);
    scales x;
    __m256 size;

    x.s = _mm256_loadu_ps(scale);
    x.low = _mm256_mul_ps(x.s, _mm256_set1_ps(65536.0f));
    x.high = _mm256_mul_ps(x.s, _mm256_set1_ps(65537.0f));
    size = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x.s);
    x.safe = _mm256_movemask_ps(_mm256_cmp_ps(size, bound, _CMP_LE_OQ)) == 0xff;
    return x;
}

static inline __m256 weights(__m256i c, const scales *x)
{
    __m256 v = _mm256_cvtepi32_ps(c);

    if (x->safe)
        return _mm256_fnmadd_ps(v, x->low, _mm256_mul_ps(v, x->high));
    return ccq_round8(_mm256_mul_ps(v, x->s));
}

/* A line that passed its proof gives the same words in any order of evaluation. */
static inline __m256i words(const ccq_coded_group *g, int r, int h)
{
    __m128i bytes = _mm_loadl_epi64((const __m128i *)(const void *)(g->bytes[r] + h));
    __m256 f = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));

    f = _mm256_fmadd_ps(f, _mm256_loadu_ps(g->cs + h), _mm256_loadu_ps(g->zp + h));
    return _mm256_cvttps_epi32(_mm256_floor_ps(_mm256_add_ps(f, _mm256_set1_ps(0.5f))));
}

static inline __m256 window(__m256i word, int i, const scales *x)
{
    __m256i state = _mm256_and_si256(_mm256_srli_epi32(word, 9 - 3 * i), _mm256_set1_epi32(63));
    return weights(_mm256_sub_epi32(state, _mm256_set1_epi32(CCQ_VALUE_ZERO)), x);
}

static inline __m256d to_double(__m256 v, int half)
{
    return _mm256_cvtps_pd(half ? _mm256_extractf128_ps(v, 1) : _mm256_castps256_ps128(v));
}

/* Products of two fp32 are exact in fp64, so fmadd rounds as product and sum do. */
static void products8(const ccq_coded_group *g, const float *w, const float *scale, int h,
                      ccq_panel_sums *sums)
{
    const __m256 s = _mm256_loadu_ps(scale + h);
    const scales of = load_scales(g->scale + h);
    __m256d ww[2] = {_mm256_loadu_pd(sums->ww + h), _mm256_loadu_pd(sums->ww + h + 4)};
    __m256d wv[2] = {_mm256_loadu_pd(sums->wv + h), _mm256_loadu_pd(sums->wv + h + 4)};

    for (int r = 0; r < 16; r++) {
        const __m256i word = words(g, r, h);
        for (int i = 0; i < CCQ_WINDOWS; i++) {
            int row = g->row[CCQ_WINDOWS * r + i];
            __m256 x = _mm256_mul_ps(_mm256_loadu_ps(w + row * CCQ_PANEL + h), s);
            __m256 v = window(word, i, &of);
            for (int j = 0; j < 2; j++) {
                __m256d a = to_double(x, j);
                ww[j] = _mm256_fmadd_pd(a, a, ww[j]);
                wv[j] = _mm256_fmadd_pd(a, to_double(v, j), wv[j]);
            }
        }
    }
    for (int j = 0; j < 2; j++) {
        _mm256_storeu_pd(sums->ww + h + 4 * j, ww[j]);
        _mm256_storeu_pd(sums->wv + h + 4 * j, wv[j]);
    }
}

static void products(const ccq_coded_group *g, const float *w, const float scale[CCQ_PANEL],
                     ccq_panel_sums *sums)
{
    products8(g, w, scale, 0, sums);
    products8(g, w, scale, 8, sums);
}

typedef struct error_sums {
    __m256d error[2], ww[2], most[2];
} error_sums;

static inline error_sums load_sums(const ccq_panel_sums *sums, int h)
{
    error_sums e;

    for (int j = 0; j < 2; j++) {
        e.error[j] = _mm256_loadu_pd(sums->error + h + 4 * j);
        e.ww[j] = _mm256_loadu_pd(sums->ww + h + 4 * j);
        e.most[j] = _mm256_loadu_pd(sums->max_error + h + 4 * j);
    }
    return e;
}

static inline void store_sums(const error_sums *e, ccq_panel_sums *sums, int h)
{
    for (int j = 0; j < 2; j++) {
        _mm256_storeu_pd(sums->error + h + 4 * j, e->error[j]);
        _mm256_storeu_pd(sums->ww + h + 4 * j, e->ww[j]);
        _mm256_storeu_pd(sums->max_error + h + 4 * j, e->most[j]);
    }
}

/* The difference may round, so its square is a product of its own. The maximum
 * takes its second operand for a NaN in the first. */
static inline void add_errors(const float *row, __m256 v, error_sums *e)
{
    for (int j = 0; j < 2; j++) {
        __m256d a = _mm256_cvtps_pd(_mm_loadu_ps(row + 4 * j));
        __m256d d = _mm256_sub_pd(a, to_double(v, j));
        e->error[j] = _mm256_add_pd(e->error[j], _mm256_mul_pd(d, d));
        e->ww[j] = _mm256_fmadd_pd(a, a, e->ww[j]);
        e->most[j] = _mm256_max_pd(_mm256_andnot_pd(_mm256_set1_pd(-0.0), d), e->most[j]);
    }
}

static void errors(const ccq_coded_group *g, const float *w, ccq_panel_sums *sums)
{
    for (int h = 0; h < CCQ_PANEL; h += 8) {
        const scales of = load_scales(g->scale + h);
        error_sums e = load_sums(sums, h);
        for (int r = 0; r < 16; r++) {
            const __m256i word = words(g, r, h);
            for (int i = 0; i < CCQ_WINDOWS; i++) {
                int row = g->row[CCQ_WINDOWS * r + i];
                add_errors(w + row * CCQ_PANEL + h, window(word, i, &of), &e);
            }
        }
        store_sums(&e, sums, h);
    }
}

/* ---- wint8, wint4 -------------------------------------------------------- */

/* A NaN takes the second of the maximum. */
static inline __m256i integer8(__m256 w, __m256 by, __m256 factor, __m256 bound)
{
    const __m256 half = _mm256_set1_ps(0.5f), sign = _mm256_set1_ps(-0.0f);
    __m256 t = _mm256_mul_ps(_mm256_div_ps(w, by), factor), rest;
    __m256i q, up, down;

    t = _mm256_min_ps(_mm256_max_ps(t, _mm256_xor_ps(bound, sign)), bound);
    q = _mm256_cvttps_epi32(t);
    rest = _mm256_sub_ps(t, _mm256_cvtepi32_ps(q)); /* exact */
    up = _mm256_castps_si256(_mm256_cmp_ps(rest, half, _CMP_GE_OQ));
    down = _mm256_castps_si256(_mm256_cmp_ps(rest, _mm256_xor_ps(half, sign), _CMP_LE_OQ));
    return _mm256_add_epi32(_mm256_sub_epi32(q, up), down);
}

static void integers(const float *w, int64_t k, const float by[CCQ_PANEL], float factor,
                     float bound, int8_t *q)
{
    const __m256 b0 = _mm256_loadu_ps(by), b1 = _mm256_loadu_ps(by + 8);
    const __m256 f = _mm256_set1_ps(factor), m = _mm256_set1_ps(bound);

    for (int64_t i = 0; i < k * CCQ_PANEL; i += CCQ_PANEL) {
        __m256i x = integer8(_mm256_loadu_ps(w + i), b0, f, m);
        __m256i y = integer8(_mm256_loadu_ps(w + i + 8), b1, f, m);
        x = _mm256_permute4x64_epi64(_mm256_packs_epi32(x, y), 0xd8);
        _mm_storeu_si128((__m128i *)(void *)(q + i),
                         _mm_packs_epi16(_mm256_castsi256_si128(x),
                                         _mm256_extracti128_si256(x, 1)));
    }
}

static void integer_errors(const float *w, const int8_t *q, int64_t k,
                           const float scale[CCQ_PANEL], ccq_panel_sums *sums)
{
    for (int h = 0; h < CCQ_PANEL; h += 8) {
        const scales of = load_scales(scale + h);
        error_sums e = load_sums(sums, h);
        for (int64_t i = h; i < k * CCQ_PANEL; i += CCQ_PANEL) {
            __m128i row = _mm_loadl_epi64((const __m128i *)(const void *)(q + i));
            add_errors(w + i, weights(_mm256_cvtepi8_epi32(row), &of), &e);
        }
        store_sums(&e, sums, h);
    }
}

/* wint8: rows 0 8 1 9 ... of every 16. wint4: of every 32 rows, byte 2 b + h holds
 * row 16 h + b low and row 16 h + 8 + b high (kernels/tile.h). */
static void place(int bits, const int8_t q[CCQ_GROUP], uint8_t *run)
{
    const __m128i mix = _mm_setr_epi8(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
    __m128i v[4];

    for (int i = 0; i < 4; i++) {
        v[i] = _mm_loadu_si128((const __m128i *)(const void *)(q + 16 * i));
        v[i] = _mm_shuffle_epi8(v[i], mix);
        if (bits == 8) {
            v[i] = _mm_xor_si128(v[i], _mm_set1_epi8(-128));
            _mm_storeu_si128((__m128i *)(void *)(run + 16 * i), v[i]);
            continue;
        }
        v[i] = _mm_and_si128(_mm_add_epi8(v[i], _mm_set1_epi8(8)), _mm_set1_epi8(15));
        v[i] = _mm_maddubs_epi16(v[i], _mm_set1_epi16(0x1001)); /* low + 16 high */
        if (i % 2)
            _mm_storeu_si128((__m128i *)(void *)(run + 8 * (i - 1)),
                             _mm_or_si128(v[i - 1], _mm_slli_epi16(v[i], 8)));
    }
}

void ccq_panel_init_avx2(ccq_panel_ops *ops)
{
    ops->widen = widen;
    ops->amax = amax;
    ops->gather = gather;
    ops->rms = rms;
    ops->units = units;
    ops->turn = turn;
    ops->products = products;
    ops->errors = errors;
    ops->integers = integers;
    ops->integer_errors = integer_errors;
    ops->place = place;
}
