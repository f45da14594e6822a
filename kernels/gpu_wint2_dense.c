/* Experts of very many rows, put together from steps that all devices have. */
#include "kernels/gpu/wint2_dense.h"

#include <stdlib.h>

typedef struct call {
    ccq_gpu *gpu;
    const ccq_w2_dense_steps *steps;
    const ccq_gpu_experts *p;
    ccq_w2_plan plan;
    uint16_t *weights; /* a run */
    float *gu;         /* [chunk][2 inter] */
    int64_t chunk;
} call;

/* y[rows][n] = x[rows][k] m, run by run. */
static int product(const call *c, const ccq_gpu_matrix *m, const uint8_t *x, int64_t rows, float *y)
{
    const int64_t tiles = m->n / CCQ_W2_TILE, run = ccq_w2_dense_run(m->k, m->n);
    int code = CCQ_GPU_OK;

    for (int64_t tile = 0; tile < tiles && !code; tile += run) {
        int64_t count = tiles - tile < run ? tiles - tile : run;
        const ccq_w2_dequant d = {*m, tile, count, c->weights};
        const ccq_gpu_dense dense = {
            .along_k = 1, .x = x, .w = c->weights, .ldx = m->k, .rows = rows, .k = m->k,
            .columns = count * CCQ_W2_TILE, .y = y + tile * CCQ_W2_TILE, .ldy = m->n};
        code = c->steps->dequant(c->gpu, &d);
        if (!code)
            code = c->steps->dense(c->gpu, &dense);
    }
    return code;
}

static const uint8_t *staged(const ccq_w2_stage *s, int64_t place)
{
    return s->to + place * s->k * 2;
}

/* h of an expert's rows. */
static int up(const call *c, int64_t e, int64_t first, int64_t end)
{
    int code = CCQ_GPU_OK;

    for (int64_t at = first; at < end && !code; at += c->chunk) {
        int64_t rows = end - at < c->chunk ? end - at : c->chunk;
        const ccq_w2_hidden h = {c->gu, at, rows, c->p->inter, c->p->order, c->plan.h.to};
        code = product(c, &c->p->host_up_gate[e], staged(&c->plan.x, at), rows, c->gu);
        if (!code)
            code = c->steps->hidden(c->gpu, &h);
    }
    return code;
}

static int all_experts(const call *c, const int32_t *start)
{
    const ccq_gpu_experts *p = c->p;
    const ccq_gpu_round round = {p->y, p->hidden, p->rows, p->hidden};
    int code = c->steps->stage(c->gpu, &c->plan.x);

    for (int64_t e = 0; e < p->experts && !code; e++)
        code = up(c, e, start[e], start[e + 1]);
    for (int64_t e = 0; e < p->experts && !code; e++)
        if (start[e] < start[e + 1])
            code = product(c, &p->host_down[e], staged(&c->plan.h, start[e]),
                           start[e + 1] - start[e], p->y + start[e] * p->hidden);
    return code ? code : c->steps->round(c->gpu, &round);
}

int ccq_gpu_wint2_dense_by(ccq_gpu *gpu, const ccq_w2_dense_steps *steps, const ccq_gpu_experts *p)
{
    const size_t bytes = ((size_t)p->experts + 1) * sizeof(int32_t);
    int32_t *start = malloc(bytes);
    call c = {.gpu = gpu, .steps = steps, .p = p, .plan = ccq_w2_wide_plan_of(p)};
    int code = start ? ccq_gpu_download(gpu, start, p->start, bytes)
                     : ccq_gpu_fail(gpu, CCQ_GPU_NO_MEMORY, "wint2 experts: out of memory");

    c.weights = (uint16_t *)(void *)((uint8_t *)p->work +
                                     ccq_w2_work_bytes(p->hidden, p->inter, p->rows));
    c.gu = c.plan.up_gate.y; /* for h of all rows in fp32: half as many of gate and up */
    c.chunk = p->rows / 2 < CCQ_W2_DENSE_CHUNK ? p->rows / 2 : CCQ_W2_DENSE_CHUNK;
    if (!code)
        code = all_experts(&c, start);
    free(start);
    return code;
}
