/* Stored continuations of a model that is read layer by layer, and so draws no tokens. */
#include "tools/run_reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Up to the first difference the continuation that would be drawn is the stored one, so a
 * prompt with that behind it says as much as drawing: everything in one pass. */
typedef struct forced {
    run_reference_job job;
    run_greedy_job greedy;
    ccq_request *q;
    int32_t *out, *ids;
    ccq_prompt *prompts;
    int32_t *seq, *pos;        /* [rows]: rows of the reference, and rows that draw */
    int32_t *stored, *request; /* [rows]: number of the reference's row; who draws; -1: none */
    int32_t *last;             /* [prompts]: position of the last row of the reference */
    size_t rows;
    ccq_run_hooks hooks;
} forced;

static void forced_trace(void *ctx, size_t sequence, int64_t position, int32_t id,
                         const ccq_routes *one)
{
    const forced *f = ctx;

    if (position <= f->last[sequence])
        f->hooks.trace(f->hooks.ctx, sequence, position, id, one);
}

static void forced_progress(void *ctx, uint64_t done, uint64_t total)
{
    const forced *f = ctx;

    f->hooks.progress(f->hooks.ctx, done, total);
}

static void forced_layers(void *ctx, const ccq_layers_plan *plan)
{
    const forced *f = ctx;

    f->hooks.layers(f->hooks.ctx, plan);
}

static void forced_memory(void *ctx, uint64_t cache, uint64_t work)
{
    const forced *f = ctx;

    f->hooks.memory(f->hooks.ctx, cache, work);
}

/* Rows of the block that are neighbours in the reference too. */
static ccq_code forced_stored(forced *f, const ccq_eval_block *b, ccq_error *err)
{
    size_t k = (size_t)b->routes[0].k, layers = (size_t)b->routes[0].layers, vocab, n;
    ccq_code code = CCQ_OK;

    vocab = (size_t)f->job.r->vocab;
    for (size_t i = 0; !code && i < b->rows; i += n) {
        int32_t first = f->stored[b->first + i];
        for (n = 1; first >= 0 && i + n < b->rows && f->stored[b->first + i + n] == first + (int)n;)
            n++;
        ccq_eval_block part = {(size_t)first, n, {b->logits[0] + i * vocab, NULL}, {b->routes[0]}};
        part.routes[0].ids += i * layers * k;
        part.routes[0].margin += i * layers;
        if (first >= 0)
            code = run_reference_block(&f->job, &part, err);
    }
    return code;
}

static ccq_code forced_block(void *ctx, const ccq_eval_block *b, ccq_error *err)
{
    forced *f = ctx;
    int64_t valid = f->job.r->valid_compare;
    ccq_code code = forced_stored(f, b, err);

    for (size_t i = 0; !code && i < b->rows; i++) {
        const float *logits = b->logits[0] + i * (size_t)f->job.r->vocab;
        int32_t who = f->request[b->first + i];
        if (who < 0)
            continue;
        for (int64_t j = 0; j < valid; j++)
            if (isnan(logits[j]))
                return ccq_fail(err, CCQ_NONFINITE, "logit %lld of sequence %d is NaN",
                                (long long)j, (int)who);
        int32_t id = ccq_argmax(logits, valid);
        f->q[who].out[f->q[who].count] = id;
        run_on_greedy(&f->greedy, (size_t)who, f->q[who].count++, id, logits);
    }
    return code;
}

static void add_row(forced *f, size_t prompt, int32_t pos, int32_t stored, int32_t request)
{
    f->seq[f->rows] = (int32_t)prompt;
    f->pos[f->rows] = pos;
    f->stored[f->rows] = stored;
    f->request[f->rows++] = request;
}

/* Each prompt with its continuation but for the last token. */
static void lay_out(forced *f, const ccq_reference *ref, size_t requests)
{
    size_t row = 0, at = 0, who = 0;

    for (size_t i = 0; i < ref->prompts; i++) {
        ccq_prompt *p = &f->prompts[i];
        int32_t n = who < requests && f->greedy.prompt[who] == i ? ref->greedy_lengths[i] : 0;
        int32_t end = (int32_t)p->length - 1, from = 0;
        memcpy(f->ids + at, p->ids, (size_t)p->length * sizeof *f->ids);
        if (n > 1)
            memcpy(f->ids + at + p->length, f->greedy.theirs[who],
                   (size_t)(n - 1) * sizeof *f->ids);
        p->ids = f->ids + at;
        p->length += n > 1 ? n - 1 : 0;
        at += (size_t)p->length;
        f->last[i] = -1;
        for (; row < ref->rows && (size_t)ref->row_seq[row] == i; row++) {
            int draws = n > 0 && ref->row_pos[row] == end;
            add_row(f, i, ref->row_pos[row], (int32_t)row, draws ? (int32_t)who : -1);
            f->last[i] = ref->row_pos[row];
            from = draws;
        }
        for (; from < n; from++)
            add_row(f, i, end + from, -1, (int32_t)who);
        who += n > 0;
    }
}

static ccq_code evaluate(forced *f, ccq_error *err)
{
    run *r = f->job.r;
    const ccq_reference *ref = r->ref;
    ccq_eval e = {.prompts = f->prompts,
                  .prompt_count = ref->prompts,
                  .row_seq = f->seq,
                  .row_pos = f->pos,
                  .row_count = f->rows,
                  .no_routes = !ref->router_ids,
                  .hooks = {f, forced_memory, NULL, forced_progress, forced_layers},
                  .block = forced_block,
                  .ctx = f};

    run_hooks(r, &f->hooks);
    if (f->hooks.trace)
        e.hooks.trace = forced_trace;
    return run_evaluate(r, &e, err);
}

static int allocate_forced(forced *f, const ccq_reference *ref)
{
    size_t rows = ref->rows + ref->greedy_count + 1;

    f->q = calloc(ref->prompts + 1, sizeof *f->q);
    f->out = calloc(ref->greedy_count + 1, sizeof *f->out);
    f->ids = calloc(ref->id_count + ref->greedy_count + 1, sizeof *f->ids);
    f->seq = calloc(rows, sizeof *f->seq);
    f->pos = calloc(rows, sizeof *f->pos);
    f->stored = calloc(rows, sizeof *f->stored);
    f->request = calloc(rows, sizeof *f->request);
    f->last = calloc(ref->prompts + 1, sizeof *f->last);
    f->greedy.theirs = calloc(ref->prompts + 1, sizeof *f->greedy.theirs);
    f->greedy.prompt = calloc(ref->prompts + 1, sizeof *f->greedy.prompt);
    return f->q && f->out && f->ids && f->seq && f->pos && f->stored && f->request && f->last &&
           f->greedy.theirs && f->greedy.prompt;
}

ccq_code run_forced(const run_reference_job *j, ccq_prompt *prompts, ccq_error *err)
{
    run *r = j->r;
    const ccq_reference *ref = r->ref;
    forced f = {.job = *j, .greedy = {.r = r}, .prompts = prompts};
    size_t count = 0;
    ccq_code code = CCQ_OK;

    r->greedy = calloc(ref->prompts + 1, sizeof *r->greedy);
    if (!r->greedy || !allocate_forced(&f, ref)) {
        code = ccq_fail(err, CCQ_NO_MEMORY, "comparison: out of memory");
    } else {
        count = run_greedy_requests(r, prompts, f.q, &f.greedy, f.out);
        lay_out(&f, ref, count);
        code = evaluate(&f, err);
    }
    for (size_t i = 0; !code && i < count; i++)
        ccq_compare_greedy(j->compare, f.q[i].out, f.greedy.theirs[i],
                           ref->greedy_gap + (f.greedy.theirs[i] - ref->greedy_ids),
                           (size_t)f.q[i].max_tokens);
    free(f.q);
    free(f.out);
    free(f.ids);
    free(f.seq);
    free(f.pos);
    free(f.stored);
    free(f.request);
    free(f.last);
    free(f.greedy.theirs);
    free(f.greedy.prompt);
    return code;
}
