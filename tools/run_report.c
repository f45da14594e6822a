/* What a run prints: one JSON line a sequence and tables, or one document. */
#include "tools/run.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const numerics_names[] = {"fastdeploy", "exact"};
static const char *const rounding_names[] = {"fused", "unzip", "none"};
static const char *const order_names[] = {"fastdeploy", "plain"};

/* ---- Sequences ------------------------------------------------------------------- */

static void write_best(ccq_jw *w, const run *r, const run_sequence *s)
{
    int64_t n = r->o->logprobs;

    ccq_jw_key(w, "logprobs");
    ccq_jw_array(w);
    for (int64_t t = 0; t < s->request.count; t++) {
        ccq_jw_array(w);
        for (int64_t i = 0; i < n && s->best[t * n + i] >= 0; i++) {
            ccq_jw_object(w);
            ccq_jw_ki64(w, "id", s->best[t * n + i]);
            ccq_jw_kdouble(w, "logprob", s->logprob[t * n + i]);
            ccq_jw_end(w);
        }
        ccq_jw_end(w);
    }
    ccq_jw_end(w);
}

static void write_sequence(ccq_jw *w, const run *r, size_t number)
{
    const run_sequence *s = &r->sequence[number];

    ccq_jw_object(w);
    ccq_jw_key(w, "id");
    if (s->prompt->id)
        ccq_jw_raw(w, s->prompt->id, strlen(s->prompt->id));
    else
        ccq_jw_u64(w, number);
    ccq_jw_ku64(w, "prompt_tokens", s->prompt->count);
    ccq_jw_key(w, "ids");
    ccq_jw_array(w);
    for (int64_t i = 0; i < s->request.count; i++)
        ccq_jw_i64(w, s->request.out[i]);
    ccq_jw_end(w);
    if (s->text) {
        ccq_jw_key(w, "text");
        ccq_jw_string_n(w, s->text, strlen(s->text));
    }
    ccq_jw_kstring(w, "finish_reason", s->request.finish == CCQ_FINISH_STOP ? "stop" : "length");
    if (r->o->logprobs)
        write_best(w, r, s);
    ccq_jw_end(w);
}

/* ---- The document ------------------------------------------------------------------ */

static void write_statistics(ccq_jw *w, const run *r)
{
    ccq_jw_key(w, "statistics");
    ccq_jw_object(w);
    for (int i = 0; i < CCQ_FIGURE_COUNT; i++) {
        if (!r->stats.has[i])
            continue;
        if (i == CCQ_FIG_rows || i == CCQ_FIG_target_rows)
            ccq_jw_ku64(w, ccq_figure_name((ccq_figure)i), (uint64_t)r->stats.value[i]);
        else
            ccq_jw_kdouble(w, ccq_figure_name((ccq_figure)i), r->stats.value[i]);
    }
    ccq_jw_ki64(w, "vocab_valid", r->valid_compare);
    ccq_jw_end(w);
}

static void write_greedy(ccq_jw *w, const run *r)
{
    ccq_jw_key(w, "greedy");
    ccq_jw_array(w);
    for (size_t i = 0; i < r->ref->prompts; i++) {
        const run_greedy *g = &r->greedy[i];
        ccq_jw_object(w);
        ccq_jw_ku64(w, "length", g->length);
        ccq_jw_ku64(w, "same", g->same);
        if (g->same < g->length) {
            ccq_jw_ki64(w, "ours", g->ours);
            ccq_jw_ki64(w, "theirs", g->theirs);
            ccq_jw_kdouble(w, "gap", (double)g->gap);
            ccq_jw_kbool(w, "theirs_in_our_top5", g->theirs_in_ours);
            if (g->ours_in_theirs >= 0)
                ccq_jw_kbool(w, "ours_in_their_top5", g->ours_in_theirs);
        }
        ccq_jw_end(w);
    }
    ccq_jw_end(w);
}

static void write_gates(ccq_jw *w, const run *r)
{
    ccq_jw_key(w, "gates");
    ccq_jw_array(w);
    for (size_t i = 0; i < r->gate_count; i++) {
        const ccq_gate *g = &r->gates[i];
        ccq_jw_object(w);
        ccq_jw_kstring(w, "name", ccq_figure_name(g->figure));
        ccq_jw_kstring(w, "kind", g->min ? "min" : "max");
        ccq_jw_kdouble(w, "limit", g->limit);
        ccq_jw_kdouble(w, "value", g->value);
        ccq_jw_kbool(w, "ok", g->ok);
        ccq_jw_end(w);
    }
    ccq_jw_end(w);
}

/* NAN, which is left out, where nothing ran. */
static double rate(uint64_t rows, double seconds)
{
    return rows && seconds > 0 ? (double)rows / seconds : NAN;
}

static void write_timing(ccq_jw *w, const run *r)
{
    const ccq_timing *t = &r->timing;

    ccq_jw_key(w, "timing");
    ccq_jw_object(w);
    ccq_jw_kdouble(w, "load_s", r->load_s);
    ccq_jw_ku64(w, "prefill_tokens", t->prefill_rows);
    ccq_jw_kdouble(w, "prefill_s", t->prefill_s);
    ccq_jw_kdouble(w, "prefill_tokens_per_s", rate(t->prefill_rows, t->prefill_s));
    ccq_jw_ku64(w, "decode_tokens", t->decode_rows);
    ccq_jw_kdouble(w, "decode_s", t->decode_s);
    ccq_jw_kdouble(w, "decode_tokens_per_s", rate(t->decode_rows, t->decode_s));
    ccq_jw_end(w);
}

static void write_settings(ccq_jw *w, const run *r)
{
    const ccq_arch *a = &r->src->arch;

    ccq_jw_kstring(w, "device", r->device);
    ccq_jw_kstring(w, "isa", ccq_model_settings(r->model)->ops.name);
    ccq_jw_ki64(w, "threads", ccq_pool_threads(r->pool));
    ccq_jw_kstring(w, "numerics", numerics_names[r->o->numerics]);
    ccq_jw_kstring(w, "wint2_rounding", rounding_names[r->o->rounding]);
    ccq_jw_kbool(w, "bit_true", r->o->rounding != CCQ_ROUND_NONE);
    ccq_jw_kstring(w, "k_order", order_names[a->order]);
    ccq_jw_kbool(w, "k_order_recorded", a->order_recorded);
    ccq_jw_kbool(w, "blas", r->o->blas);
    ccq_jw_kbool(w, "fp32_logits", r->o->fp32_logits || r->o->numerics == CCQ_EXACT);
    ccq_jw_ki64(w, "valid_vocab", r->valid);
    ccq_jw_ku64(w, "weight_bytes", ccq_model_bytes(r->model));
    ccq_jw_ku64(w, "cache_bytes", r->cache_bytes);
    ccq_jw_ku64(w, "work_bytes", r->work_bytes);
    ccq_jw_kbool(w, "layered", r->layered);
    if (r->layered) {
        ccq_jw_ku64(w, "memory_bytes", r->memory);
        ccq_jw_ku64(w, "spilled_bytes", r->spilled);
    }
    ccq_jw_key(w, "set");
    ccq_jw_array(w);
    for (size_t i = 0; i < r->o->set.count; i++)
        ccq_jw_string(w, r->o->set.at[i]);
    ccq_jw_end(w);
}

static int print_document(run *r)
{
    ccq_jw w;
    char *s;

    ccq_jw_init(&w, 2);
    ccq_jw_object(&w);
    ccq_jw_kstring(&w, "schema", "ccq.run/1");
    ccq_jw_kstring(&w, "model", r->o->model);
    if (r->o->baseline)
        ccq_jw_kstring(&w, "baseline", r->o->baseline);
    write_settings(&w, r);
    ccq_jw_key(&w, "sequences");
    ccq_jw_array(&w);
    for (size_t i = 0; i < r->sequences; i++)
        write_sequence(&w, r, i);
    ccq_jw_end(&w);
    if (r->has_stats)
        write_statistics(&w, r);
    if (r->greedy)
        write_greedy(&w, r);
    if (r->gates)
        write_gates(&w, r);
    write_timing(&w, r);
    if (r->o->bench)
        run_write_bench(&w, r);
    ccq_jw_end(&w);
    s = ccq_jw_take(&w, NULL);
    if (!s) {
        cli_error(r->cli, "the report: out of memory");
        return CLI_UNAVAILABLE;
    }
    fputs(s, stdout);
    free(s);
    return CLI_OK;
}

/* ---- Text ---------------------------------------------------------------------------- */

static int print_sequences(const run *r)
{
    for (size_t i = 0; i < r->sequences; i++) {
        ccq_jw w;
        char *s;
        ccq_jw_init(&w, 0);
        write_sequence(&w, r, i);
        s = ccq_jw_take(&w, NULL);
        if (!s) {
            cli_error(r->cli, "the report: out of memory");
            return CLI_UNAVAILABLE;
        }
        puts(s);
        free(s);
    }
    return CLI_OK;
}

void run_gate_numbers(const ccq_gate *g, char value[32], char limit[32])
{
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(value, 32, "%.*g", digits, g->value);
        snprintf(limit, 32, "%.*g", digits, g->limit);
        if (strcmp(value, limit))
            return;
    }
}

static void print_gates(const run *r)
{
    char value[32], limit[32];

    if (!r->gate_count)
        return;
    printf("====== Gates ======\n");
    for (size_t i = 0; i < r->gate_count; i++) {
        const ccq_gate *g = &r->gates[i];
        run_gate_numbers(g, value, limit);
        printf("%-24s %s %s %s  %s\n", ccq_figure_name(g->figure), value, g->min ? ">=" : "<=",
               limit, g->ok ? "ok" : "MISSED");
    }
}

static void note_timing(const run *r)
{
    const ccq_timing *t = &r->timing;

    if (t->prefill_rows && t->prefill_s > 0)
        cli_note(r->cli, "prefill %.0f tokens/s", rate(t->prefill_rows, t->prefill_s));
    if (t->decode_rows && t->decode_s > 0)
        cli_note(r->cli, "decode %.0f tokens/s", rate(t->decode_rows, t->decode_s));
}

int run_report(run *r)
{
    char value[32], limit[32];
    int status;

    if (r->cli->json) {
        status = print_document(r);
    } else {
        status = print_sequences(r);
        if (r->has_stats)
            run_print_statistics(r);
        print_gates(r);
        if (r->o->bench)
            run_print_bench(r);
    }
    note_timing(r);
    for (size_t i = 0; i < r->gate_count; i++) {
        const ccq_gate *g = &r->gates[i];
        if (g->ok)
            continue;
        run_gate_numbers(g, value, limit);
        cli_error(r->cli, "gate missed: %s is %s, %s %s wanted", ccq_figure_name(g->figure), value,
                  g->min ? "at least" : "at most", limit);
    }
    if (status)
        return status;
    return r->missed ? CLI_FAILED : CLI_OK;
}
