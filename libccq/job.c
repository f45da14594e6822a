/* Carries out a plan: what is not finished of its tensors, then the side files, then one
 * commit. */
#include "libccq/calibrate.h"
#include "libccq/crc.h"
#include "libccq/job_internal.h"

#include "formats/file.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* From a signal to the end of a tensor that is still at work. */
static const long long grace_ns = 2000000000;

ccq_code ccq_job_no_memory(ccq_error *err)
{
    return ccq_fail(err, CCQ_NO_MEMORY, "job: out of memory");
}

uint32_t ccq_job_crc(uint32_t crc, const void *data, uint64_t size)
{
    return ccq_crc32(crc, data, (size_t)size);
}

static long long now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1000000000LL * t.tv_sec + t.tv_nsec;
}

/* ---- The caller's callbacks, and a grace -------------------------------------------- */

int ccq_job_stopping(const ccq_job *j)
{
    return j->caller->cancelled && j->caller->cancelled(j->caller->ctx);
}

static int out_of_time(void *ctx)
{
    ccq_job *j = ctx;
    long long now, none = 0;
    if (!ccq_job_stopping(j))
        return 0;
    now = now_ns();
    atomic_compare_exchange_strong(&j->stop_at, &none, now + grace_ns);
    return now >= atomic_load(&j->stop_at);
}

static void pass_progress(void *ctx, const ccq_progress *p)
{
    const ccq_job *j = ctx;
    if (j->caller->progress)
        j->caller->progress(j->caller->ctx, p);
}

static void pass_tensor(void *ctx, size_t i, const ccq_outcome *o)
{
    const ccq_job *j = ctx;
    if (j->caller->tensor)
        j->caller->tensor(j->caller->ctx, i, o);
}

static void pass_warn(void *ctx, const char *text)
{
    const ccq_job *j = ctx;
    if (j->caller->warn)
        j->caller->warn(j->caller->ctx, text);
}

void ccq_job_wrap(ccq_job *j, const ccq_quantize_run_options *run)
{
    j->caller = run;
    j->run = *run;
    j->run.ctx = j;
    j->run.cancelled = out_of_time;
    j->run.progress = pass_progress;
    j->run.tensor = pass_tensor;
    j->run.warn = pass_warn;
}

/* ---- Figures ------------------------------------------------------------------------- */

double ccq_outcome_sqnr(const ccq_outcome *o)
{
    if (!(o->energy > 0))
        return NAN;
    return o->error > 0 ? -10.0 * log10(o->error / o->energy) : INFINITY;
}

static void sum_up(const ccq_job *j, ccq_quantize_result *r)
{
    ccq_outcome type[CCQ_TYPES] = {{0}};
    for (size_t i = 0; i < j->plan->count; i++) {
        ccq_outcome *t = &type[j->plan->action[i].to];
        t->error += r->outcome[i].error;
        t->energy += r->outcome[i].energy;
        r->zero_columns += r->outcome[i].zero_columns;
    }
    for (int i = 0; i < CCQ_TYPES; i++)
        r->type_sqnr[i] = ccq_outcome_sqnr(&type[i]);
    for (int i = 0; i < j->engine.workers; i++)
        r->encode_s += j->engine.worker[i].encode_s;
    r->encode_weights = j->engine.encode_weights;
    r->device_weights = j->engine.device.weights;
    r->device_blocks = j->engine.device.blocks;
    r->device_cpu_blocks = j->engine.device.cpu_blocks;
    r->device_s = j->engine.device.seconds;
}

/* ---- The job ------------------------------------------------------------------------- */

static ccq_code start(ccq_job *j, ccq_error *err)
{
    j->side = calloc(j->plan->carries + 1, sizeof *j->side);
    if (!j->side)
        return ccq_job_no_memory(err);
    ccq_code code = ccq_ledger_open(&j->ledger, j->plan, j->caller, err);
    j->put = ccq_ledger_put;
    j->put_ctx = j->ledger;
    return code;
}

/* What earlier runs have done was done with the same input. */
static ccq_code compare(ccq_job *j, ccq_error *err)
{
    return ccq_ledger_moved(j->ledger) ? ccq_job_compare(j, err) : CCQ_OK;
}

/* ---- What calibration asks of the job ------------------------------------------------- */

static ccq_code sink_put(void *ctx, size_t tensor, uint64_t offset, const void *data,
                         uint64_t size, int last, ccq_error *err)
{
    ccq_job *j = ctx;
    return j->put(j->put_ctx, tensor, offset, data, size, last, err);
}

static void sink_made_from(void *ctx, const ccq_action *a, uint32_t crc)
{
    ccq_ledger_made_from(((ccq_job *)ctx)->ledger, a, 0, crc);
}

static int sink_done(void *ctx, size_t tensor)
{
    return ccq_ledger_done(((ccq_job *)ctx)->ledger, tensor);
}

static int sink_wants(void *ctx, size_t tensor)
{
    return ccq_ledger_wants(((ccq_job *)ctx)->ledger, tensor);
}

static ccq_code sink_read(void *ctx, size_t tensor, void *dst, uint64_t size, ccq_error *err)
{
    return ccq_ledger_read(((ccq_job *)ctx)->ledger, tensor, 0, dst, size, err);
}

static int sink_stopping(void *ctx)
{
    return ccq_job_stopping(ctx);
}

static ccq_code calibrated(ccq_job *j, ccq_quantize_result *result, ccq_error *err)
{
    const ccq_calib_sink sink = {sink_put, sink_made_from, sink_done, sink_wants, sink_read,
                                 sink_stopping, j};
    return ccq_calibrate(&j->engine, &sink, result, err);
}

static ccq_code tensors(ccq_job *j, ccq_quantize_result *result, ccq_error *err)
{
    ccq_code code = j->plan->options.calibration.kind ? calibrated(j, result, err)
                                                      : ccq_job_tensors(j, result, err);
    if (!code || code == CCQ_INTERRUPTED) { /* what is finished is kept */
        ccq_error late;
        ccq_code flushed = ccq_ledger_flush(j->ledger, &late);
        if (flushed && err)
            *err = late;
        code = flushed ? flushed : code;
    }
    return code;
}

/* Everything together; of several processes, by whoever is asked to. */
static ccq_code commit(ccq_job *j, ccq_error *err)
{
    ccq_code code = ccq_job_forget_old(j, err);
    if (!code)
        code = ccq_ledger_complete(j->ledger, err);
    if (!code)
        code = ccq_job_side_files(j, err);
    if (!code && ccq_job_stopping(j))
        code = ccq_fail(err, CCQ_INTERRUPTED, "interrupted");
    return code ? code : ccq_ledger_commit(j->ledger, err);
}

/* Only debris is left, or not even that: is it this job that is in place? */
static ccq_code finished(ccq_job *j, ccq_error *err)
{
    size_t tensors = (size_t)j->plan->ranks * ccq_layout_count(j->plan->layout), known = 0;
    ccq_code code = ccq_job_same_output(j, err);
    while (known < tensors && ccq_ledger_done(j->ledger, known))
        known++;
    if (!code && ccq_ledger_moved(j->ledger))
        code = known < tensors
                   ? ccq_fail(err, CCQ_CHANGED,
                              "%s: is complete, but the input has been written to since, and the "
                              "journal that could tell whether it is the same has gone",
                              j->plan->output)
                   : ccq_job_compare(j, err);
    if (!code && j->run.warn)
        j->run.warn(j->run.ctx, "the output is complete already");
    if (code != CCQ_CHANGED || !j->plan->options.finalize ||
        ccq_path_exists(ccq_stage_work(ccq_ledger_stage(j->ledger))))
        return code;
    if (err)
        err->code = CCQ_EXISTS; /* somebody's checkpoint, not an unfinished job */
    return CCQ_EXISTS;
}

static ccq_code work(ccq_job *j, ccq_quantize_result *result, ccq_error *err)
{
    ccq_code code = start(j, err);
    if (code)
        return code;
    if (ccq_ledger_finished(j->ledger)) {
        code = finished(j, err);
        return code ? code : ccq_ledger_commit(j->ledger, err);
    }
    code = compare(j, err);
    if (!code && !j->plan->options.finalize)
        code = tensors(j, result, err);
    if (!code)
        code = ccq_source_recheck(j->plan->src, err);
    if (!code && (j->plan->options.world <= 1 || j->plan->options.finalize))
        code = commit(j, err);
    return code;
}

ccq_code ccq_quantize_run(const ccq_plan *plan, const ccq_quantize_run_options *run,
                          ccq_quantize_result *result, ccq_error *err)
{
    long long begin = now_ns();
    ccq_job j = {.plan = plan};
    *result = (ccq_quantize_result){0};
    ccq_job_wrap(&j, run);
    result->outcome = calloc(plan->count + 1, sizeof *result->outcome);
    ccq_code code = result->outcome ? ccq_engine_init(&j.engine, plan, &j.run, err)
                                    : ccq_job_no_memory(err);
    if (!code)
        code = work(&j, result, err);
    if (!code) {
        sum_up(&j, result);
        result->wall_s = 1e-9 * (double)(now_ns() - begin);
    }
    ccq_ledger_close(j.ledger, code);
    ccq_engine_free(&j.engine);
    free(j.skip);
    free(j.side);
    return code;
}

void ccq_quantize_result_free(ccq_quantize_result *result)
{
    free(result->outcome);
    free(result->layer);
    ccq_text_free(&result->without_statistics);
    result->outcome = NULL;
    result->layer = NULL;
}
