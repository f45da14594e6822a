/* Batch decode: prefill what joins, one row a step for everything that lives. */
#include "libccq/run.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BLOCK = 256 }; /* rows of logits at a time */

typedef struct work {
    ccq_model *m;
    ccq_request *q;
    size_t count;
    const ccq_generate_options *o;
    ccq_timing *timing;
    int64_t valid, vocab, prefill_rows;
    size_t slots;
    ccq_session *session;
    size_t *live; /* requests that run, in input order */
    size_t *slot; /* [count] of a live request */
    size_t lives, next;
    uint8_t *taken; /* [slots] */
    int32_t *last;  /* [count] id drawn last */
    ccq_span *span; /* [slots] */
    int64_t *rows;  /* [slots] rows of a step whose logits are wanted */
    size_t *owner;  /* [slots] their requests */
    float *logits;  /* [BLOCK][vocab], or of all slots when they are fewer */
    ccq_candidate *scratch;
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

/* ---- Preparation ------------------------------------------------------------- */

static ccq_code check_requests(const work *w, ccq_error *err)
{
    int64_t context = ccq_model_source(w->m)->arch.max_position;

    for (size_t i = 0; i < w->count; i++) {
        const ccq_request *q = &w->q[i];
        if (q->prompt.length < 1)
            return ccq_fail(err, CCQ_USAGE, "sequence %zu: empty prompt", i);
        if (q->max_tokens < 1 || q->prompt.length > context ||
            q->max_tokens > context - q->prompt.length)
            return ccq_fail(err, CCQ_USAGE,
                            "sequence %zu: prompt of %lld tokens and %lld more pass the context of "
                            "%lld",
                            i, (long long)q->prompt.length, (long long)q->max_tokens,
                            (long long)context);
        for (int64_t j = 0; j < q->prompt.length; j++)
            if (q->prompt.ids[j] < 0 || q->prompt.ids[j] >= w->vocab)
                return ccq_fail(err, CCQ_USAGE, "sequence %zu: id %d outside [0, %lld)", i,
                                (int)q->prompt.ids[j], (long long)w->vocab);
    }
    return CCQ_OK;
}

/* The last token drawn needs no place in the cache. */
static int64_t positions(const ccq_request *q)
{
    return q->prompt.length + q->max_tokens - 1;
}

/* When all run at once each slot has its sequence's length, else the longest. */
static ccq_code open_session(work *w, ccq_error *err)
{
    int64_t longest = 1, rows = 0, *capacity = calloc(w->slots, sizeof *capacity);
    ccq_code code;

    if (!capacity)
        return ccq_fail(err, CCQ_NO_MEMORY, "%zu sequences: out of memory", w->slots);
    for (size_t i = 0; i < w->count; i++) {
        longest = positions(&w->q[i]) > longest ? positions(&w->q[i]) : longest;
        rows = min64(rows + w->q[i].prompt.length, w->prefill_rows);
    }
    for (size_t i = 0; i < w->slots; i++)
        capacity[i] = w->slots == w->count ? positions(&w->q[i]) : longest;
    if (rows < (int64_t)w->slots)
        rows = (int64_t)w->slots;
    code = ccq_session_open(&w->session, w->m, w->slots, capacity, rows, err);
    free(capacity);
    if (!code && w->o->hooks.memory)
        w->o->hooks.memory(w->o->hooks.ctx, ccq_session_cache_bytes(w->session),
                           ccq_session_work_bytes(w->session));
    return code;
}

static ccq_code allocate(work *w, ccq_error *err)
{
    w->live = calloc(w->slots, sizeof *w->live);
    w->slot = calloc(w->count, sizeof *w->slot);
    w->taken = calloc(w->slots, sizeof *w->taken);
    w->last = calloc(w->count, sizeof *w->last);
    w->span = calloc(w->slots, sizeof *w->span);
    w->rows = calloc(w->slots, sizeof *w->rows);
    w->owner = calloc(w->slots, sizeof *w->owner);
    size_t rows = w->slots < BLOCK ? w->slots : BLOCK;
    w->logits = calloc(rows * (size_t)w->vocab, sizeof *w->logits);
    w->scratch = calloc((size_t)w->vocab, sizeof *w->scratch);
    if (!w->live || !w->slot || !w->taken || !w->last || !w->span || !w->rows || !w->owner ||
        !w->logits || !w->scratch)
        return ccq_fail(err, CCQ_NO_MEMORY, "%zu sequences: out of memory", w->slots);
    return CCQ_OK;
}

/* ---- One step ------------------------------------------------------------------ */

static void trace(const work *w, size_t spans)
{
    ccq_routes all;
    int64_t row = 0;

    if (!w->o->hooks.trace)
        return;
    ccq_session_routes(w->session, &all);
    for (size_t i = 0; all.rows && i < spans; i++) {
        int64_t at = ccq_session_length(w->session, w->span[i].slot) - w->span[i].rows;
        for (int64_t j = 0; j < w->span[i].rows; j++, row++) {
            int64_t c = row * all.layers;
            ccq_routes one = {
                1, all.layers, all.k, all.ids + c * all.k, all.weights + c * all.k, all.margin + c};
            w->o->hooks.trace(w->o->hooks.ctx, w->span[i].sequence, at + j, w->span[i].ids[j],
                              &one);
        }
    }
}

/* Draws the next id of request i; 1 when the sequence goes on. */
static int draw(work *w, size_t i, const float *logits)
{
    ccq_request *q = &w->q[i];
    int32_t id = ccq_sample(logits, w->valid, &q->sampling, (uint64_t)q->count, w->scratch);
    int stop = 0;

    w->last[i] = id;
    q->out[q->count++] = id;
    for (size_t j = 0; j < q->stop_count; j++)
        stop |= q->stop_ids[j] == id;
    if (w->o->token)
        stop |= w->o->token(w->o->ctx, i, q->count - 1, id, logits);
    if (stop)
        q->finish = CCQ_FINISH_STOP;
    else if (q->count == q->max_tokens)
        q->finish = CCQ_FINISH_LENGTH;
    if (q->finish)
        w->taken[w->slot[i]] = 0;
    return !q->finish;
}

/* Logits of wanted rows first..first+count-1; their owners draw. */
static ccq_code draw_rows(work *w, size_t first, size_t count, ccq_error *err)
{
    ccq_code code = ccq_session_logits(w->session, w->rows + first, count, w->logits, err);

    for (size_t i = 0; !code && i < count; i++) {
        const float *logits = w->logits + i * (size_t)w->vocab;
        size_t owner = w->owner[first + i];
        for (int64_t j = 0; j < w->valid; j++)
            if (isnan(logits[j]))
                return ccq_fail(err, CCQ_NONFINITE, "logit %lld of sequence %zu is NaN",
                                (long long)j, owner);
        draw(w, owner, logits);
    }
    return code;
}

/* Runs spans; the wanted rows' owners draw. */
static ccq_code step(work *w, size_t spans, size_t wanted, ccq_error *err)
{
    ccq_code code = ccq_session_step(w->session, w->span, spans, err);

    if (code)
        return code;
    trace(w, spans);
    for (size_t at = 0; !code && at < wanted; at += BLOCK)
        code = draw_rows(w, at, wanted - at < BLOCK ? wanted - at : BLOCK, err);
    return code;
}

/* ---- Prefill and decode ---------------------------------------------------------- */

/* Gives free slots to waiting requests: live[old..lives-1] are new. */
static size_t join(work *w)
{
    size_t old = w->lives, s = 0;

    while (w->next < w->count && w->lives < w->slots) {
        while (w->taken[s])
            s++;
        size_t slot = w->slots == w->count ? w->next : s;
        w->taken[slot] = 1;
        w->slot[w->next] = slot;
        ccq_session_reset(w->session, slot);
        w->live[w->lives++] = w->next++;
    }
    return old;
}

/* All prompts of live[first..] flattened, in steps of at most prefill_rows. */
static ccq_code prefill(work *w, size_t first, ccq_error *err)
{
    size_t at = first, spans, wanted;
    int64_t done = 0, rows;
    ccq_code code;

    while (at < w->lives) {
        for (spans = 0, wanted = 0, rows = 0; at < w->lives && rows < w->prefill_rows;) {
            size_t i = w->live[at];
            const ccq_prompt *p = &w->q[i].prompt;
            int64_t n = min64(p->length - done, w->prefill_rows - rows);
            ccq_span span = {w->slot[i], i, n, p->ids + done};
            w->span[spans++] = span;
            rows += n;
            done += n;
            if (done < p->length)
                break;
            w->owner[wanted] = i;
            w->rows[wanted++] = rows - 1;
            done = 0;
            at++;
        }
        if ((code = step(w, spans, wanted, err)))
            return code;
        w->timing->prefill_rows += (uint64_t)rows;
    }
    return CCQ_OK;
}

static ccq_code decode(work *w, ccq_error *err)
{
    ccq_code code;

    for (size_t i = 0; i < w->lives; i++) {
        size_t q = w->live[i];
        ccq_span span = {w->slot[q], q, 1, &w->last[q]};
        w->span[i] = span;
        w->rows[i] = (int64_t)i;
        w->owner[i] = q;
    }
    if ((code = step(w, w->lives, w->lives, err)))
        return code;
    w->timing->decode_rows += w->lives;
    return CCQ_OK;
}

/* Finished sequences leave; the others keep their order. */
static void leave(work *w)
{
    size_t kept = 0;

    for (size_t i = 0; i < w->lives; i++)
        if (!w->q[w->live[i]].finish)
            w->live[kept++] = w->live[i];
    w->lives = kept;
}

static ccq_code run(work *w, ccq_error *err)
{
    ccq_code code;
    double t;

    while (w->next < w->count || w->lives) {
        size_t first = join(w);
        t = now();
        if (first < w->lives) {
            if ((code = prefill(w, first, err)))
                return code;
            w->timing->prefill_s += now() - t;
            leave(w);
            continue; /* a slot may be free again */
        }
        if ((code = decode(w, err)))
            return code;
        w->timing->decode_s += now() - t;
        leave(w);
    }
    return CCQ_OK;
}

ccq_code ccq_generate(ccq_model *model, ccq_request *requests, size_t count,
                      const ccq_generate_options *options, ccq_timing *timing, ccq_error *err)
{
    ccq_timing unused = {0, 0, 0, 0};
    work w = {.m = model, .q = requests, .count = count, .o = options};
    ccq_code code;

    w.timing = timing ? timing : &unused;
    w.vocab = ccq_model_source(model)->arch.vocab;
    w.valid = options->valid > 0 && options->valid < w.vocab ? options->valid : w.vocab;
    w.prefill_rows = options->prefill_rows > 0 ? options->prefill_rows : CCQ_PREFILL_ROWS;
    w.slots = options->batch && options->batch < count ? options->batch : count;
    if (!count)
        return CCQ_OK;
    for (size_t i = 0; i < count; i++) {
        requests[i].count = 0;
        requests[i].finish = CCQ_FINISH_NONE;
    }
    code = check_requests(&w, err);
    if (!code)
        code = open_session(&w, err);
    if (!code)
        code = allocate(&w, err);
    if (!code)
        code = run(&w, err);
    ccq_session_close(w.session);
    free(w.live);
    free(w.slot);
    free(w.taken);
    free(w.last);
    free(w.span);
    free(w.rows);
    free(w.owner);
    free(w.logits);
    free(w.scratch);
    return code;
}
