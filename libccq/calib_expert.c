/* One expert: up_gate for the inputs it will see, then down for the activations that the
 * quantized up_gate makes of them. */
#include "libccq/calib_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SHRINK = 256, ENOUGH = 8 };

/* ---- Rules by tokens per row of an up_gate, of the layer's mean --------------------- */

double ccq_calib_per_row(const ccq_calib *c)
{
    const ccq_arch *a = &c->engine->plan->src->arch;
    return (double)(c->o->windows * c->o->window) * (double)a->moe_k /
           ((double)a->experts * (double)a->hidden);
}

static int is_thin(const ccq_calib *c)
{
    return c->o->random || ccq_calib_per_row(c) < ENOUGH;
}

/* Ids at random activate neurons that text does not: trusted less. */
double ccq_calib_damping(const ccq_calib *c, int down)
{
    return (down ? c->o->random : is_thin(c)) ? 0.1 : 0.03;
}

/* ---- The layer ---------------------------------------------------------------------- */

static size_t square(int64_t k)
{
    return (size_t)k * (size_t)k * sizeof(double);
}

static ccq_code no_memory(const char *name, ccq_error *err)
{
    return ccq_fail(err, CCQ_NO_MEMORY, "%s: out of memory for statistics", name);
}

ccq_code ccq_calib_layer_sums(ccq_calib *c, ccq_error *err)
{
    int64_t k = c->model->arch->hidden;
    ccq_calib_tokens all = {NULL, NULL, c->tokens};
    ccq_calib_metric_free(&c->shared);
    if (!c->o->shared && (c->o->leave & CCQ_LEAVE_SHRINK))
        return CCQ_OK;
    if (!c->layer_h)
        c->layer_h = malloc(square(k));
    if (!c->layer_c)
        c->layer_c = malloc(square(k));
    if (!c->layer_h || !c->layer_c)
        return no_memory("layer", err);
    ccq_code code = ccq_calib_up_sums(c, &all, CCQ_CODED_STREAM, c->layer_h, c->layer_c, err);
    if (!code && c->o->shared)
        c->damped = ccq_damp(c->layer_h, k, ccq_calib_damping(c, 0));
    return code;
}

void ccq_calib_shrink(double *mine, const double *layer, int64_t count, int64_t tokens)
{
    double n = (double)tokens;
    for (int64_t i = 0; i < count; i++)
        mine[i] = (n * mine[i] + SHRINK * layer[i]) / (n + SHRINK);
}

/* ---- Up and gate -------------------------------------------------------------------- */

/* What one linear is quantized with; freed by clear(). */
typedef struct matrix {
    float *w, *target; /* [k][n] */
    double *h, *c;     /* [k][k]; h damped */
    double damped;
    ccq_calib_metric metric;
    ccq_planes planes;
} matrix;

static void clear(matrix *m)
{
    free(m->w);
    free(m->target);
    free(m->h);
    free(m->c);
    ccq_calib_metric_free(&m->metric);
    free(m->planes.memory);
}

static ccq_code start(matrix *m, const ccq_calib *c, const ccq_action *a, const ccq_linear *from,
                      ccq_error *err)
{
    size_t count = (size_t)a->k * (size_t)a->n;
    *m = (matrix){0};
    m->w = malloc(count * sizeof *m->w);
    m->target = malloc(count * sizeof *m->target);
    m->h = malloc(square(a->k));
    if (!m->w || !m->target || !m->h)
        return no_memory(a->entry->name, err);
    if (from->w.type == CCQ_W_F32)
        memcpy(m->w, from->w.data, count * sizeof *m->w);
    else
        c->engine->run->ops->widen(from->w.data, (int64_t)count, m->w);
    memcpy(m->target, m->w, count * sizeof *m->w);
    return ccq_calib_planes(a, &m->planes, err);
}

/* H and C of this expert, shrunk towards the layer's, and damped. */
static ccq_code up_statistics(ccq_calib *c, const ccq_action *a, const ccq_calib_tokens *t,
                              matrix *m, ccq_error *err)
{
    int64_t k = a->k;
    m->c = malloc(square(k));
    if (!m->c)
        return no_memory(a->entry->name, err);
    if (c->o->shared) {
        memcpy(m->h, c->layer_h, square(k));
        memcpy(m->c, c->layer_c, square(k));
        m->damped = c->damped;
        return CCQ_OK;
    }
    ccq_code code = ccq_calib_up_sums(c, t, CCQ_CODED_STREAM, m->h, m->c, err);
    if (code)
        return code;
    if (!(c->o->leave & CCQ_LEAVE_SHRINK)) {
        ccq_calib_shrink(m->h, c->layer_h, k * k, t->count);
        ccq_calib_shrink(m->c, c->layer_c, k * k, t->count);
    }
    m->damped = ccq_damp(m->h, k, ccq_calib_damping(c, 0));
    return CCQ_OK;
}

/* All experts of a layer may have one H, and then one metric. */
static ccq_code metric_of(ccq_calib *c, const ccq_action *a, matrix *m, int shared,
                          const ccq_calib_metric **metric, ccq_error *err)
{
    ccq_calib_metric *mine = shared ? &c->shared : &m->metric;
    ccq_code code = CCQ_OK;
    *metric = mine;
    if (shared && mine->metric && mine->type == a->to)
        return CCQ_OK;
    ccq_calib_metric_free(mine);
    code = ccq_calib_metric_make(mine, c->engine, &c->solver, a->to, m->h, a->k, a->entry->name,
                                 err);
    free(m->h);
    m->h = NULL;
    return code;
}

static ccq_code encode(ccq_calib *c, const ccq_action *a, matrix *m, int shared,
                       const ccq_linear *from, ccq_linear *to, ccq_error *err)
{
    const ccq_calib_metric *metric;
    ccq_outcome outcome = {0};
    ccq_code code = metric_of(c, a, m, shared, &metric, err);
    if (!code)
        code = ccq_calib_encode(c->engine, a, metric, m->w, m->target, &m->planes, &outcome, err);
    return code ? code : ccq_calib_write(c, a, from, &m->planes, &outcome, to, err);
}

static ccq_code up_gate(ccq_calib *c, const ccq_action *a, const ccq_calib_tokens *t,
                        const ccq_linear *from, ccq_linear *to, ccq_error *err)
{
    matrix m;
    ccq_code code = start(&m, c, a, from, err);
    if (!code)
        code = up_statistics(c, a, t, &m, err);
    if (!code && !(c->o->leave & CCQ_LEAVE_CROSS))
        code = ccq_target_up(&c->solver, m.h, m.damped, m.c, a->k, is_thin(c) ? 0.5 : 1.0, m.w,
                             a->n, m.target, err);
    free(m.c);
    m.c = NULL;
    if (!code)
        code = encode(c, a, &m, c->o->shared, from, to, err);
    clear(&m);
    return code;
}

/* ---- Down --------------------------------------------------------------------------- */

static double alpha_of(const ccq_calib *c)
{
    return c->o->leave & CCQ_LEAVE_ALPHA ? 1.0 : NAN;
}

static ccq_code down_statistics(ccq_calib *c, const ccq_action *a, const ccq_calib_tokens *t,
                                int64_t e, matrix *m, ccq_error *err)
{
    int residual = !(c->o->leave & CCQ_LEAVE_RESIDUAL);
    void *memory = malloc((size_t)ccq_down_sums_bytes(a->k, a->n, residual));
    ccq_down_sums sums;
    double alpha = 0;
    if (!memory)
        return no_memory(a->entry->name, err);
    ccq_down_sums_place(&sums, a->k, a->n, residual, memory);
    ccq_code code = ccq_calib_down_sums(c, t, &c->layer[CCQ_SOURCE_STREAM].expert[2 * e],
                                        &c->layer[CCQ_CODED_STREAM].expert[2 * e], &sums, err);
    if (!code)
        code = ccq_target_down(&c->solver, &sums, ccq_calib_damping(c, 1),
                               !(c->o->leave & CCQ_LEAVE_CROSS), alpha_of(c), m->w, m->target,
                               m->h, &alpha, err);
    if (!code && residual) {
        ccq_calib_layer *l = &c->result->layer[c->result->layers - 1];
        l->alpha += alpha;
        l->alpha_experts++;
    }
    free(memory);
    return code;
}

static ccq_code down(ccq_calib *c, const ccq_action *a, const ccq_calib_tokens *t, int64_t e,
                     const ccq_linear *from, ccq_linear *to, ccq_error *err)
{
    matrix m;
    ccq_code code = start(&m, c, a, from, err);
    if (!code)
        code = down_statistics(c, a, t, e, &m, err);
    if (!code)
        code = encode(c, a, &m, 0, from, to, err);
    clear(&m);
    return code;
}

/* ---- Both --------------------------------------------------------------------------- */

static ccq_code plain(ccq_calib *c, const ccq_action *a, const ccq_linear *from, ccq_linear *to,
                      ccq_error *err)
{
    ccq_planes planes = {0};
    ccq_outcome outcome = {0};
    ccq_code code = ccq_calib_planes(a, &planes, err);
    if (!code)
        code = ccq_calib_plain(c->engine, a, &from->w, &planes, &outcome, err);
    if (!code)
        code = ccq_calib_write(c, a, from, &planes, &outcome, to, err);
    free(planes.memory);
    return code;
}

int ccq_calib_has_feedback(ccq_type type)
{
    return type == CCQ_TYPE_WINT2 || type == CCQ_TYPE_WINT4;
}

static ccq_code list_expert(ccq_calib *c, const ccq_action *a, ccq_error *err)
{
    c->result->layer[c->result->layers - 1].without++;
    if (ccq_text_add(&c->result->without_statistics, "%s", a->entry->name))
        return no_memory(a->entry->name, err);
    return CCQ_OK;
}

ccq_code ccq_calib_linear(ccq_calib *c, const ccq_action *a, const ccq_linear *from,
                          ccq_linear *to, ccq_error *err)
{
    int done = 0;
    ccq_code code;
    if (!ccq_is_quantized(a->to))
        return ccq_calib_copy(c, a, from, to, err);
    code = ccq_calib_resume(c, a, to, &done, err);
    return code || done ? code : plain(c, a, from, to, err);
}

/* With the statistics of its tokens, where it is for error feedback and they are enough. */
static ccq_code one(ccq_calib *c, const ccq_action *a, const ccq_calib_tokens *t, int64_t e,
                    const ccq_linear *from, ccq_linear *to, ccq_error *err)
{
    ccq_error why = {0};
    int done = 0;
    ccq_code code = CCQ_OK;
    if (!ccq_calib_has_feedback(a->to))
        return ccq_calib_linear(c, a, from, to, err);
    if ((code = ccq_calib_resume(c, a, to, &done, err)) || done)
        return code;
    if (t->count >= CCQ_CALIB_TOKENS) {
        code = a->entry->role == CCQ_ROLE_UP_GATE ? up_gate(c, a, t, from, to, &why)
                                                  : down(c, a, t, e, from, to, &why);
        if (code != CCQ_NONFINITE) { /* statistics of zeros, or that cancel out */
            if (code)
                *err = why;
            return code;
        }
    }
    code = list_expert(c, a, err);
    return code ? code : plain(c, a, from, to, err);
}

ccq_code ccq_calib_expert(ccq_calib *c, int64_t e, ccq_error *err)
{
    static const ccq_role roles[] = {CCQ_ROLE_UP_GATE, CCQ_ROLE_DOWN};
    int64_t at = c->start[e];
    ccq_calib_tokens t = {c->token + at, c->r + at, c->start[e + 1] - at};
    ccq_code code = CCQ_OK;
    for (int i = 0; i < 2 && !code; i++) {
        const ccq_action *a = ccq_calib_action(c, roles[i], CCQ_BLOCK_EXPERT, e);
        if (!a)
            return ccq_fail(err, CCQ_BUG, "layer %lld: expert %lld is not in the plan",
                            (long long)c->number, (long long)e);
        code = one(c, a, &t, e, &c->layer[CCQ_SOURCE_STREAM].expert[2 * e + i],
                   &c->layer[CCQ_CODED_STREAM].expert[2 * e + i], err);
    }
    return code;
}
