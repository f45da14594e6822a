/* Products of a few rows straight from the stored weight: decoded in registers,
 * multiplied, forgotten. Lanes are columns; k goes up in every lane.
 *
 * A field of a word is taken where it lies: (word & mask) under the exponent of
 * 2^23 is the float 2^23 + field * 2^shift, and one subtraction leaves
 * c = value * 2^shift. Scales come divided by 2^shift. bf16(value * scale) is the
 * short cut of avx2_unpack.c.
 *
 * Lines of multiples of 1/256 whose words stay in 0..32767 (ccq's own) need no
 * conversion: 2^15 + b cs + zp + 1/2 is exact and holds the word in bits 8..22, its
 * fields 8 bits up under the exponent of 2^15. */
#include "kernels/internal.h"
#include "kernels/x86/avx512.h"

enum { FIELDS = 4, UP = 8 };

/* Fields of a word; 2^(width-1) stands for 0. */
typedef struct fields {
    __m512 magic; /* 2^23, or 2^15 for words 8 bits up */
    __m512i mask[FIELDS];
    __m512 zero[FIELDS];
    float unit[FIELDS]; /* 2^-shift */
} fields;

/* width bits at bit shift of the word. */
static inline void set_field(fields *f, int i, int shift, int width, int up)
{
    float unit = (float)(1 << shift), magic = up ? 0x1p15f : 0x1p23f;

    f->magic = _mm512_set1_ps(magic);
    f->mask[i] = _mm512_set1_epi32(((1 << width) - 1) << (shift + up));
    f->zero[i] = _mm512_set1_ps(magic + unit * (float)(1 << (width - 1)));
    f->unit[i] = 1.0f / unit;
}

typedef struct scales {
    __m512 s, low[FIELDS], high[FIELDS];
} scales;

static inline __attribute__((always_inline)) void
set_scales(scales *x, __m512 s, const fields *f, const int count)
{
    x->s = s;
    for (int i = 0; i < count; i++) {
        x->low[i] = _mm512_mul_ps(s, _mm512_set1_ps(65536.0f * f->unit[i]));
        x->high[i] = _mm512_mul_ps(s, _mm512_set1_ps(65537.0f * f->unit[i]));
    }
}

/* fix: some scale is not above zero, and a zero needs its sign. */
static inline __attribute__((always_inline)) __m512
weight16(__m512i word, const fields *f, const int i, const scales *x, const int fix)
{
    __m512i lies = _mm512_ternarylogic_epi32(word, f->mask[i], _mm512_castps_si512(f->magic),
                                             0xea); /* word & mask | magic */
    __m512 c = _mm512_sub_ps(_mm512_castsi512_ps(lies), f->zero[i]);
    __m512 w = _mm512_fnmadd_ps(c, x->low[i], _mm512_mul_ps(c, x->high[i]));

    if (fix)
        w = _mm512_or_ps(w, _mm512_and_ps(_mm512_xor_ps(c, x->s), _mm512_set1_ps(-0.0f)));
    return w;
}

static inline int not_positive(__m512 s)
{
    return _mm512_cmp_ps_mask(s, _mm512_setzero_ps(), _CMP_GT_OQ) != 0xffff;
}

/* Blocks of 16 columns side by side: a chain of fmaf alone would wait for itself. */
enum { BLOCKS = 2, WIDTH = BLOCKS * CCQ_PANEL };

/* What all kernels below go through. rows is a constant at every call, 1 or CCQ_FEW:
 * every further one is a copy of everything for the compiler. */
typedef struct product {
    const ccq_weight *w;
    const float *x[CCQ_FEW]; /* 2 and 3 rows are 4, the last one again */
    float *y;
    int64_t ldy, count; /* rows of y */
} product;

typedef struct sums {
    __m512 of[BLOCKS][CCQ_FEW];
} sums;

static inline __attribute__((always_inline)) void
load_sums(const product *p, int64_t n, int64_t k, const int rows, sums *sum)
{
    for (int b = 0; b < BLOCKS; b++)
        for (int r = 0; r < rows; r++)
            sum->of[b][r] = k && r < p->count
                                ? _mm512_loadu_ps(p->y + r * p->ldy + n + b * CCQ_PANEL)
                                : _mm512_setzero_ps();
}

static inline __attribute__((always_inline)) void
store_sums(const product *p, int64_t n, const int rows, const sums *sum)
{
    for (int b = 0; b < BLOCKS; b++)
        for (int r = 0; r < rows && r < p->count; r++)
            _mm512_storeu_ps(p->y + r * p->ldy + n + b * CCQ_PANEL, sum->of[b][r]);
}

static inline __attribute__((always_inline)) void
multiply(const product *p, int64_t k, __m512 w, const int rows, __m512 *sum)
{
    for (int r = 0; r < rows; r++)
        sum[r] = _mm512_fmadd_ps(_mm512_set1_ps(p->x[r][k]), w, sum[r]);
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
        for (int i = 0; i < BF16_ROWS; i++)
            _mm_prefetch((const char *)(data + i * p->w->n), _MM_HINT_T0);
}

static inline __attribute__((always_inline)) void
bf16_block(const product *p, int64_t k, const int count, int64_t n0, int64_t n1, const int rows)
{
    const uint16_t *data = (const uint16_t *)p->w->data + k * p->w->n;
    sums sum;

    for (int64_t n = n0; n < n1; n += WIDTH) {
        load_sums(p, n, k, rows, &sum);
        fetch_bf16(p, k, n);
        for (int i = 0; i < count; i++)
            for (int b = 0; b < BLOCKS; b++)
                multiply(p, k + i, ccq_widen16(data + i * p->w->n + n + b * CCQ_PANEL), rows,
                         sum.of[b]);
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
    __m512 cs, zp; /* zp + 0.5, and + 2^15 for words 8 bits up */
} lines;

static inline __attribute__((always_inline)) __m512i
word16(const uint8_t *bytes, const lines *x, const int up)
{
    __m512i b = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)bytes));
    __m512 f = _mm512_fmadd_ps(_mm512_cvtepi32_ps(b), x->cs, x->zp);

    if (up)
        return _mm512_castps_si512(f);
    return _mm512_cvt_roundps_epi32(f, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
}

/* A group of WIDTH columns. */
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
        __m512i word[BLOCKS][4];
        for (int a = 0; a < 4; a++)
            for (int b = 0; b < BLOCKS; b++) {
                int row = order == CCQ_ORDER_PLAIN ? 4 * q + a : 4 * a + q;
                word[b][a] = word16(g->data + row * p->w->n + b * CCQ_PANEL, &g->line[b], up);
            }
        CCQ_UNROLL
        for (int j = 0; j < 16; j++) {
            const int a = order == CCQ_ORDER_PLAIN ? j / 4 : j % 8 / 2;
            const int i = order == CCQ_ORDER_PLAIN ? j % 4 : j / 8 * 2 + j % 2;
            for (int b = 0; b < BLOCKS; b++)
                multiply(p, k + 16 * q + j, weight16(word[b][a], f, i, &g->s[b], fix), rows,
                         g->sum.of[b]);
        }
    }
}

static inline __m512 group_scale(const ccq_weight *w, int64_t k, int64_t n)
{
    const uint8_t *pair = w->local + k / CCQ_GROUP / 2 * w->n + n;
    __m512i local = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)pair));

    local = k / CCQ_GROUP & 1 ? _mm512_and_si512(local, _mm512_set1_epi32(15))
                              : _mm512_srli_epi32(local, 4);
    return ccq_round16(_mm512_mul_ps(_mm512_cvtepi32_ps(local), ccq_widen16(w->super + n)));
}

/* Fills g; whether some scale is not above zero. */
static inline int load_group(const product *p, int64_t k, int64_t n, const fields *f, int up,
                             group *g)
{
    const __m512 add = _mm512_set1_ps(up ? 32768.5f : 0.5f);
    const ccq_weight *w = p->w;
    int fix = 0;

    g->data = (const uint8_t *)w->data + k / CCQ_WINDOWS * w->n + n;
    for (int b = 0; b < BLOCKS; b++, n += CCQ_PANEL) {
        g->line[b].cs = _mm512_loadu_ps(w->code_scale + n);
        g->line[b].zp = _mm512_add_ps(_mm512_loadu_ps(w->code_zp + n), add);
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
        for (int i = (int)(n / WIDTH % 2); i < CCQ_GROUP / CCQ_WINDOWS; i += 2)
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
        for (int64_t n = n0; n < n1; n += WIDTH) {
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

/* In place: dword i of the 16 x 16 matrix's row c becomes dword c of row i. */
static inline void turn16(__m512i v[16])
{
    __m512i t[16];

    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            v[i + 2 * j] = _mm512_unpacklo_epi64(t[i + j], t[i + j + 2]);
            v[i + 2 * j + 1] = _mm512_unpackhi_epi64(t[i + j], t[i + j + 2]);
        }
    for (int i = 0; i < 4; i++) { /* v[4 r + i]: lane q holds dword 4 q + i of rows 4 r.. */
        t[i] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        v[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        v[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        v[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
        v[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
}

/* The same for 16 rows of 8 dwords: v[c] holds rows c and c + 8. */
static inline void turn8(__m512i v[8])
{
    const __m512i even = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13);
    const __m512i odd = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
    __m512i t[8];

    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) {
            v[i + 2 * j] = _mm512_unpacklo_epi64(t[i + j], t[i + j + 2]);
            v[i + 2 * j + 1] = _mm512_unpackhi_epi64(t[i + j], t[i + j + 2]);
        }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_permutex2var_epi64(v[i], even, v[i + 4]);
        t[i + 4] = _mm512_permutex2var_epi64(v[i], odd, v[i + 4]);
    }
    for (int i = 0; i < 8; i++)
        v[i] = t[i];
}

/* Four dwords a column, 16 (wint8) or 32 rows (wint4): row r lies in dword r%8/2, in
 * its low half when r is even, there in field r/8 (kernels/tile.h). */
static inline __attribute__((always_inline)) void
integer_rows(const product *p, const __m512i *v, int64_t k, const fields *f, const scales *s,
             const int count, const int fix, const int rows, sums *sum)
{
    __m512i half[BLOCKS][2][4];

    for (int b = 0; b < BLOCKS; b++)
        for (int d = 0; d < 4; d++) {
            half[b][0][d] = v[b * 16 + d];
            half[b][1][d] = _mm512_srli_epi32(v[b * 16 + d], 16);
        }
    for (int i = 0; i < count; i++) {
        CCQ_UNROLL
        for (int r = 0; r < 8; r++)
            for (int b = 0; b < BLOCKS; b++)
                multiply(p, k + 8 * i + r, weight16(half[b][r % 2][r / 2], f, i, &s[b], fix), rows,
                         sum->of[b]);
    }
}

static inline __m256i load32(const uint8_t *from)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)from);
}

/* 64 rows of 16 columns to dwords of columns. near: bytes of a column's 64 rows; the
 * tiles of two (wint8) or four (wint4) columns alternate. */
static inline __attribute__((always_inline)) void
load_tile(const uint8_t *data, int64_t column, const int bits, __m512i v[16])
{
    const int near = 8 * bits, side = bits == 8 ? 2 : 4;

    for (int c = 0; c < 16; c++) {
        const uint8_t *from = data + c % side * near + c / side * side * column;
        if (bits == 8)
            v[c] = _mm512_loadu_si512(from);
        else if (c < 8)
            v[c] = _mm512_castsi256_si512(load32(from));
        else
            v[c - 8] = _mm512_inserti64x4(v[c - 8], load32(from), 1);
    }
    if (bits == 8)
        turn16(v);
    else
        turn8(v);
}

static inline __attribute__((always_inline)) void
integer_columns(const product *p, int64_t n, const fields *f, const scales *s, const int bits,
                const int fix, const int rows)
{
    const int64_t column = p->w->k * bits / 8;
    const uint8_t *data = (const uint8_t *)p->w->data + n * column;
    const int step = 128 / bits, side = bits == 8 ? 2 : 4;
    __m512i v[BLOCKS * 16];
    sums sum;

    load_sums(p, n, 0, rows, &sum);
    for (int64_t k = 0; k < p->w->k; k += CCQ_GROUP, data += 8 * bits * side) {
        for (int b = 0; b < BLOCKS; b++)
            load_tile(data + b * CCQ_PANEL * column, column, bits, v + 16 * b);
        for (int i = 0; i < CCQ_GROUP / step; i++)
            integer_rows(p, v + 4 * i, k + i * step, f, s, 16 / bits, fix, rows, &sum);
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
    for (int64_t n = n0; n < n1; n += WIDTH) {
        int fix = 0;
        for (int b = 0; b < BLOCKS; b++) {
            set_scales(&s[b], ccq_widen16(p->w->scale + n + b * CCQ_PANEL), &f, 16 / bits);
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

int64_t ccq_gemv_avx512(const ccq_weight *w, const float *x, int64_t ldx, int64_t rows, int64_t n0,
                        int64_t n1, float *y, int64_t ldy)
{
    product p = {.w = w, .y = y, .ldy = ldy, .count = rows};

    n1 = n0 + (n1 - n0) / WIDTH * WIDTH;
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
