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

static ccq_code work_block(ccq_job *j, const ccq_action *a, const ccq_unit *u,
                           ccq_outcome *outcome, ccq_error *err)
{
    ccq_columns c = {a, u->rank, u->n0, u->nc, u->strip, u->data, NULL};
    ccq_code code = u->n0 ? CCQ_OK : ccq_pipe_planes(j->pipe, a, &j->planes, err);
    j->source = u->n0 ? j->source ^ u->crc : u->crc;
    if (!code)
        code = ccq_quantize_columns(&j->engine, &c, &j->planes, outcome, err);
    ccq_pipe_done(j->pipe, u);
    if (code || !u->last)
        return code;
    if (j->ledger)
        ccq_ledger_made_from(j->ledger, a, u->rank, j->source);
    return ccq_pipe_write(j->pipe, a, u->rank, &j->planes, err);
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
        code = work_block(j, a, u, outcome, err);
    else if (!code && u->kind == CCQ_UNIT_WINDOW)
        code = ccq_pipe_pass(j->pipe, u, err);
    else if (!code)
        code = work_whole(j, a, outcome, err);
    return code;
}

/* A signal ends the job between two tensors, or after some time inside one. */
static ccq_code all_units(ccq_job *j, ccq_quantize_result *result, ccq_error *err)
{
    ccq_unit u;
    int more = 0, inside = 0;
    ccq_code code = CCQ_OK;
    while (!code && !(code = ccq_pipe_next(j->pipe, &u, &more, err)) && more) {
        if (!inside && ccq_job_stopping(j))
            return ccq_fail(err, CCQ_INTERRUPTED, "interrupted");
        code = work_unit(j, &u, result, err);
        inside = !ends_action(j, &u);
        if (!code && !inside)
            report_done(j, u.action, &result->outcome[u.action]);
    }
    return code;
}

ccq_code ccq_job_tensors(ccq_job *j, ccq_quantize_result *result, ccq_error *err)
{
    ccq_code code = j->skip ? CCQ_OK : choose(j, err);
    j->engine.skip = j->skip;
    if (!code)
        code = ccq_pipe_open(&j->pipe, &j->engine, j->put, j->put_ctx, err);
    if (code)
        return code;
    code = all_units(j, result, err);
    if (!code)
        code = ccq_pipe_drain(j->pipe, err);
    else if (code == CCQ_INTERRUPTED)
        ccq_pipe_drain(j->pipe, NULL); /* what is encoded is kept */
    ccq_pipe_close(j->pipe);
    return code;
}
