/* Layer after layer: what is quantized without statistics, attention in both streams,
 * the experts, and on. */
#include "libccq/calib_internal.h"

#include "formats/file.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

/* ---- Tensors ------------------------------------------------------------------------ */

static int of_layer(const ccq_action *a, int64_t layer)
{
    return a->entry->layer == layer;
}

const ccq_action *ccq_calib_action(const ccq_calib *c, ccq_role role, ccq_block block,
                                   int64_t expert)
{
    const ccq_plan *plan = c->engine->plan;
    for (size_t i = 0; i < plan->count; i++) {
        const ccq_entry *e = plan->action[i].entry;
        if (of_layer(&plan->action[i], c->number) && e->role == role && e->block == block &&
            e->expert == expert && !e->bias)
            return &plan->action[i];
    }
    return NULL;
}

static void count_done(ccq_calib *c, const ccq_action *a)
{
    ccq_progress *done = &c->engine->done;
    done->tensors++;
    done->bytes_in += a->bytes_in;
    done->bytes_out += a->bytes_out;
}

static void report_done(ccq_calib *c, const ccq_action *a, const ccq_outcome *outcome)
{
    const ccq_quantize_run_options *run = c->engine->run;
    size_t i = (size_t)(a - c->engine->plan->action);
    c->result->outcome[i] = *outcome;
    count_done(c, a);
    if (run->progress)
        run->progress(run->ctx, &c->engine->done);
    if (run->tensor)
        run->tensor(run->ctx, i, outcome);
}

ccq_code ccq_calib_planes(const ccq_action *a, ccq_planes *planes, ccq_error *err)
{
    void *memory = aligned_alloc(64, ((size_t)ccq_planes_size(a) + 63) / 64 * 64);
    if (!memory)
        return ccq_fail(err, CCQ_NO_MEMORY, "%s: out of memory", a->entry->name);
    ccq_planes_place(planes, a, memory);
    return CCQ_OK;
}

/* What the kernels multiply by; the planes' memory goes along. */
static void to_linear(const ccq_planes *p, int order, ccq_linear *q)
{
    ccq_weight w = {.k = p->k, .n = p->n, .data = p->plane[0], .order = order,
                    .rounding = CCQ_ROUND_FUSED};
    switch (p->type) {
    case CCQ_TYPE_WINT2:
        w.type = CCQ_W_WINT2;
        w.local = p->plane[1];
        w.super = p->plane[2];
        w.code_scale = p->plane[3];
        w.code_zp = p->plane[4];
        break;
    case CCQ_TYPE_FP8:
        w.type = CCQ_W_FP8;
        w.block_scale = p->plane[1];
        break;
    default:
        w.type = p->type == CCQ_TYPE_WINT8 ? CCQ_W_WINT8 : CCQ_W_WINT4;
        w.scale = p->plane[1];
    }
    *q = (ccq_linear){.w = w, .memory = p->memory};
}

ccq_code ccq_calib_write(ccq_calib *c, const ccq_action *a, const ccq_linear *from,
                         ccq_planes *planes, const ccq_outcome *outcome, ccq_linear *q,
                         ccq_error *err)
{
    const ccq_calib_sink *sink = c->sink;
    size_t wide = from->w.type == CCQ_W_F32 ? sizeof(float) : sizeof(uint16_t);
    size_t size = wide * (size_t)a->k * (size_t)a->n;
    ccq_code code = CCQ_OK;
    sink->made_from(sink->ctx, a, (uint32_t)crc32_z(0, from->w.data, size));
    for (int i = 0; i < planes->count && !code; i++)
        code = sink->put(sink->ctx, a->tensor[i], 0, planes->plane[i], planes->bytes[i], 1, err);
    if (code)
        return code;
    to_linear(planes, c->engine->plan->options.order, q);
    planes->memory = NULL;
    report_done(c, a, outcome);
    return CCQ_OK;
}

static int is_done(const ccq_calib *c, const ccq_action *a)
{
    for (int i = 0; i < a->tensors; i++)
        if (!c->sink->done(c->sink->ctx, a->tensor[i]))
            return 0;
    return 1;
}

int ccq_calib_wanted(const ccq_calib *c, const ccq_action *a)
{
    for (int i = 0; i < a->tensors; i++)
        if (c->sink->wants(c->sink->ctx, a->tensor[i]))
            return 1;
    return 0;
}

ccq_code ccq_calib_resume(ccq_calib *c, const ccq_action *a, ccq_linear *q, int *done,
                          ccq_error *err)
{
    ccq_planes planes;
    ccq_code code = CCQ_OK;
    *done = is_done(c, a);
    if (!*done || (code = ccq_calib_planes(a, &planes, err)))
        return code;
    for (int i = 0; i < planes.count && !code; i++)
        code = c->sink->read(c->sink->ctx, a->tensor[i], planes.plane[i], planes.bytes[i], err);
    if (code) {
        free(planes.memory);
        return code;
    }
    to_linear(&planes, c->engine->plan->options.order, q);
    count_done(c, a);
    return CCQ_OK;
}

ccq_code ccq_calib_copy(ccq_calib *c, const ccq_action *a, const ccq_linear *from, ccq_linear *q,
                        ccq_error *err)
{
    const ccq_outcome none = {0};
    ccq_code code = CCQ_OK;
    if (q) {
        *q = *from;
        q->memory = NULL;
    }
    if (is_done(c, a)) {
        count_done(c, a);
        return CCQ_OK;
    }
    code = ccq_copy_tensor(c->engine, a, c->sink->put, c->sink->ctx, err);
    if (!code)
        report_done(c, a, &none);
    return code;
}

ccq_code ccq_calib_poll(ccq_calib *c, ccq_error *err)
{
    if (c->sink->stopping(c->sink->ctx))
        return ccq_fail(err, CCQ_INTERRUPTED, "interrupted");
    return ccq_engine_poll(c->engine, err);
}

/* ---- What is not an expert ---------------------------------------------------------- */

/* The linear of a layer that an entry is; NULL for everything else and for experts. */
static ccq_linear *linear_of(ccq_layer *l, const ccq_entry *e)
{
    if (e->bias || e->block == CCQ_BLOCK_EXPERT)
        return NULL;
    switch (e->role) {
    case CCQ_ROLE_QKV: return &l->qkv;
    case CCQ_ROLE_O: return &l->o;
    case CCQ_ROLE_UP_GATE: return &l->up_gate;
    case CCQ_ROLE_DOWN: return &l->down;
    default: return NULL;
    }
}

/* Tensors outside layers, such as a head that is quantized by force. */
static ccq_code outside(ccq_calib *c, const ccq_action *a, ccq_error *err)
{
    ccq_linear from = {.memory = NULL}, to = {.memory = NULL};
    ccq_code code;
    if (!ccq_is_quantized(a->to))
        return ccq_calib_copy(c, a, NULL, NULL, err);
    if (!(code = ccq_load_entry(c->model, a->entry, &from, err)))
        code = ccq_calib_linear(c, a, &from, &to, err);
    free(to.memory);
    ccq_unload_linear(c->model, &from);
    return code;
}

ccq_code ccq_calib_outside(ccq_calib *c, ccq_error *err)
{
    const ccq_plan *plan = c->engine->plan;
    ccq_code code = CCQ_OK;
    for (size_t i = 0; i < plan->count && !code; i++)
        if (plan->action[i].entry->layer < 0)
            code = outside(c, &plan->action[i], err);
    return code;
}

static ccq_code layer_but_experts(ccq_calib *c, ccq_error *err)
{
    const ccq_plan *plan = c->engine->plan;
    ccq_code code = CCQ_OK;
    for (size_t i = 0; i < plan->count && !code; i++) {
        const ccq_action *a = &plan->action[i];
        if (!of_layer(a, c->number) || (a->entry->block == CCQ_BLOCK_EXPERT && !a->entry->bias))
            continue;
        ccq_linear *from = linear_of(&c->layer[CCQ_SOURCE_STREAM], a->entry);
        ccq_linear *to = linear_of(&c->layer[CCQ_CODED_STREAM], a->entry);
        code = from ? ccq_calib_linear(c, a, from, to, err)
                    : ccq_calib_copy(c, a, NULL, NULL, err);
    }
    return code;
}

/* ---- Experts ------------------------------------------------------------------------ */

static ccq_code all_experts(ccq_calib *c, ccq_error *err)
{
    ccq_code code = c->out ? ccq_calib_keep(c, err) : CCQ_OK;
    if (!code)
        code = ccq_calib_route(c, CCQ_CODED_STREAM, err);
    if (code)
        return code;
    c->result->layer[c->result->layers++] =
        (ccq_calib_layer){.layer = c->number, .per_row = ccq_calib_per_row(c)};
    code = ccq_calib_layer_sums(c, err);
    for (int64_t e = 0; e < c->model->arch->experts && !code; e++) {
        code = ccq_calib_poll(c, err);
        if (!code)
            code = ccq_calib_expert(c, e, err);
    }
    return code;
}

/* ---- A layer ------------------------------------------------------------------------ */

/* The quantized layer begins as the source's, and owns what it is given. */
static ccq_code begin_layer(ccq_calib *c, ccq_error *err)
{
    ccq_layer *from = &c->layer[CCQ_SOURCE_STREAM], *to = &c->layer[CCQ_CODED_STREAM];
    ccq_code code = ccq_layer_load(c->model, c->number, from, err);
    if (code)
        return code;
    size_t experts = from->moe ? 2 * (size_t)c->model->arch->experts : 0;
    *to = *from;
    to->qkv.memory = to->o.memory = to->up_gate.memory = to->down.memory = NULL;
    to->expert = calloc(experts + 1, sizeof *to->expert);
    return to->expert ? CCQ_OK : ccq_fail(err, CCQ_NO_MEMORY, "layer: out of memory");
}

static void end_layer(ccq_calib *c)
{
    ccq_layer *from = &c->layer[CCQ_SOURCE_STREAM], *to = &c->layer[CCQ_CODED_STREAM];
    free(to->qkv.memory);
    free(to->o.memory);
    free(to->up_gate.memory);
    free(to->down.memory);
    for (int64_t i = 0; to->expert && to->moe && i < 2 * c->model->arch->experts; i++)
        free(to->expert[i].memory);
    free(to->expert);
    *to = (ccq_layer){0};
    ccq_layer_free(c->model, from);
}

static ccq_code one_layer(ccq_calib *c, ccq_error *err)
{
    ccq_code code = ccq_calib_poll(c, err);
    if (!code)
        code = begin_layer(c, err);
    if (!code)
        code = layer_but_experts(c, err);
    for (int i = 0; i < CCQ_STREAMS && !code; i++)
        code = ccq_calib_attend(c, i, err);
    if (!code && c->layer[CCQ_SOURCE_STREAM].moe)
        code = all_experts(c, err);
    for (int i = 0; i < CCQ_STREAMS && !code; i++)
        code = ccq_calib_mlp(c, i, err);
    end_layer(c);
    return code;
}

ccq_code ccq_calibrate(ccq_engine *engine, const ccq_calib_sink *sink, ccq_quantize_result *result,
                       ccq_error *err)
{
    ccq_error local;
    ccq_calib c = {.engine = engine, .o = &engine->plan->options.calibration, .sink = sink,
                   .result = result};
    char *work = NULL;
    ccq_code code;
    err = err ? err : &local;
    result->layer = calloc((size_t)engine->plan->src->arch.layers + 1, sizeof *result->layer);
    if (!result->layer)
        return ccq_fail(err, CCQ_NO_MEMORY, "calibration: out of memory");
    if (c.o->kind == CCQ_CALIBRATE_STATS)
        return ccq_calib_from_stats(&c, err);
    if (engine->budget.spill && !(work = ccq_path_join(engine->plan->output, ".ccq")))
        return ccq_fail(err, CCQ_NO_MEMORY, "calibration: out of memory");
    c.spill = work;
    code = ccq_calib_open(&c, CCQ_STREAMS, err);
    if (!code && c.o->save_stats)
        code = ccq_stats_create(&c.out, c.o->save_stats, c.model->arch, c.o, err);
    if (!code)
        code = ccq_calib_outside(&c, err);
    for (c.number = 0; !code && c.number < c.model->arch->layers; c.number++)
        code = one_layer(&c, err);
    if (!code && c.out) {
        code = ccq_stats_finish(c.out, err);
        c.out = NULL;
    }
    ccq_calib_close(&c);
    free(work);
    return code;
}
