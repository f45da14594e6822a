/* The reader: units of the plan's actions in order, as the ring has room for them. */
#include "libccq/crc.h"
#include "libccq/pipeline_internal.h"
#include "libccq/slice.h"

#include <string.h>

enum {
    STRIP = 32,        /* columns: 64 bytes of a row */
    STRIP_TURNED = 128, /* as short as reading by columns allows; a block of block_wise_fp8 */
    STEP = CCQ_PIPE_STEP
};

static int stopped(ccq_pipe *p)
{
    pthread_mutex_lock(&p->lock);
    int stop = p->stop;
    pthread_mutex_unlock(&p->lock);
    return stop;
}

/* NULL: the job has stopped. */
static void *take_in(ccq_pipe *p, uint64_t size)
{
    void *data = NULL;
    pthread_mutex_lock(&p->lock);
    while (!p->stop && !(data = ccq_ring_take(&p->in, (size_t)size)))
        pthread_cond_wait(&p->changed, &p->lock);
    pthread_mutex_unlock(&p->lock);
    return data;
}

static void push_unit(ccq_pipe *p, const ccq_unit *u)
{
    pthread_mutex_lock(&p->lock);
    while (!p->stop && p->units == CCQ_PIPE_QUEUE)
        pthread_cond_wait(&p->changed, &p->lock);
    if (!p->stop)
        p->unit[(p->unit_first + p->units++) % CCQ_PIPE_QUEUE] = *u;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
}

/* Rows k0..k0+kc-1, columns n0..n0+nc-1 of a slice, from wherever its ranges lie. */
static ccq_code read_ranges(const ccq_pipe *p, const ccq_entry *e, const ccq_slice *s, int64_t k0,
                            int64_t kc, int64_t n0, int64_t nc, uint16_t *dst, int64_t ld,
                            ccq_error *err)
{
    int64_t at = 0;
    ccq_code code = CCQ_OK;
    for (int i = 0; i < s->ranges && !code; at += s->range[i++].count) {
        int64_t from = n0 > at ? n0 : at, end = at + s->range[i].count;
        end = end < n0 + nc ? end : n0 + nc;
        if (from < end)
            code = ccq_source_read_block(p->engine->plan->src, e, s->k0 + k0, kc,
                                         s->range[i].from + from - at, end - from, dst + from - n0,
                                         ld, err);
    }
    return code;
}

static int is_finite(const uint16_t *x, int64_t count)
{
    uint16_t most = 0;
    for (int64_t i = 0; i < count; i++) {
        uint16_t size = x[i] & 0x7fff;
        most = size > most ? size : most;
    }
    return most < 0x7f80;
}

static ccq_code blame(const ccq_pipe *p, const ccq_entry *e, ccq_error *err)
{
    return ccq_source_blame(p->engine->plan->src, e, err);
}

/* Rows k0..k0+kc-1 of a slice, [kc][n]. */
static ccq_code read_rows(ccq_pipe *p, const ccq_entry *e, const ccq_slice *s, int64_t k0,
                          int64_t kc, int64_t n, uint16_t *dst, ccq_error *err)
{
    int turned = e->piece[0].transposed;
    int64_t step = turned ? kc : 2 * n < STEP ? STEP / 2 / n : 1;
    ccq_code code = CCQ_OK;
    for (int64_t i = 0; i < kc && !code && !stopped(p); i += step) {
        int64_t rows = kc - i < step ? kc - i : step;
        code = read_ranges(p, e, s, k0 + i, rows, 0, n, dst + i * n, n, err);
        if (!code && !is_finite(dst + i * n, rows * n))
            code = blame(p, e, err);
    }
    return code;
}

/* ---- Blocks of columns --------------------------------------------------------------- */

/* Rows k0.. of a block of k rows, [rows][nc], to its strips. A strip's rows follow each
 * other: they are written, and will be read, as memory likes it best. */
static void to_strips(const uint16_t *x, int64_t k0, int64_t rows, int64_t k, int64_t nc,
                      uint16_t *strip)
{
    for (int64_t n = 0; n + STRIP <= nc; n += STRIP)
        for (int64_t r = 0; r < rows; r++)
            memcpy(strip + n * k + (k0 + r) * STRIP, x + r * nc + n, STRIP * sizeof *x);
    int64_t rest = nc % STRIP, n = nc - rest;
    for (int64_t r = 0; rest && r < rows; r++)
        memcpy(strip + n * k + (k0 + r) * rest, x + r * nc + n, (size_t)rest * sizeof *x);
}

/* Rows go by way of a buffer that stays in the processor's cache. */
static ccq_code read_straight(ccq_pipe *p, const ccq_action *a, const ccq_slice *s, ccq_unit *u,
                              ccq_error *err)
{
    int64_t step = 2 * u->nc < STEP ? STEP / 2 / u->nc : 1;
    ccq_crc_columns crc;
    ccq_code code = CCQ_OK;
    ccq_crc_begin(&crc, a->n, u->n0, u->nc);
    for (int64_t k0 = 0; k0 < a->k && !code && !stopped(p); k0 += step) {
        int64_t rows = a->k - k0 < step ? a->k - k0 : step;
        code = read_ranges(p, a->entry, s, k0, rows, u->n0, u->nc, p->rows, u->nc, err);
        if (!code && !is_finite(p->rows, rows * u->nc))
            code = blame(p, a->entry, err);
        ccq_crc_rows(&crc, p->rows, code ? 0 : rows);
        to_strips(p->rows, k0, code ? 0 : rows, a->k, u->nc, u->data);
    }
    u->strip = STRIP;
    u->crc = ccq_crc_end(&crc);
    return code;
}

/* What is stored by columns: a strip at a time. */
static ccq_code read_turned(ccq_pipe *p, const ccq_action *a, const ccq_slice *s, ccq_unit *u,
                            ccq_error *err)
{
    ccq_code code = CCQ_OK;
    u->strip = STRIP_TURNED;
    u->crc = 0;
    for (int64_t n = 0; n < u->nc && !code && !stopped(p); n += STRIP_TURNED) {
        int64_t nc = u->nc - n < STRIP_TURNED ? u->nc - n : STRIP_TURNED;
        uint16_t *strip = (uint16_t *)u->data + n * a->k;
        ccq_crc_columns crc;
        code = read_ranges(p, a->entry, s, 0, a->k, u->n0 + n, nc, strip, nc, err);
        if (!code && !is_finite(strip, a->k * nc))
            code = blame(p, a->entry, err);
        ccq_crc_begin(&crc, a->n, u->n0 + n, nc);
        ccq_crc_rows(&crc, strip, code ? 0 : a->k);
        u->crc ^= ccq_crc_end(&crc);
    }
    return code;
}

static ccq_code read_columns(ccq_pipe *p, ccq_unit u, const ccq_action *a, const ccq_slice *s,
                             ccq_error *err)
{
    int64_t step = ccq_block_columns(p->budget, a);
    int turned = a->entry->piece[0].transposed || a->to == CCQ_TYPE_FP8;
    ccq_code code = CCQ_OK;
    u.kind = CCQ_UNIT_BLOCK;
    for (u.n0 = 0; u.n0 < a->n && !code; u.n0 += step) {
        u.nc = a->n - u.n0 < step ? a->n - u.n0 : step;
        u.last = u.n0 + u.nc >= a->n;
        u.data = take_in(p, 2 * (uint64_t)a->k * (uint64_t)u.nc);
        if (!u.data)
            return CCQ_OK;
        code = (turned ? read_turned : read_straight)(p, a, s, &u, err);
        if (!code)
            push_unit(p, &u);
    }
    return code;
}

/* ---- Windows of rows ------------------------------------------------------------------ */

static ccq_code read_windows(ccq_pipe *p, ccq_unit u, const ccq_action *a, const ccq_slice *s,
                             ccq_error *err)
{
    int f32 = a->to == CCQ_TYPE_F32;
    int64_t step = f32 ? a->k : ccq_window_rows(p->budget, a);
    uint64_t row = (f32 ? 4 : 2) * (uint64_t)a->n;
    ccq_code code = CCQ_OK;
    u.kind = CCQ_UNIT_WINDOW;
    for (int64_t k0 = 0; k0 < a->k && !code; k0 += step) {
        int64_t rows = a->k - k0 < step ? a->k - k0 : step;
        u.offset = (uint64_t)k0 * row;
        u.size = (uint64_t)rows * row;
        u.last = k0 + rows >= a->k;
        u.data = take_in(p, u.size);
        if (!u.data)
            return CCQ_OK;
        if (f32)
            code = ccq_source_read_f32(p->engine->plan->src, a->entry, u.data, err);
        else
            code = read_rows(p, a->entry, s, k0, rows, a->n, u.data, err);
        if (!code)
            push_unit(p, &u);
    }
    return code;
}

static int skipped(const ccq_pipe *p, size_t action, int rank)
{
    const uint8_t *skip = p->engine->skip;
    return skip && skip[action * (size_t)p->engine->plan->ranks + (size_t)rank];
}

static ccq_code read_action(ccq_pipe *p, size_t i, ccq_error *err)
{
    const ccq_plan *plan = p->engine->plan;
    const ccq_action *a = &plan->action[i];
    ccq_unit u = {.action = i, .kind = CCQ_UNIT_WHOLE, .last = 1};
    ccq_slice s;
    ccq_code code = CCQ_OK;
    while (u.rank < plan->ranks && skipped(p, i, u.rank))
        u.rank++;
    if (u.rank < plan->ranks && ccq_works_whole(plan, a)) {
        u.rank = plan->ranks - 1;
        push_unit(p, &u);
        return CCQ_OK;
    }
    for (; u.rank < plan->ranks && !code; u.rank++) {
        if (skipped(p, i, u.rank))
            continue;
        ccq_slice_of(&plan->src->arch, a->entry, u.rank, plan->ranks, &s);
        code = ccq_is_quantized(a->to) ? read_columns(p, u, a, &s, err)
                                       : read_windows(p, u, a, &s, err);
    }
    return code;
}

void *ccq_pipe_reader(void *arg)
{
    ccq_pipe *p = arg;
    ccq_error err = {0};
    ccq_code code = CCQ_OK;
    for (size_t i = 0; i < p->engine->plan->count && !code && !stopped(p); i++)
        code = read_action(p, i, &err);
    pthread_mutex_lock(&p->lock);
    p->read_code = code;
    p->read_err = err;
    p->end = 1;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
    return NULL;
}
