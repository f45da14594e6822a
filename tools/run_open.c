/* Opening what a run needs, and saying what it will do. */
#include "tools/run.h"

#include "formats/file.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- Models ---------------------------------------------------------------------- */

static ccq_code open_source(const run *r, const char *dir, int main_model, ccq_source **src,
                            ccq_error *err)
{
    ccq_source_options o = {.order = -1, .tp_rank = -1};
    ccq_code code;

    if (main_model) {
        o.order = r->o->order;
        o.set = r->o->set.at;
        o.sets = r->o->set.count;
    }
    if ((code = ccq_source_open(src, dir, &o, err)))
        return code;
    for (size_t i = 0; i < (*src)->notes; i++)
        cli_note(r->cli, "%s: %s", dir, (*src)->note[i]);
    if ((*src)->arch.correction_bias && !(*src)->arch.aux_free)
        cli_note(r->cli, "%s: moe_use_aux_free is false: the correction bias is not used", dir);
    return CCQ_OK;
}

/* ---- Vocabulary and end ids ---------------------------------------------------------- */

static ccq_code choose_valid(run *r, ccq_error *err)
{
    int64_t pieces = text_pieces(r->text);

    r->vocab = r->src->arch.vocab;
    if (r->o->valid > r->vocab)
        return ccq_fail(err, CCQ_USAGE, "--valid-vocab %" PRId64 ": the vocabulary has %" PRId64,
                        r->o->valid, r->vocab);
    r->valid = r->o->valid ? r->o->valid : pieces ? pieces : r->vocab;
    if (r->valid > r->vocab) {
        cli_note(r->cli, "the tokenizer has %" PRId64 " pieces, the vocabulary only %" PRId64,
                 pieces, r->vocab);
        r->valid = r->vocab;
    }
    r->valid_compare = r->o->valid ? r->o->valid : r->vocab;
    return CCQ_OK;
}

/* An end id among the added tokens lies above the pieces of the tokenizer: what may be
 * drawn reaches up to it, or a sequence could never end there. */
static void add_end(run *r, int64_t id)
{
    if (id < 0 || id > INT32_MAX)
        return;
    r->end[r->ends++] = (int32_t)id;
    if (!r->o->valid && id >= r->valid && id < r->vocab && text_is_added(r->text, (int32_t)id))
        r->valid = id + 1;
}

static void choose_ends(run *r)
{
    r->valid_prompt = r->valid;
    if (r->o->ignore_eos)
        return;
    for (int i = 0; i < r->src->arch.eos_count; i++)
        add_end(r, r->src->arch.eos[i]);
    add_end(r, text_id(r->text, "<|end_of_sentence|>"));
}

/* ---- Prompts ----------------------------------------------------------------------------- */

static ccq_code add_source(prompt_list *p, char kind, const char *value, ccq_error *err)
{
    if (kind == 't')
        return prompts_add_text(p, value, err);
    return kind == 'i' ? prompts_add_ids(p, value, err) : prompts_add_file(p, value, err);
}

/* With --save-reference the prompts of a given reference are taken again. */
static ccq_code add_reference(run *r, ccq_error *err)
{
    char place[64];
    size_t at = 0;
    ccq_code code = CCQ_OK;

    for (size_t i = 0; !code && i < r->ref->prompts; i++) {
        snprintf(place, sizeof place, "reference, prompt %zu", i);
        code = prompts_add_array(&r->prompts, place, r->ref->ids + at, (size_t)r->ref->lengths[i],
                                 err);
        at += (size_t)r->ref->lengths[i];
    }
    return code;
}

static ccq_code open_prompts(run *r, ccq_error *err)
{
    prompt_list *p = &r->prompts;
    const run_options *o = r->o;
    ccq_code code;

    ccq_sampling_default(&p->sampling);
    p->sampling.temperature = (float)o->temperature;
    p->sampling.top_p = o->top_p;
    p->sampling.top_k = o->top_k;
    p->sampling.seed = (uint64_t)o->seed;
    p->max_tokens = o->max_tokens ? o->max_tokens : o->save_reference ? RUN_GREEDY_TOKENS : 128;
    p->stop = o->stop.at;
    p->stops = o->stop.count;
    p->chat = o->chat;
    p->text = r->text;
    p->dir = r->src->dir;
    p->bos = (int32_t)r->src->arch.bos;
    for (size_t i = 0; i < o->sources.count; i++)
        if ((code = add_source(p, o->sources.kind[i], o->sources.at[i], err)))
            return code;
    if (o->save_reference && r->ref && !p->count && (code = add_reference(r, err)))
        return code;
    if (o->sources.count && !p->count)
        return ccq_fail(err, CCQ_REFERENCE, "%s: no prompt in it", o->sources.at[0]);
    return prompts_check(p, r->valid_prompt, r->vocab, r->src->arch.max_position, r->end, r->ends,
                         err);
}

/* ---- Hooks ------------------------------------------------------------------------------ */

static void on_memory(void *ctx, uint64_t cache, uint64_t work)
{
    run *r = ctx;
    char a[16], b[16];

    r->cache_bytes = cache > r->cache_bytes ? cache : r->cache_bytes;
    r->work_bytes = work > r->work_bytes ? work : r->work_bytes;
    cli_note(r->cli, "KV cache %s, work space %s", cli_bytes(a, sizeof a, cache),
             cli_bytes(b, sizeof b, work));
}

static void on_progress(void *ctx, uint64_t done, uint64_t total)
{
    run *r = ctx;
    uint64_t percent = total ? 100 * done / total : 100;

    if (r->cli->verbose && r->layered && percent != r->percent)
        cli_note(r->cli, "layer by layer: %" PRIu64 " %%", percent);
    r->percent = percent;
    if (r->cli->verbose && !r->layered)
        cli_note(r->cli, "%" PRIu64 " of %" PRIu64 " tokens", done, total);
}

static void on_layers(void *ctx, const ccq_layers_plan *plan)
{
    run *r = ctx;
    char a[16], b[16], c[16];

    r->memory = plan->total;
    r->spilled = plan->spilled;
    r->percent = 0;
    cli_note(r->cli,
             "layer by layer: weights %s at a time, %" PRIu64 " rows in steps of %" PRId64
             ", memory %s",
             cli_bytes(a, sizeof a, plan->weights), plan->rows, plan->step_rows,
             cli_bytes(b, sizeof b, plan->total));
    if (plan->spilled)
        cli_note(r->cli, "layer by layer: %s of rows in temporary files in %s",
                 cli_bytes(c, sizeof c, plan->spilled), r->spill_dir);
}

void run_hooks(run *r, ccq_run_hooks *hooks)
{
    hooks->ctx = r;
    hooks->memory = on_memory;
    hooks->layers = on_layers;
    hooks->trace = r->trace.f ? run_trace_row : NULL;
    hooks->progress = on_progress;
}

/* ---- All of it ---------------------------------------------------------------------------------
 */

static ccq_code open_files(run *r, ccq_error *err)
{
    ccq_code code;

    if (r->o->gate && (code = ccq_gates_load(&r->gates, &r->gate_count, r->o->gate, err)))
        return code;
    if (r->o->reference && (code = ccq_reference_load(&r->ref, r->o->reference, err)))
        return code;
    for (size_t i = 0; r->ref && i < r->ref->unknowns; i++)
        cli_note(r->cli, "%s: member \"%s\" is ignored", r->o->reference, r->ref->unknown[i]);
    return CCQ_OK;
}

/* Options that change what figures mean; they are in the report too. */
static void note_settings(const run *r)
{
    char shown[200];

    if (r->o->rounding != CCQ_ROUND_FUSED)
        cli_note(r->cli, "--wint2-rounding %s: not the weights that are served",
                 r->o->rounding == CCQ_ROUND_NONE ? "none" : "unzip");
    if (r->o->blas)
        cli_note(r->cli, "--blas: the last bits depend on threads and batch");
    for (size_t i = 0; i < r->o->set.count; i++)
        cli_note(r->cli, "--set %s",
                 ccq_escape(shown, sizeof shown, r->o->set.at[i], strlen(r->o->set.at[i])));
}

/* Headers and small files only: what is wrong shows before weights are read. */
static ccq_code open_headers(run *r, ccq_error *err)
{
    ccq_code code = run_check_files(r, err);

    if (code || (code = open_source(r, r->o->model, 1, &r->src, err)) ||
        (code = open_files(r, err)) || (code = text_open(&r->text, r->src->dir, err)) ||
        (code = choose_valid(r, err)) || (r->ref && (code = run_check_reference(r, err))))
        return code;
    choose_ends(r);
    if ((code = open_prompts(r, err)))
        return code;
    if (r->o->baseline && (code = open_source(r, r->o->baseline, 0, &r->base_src, err)))
        return code;
    if ((r->o->baseline || r->o->perplexity) && (code = run_open_windows(r, err)))
        return code;
    if (r->o->bench && (code = run_check_bench(r, err)))
        return code;
    if (r->o->save_reference && (code = run_check_save(r, err)))
        return code;
    note_settings(r);
    if ((code = run_check_stop(err)))
        return code;
    if ((code = run_output_open(&r->trace, r->o->trace, "trace", err)))
        return code;
    return run_output_open(&r->junit, r->o->junit, "JUnit file", err);
}

ccq_code run_open(run *r, ccq_error *err)
{
    ccq_code code = open_headers(r, err);

    if (code)
        return code;
    r->pool = ccq_pool_new(r->cli->threads);
    if (!r->pool)
        return ccq_fail(err, CCQ_NO_MEMORY, "no thread could be started");
    /* comparisons alone open models when they know what they need */
    return r->prompts.count || r->o->bench ? run_open_resident(r, err) : CCQ_OK;
}

void run_close(run *r)
{
    for (size_t i = 0; i < r->sequences; i++) {
        run_sequence *s = &r->sequence[i];
        free(s->request.out);
        free(s->text);
        free(s->best);
        free(s->logprob);
        free(s->gap);
    }
    free(r->sequence);
    free(r->greedy);
    free(r->gates);
    run_output_abandon(&r->trace);
    run_output_abandon(&r->junit);
    prompts_free(&r->prompts);
    run_free_windows(&r->windows);
    ccq_reference_free(r->ref);
    text_close(r->text);
    ccq_model_close(r->base);
    ccq_model_close(r->model);
    ccq_gpu_close(r->gpu);
    ccq_source_close(r->base_src);
    ccq_source_close(r->src);
    ccq_pool_free(r->pool);
}
