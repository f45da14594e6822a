/* Stored weights to a panel of 16 columns in fp32. A panel that is not whole, or
 * whose scales or lines are out of the range the short cuts are proved for, is
 * decoded in C.
 *
 * bf16(c * s) for an integer |c| <= 128 and a bf16 s: fmaf(-c, 2^16 s, c * (2^16 s + s)).
 * 2^16 s + s has 8 + 16 bits, exact; its product with c rounds to 24 bits, which
 * is 2^16 c s plus c s rounded to 8 bits, ties to even because 2^16 c s is an even
 * multiple of the last place; the fmaf takes 2^16 c s away. Right while nothing
 * overflows; a subnormal c s is a multiple of 2^-133 and not rounded at all. A
 * zero comes out as +0, hence the sign. */
#include "kernels/internal.h"
#include "kernels/x86/avx2.h"

#include <math.h>

static int scale_is_safe(float s)
{
    return fabsf(s) <= 0x1p90f;
}

/* ---- bf16, fp32 ---------------------------------------------------------- */

/* Rows of a wide matrix are pages apart, out of reach of the processor's own
 * prefetcher: ask for the columns that ccq_matmul wants 64 later. */
static void unpack_bf16(const uint16_t *data, int64_t n, int64_t kc, float *panel)
{
    int64_t k;

    for (k = 0; k < kc; k++, data += n) {
        _mm_prefetch((const char *)(data + 64), _MM_HINT_T1);
        _mm256_storeu_ps(panel + k * CCQ_PANEL, ccq_widen8(data));
        _mm256_storeu_ps(panel + k * CCQ_PANEL + 8, ccq_widen8(data + 8));
    }
}

static void unpack_f32(const float *data, int64_t n, int64_t kc, float *panel)
{
    int64_t k;

    for (k = 0; k < kc; k++, data += n) {
        _mm_prefetch((const char *)(data + 64), _MM_HINT_T1);
        _mm256_storeu_ps(panel + k * CCQ_PANEL, _mm256_loadu_ps(data));
        _mm256_storeu_ps(panel + k * CCQ_PANEL + 8, _mm256_loadu_ps(data + 8));
    }
}

/* Eight columns from data, ld values apart. */
static void unpack_bf16_t(const uint16_t *data, int64_t ld, int64_t kc, float *panel)
{
    __m256 v[8];
    int64_t k;
    int i;

    for (k = 0; k + 8 <= kc; k += 8) {
        for (i = 0; i < 8; i++)
            v[i] = ccq_widen8(data + i * ld + k);
        ccq_transpose8(v);
        for (i = 0; i < 8; i++)
            _mm256_storeu_ps(panel + (k + i) * CCQ_PANEL, v[i]);
    }
    for (; k < kc; k++)
        for (i = 0; i < 8; i++)
            panel[k * CCQ_PANEL + i] = ccq_bf16_to_f32(data[i * ld + k]);
}

/* ---- Scales -------------------------------------------------------------- */

/* Eight columns' scale in the forms that weight8 wants. */
typedef struct scales {
    __m256 s, low, high; /* s, 2^16 s, 2^16 s + s */
} scales;

static inline scales make_scales(__m256 s)
{
    scales x;

    x.s = s;
    x.low = _mm256_mul_ps(s, _mm256_set1_ps(65536.0f));
    x.high = _mm256_mul_ps(s, _mm256_set1_ps(65537.0f));
    return x;
}

/* c: integers as floats, +0 for zero. fix: some s is not above zero. */
static inline __m256 weight8(__m256 c, const scales *x, int fix)
{
    __m256 w = _mm256_fnmadd_ps(c, x->low, _mm256_mul_ps(c, x->high));

    if (fix)
        w = _mm256_or_ps(w, _mm256_and_ps(_mm256_xor_ps(c, x->s), _mm256_set1_ps(-0.0f)));
    return w;
}

static inline int not_positive(__m256 s)
{
    return _mm256_movemask_ps(_mm256_cmp_ps(s, _mm256_setzero_ps(), _CMP_GT_OQ)) != 0xff;
}

/* ---- wint8, wint4 -------------------------------------------------------- */

/* 16 signed bytes, one a column, to one row of the panel. */
static inline void byte_row(__m128i c, const scales x[2], int fix, float *row)
{
    __m256 low = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(c));
    __m256 high = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(c, 8)));

    _mm256_storeu_ps(row, weight8(low, &x[0], fix));
    _mm256_storeu_ps(row + 8, weight8(high, &x[1], fix));
}

/* wint8: 16 rows of a column are 16 bytes, rows 0 8 1 9 ... (tile.h). */
static void unpack_wint8(const ccq_weight *w, int64_t k0, int64_t kc, int64_t n0,
                         const scales x[2], int fix, float *panel)
{
    const __m128i bias = _mm_set1_epi8(-128);
    __m128i v[16];
    int64_t k;
    int j;

    for (k = 0; k < kc; k += 16) {
        int64_t at = (k0 + k) % 64 + (k0 + k) / 64 * 128 + n0 * w->k;
        for (j = 0; j < 16; j++) {
            const uint8_t *column = (const uint8_t *)w->data + at + j % 2 * 64 + j / 2 * 2 * w->k;
            v[j] = _mm_xor_si128(_mm_loadu_si128((const __m128i *)column), bias);
        }
        ccq_turn16(v);
        for (j = 0; j < 16; j++)
            byte_row(v[j], x, fix, panel + (k + j / 2 + j % 2 * 8) * CCQ_PANEL);
    }
}

/* wint4: 32 rows of a column are 16 bytes; nibble 4 r + a is row 8 a + r. */
static void unpack_wint4(const ccq_weight *w, int64_t k0, int64_t kc, int64_t n0,
                         const scales x[2], int fix, float *panel)
{
    const __m128i mask = _mm_set1_epi8(15), bias = _mm_set1_epi8(8);
    __m128i v[16];
    int64_t k;
    int j;

    for (k = 0; k < kc; k += 32) {
        int64_t at = (k0 + k) % 64 + (k0 + k) / 64 * 256 + n0 * w->k;
        for (j = 0; j < 16; j++)
            v[j] = _mm_loadu_si128((const __m128i *)((const uint8_t *)w->data +
                                                     (at + j % 4 * 64 + j / 4 * 4 * w->k) / 2));
        ccq_turn16(v);
        for (j = 0; j < 16; j++) {
            float *row = panel + (k + j / 2 + j % 2 * 16) * CCQ_PANEL;
            __m128i even = _mm_and_si128(v[j], mask);
            __m128i odd = _mm_and_si128(_mm_srli_epi16(v[j], 4), mask);
            byte_row(_mm_sub_epi8(even, bias), x, fix, row);
            byte_row(_mm_sub_epi8(odd, bias), x, fix, row + 8 * CCQ_PANEL);
        }
    }
}

/* 0 when the short cut does not hold. */
static int unpack_integers(const ccq_weight *w, int64_t k0, int64_t kc, int64_t n0, float *panel)
{
    scales x[2];
    int fix, j;

    for (j = 0; j < CCQ_PANEL; j++)
        if (!scale_is_safe(ccq_bf16_to_f32(w->scale[n0 + j])))
            return 0;
    if (k0 % CCQ_GROUP || kc % CCQ_GROUP)
        return 0;
    x[0] = make_scales(ccq_widen8(w->scale + n0));
    x[1] = make_scales(ccq_widen8(w->scale + n0 + 8));
    fix = not_positive(x[0].s) | not_positive(x[1].s);
    if (w->type == CCQ_W_WINT8)
        unpack_wint8(w, k0, kc, n0, x, fix, panel);
    else
        unpack_wint4(w, k0, kc, n0, x, fix, panel);
    return 1;
}

/* ---- wint2 --------------------------------------------------------------- */

/* Half a panel: eight columns. */
typedef struct half {
    __m256 cs, zp, super;
} half;

/* Every word of the line fits int32 (words rise or fall with the byte). */
static int line_is_safe(float cs, float zp)
{
    return fabsf(zp) < 0x1p29f && fabsf(cs) < 0x1p20f;
}

static inline __m256i words8(const uint8_t *bytes, const half *x, int rounding)
{
    __m256i b = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)bytes));
    __m256 f = _mm256_cvtepi32_ps(b), point5 = _mm256_set1_ps(0.5f);

    if (rounding == CCQ_ROUND_UNZIP)
        f = _mm256_add_ps(_mm256_fmadd_ps(f, x->cs, x->zp), point5);
    else
        f = _mm256_fmadd_ps(f, x->cs, _mm256_add_ps(x->zp, point5));
    return _mm256_cvttps_epi32(_mm256_floor_ps(f));
}

static inline __m256 value8(__m256i word, int i)
{
    __m256i state = _mm256_and_si256(_mm256_srli_epi32(word, 9 - 3 * i), _mm256_set1_epi32(63));
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(state, _mm256_set1_epi32(CCQ_VALUE_ZERO)));
}

/* One 64-row group of eight columns. rounding and fix are constants at the calls. */
static inline __attribute__((always_inline)) void
group8(const uint8_t *data, int64_t n, const half *x, __m256 s, const int *to, const int rounding,
       const int fix, float *panel)
{
    scales sc = make_scales(s);
    int r, i;

    for (r = 0; r < CCQ_GROUP / CCQ_WINDOWS; r++) {
        __m256i word = words8(data + r * n, x, rounding);
        for (i = 0; i < CCQ_WINDOWS; i++) {
            __m256 c = value8(word, i), w;
            if (rounding == CCQ_ROUND_FUSED)
                w = weight8(c, &sc, fix);
            else
                w = _mm256_mul_ps(c, s);
            if (rounding == CCQ_ROUND_UNZIP)
                w = ccq_round8(w);
            _mm256_storeu_ps(panel + to[CCQ_WINDOWS * r + i], w);
        }
    }
}

static void decode_group(const ccq_weight *w, int64_t k, int64_t n0, const half *x, const int *to,
                         float *panel)
{
    const uint8_t *data = (const uint8_t *)w->data + k / CCQ_WINDOWS * w->n + n0;
    const uint8_t *pair = w->local + k / CCQ_GROUP / 2 * w->n + n0;
    __m256i local = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)pair));
    __m256 s;

    local = k / CCQ_GROUP & 1 ? _mm256_and_si256(local, _mm256_set1_epi32(15))
                              : _mm256_srli_epi32(local, 4);
    s = _mm256_mul_ps(_mm256_cvtepi32_ps(local), x->super);
    if (w->rounding == CCQ_ROUND_NONE)
        group8(data, w->n, x, s, to, CCQ_ROUND_NONE, 0, panel);
    else if (w->rounding == CCQ_ROUND_UNZIP)
        group8(data, w->n, x, s, to, CCQ_ROUND_UNZIP, 0, panel);
    else if (not_positive(s))
        group8(data, w->n, x, ccq_round8(s), to, CCQ_ROUND_FUSED, 1, panel);
    else
        group8(data, w->n, x, ccq_round8(s), to, CCQ_ROUND_FUSED, 0, panel);
}

/* 0 when the short cut does not hold. */
static int unpack_wint2(const ccq_weight *w, int64_t k0, int64_t kc, int64_t n0, float *panel)
{
    int to[CCQ_GROUP], j, s;
    int64_t k;

    for (j = 0; j < CCQ_PANEL; j++)
        if (!scale_is_safe(ccq_bf16_to_f32(w->super[n0 + j])) ||
            !line_is_safe(w->code_scale[n0 + j], w->code_zp[n0 + j]))
            return 0;
    for (s = 0; s < CCQ_GROUP; s++)
        to[s] = ccq_stored_to_logical(s, w->order) * CCQ_PANEL;
    for (j = 0; j < CCQ_PANEL; j += 8) {
        half x = {_mm256_loadu_ps(w->code_scale + n0 + j), _mm256_loadu_ps(w->code_zp + n0 + j),
                  ccq_widen8(w->super + n0 + j)};
        for (k = 0; k < kc; k += CCQ_GROUP)
            decode_group(w, k0 + k, n0 + j, &x, to, panel + k * CCQ_PANEL + j);
    }
    return 1;
}

/* ---- all ----------------------------------------------------------------- */

void ccq_unpack_avx2(const ccq_weight *w, int64_t k0, int64_t kc, int64_t n0, float *panel)
{
    const uint16_t *data = w->data;
    int done = 1;

    if (w->n - n0 < CCQ_PANEL) {
        ccq_unpack_c(w, k0, kc, n0, panel);
        return;
    }
    switch (w->type) {
    case CCQ_W_BF16:
        unpack_bf16(data + k0 * w->n + n0, w->n, kc, panel);
        break;
    case CCQ_W_BF16_T:
        unpack_bf16_t(data + n0 * w->k + k0, w->k, kc, panel);
        unpack_bf16_t(data + (n0 + 8) * w->k + k0, w->k, kc, panel + 8);
        break;
    case CCQ_W_WINT2: done = unpack_wint2(w, k0, kc, n0, panel); break;
    case CCQ_W_FP8: done = 0; break;
    case CCQ_W_F32:
        unpack_f32((const float *)w->data + k0 * w->n + n0, w->n, kc, panel);
        break;
    default: done = unpack_integers(w, k0, kc, n0, panel); break;
    }
    if (!done)
        ccq_unpack_c(w, k0, kc, n0, panel);
}
