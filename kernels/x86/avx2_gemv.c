/* Products of a few rows straight from the stored weight, as avx512_gemv.c tells:
 * two blocks of eight columns side by side. Here words come with the exponent of
 * their magic in place, so that a field is one AND away from its float. */
#include "kernels/internal.h"
#include "kernels/x86/avx2.h"

enum { FIELDS = 4, UP = 8, BLOCKS = 2, MAGIC = 0x4b000000, EXPONENT = (int)0xff800000 };

/* Fields of a word; 2^(width-1) stands for 0. */
typedef struct fields {
    __m256i mask[FIELDS];
    __m256 zero[FIELDS];
    float unit[FIELDS]; /* 2^-shift */
} fields;

/* width bits at bit shift of the word. */
static inline void set_field(fields *f, int i, int shift, int width, int up)
{
    float unit = (float)(1 << shift);

    f->mask[i] = _mm256_set1_epi32(((1 << width) - 1) << (shift + up) | EXPONENT);
    f->zero[i] = _mm256_set1_ps((up ? 0x1p15f : 0x1p23f) + unit * (float)(1 << (width - 1)));
    f->unit[i] = 1.0f / unit;
}

typedef struct scales {
    __m256 s, low[FIELDS], high[FIELDS];
} scales;

static inline __attribute__((always_inline)) void
set_scales(scales *x, __m256 s, const fields *f, const int count)
{
    x->s = s;
    for (int i = 0; i < count; i++) {
        x->low[i] = _mm256_mul_ps(s, _mm256_set1_ps(65536.0f * f->unit[i]));
        x->high[i] = _mm256_mul_ps(s, _mm256_set1_ps(65537.0f * f->unit[i]));
    }
}

/* fix: some scale is not above zero, and a zero needs its sign. */
static inline __attribute__((always_inline)) __m256
weight8(__m256i word, const fields *f, const int i, const scales *x, const int fix)
{
    __m256 c = _mm256_sub_ps(_mm256_castsi256_ps(_mm256_and_si256(word, f->mask[i])), f->zero[i]);
    __m256 w = _mm256_fnmadd_ps(c, x->low[i], _mm256_mul_ps(c, x->high[i]));

    if (fix)
        w = _mm256_or_ps(w, _mm256_and_ps(_mm256_xor_ps(c, x->s), _mm256_set1_ps(-0.0f)));
    return w;
}

static inline int not_positive(__m256 s)
{
    return _mm256_movemask_ps(_mm256_cmp_ps(s, _mm256_setzero_ps(), _CMP_GT_OQ)) != 0xff;
}

/* What all kernels below go through. rows is a constant at every call, 1 or CCQ_FEW:
 * every further one is a copy of everything for the compiler. */
typedef struct product {
    const ccq_weight *w;
    const float *x[CCQ_FEW]; /* 2 and 3 rows are 4, the last one again */
    float *y;
    int64_t ldy, count; /* rows of y */
} product;

typedef struct sums {
    __m256 of[BLOCKS][CCQ_FEW];
} sums;

static inline __attribute__((always_inline)) void
load_sums(const product *p, int64_t n, int64_t k, const int rows, sums *sum)
{
    for (int b = 0; b < BLOCKS; b++)
        for (int r = 0; r < rows; r++)
            sum->of[b][r] = k && r < p->count ? _mm256_loadu_ps(p->y + r * p->ldy + n + 8 * b)
                                              : _mm256_setzero_ps();
}

static inline __attribute__((always_inline)) void
store_sums(const product *p, int64_t n, const int rows, const sums *sum)
{
    for (int b = 0; b < BLOCKS; b++)
        for (int r = 0; r < rows && r < p->count; r++)
            _mm256_storeu_ps(p->y + r * p->ldy + n + 8 * b, sum->of[b][r]);
}

static inline __attribute__((always_inline)) void
multiply(const product *p, int64_t k, __m256 w, const int rows, __m256 *sum)
{
    for (int r = 0; r < rows; r++)
        sum[r] = _mm256_fmadd_ps(_mm256_broadcast_ss(&p->x[r][k]), w, sum[r]);
}

/* ---- bf16 ---------------------------------------------------------------- */

enum { BF16_ROWS = 8 }; /* rows of w at a time: each is a stream from memory */

/* The rows to come: a thread's columns of a row are too few bytes for the processor to
 * fetch ahead by itself. Here and below a line is asked for once. (gcc 12 takes
 * functions that only fetch for ones that do nothing, unless they are always_inline.) */
static inline __attribute__((always_inline)) void
fetch_bf16(const product *p, int64_t k, int64_t n)
{
    const uint16_t *data = (const uint16_t *)p->w->data + (k + BF16_ROWS) * p->w->n + n;

    if (k + 2 * BF16_ROWS <= p->w->k)
        for (int i = (int)(n / CCQ_PANEL % 2); i < BF16_ROWS; i += 2)
            _mm_prefetch((const char *)(data + i * p->w->n), _MM_HINT_T0);
}

static inline __attribute__((always_inline)) void
bf16_block(const product *p, int64_t k, const int count, int64_t n0, int64_t n1, const int rows)
{
    const uint16_t *data = (const uint16_t *)p->w->data + k * p->w->n;
    sums sum;

    for (int64_t n = n0; n < n1; n += CCQ_PANEL) {
        load_sums(p, n, k, rows, &sum);
        fetch_bf16(p, k, n);
        for (int i = 0; i < count; i++)
            for (int b = 0; b < BLOCKS; b++)
                multiply(p, k + i, ccq_widen8(data + i * p->w->n + n + 8 * b), rows, sum.of[b]);
        store_sums(p, n, rows, &sum);
    }
}

static inline __attribute__((always_inline)) void
bf16(const product *p, int64_t n0, int64_t n1, const int rows)
{
    int64_t k;

    for (k = 0; k + BF16_ROWS <= p->w->k; k += BF16_ROWS)
        bf16_block(p, k, BF16_ROWS, n0, n1, rows);
    for (; k < p->w->k; k++)
        bf16_block(p, k, 1, n0, n1, rows);
}

/* ---- wint2 --------------------------------------------------------------- */

typedef struct lines {
    __m256 cs, zp; /* zp + 0.5, and + 2^15 for words 8 bits up */
} lines;

static inline __attribute__((always_inline)) __m256i
word8(const uint8_t *bytes, const lines *x, const int up)
{
    __m256i b = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)bytes));
    __m256 f = _mm256_fmadd_ps(_mm256_cvtepi32_ps(b), x->cs, x->zp);

    if (up)
        return _mm256_castps_si256(f);
    b = _mm256_and_si256(_mm256_cvttps_epi32(_mm256_floor_ps(f)), _mm256_set1_epi32(0x7fff));
    return _mm256_or_si256(b, _mm256_set1_epi32(MAGIC));
}

/* A group of a panel. */
typedef struct group {
    const uint8_t *data;
    lines line[BLOCKS];
    scales s[BLOCKS];
    sums sum;
} group;

/* In four steps of 16 logical rows, which four byte rows hold in either order: byte
 * rows q, 4+q, 8+q, 12+q or 4q..4q+3. */
static inline __attribute__((always_inline)) void
wint2_group(const product *p, int64_t k, const fields *f, group *g, const int order, const int up,
            const int fix, const int rows)
{
    for (int q = 0; q < 4; q++) {
        __m256i word[BLOCKS][4];
        for (int a = 0; a < 4; a++)
            for (int b = 0; b < BLOCKS; b++) {
                int row = order == CCQ_ORDER_PLAIN ? 4 * q + a : 4 * a + q;
                word[b][a] = word8(g->data + row * p->w->n + 8 * b, &g->line[b], up);
            }
        CCQ_UNROLL
        for (int j = 0; j < 16; j++) {
            const int a = order == CCQ_ORDER_PLAIN ? j / 4 : j % 8 / 2;
            const int i = order == CCQ_ORDER_PLAIN ? j % 4 : j / 8 * 2 + j % 2;
            for (int b = 0; b < BLOCKS; b++)
                multiply(p, k + 16 * q + j, weight8(word[b][a], f, i, &g->s[b], fix), rows,
                         g->sum.of[b]);
        }
    }
}

static inline __m256 group_scale(const ccq_weight *w, int64_t k, int64_t n)
{
    const uint8_t *pair = w->local + k / CCQ_GROUP / 2 * w->n + n;
    __m256i local = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)pair));

    local = k / CCQ_GROUP & 1 ? _mm256_and_si256(local, _mm256_set1_epi32(15))
                              : _mm256_srli_epi32(local, 4);
    return ccq_round8(_mm256_mul_ps(_mm256_cvtepi32_ps(local), ccq_widen8(w->super + n)));
}

/* Fills g; whether some scale is not above zero. */
static inline int load_group(const product *p, int64_t k, int64_t n, const fields *f, int up,
                             group *g)
{
    const __m256 add = _mm256_set1_ps(up ? 32768.5f : 0.5f);
    const ccq_weight *w = p->w;
    int fix = 0;

    g->data = (const uint8_t *)w->data + k / CCQ_WINDOWS * w->n + n;
    for (int b = 0; b < BLOCKS; b++, n += 8) {
        g->line[b].cs = _mm256_loadu_ps(w->code_scale + n);
        g->line[b].zp = _mm256_add_ps(_mm256_loadu_ps(w->code_zp + n), add);
        set_scales(&g->s[b], group_scale(w, k, n), f, 4);
        fix |= not_positive(g->s[b].s);
    }
    return fix;
}

/* The next group of these columns. */
static inline __attribute__((always_inline)) void
fetch_group(const product *p, int64_t k, int64_t n)
{
    const char *data = (const char *)p->w->data + (k + CCQ_GROUP) / CCQ_WINDOWS * p->w->n + n;

    if (k + CCQ_GROUP < p->w->k)
        for (int i = (int)(n / CCQ_PANEL % 4); i < CCQ_GROUP / CCQ_WINDOWS; i += 4)
            _mm_prefetch(data + i * p->w->n, _MM_HINT_T0);
}

/* Served order and exact lines are what there is to be fast for. */
static inline __attribute__((always_inline)) void
wint2(const product *p, int64_t n0, int64_t n1, const int exact, const int rows)
{
    fields up, at;
    group g;

    for (int i = 0; i < 4; i++) {
        set_field(&up, i, 9 - 3 * i, 6, UP);
        set_field(&at, i, 9 - 3 * i, 6, 0);
    }
    for (int64_t k = 0; k < p->w->k; k += CCQ_GROUP)
        for (int64_t n = n0; n < n1; n += CCQ_PANEL) {
            int fix = load_group(p, k, n, &up, exact, &g);
            fetch_group(p, k, n);
            load_sums(p, n, k, rows, &g.sum);
            if (exact && !fix) {
                wint2_group(p, k, &up, &g, CCQ_ORDER_FASTDEPLOY, UP, 0, rows);
            } else {
                if (exact) /* lines of the other kind */
                    load_group(p, k, n, &at, 0, &g);
                if (p->w->order == CCQ_ORDER_PLAIN)
                    wint2_group(p, k, &at, &g, CCQ_ORDER_PLAIN, 0, 1, rows);
                else
                    wint2_group(p, k, &at, &g, CCQ_ORDER_FASTDEPLOY, 0, 1, rows);
            }
            store_sums(p, n, rows, &g.sum);
        }
}

/* ---- wint8, wint4 -------------------------------------------------------- */

static inline __m256i load_pair(const uint8_t *low, const uint8_t *high)
{
    __m256i v = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)low));
    return _mm256_inserti128_si256(v, _mm_loadu_si128((const __m128i *)(const void *)high), 1);
}

/* 16 bytes of each of eight columns, four to a lane, to words under the exponent of 2^23:
 * word j of a column has rows j, j+8, ... in its 2 (wint8) or 4 fields (kernels/tile.h).
 * The last of the shuffles brings the exponent along. near: bytes of a column's 64 rows;
 * the tiles of two (wint8) or four (wint4) columns alternate. */
static inline __attribute__((always_inline)) void
load_words(const uint8_t *data, int64_t column, const int bits, __m256i word[8])
{
    const __m256i magic = _mm256_set1_epi16(MAGIC >> 16);
    const int near = 8 * bits, side = bits == 8 ? 2 : 4;
    __m256i v[4], t[4];

    for (int c = 0; c < 4; c++) {
        const uint8_t *from = data + c % side * near + c / side * side * column;
        v[c] = load_pair(from, from + 4 * column);
    }
    for (int c = 0; c < 4; c += 2) {
        t[c] = _mm256_unpacklo_epi16(v[c], v[c + 1]);
        t[c + 1] = _mm256_unpackhi_epi16(v[c], v[c + 1]);
    }
    for (int i = 0; i < 2; i++) {
        v[2 * i] = _mm256_unpacklo_epi32(t[i], t[i + 2]);
        v[2 * i + 1] = _mm256_unpackhi_epi32(t[i], t[i + 2]);
    }
    for (int i = 0; i < 4; i++) {
        word[2 * i] = _mm256_unpacklo_epi16(v[i], magic);
        word[2 * i + 1] = _mm256_unpackhi_epi16(v[i], magic);
    }
}

/* 64 rows of eight columns of wint4. (Those of wint8, twice as many bytes, the processor
 * fetches ahead as well by itself.) */
static inline __attribute__((always_inline)) void
fetch_tiles(const uint8_t *data, int64_t column)
{
    for (int c = 0; c < 8; c += 4)
        for (int line = 0; line < 128; line += 64)
            _mm_prefetch((const char *)data + c * column + line, _MM_HINT_T0);
}

static inline __attribute__((always_inline)) void
integer_columns(const product *p, int64_t n, const fields *f, const scales *s, const int bits,
                const int fix, const int rows)
{
    const int64_t column = p->w->k * bits / 8;
    const uint8_t *data = (const uint8_t *)p->w->data + n * column;
    const int step = 128 / bits, side = bits == 8 ? 2 : 4; /* rows in 16 bytes */
    __m256i word[BLOCKS][8];
    sums sum;

    load_sums(p, n, 0, rows, &sum);
    for (int64_t k = 0; k < p->w->k; k += CCQ_GROUP, data += 8 * bits * side) {
        if (bits == 4 && k + CCQ_GROUP < p->w->k)
            for (int b = 0; b < BLOCKS; b++)
                fetch_tiles(data + 8 * bits * side + b * 8 * column, column);
        for (int64_t j = 0; j < CCQ_GROUP; j += step) {
            for (int b = 0; b < BLOCKS; b++)
                load_words(data + j * bits / 8 + b * 8 * column, column, bits, word[b]);
            CCQ_UNROLL
            for (int i = 0; i < 16 / bits; i++) {
                CCQ_UNROLL
                for (int r = 0; r < 8; r++)
                    for (int b = 0; b < BLOCKS; b++)
                        multiply(p, k + j + 8 * i + r, weight8(word[b][r], f, i, &s[b], fix), rows,
                                 sum.of[b]);
            }
        }
    }
    store_sums(p, n, rows, &sum);
}

static inline __attribute__((always_inline)) void
integers(const product *p, int64_t n0, int64_t n1, const int bits, const int rows)
{
    scales s[BLOCKS];
    fields f;

    for (int i = 0; i < 16 / bits; i++)
        set_field(&f, i, bits * i, bits, 0);
    for (int64_t n = n0; n < n1; n += CCQ_PANEL) {
        int fix = 0;
        for (int b = 0; b < BLOCKS; b++) {
            set_scales(&s[b], ccq_widen8(p->w->scale + n + 8 * b), &f, 16 / bits);
            fix |= not_positive(s[b].s);
        }
        if (fix)
            integer_columns(p, n, &f, s, bits, 1, rows);
        else
            integer_columns(p, n, &f, s, bits, 0, rows);
    }
}

/* ---- all ----------------------------------------------------------------- */

static inline __attribute__((always_inline)) void
any(const product *p, int64_t n0, int64_t n1, const int rows)
{
    switch (p->w->type) {
    case CCQ_W_BF16: bf16(p, n0, n1, rows); break;
    case CCQ_W_WINT8: integers(p, n0, n1, 8, rows); break;
    case CCQ_W_WINT4: integers(p, n0, n1, 4, rows); break;
    default:
        if (p->w->order == CCQ_ORDER_FASTDEPLOY && ccq_lines_are_exact(p->w, n0, n1))
            wint2(p, n0, n1, 1, rows);
        else
            wint2(p, n0, n1, 0, rows);
    }
}

int64_t ccq_gemv_avx2(const ccq_weight *w, const float *x, int64_t ldx, int64_t rows, int64_t n0,
                      int64_t n1, float *y, int64_t ldy)
{
    product p = {.w = w, .y = y, .ldy = ldy, .count = rows};

    n1 = n0 + (n1 - n0) / CCQ_PANEL * CCQ_PANEL;
    if (rows > CCQ_FEW || !ccq_gemv_serves(w, n0, n1))
        return 0;
    for (int64_t r = 0; r < CCQ_FEW; r++)
        p.x[r] = x + (r < rows ? r : rows - 1) * ldx;
    if (rows == 1)
        any(&p, n0, n1, 1);
    else
        any(&p, n0, n1, CCQ_FEW);
    return n1 - n0;
}
