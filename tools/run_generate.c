/* Sequences from prompts, with stop strings and log probabilities. */
#include "tools/run.h"

#include <stdlib.h>
#include <string.h>

/* Where the first of the stop strings starts in s; NULL: nowhere. */
static char *find_stop(char *s, char *const *stop, size_t stops)
{
    char *first = NULL;

    for (size_t i = 0; i < stops; i++) {
        char *at = strstr(s, stop[i]);
        if (at && (!first || at < first))
            first = at;
    }
    return first;
}

static char *decode(const run *r, const run_sequence *s, int64_t count)
{
    const run_prompt *p = s->prompt;

    return text_continue(r->text, p->ids[p->count - 1], s->request.out, (size_t)count);
}

/* A match may span tokens, so the text is searched as a whole. */
static int at_stop(const run *r, run_sequence *s, int64_t count)
{
    char *words, *at;

    if (!s->prompt->stops)
        return 0;
    words = decode(r, s, count);
    at = words ? find_stop(words, s->prompt->stop, s->prompt->stops) : NULL;
    if (!at) {
        free(words);
        return 0;
    }
    *at = 0;
    s->text = words;
    s->cut = 1;
    return 1;
}

static int on_token(void *ctx, size_t request, int64_t number, int32_t id, const float *logits)
{
    run *r = ctx;
    run_sequence *s = &r->sequence[request];
    int n = (int)r->o->logprobs;
    int32_t two[2];
    double p[2];

    (void)id;
    if (n) {
        int got =
            ccq_top_logprobs(logits, r->valid, n, s->best + number * n, s->logprob + number * n);
        for (int i = got; i < n; i++)
            s->best[number * n + i] = -1;
    }
    if (s->gap) {
        int got = ccq_top_logprobs(logits, r->valid, 2, two, p);
        s->gap[number] = got == 2 ? logits[two[0]] - logits[two[1]] : 0;
    }
    return at_stop(r, s, number + 1);
}

static ccq_code prepare(run *r, int greedy, ccq_error *err)
{
    r->sequence = calloc(r->prompts.count, sizeof *r->sequence);
    if (!r->sequence)
        return ccq_fail(err, CCQ_NO_MEMORY, "sequences: out of memory");
    r->sequences = r->prompts.count;
    for (size_t i = 0; i < r->sequences; i++) {
        run_sequence *s = &r->sequence[i];
        const run_prompt *p = &r->prompts.at[i];
        size_t room = (size_t)p->max_tokens, best = room * (size_t)r->o->logprobs;
        ccq_request q = {{p->ids, (int64_t)p->count},
                         p->sampling,
                         p->max_tokens,
                         p->stop_ids,
                         p->stop_count,
                         calloc(room, sizeof *q.out),
                         0,
                         0};
        s->prompt = p;
        s->request = q;
        if (greedy)
            s->request.sampling.temperature = 0;
        s->best = best ? calloc(best, sizeof *s->best) : NULL;
        s->logprob = best ? calloc(best, sizeof *s->logprob) : NULL;
        s->gap = greedy ? calloc(room, sizeof *s->gap) : NULL;
        if (!q.out || (best && (!s->best || !s->logprob)) || (greedy && !s->gap))
            return ccq_fail(err, CCQ_NO_MEMORY, "%s: max_tokens %lld: out of memory", p->place,
                            (long long)p->max_tokens);
    }
    return CCQ_OK;
}

/* Text of what was not cut; an end id at the end has none. */
static void add_text(const run *r, run_sequence *s)
{
    const ccq_request *q = &s->request;
    int64_t n = q->count;

    if (s->cut || !r->text)
        return;
    for (size_t i = 0; n && i < q->stop_count; i++)
        if (q->stop_ids[i] == q->out[n - 1]) {
            n--;
            break;
        }
    s->text = decode(r, s, n);
}

ccq_code run_generate(run *r, int greedy, ccq_error *err)
{
    ccq_generate_options o = {r->valid, (size_t)r->o->batch, r->o->prefill_rows, {0}, on_token, r};
    ccq_request *q;
    ccq_code code = prepare(r, greedy, err);

    if (code)
        return code;
    q = calloc(r->sequences, sizeof *q);
    if (!q)
        return ccq_fail(err, CCQ_NO_MEMORY, "sequences: out of memory");
    run_hooks(r, &o.hooks);
    for (size_t i = 0; i < r->sequences; i++)
        q[i] = r->sequence[i].request;
    code = ccq_generate(r->model, q, r->sequences, &o, &r->timing, err);
    for (size_t i = 0; i < r->sequences; i++) {
        r->sequence[i].request = q[i];
        if (!code)
            add_text(r, &r->sequence[i]);
    }
    free(q);
    return code;
}
