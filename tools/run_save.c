/* --save-reference: logits of every prompt row, router choices, and the greedy
 * continuation that run_generate has made. */
#include "tools/run.h"

#include "formats/config.h"
#include "formats/npz.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

static ccq_code no_memory(ccq_error *err)
{
    return ccq_fail(err, CCQ_NO_MEMORY, "reference: out of memory");
}

static int by_id(const void *pa, const void *pb)
{
    const int32_t *a = pa, *b = pb;

    return (*a > *b) - (*a < *b);
}

/* Stores one block of rows; experts of a choice ascending. */
static ccq_code save_block(void *ctx, const ccq_eval_block *b, ccq_error *err)
{
    ccq_reference *f = ctx;
    size_t vocab = (size_t)f->vocab, layers = (size_t)f->layers, k = (size_t)f->k;
    size_t sets = b->rows * layers;
    int32_t *ids;

    (void)err;
    memcpy(f->logits + b->first * vocab, b->logits[0], b->rows * vocab * sizeof *f->logits);
    if (!layers)
        return CCQ_OK;
    ids = f->router_ids + b->first * layers * k;
    memcpy(ids, b->routes[0].ids, sets * k * sizeof *ids);
    memcpy(f->router_margin + b->first * layers, b->routes[0].margin,
           sets * sizeof *f->router_margin);
    for (size_t i = 0; i < sets; i++)
        qsort(ids + i * k, k, sizeof *ids, by_id);
    return CCQ_OK;
}

/* The settings that logits depend on, where they are not the default ones. */
static char *generator(const run *r)
{
    static const char *const rounding[] = {"fused", "unzip", "none"};
    const run_options *o = r->o;
    char *line = NULL;
    size_t size;
    FILE *f = open_memstream(&line, &size);
    int bad;

    if (!f)
        return NULL;
    fprintf(f, "ccq-run --numerics %s", o->numerics == CCQ_EXACT ? "exact" : "fastdeploy");
    if (o->rounding != CCQ_ROUND_FUSED)
        fprintf(f, " --wint2-rounding %s", rounding[o->rounding]);
    if (o->blas)
        fputs(" --blas", f);
    if (o->fp32_logits)
        fputs(" --fp32-logits", f);
    if (o->order >= 0)
        fprintf(f, " --k-order %s", o->order == CCQ_ORDER_PLAIN ? "plain" : "fastdeploy");
    for (size_t i = 0; i < o->set.count; i++)
        fprintf(f, " --set %s", o->set.at[i]);
    fprintf(f, " --save-reference, %zu prompts", r->prompts.count);
    bad = ferror(f);
    if (fclose(f) || bad) {
        free(line);
        return NULL;
    }
    return line;
}

static int fill_meta(const run *r, ccq_reference *f)
{
    size_t size;
    const char *config = ccq_config_text(r->src->config, &size);

    f->producer = strdup("ccq-run " CCQ_VERSION);
    f->numerics = strdup(r->o->numerics == CCQ_EXACT ? "exact" : "fastdeploy");
    f->weights = strdup(r->src->arch.quantized ? "dequantized" : "bf16");
    f->generator = generator(r);
    f->config_crc32 = (uint32_t)crc32(0, (const unsigned char *)config, (unsigned)size);
    f->vocab_valid = r->valid;
    return f->producer && f->numerics && f->weights && f->generator;
}

static size_t total_tokens(const run *r)
{
    size_t n = 0;

    for (size_t i = 0; i < r->prompts.count; i++)
        n += r->prompts.at[i].count;
    return n;
}

static int allocate(const run *r, ccq_reference *f)
{
    size_t rows = total_tokens(r), layers = (size_t)ccq_model_moe_layers(r->model);
    size_t k = (size_t)r->src->arch.moe_k;

    f->prompts = r->prompts.count;
    f->rows = f->id_count = rows;
    f->vocab = r->vocab;
    f->lengths = calloc(f->prompts, sizeof *f->lengths);
    f->ids = calloc(rows, sizeof *f->ids);
    f->row_seq = calloc(rows, sizeof *f->row_seq);
    f->row_pos = calloc(rows, sizeof *f->row_pos);
    f->logits = calloc(rows * (size_t)f->vocab, sizeof *f->logits);
    if (!f->lengths || !f->ids || !f->row_seq || !f->row_pos || !f->logits)
        return 0;
    if (!layers)
        return 1;
    f->layers = (int64_t)layers;
    f->k = (int64_t)k;
    f->router_layers = calloc(layers, sizeof *f->router_layers);
    f->router_ids = calloc(rows * layers * k, sizeof *f->router_ids);
    f->router_margin = calloc(rows * layers, sizeof *f->router_margin);
    for (size_t i = 0; f->router_layers && i < layers; i++)
        f->router_layers[i] = ccq_model_moe_layer(r->model, (int64_t)i);
    return f->router_layers && f->router_ids && f->router_margin;
}

static int fill_greedy(const run *r, ccq_reference *f)
{
    size_t at = 0;

    for (size_t i = 0; i < r->sequences; i++)
        f->greedy_count += (size_t)r->sequence[i].request.count;
    f->greedy_lengths = calloc(f->prompts, sizeof *f->greedy_lengths);
    f->greedy_ids = calloc(f->greedy_count, sizeof *f->greedy_ids);
    f->greedy_gap = calloc(f->greedy_count, sizeof *f->greedy_gap);
    if (!f->greedy_lengths || !f->greedy_ids || !f->greedy_gap)
        return 0;
    for (size_t i = 0; i < r->sequences; i++) {
        const run_sequence *s = &r->sequence[i];
        size_t n = (size_t)s->request.count;
        f->greedy_lengths[i] = (int32_t)n;
        memcpy(f->greedy_ids + at, s->request.out, n * sizeof *f->greedy_ids);
        memcpy(f->greedy_gap + at, s->gap, n * sizeof *f->greedy_gap);
        at += n;
    }
    return 1;
}

static ccq_code evaluate_all(run *r, ccq_reference *f, ccq_prompt *prompts, ccq_error *err)
{
    ccq_eval e = {.model = {r->model, NULL},
                  .prompts = prompts,
                  .prompt_count = f->prompts,
                  .row_seq = f->row_seq,
                  .row_pos = f->row_pos,
                  .row_count = f->rows,
                  .prefill_rows = r->o->prefill_rows,
                  .block = save_block,
                  .ctx = f};
    size_t at = 0;

    for (size_t i = 0; i < f->prompts; i++) {
        const run_prompt *p = &r->prompts.at[i];
        prompts[i].ids = f->ids + at;
        prompts[i].length = (int64_t)p->count;
        f->lengths[i] = (int32_t)p->count;
        for (size_t j = 0; j < p->count; j++, at++) {
            f->ids[at] = p->ids[j];
            f->row_seq[at] = (int32_t)i;
            f->row_pos[at] = (int32_t)j;
        }
    }
    run_hooks(r, &e.hooks);
    e.hooks.trace = NULL; /* generation has traced these rows */
    return ccq_evaluate(&e, NULL, err);
}

ccq_code run_check_save(run *r, ccq_error *err)
{
    ccq_npz_writer *w = NULL;
    ccq_code code = ccq_npz_create(&w, r->o->save_reference, err);

    ccq_npz_abandon(code ? NULL : w);
    return code;
}

ccq_code run_save(run *r, ccq_error *err)
{
    ccq_reference *f = calloc(1, sizeof *f);
    ccq_prompt *prompts = calloc(r->prompts.count, sizeof *prompts);
    ccq_code code;

    if (!f || !prompts || !fill_meta(r, f) || !allocate(r, f) || !fill_greedy(r, f))
        code = no_memory(err);
    else
        code = evaluate_all(r, f, prompts, err);
    if (!code)
        code = run_check_stop(err);
    if (!code)
        code = ccq_reference_save(f, r->o->save_reference, err);
    ccq_reference_free(f);
    free(prompts);
    return code;
}
