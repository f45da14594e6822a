/* The simple kernels of kernels/gpu_model.h on the host device: every block, phase by phase,
 * thread by thread. */
#include "kernels/gpu/attend.h"
#include "kernels/gpu/linear_steps.h"
#include "kernels/gpu/model.h"
#include "kernels/gpu/model_router.h"
#include "kernels/gpu/model_sort.h"
#include "kernels/gpu_model_device.h"

static int embed(ccq_gpu *gpu, const ccq_gpu_embed *p)
{
    (void)gpu;
    for (int64_t r = 0; r < p->rows; r++)
        for (int64_t j = 0; j < p->h; j++)
            ccq_gpu_embed_at(p, r, j);
    return CCQ_GPU_OK;
}

static int rms(ccq_gpu *gpu, const ccq_gpu_rms *p)
{
    float sums[CCQ_GPU_RMS_THREADS];

    (void)gpu;
    for (int64_t r = 0; r < p->rows; r++) {
        for (int t = 0; t < CCQ_GPU_RMS_THREADS; t++)
            sums[t] = ccq_gpu_rms_sum(p, r, t);
        for (int half = CCQ_GPU_RMS_THREADS / 2; half; half /= 2)
            for (int t = 0; t < CCQ_GPU_RMS_THREADS; t++)
                ccq_gpu_rms_fold(sums, half, t);
        for (int t = 0; t < CCQ_GPU_RMS_THREADS; t++)
            ccq_gpu_rms_write(p, r, t, sums[0]);
    }
    return CCQ_GPU_OK;
}

static int add(ccq_gpu *gpu, const ccq_gpu_add *p)
{
    (void)gpu;
    for (int64_t i = 0; i < p->count; i++)
        ccq_gpu_add_at(p, i);
    return CCQ_GPU_OK;
}

static int rope(ccq_gpu *gpu, const ccq_gpu_rope *p)
{
    (void)gpu;
    for (int64_t r = 0; r < p->rows; r++)
        for (int64_t i = 0; i < (p->heads + 2 * p->kv_heads) * (p->d / 2); i++)
            ccq_gpu_rope_at(p, r, i);
    return CCQ_GPU_OK;
}

static int swiglu(ccq_gpu *gpu, const ccq_gpu_swiglu *p)
{
    (void)gpu;
    for (int64_t r = 0; r < p->rows; r++)
        for (int64_t j = 0; j < p->n; j++)
            ccq_gpu_swiglu_at(p, r, j);
    return CCQ_GPU_OK;
}

/* ---- Router -------------------------------------------------------------- */

static void router_sums(const ccq_gpu_router *p, const ccq_gpu_router_grid *g, int64_t piece,
                        int64_t tile, int64_t rows)
{
    ccq_gpu_router_shared shared;

    for (int t = 0; t < CCQ_GPU_THREADS; t++)
        ccq_gpu_router_add(p, g, piece, tile, rows, t, &shared);
    for (int t = 0; t < CCQ_GPU_THREADS; t++)
        ccq_gpu_router_piece(p, piece, tile, rows, t, &shared);
}

static void router_choice(const ccq_gpu_router *p, const ccq_gpu_router_grid *g, int64_t r)
{
    float score[CCQ_GPU_ROUTER_MOST], chance[CCQ_GPU_ROUTER_MOST], sum;

    for (int t = 0; t < CCQ_GPU_THREADS; t++)
        ccq_gpu_router_logits(p, g->pieces, r, t, CCQ_GPU_THREADS, score);
    for (int t = 0; t < CCQ_GPU_THREADS; t++)
        ccq_gpu_router_raise(p, t, CCQ_GPU_THREADS, score, chance);
    sum = ccq_router_sum(chance, p->experts);
    for (int t = 0; t < CCQ_GPU_THREADS; t++)
        ccq_gpu_router_score(p, sum, t, CCQ_GPU_THREADS, chance, score);
    for (int t = 0; t < CCQ_GPU_THREADS; t++)
        ccq_gpu_router_choose(p, sum, r, t, CCQ_GPU_THREADS, chance, score);
}

static int router(ccq_gpu *gpu, const ccq_gpu_router *p)
{
    ccq_gpu_router_grid g =
        ccq_gpu_router_plan(p->rows, p->hidden, p->experts, gpu->info.multiprocessors);

    if (p->experts > CCQ_GPU_ROUTER_MOST || p->k > p->experts)
        return ccq_gpu_fail(gpu, CCQ_GPU_FAILED, "router: %lld of %lld experts, at most %d",
                            (long long)p->k, (long long)p->experts, CCQ_GPU_ROUTER_MOST);
    for (int64_t piece = 0; piece < g.pieces; piece++)
        for (int64_t tile = 0; tile < g.experts; tile++)
            for (int64_t rows = 0; rows < g.rows; rows++)
                router_sums(p, &g, piece, tile, rows);
    for (int64_t r = 0; r < p->rows; r++)
        router_choice(p, &g, r);
    return CCQ_GPU_OK;
}

/* ---- Rows of experts ----------------------------------------------------- */

static int sort(ccq_gpu *gpu, const ccq_gpu_sort *p)
{
    ccq_gpu_sort_shared shared;

    (void)gpu;
    for (int64_t e = 0; e < p->experts; e++) {
        for (int t = 0; t < CCQ_GPU_THREADS; t++)
            ccq_gpu_sort_count(p, e, t, &shared);
        for (int t = 0; t < CCQ_GPU_THREADS; t++)
            ccq_gpu_sort_place(p, e, t, &shared);
    }
    return CCQ_GPU_OK;
}

static int gather(ccq_gpu *gpu, const ccq_gpu_gather *p)
{
    (void)gpu;
    for (int64_t i = 0; i < p->rows; i++)
        for (int64_t j = 0; j < p->h; j++)
            ccq_gpu_gather_at(p, i, j);
    return CCQ_GPU_OK;
}

static int combine(ccq_gpu *gpu, const ccq_gpu_combine *p)
{
    (void)gpu;
    for (int64_t r = 0; r < p->rows; r++)
        for (int64_t i = 0; i < p->h; i++)
            ccq_gpu_combine_at(p, r, i);
    return CCQ_GPU_OK;
}

/* ---- For benchmarks ------------------------------------------------------ */

static int read_all(ccq_gpu *gpu, const ccq_gpu_read *p)
{
    (void)gpu;
    for (int64_t block = 0; block < (int64_t)(p->size / CCQ_GPU_READ); block++) {
        p->to[block] = 0;
        for (int t = 0; t < CCQ_GPU_THREADS; t++)
            p->to[block] ^= ccq_gpu_read_thread(p, block, t);
    }
    return CCQ_GPU_OK;
}

/* ---- The table ----------------------------------------------------------- */

static size_t attend_work(const ccq_gpu *gpu, int64_t rows, int64_t heads, int64_t d,
                          int64_t longest)
{
    (void)rows, (void)heads, (void)longest;
    return ccq_gpu_attend_bytes(d, gpu->info.multiprocessors);
}

static size_t linear_work(const ccq_gpu *gpu, const ccq_weight *w, int64_t rows, int bf16)
{
    return ccq_gpu_linear_bytes(w, rows, bf16, gpu->info.multiprocessors);
}

static size_t router_work(const ccq_gpu *gpu, int64_t rows, int64_t experts)
{
    return ccq_gpu_router_bytes(rows, experts, gpu->info.multiprocessors);
}

const ccq_gpu_model_ops ccq_gpu_model_host = {
    .embed = embed,
    .rms = rms,
    .add = add,
    .rope = rope,
    .attend = ccq_gpu_host_attend,
    .swiglu = swiglu,
    .router = router,
    .sort = sort,
    .gather = gather,
    .combine = combine,
    .linear = ccq_gpu_host_linear,
    .grouped = ccq_gpu_host_grouped,
    .attend_work = attend_work,
    .linear_work = linear_work,
    .router_work = router_work,
    .dense = ccq_gpu_host_dense,
    .read = read_all,
};
