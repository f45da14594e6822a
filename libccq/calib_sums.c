/* Sums over the tokens of an expert: rows are fetched in chunks, which are whole blocks
 * of 256, so that the size of a chunk leaves no trace. */
#include "libccq/calib_internal.h"

#include <string.h>

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Residual rows of a stream to rows: of tokens first.. of the list. */
static ccq_code fetch(ccq_calib *c, int stream, const ccq_calib_tokens *t, int64_t first,
                      int64_t count, float *rows, ccq_error *err)
{
    int64_t h = c->model->arch->hidden;
    for (int64_t i = 0; i < count; i++) {
        uint64_t token = (uint64_t)(t->token ? t->token[first + i] : first + i);
        const float *from = ccq_stream_get(c->x[stream], token, 1, rows + i * h, err);
        if (!from)
            return err->code;
        if (from != rows + i * h)
            memcpy(rows + i * h, from, (size_t)h * sizeof *rows);
    }
    return CCQ_OK;
}

static ccq_code fetch_normed(ccq_calib *c, int stream, const ccq_calib_tokens *t, int64_t first,
                             int64_t count, ccq_error *err)
{
    float *residual = c->missing; /* nothing of it is wanted yet */
    ccq_code code = fetch(c, stream, t, first, count, residual, err);
    if (!code)
        ccq_layer_norm_post(c->session, &c->layer[CCQ_SOURCE_STREAM], residual, count,
                            c->rows[stream]);
    return code;
}

static void divide(double *x, int64_t count, double by)
{
    for (int64_t i = 0; x && i < count; i++)
        x[i] /= by;
}

ccq_code ccq_calib_up_sums(ccq_calib *c, const ccq_calib_tokens *t, int stream, double *h,
                           double *cross, ccq_error *err)
{
    int64_t k = c->model->arch->hidden;
    float *mine = c->rows[stream], *source = c->rows[CCQ_SOURCE_STREAM];
    ccq_code code = CCQ_OK;
    memset(h, 0, (size_t)(k * k) * sizeof *h);
    if (cross)
        memset(cross, 0, (size_t)(k * k) * sizeof *cross);
    for (int64_t at = 0; at < t->count && !code; at += c->chunk) {
        int64_t n = smaller(t->count - at, c->chunk);
        code = ccq_engine_poll(c->engine, err);
        if (!code)
            code = fetch_normed(c, stream, t, at, n, err);
        if (!code && cross)
            code = fetch_normed(c, CCQ_SOURCE_STREAM, t, at, n, err);
        if (code)
            break;
        ccq_gram(&c->solver, mine, k, mine, k, n, k, k, h, k);
        if (cross)
            ccq_gram(&c->solver, mine, k, source, k, n, k, k, cross, k);
    }
    divide(h, k * k, (double)t->count);
    divide(cross, k * k, (double)t->count);
    return code;
}

/* ---- Down --------------------------------------------------------------------------- */

/* a = r swiglu(x up) */
static void hidden_rows(ccq_calib *c, const ccq_linear *up, const float *x, const float *r,
                        int64_t count, float *a)
{
    int64_t n = up->w.n / 2;
    ccq_layer_product(c->session, up, x, count, c->gu);
    ccq_layer_swiglu(c->session, c->gu, count, n, a);
    for (int64_t i = 0; r && i < count; i++)
        for (int64_t j = 0; j < n; j++)
            a[i * n + j] *= r[i];
}

/* missing = r (h - h^), from the residual rows of both streams. */
static ccq_code missing_rows(ccq_calib *c, const ccq_calib_tokens *t, int64_t at, int64_t count,
                             const float *r, ccq_error *err)
{
    int64_t h = c->model->arch->hidden;
    float *mine = c->rows[CCQ_CODED_STREAM]; /* its normed rows have been used */
    ccq_code code = fetch(c, CCQ_SOURCE_STREAM, t, at, count, c->missing, err);
    if (!code)
        code = fetch(c, CCQ_CODED_STREAM, t, at, count, mine, err);
    for (int64_t i = 0; i < count && !code; i++)
        for (int64_t j = 0; j < h; j++)
            c->missing[i * h + j] = (r ? r[i] : 1.0f) * (c->missing[i * h + j] - mine[i * h + j]);
    return code;
}

static ccq_code half_sums(ccq_calib *c, const ccq_calib_tokens *t, int64_t first, int64_t end,
                          int half, const ccq_linear *source_up, const ccq_linear *up,
                          ccq_down_sums *s, ccq_error *err)
{
    int64_t h = s->hidden, n = s->inter;
    ccq_code code = CCQ_OK;
    for (int64_t at = first; at < end && !code; at += c->chunk) {
        int64_t count = smaller(end - at, c->chunk);
        const float *r = c->o->leave & CCQ_LEAVE_WEIGHTS ? NULL : t->r + at;
        if ((code = ccq_engine_poll(c->engine, err)) ||
            (code = fetch_normed(c, CCQ_CODED_STREAM, t, at, count, err)) ||
            (code = fetch_normed(c, CCQ_SOURCE_STREAM, t, at, count, err)))
            break;
        hidden_rows(c, up, c->rows[CCQ_CODED_STREAM], r, count, c->a);
        hidden_rows(c, source_up, c->rows[CCQ_SOURCE_STREAM], r, count, c->b);
        for (int64_t i = 0; i < count; i++)
            s->weight[half] += r ? (double)r[i] * (double)r[i] : 1.0;
        ccq_gram(&c->solver, c->a, n, c->a, n, count, n, n, s->aa[half], n);
        ccq_gram(&c->solver, c->b, n, c->a, n, count, n, n, s->ba[half], n);
        ccq_gram(&c->solver, c->b, n, c->b, n, count, n, n, s->bb[half], n);
        if (!s->ad[half] || (code = missing_rows(c, t, at, count, r, err)))
            continue;
        ccq_gram(&c->solver, c->a, n, c->missing, h, count, n, h, s->ad[half], h);
        ccq_gram(&c->solver, c->b, n, c->missing, h, count, n, h, s->bd[half], h);
    }
    return code;
}

ccq_code ccq_calib_down_sums(ccq_calib *c, const ccq_calib_tokens *t, const ccq_linear *source_up,
                             const ccq_linear *up, ccq_down_sums *sums, ccq_error *err)
{
    int64_t middle = t->count / 2;
    ccq_code code = half_sums(c, t, 0, middle, 0, source_up, up, sums, err);
    return code ? code : half_sums(c, t, middle, t->count, 1, source_up, up, sums, err);
}

ccq_code ccq_calib_hidden_sums(ccq_calib *c, const ccq_calib_tokens *t, const ccq_linear *up,
                               double *h, ccq_error *err)
{
    int64_t n = c->model->arch->moe_inter;
    double weight = 0;
    ccq_code code = CCQ_OK;
    memset(h, 0, (size_t)(n * n) * sizeof *h);
    for (int64_t at = 0; at < t->count && !code; at += c->chunk) {
        int64_t count = smaller(t->count - at, c->chunk);
        const float *r = t->r + at;
        if ((code = ccq_engine_poll(c->engine, err)) ||
            (code = fetch_normed(c, CCQ_SOURCE_STREAM, t, at, count, err)))
            break;
        hidden_rows(c, up, c->rows[CCQ_SOURCE_STREAM], r, count, c->a);
        for (int64_t i = 0; i < count; i++)
            weight += (double)r[i] * (double)r[i];
        ccq_gram(&c->solver, c->a, n, c->a, n, count, n, n, h, n);
    }
    if (weight > 0)
        divide(h, n * n, weight);
    return code;
}
