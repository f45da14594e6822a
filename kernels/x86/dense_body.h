/* The slots of dense.h over vectors, for an including file that has defined
 *   vd, vf        vectors of VD_LANES doubles, VF_LANES floats
 *   vd_load, vd_store, vd_set, vd_fma, vd_fnma (-a b + c), vd_div, vf_load, vf_store, ...
 *   vd_mask, vd_some(p, m), vd_put(p, m, v), vf likewise: the lanes of mask m alone
 *   ROWS          rows of a tile: ROWS x 2 vectors are its accumulators
 * Lanes are columns and chains go up in depth: the order of the C version. */
#include "kernels/dense_internal.h"

enum { VD_TILE = 2 * VD_LANES, VF_TILE = 2 * VF_LANES };

/* rows, minus and edge are constants at every call: loops over rows unroll into registers.
 * edge: only the first cols < VD_TILE columns are there. */
static inline __attribute__((always_inline)) void
update_tile(const int minus, const int edge, const double *a, int64_t lda, const double *b,
            int64_t ldb, const int rows, int64_t cols, int64_t depth, double *c, int64_t ldc)
{
    const vd_mask m0 = vd_first(cols), m1 = vd_first(cols - VD_LANES);
    vd s[ROWS][2];

    for (int r = 0; r < rows; r++) {
        s[r][0] = edge ? vd_some(c + r * ldc, m0) : vd_load(c + r * ldc);
        s[r][1] = edge ? vd_some(c + r * ldc + VD_LANES, m1) : vd_load(c + r * ldc + VD_LANES);
    }
    for (int64_t k = 0; k < depth; k++, b += ldb) {
        vd b0 = edge ? vd_some(b, m0) : vd_load(b);
        vd b1 = edge ? vd_some(b + VD_LANES, m1) : vd_load(b + VD_LANES);
        for (int r = 0; r < rows; r++) {
            vd x = vd_set(a[r * lda + k]);
            s[r][0] = minus ? vd_fnma(x, b0, s[r][0]) : vd_fma(x, b0, s[r][0]);
            s[r][1] = minus ? vd_fnma(x, b1, s[r][1]) : vd_fma(x, b1, s[r][1]);
        }
    }
    for (int r = 0; r < rows; r++) {
        if (edge) {
            vd_put(c + r * ldc, m0, s[r][0]);
            vd_put(c + r * ldc + VD_LANES, m1, s[r][1]);
        } else {
            vd_store(c + r * ldc, s[r][0]);
            vd_store(c + r * ldc + VD_LANES, s[r][1]);
        }
    }
}

static inline __attribute__((always_inline)) void
update_columns(const int minus, const int edge, const double *a, int64_t lda, const double *b,
               int64_t ldb, int64_t rows, int64_t cols, int64_t depth, double *c, int64_t ldc)
{
    for (; rows >= ROWS; rows -= ROWS, a += ROWS * lda, c += ROWS * ldc) {
        for (int64_t r = ROWS; r < 2 * ROWS && r < rows; r++) { /* the next tile's sums */
            _mm_prefetch((const char *)(c + r * ldc), _MM_HINT_T0);
            if (cols > VD_LANES && VD_LANES == 8)
                _mm_prefetch((const char *)(c + r * ldc + VD_LANES), _MM_HINT_T0);
        }
        update_tile(minus, edge, a, lda, b, ldb, ROWS, cols, depth, c, ldc);
    }
    for (; rows >= 4; rows -= 4, a += 4 * lda, c += 4 * ldc)
        update_tile(minus, edge, a, lda, b, ldb, 4, cols, depth, c, ldc);
    for (; rows > 0; rows--, a += lda, c += ldc)
        update_tile(minus, edge, a, lda, b, ldb, 1, cols, depth, c, ldc);
}

/* One function for each sign and for whole tiles or the edge. */
#define UPDATE(name, minus, edge)                                                                  \
    static __attribute__((noinline)) void name(const double *a, int64_t lda, const double *b,      \
                                               int64_t ldb, int64_t rows, int64_t cols,            \
                                               int64_t depth, double *c, int64_t ldc)              \
    {                                                                                              \
        update_columns(minus, edge, a, lda, b, ldb, rows, cols, depth, c, ldc);                    \
    }
UPDATE(plus_whole, 0, 0)
UPDATE(plus_edge, 0, 1)
UPDATE(minus_whole, 1, 0)
UPDATE(minus_edge, 1, 1)
#undef UPDATE

static void update(double sign, const double *a, int64_t lda, const double *b, int64_t ldb,
                   int64_t rows, int64_t cols, int64_t depth, double *c, int64_t ldc)
{
    int64_t j;

    for (j = 0; j + VD_TILE <= cols; j += VD_TILE)
        (sign < 0 ? minus_whole : plus_whole)(a, lda, b + j, ldb, rows, VD_TILE, depth, c + j, ldc);
    if (j < cols)
        (sign < 0 ? minus_edge : plus_edge)(a, lda, b + j, ldb, rows, cols - j, depth, c + j, ldc);
}

/* ---- Substitution -------------------------------------------------------- */

/* Rows i..i+rows-1 of one stripe of VD_TILE lanes. */
static inline __attribute__((always_inline)) void
forward_rows(const double *t, int64_t ldt, int64_t i, const int rows, const int unit, double *x,
             double *undivided)
{
    vd s[4][2];

    t += i * ldt;
    for (int r = 0; r < rows; r++) {
        s[r][0] = vd_load(x + (i + r) * CCQ_LANES);
        s[r][1] = vd_load(x + (i + r) * CCQ_LANES + VD_LANES);
    }
    for (int64_t k = 0; k < i; k++) {
        vd b0 = vd_load(x + k * CCQ_LANES), b1 = vd_load(x + k * CCQ_LANES + VD_LANES);
        for (int r = 0; r < rows; r++) {
            vd f = vd_set(t[r * ldt + k]);
            s[r][0] = vd_fnma(f, b0, s[r][0]);
            s[r][1] = vd_fnma(f, b1, s[r][1]);
        }
    }
    for (int r = 0; r < rows; r++) {
        if (undivided) {
            vd_store(undivided + (i + r) * CCQ_LANES, s[r][0]);
            vd_store(undivided + (i + r) * CCQ_LANES + VD_LANES, s[r][1]);
        }
        if (!unit) {
            vd d = vd_set(t[r * ldt + i + r]);
            s[r][0] = vd_div(s[r][0], d);
            s[r][1] = vd_div(s[r][1], d);
        }
        vd_store(x + (i + r) * CCQ_LANES, s[r][0]);
        vd_store(x + (i + r) * CCQ_LANES + VD_LANES, s[r][1]);
        for (int q = r + 1; q < rows; q++) {
            vd f = vd_set(t[q * ldt + i + r]);
            s[q][0] = vd_fnma(f, s[r][0], s[q][0]);
            s[q][1] = vd_fnma(f, s[r][1], s[q][1]);
        }
    }
}

static void forward(const double *t, int64_t ldt, int64_t n, int unit, double *x,
                    double *undivided)
{
    for (int j = 0; j < CCQ_LANES; j += VD_TILE) {
        double *v = undivided ? undivided + j : NULL;
        int64_t i;
        for (i = 0; i + 4 <= n; i += 4)
            forward_rows(t, ldt, i, 4, unit, x + j, v);
        for (; i < n; i++)
            forward_rows(t, ldt, i, 1, unit, x + j, v);
    }
}

/* ---- Gram ---------------------------------------------------------------- */

static inline __attribute__((always_inline)) void
gram_tile(const int edge, const float *x, int64_t ldx, const float *y, int64_t ldy,
          int64_t tokens, const int rows, int64_t cols, double *g, int64_t ldg)
{
    const vf_mask m0 = vf_first(cols), m1 = vf_first(cols - VF_LANES);
    float sums[VF_TILE];
    vf s[ROWS][2];

    for (int r = 0; r < rows; r++)
        s[r][0] = s[r][1] = vf_set(0.0f);
    for (int64_t t = 0; t < tokens; t++, x += ldx, y += ldy) {
        vf y0 = edge ? vf_some(y, m0) : vf_load(y);
        vf y1 = edge ? vf_some(y + VF_LANES, m1) : vf_load(y + VF_LANES);
        for (int r = 0; r < rows; r++) {
            s[r][0] = vf_fma(vf_set(x[r]), y0, s[r][0]);
            s[r][1] = vf_fma(vf_set(x[r]), y1, s[r][1]);
        }
    }
    for (int r = 0; r < rows; r++) {
        vf_store(sums, s[r][0]);
        vf_store(sums + VF_LANES, s[r][1]);
        for (int j = 0; j < (edge ? (int)cols : VF_TILE); j++)
            g[r * ldg + j] += (double)sums[j];
    }
}

static inline __attribute__((always_inline)) void
gram_columns(const int edge, const float *x, int64_t ldx, const float *y, int64_t ldy,
             int64_t tokens, int64_t rows, int64_t cols, double *g, int64_t ldg)
{
    for (; rows >= ROWS; rows -= ROWS, x += ROWS, g += ROWS * ldg)
        gram_tile(edge, x, ldx, y, ldy, tokens, ROWS, cols, g, ldg);
    for (; rows >= 4; rows -= 4, x += 4, g += 4 * ldg)
        gram_tile(edge, x, ldx, y, ldy, tokens, 4, cols, g, ldg);
    for (; rows > 0; rows--, x++, g += ldg)
        gram_tile(edge, x, ldx, y, ldy, tokens, 1, cols, g, ldg);
}

static void gram(const float *x, int64_t ldx, const float *y, int64_t ldy, int64_t tokens,
                 int64_t rows, int64_t cols, double *g, int64_t ldg)
{
    int64_t j;

    for (j = 0; j + VF_TILE <= cols; j += VF_TILE)
        gram_columns(0, x, ldx, y + j, ldy, tokens, rows, VF_TILE, g + j, ldg);
    if (j < cols)
        gram_columns(1, x, ldx, y + j, ldy, tokens, rows, cols - j, g + j, ldg);
}
