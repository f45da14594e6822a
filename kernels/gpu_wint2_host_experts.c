/* Experts of few rows on the host device. Tensor cores are a function over the fragments of a
 * warp's 32 lanes. */
#include "kernels/gpu/wint2_device.h"
#include "kernels/gpu/wint2_dense.h"

#include <stdlib.h>

enum { LANES = 32 };

size_t ccq_gpu_wint2_work(int64_t experts, int64_t hidden, int64_t inter, int64_t rows, int wide)
{
    size_t dense = ccq_w2_dense_wants(rows, experts, wide) ? ccq_w2_dense_bytes(hidden, inter) : 0;

    return ccq_w2_work_bytes(hidden, inter, rows) + dense;
}

size_t ccq_gpu_wint2_host_work(const ccq_gpu *gpu, int64_t experts, int64_t hidden, int64_t inter,
                               int64_t rows)
{
    (void)gpu;
    return ccq_gpu_wint2_work(experts, hidden, inter, rows, 1);
}

/* ---- Staging ------------------------------------------------------------- */

static void stage_row(const ccq_w2_stage *s, int64_t row)
{
    uint32_t top = 0;
    int tau;

    if (s->form == CCQ_W2_FORM_G)
        for (int thread = 0; thread < CCQ_W2_STAGERS; thread++) {
            uint32_t own = ccq_w2_stage_top(s, row, thread);
            top = own > top ? own : top;
        }
    tau = ccq_w2_stage_tau(top);
    if (s->form == CCQ_W2_FORM_G)
        s->tau[row] = tau;
    for (int64_t group = 0; group < s->k / CCQ_GROUP; group++)
        ccq_w2_stage_group(s, row, group, tau);
}

static void stage(const ccq_w2_stage *s)
{
    for (int64_t row = 0; row < s->rows; row++)
        stage_row(s, row);
}

/* ---- Tensor cores -------------------------------------------------------- */

static float half_of(int form, uint32_t pair, int upper)
{
    uint16_t bits = (uint16_t)(pair >> 16 * upper);
    return form == CCQ_W2_FORM_G ? ccq_w2_from_f16(bits) : ccq_bf16_to_f32(bits);
}

/* mma.m16n8k16: product m of all lanes, exact products added in ascending k. Sums past the
 * rows there are, which nobody reads, are left out. */
static void mma(int form, int m, int rows, uint32_t a[LANES][4][4], uint32_t b[LANES][8],
                float d[LANES][4])
{
    float left[16][16], right[8][16];

    for (int k = 0; k < 16; k++) {
        for (int i = 0; i < 16; i++)
            left[i][k] = half_of(form, a[4 * (i % 8) + k % 8 / 2][m][i / 8 + 2 * (k / 8)], k % 2);
        for (int j = 0; j < rows; j++)
            right[j][k] = half_of(form, b[4 * j + k % 8 / 2][2 * m + k / 8], k % 2);
    }
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < rows; j++) {
            float *sum = &d[ccq_w2_sum_lane(i, j)][ccq_w2_sum_register(i, j)];
            for (int k = 0; k < 16; k++)
                *sum = __builtin_fmaf(left[i][k], right[j][k], *sum);
        }
}

/* 8 rows of a group: straight into the sums, or in form G by way of the group's own. */
static void multiply(ccq_w2_shape s, int form, int64_t left, ccq_w2_thread *t,
                     const uint8_t *slot, int tile, int j, int o, uint32_t a[LANES][4][4],
                     float local[LANES][2])
{
    int rows = left - j * CCQ_W2_TOKENS < CCQ_W2_TOKENS ? (int)left - j * CCQ_W2_TOKENS
                                                        : CCQ_W2_TOKENS;
    uint32_t b[LANES][8];
    float d[LANES][4];

    for (int lane = 0; lane < LANES; lane++) {
        ccq_w2_load_b(t + lane, slot, j, o, b[lane]);
        if (form == CCQ_W2_FORM_G)
            ccq_w2_load_start(s, t + lane, slot, j, o, d[lane]);
        else
            memcpy(d[lane], t[lane].sum[tile][j], sizeof d[lane]);
    }
    for (int m = 0; m < 4; m++)
        mma(form, m, rows, a, b, d);
    for (int lane = 0; lane < LANES; lane++)
        if (form == CCQ_W2_FORM_G)
            ccq_w2_add_group(d[lane], local[lane], t[lane].sum[tile][j]);
        else
            memcpy(t[lane].sum[tile][j], d[lane], sizeof d[lane]);
}

/* A warp's part of a slot; t: its lanes. */
static void warp_step(ccq_w2_shape s, int form, const ccq_w2_block *b, ccq_w2_thread *t,
                      const uint8_t *slot)
{
    uint32_t a[LANES][4][4];
    float local[LANES][2];

    for (int o = 0; o < 2; o++)
        for (int tile = 0; tile < 2; tile++) {
            for (int lane = 0; lane < LANES; lane++)
                ccq_w2_load_a(form, b->exact, t + lane, slot,
                              ccq_w2_load_locals(t + lane, slot, tile), tile, o, a[lane],
                              local[lane]);
            for (int j = 0; j < s.nt; j++)
                multiply(s, form, b->left, t, slot, tile, j, o, a, local);
        }
}

/* ---- Blocks -------------------------------------------------------------- */

/* One pass over K. The ring is filled just before it is used. */
static void run_pass(ccq_w2_shape s, const ccq_w2_gemm *p, const ccq_w2_block *b,
                     ccq_w2_thread *t, uint8_t *shared)
{
    ccq_w2_known known = ccq_w2_known_of();
    int threads = ccq_w2_threads(s);
    int most = 0;

    for (int i = 0; i < threads; i++) {
        ccq_w2_thread_init(s, p, b, &known, i, t + i);
        most = t[i].blocks > most ? t[i].blocks : most;
    }
    for (int turn = 0; 2 * turn < most; turn++) {
        int size = ccq_w2_slot_bytes(s);
        uint8_t *slots = shared + turn * 2 % s.stages * size;
        for (int i = 0; i < threads; i++)
            if (t[i].blocks > 2 * turn)
                ccq_w2_fetch(s, p, t + i, slots);
        for (int i = 0; i < threads; i += LANES)
            for (int two = 0; two < 2; two++)
                if (t[i].blocks > 2 * turn + two)
                    warp_step(s, p->form, b, t + i, slots + two * size);
    }
    for (int i = 0; i < threads; i++)
        ccq_w2_leave(s, t + i, i, shared);
    for (int i = 0; i < threads; i++)
        ccq_w2_put(s, p, b, shared, i);
}

static int gemm(ccq_gpu *gpu, const ccq_w2_gemm *p, int64_t experts)
{
    int threads = 0, bytes = 0, code = CCQ_GPU_NO_MEMORY;
    ccq_w2_thread *t;
    uint8_t *shared;

    for (int nt = 1; nt <= CCQ_W2_MOST; nt++) {
        ccq_w2_shape s = ccq_w2_shape_of(nt);
        threads = ccq_w2_threads(s) > threads ? ccq_w2_threads(s) : threads;
        bytes = ccq_w2_shared_bytes(s) > bytes ? ccq_w2_shared_bytes(s) : bytes;
    }
    shared = malloc((size_t)bytes);
    t = malloc((size_t)threads * sizeof *t);
    if (!shared || !t)
        goto out;
    code = CCQ_GPU_OK;
    for (int64_t e = 0; e < experts; e++) {
        ccq_w2_shape s = ccq_w2_shape_of(ccq_w2_tiles_of(p->start[e + 1] - p->start[e]));
        ccq_w2_block b;
        for (int64_t group = 0; group < p->n / (32 * s.cw); group++)
            for (ccq_w2_block_init(s, p, e, group, &b); b.left > 0; ccq_w2_block_next(s, &b))
                run_pass(s, p, &b, t, shared);
    }
out:
    free(t);
    free(shared);
    return code ? ccq_gpu_fail(gpu, code, "host device: no memory for experts") : code;
}

int ccq_gpu_wint2_host_way(ccq_gpu *gpu, const ccq_gpu_experts *p)
{
    (void)gpu;
    if (ccq_w2_dense_takes(p, 1))
        return CCQ_GPU_WAY_DENSE;
    return p->large && ccq_w2_wide_takes(p) ? CCQ_GPU_WAY_WIDE : CCQ_GPU_WAY_FEW;
}

int ccq_gpu_wint2_host_experts(ccq_gpu *gpu, const ccq_gpu_experts *p)
{
    ccq_w2_plan plan;
    int code = ccq_w2_check_experts(gpu, p), way = ccq_gpu_wint2_host_way(gpu, p);

    if (code || !p->rows)
        return code;
    if (way == CCQ_GPU_WAY_DENSE)
        return ccq_gpu_wint2_host_dense(gpu, p);
    if (way == CCQ_GPU_WAY_WIDE)
        return ccq_gpu_wint2_host_wide(gpu, p);
    plan = ccq_w2_plan_of(p);
    stage(&plan.x);
    code = gemm(gpu, &plan.up_gate, p->experts);
    if (plan.h.form == CCQ_W2_FORM_G && !code)
        stage(&plan.h);
    return code ? code : gemm(gpu, &plan.down, p->experts);
}
