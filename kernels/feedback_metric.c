#include "kernels/feedback_metric.h"

#include <math.h>

enum { VALUES = CCQ_CODES * CCQ_WINDOWS, ALIGN = 64 };

/* The next piece of memory, or its end when there is none. */
static void *take(char *memory, size_t *at, size_t size)
{
    void *piece = memory ? memory + *at : NULL;

    *at += (size + ALIGN - 1) / ALIGN * ALIGN;
    return piece;
}

/* Lays m out in memory and returns the bytes it takes; memory NULL: those alone. */
static size_t lay_out(ccq_metric *m, char *memory)
{
    size_t k = (size_t)m->k, n = (size_t)m->groups, at = 0, f = sizeof(float);
    size_t entries = (size_t)m->entries, norms = k / CCQ_WINDOWS * entries * CCQ_CODES * f;

    take(memory, &at, sizeof *m);
    m->u = take(memory, &at, n * (n + 1) / 2 * CCQ_TILE * f);
    m->diagonal = take(memory, &at, k * sizeof(double));
    if (!m->codes)
        return at;
    m->h = take(memory, &at, n * n * CCQ_TILE * f);
    m->metric = take(memory, &at, k * CCQ_WINDOWS * f);
    m->norm = take(memory, &at, norms);
    m->turned_norm = take(memory, &at, norms);
    m->value = take(memory, &at, entries * VALUES * f);
    m->turned = take(memory, &at, entries * VALUES * f);
    return at;
}

static ccq_metric plan(int64_t k, int entries, int codes)
{
    return (ccq_metric){.k = k, .groups = k / CCQ_GROUP, .entries = entries, .codes = codes};
}

size_t ccq_metric_bytes(int64_t k, int entries, int codes)
{
    ccq_metric m = plan(k, entries, codes);

    return lay_out(&m, NULL);
}

static double largest_diagonal(const double *h, int64_t k)
{
    double most = 0.0;

    for (int64_t i = 0; i < k; i++)
        most = h[i * k + i] > most ? h[i * k + i] : most;
    return most;
}

/* To fp32; what is too small to matter is zero, for subnormals are slow. */
static float narrow(double x)
{
    return fabs(x) < 0x1p-64 ? 0.0f : (float)x;
}

/* U_jk of rows k = 64 i.. and columns j = 64 block..: to is written along, u read across. */
static void factor_tile(const double *u, int64_t ld, int64_t i, int64_t block, float *to)
{
    for (int64_t k = i * CCQ_GROUP; k < (i + 1) * CCQ_GROUP; k++)
        for (int64_t j = block * CCQ_GROUP; j < (block + 1) * CCQ_GROUP; j++)
            *to++ = j < k ? narrow(u[j * ld + k]) : 0.0f;
}

static void fill_matrices(ccq_metric *m, const double *h, const double *u, double scale)
{
    for (int64_t i = 0; i < m->groups; i++)
        for (int64_t j = 0; j < m->groups; j++) {
            const double *from = h + i * CCQ_GROUP * m->k + j * CCQ_GROUP;
            float *to = m->codes ? ccq_metric_h(m, i, j) : NULL;
            for (int64_t at = 0; m->codes && at < CCQ_TILE; at++)
                to[at] = narrow(from[at / CCQ_GROUP * m->k + at % CCQ_GROUP] * scale);
            if (j <= i)
                factor_tile(u, m->k, i, j, ccq_metric_u(m, i, j));
        }
    for (int64_t i = 0; i < m->k; i++)
        m->diagonal[i] = h[i * m->k + i] * scale;
}

/* c' A c / 2, i outer, j inner: products are exact in fp64. */
static float half_norm(const float a[CCQ_WINDOWS * CCQ_WINDOWS], const float c[CCQ_WINDOWS])
{
    double sum = 0.0;

    for (int i = 0; i < CCQ_WINDOWS; i++)
        for (int j = 0; j < CCQ_WINDOWS; j++)
            sum += (double)a[CCQ_WINDOWS * i + j] * (double)(c[i] * c[j]);
    return (float)(0.5 * sum);
}

static int turn(int code)
{
    return code % CCQ_PANEL * CCQ_PANEL + code / CCQ_PANEL;
}

static void fill_values(ccq_metric *m, const ccq_encoder *enc)
{
    for (int e = 0; e < m->entries; e++)
        for (int code = 0; code < CCQ_CODES; code++)
            for (int i = 0; i < CCQ_WINDOWS; i++) {
                float c = (float)enc->book[e].value[i][code] / -256.0f;
                m->value[e * VALUES + code * CCQ_WINDOWS + i] = c;
                m->turned[e * VALUES + i * CCQ_CODES + turn(code)] = c;
            }
}

/* M_B = (U_B + I) D_B (U_B + I)' in fp64, k ascending, and H_BB. */
static void block_metrics(const ccq_metric *m, const double *u, double scale, int64_t first,
                          float mb[16], float hb[16])
{
    const int64_t g = first / CCQ_GROUP, at = first % CCQ_GROUP;
    const float *h = ccq_metric_h(m, g, g) + at * (CCQ_GROUP + 1);

    for (int i = 0; i < CCQ_WINDOWS; i++)
        for (int j = 0; j < CCQ_WINDOWS; j++) {
            double sum = 0.0;
            for (int k = i > j ? i : j; k < CCQ_WINDOWS; k++) {
                const double *column = u + first * m->k + first + k;
                double d = column[k * m->k] * scale, a = k == i ? 1.0 : column[i * m->k];
                double b = k == j ? 1.0 : column[j * m->k];
                sum += a < b ? b * d * a : a * d * b; /* so that M_B is symmetric to the bit */
            }
            mb[CCQ_WINDOWS * i + j] = (float)sum;
            hb[CCQ_WINDOWS * i + j] = h[i * CCQ_GROUP + j];
        }
}

static void fill_blocks(ccq_metric *m, const double *u, double scale)
{
    for (int64_t block = 0; block < m->k / CCQ_WINDOWS; block++) {
        float *mb = m->metric + block * 16, hb[16];
        block_metrics(m, u, scale, block * CCQ_WINDOWS, mb, hb);
        for (int e = 0; e < m->entries; e++) {
            int64_t at = (block * m->entries + e) * CCQ_CODES;
            for (int code = 0; code < CCQ_CODES; code++) {
                const float *c = m->value + e * VALUES + code * CCQ_WINDOWS;
                m->norm[at + code] = half_norm(mb, c);
                m->turned_norm[at + turn(code)] = half_norm(hb, c);
            }
        }
    }
}

ccq_metric *ccq_metric_fill(const ccq_encoder *enc, int64_t k, int entries, int codes,
                            const double *h, const double *u, void *memory)
{
    ccq_metric *m = memory;
    double most = largest_diagonal(h, k), scale;

    *m = plan(k, entries, codes);
    lay_out(m, memory);
    m->exponent = most >= 0x1p-1000 && most < 0x1p1000 ? ilogb(most) : 0;
    scale = ldexp(1.0, -m->exponent);
    fill_matrices(m, h, u, scale);
    if (codes) {
        fill_values(m, enc);
        fill_blocks(m, u, scale);
    }
    return m;
}
