/* Windows of tokens through one model or two: --perplexity, --baseline. */
#include "tools/run.h"
#include "tools/tokens.h"

#include <stdlib.h>
#include <string.h>

/* What a block of logits is compared with. */
typedef struct job {
    run *r;
    ccq_compare *compare;
    const int32_t *target; /* [rows] */
} job;

static ccq_code no_memory(ccq_error *err)
{
    return ccq_fail(err, CCQ_NO_MEMORY, "comparison: out of memory");
}

void run_free_windows(run_window_list *w)
{
    free(w->ids);
    free(w->prompts);
    free(w->seq);
    free(w->pos);
    free(w->target);
}

static ccq_code window_length(const run *r, const char *path, run_window_list *w, ccq_error *err)
{
    int64_t context = r->src->arch.max_position;
    char shown[512];

    if (r->base_src && r->base_src->arch.max_position < context)
        context = r->base_src->arch.max_position;
    if (r->o->window > context)
        return ccq_fail(err, CCQ_USAGE, "--window %lld: the context is %lld",
                        (long long)r->o->window, (long long)context);
    w->length = r->o->window ? r->o->window : context < 2048 ? context : 2048;
    if (!w->count)
        return ccq_fail(err, CCQ_REFERENCE, "%s: no token in it",
                        ccq_escape(shown, sizeof shown, path, strlen(path)));
    w->number = w->count / (size_t)w->length;
    if (!w->number)
        return ccq_fail(err, CCQ_USAGE, "%s: %zu tokens do not fill a window of %lld (--window)",
                        path, w->count, (long long)w->length);
    if (w->number > INT32_MAX || w->length < 2)
        return ccq_fail(err, CCQ_USAGE, "--window %lld: too short", (long long)w->length);
    return CCQ_OK;
}

/* A window of N tokens gives N - 1 rows: every position with a next token inside. */
static ccq_code cut_windows(run_window_list *w, ccq_error *err)
{
    size_t n = (size_t)w->length, at = 0;

    w->rows = w->number * (n - 1);
    w->prompts = calloc(w->number, sizeof *w->prompts);
    w->seq = calloc(w->rows, sizeof *w->seq);
    w->pos = calloc(w->rows, sizeof *w->pos);
    w->target = calloc(w->rows, sizeof *w->target);
    if (!w->prompts || !w->seq || !w->pos || !w->target)
        return no_memory(err);
    for (size_t i = 0; i < w->number; i++) {
        w->prompts[i].ids = w->ids + i * n;
        w->prompts[i].length = w->length;
        for (size_t p = 0; p + 1 < n; p++, at++) {
            w->seq[at] = (int32_t)i;
            w->pos[at] = (int32_t)p;
            w->target[at] = w->ids[i * n + p + 1];
        }
    }
    return CCQ_OK;
}

static ccq_code window_block(void *ctx, const ccq_eval_block *b, ccq_error *err)
{
    const job *j = ctx;
    const ccq_routes *ours = &b->routes[0], *base = &b->routes[1];

    (void)err;
    ccq_compare_rows(j->compare, b->first, b->rows, b->logits[0], b->logits[1], j->r->vocab,
                     j->target + b->first);
    if (base->rows && ours->layers == base->layers && ours->k == base->k)
        ccq_compare_router(j->compare, ours->ids, base->ids, base->margin,
                           b->rows * (size_t)base->layers, base->k);
    return CCQ_OK;
}

ccq_code run_open_windows(run *r, ccq_error *err)
{
    const char *path = r->o->baseline ? r->o->tokens : r->o->perplexity;
    run_window_list *w = &r->windows;
    ccq_code code;

    if (r->base_src && r->base_src->arch.vocab != r->vocab)
        return ccq_fail(err, CCQ_USAGE, "vocabularies differ: %lld and %lld", (long long)r->vocab,
                        (long long)r->base_src->arch.vocab);
    code = tokens_load(r->text, r->src->dir, path, r->vocab, &w->ids, &w->count, err);
    if (code || (code = window_length(r, path, w, err)))
        return code;
    return cut_windows(w, err);
}

ccq_code run_windows(run *r, ccq_error *err)
{
    const run_window_list *w = &r->windows;
    job j = {.r = r, .target = w->target};
    ccq_eval e = {.prompts = w->prompts,
                  .prompt_count = w->number,
                  .row_seq = w->seq,
                  .row_pos = w->pos,
                  .row_count = w->rows,
                  .no_routes = !r->base_src,
                  .block = window_block,
                  .ctx = &j};
    ccq_code code =
        ccq_compare_open(&j.compare, r->pool, w->rows, r->valid_compare, r->base_src != NULL, err);

    run_hooks(r, &e.hooks);
    if (!code)
        code = run_evaluate(r, &e, err);
    if (!code)
        code = ccq_compare_stats(j.compare, &r->stats, err);
    r->has_stats = !code;
    ccq_compare_close(j.compare);
    return code;
}
