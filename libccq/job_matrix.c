/* A matrix that cannot be read ahead: joined, decoded or transformed, and then cut. */
#include "libccq/job_internal.h"
#include "libccq/slice.h"

#include <stdlib.h>

/* The whole, and a slice of it (NULL: not cut): bf16, or fp32 where a transform made it. */
typedef struct matrix {
    uint16_t *whole, *part;
    float *whole_f, *part_f;
} matrix;

/* Slices first, each encoded with scales of its own. */
static ccq_code one_rank(ccq_job *j, const ccq_action *a, int rank, const matrix *m,
                         ccq_slice_fn fn, void *ctx, ccq_error *err)
{
    ccq_columns c = {a, rank, 0, a->n, a->n, m->part ? m->part : m->whole,
                     m->part_f ? m->part_f : m->whole_f};
    ccq_slice slice;
    ccq_slice_of(&j->plan->src->arch, a->entry, rank, j->plan->ranks, &slice);
    if (m->part)
        ccq_slice_take(&slice, m->whole, m->part);
    if (m->part_f)
        ccq_slice_take_f32(&slice, m->whole_f, m->part_f);
    uint64_t values = (uint64_t)a->k * (uint64_t)a->n;
    uint32_t source = m->whole_f ? ccq_job_crc(0, m->part_f ? m->part_f : m->whole_f, 4 * values)
                                 : ccq_job_crc(0, m->part ? m->part : m->whole, 2 * values);
    return fn(j, &c, source, ctx, err);
}

static ccq_code read_transformed(const ccq_job *j, const ccq_action *a, float **w, ccq_error *err)
{
    *w = malloc((size_t)ccq_entry_parameters(a->entry) * sizeof **w);
    return *w ? ccq_transform_matrix(j->plan->transform, a->entry, j->engine.run->pool, *w, err)
              : ccq_job_no_memory(err);
}

ccq_code ccq_job_matrix(ccq_job *j, const ccq_action *a, ccq_slice_fn fn, void *ctx,
                        ccq_error *err)
{
    matrix m = {0};
    size_t size = (size_t)a->k * (size_t)a->n;
    int wide = j->plan->transform != NULL;
    ccq_code code = CCQ_OK;
    if (j->plan->ranks > 1 && wide)
        m.part_f = malloc(size * sizeof *m.part_f);
    else if (j->plan->ranks > 1)
        m.part = malloc(size * sizeof *m.part);
    if (j->plan->ranks > 1 && !m.part && !m.part_f)
        code = ccq_job_no_memory(err);
    if (!code)
        code = wide ? read_transformed(j, a, &m.whole_f, err)
                    : ccq_read_matrix(&j->engine, a, &m.whole, err);
    for (int rank = 0; !code && rank < j->plan->ranks; rank++)
        if (!j->skip[(size_t)(a - j->plan->action) * (size_t)j->plan->ranks + (size_t)rank])
            code = one_rank(j, a, rank, &m, fn, ctx, err);
    free(m.part_f);
    free(m.part);
    free(m.whole_f);
    free(m.whole);
    return code;
}
