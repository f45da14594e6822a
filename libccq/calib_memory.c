/* How much memory calibration takes: a layer, an expert's statistics, and the streams,
 * which go to a file where they do not fit. */
#include "libccq/calib_internal.h"

enum { ROWS = 2048, SOLVE_COLUMNS = 192 };

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* An entry that is read whole: bf16, or fp32 under a transform. */
static uint64_t read_bytes(const ccq_plan *plan, const ccq_entry *e)
{
    const ccq_transform *t = plan->transform;
    uint64_t count = ccq_entry_parameters(e);
    return t && ccq_transform_touches(t, e) ? sizeof(float) * count + ccq_transform_memory(t, e)
                                            : 2 * count;
}

/* The largest layer, as it was and as quantized; or what lies outside layers. */
static uint64_t weights(const ccq_plan *plan)
{
    uint64_t most = 0, outside = 0;
    for (int64_t l = 0; l < plan->src->arch.layers; l++) {
        uint64_t sum = ccq_layer_need(plan->src, plan->transform, l);
        for (size_t i = 0; i < plan->count; i++)
            if (plan->action[i].entry->layer == l && ccq_is_quantized(plan->action[i].to))
                sum += ccq_planes_size(&plan->action[i]);
        most = larger(most, sum);
    }
    for (size_t i = 0; i < plan->count; i++)
        if (plan->action[i].entry->layer < 0)
            outside = larger(outside, read_bytes(plan, plan->action[i].entry) +
                                          plan->action[i].bytes_out);
    return larger(most, outside);
}

/* Work space of the forward pass, and rows fetched from the streams. */
static uint64_t rows(const ccq_plan *plan, int threads)
{
    const ccq_arch *a = &plan->src->arch;
    const ccq_calibration *o = &plan->options.calibration;
    int64_t windows = o->window < ROWS ? ROWS / o->window : 1, chunk = windows * o->window + 255;
    int64_t capacity[ROWS];
    uint64_t cache = 0, work = 0, h = (uint64_t)a->hidden, n = (uint64_t)a->moe_inter;
    ccq_model m = {.src = plan->src, .arch = a, .moe_layers = 1, .options = {.layered = 1}};
    uint64_t scratch = ccq_matmul_scratch(chunk) + ccq_attend_scratch(o->window, a->head_dim) +
                       h * (uint64_t)a->moe_k + 2 * (uint64_t)a->experts + 256 * CCQ_PANEL;
    for (int64_t i = 0; i < windows; i++)
        capacity[i] = o->window;
    if (ccq_session_measure(&m, (size_t)windows, capacity, chunk, &cache, &work, NULL))
        return UINT64_MAX / 4;
    return cache + work + (uint64_t)chunk * (4 * h + 4 * n) * sizeof(float) +
           (uint64_t)threads * scratch * sizeof(float);
}

/* One linear [k][n]: weights and target, statistics, factor, metric, panels. */
static uint64_t linear(int64_t k, int64_t n, uint64_t sums, int threads)
{
    uint64_t square = 8 * (uint64_t)k * (uint64_t)k, count = (uint64_t)k * (uint64_t)n;
    uint64_t solve = square + 3 * 8 * (uint64_t)k * SOLVE_COLUMNS;
    uint64_t desk = 2 * 64 * (uint64_t)k + ccq_feedback_scratch(k) + 16 * (uint64_t)k;
    uint64_t metric = ccq_metric_bytes(k, CCQ_BOOKS, 1);
    uint64_t targets = sums + square + solve;
    uint64_t codes = 3 * square + metric;
    return 8 * count + larger(larger(targets, codes), metric + (uint64_t)threads * desk);
}

static uint64_t expert(const ccq_plan *plan, int threads)
{
    const ccq_arch *a = &plan->src->arch;
    uint64_t square = 8 * (uint64_t)a->hidden * (uint64_t)a->hidden;
    uint64_t sums = ccq_down_sums_bytes(a->moe_inter, a->hidden, 1) +
                    4 * 8 * (uint64_t)a->moe_inter * (uint64_t)(a->moe_inter + a->hidden);
    uint64_t up = linear(a->hidden, 2 * a->moe_inter, square, threads);
    uint64_t down = linear(a->moe_inter, a->hidden, sums, threads);
    return 2 * square + larger(up, down); /* and the layer's own sums */
}

void ccq_calibrate_memory(const ccq_plan *plan, int threads, uint64_t *least, uint64_t *streams)
{
    const ccq_arch *a = &plan->src->arch;
    const ccq_calibration *o = &plan->options.calibration;
    uint64_t tokens = (uint64_t)o->windows * (uint64_t)o->window;
    *streams = 0;
    *least = expert(plan, threads);
    if (o->kind == CCQ_CALIBRATE_STATS) {
        for (size_t i = 0; i < plan->count; i++)
            *streams = larger(*streams, 2 * ccq_entry_parameters(plan->action[i].entry) +
                                            plan->action[i].bytes_out);
        *least += *streams;
        *streams = 0;
        return;
    }
    *least += weights(plan) + rows(plan, threads) + tokens * (4 + 16 * (uint64_t)a->moe_k);
    *streams = CCQ_STREAMS * tokens * (uint64_t)a->hidden * sizeof(float);
}
