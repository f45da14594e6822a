#include "libccq/device_feedback.h"

#include "kernels/gpu_encode.h"
#include "libccq/device_columns.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* A matrix on its way: what all columns share, and room for so many of them. */
typedef struct trip {
    ccq_engine *engine;
    const ccq_feedback_job *job;
    ccq_gpu *gpu;
    int64_t k, n, most;
    void *shared, *columns; /* device memory */
    char *results;
} trip;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- Memory -------------------------------------------------------------------- */

static uint64_t metric_bytes(const trip *t)
{
    return ccq_device_piece(ccq_metric_bytes(t->k, t->job->entries, 1));
}

static uint64_t shared_bytes(const trip *t)
{
    return metric_bytes(t) + ccq_device_piece((uint64_t)t->k * sizeof *t->job->rows);
}

static uint64_t weights_bytes(const trip *t, int64_t columns)
{
    return ccq_device_piece((uint64_t)t->k * (uint64_t)columns * sizeof(float));
}

/* Device memory of columns; 0: the device does not serve them. */
static uint64_t columns_bytes(const trip *t, int64_t columns)
{
    int kinds = t->job->w == t->job->target ? 1 : 2;
    size_t work = ccq_gpu_encode(t->gpu)->feedback_work(t->gpu, t->k, columns, t->job->entries);
    return work ? (uint64_t)kinds * weights_bytes(t, columns) +
                      ccq_device_results(NULL, t->k, columns, NULL) + work
                : 0;
}

/* How many columns there is room for at once; strips are of 32. */
static int64_t columns_that_fit(const trip *t, uint64_t room)
{
    uint64_t shared = shared_bytes(t);
    int64_t columns = t->n;
    room = room / 8 * 7;
    while (columns > 0) {
        uint64_t size = columns_bytes(t, columns);
        if (!size)
            return 0;
        if (shared + size <= room)
            return columns;
        columns = columns > 32 ? (columns / 2 + 31) / 32 * 32 : 0;
    }
    return 0;
}

static int bring_shared(trip *t)
{
    char *base = NULL;
    int code = ccq_gpu_alloc(t->gpu, (size_t)shared_bytes(t), &t->shared);
    if (!code)
        code = ccq_gpu_alloc(t->gpu, (size_t)columns_bytes(t, t->most), &t->columns);
    if (code)
        return code;
    base = t->shared;
    code = ccq_gpu_upload(t->gpu, base, t->job->metric,
                          ccq_metric_bytes(t->k, t->job->entries, 1));
    return code ? code : ccq_gpu_upload(t->gpu, base + metric_bytes(t), t->job->rows,
                                        (size_t)t->k * sizeof *t->job->rows);
}

/* ---- Columns ------------------------------------------------------------------- */

/* Columns n0..n0+nc-1 of [k][n]. */
static int bring(const trip *t, const float *from, int64_t n0, int64_t nc, float *to)
{
    int code = CCQ_GPU_OK;
    if (nc == t->n)
        return ccq_gpu_upload(t->gpu, to, from, (size_t)(t->k * t->n) * sizeof *to);
    for (int64_t i = 0; i < t->k && !code; i++)
        code = ccq_gpu_upload(t->gpu, to + i * nc, from + i * t->n + n0, (size_t)nc * sizeof *to);
    return code;
}

static void keep(const trip *t, const ccq_columns_got *r, int64_t n0, int64_t nc)
{
    const ccq_feedback_job *j = t->job;
    size_t size = (size_t)nc * sizeof *r->error;
    ccq_device_place_columns(r, n0, nc, j->planes);
    memcpy(j->error + n0, r->error, size);
    memcpy(j->energy + n0, r->energy, size);
    memcpy(j->max_error + n0, r->max_error, size);
    memcpy(j->status + n0, r->status, (size_t)nc);
}

static int encode(const trip *t, int64_t n0, int64_t nc)
{
    const ccq_feedback_job *j = t->job;
    char *base = t->columns, *back, *shared = t->shared;
    float *target = (float *)(void *)base, *original = target;
    ccq_columns_got r = {0};
    base += weights_bytes(t, nc);
    if (j->w != j->target) {
        original = (float *)(void *)base;
        base += weights_bytes(t, nc);
    }
    back = base;
    uint64_t size = ccq_device_results(back, t->k, nc, &r);
    const ccq_gpu_feedback p = {j->metric, shared, target, original,
                                (int32_t *)(void *)(shared + metric_bytes(t)),
                                {NULL, t->k, nc, 0, r.weight, r.scale, r.super, r.code_scale,
                                 r.code_zp, r.status, r.error, r.energy, r.max_error,
                                 back + size}};
    int code = bring(t, j->target, n0, nc, target);
    if (!code && original != target)
        code = bring(t, j->w, n0, nc, original);
    if (!code)
        code = ccq_gpu_encode(t->gpu)->feedback(t->gpu, &t->engine->encoder, &j->params, &p);
    if (!code)
        code = ccq_gpu_download(t->gpu, t->results, back, (size_t)size);
    if (code)
        return code;
    ccq_device_results(t->results, t->k, nc, &r);
    keep(t, &r, n0, nc);
    return CCQ_GPU_OK;
}

/* ---- The matrix ---------------------------------------------------------------- */

static void fail(const trip *t)
{
    const ccq_quantize_run_options *run = t->engine->run;
    char text[CCQ_GPU_TEXT + 64];
    t->engine->device.gone = 1;
    snprintf(text, sizeof text, "%s; the CPU goes on", ccq_gpu_error(t->gpu));
    if (run->warn)
        run->warn(run->ctx, text);
}

static int64_t go(trip *t)
{
    int64_t done = 0;
    int code = bring_shared(t);
    t->results = malloc((size_t)ccq_device_results(NULL, t->k, t->most, NULL));
    while (t->results && !code && done < t->n) {
        int64_t nc = t->n - done < t->most ? t->n - done : t->most;
        if (!(code = encode(t, done, nc)))
            done += nc;
    }
    if (code)
        fail(t);
    ccq_gpu_free(t->gpu, t->shared);
    ccq_gpu_free(t->gpu, t->columns);
    free(t->results);
    return done;
}

int64_t ccq_device_feedback(ccq_engine *engine, const ccq_feedback_job *job)
{
    ccq_device_figures *sum = &engine->device;
    trip t = {.engine = engine, .job = job, .gpu = engine->run->gpu, .k = job->a->k,
              .n = job->a->n};
    uint64_t room = 0;
    double begin = now();
    int64_t done = 0;
    if (!t.gpu || !ccq_gpu_encode(t.gpu))
        return 0;
    ccq_gpu_queue(t.gpu, 0);
    if (!sum->gone && ccq_gpu_room(t.gpu, &room))
        fail(&t);
    if (!sum->gone && (t.most = columns_that_fit(&t, room)))
        done = go(&t);
    sum->cpu_blocks += done < t.n;
    sum->blocks += done > 0;
    sum->weights += (uint64_t)t.k * (uint64_t)done;
    sum->seconds += now() - begin;
    return done;
}
