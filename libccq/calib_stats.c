/* One-shot statistics: gathered from the source's stream alone, and used without one. */
#include "libccq/calib_internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- Gathering ---------------------------------------------------------------------- */

static ccq_code keep_up(ccq_calib *c, int64_t e, const ccq_calib_tokens *t, const double *layer,
                        double *h, ccq_error *err)
{
    int64_t k = c->model->arch->hidden;
    ccq_code code = ccq_calib_up_sums(c, t, CCQ_SOURCE_STREAM, h, NULL, err);
    if (code)
        return code;
    ccq_calib_shrink(h, layer, k * k, t->count);
    return ccq_stats_put(c->out, c->number, e, 0, h, err);
}

static ccq_code keep_expert(ccq_calib *c, int64_t e, const double *layer, double *h,
                            ccq_error *err)
{
    int64_t at = c->start[e];
    ccq_calib_tokens t = {c->token + at, c->r + at, c->start[e + 1] - at};
    ccq_code code = CCQ_OK;
    ccq_stats_tokens(c->out, c->number, e, t.count);
    if (t.count < CCQ_CALIB_TOKENS)
        return CCQ_OK;
    if (!c->o->shared)
        code = keep_up(c, e, &t, layer, h, err);
    if (!code)
        code = ccq_calib_hidden_sums(c, &t, &c->layer[CCQ_SOURCE_STREAM].expert[2 * e], h, err);
    return code ? code : ccq_stats_put(c->out, c->number, e, 1, h, err);
}

ccq_code ccq_calib_keep(ccq_calib *c, ccq_error *err)
{
    const ccq_arch *a = c->model->arch;
    int64_t k = a->hidden > a->moe_inter ? a->hidden : a->moe_inter;
    ccq_calib_tokens all = {NULL, NULL, c->tokens};
    double *layer = malloc((size_t)(a->hidden * a->hidden) * sizeof *layer);
    double *h = malloc((size_t)(k * k) * sizeof *h);
    ccq_code code = layer && h ? ccq_calib_route(c, CCQ_SOURCE_STREAM, err)
                               : ccq_fail(err, CCQ_NO_MEMORY, "statistics: out of memory");
    if (!code)
        code = ccq_calib_up_sums(c, &all, CCQ_SOURCE_STREAM, layer, NULL, err);
    if (!code && c->o->shared)
        code = ccq_stats_put(c->out, c->number, -1, 0, layer, err);
    for (int64_t e = 0; e < a->experts && !code; e++)
        code = keep_expert(c, e, layer, h, err);
    free(layer);
    free(h);
    return code;
}

static ccq_code gather_layer(ccq_calib *c, ccq_error *err)
{
    ccq_layer *l = &c->layer[CCQ_SOURCE_STREAM];
    ccq_code code = ccq_layer_load(c->model, c->number, l, err);
    if (code)
        return code;
    code = ccq_calib_attend(c, CCQ_SOURCE_STREAM, err);
    if (!code && l->moe)
        code = ccq_calib_keep(c, err);
    if (!code && c->number + 1 < c->model->arch->layers)
        code = ccq_calib_mlp(c, CCQ_SOURCE_STREAM, err);
    ccq_layer_free(c->model, l);
    return code;
}

ccq_code ccq_stats_gather(const ccq_source *src, const ccq_quantize_options *options,
                          const ccq_quantize_run_options *run, ccq_error *err)
{
    ccq_error local;
    ccq_plan plan = {.src = src, .options = *options, .ranks = 1};
    ccq_engine engine = {.plan = &plan, .run = run, .workers = ccq_pool_threads(run->pool)};
    ccq_calib c = {.engine = &engine, .o = &plan.options.calibration};
    err = err ? err : &local;
    ccq_code code = ccq_policy_resolve(&plan.options, src, err);
    if (!code && plan.options.transform)
        code = ccq_fail(err, CCQ_USAGE, "statistics are those of the model without a transform");
    if (!code)
        code = ccq_calib_open(&c, 1, err);
    if (!code)
        code = ccq_stats_create(&c.out, c.o->save_stats, c.model->arch, c.o, err);
    for (c.number = 0; !code && c.number < c.model->arch->layers; c.number++) {
        if (run->progress) {
            ccq_progress p = {.tensors = (size_t)c.number};
            run->progress(run->ctx, &p);
        }
        code = gather_layer(&c, err);
    }
    if (!code) {
        code = ccq_stats_finish(c.out, err);
        c.out = NULL;
    }
    ccq_calib_close(&c);
    return code;
}

/* ---- Using ----------------------------------------------------------------------------- */

/* The metric of an action; of up_gate all experts of a layer may share one. */
static ccq_code stats_metric(ccq_calib *c, const ccq_stats_in *in, const ccq_action *a,
                             ccq_calib_metric *mine, const ccq_calib_metric **metric,
                             ccq_error *err)
{
    const ccq_entry *e = a->entry;
    int down = e->role == CCQ_ROLE_DOWN, shared = c->o->shared && !down;
    ccq_calib_metric *m = shared ? &c->shared : mine;
    *metric = m;
    if (shared && m->metric && m->type == a->to && c->number == e->layer)
        return CCQ_OK;
    c->number = e->layer;
    ccq_calib_metric_free(m);
    double *h = malloc((size_t)a->k * (size_t)a->k * sizeof *h);
    ccq_code code = h ? ccq_stats_get(in, e->layer, e->expert, down, h, err)
                      : ccq_fail(err, CCQ_NO_MEMORY, "%s: out of memory", e->name);
    if (!code) {
        ccq_damp(h, a->k, ccq_calib_damping(c, down));
        code = ccq_calib_metric_make(m, c->engine, &c->solver, a->to, h, a->k, e->name, err);
    }
    free(h);
    return code;
}

static ccq_code stats_encode(ccq_calib *c, const ccq_action *a, const ccq_calib_metric *m,
                             const ccq_linear *from, ccq_linear *to, ccq_error *err)
{
    size_t count = (size_t)a->k * (size_t)a->n;
    ccq_outcome outcome = {0};
    ccq_planes planes = {0};
    float *w = malloc(count * sizeof *w);
    ccq_code code = w ? ccq_calib_planes(a, &planes, err)
                      : ccq_fail(err, CCQ_NO_MEMORY, "%s: out of memory", a->entry->name);
    if (!code) {
        c->engine->run->ops->widen(from->w.data, (int64_t)count, w);
        code = ccq_calib_encode(c->engine, a, m, w, w, &planes, &outcome, err);
    }
    if (!code)
        code = ccq_calib_write(c, a, from, &planes, &outcome, to, err);
    free(planes.memory);
    free(w);
    return code;
}

/* Too few tokens, or statistics that have no factor: without. */
static ccq_code stats_linear(ccq_calib *c, const ccq_stats_in *in, const ccq_action *a,
                             const ccq_linear *from, ccq_linear *to, ccq_error *err)
{
    const ccq_entry *e = a->entry;
    ccq_calib_metric mine = {0};
    const ccq_calib_metric *m = NULL;
    ccq_error why;
    ccq_code code = CCQ_NONFINITE;
    if (ccq_stats_seen(in, e->layer, e->expert) >= CCQ_CALIB_TOKENS) {
        code = stats_metric(c, in, a, &mine, &m, &why);
        if (code && code != CCQ_NONFINITE)
            *err = why;
    }
    if (!code)
        code = stats_encode(c, a, m, from, to, err);
    else if (code == CCQ_NONFINITE)
        code = ccq_text_add(&c->result->without_statistics, "%s", e->name)
                   ? ccq_fail(err, CCQ_NO_MEMORY, "out of memory")
                   : ccq_calib_linear(c, a, from, to, err);
    ccq_calib_metric_free(&mine);
    return code;
}

static int with_statistics(const ccq_action *a)
{
    return a->entry->block == CCQ_BLOCK_EXPERT && !a->entry->bias &&
           ccq_calib_has_feedback(a->to);
}

static ccq_code stats_action(ccq_calib *c, const ccq_stats_in *in, const ccq_action *a,
                             ccq_error *err)
{
    ccq_linear from = {.memory = NULL}, to = {.memory = NULL};
    uint16_t *w = NULL;
    ccq_code code = ccq_calib_poll(c, err);
    if (code || !ccq_calib_wanted(c, a))
        return code;
    if (!ccq_is_quantized(a->to))
        return ccq_calib_copy(c, a, NULL, NULL, err);
    if ((code = ccq_read_matrix(c->engine, a, &w, err)))
        return code;
    from.w.data = w;
    code = with_statistics(a) ? stats_linear(c, in, a, &from, &to, err)
                              : ccq_calib_linear(c, a, &from, &to, err);
    free(to.memory);
    free(w);
    return code;
}

ccq_code ccq_calib_from_stats(ccq_calib *c, ccq_error *err)
{
    const ccq_plan *plan = c->engine->plan;
    ccq_stats_in *in = NULL;
    ccq_code code = ccq_stats_open(&in, c->o->stats, &plan->src->arch, err);
    c->solver = (ccq_solver){c->engine->run->ops->dense, c->engine->run->pool};
    c->number = -1;
    for (size_t i = 0; i < plan->count && !code; i++)
        code = stats_action(c, in, &plan->action[i], err);
    ccq_calib_metric_free(&c->shared);
    ccq_stats_close(in);
    return code;
}
