/* Passes over a panel (kernels/panel.h): a row of 16 columns is one vector. */
#include "kernels/internal.h"
#include "kernels/x86/avx512.h"

#include <math.h>

static void widen(const uint16_t *w, int64_t ld, int64_t k, float *x)
{
    float *second = x + k * CCQ_PANEL;

    for (int64_t i = 0; i < k; i++, w += ld) {
        _mm_prefetch((const char *)(w + (i + CCQ_ROWS_AHEAD < k ? CCQ_ROWS_AHEAD * ld : 0)),
                     _MM_HINT_T0);
        _mm512_storeu_ps(x + i * CCQ_PANEL, ccq_widen16(w));
        _mm512_storeu_ps(second + i * CCQ_PANEL, ccq_widen16(w + CCQ_PANEL));
    }
}

static void amax(const float *w, int64_t k, float most[CCQ_PANEL])
{
    __m512 m[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(),
                   _mm512_setzero_ps()};
    int64_t i;

    for (i = 0; i + 4 <= k; i += 4)
        for (int j = 0; j < 4; j++) {
            __m512 row = _mm512_loadu_ps(w + (i + j) * CCQ_PANEL);
            m[j] = _mm512_max_ps(m[j], _mm512_abs_ps(row));
        }
    for (; i < k; i++)
        m[0] = _mm512_max_ps(m[0], _mm512_abs_ps(_mm512_loadu_ps(w + i * CCQ_PANEL)));
    m[0] = _mm512_max_ps(_mm512_max_ps(m[0], m[1]), _mm512_max_ps(m[2], m[3]));
    _mm512_storeu_ps(most, m[0]);
}

/* In place: row i of the 16 x 16 matrix becomes its column i. */
static inline void transpose16(__m512 v[16])
{
    __m512 t[16];

    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(v[i], v[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(v[i], v[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            v[i + 2 * j] = _mm512_shuffle_ps(t[i + j], t[i + j + 2], 0x44);
            v[i + 2 * j + 1] = _mm512_shuffle_ps(t[i + j], t[i + j + 2], 0xee);
        }
    for (int i = 0; i < 4; i++) { /* v[4 r + i]: lane q holds column 4 q + i of rows 4 r.. */
        t[i] = _mm512_shuffle_f32x4(v[i], v[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_f32x4(v[i], v[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_f32x4(v[i + 8], v[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_f32x4(v[i + 8], v[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        v[i] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88);
        v[i + 4] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0x88);
        v[i + 8] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0xdd);
        v[i + 12] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0xdd);
    }
}

static void gather(const float *w, int64_t k, int order, const float scale[CCQ_PANEL], float *x)
{
    const __m512 s = _mm512_loadu_ps(scale);
    int from[CCQ_GROUP];
    __m512 v[16];

    for (int i = 0; i < CCQ_GROUP; i++)
        from[i] = ccq_stored_to_logical(i, order);
    for (int64_t i = 0; i < k; i += 16) {
        for (int j = 0; j < 16; j++) {
            int64_t row = i - i % CCQ_GROUP + from[i % CCQ_GROUP + j];
            v[j] = _mm512_mul_ps(_mm512_loadu_ps(w + row * CCQ_PANEL), s);
        }
        transpose16(v);
        for (int c = 0; c < CCQ_PANEL; c++)
            _mm512_storeu_ps(x + c * k + i, v[c]);
    }
}

/* ---- One column ---------------------------------------------------------- */

/* Lane q, element z of the squares is block 4 z + q. */
static inline __m512 block_squares(const float *x)
{
    __m512 v[4], t[4], q;

    for (int i = 0; i < 4; i++)
        v[i] = _mm512_loadu_ps(x + 16 * i);
    t[0] = _mm512_unpacklo_ps(v[0], v[1]);
    t[1] = _mm512_unpackhi_ps(v[0], v[1]);
    t[2] = _mm512_unpacklo_ps(v[2], v[3]);
    t[3] = _mm512_unpackhi_ps(v[2], v[3]);
    v[0] = _mm512_shuffle_ps(t[0], t[2], 0x44);
    v[1] = _mm512_shuffle_ps(t[0], t[2], 0xee);
    v[2] = _mm512_shuffle_ps(t[1], t[3], 0x44);
    v[3] = _mm512_shuffle_ps(t[1], t[3], 0xee);
    q = _mm512_mul_ps(v[0], v[0]);
    for (int i = 1; i < 4; i++)
        q = _mm512_fmadd_ps(v[i], v[i], q);
    return q;
}

static void rms(const float *x, int64_t groups, float *to)
{
    for (int64_t g = 0; g < groups; g++) {
        __m512 q = block_squares(x + g * CCQ_GROUP);
        __m128 r;
        q = _mm512_add_ps(q, _mm512_permute_ps(q, 0x4e));          /* + 8: z and z + 2 */
        q = _mm512_add_ps(q, _mm512_permute_ps(q, 0xb1));          /* + 4: z and z + 1 */
        q = _mm512_add_ps(q, _mm512_shuffle_f32x4(q, q, 0x4e)); /* + 2: q and q + 2 */
        r = _mm_add_ps(_mm512_castps512_ps128(q), _mm512_extractf32x4_ps(q, 1));
        to[g] = sqrtf(_mm_cvtss_f32(r) / (float)CCQ_GROUP);
    }
}

/* What is below int32 becomes its least value, and saturates from there. */
static inline __m512i unit16(const float *x, __m512 inv)
{
    __m512 p = _mm512_min_ps(_mm512_mul_ps(_mm512_loadu_ps(x), inv), _mm512_set1_ps(32767.0f));
    return _mm512_cvt_roundps_epi32(p, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

static void units(const float *x, int64_t k, float inv, int16_t *u)
{
    const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    const __m512 by = _mm512_set1_ps(inv);

    for (int64_t i = 0; i < k; i += 32) {
        __m512i both = _mm512_packs_epi32(unit16(x + i, by), unit16(x + i + 16, by));
        _mm512_storeu_si512(u + i, _mm512_permutexvar_epi64(order, both));
    }
}

/* ---- Decoded values ------------------------------------------------------ */

/* Scales of 16 columns; the short cut of avx2_unpack.c where it is proved. It loses
 * the sign of zero, which no sum sees. */
typedef struct scales {
    __m512 s, low, high;
    int safe;
} scales;

static inline scales load_scales(const float *scale)
{
    scales x;

    x.s = _mm512_loadu_ps(scale);
    x.low = _mm512_mul_ps(x.s, _mm512_set1_ps(65536.0f));
    x.high = _mm512_mul_ps(x.s, _mm512_set1_ps(65537.0f));
    x.safe = _mm512_cmp_ps_mask(_mm512_abs_ps(x.s), _mm512_set1_ps(0x1p90f), _CMP_LE_OQ) == 0xffff;
    return x;
}

static inline __m512 weights(__m512i c, const scales *x)
{
    __m512 v = _mm512_cvtepi32_ps(c);

    if (x->safe)
        return _mm512_fnmadd_ps(v, x->low, _mm512_mul_ps(v, x->high));
    return ccq_round16(_mm512_mul_ps(v, x->s));
}

/* A line that passed its proof gives the same words in any order of evaluation. */
static inline __m512i words(const ccq_coded_group *g, int r)
{
    __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)g->bytes[r]);
    __m512 f = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes));

    f = _mm512_add_ps(_mm512_fmadd_ps(f, _mm512_loadu_ps(g->cs), _mm512_loadu_ps(g->zp)),
                      _mm512_set1_ps(0.5f));
    return _mm512_cvt_roundps_epi32(f, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
}

static inline __m512 window(__m512i word, int i, const scales *x)
{
    __m512i state = _mm512_and_si512(_mm512_srli_epi32(word, (unsigned)(9 - 3 * i)),
                                     _mm512_set1_epi32(63));
    return weights(_mm512_sub_epi32(state, _mm512_set1_epi32(CCQ_VALUE_ZERO)), x);
}

static inline __m512d to_double(__m512 v, int half)
{
    __m512d d = _mm512_castps_pd(v);
    return _mm512_cvtps_pd(_mm256_castpd_ps(half ? _mm512_extractf64x4_pd(d, 1)
                                                 : _mm512_castpd512_pd256(d)));
}

/* Products of two fp32 are exact in fp64, so fmadd rounds as product and sum do. */
static void products(const ccq_coded_group *g, const float *w, const float scale[CCQ_PANEL],
                     ccq_panel_sums *sums)
{
    const __m512 s = _mm512_loadu_ps(scale);
    const scales of = load_scales(g->scale);
    __m512d ww[2], wv[2];

    for (int h = 0; h < 2; h++) {
        ww[h] = _mm512_loadu_pd(sums->ww + 8 * h);
        wv[h] = _mm512_loadu_pd(sums->wv + 8 * h);
    }
    for (int r = 0; r < 16; r++) {
        const __m512i word = words(g, r);
        for (int i = 0; i < CCQ_WINDOWS; i++) {
            int row = g->row[CCQ_WINDOWS * r + i];
            __m512 x = _mm512_mul_ps(_mm512_loadu_ps(w + row * CCQ_PANEL), s);
            __m512 v = window(word, i, &of);
            for (int h = 0; h < 2; h++) {
                __m512d a = to_double(x, h);
                ww[h] = _mm512_fmadd_pd(a, a, ww[h]);
                wv[h] = _mm512_fmadd_pd(a, to_double(v, h), wv[h]);
            }
        }
    }
    for (int h = 0; h < 2; h++) {
        _mm512_storeu_pd(sums->ww + 8 * h, ww[h]);
        _mm512_storeu_pd(sums->wv + 8 * h, wv[h]);
    }
}

typedef struct error_sums {
    __m512d error[2], ww[2], most[2];
} error_sums;

static inline error_sums load_sums(const ccq_panel_sums *sums)
{
    error_sums e;

    for (int h = 0; h < 2; h++) {
        e.error[h] = _mm512_loadu_pd(sums->error + 8 * h);
        e.ww[h] = _mm512_loadu_pd(sums->ww + 8 * h);
        e.most[h] = _mm512_loadu_pd(sums->max_error + 8 * h);
    }
    return e;
}

static inline void store_sums(const error_sums *e, ccq_panel_sums *sums)
{
    for (int h = 0; h < 2; h++) {
        _mm512_storeu_pd(sums->error + 8 * h, e->error[h]);
        _mm512_storeu_pd(sums->ww + 8 * h, e->ww[h]);
        _mm512_storeu_pd(sums->max_error + 8 * h, e->most[h]);
    }
}

/* The difference may round, so its square is a product of its own. The maximum
 * takes its second operand for a NaN in the first. */
static inline void add_errors(const float *row, __m512 v, error_sums *e)
{
    for (int h = 0; h < 2; h++) {
        __m512d a = _mm512_cvtps_pd(_mm256_loadu_ps(row + 8 * h));
        __m512d d = _mm512_sub_pd(a, to_double(v, h));
        e->error[h] = _mm512_add_pd(e->error[h], _mm512_mul_pd(d, d));
        e->ww[h] = _mm512_fmadd_pd(a, a, e->ww[h]);
        e->most[h] = _mm512_max_pd(_mm512_abs_pd(d), e->most[h]);
    }
}

static void errors(const ccq_coded_group *g, const float *w, ccq_panel_sums *sums)
{
    const scales of = load_scales(g->scale);
    error_sums e = load_sums(sums);

    for (int r = 0; r < 16; r++) {
        const __m512i word = words(g, r);
        for (int i = 0; i < CCQ_WINDOWS; i++) {
            int row = g->row[CCQ_WINDOWS * r + i];
            add_errors(w + row * CCQ_PANEL, window(word, i, &of), &e);
        }
    }
    store_sums(&e, sums);
}

/* ---- wint8, wint4 -------------------------------------------------------- */

/* A NaN takes the second of the maximum. */
static inline __m512i integer16(__m512 w, __m512 by, __m512 factor, __m512 bound)
{
    const __m512 half = _mm512_set1_ps(0.5f), sign = _mm512_set1_ps(-0.0f);
    __m512 t = _mm512_mul_ps(_mm512_div_ps(w, by), factor), rest;
    __mmask16 up, down;
    __m512i q;

    t = _mm512_min_ps(_mm512_max_ps(t, _mm512_xor_ps(bound, sign)), bound);
    q = _mm512_cvttps_epi32(t);
    rest = _mm512_sub_ps(t, _mm512_cvtepi32_ps(q)); /* exact */
    up = _mm512_cmp_ps_mask(rest, half, _CMP_GE_OQ);
    down = _mm512_cmp_ps_mask(rest, _mm512_xor_ps(half, sign), _CMP_LE_OQ);
    q = _mm512_mask_add_epi32(q, up, q, _mm512_set1_epi32(1));
    return _mm512_mask_sub_epi32(q, down, q, _mm512_set1_epi32(1));
}

static void integers(const float *w, int64_t k, const float by[CCQ_PANEL], float factor,
                     float bound, int8_t *q)
{
    const __m512 b = _mm512_loadu_ps(by), f = _mm512_set1_ps(factor), m = _mm512_set1_ps(bound);

    for (int64_t i = 0; i < k * CCQ_PANEL; i += CCQ_PANEL)
        _mm_storeu_si128((__m128i *)(void *)(q + i),
                         _mm512_cvtepi32_epi8(integer16(_mm512_loadu_ps(w + i), b, f, m)));
}

static void integer_errors(const float *w, const int8_t *q, int64_t k,
                           const float scale[CCQ_PANEL], ccq_panel_sums *sums)
{
    const scales of = load_scales(scale);
    error_sums e = load_sums(sums);

    for (int64_t i = 0; i < k * CCQ_PANEL; i += CCQ_PANEL) {
        __m128i row = _mm_loadu_si128((const __m128i *)(const void *)(q + i));
        add_errors(w + i, weights(_mm512_cvtepi8_epi32(row), &of), &e);
    }
    store_sums(&e, sums);
}

void ccq_panel_init_avx512(ccq_panel_ops *ops)
{
    ops->widen = widen;
    ops->amax = amax;
    ops->gather = gather;
    ops->rms = rms;
    ops->units = units;
    ops->products = products;
    ops->errors = errors;
    ops->integers = integers;
    ops->integer_errors = integer_errors;
}
