/* Norm, activation, rotation and attention, eight lanes at a time. Lanes are
 * outputs or positions, never the terms of one sum. */
#include "kernels/attend.h"
#include "kernels/exp.h"
#include "kernels/internal.h"
#include "kernels/x86/avx2.h"

#include <math.h>
#include <string.h>

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline float store1(float x, int bf16)
{
    return bf16 ? ccq_round_bf16(x) : x;
}

/* ---- Conversions --------------------------------------------------------- */

void ccq_widen_avx2(const uint16_t *x, int64_t count, float *y)
{
    int64_t i;

    for (i = 0; i + 8 <= count; i += 8)
        _mm256_storeu_ps(y + i, ccq_widen8(x + i));
    for (; i < count; i++)
        y[i] = ccq_bf16_to_f32(x[i]);
}

void ccq_round_avx2(const float *x, int64_t count, float *y)
{
    int64_t i;

    for (i = 0; i + 8 <= count; i += 8)
        _mm256_storeu_ps(y + i, ccq_round8(_mm256_loadu_ps(x + i)));
    for (; i < count; i++)
        y[i] = ccq_round_bf16(x[i]);
}

/* ---- exp ----------------------------------------------------------------- */

static inline __m256 power8(__m256i n)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}

/* The steps of ccq_exp_inline. min and max return their second operand for NaN. */
static inline __m256 exp8(__m256 x)
{
    const __m256 one = _mm256_set1_ps(1.0f), magic = _mm256_set1_ps(CCQ_EXP_MAGIC);
    __m256 t, n, r, p;
    __m256i whole, half;

    x = _mm256_min_ps(_mm256_set1_ps(CCQ_EXP_HIGH), x);
    x = _mm256_max_ps(_mm256_set1_ps(CCQ_EXP_LOW), x);
    t = _mm256_fmadd_ps(x, _mm256_set1_ps(CCQ_EXP_LOG2E), magic);
    n = _mm256_sub_ps(t, magic);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(CCQ_EXP_LN2_HI), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(CCQ_EXP_LN2_LO), r);
    p = _mm256_fmadd_ps(_mm256_set1_ps(CCQ_EXP_C7), r, _mm256_set1_ps(CCQ_EXP_C6));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(CCQ_EXP_C5));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(CCQ_EXP_C4));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(CCQ_EXP_C3));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(CCQ_EXP_C2));
    p = _mm256_fmadd_ps(p, r, one);
    p = _mm256_fmadd_ps(p, r, one);
    whole = _mm256_sub_epi32(_mm256_castps_si256(t), _mm256_set1_epi32((int)CCQ_EXP_MAGIC_BITS));
    half = _mm256_srai_epi32(whole, 1);
    p = _mm256_mul_ps(p, power8(half));
    return _mm256_mul_ps(p, power8(_mm256_sub_epi32(whole, half)));
}

/* ---- Norm, activation, rotation ------------------------------------------ */

void ccq_rms_avx2(const float *x, const float *g, int64_t h, float eps, int bf16, float *y)
{
    float s = 0, r;
    int64_t i;

    for (i = 0; i < h; i++)
        s = __builtin_fmaf(x[i], x[i], s);
    r = 1.0f / sqrtf(s * (1.0f / (float)h) + eps);
    for (i = 0; i + 8 <= h; i += 8) {
        __m256 v = _mm256_mul_ps(_mm256_loadu_ps(x + i), _mm256_set1_ps(r));
        v = _mm256_mul_ps(v, _mm256_loadu_ps(g + i));
        _mm256_storeu_ps(y + i, ccq_store8(v, bf16));
    }
    for (; i < h; i++)
        y[i] = store1(x[i] * r * g[i], bf16);
}

void ccq_swiglu_avx2(const float *gu, int64_t n, int bf16, float *a)
{
    const __m256 sign = _mm256_set1_ps(-0.0f), one = _mm256_set1_ps(1.0f);
    int64_t j;

    for (j = 0; j + 8 <= n; j += 8) {
        __m256 g = _mm256_loadu_ps(gu + j);
        __m256 e = _mm256_add_ps(one, exp8(_mm256_xor_ps(g, sign)));
        __m256 v = _mm256_mul_ps(_mm256_div_ps(g, e), _mm256_loadu_ps(gu + n + j));
        _mm256_storeu_ps(a + j, ccq_store8(v, bf16));
    }
    for (; j < n; j++) {
        float silu = gu[j] / (1.0f + ccq_exp_inline(-gu[j]));
        a[j] = store1(silu * gu[n + j], bf16);
    }
}

/* Four pairs: the even lanes a cos - b sin, the odd ones b cos + a sin. */
static inline __m256 rotate4(__m256 pair, const float *cos, const float *sin)
{
    const __m256i twice = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
    __m256 c = _mm256_castps128_ps256(_mm_loadu_ps(cos));
    __m256 s = _mm256_castps128_ps256(_mm_loadu_ps(sin));
    __m256 other = _mm256_permute_ps(pair, 0xb1);

    c = _mm256_permutevar8x32_ps(c, twice);
    s = _mm256_permutevar8x32_ps(s, twice);
    return _mm256_addsub_ps(_mm256_mul_ps(pair, c), _mm256_mul_ps(other, s));
}

void ccq_rope_avx2(float *x, int64_t heads, int64_t d, const float *cos, const float *sin, int bf16)
{
    int64_t h, i;

    for (h = 0; h < heads; h++, x += d) {
        for (i = 0; i + 4 <= d / 2; i += 4) {
            __m256 v = rotate4(_mm256_loadu_ps(x + 2 * i), cos + i, sin + i);
            _mm256_storeu_ps(x + 2 * i, ccq_store8(v, bf16));
        }
        for (; i < d / 2; i++) {
            float a = x[2 * i], b = x[2 * i + 1];
            x[2 * i] = store1(a * cos[i] - b * sin[i], bf16);
            x[2 * i + 1] = store1(b * cos[i] + a * sin[i], bf16);
        }
    }
}

/* ---- Attention ------------------------------------------------------------
 * Queries that share a KV head go through it together: scores are their product
 * with a panel of 16 keys on end, outputs the product of the weights with panels
 * of values. Each query keeps its own length: scores past it are computed and
 * never looked at, values past it never touched. */

/* One KV head and the block of queries at it. */
typedef struct pass {
    const void *k, *v;
    int kv_bf16, bf16;
    int64_t stride, offset; /* in values: between positions, of the KV head */
    int64_t d, width;       /* width: d up to a multiple of 16 */
    int64_t count, shortest, longest;
    int64_t ld; /* between the scores of two queries */
    int64_t length[CCQ_ATTEND_QUERIES];
    float *query, *score, *sum, *out, *panel;
} pass;

/* Up to 8 values of a position, the rest 0. */
static inline __m256 load8(const pass *a, const void *data, int64_t position, int64_t i)
{
    int64_t at = position * a->stride + a->offset + i, left = a->d - i, j;
    float tail[8] = {0};

    if (left >= 8)
        return a->kv_bf16 ? ccq_widen8((const uint16_t *)data + at)
                          : _mm256_loadu_ps((const float *)data + at);
    for (j = 0; j < left; j++)
        tail[j] = a->kv_bf16 ? ccq_bf16_to_f32(((const uint16_t *)data)[at + j])
                             : ((const float *)data)[at + j];
    return _mm256_loadu_ps(tail);
}

/* panel[i][c] = value i of key j + c; 0 past the last key. */
static void key_panel(const pass *a, int64_t j)
{
    __m256 v[8];
    int64_t i;
    int c, part;

    for (part = 0; part < 16; part += 8)
        for (i = 0; i < a->d; i += 8) {
            for (c = 0; c < 8; c++)
                v[c] = j + part + c < a->longest ? load8(a, a->k, j + part + c, i)
                                                 : _mm256_setzero_ps();
            ccq_transpose8(v);
            for (c = 0; c < 8; c++) /* rows past d are in the scratch, and not read */
                _mm256_storeu_ps(a->panel + (i + c) * CCQ_PANEL + part, v[c]);
        }
}

static void score_queries(const pass *a)
{
    int64_t j, r;

    for (j = 0; j < a->longest; j += CCQ_PANEL) {
        key_panel(a, j);
        for (r = 0; r < a->count; r++) {
            _mm256_storeu_ps(a->score + r * a->ld + j, _mm256_setzero_ps());
            _mm256_storeu_ps(a->score + r * a->ld + j + 8, _mm256_setzero_ps());
        }
        ccq_product_avx2(a->query, a->d, a->count, a->panel, a->d, a->score + j, a->ld);
    }
}

/* s[0..n-1] times scale; the largest. Zeros of both signs weigh the same. */
static float scale_scores(float *s, int64_t n, float scale)
{
    __m256 most = _mm256_set1_ps(-INFINITY);
    float lane[8], m = -INFINITY;
    int64_t j;

    for (j = 0; j + 8 <= n; j += 8) {
        __m256 v = _mm256_mul_ps(_mm256_loadu_ps(s + j), _mm256_set1_ps(scale));
        _mm256_storeu_ps(s + j, v);
        most = _mm256_max_ps(v, most);
    }
    for (; j < n; j++) {
        s[j] *= scale;
        m = s[j] > m ? s[j] : m;
    }
    _mm256_storeu_ps(lane, most);
    for (j = 0; j < 8; j++)
        m = lane[j] > m ? lane[j] : m;
    return m;
}

/* Scores to weights; the row has room up to a multiple of 16. */
static void weigh(const pass *a, int64_t r)
{
    float *s = a->score + r * a->ld;
    int64_t j, n = a->length[r];
    __m256 m = _mm256_set1_ps(scale_scores(s, n, (float)(1.0 / sqrt((double)a->d))));

    for (j = 0; j < n; j += 8) {
        __m256 p = exp8(_mm256_sub_ps(_mm256_loadu_ps(s + j), m));
        _mm256_storeu_ps(s + j, ccq_store8(p, a->bf16));
    }
}

/* Sums of the weights, eight queries side by side for speed. */
static void sum_weights(const pass *a)
{
    int64_t r, j, i;

    for (r = 0; r < a->count; r++)
        a->sum[r] = 0;
    for (r = 0; r + 8 <= a->count; r += 8) {
        float sum[8] = {0};
        const float *s = a->score + r * a->ld;
        for (j = 0; j < a->shortest; j++)
            for (i = 0; i < 8; i++)
                sum[i] += s[i * a->ld + j];
        memcpy(a->sum + r, sum, sizeof sum);
    }
    for (i = 0; i < a->count; i++)
        for (j = i < r ? a->shortest : 0; j < a->length[i]; j++)
            a->sum[i] += a->score[i * a->ld + j];
}

/* panel[c][0..15] = values i..i+15 of positions j..j+count-1. */
static void value_panel(const pass *a, int64_t j, int64_t count, int64_t i)
{
    int64_t c;

    for (c = 0; c < count; c++) {
        _mm256_storeu_ps(a->panel + c * CCQ_PANEL, load8(a, a->v, j + c, i));
        if (i + 8 < a->d)
            _mm256_storeu_ps(a->panel + c * CCQ_PANEL + 8, load8(a, a->v, j + c, i + 8));
    }
}

/* out += weights of positions j..j+count-1 times their values. Up to the shortest
 * query in common, behind it each query for itself. */
static void add_values(const pass *a, int64_t j, int64_t count)
{
    int64_t i, r, part;

    for (i = 0; i < a->d; i += CCQ_PANEL) {
        value_panel(a, j, count, i);
        if (j < a->shortest) {
            ccq_product_avx2(a->score + j, a->ld, a->count, a->panel, count, a->out + i, a->width);
            continue;
        }
        for (r = 0; r < a->count; r++) {
            part = min64(j + count, a->length[r]) - j;
            if (part > 0)
                ccq_product_avx2(a->score + r * a->ld + j, a->ld, 1, a->panel, part,
                                 a->out + r * a->width + i, a->width);
        }
    }
}

static void answer(const pass *a)
{
    int64_t r, j, count, end;

    score_queries(a);
    for (r = 0; r < a->count; r++)
        weigh(a, r);
    sum_weights(a);
    memset(a->out, 0, (size_t)(a->count * a->width) * sizeof(float));
    for (j = 0; j < a->longest; j += count) {
        end = j < a->shortest ? a->shortest : a->longest;
        count = min64(CCQ_ATTEND_TILE, end - j);
        add_values(a, j, count);
    }
}

/* o = out / sum for one query. */
static void finish(const pass *a, int64_t r, float *o)
{
    const float *out = a->out + r * a->width;
    int64_t i;

    for (i = 0; i + 8 <= a->d; i += 8) {
        __m256 v = _mm256_div_ps(_mm256_loadu_ps(out + i), _mm256_set1_ps(a->sum[r]));
        _mm256_storeu_ps(o + i, ccq_store8(v, a->bf16));
    }
    for (; i < a->d; i++)
        o[i] = store1(out[i] / a->sum[r], a->bf16);
}

/* Query heads h0..h1-1 at one KV head, rows r0..r1-1. */
static void attend_block(pass *a, const float *q, int64_t ld, int64_t pos0, int64_t r0, int64_t r1,
                         int64_t h0, int64_t h1, float *o)
{
    int64_t r, h;

    a->count = 0;
    a->shortest = pos0 + r0 + 1;
    a->longest = pos0 + r1;
    for (r = r0; r < r1; r++)
        for (h = h0; h < h1; h++) {
            memcpy(a->query + a->count * a->d, q + r * ld + h * a->d,
                   (size_t)a->d * sizeof(float));
            a->length[a->count++] = pos0 + r + 1;
        }
    answer(a);
    a->count = 0;
    for (r = r0; r < r1; r++)
        for (h = h0; h < h1; h++)
            finish(a, a->count++, o + r * ld + h * a->d);
}

void ccq_attend_avx2(const float *q, int64_t ld, int64_t rows, int64_t pos0, const void *k,
                     const void *v, int kv_bf16, int64_t heads, int64_t kv_heads, int64_t d,
                     int64_t h0, int64_t h1, int bf16, float *scratch, float *o)
{
    int64_t group = heads / kv_heads, h, end, r, step;
    pass a = {.k = k, .v = v, .kv_bf16 = kv_bf16, .bf16 = bf16, .stride = kv_heads * d, .d = d};

    a.width = (d + 15) / 16 * 16;
    a.ld = (pos0 + rows + 15) / 16 * 16;
    a.score = scratch;
    a.query = a.score + CCQ_ATTEND_QUERIES * a.ld;
    a.out = a.query + CCQ_ATTEND_QUERIES * a.width;
    a.sum = a.out + CCQ_ATTEND_QUERIES * a.width;
    a.panel = a.sum + CCQ_ATTEND_QUERIES;
    for (h = h0; h < h1; h = end) {
        end = min64(h1, (h / group + 1) * group);
        end = min64(end, h + CCQ_ATTEND_QUERIES);
        a.offset = h / group * d;
        step = CCQ_ATTEND_QUERIES / (end - h);
        for (r = 0; r < rows; r += step)
            attend_block(&a, q, ld, pos0, r, min64(rows, r + step), h, end, o);
    }
}
