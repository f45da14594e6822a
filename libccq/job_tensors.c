/* Tensor after tensor, the next being read and the last written meanwhile. */
#include "libccq/job_internal.h"

#include <stdlib.h>

/* ctx is the outcome. */
static ccq_code encode_slice(ccq_job *j, const ccq_columns *c, uint32_t source, void *ctx,
                             ccq_error *err)
{
    size_t first = (size_t)c->rank * ccq_layout_count(j->plan->layout);
    ccq_planes planes = {0};
    void *memory = malloc((size_t)ccq_planes_size(c->a));
    if (!memory)
        return ccq_job_no_memory(err);
    ccq_planes_place(&planes, c->a, memory);
    if (j->ledger)
        ccq_ledger_made_from(j->ledger, c->a, c->rank, source);
    ccq_code code = ccq_quantize_columns(&j->engine, c, &planes, ctx, err);
    for (int i = 0; !code && i < c->a->tensors; i++)
        code = j->put(j->put_ctx, first + c->a->tensor[i], 0, planes.plane[i], planes.bytes[i], 1,
                      err);
    free(memory);
    return code;
}

/* What cannot be read ahead, with nothing left for the writer. */
static ccq_code work_whole(ccq_job *j, const ccq_action *a, ccq_outcome *outcome, ccq_error *err)
{
    ccq_code code = ccq_pipe_drain(j->pipe, err);
    if (code)
        return code;
    return ccq_is_quantized(a->to)
               ? ccq_job_matrix(j, a, encode_slice, outcome, err)
               : ccq_copy_tensor(&j->engine, a, j->put, j->put_ctx, err);
}

/* Planes for the slice that a block opens, and the check sum so far. */
static ccq_code open_slice(ccq_job *j, const ccq_action *a, const ccq_unit *u, ccq_error *err)
{
    ccq_code code = u->n0 ? CCQ_OK : ccq_pipe_planes(j->pipe, a, &j->planes, err);
    j->source = u->n0 ? j->source ^ u->crc : u->crc;
    return code;
}

/* A block's memory is free; the last one's slice goes to the writer. */
static ccq_code close_block(ccq_job *j, const ccq_action *a, const ccq_unit *u, ccq_error *err)
{
    ccq_pipe_done(j->pipe, u);
    if (!u->last)
        return CCQ_OK;
    if (j->ledger)
        ccq_ledger_made_from(j->ledger, a, u->rank, j->source);
    return ccq_pipe_write(j->pipe, a, u->rank, &j->planes, err);
}

/* By the CPU, or, landed from the device, by whichever did it. */
static ccq_code work_block(ccq_job *j, const ccq_unit *u, int landed, ccq_outcome *outcome,
                           ccq_error *err)
{
    const ccq_action *a = &j->plan->action[u->action];
    ccq_columns c = {a, u->rank, u->n0, u->nc, u->strip, u->data, NULL};
    ccq_code code = open_slice(j, a, u, err);
    if (!code && landed)
        code = ccq_device_land(j->device, &c, &j->planes, outcome, err);
    else if (!code)
        code = ccq_quantize_columns(&j->engine, &c, &j->planes, outcome, err);
    return code ? code : close_block(j, a, u, err);
}

static void add_progress(ccq_job *j, size_t i)
{
    ccq_progress *done = &j->engine.done;
    done->tensors++;
    done->bytes_in += j->plan->action[i].bytes_in;
    done->bytes_out += j->plan->action[i].bytes_out;
}

static void report_done(ccq_job *j, size_t i, const ccq_outcome *outcome)
{
    const ccq_quantize_run_options *run = j->engine.run;
    add_progress(j, i);
    if (run->progress)
        run->progress(run->ctx, &j->engine.done);
    if (run->tensor)
        run->tensor(run->ctx, i, outcome);
}

/* What the ledger needs nothing of is not read. */
static ccq_code choose(ccq_job *j, ccq_error *err)
{
    size_t ranks = (size_t)j->plan->ranks;
    j->skip = calloc(j->plan->count * ranks + 1, 1);
    if (!j->skip)
        return ccq_job_no_memory(err);
    for (size_t i = 0; i < j->plan->count; i++) {
        int needed = 0;
        for (size_t r = 0; r < ranks; r++) {
            int needs = ccq_ledger_needs(j->ledger, &j->plan->action[i], (int)r);
            j->skip[i * ranks + r] = !needs;
            needed |= needs;
        }
        if (!needed)
            add_progress(j, i);
    }
    return CCQ_OK;
}

/* The last unit of its action. */
static int ends_action(const ccq_job *j, const ccq_unit *u)
{
    size_t ranks = (size_t)j->plan->ranks;
    if (!u->last)
        return 0;
    for (size_t r = (size_t)u->rank + 1; r < ranks; r++)
        if (!j->skip[u->action * ranks + r])
            return 0;
    return 1;
}

static ccq_code work_unit(ccq_job *j, const ccq_unit *u, ccq_quantize_result *result,
                          ccq_error *err)
{
    const ccq_action *a = &j->plan->action[u->action];
    ccq_outcome *outcome = &result->outcome[u->action];
    ccq_code code = ccq_engine_poll(&j->engine, err);
    if (!code && u->kind == CCQ_UNIT_BLOCK)
        code = work_block(j, u, 0, outcome, err);
    else if (!code && u->kind == CCQ_UNIT_WINDOW)
        code = ccq_pipe_pass(j->pipe, u, err);
    else if (!code)
        code = work_whole(j, a, outcome, err);
    if (!code && ends_action(j, u))
        report_done(j, u->action, outcome);
    return code;
}

/* ---- Over the device ------------------------------------------------------------ */

/* Until no more than so many are in flight, the oldest first: tensors end in order. */
static ccq_code land(ccq_job *j, int flights, ccq_quantize_result *result, ccq_error *err)
{
    ccq_code code = CCQ_OK;
    while (!code && ccq_device_flights(j->device) > flights) {
        ccq_unit u = *ccq_device_oldest(j->device);
        ccq_outcome *outcome = &result->outcome[u.action];
        code = ccq_engine_poll(&j->engine, err);
        if (!code)
            code = work_block(j, &u, 1, outcome, err);
        if (!code && ends_action(j, &u))
            report_done(j, u.action, outcome);
    }
    return code;
}

/* Whoever would wait for the reader looks after what is in flight: the reader may wait for
 * its memory. */
static ccq_code next_unit(ccq_job *j, ccq_unit *u, int *more, ccq_quantize_result *result,
                          ccq_error *err)
{
    ccq_code code = CCQ_OK;
    while (!code && ccq_device_flights(j->device) && !ccq_pipe_ready(j->pipe))
        code = land(j, ccq_device_flights(j->device) - 1, result, err);
    return code ? code : ccq_pipe_next(j->pipe, u, more, err);
}

static ccq_code one_unit(ccq_job *j, const ccq_unit *u, ccq_quantize_result *result,
                         ccq_error *err)
{
    int flies = ccq_device_takes(j->device, u);
    ccq_code code = land(j, flies ? CCQ_DEVICE_FLIGHTS - 1 : 0, result, err);
    if (!code && flies)
        ccq_device_start(j->device, u);
    else if (!code)
        code = work_unit(j, u, result, err);
    return code;
}

/* A signal ends the job between two tensors, or after some time inside one. */
static ccq_code all_units(ccq_job *j, ccq_quantize_result *result, ccq_error *err)
{
    ccq_unit u;
    int more = 0, inside = 0, stopped = 0;
    ccq_code code = CCQ_OK;
    while (!code && !stopped && !(code = next_unit(j, &u, &more, result, err)) && more) {
        stopped = !inside && ccq_job_stopping(j);
        if (!stopped)
            code = one_unit(j, &u, result, err);
        inside = !ends_action(j, &u);
    }
    if (!code)
        code = land(j, 0, result, err);
    return code || !stopped ? code : ccq_fail(err, CCQ_INTERRUPTED, "interrupted");
}

ccq_code ccq_job_tensors(ccq_job *j, ccq_quantize_result *result, ccq_error *err)
{
    ccq_code code = j->skip ? CCQ_OK : choose(j, err);
    j->engine.skip = j->skip;
    if (!code)
        code = ccq_device_encoder_open(&j->device, &j->engine, err);
    if (!code)
        code = ccq_pipe_open(&j->pipe, &j->engine, j->device ? j->engine.run->gpu : NULL, j->put,
                             j->put_ctx, err);
    if (!code)
        code = all_units(j, result, err);
    ccq_device_encoder_close(j->device); /* before the memory that it reads */
    j->device = NULL;
    if (!j->pipe)
        return code;
    if (!code)
        code = ccq_pipe_drain(j->pipe, err);
    else if (code == CCQ_INTERRUPTED)
        ccq_pipe_drain(j->pipe, NULL); /* what is encoded is kept */
    ccq_pipe_close(j->pipe);
    return code;
}
