/* The reader: units of the plan's actions in order, as the ring has room for them. */
#include "libccq/crc.h"
#include "libccq/pipeline_internal.h"
#include "libccq/slice.h"

enum { STEP = 1 << 20 }; /* bytes read between two looks at whether the job has stopped */

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

/* A block of a slice, [kc][nc], in steps: what is stored as rows by rows, else by columns. */
static ccq_code read_block(ccq_pipe *p, const ccq_entry *e, const ccq_slice *s, int64_t k0,
                           int64_t kc, int64_t n0, int64_t nc, uint16_t *dst, ccq_error *err)
{
    int turned = e->piece[0].transposed;
    int64_t line = 2 * (turned ? kc : nc), lines = turned ? nc : kc;
    int64_t step = line < STEP ? STEP / line : 1;
    ccq_code code = CCQ_OK;
    for (int64_t i = 0; i < lines && !code; i += step) {
        int64_t count = lines - i < step ? lines - i : step;
        if (stopped(p))
            return CCQ_OK; /* nobody looks at it */
        if (turned)
            code = read_ranges(p, e, s, k0, kc, n0 + i, count, dst + i, nc, err);
        else
            code = read_ranges(p, e, s, k0 + i, count, n0, nc, dst + i * nc, nc, err);
        if (!code && !turned && !is_finite(dst + i * nc, count * nc))
            code = ccq_source_blame(p->engine->plan->src, e, err);
    }
    if (!code && turned && !is_finite(dst, kc * nc))
        code = ccq_source_blame(p->engine->plan->src, e, err);
    return code;
}

static ccq_code read_columns(ccq_pipe *p, ccq_unit u, const ccq_action *a, const ccq_slice *s,
                             ccq_error *err)
{
    int64_t step = ccq_block_columns(p->budget, a);
    ccq_code code = CCQ_OK;
    u.kind = CCQ_UNIT_BLOCK;
    for (u.n0 = 0; u.n0 < a->n && !code; u.n0 += step) {
        u.nc = a->n - u.n0 < step ? a->n - u.n0 : step;
        u.last = u.n0 + u.nc >= a->n;
        u.data = take_in(p, 2 * (uint64_t)a->k * (uint64_t)u.nc);
        if (!u.data)
            return CCQ_OK;
        code = read_block(p, a->entry, s, 0, a->k, u.n0, u.nc, u.data, err);
        u.crc = code ? 0 : ccq_crc_columns(u.data, a->k, a->n, u.n0, u.nc);
        if (!code)
            push_unit(p, &u);
    }
    return code;
}

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
            code = read_block(p, a->entry, s, k0, rows, 0, a->n, u.data, err);
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
