/* Comparison with stored outputs. */
#include "tools/run_reference.h"

#include <stdlib.h>
#include <string.h>

static ccq_code no_memory(ccq_error *err)
{
    return ccq_fail(err, CCQ_NO_MEMORY, "comparison: out of memory");
}

/* Prompts that lie one after another in ids. */
static ccq_prompt *slice(const int32_t *ids, const int32_t *lengths, size_t count)
{
    ccq_prompt *p = calloc(count + 1, sizeof *p);

    for (size_t i = 0; p && i < count; i++) {
        p[i].ids = ids;
        p[i].length = lengths[i];
        ids += lengths[i];
    }
    return p;
}

/* ---- Reference ------------------------------------------------------------------- */

static ccq_code check_router(const run *r, ccq_error *err)
{
    const ccq_reference *f = r->ref;
    const ccq_arch *a = &r->src->arch;
    int64_t at = 0, same = f->k == a->moe_k;

    if (!f->router_ids)
        return CCQ_OK;
    for (int64_t i = 0; i < a->layers; i++)
        if (a->layer_moe[i]) {
            same &= at < f->layers && f->router_layers[at] == i;
            at++;
        }
    if (!same || at != f->layers)
        return ccq_fail(err, CCQ_REFERENCE, "%s: router_layers are not those of the model",
                        r->o->reference);
    return CCQ_OK;
}

ccq_code run_check_reference(run *r, ccq_error *err)
{
    const ccq_reference *f = r->ref;
    int64_t context = r->src->arch.max_position;

    if (f->vocab != r->vocab)
        return ccq_fail(err, CCQ_REFERENCE, "%s: %lld logits a row, the model has %lld",
                        r->o->reference, (long long)f->vocab, (long long)r->vocab);
    for (size_t i = 0; i < f->id_count; i++)
        if (f->ids[i] < 0 || f->ids[i] >= r->vocab)
            return ccq_fail(err, CCQ_REFERENCE, "%s: ids[%zu] is %d, outside [0, %lld)",
                            r->o->reference, i, (int)f->ids[i], (long long)r->vocab);
    for (size_t i = 0; i < f->prompts; i++)
        if (f->lengths[i] > context ||
            (f->greedy_lengths && f->greedy_lengths[i] > context - f->lengths[i]))
            return ccq_fail(err, CCQ_REFERENCE, "%s: prompt %zu passes the context of %lld",
                            r->o->reference, i, (long long)context);
    r->valid_compare = r->o->valid ? r->o->valid : f->vocab_valid;
    return check_router(r, err);
}

ccq_code run_reference_block(void *ctx, const ccq_eval_block *b, ccq_error *err)
{
    const run_reference_job *j = ctx;
    const ccq_reference *f = j->r->ref;
    size_t layers = (size_t)f->layers, k = (size_t)f->k;

    (void)err;
    ccq_compare_rows(j->compare, b->first, b->rows, b->logits[0],
                     f->logits + b->first * (size_t)f->vocab, f->vocab, j->target + b->first);
    if (f->router_ids)
        ccq_compare_router(j->compare, b->routes[0].ids, f->router_ids + b->first * layers * k,
                           f->router_margin + b->first * layers, b->rows * layers, (int64_t)k);
    return CCQ_OK;
}

/* The next token of the prompt, or -1. */
static int32_t *reference_targets(const ccq_reference *f, const ccq_prompt *prompts)
{
    int32_t *target = calloc(f->rows + 1, sizeof *target);

    for (size_t i = 0; target && i < f->rows; i++) {
        const ccq_prompt *p = &prompts[f->row_seq[i]];
        target[i] = f->row_pos[i] + 1 < p->length ? p->ids[f->row_pos[i] + 1] : -1;
    }
    return target;
}

/* ---- Greedy continuation ------------------------------------------------------------ */

static int among_five(const float *logits, int64_t valid, int32_t id)
{
    int32_t best[5];
    double p[5];
    int n = ccq_top_logprobs(logits, valid, 5, best, p), found = 0;

    for (int i = 0; i < n; i++)
        found |= best[i] == id;
    return found;
}

/* The stored row of the prompt's last token, when there is one. */
static const float *last_row(const ccq_reference *f, size_t prompt)
{
    for (size_t i = 0; i < f->rows; i++)
        if ((size_t)f->row_seq[i] == prompt && f->row_pos[i] == f->lengths[prompt] - 1)
            return f->logits + i * (size_t)f->vocab;
    return NULL;
}

int run_on_greedy(void *ctx, size_t request, int64_t number, int32_t id, const float *logits)
{
    const run_greedy_job *j = ctx;
    const ccq_reference *f = j->r->ref;
    size_t prompt = j->prompt[request];
    run_greedy *g = &j->r->greedy[prompt];
    int32_t theirs = j->theirs[request][number];
    const float *row;

    if (g->same < (size_t)number || id == theirs) {
        g->same += g->same == (size_t)number;
        return 0;
    }
    row = number == 0 ? last_row(f, prompt) : NULL;
    g->ours = id;
    g->theirs = theirs;
    g->gap = f->greedy_gap[j->theirs[request] - f->greedy_ids + number];
    g->theirs_in_ours = among_five(logits, j->r->valid_compare, theirs);
    g->ours_in_theirs = row ? among_five(row, j->r->valid_compare, id) : -1;
    return 0;
}

size_t run_greedy_requests(const run *r, const ccq_prompt *prompts, ccq_request *q,
                           run_greedy_job *j, int32_t *out)
{
    const ccq_reference *f = r->ref;
    size_t count = 0, at = 0;

    for (size_t i = 0; i < f->prompts; i++) {
        int32_t n = f->greedy_lengths[i];
        r->greedy[i].length = (size_t)n;
        if (!n)
            continue;
        ccq_sampling_default(&q[count].sampling);
        q[count].sampling.temperature = 0;
        q[count].prompt = prompts[i];
        q[count].max_tokens = n;
        q[count].out = out + at;
        j->theirs[count] = f->greedy_ids + at;
        j->prompt[count++] = i;
        at += (size_t)n;
    }
    return count;
}

static ccq_code compare_greedy(run *r, const ccq_prompt *prompts, ccq_compare *c, ccq_error *err)
{
    const ccq_reference *f = r->ref;
    run_greedy_job j = {r, calloc(f->prompts, sizeof *j.theirs),
                        calloc(f->prompts, sizeof *j.prompt)};
    ccq_request *q = calloc(f->prompts, sizeof *q);
    int32_t *out = calloc(f->greedy_count, sizeof *out);
    ccq_generate_options o = {
        r->valid_compare, (size_t)r->o->batch, r->o->prefill_rows, {0}, run_on_greedy, &j};
    size_t count;
    ccq_code code;

    r->greedy = calloc(f->prompts, sizeof *r->greedy);
    if (!j.theirs || !j.prompt || !q || !out || !r->greedy) {
        code = no_memory(err);
    } else {
        run_hooks(r, &o.hooks);
        o.hooks.trace = NULL; /* its prompt rows are in the trace already */
        count = run_greedy_requests(r, prompts, q, &j, out);
        code = ccq_generate(r->model, q, count, &o, &r->timing, err);
        for (size_t i = 0; !code && i < count; i++)
            ccq_compare_greedy(c, q[i].out, j.theirs[i],
                               f->greedy_gap + (j.theirs[i] - f->greedy_ids),
                               (size_t)q[i].max_tokens);
    }
    free(j.theirs);
    free(j.prompt);
    free(q);
    free(out);
    return code;
}

ccq_code run_reference(run *r, ccq_error *err)
{
    const ccq_reference *f = r->ref;
    ccq_prompt *prompts = slice(f->ids, f->lengths, f->prompts);
    run_reference_job j = {.r = r};
    ccq_eval e = {.prompts = prompts,
                  .prompt_count = f->prompts,
                  .row_seq = f->row_seq,
                  .row_pos = f->row_pos,
                  .row_count = f->rows,
                  .no_routes = !f->router_ids,
                  .block = run_reference_block,
                  .ctx = &j};
    int32_t *target = prompts ? reference_targets(f, prompts) : NULL;
    ccq_code code = target ? CCQ_OK : no_memory(err);

    j.target = target;
    if (!code)
        code = ccq_compare_open(&j.compare, r->pool, f->rows, r->valid_compare, 1, err);
    run_hooks(r, &e.hooks);
    if (!code)
        code = run_open_models(r, &e, err);
    if (!code && r->layered && f->greedy_ids)
        code = run_forced(&j, prompts, err);
    else if (!code)
        code = run_evaluate(r, &e, err);
    if (!code && !r->layered && f->greedy_ids)
        code = compare_greedy(r, prompts, j.compare, err);
    if (!code)
        code = ccq_compare_stats(j.compare, &r->stats, err);
    r->has_stats = !code;
    ccq_compare_close(j.compare);
    free(target);
    free(prompts);
    return code;
}
