/* Attention on the host device: the blocks phase by phase. */
#include "kernels/gpu/attend.h"
#include "kernels/gpu_model_device.h"

#include <stdlib.h>

typedef struct block {
    ccq_gpu_attend_thread thread[CCQ_GPU_THREADS];
    ccq_gpu_attend_shared shared;
} block;

static void tile(const ccq_gpu_attend *p, const ccq_gpu_attend_block *b, int width, int64_t base,
                 block *k)
{
    int each = ccq_gpu_attend_each(p->d);

    for (int64_t step = 0; step < ccq_gpu_attend_steps(p->d, p->bf16); step++) {
        for (int t = 0; t < CCQ_GPU_THREADS; t++)
            ccq_gpu_attend_stage(p, b, p->bf16, base, step, t, &k->shared);
        for (int t = 0; t < CCQ_GPU_THREADS; t++)
            ccq_gpu_attend_score(p, b, p->bf16, width, base, step, t, &k->thread[t], &k->shared);
    }
    for (int t = 0; t < CCQ_GPU_THREADS; t++)
        ccq_gpu_attend_show(b, width, base, t, &k->thread[t], &k->shared);
    for (int t = 0; t < CCQ_GPU_THREADS; t++)
        ccq_gpu_attend_most(width, t, &k->shared);
    for (int t = 0; t < CCQ_GPU_THREADS; t++)
        ccq_gpu_attend_weigh(b, p->bf16, width, base, t, &k->thread[t], &k->shared);
    for (int t = 0; t < CCQ_GPU_THREADS; t++)
        ccq_gpu_attend_add(p, b, p->bf16, width, each, base, t, &k->thread[t], &k->shared);
}

static void attend_block(const ccq_gpu_attend *p, const ccq_gpu_attend_plan *a,
                         const ccq_gpu_attend_block *b, block *k)
{
    int each = ccq_gpu_attend_each(p->d);

    for (int t = 0; t < CCQ_GPU_THREADS; t++)
        ccq_gpu_attend_begin(p, b, a->width, each, t, &k->thread[t], &k->shared);
    for (int64_t base = b->first; base < b->end; base += CCQ_GPU_TILE)
        tile(p, b, a->width, base, k);
    for (int t = 0; t < CCQ_GPU_THREADS; t++)
        ccq_gpu_attend_mark(p, a, b, t, &k->thread[t]);
    for (int pass = 0; pass * CCQ_GPU_PASS < a->width; pass++) {
        for (int t = 0; t < CCQ_GPU_THREADS; t++)
            ccq_gpu_attend_spill(a->width, each, pass, p->d, t, &k->thread[t], &k->shared);
        for (int t = 0; t < CCQ_GPU_THREADS; t++)
            ccq_gpu_attend_write(p, a, b, pass, t, &k->shared);
    }
}

int ccq_gpu_host_attend(ccq_gpu *gpu, const ccq_gpu_attend *p)
{
    const char *why = ccq_gpu_attend_refuses(p);
    ccq_gpu_attend_plan a;
    block *k;

    if (why)
        return ccq_gpu_fail(gpu, CCQ_GPU_FAILED, "attend: %s", why);
    a = ccq_gpu_plan_attend(p, gpu->info.multiprocessors);
    k = malloc(sizeof *k);
    if (!k)
        return ccq_gpu_fail(gpu, CCQ_GPU_NO_MEMORY, "host device: out of memory");
    for (int64_t block_at = 0; block_at < a.blocks; block_at++)
        for (int64_t piece = 0; piece < a.pieces; piece++) {
            ccq_gpu_attend_block b = ccq_gpu_attend_at(p, &a, block_at, piece);
            attend_block(p, &a, &b, k);
        }
    for (int64_t i = 0; a.pieces > 1 && i < p->rows * p->heads * p->d; i++)
        ccq_gpu_attend_join(p, &a, i / p->d / p->heads, i / p->d % p->heads, i % p->d);
    free(k);
    return CCQ_GPU_OK;
}
