/* A matrix to codes under its H: panels of 16 columns over the pool. */
#include "libccq/calib_internal.h"
#include "libccq/device_feedback.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- The metric --------------------------------------------------------------------- */

typedef struct key {
    double size;
    int32_t row;
} key;

/* Larger first, then the lower row. */
static int by_size(const void *pa, const void *pb)
{
    const key *a = pa, *b = pb;
    if (a->size != b->size)
        return a->size > b->size ? -1 : 1;
    return (a->row > b->row) - (a->row < b->row);
}

/* wint2: stored order. wint4: descending diagonal. */
static int order_rows(int32_t *rows, ccq_type type, int order, const double *h, int64_t k)
{
    if (type == CCQ_TYPE_WINT2) {
        for (int64_t i = 0; i < k; i++)
            rows[i] = (int32_t)(i / CCQ_GROUP * CCQ_GROUP +
                                ccq_stored_to_logical((int)(i % CCQ_GROUP), order));
        return 0;
    }
    key *keys = malloc((size_t)k * sizeof *keys);
    if (!keys)
        return -1;
    for (int64_t i = 0; i < k; i++)
        keys[i] = (key){h[i * k + i], (int32_t)i};
    qsort(keys, (size_t)k, sizeof *keys, by_size);
    for (int64_t i = 0; i < k; i++)
        rows[i] = keys[i].row;
    free(keys);
    return 0;
}

static void permute(const double *h, const int32_t *rows, int64_t k, double *out)
{
    for (int64_t i = 0; i < k; i++)
        for (int64_t j = 0; j < k; j++)
            out[i * k + j] = h[rows[i] * k + rows[j]];
}

ccq_code ccq_calib_metric_make(ccq_calib_metric *m, const ccq_engine *engine,
                               const ccq_solver *solver, ccq_type type, const double *h, int64_t k,
                               const char *name, ccq_error *err)
{
    const ccq_quantize_options *o = &engine->plan->options;
    int codes = type == CCQ_TYPE_WINT2;
    int entries = o->effort == CCQ_EFFORT_FAST || (o->calibration.leave & CCQ_LEAVE_TABLE)
                      ? 1 : CCQ_BOOKS;
    size_t square = (size_t)k * (size_t)k * sizeof(double);
    double *p = malloc(square), *u = malloc(square);
    ccq_code code = CCQ_OK;
    *m = (ccq_calib_metric){.type = type, .k = k, .entries = entries};
    m->rows = malloc((size_t)k * sizeof *m->rows);
    m->memory = aligned_alloc(64, (ccq_metric_bytes(k, entries, codes) + 63) / 64 * 64);
    if (!p || !u || !m->rows || !m->memory || order_rows(m->rows, type, o->order, h, k)) {
        code = ccq_fail(err, CCQ_NO_MEMORY, "%s: out of memory for statistics of %" PRId64 " rows",
                        name, k);
        goto done;
    }
    permute(h, m->rows, k, p);
    memcpy(u, p, square);
    if (ccq_udu(solver, u, k)) {
        code = ccq_fail(err, CCQ_NONFINITE, "%s: its statistics are not positive definite", name);
        goto done;
    }
    m->metric = ccq_metric_fill(&engine->encoder, k, entries, codes, p, u, m->memory);
done:
    free(p);
    free(u);
    if (code)
        ccq_calib_metric_free(m);
    return code;
}

void ccq_calib_metric_free(ccq_calib_metric *m)
{
    free(m->rows);
    free(m->memory);
    *m = (ccq_calib_metric){0};
}

/* ---- Panels ------------------------------------------------------------------------- */

/* What the tasks share; panels, scratch, bytes and local are a worker's, side by side. */
typedef struct batch {
    ccq_engine *engine;
    const ccq_action *a;
    const ccq_calib_metric *m;
    const float *w, *target;
    ccq_planes *planes;
    double *error, *energy, *max_error; /* by column */
    uint8_t *status;
    char *memory;
    size_t step; /* bytes of a worker */
    int64_t done; /* columns that a device has encoded */
    atomic_int stop;
} batch;

typedef struct desk {
    float *target, *original; /* [k][16] */
    uint8_t *bytes, *local;
    void *scratch;
} desk;

static size_t round64(size_t n)
{
    return (n + 63) / 64 * 64;
}

static size_t desk_layout(char *base, int64_t k, desk *d)
{
    size_t panel = round64(CCQ_PANEL * (size_t)k * sizeof(float));
    size_t bytes = round64(CCQ_PANEL * (size_t)k / CCQ_WINDOWS);
    size_t local = round64(CCQ_PANEL * (size_t)k / CCQ_GROUP + 64);
    if (base)
        *d = (desk){(float *)(void *)base, (float *)(void *)(base + panel),
                    (uint8_t *)base + 2 * panel, (uint8_t *)base + 2 * panel + bytes,
                    base + 2 * panel + bytes + local};
    return 2 * panel + bytes + local + round64(ccq_feedback_scratch(k));
}

/* Columns n0.. of w to [k][16]; rows NULL: as they are. */
static void take_panel(const float *w, const int32_t *rows, int64_t k, int64_t n, int64_t n0,
                       int count, float *panel)
{
    for (int64_t i = 0; i < k; i++) {
        const float *from = w + (rows ? rows[i] : i) * n + n0;
        for (int c = 0; c < CCQ_PANEL; c++)
            panel[i * CCQ_PANEL + c] = c < count ? from[c] : 0.0f;
    }
}

static unsigned left_out(const ccq_quantize_options *o)
{
    unsigned leave = o->calibration.leave, out = 0;
    if (o->effort == CCQ_EFFORT_FAST)
        out |= CCQ_FEEDBACK_NO_TABLE | CCQ_FEEDBACK_NO_PASSES;
    out |= leave & CCQ_LEAVE_TABLE ? CCQ_FEEDBACK_NO_TABLE : 0;
    out |= leave & CCQ_LEAVE_PASSES ? CCQ_FEEDBACK_NO_PASSES : 0;
    out |= leave & CCQ_LEAVE_JOINT ? CCQ_FEEDBACK_NO_JOINT : 0;
    out |= leave & CCQ_LEAVE_LOOP ? CCQ_FEEDBACK_FROZEN : 0;
    return out;
}

static ccq_feedback_params params_of(const ccq_quantize_options *o)
{
    return (ccq_feedback_params){.gain = o->gain, .order = o->order, .leave = left_out(o)};
}

static void encode_columns(const batch *b, int64_t n0, int count, const desk *d,
                           ccq_column column[CCQ_PANEL])
{
    const ccq_feedback_params p = params_of(&b->engine->plan->options);
    int64_t k = b->a->k;
    take_panel(b->target, b->m->rows, k, b->a->n, n0, count, d->target);
    take_panel(b->w, b->m->rows, k, b->a->n, n0, count, d->original);
    for (int j = 0; j < count; j++)
        column[j] = (ccq_column){.bytes = d->bytes + j * (k / CCQ_WINDOWS),
                                 .local = d->local + j * (k / CCQ_GROUP)};
    ccq_feedback_panel(b->engine->run->ops, &b->engine->encoder, b->m->metric, &p, d->target,
                       d->original, count, column, NULL, d->scratch);
}

static void encode_wint2(batch *b, int64_t n0, int count, const desk *d)
{
    ccq_column column[CCQ_PANEL];
    encode_columns(b, n0, count, d, column);
    for (int j = 0; j < count; j++) {
        b->error[n0 + j] = column[j].error;
        b->energy[n0 + j] = column[j].energy;
        b->max_error[n0 + j] = column[j].max_error;
        b->status[n0 + j] = (uint8_t)column[j].status;
    }
    ccq_planes_place_wint2(b->engine->run->ops, b->planes, n0, count, column);
}

static void encode_wint4(batch *b, int64_t n0, int count, const desk *d)
{
    ccq_weight_only figures;
    take_panel(b->target, NULL, b->a->k, b->a->n, n0, count, d->target);
    take_panel(b->w, NULL, b->a->k, b->a->n, n0, count, d->original);
    ccq_feedback4_panel(b->engine->run->ops, b->m->metric, b->m->rows, d->target, d->original, n0,
                        count, b->planes->plane[0], &figures, d->scratch);
    for (int j = 0; j < count; j++) {
        b->error[n0 + j] = figures.error[j];
        b->energy[n0 + j] = figures.energy[j];
        b->max_error[n0 + j] = figures.max_error[j];
        b->status[n0 + j] = (uint8_t)figures.status[j];
        ((uint16_t *)b->planes->plane[1])[n0 + j] = figures.scale[j];
    }
}

static int stopped(batch *b)
{
    const ccq_quantize_run_options *run = b->engine->run;
    if (!atomic_load(&b->stop) && run->cancelled && run->cancelled(run->ctx))
        atomic_store(&b->stop, 1);
    return atomic_load(&b->stop);
}

static void encode_task(void *ctx, size_t i, int worker)
{
    batch *b = ctx;
    int64_t n0 = b->done + (int64_t)i * CCQ_PANEL, left = b->a->n - n0;
    int count = left < CCQ_PANEL ? (int)left : CCQ_PANEL;
    desk d;
    if (stopped(b))
        return;
    desk_layout(b->memory + (size_t)worker * b->step, b->a->k, &d);
    if (b->m->type == CCQ_TYPE_WINT2)
        encode_wint2(b, n0, count, &d);
    else
        encode_wint4(b, n0, count, &d);
}

static ccq_code gather(const batch *b, ccq_outcome *out, ccq_error *err)
{
    for (int64_t n = 0; n < b->a->n; n++) {
        if (b->status[n] == CCQ_COLUMN_HUGE)
            return ccq_fail(err, CCQ_NONFINITE,
                            "%s: column %" PRId64 ": as %s its largest decoded weight would not "
                            "be finite in bf16",
                            b->a->entry->name, n, ccq_type_name(b->m->type));
        out->error += b->error[n];
        out->energy += b->energy[n];
        if (b->max_error[n] > out->max_error)
            out->max_error = b->max_error[n];
        out->zero_columns += b->status[n] == CCQ_COLUMN_ZERO;
    }
    return CCQ_OK;
}

/* ---- By way of a device ---------------------------------------------------------------- */

static void encode_on_device(batch *b)
{
    const ccq_feedback_job job = {
        .a = b->a, .metric = b->m->metric, .entries = b->m->entries, .rows = b->m->rows,
        .w = b->w, .target = b->target, .params = params_of(&b->engine->plan->options),
        .planes = b->planes, .error = b->error, .energy = b->energy, .max_error = b->max_error,
        .status = b->status};
    b->done = b->m->type == CCQ_TYPE_WINT2 ? ccq_device_feedback(b->engine, &job) : 0;
}

static int same_column(const batch *b, int64_t n, const ccq_column *c)
{
    const ccq_planes *p = b->planes;
    const uint8_t *weight = p->plane[0], *scale = p->plane[1];
    int same = b->status[n] == c->status && ((uint16_t *)p->plane[2])[n] == c->super &&
               memcmp((float *)p->plane[3] + n, &c->code_scale, sizeof(float)) == 0 &&
               memcmp((float *)p->plane[4] + n, &c->code_zp, sizeof(float)) == 0 &&
               memcmp(&b->error[n], &c->error, sizeof c->error) == 0;
    for (int64_t r = 0; r < p->k / CCQ_WINDOWS; r++)
        same &= weight[r * p->n + n] == c->bytes[r];
    for (int64_t r = 0; r < p->k / (2 * CCQ_GROUP); r++)
        same &= scale[r * p->n + n] == (c->local[2 * r] << 4 | c->local[2 * r + 1]);
    return same || (c->status == CCQ_COLUMN_HUGE && b->status[n] == c->status);
}

/* A panel of what the device did, another one each time, as the CPU does it. */
static ccq_code check_device(const batch *b, ccq_error *err)
{
    int64_t panels = (b->done + CCQ_PANEL - 1) / CCQ_PANEL;
    int64_t n0 = (int64_t)(b->engine->device.blocks * 37 % (uint64_t)panels) * CCQ_PANEL;
    int count = b->done - n0 < CCQ_PANEL ? (int)(b->done - n0) : CCQ_PANEL;
    ccq_column column[CCQ_PANEL];
    desk d;
    desk_layout(b->memory, b->a->k, &d);
    encode_columns(b, n0, count, &d, column);
    for (int j = 0; j < count; j++)
        if (!same_column(b, n0 + j, &column[j]))
            return ccq_fail(err, CCQ_BUG,
                            "%s: column %" PRId64 ": the device does not encode it as the CPU "
                            "does; --device cpu does without it",
                            b->a->entry->name, n0 + j);
    return CCQ_OK;
}

/* ---- A matrix -------------------------------------------------------------------------- */

ccq_code ccq_calib_encode(ccq_engine *engine, const ccq_action *a, const ccq_calib_metric *m,
                          const float *w, const float *target, ccq_planes *planes,
                          ccq_outcome *outcome, ccq_error *err)
{
    size_t n = (size_t)a->n, workers = (size_t)engine->workers;
    batch b = {.engine = engine, .a = a, .m = m, .w = w, .target = target, .planes = planes,
               .step = desk_layout(NULL, a->k, NULL)};
    ccq_code code;
    b.memory = aligned_alloc(64, workers * b.step);
    b.error = calloc(3 * n + 1, sizeof *b.error);
    b.status = calloc(n + 1, 1);
    if (!b.memory || !b.error || !b.status) {
        code = ccq_fail(err, CCQ_NO_MEMORY, "%s: out of memory", a->entry->name);
        goto done;
    }
    b.energy = b.error + n;
    b.max_error = b.error + 2 * n;
    encode_on_device(&b);
    code = b.done ? check_device(&b, err) : CCQ_OK;
    if (code)
        goto done;
    ccq_pool_run(engine->run->pool, (n - (size_t)b.done + CCQ_PANEL - 1) / CCQ_PANEL, encode_task,
                 &b);
    code = ccq_engine_poll(engine, err);
    if (!code)
        code = gather(&b, outcome, err);
done:
    free(b.memory);
    free(b.error);
    free(b.status);
    return code;
}

ccq_code ccq_calib_plain(ccq_engine *engine, const ccq_action *a, const ccq_weight *w,
                         ccq_planes *planes, ccq_outcome *outcome, ccq_error *err)
{
    ccq_columns c = {.a = a, .n0 = 0, .nc = a->n, .strip = a->n};
    if (w->type == CCQ_W_F32)
        c.f = w->data;
    else
        c.w = w->data;
    return ccq_quantize_columns(engine, &c, planes, outcome, err);
}
