/* One tensor made once more, beside what an output holds of it. */
#include "libccq/job_internal.h"

#include "formats/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct check {
    const ccq_plan *plan;
    ccq_checkpoint **ck; /* by rank of tensor parallel; NULL: not yet open */
    unsigned char *block;
    ccq_tensor_check *result;
} check;

enum { BLOCK = 1 << 20 };

/* The name of an entry, with ".weight" or without, or that of a tensor it is stored as. */
static int is_called(const ccq_plan *plan, const ccq_action *a, const char *name)
{
    size_t n = strlen(a->entry->name);
    if (strncmp(name, a->entry->name, n) == 0 && (!name[n] || strcmp(name + n, ".weight") == 0))
        return 1;
    for (int i = 0; i < a->tensors; i++)
        if (strcmp(name, ccq_layout_at(plan->layout, a->tensor[i])->name) == 0)
            return 1;
    return 0;
}

static ccq_code open_rank(check *c, size_t rank, ccq_error *err)
{
    char name[32];
    char *dir = NULL;
    if (c->ck[rank])
        return CCQ_OK;
    if (c->plan->ranks == 1)
        return ccq_checkpoint_open(&c->ck[rank], c->plan->output, err);
    snprintf(name, sizeof name, "rank%zu", rank);
    dir = ccq_path_join(c->plan->output, name);
    ccq_code code = dir ? ccq_checkpoint_open(&c->ck[rank], dir, err) : ccq_job_no_memory(err);
    free(dir);
    return code;
}

/* The stored tensor, which must be what the plan would store. */
static ccq_code find(check *c, size_t rank, const ccq_layout_tensor *want, const ccq_tensor **found,
                     ccq_error *err)
{
    char name[300];
    ccq_code code = open_rank(c, rank, err);
    if (code)
        return code;
    const ccq_tensor *t = *found = ccq_checkpoint_find(c->ck[rank], want->name);
    ccq_escape(name, sizeof name, want->name, strlen(want->name));
    if (!t)
        return ccq_fail(err, CCQ_INCOMPLETE, "%s: \"%s\" is not in it", c->plan->output, name);
    if (t->dtype != want->dtype)
        return ccq_fail(err, CCQ_DTYPE, "%s: \"%s\" is %s, and would be %s", c->plan->output, name,
                        ccq_dtype_name((ccq_dtype)t->dtype), ccq_dtype_name(want->dtype));
    int same = t->rank == want->rank && t->bytes == want->bytes;
    for (int i = 0; same && i < t->rank; i++)
        same = t->shape[i] == want->shape[i];
    return same ? CCQ_OK
                : ccq_fail(err, CCQ_SHAPE, "%s: \"%s\" has another shape", c->plan->output, name);
}

static void note(check *c, size_t rank, const ccq_tensor *t, uint64_t at, const uint8_t *found,
                 const uint8_t *wanted)
{
    const ccq_shard *s = ccq_checkpoint_shard(c->ck[rank], t->shard);
    size_t i = 0;
    while (found[i] == wanted[i])
        i++;
    snprintf(c->result->tensor, sizeof c->result->tensor, "%s", t->name);
    if (c->plan->ranks > 1)
        snprintf(c->result->file, sizeof c->result->file, "rank%zu/%s", rank, s->name);
    else
        snprintf(c->result->file, sizeof c->result->file, "%s", s->name);
    c->result->at = at + i;
    c->result->file_at = t->offset + at + i;
    c->result->found = found[i];
    c->result->wanted = wanted[i];
}

/* A ccq_put. */
static ccq_code compare(void *ctx, size_t tensor, uint64_t offset, const void *data, uint64_t size,
                        int last, ccq_error *err)
{
    check *c = ctx;
    size_t count = ccq_layout_count(c->plan->layout), rank = tensor / count;
    const ccq_tensor *t = NULL;
    ccq_code code = find(c, rank, ccq_layout_at(c->plan->layout, tensor % count), &t, err);
    for (uint64_t at = 0; at < size && !code; at += BLOCK) {
        uint64_t n = size - at < BLOCK ? size - at : BLOCK;
        const uint8_t *want = (const uint8_t *)data + at;
        code = ccq_checkpoint_read(c->ck[rank], t, offset + at, c->block, n, err);
        if (!code && !*c->result->tensor && memcmp(c->block, want, (size_t)n) != 0)
            note(c, rank, t, offset + at, c->block, want);
    }
    c->result->bytes += size;
    c->result->tensors += last;
    return code;
}

/* Is everything there that the action is stored as? */
static ccq_code look(check *c, const ccq_action *a, ccq_error *err)
{
    const ccq_tensor *t;
    ccq_code code = CCQ_OK;
    for (size_t r = 0; r < (size_t)c->plan->ranks && !code; r++)
        for (int i = 0; i < a->tensors && !code; i++)
            code = find(c, r, ccq_layout_at(c->plan->layout, a->tensor[i]), &t, err);
    return code;
}

static ccq_code work(ccq_job *j, const ccq_action *a, ccq_error *err)
{
    size_t ranks = (size_t)j->plan->ranks;
    ccq_quantize_result made = {.outcome = calloc(j->plan->count + 1, sizeof *made.outcome)};
    j->skip = malloc(j->plan->count * ranks + 1);
    ccq_code code = made.outcome && j->skip ? ccq_engine_init(&j->engine, j->plan, &j->run, err)
                                            : ccq_job_no_memory(err);
    if (!code) {
        memset(j->skip, 1, j->plan->count * ranks);
        memset(j->skip + (size_t)(a - j->plan->action) * ranks, 0, ranks);
        code = ccq_job_tensors(j, &made, err);
    }
    ccq_engine_free(&j->engine);
    ccq_quantize_result_free(&made);
    free(j->skip);
    return code;
}

ccq_code ccq_check_tensor(const ccq_plan *plan, const ccq_quantize_run_options *run,
                          const char *name, ccq_tensor_check *result, ccq_error *err)
{
    char shown[300];
    size_t i = 0;
    *result = (ccq_tensor_check){0};
    while (i < plan->count && !is_called(plan, &plan->action[i], name))
        i++;
    if (i == plan->count)
        return ccq_fail(err, CCQ_USAGE, "check-tensor: no tensor is called \"%s\"",
                        ccq_escape(shown, sizeof shown, name, strlen(name)));
    if (plan->options.calibration.kind != CCQ_CALIBRATE_NONE)
        return ccq_fail(err, CCQ_UNSUPPORTED,
                        "check-tensor: a calibrated tensor depends on those before it");
    check c = {plan, calloc((size_t)plan->ranks, sizeof *c.ck), malloc(BLOCK), result};
    ccq_job j = {.plan = plan, .put = compare, .put_ctx = &c};
    ccq_code code = c.ck && c.block ? look(&c, &plan->action[i], err) : ccq_job_no_memory(err);
    if (!code && run) {
        ccq_job_wrap(&j, run);
        code = work(&j, &plan->action[i], err);
    }
    for (int r = 0; c.ck && r < plan->ranks; r++)
        ccq_checkpoint_close(c.ck[r]);
    free(c.ck);
    free(c.block);
    return code;
}
