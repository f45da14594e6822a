/* After an input's time has changed: was what is finished made from what is there now?
 * The same reading as for the work, with sums in place of codes. */
#include "libccq/job_internal.h"

#include <stdlib.h>
#include <string.h>

typedef struct comparison {
    ccq_job *job;
    uint32_t crc; /* of the tensor being copied */
} comparison;

static ccq_code same(const ccq_job *j, size_t tensor, uint32_t crc, ccq_error *err)
{
    char shown[300];
    const char *name =
        ccq_layout_at(j->plan->layout, tensor % ccq_layout_count(j->plan->layout))->name;
    if (!ccq_ledger_done(j->ledger, tensor) || ccq_ledger_source(j->ledger, tensor) == crc)
        return CCQ_OK;
    return ccq_fail(err, CCQ_CHANGED,
                    "%s: the input is not the one that its finished bytes were made from",
                    ccq_escape(shown, sizeof shown, name, strlen(name)));
}

static ccq_code same_action(const ccq_job *j, const ccq_action *a, int rank, uint32_t crc,
                            ccq_error *err)
{
    size_t first = (size_t)rank * ccq_layout_count(j->plan->layout);
    ccq_code code = CCQ_OK;
    for (int i = 0; i < a->tensors && !code; i++)
        code = same(j, first + a->tensor[i], crc, err);
    return code;
}

static ccq_code compare_slice(ccq_job *j, const ccq_columns *c, uint32_t source, void *ctx,
                              ccq_error *err)
{
    (void)ctx;
    return same_action(j, c->a, c->rank, source, err);
}

/* A ccq_put. */
static ccq_code compare_put(void *ctx, size_t tensor, uint64_t offset, const void *data,
                            uint64_t size, int last, ccq_error *err)
{
    comparison *c = ctx;
    c->crc = ccq_job_crc(offset ? c->crc : 0, data, size);
    return last ? same(c->job, tensor, c->crc, err) : CCQ_OK;
}

static ccq_code compare_unit(comparison *c, ccq_pipe *pipe, const ccq_unit *u, ccq_error *err)
{
    ccq_job *j = c->job;
    const ccq_action *a = &j->plan->action[u->action];
    ccq_code code = CCQ_OK;
    if (u->kind == CCQ_UNIT_WHOLE)
        return ccq_is_quantized(a->to) ? ccq_job_matrix(j, a, compare_slice, NULL, err)
                                       : ccq_copy_tensor(&j->engine, a, compare_put, c, err);
    if (u->kind == CCQ_UNIT_BLOCK) {
        j->source = u->n0 ? j->source ^ u->crc : u->crc;
        if (u->last)
            code = same_action(j, a, u->rank, j->source, err);
    } else {
        size_t first = (size_t)u->rank * ccq_layout_count(j->plan->layout);
        code = compare_put(c, first + a->tensor[0], u->offset, u->data, u->size, u->last, err);
    }
    ccq_pipe_done(pipe, u);
    return code;
}

/* Only what has finished tensors is read. */
static ccq_code choose(ccq_job *j, ccq_error *err)
{
    size_t ranks = (size_t)j->plan->ranks, count = ccq_layout_count(j->plan->layout);
    j->skip = calloc(j->plan->count * ranks + 1, 1);
    if (!j->skip)
        return ccq_job_no_memory(err);
    for (size_t i = 0; i < j->plan->count; i++)
        for (size_t r = 0; r < ranks; r++) {
            int done = 0;
            for (int t = 0; t < j->plan->action[i].tensors; t++)
                done |= ccq_ledger_done(j->ledger, r * count + j->plan->action[i].tensor[t]);
            j->skip[i * ranks + r] = !done;
        }
    j->engine.skip = j->skip;
    return CCQ_OK;
}

ccq_code ccq_job_compare(ccq_job *j, ccq_error *err)
{
    ccq_unit u;
    int more = 0;
    comparison c = {.job = j};
    ccq_pipe *pipe = NULL;
    ccq_code code = choose(j, err);
    if (!code)
        code = ccq_pipe_open(&pipe, &j->engine, NULL, compare_put, &c, err);
    while (!code && !(code = ccq_pipe_next(pipe, &u, &more, err)) && more) {
        code = ccq_job_stopping(j) ? ccq_fail(err, CCQ_INTERRUPTED, "interrupted")
                                   : compare_unit(&c, pipe, &u, err);
    }
    ccq_pipe_close(pipe);
    free(j->skip);
    j->skip = NULL;
    j->engine.skip = NULL;
    return code;
}
