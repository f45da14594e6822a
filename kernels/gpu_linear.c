/* Products of a device, put together from its steps. */
#include "kernels/gpu/linear_steps.h"

#include <stdlib.h>

static int refuse(ccq_gpu *gpu, const ccq_weight *w, const char *why)
{
    return ccq_gpu_fail(gpu, CCQ_GPU_FAILED, "linear: weight of type %d, %lld x %lld: %s", w->type,
                        (long long)w->k, (long long)w->n, why);
}

/* At most CCQ_GPU_FEW rows. */
static int linear_few(ccq_gpu *gpu, const ccq_gpu_linear_steps *steps, const ccq_gpu_linear *p,
                      int64_t row, int64_t rows)
{
    ccq_gpu_few_plan plan = ccq_gpu_plan_few(p->w, gpu->info.multiprocessors);
    ccq_gpu_few f = {
        .w = *p->w,
        .wide = ccq_gpu_is_wide(p->w),
        .x = p->x + row * p->ldx,
        .ldx = p->ldx,
        .rows = rows,
        .bf16 = p->bf16 && p->round,
        .y = p->y + row * p->ldy,
        .ldy = p->ldy,
        .part = plan.pieces > 1 ? p->work : NULL,
        .tiles = plan.tiles,
        .chunks = plan.chunks,
        .pieces = plan.pieces,
    };

    return steps->few(gpu, &f);
}

/* One run of columns. */
static int linear_run(ccq_gpu *gpu, const ccq_gpu_linear_steps *steps, const ccq_gpu_linear *p,
                      const ccq_gpu_many_plan *m, int64_t c0)
{
    int64_t columns = ccq_gpu_min(m->run, p->w->n - c0);
    ccq_gpu_unpack u = {*p->w, ccq_gpu_is_wide(p->w), c0, columns, m->as_float,
                        (char *)p->work + m->narrow};
    ccq_gpu_dense d = {
        .as_float = m->as_float,
        .along_k = m->along_k,
        .x = m->as_float ? (const void *)p->x : p->work,
        .w = m->direct ? p->w->data : u.to,
        .ldx = m->as_float ? p->ldx : p->w->k,
        .rows = p->rows,
        .k = p->w->k,
        .columns = columns,
        .y = p->y + c0,
        .ldy = p->ldy,
    };
    int code = m->direct ? CCQ_GPU_OK : steps->unpack(gpu, &u);

    return code ? code : steps->dense(gpu, &d);
}

static int linear_many(ccq_gpu *gpu, const ccq_gpu_linear_steps *steps, const ccq_gpu_linear *p)
{
    ccq_gpu_many_plan m = ccq_gpu_plan_many(p->w, p->rows, p->bf16);
    ccq_gpu_narrow narrow = {p->x, p->ldx, p->rows, p->w->k, p->work};
    ccq_gpu_round round = {p->y, p->ldy, p->rows, p->w->n};
    int code = m.as_float ? CCQ_GPU_OK : steps->narrow(gpu, &narrow);

    for (int64_t c0 = 0; c0 < p->w->n && !code; c0 += m.run)
        code = linear_run(gpu, steps, p, &m, c0);
    return !code && p->bf16 && p->round ? steps->round(gpu, &round) : code;
}

int ccq_gpu_linear_by(ccq_gpu *gpu, const ccq_gpu_linear_steps *steps, const ccq_gpu_linear *p)
{
    const char *why = ccq_gpu_linear_refuses(p->w);
    int code = CCQ_GPU_OK;

    if (why)
        return refuse(gpu, p->w, why);
    if (p->rows >= INT32_MAX || p->ldx >= INT32_MAX || p->ldy >= INT32_MAX)
        return refuse(gpu, p->w, "rows are 2^31 or more, or as long");
    if (!p->rows || !p->w->n)
        return CCQ_GPU_OK;
    if (p->rows > CCQ_GPU_FEW && p->w->k && steps->has_dense(gpu))
        return linear_many(gpu, steps, p);
    for (int64_t row = 0; row < p->rows && !code; row += CCQ_GPU_FEW)
        code = linear_few(gpu, steps, p, row, ccq_gpu_min(CCQ_GPU_FEW, p->rows - row));
    return code;
}

/* ---- All experts --------------------------------------------------------- */

static int same_shapes(ccq_gpu *gpu, const ccq_gpu_grouped *p)
{
    for (int64_t e = 0; e < p->experts; e++) {
        const char *why = ccq_gpu_linear_refuses(&p->w[e]);
        if (!why && (p->w[e].type != p->w->type || p->w[e].k != p->w->k || p->w[e].n != p->w->n))
            why = "other experts are of another type or shape";
        if (why)
            return refuse(gpu, &p->w[e], why);
    }
    return CCQ_GPU_OK;
}

static int grouped_few(ccq_gpu *gpu, const ccq_gpu_linear_steps *steps, const ccq_gpu_grouped *p)
{
    ccq_gpu_few_plan plan = ccq_gpu_plan_few(p->w, gpu->info.multiprocessors);
    ccq_gpu_groups g = {p->table, p->experts, p->start, {
        .w = *p->w,
        .wide = 1,
        .x = p->x,
        .ldx = p->ldx,
        .bf16 = p->bf16,
        .y = p->y,
        .ldy = p->ldy,
        .tiles = plan.tiles,
        .chunks = plan.chunks,
        .pieces = 1,
    }};

    for (int64_t e = 0; e < p->experts; e++)
        g.few.wide &= ccq_gpu_is_wide(&p->w[e]);
    return steps->groups(gpu, &g);
}

static int grouped_many(ccq_gpu *gpu, const ccq_gpu_linear_steps *steps,
                        const ccq_gpu_grouped *p)
{
    size_t bytes = ((size_t)p->experts + 1) * sizeof(int32_t);
    int32_t *start = malloc(bytes);
    int code = start ? ccq_gpu_download(gpu, start, p->start, bytes)
                     : ccq_gpu_fail(gpu, CCQ_GPU_NO_MEMORY, "grouped: out of memory");

    for (int64_t e = 0; e < p->experts && !code; e++) {
        ccq_gpu_linear one = {
            .w = &p->w[e],
            .x = p->x + start[e] * p->ldx,
            .ldx = p->ldx,
            .rows = start[e + 1] - start[e],
            .bf16 = p->bf16,
            .round = 1,
            .y = p->y + start[e] * p->ldy,
            .ldy = p->ldy,
            .work = p->work,
        };
        code = ccq_gpu_linear_by(gpu, steps, &one);
    }
    free(start);
    return code;
}

int ccq_gpu_grouped_by(ccq_gpu *gpu, const ccq_gpu_linear_steps *steps, const ccq_gpu_grouped *p)
{
    int code = same_shapes(gpu, p);

    if (code || !p->experts || !p->rows || !p->w->n)
        return code;
    return p->few ? grouped_few(gpu, steps, p) : grouped_many(gpu, steps, p);
}
