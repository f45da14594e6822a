/* Logits of given tokens, for one model or two over the same rows. Nothing is
 * kept: a block of rows goes to the caller as soon as it is there. */
#include "libccq/run.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BLOCK = 256 }; /* rows of logits at a time */

typedef struct work {
    const ccq_eval *e;
    int models;
    int64_t prefill_rows;
    int64_t *need; /* rows of each prompt up to its last wanted one */
    size_t *slot;  /* of each prompt, within its group */
    size_t *order; /* [slots]: prompts of a group, longest first */
    ccq_session *session[2];
    ccq_span *span;   /* [slots] */
    int64_t *rows;    /* wanted rows of a step, by number in it */
    float *logits[2]; /* [BLOCK][vocab] */
    int32_t *ids[2];  /* [BLOCK][layers][k]: routes of a block */
    float *weights[2], *margin[2];
    size_t next; /* wanted rows done */
    uint64_t done, total;
    double seconds; /* of model 0 */
} work;

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* ---- Plan ------------------------------------------------------------------ */

/* Prompts first..end-1 that run together: as many as make prefill_rows rows. */
static size_t group_end(const work *w, size_t first)
{
    int64_t rows = 0;
    size_t end = first;

    while (end < w->e->prompt_count && (end == first || rows + w->need[end] <= w->prefill_rows))
        rows += w->need[end++];
    return end;
}

static ccq_code check_rows(work *w, ccq_error *err)
{
    const ccq_eval *e = w->e;

    for (size_t i = 0; i < e->row_count; i++) {
        int32_t seq = e->row_seq[i], pos = e->row_pos[i];
        if (seq < 0 || (size_t)seq >= e->prompt_count || pos < 0 || pos >= e->prompts[seq].length)
            return ccq_fail(err, CCQ_BUG, "row %zu: sequence %d, position %d is not there", i,
                            (int)seq, (int)pos);
        w->need[seq] = (int64_t)pos + 1;
    }
    for (size_t i = 0; i < e->prompt_count; i++)
        w->total += (uint64_t)w->need[i];
    return CCQ_OK;
}

/* Routes of a block are copied out of the session, where rows not wanted lie between. */
static int allocate_routes(work *w, int i)
{
    const ccq_model *m = w->e->model[i];
    size_t layers = (size_t)ccq_model_moe_layers(m), k = (size_t)ccq_model_source(m)->arch.moe_k;

    w->ids[i] = calloc(BLOCK * layers * k + 1, sizeof **w->ids);
    w->weights[i] = calloc(BLOCK * layers * k + 1, sizeof **w->weights);
    w->margin[i] = calloc(BLOCK * layers + 1, sizeof **w->margin);
    return w->ids[i] && w->weights[i] && w->margin[i];
}

/* Most prompts, and most rows, of one group. */
static void measure_groups(const work *w, size_t *slots, int64_t *most)
{
    int64_t rows;
    size_t end;

    *slots = 1;
    *most = 1;
    for (size_t at = 0; at < w->e->prompt_count; at = end) {
        end = group_end(w, at);
        *slots = end - at > *slots ? end - at : *slots;
        rows = 0;
        for (size_t i = at; i < end; i++)
            rows += w->need[i];
        *most = rows > *most ? rows : *most;
    }
}

static int longest_first(const void *pa, const void *pb, void *ctx)
{
    const size_t *a = pa, *b = pb;
    const int64_t *need = ctx;

    if (need[*a] != need[*b])
        return (need[*a] < need[*b]) - (need[*a] > need[*b]);
    return (*a > *b) - (*a < *b);
}

/* The longest of a group gets slot 0, the next slot 1: since a group of several has at
 * most prefill_rows rows, slot j holds at most prefill_rows / (j + 1) positions, and one
 * long prompt among many short ones costs its own length and not that of every slot. */
static void assign_slots(work *w, int64_t *capacity)
{
    size_t end;

    for (size_t at = 0; at < w->e->prompt_count; at = end) {
        end = group_end(w, at);
        for (size_t i = at; i < end; i++)
            w->order[i - at] = i;
        qsort_r(w->order, end - at, sizeof *w->order, longest_first, w->need);
        for (size_t j = 0; j < end - at; j++) {
            int64_t need = w->need[w->order[j]];
            w->slot[w->order[j]] = j;
            capacity[j] = need > capacity[j] ? need : capacity[j];
        }
    }
}

static ccq_code open_sessions(work *w, ccq_error *err)
{
    size_t slots;
    int64_t most, *capacity;
    ccq_code code = CCQ_OK;

    measure_groups(w, &slots, &most);
    capacity = calloc(slots, sizeof *capacity);
    w->order = calloc(slots, sizeof *w->order);
    w->span = calloc(slots, sizeof *w->span);
    w->rows = calloc((size_t)min64(most, w->prefill_rows), sizeof *w->rows);
    if (!capacity || !w->order || !w->span || !w->rows)
        code = ccq_fail(err, CCQ_NO_MEMORY, "%zu sequences: out of memory", slots);
    else
        assign_slots(w, capacity);
    for (int i = 0; !code && i < w->models; i++)
        code = ccq_session_open(&w->session[i], w->e->model[i], slots, capacity,
                                min64(most, w->prefill_rows), err);
    free(capacity);
    return code;
}

static ccq_code prepare(work *w, ccq_error *err)
{
    const ccq_eval *e = w->e;
    uint64_t cache = 0, space = 0;
    ccq_code code;

    w->need = calloc(e->prompt_count + 1, sizeof *w->need);
    w->slot = calloc(e->prompt_count + 1, sizeof *w->slot);
    if (!w->need || !w->slot)
        return ccq_fail(err, CCQ_NO_MEMORY, "evaluation: out of memory");
    if ((code = check_rows(w, err)) || (code = open_sessions(w, err)))
        return code;
    for (int i = 0; i < w->models; i++) {
        size_t vocab = (size_t)ccq_model_source(e->model[i])->arch.vocab;
        w->logits[i] = calloc(BLOCK * vocab, sizeof **w->logits);
        if (!w->logits[i] || !allocate_routes(w, i))
            return ccq_fail(err, CCQ_NO_MEMORY, "evaluation: out of memory");
        cache += ccq_session_cache_bytes(w->session[i]);
        space += ccq_session_work_bytes(w->session[i]);
    }
    if (e->hooks.memory)
        e->hooks.memory(e->hooks.ctx, cache, space);
    return CCQ_OK;
}

/* ---- Run --------------------------------------------------------------------- */

static ccq_routes route_row(const ccq_routes *all, int64_t row)
{
    int64_t at = row * all->layers;
    ccq_routes one = {1,
                      all->layers,
                      all->k,
                      all->ids + at * all->k,
                      all->weights + at * all->k,
                      all->margin + at};
    return one;
}

static void copy_routes(const work *w, int i, const int64_t *rows, size_t count, ccq_routes *out)
{
    ccq_routes all;

    ccq_session_routes(w->session[i], &all);
    *out = all;
    out->rows = all.rows ? (int64_t)count : 0;
    out->ids = w->ids[i];
    out->weights = w->weights[i];
    out->margin = w->margin[i];
    for (size_t r = 0; all.rows && r < count; r++) {
        ccq_routes one = route_row(&all, rows[r]);
        size_t n = (size_t)(all.layers * all.k);
        memcpy(w->ids[i] + r * n, one.ids, n * sizeof *one.ids);
        memcpy(w->weights[i] + r * n, one.weights, n * sizeof *one.weights);
        memcpy(w->margin[i] + r * (size_t)all.layers, one.margin,
               (size_t)all.layers * sizeof *one.margin);
    }
}

static ccq_code give_blocks(work *w, size_t count, ccq_error *err)
{
    ccq_code code;

    for (size_t at = 0; at < count; at += BLOCK) {
        ccq_eval_block b = {w->next, count - at < BLOCK ? count - at : BLOCK, {NULL, NULL}, {{0}}};
        for (int i = 0; i < w->models; i++) {
            double t = now();
            if ((code = ccq_session_logits(w->session[i], w->rows + at, b.rows, w->logits[i], err)))
                return code;
            w->seconds += i == 0 ? now() - t : 0;
            b.logits[i] = w->logits[i];
            copy_routes(w, i, w->rows + at, b.rows, &b.routes[i]);
        }
        if ((code = w->e->block(w->e->ctx, &b, err)))
            return code;
        w->next += b.rows;
    }
    return CCQ_OK;
}

static void trace_step(const work *w, size_t spans)
{
    ccq_routes all;
    int64_t row = 0;

    if (!w->e->hooks.trace)
        return;
    ccq_session_routes(w->session[0], &all);
    for (size_t i = 0; all.rows && i < spans; i++) {
        const ccq_span *p = &w->span[i];
        int64_t at = ccq_session_length(w->session[0], p->slot) - p->rows;
        for (int64_t j = 0; j < p->rows; j++, row++) {
            ccq_routes one = route_row(&all, row);
            w->e->hooks.trace(w->e->hooks.ctx, p->sequence, at + j, p->ids[j], &one);
        }
    }
}

/* Wanted rows among those of the step, numbered in it. */
static size_t pick_rows(const work *w, size_t spans)
{
    const ccq_eval *e = w->e;
    size_t count = 0, next = w->next;
    int64_t row = 0;

    for (size_t i = 0; i < spans; i++) {
        const ccq_span *p = &w->span[i];
        int64_t end = ccq_session_length(w->session[0], p->slot), at = end - p->rows;
        while (next < e->row_count && (size_t)e->row_seq[next] == p->sequence &&
               e->row_pos[next] < end)
            w->rows[count++] = row + e->row_pos[next++] - at;
        row += p->rows;
    }
    return count;
}

static ccq_code run_step(work *w, size_t spans, ccq_error *err)
{
    ccq_code code;

    for (int i = 0; i < w->models; i++) {
        double t = now();
        if ((code = ccq_session_step(w->session[i], w->span, spans, err)))
            return code;
        w->seconds += i == 0 ? now() - t : 0;
    }
    trace_step(w, spans);
    if ((code = give_blocks(w, pick_rows(w, spans), err)))
        return code;
    for (size_t i = 0; i < spans; i++)
        w->done += (uint64_t)w->span[i].rows;
    if (w->e->hooks.progress)
        w->e->hooks.progress(w->e->hooks.ctx, w->done, w->total);
    return CCQ_OK;
}

/* One group: its rows in steps of at most prefill_rows. */
static ccq_code run_group(work *w, size_t first, size_t end, ccq_error *err)
{
    size_t at = first, spans;
    int64_t done = 0, rows;
    ccq_code code;

    for (size_t i = first; i < end; i++)
        for (int k = 0; k < w->models; k++)
            ccq_session_reset(w->session[k], w->slot[i]);
    while (at < end) {
        for (spans = 0, rows = 0; at < end && rows < w->prefill_rows;) {
            int64_t n = min64(w->need[at] - done, w->prefill_rows - rows);
            ccq_span p = {w->slot[at], at, n, w->e->prompts[at].ids + done};
            if (n > 0)
                w->span[spans++] = p;
            rows += n;
            done += n;
            if (done == w->need[at]) {
                at++;
                done = 0;
            }
        }
        if (spans && (code = run_step(w, spans, err)))
            return code;
    }
    return CCQ_OK;
}

ccq_code ccq_evaluate(const ccq_eval *eval, double *seconds, ccq_error *err)
{
    work w = {.e = eval, .models = eval->model[1] ? 2 : 1};
    size_t at = 0, end;
    ccq_code code;

    w.prefill_rows = eval->prefill_rows > 0 ? eval->prefill_rows : CCQ_PREFILL_ROWS;
    code = prepare(&w, err);
    for (; !code && at < eval->prompt_count; at = end) {
        end = group_end(&w, at);
        code = run_group(&w, at, end, err);
    }
    if (seconds)
        *seconds = w.seconds;
    for (int i = 0; i < 2; i++) {
        ccq_session_close(w.session[i]);
        free(w.logits[i]);
        free(w.ids[i]);
        free(w.weights[i]);
        free(w.margin[i]);
    }
    free(w.need);
    free(w.slot);
    free(w.order);
    free(w.span);
    free(w.rows);
    return code;
}
