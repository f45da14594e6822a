/* Opening what a run needs, and saying what it will do. */
#include "tools/run.h"

#include "formats/file.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

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

static ccq_code open_model(run *r, const ccq_source *src, ccq_model **model, ccq_error *err)
{
    ccq_model_options o = {.numerics = r->o->numerics,
                           .rounding = r->o->rounding,
                           .fp32_logits = r->o->fp32_logits,
                           .blas = r->o->blas,
                           .pool = r->pool};
    char size[16];
    double t = now();
    ccq_code code;

    ccq_ops_init(&o.ops, r->cli->isa);
    if ((code = ccq_model_open(model, src, &o, err)))
        return code;
    r->load_s += now() - t;
    if (ccq_model_large_bias(*model) >= 0)
        cli_note(r->cli,
                 "%s: layer %" PRId64
                 ": a correction bias of 1 or more; FastDeploy's selection may "
                 "differ there",
                 src->dir, ccq_model_large_bias(*model));
    cli_note(r->cli, "%s: weights %s in %.2f s", src->dir,
             cli_bytes(size, sizeof size, ccq_model_bytes(*model)), now() - t);
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

static void choose_ends(run *r)
{
    int32_t id = text_id(r->text, "<|end_of_sentence|>");

    if (r->o->ignore_eos)
        return;
    for (int i = 0; i < r->src->arch.eos_count; i++)
        r->end[r->ends++] = (int32_t)r->src->arch.eos[i];
    if (id >= 0)
        r->end[r->ends++] = id;
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
    return prompts_check(p, r->valid, r->src->arch.max_position, r->end, r->ends, err);
}

/* ---- Trace and other hooks ------------------------------------------------------------------ */

static void on_memory(void *ctx, uint64_t cache, uint64_t work)
{
    run *r = ctx;
    char a[16], b[16];

    r->cache_bytes = cache > r->cache_bytes ? cache : r->cache_bytes;
    r->work_bytes = work > r->work_bytes ? work : r->work_bytes;
    cli_note(r->cli, "KV cache %s, work space %s", cli_bytes(a, sizeof a, cache),
             cli_bytes(b, sizeof b, work));
}

/* One line a (token, MoE layer). */
static void on_trace(void *ctx, size_t sequence, int64_t position, int32_t id,
                     const ccq_routes *one)
{
    run *r = ctx;

    for (int64_t i = 0; i < one->layers; i++) {
        fprintf(r->trace,
                "{\"sequence\":%zu,\"position\":%" PRId64 ",\"id\":%d,\"layer\":%d,\"experts\":[",
                sequence, position, (int)id, (int)ccq_model_moe_layer(r->model, i));
        for (int64_t k = 0; k < one->k; k++)
            fprintf(r->trace, "%s%d", k ? "," : "", (int)one->ids[i * one->k + k]);
        fputs("],\"weights\":[", r->trace);
        for (int64_t k = 0; k < one->k; k++)
            fprintf(r->trace, "%s%.9g", k ? "," : "", (double)one->weights[i * one->k + k]);
        fputc(']', r->trace);
        if (one->margin[i] <= 3e38f)
            fprintf(r->trace, ",\"margin\":%.9g", (double)one->margin[i]);
        fputs("}\n", r->trace);
    }
}

static void on_progress(void *ctx, uint64_t done, uint64_t total)
{
    run *r = ctx;

    if (r->cli->verbose)
        cli_note(r->cli, "%" PRIu64 " of %" PRIu64 " tokens", done, total);
}

void run_hooks(run *r, ccq_run_hooks *hooks)
{
    hooks->ctx = r;
    hooks->memory = on_memory;
    hooks->trace = r->trace ? on_trace : NULL;
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

static ccq_code open_trace(run *r, ccq_error *err)
{
    if (!r->o->trace)
        return CCQ_OK;
    r->trace = fopen(r->o->trace, "w");
    if (!r->trace)
        return ccq_fail(err, CCQ_CREATE, "%s: %s", r->o->trace, strerror(errno));
    return CCQ_OK;
}

/* Headers and small files only: what is wrong shows before weights are read. */
static ccq_code open_headers(run *r, ccq_error *err)
{
    ccq_code code = open_source(r, r->o->model, 1, &r->src, err);

    if (code || (code = open_files(r, err)) || (code = text_open(&r->text, r->src->dir, err)) ||
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
    return open_trace(r, err);
}

ccq_code run_open(run *r, ccq_error *err)
{
    ccq_code code = open_headers(r, err);

    if (code)
        return code;
    r->pool = ccq_pool_new(r->cli->threads);
    if (!r->pool)
        return ccq_fail(err, CCQ_NO_MEMORY, "no thread could be started");
    if ((code = open_model(r, r->src, &r->model, err)))
        return code;
    return r->base_src ? open_model(r, r->base_src, &r->base, err) : CCQ_OK;
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
    if (r->trace)
        fclose(r->trace);
    prompts_free(&r->prompts);
    run_free_windows(&r->windows);
    ccq_reference_free(r->ref);
    text_close(r->text);
    ccq_model_close(r->base);
    ccq_model_close(r->model);
    ccq_source_close(r->base_src);
    ccq_source_close(r->src);
    ccq_pool_free(r->pool);
}
