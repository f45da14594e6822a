#include "libccq/device_encode.h"

#include "kernels/gpu_encode.h"
#include "libccq/device_check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct flight {
    ccq_unit unit;
    int failed;   /* the CPU is to do it */
    void *device; /* weights, results, work */
    void *pinned; /* results */
} flight;

struct ccq_device_encoder {
    ccq_engine *engine;
    ccq_gpu *gpu;
    void *tables;
    uint64_t capacity, results; /* bytes of a flight, there and here */
    flight flight[CCQ_DEVICE_FLIGHTS];
    int first, count; /* around */
    int gone;         /* the device has failed */
    ccq_device_check *check;
    double begin;     /* since when something is in flight */
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- Memory -------------------------------------------------------------------- */

static uint64_t weights_bytes(int64_t k, int64_t n)
{
    return ccq_device_piece(2 * (uint64_t)k * (uint64_t)n);
}

/* Device memory of a block; 0: the device does not serve it. */
static uint64_t flight_bytes(const ccq_device_encoder *d, int64_t k, int64_t n)
{
    size_t work = ccq_gpu_encode(d->gpu)->work(d->gpu, k, n);
    return work ? weights_bytes(k, n) + ccq_device_results(NULL, k, n, NULL) + work : 0;
}

static int is_for_device(const ccq_plan *plan, const ccq_action *a)
{
    return a->to == CCQ_TYPE_WINT2 && !ccq_works_whole(plan, a);
}

/* The largest block of the plan; the rows of its longest column. */
static int64_t measure(ccq_device_encoder *d)
{
    const ccq_plan *plan = d->engine->plan;
    int64_t longest = CCQ_GROUP;
    for (size_t i = 0; i < plan->count; i++) {
        const ccq_action *a = &plan->action[i];
        if (!is_for_device(plan, a))
            continue;
        int64_t n = ccq_block_columns(&d->engine->budget, a);
        uint64_t size = flight_bytes(d, a->k, n), back = ccq_device_results(NULL, a->k, n, NULL);
        d->capacity = size > d->capacity ? size : d->capacity;
        d->results = size && back > d->results ? back : d->results;
        longest = a->k > longest ? a->k : longest;
    }
    return longest;
}

/* Whatever the device has room for, the largest block or less. */
static int allocate(ccq_device_encoder *d)
{
    uint64_t room = 0;
    int code = ccq_gpu_alloc(d->gpu, sizeof d->engine->encoder, &d->tables);
    if (!code)
        code = ccq_gpu_encode(d->gpu)->tables(d->gpu, &d->engine->encoder, d->tables);
    if (!code)
        code = ccq_gpu_wait(d->gpu); /* other queues use them */
    if (!code)
        code = ccq_gpu_room(d->gpu, &room);
    uint64_t most = room / 8 * 7 / CCQ_DEVICE_FLIGHTS;
    d->capacity = d->capacity < most ? d->capacity : most;
    for (int i = 0; i < CCQ_DEVICE_FLIGHTS && !code; i++) {
        code = ccq_gpu_alloc(d->gpu, (size_t)d->capacity, &d->flight[i].device);
        if (!code)
            code = ccq_gpu_pin(d->gpu, (size_t)d->results, &d->flight[i].pinned);
    }
    return code;
}

/* ---- Open and close --------------------------------------------------------------- */

static void warn(const ccq_device_encoder *d, const char *what)
{
    const ccq_quantize_run_options *run = d->engine->run;
    char text[CCQ_GPU_TEXT + 64];
    snprintf(text, sizeof text, "%s; %s", ccq_gpu_error(d->gpu), what);
    if (run->warn)
        run->warn(run->ctx, text);
}

ccq_code ccq_device_encoder_open(ccq_device_encoder **to, ccq_engine *engine, ccq_error *err)
{
    ccq_gpu *gpu = engine->run->gpu;
    *to = NULL;
    if (!gpu || !ccq_gpu_encode(gpu))
        return CCQ_OK;
    ccq_device_encoder *d = calloc(1, sizeof *d);
    if (!d)
        return ccq_fail(err, CCQ_NO_MEMORY, "encoder: out of memory");
    d->engine = engine;
    d->gpu = gpu;
    int64_t longest = measure(d);
    if (!(d->check = ccq_device_check_new(engine, longest))) {
        free(d);
        return ccq_fail(err, CCQ_NO_MEMORY, "encoder: out of memory");
    }
    int code = d->capacity ? allocate(d) : CCQ_GPU_OK;
    if (!code && d->capacity) {
        *to = d;
        return CCQ_OK;
    }
    if (code)
        warn(d, "the CPU encodes");
    ccq_device_encoder_close(d);
    return CCQ_OK;
}

void ccq_device_encoder_close(ccq_device_encoder *d)
{
    if (!d)
        return;
    ccq_gpu_wait_all(d->gpu);
    for (int i = 0; i < CCQ_DEVICE_FLIGHTS; i++) {
        ccq_gpu_free(d->gpu, d->flight[i].device);
        ccq_gpu_unpin(d->gpu, d->flight[i].pinned);
    }
    ccq_gpu_free(d->gpu, d->tables);
    ccq_gpu_queue(d->gpu, 0);
    ccq_device_check_free(d->check);
    free(d);
}

/* ---- Out --------------------------------------------------------------------------- */

int ccq_device_takes(ccq_device_encoder *d, const ccq_unit *u)
{
    if (!d || u->kind != CCQ_UNIT_BLOCK)
        return 0;
    const ccq_action *a = &d->engine->plan->action[u->action];
    if (!is_for_device(d->engine->plan, a))
        return 0;
    uint64_t size = d->gone ? 0 : flight_bytes(d, a->k, u->nc);
    int takes = size && size <= d->capacity &&
                ccq_device_results(NULL, a->k, u->nc, NULL) <= d->results;
    d->engine->device.cpu_blocks += !takes;
    return takes;
}

int ccq_device_flights(const ccq_device_encoder *d)
{
    return d ? d->count : 0;
}

static int queue_of(const ccq_device_encoder *d, const flight *f)
{
    return (int)(f - d->flight);
}

/* Brought, encoded and fetched, on a queue of its own. */
static int start(ccq_device_encoder *d, flight *f)
{
    const ccq_quantize_options *o = &d->engine->plan->options;
    const ccq_encode_params params = {o->effort, o->gain, o->order};
    int64_t k = d->engine->plan->action[f->unit.action].k, n = f->unit.nc;
    char *base = f->device, *back = base + weights_bytes(k, n);
    ccq_columns_got r = {0};
    uint64_t size = ccq_device_results(back, k, n, &r);
    const ccq_gpu_columns p = {(uint16_t *)(void *)base, k, n, f->unit.strip, r.weight, r.scale,
                               r.super, r.code_scale, r.code_zp, r.status, r.error, r.energy,
                               r.max_error, back + size};
    ccq_gpu_queue(d->gpu, queue_of(d, f));
    int code = ccq_gpu_upload(d->gpu, base, f->unit.data, 2 * (size_t)k * (size_t)n);
    if (!code)
        code = ccq_gpu_encode(d->gpu)->columns(d->gpu, d->tables, &params, &p);
    return code ? code : ccq_gpu_download(d->gpu, f->pinned, back, (size_t)size);
}

static void fail(ccq_device_encoder *d, flight *f)
{
    if (!d->gone)
        warn(d, "the CPU goes on");
    d->gone = f->failed = 1;
}

void ccq_device_start(ccq_device_encoder *d, const ccq_unit *u)
{
    flight *f = &d->flight[(d->first + d->count) % CCQ_DEVICE_FLIGHTS];
    if (!d->count++)
        d->begin = now();
    f->unit = *u;
    f->failed = 0;
    if (start(d, f))
        fail(d, f);
}

/* ---- And back ----------------------------------------------------------------------- */

const ccq_unit *ccq_device_oldest(const ccq_device_encoder *d)
{
    return &d->flight[d->first].unit;
}

ccq_code ccq_device_land(ccq_device_encoder *d, const ccq_columns *c, ccq_planes *planes,
                         ccq_outcome *outcome, ccq_error *err)
{
    ccq_device_figures *sum = &d->engine->device;
    flight *f = &d->flight[d->first];
    ccq_columns_got r = {0};
    ccq_gpu_queue(d->gpu, queue_of(d, f));
    if (!f->failed && ccq_gpu_wait(d->gpu))
        fail(d, f);
    d->first = (d->first + 1) % CCQ_DEVICE_FLIGHTS;
    if (!--d->count)
        sum->seconds += now() - d->begin;
    if (f->failed) {
        sum->cpu_blocks++;
        return ccq_quantize_columns(d->engine, c, planes, outcome, err);
    }
    ccq_device_results(f->pinned, c->a->k, c->nc, &r);
    const ccq_figures figures = {r.error, r.energy, r.max_error, r.status};
    ccq_code code = ccq_device_check_block(d->check, c, &r, err);
    if (!code)
        code = ccq_quantize_sum(d->engine, c, &figures, outcome, err);
    if (code)
        return code;
    ccq_device_place_columns(&r, c->n0, c->nc, planes);
    sum->blocks++;
    sum->weights += (uint64_t)c->a->k * (uint64_t)c->nc;
    return CCQ_OK;
}
