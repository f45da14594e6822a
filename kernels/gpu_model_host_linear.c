/* Products on the host device: the blocks phase by phase; what is cuBLAS elsewhere is plain
 * fp32 chains. */
#include "kernels/gpu/linear_steps.h"

#include <stdlib.h>

/* ---- Few rows ------------------------------------------------------------ */

typedef struct block {
    ccq_gpu_few_thread thread[CCQ_GPU_THREADS];
    ccq_gpu_few_shared shared;
} block;

static void few_block(const ccq_gpu_few *p, int rows, int64_t tile, int64_t piece, block *b)
{
    int type = p->w.type;
    int64_t chunk = ccq_gpu_part(p->chunks, p->pieces, piece);
    int64_t end = ccq_gpu_part(p->chunks, p->pieces, piece + 1);

    for (int t = 0; t < CCQ_GPU_THREADS; t++)
        ccq_gpu_few_begin(p, type, rows, tile, t, &b->thread[t]);
    for (; chunk < end; chunk++) {
        for (int t = 0; t < CCQ_GPU_THREADS; t++)
            ccq_gpu_few_load(p, type, rows, tile, chunk, t, &b->thread[t], &b->shared);
        for (int t = 0; t < CCQ_GPU_THREADS; t++)
            ccq_gpu_few_multiply(p, type, rows, chunk, t, &b->thread[t], &b->shared);
    }
    for (int pass = 0; pass < ccq_gpu_few_passes(type, rows); pass++) {
        for (int t = 0; t < CCQ_GPU_THREADS; t++)
            ccq_gpu_few_spill(type, rows, pass, t, &b->thread[t], &b->shared);
        for (int t = 0; t < CCQ_GPU_THREADS; t++)
            ccq_gpu_few_sum(p, type, rows, tile, piece, pass, t, &b->shared);
    }
}

static int few(ccq_gpu *gpu, const ccq_gpu_few *p)
{
    block *b = malloc(sizeof *b);

    if (!b)
        return ccq_gpu_fail(gpu, CCQ_GPU_NO_MEMORY, "host device: out of memory");
    for (int64_t tile = 0; tile < p->tiles; tile++)
        for (int64_t piece = 0; piece < p->pieces; piece++)
            few_block(p, ccq_gpu_few_width(p->rows), tile, piece, b);
    for (int64_t i = 0; p->part && i < p->rows * p->w.n; i++)
        ccq_gpu_few_join(p, i);
    free(b);
    return CCQ_GPU_OK;
}

static int groups(ccq_gpu *gpu, const ccq_gpu_groups *g)
{
    block *b = malloc(sizeof *b);

    if (!b)
        return ccq_gpu_fail(gpu, CCQ_GPU_NO_MEMORY, "host device: out of memory");
    for (int64_t e = 0; e < g->experts; e++)
        for (int64_t tile = 0; tile < g->few.tiles; tile++)
            for (int64_t row = g->start[e]; row < g->start[e + 1]; row += CCQ_GPU_FEW) {
                ccq_gpu_few f = ccq_gpu_groups_few(g, e, row);
                few_block(&f, ccq_gpu_few_width(f.rows), tile, 0, b);
            }
    free(b);
    return CCQ_GPU_OK;
}

/* ---- Many rows ----------------------------------------------------------- */

static int unpack(ccq_gpu *gpu, const ccq_gpu_unpack *p)
{
    (void)gpu;
    for (int64_t i = 0; i < ccq_gpu_unpack_units(p); i++)
        ccq_gpu_unpack_unit(p, p->w.type, i);
    return CCQ_GPU_OK;
}

static int narrow(ccq_gpu *gpu, const ccq_gpu_narrow *p)
{
    (void)gpu;
    for (int64_t r = 0; r < p->rows; r++)
        for (int64_t k = 0; k < p->k; k++)
            ccq_gpu_narrow_at(p, r, k);
    return CCQ_GPU_OK;
}

int ccq_gpu_host_round(ccq_gpu *gpu, const ccq_gpu_round *p)
{
    (void)gpu;
    for (int64_t r = 0; r < p->rows; r++)
        for (int64_t c = 0; c < p->n; c++)
            ccq_gpu_round_at(p, r, c);
    return CCQ_GPU_OK;
}

static int has_dense(ccq_gpu *gpu)
{
    (void)gpu;
    return 1;
}

static float element(const void *data, int as_float, int64_t i)
{
    return as_float ? ((const float *)data)[i] : ccq_bf16_to_f32(((const uint16_t *)data)[i]);
}

int ccq_gpu_host_dense(ccq_gpu *gpu, const ccq_gpu_dense *p)
{
    (void)gpu;
    for (int64_t r = 0; r < p->rows; r++)
        for (int64_t c = 0; c < p->columns; c++) {
            float sum = 0;
            for (int64_t k = 0; k < p->k; k++)
                sum = __builtin_fmaf(
                    element(p->x, p->as_float, r * p->ldx + k),
                    element(p->w, p->as_float, p->along_k ? c * p->k + k : k * p->columns + c),
                    sum);
            p->y[r * p->ldy + c] = sum;
        }
    return CCQ_GPU_OK;
}

static const ccq_gpu_linear_steps steps = {
    few, groups, unpack, narrow, ccq_gpu_host_round, has_dense, ccq_gpu_host_dense,
};

int ccq_gpu_host_linear(ccq_gpu *gpu, const ccq_gpu_linear *p)
{
    return ccq_gpu_linear_by(gpu, &steps, p);
}

int ccq_gpu_host_grouped(ccq_gpu *gpu, const ccq_gpu_grouped *p)
{
    return ccq_gpu_grouped_by(gpu, &steps, p);
}
