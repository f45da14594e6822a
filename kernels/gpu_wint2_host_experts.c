/* Experts of few rows on the host device. Tensor cores are a function over the fragments of a
 * warp's 32 lanes. */
#include "kernels/gpu/wint2_device.h"
#include "kernels/gpu/wint2_dense.h"
#include "kernels/gpu_wint2_host_ring.h"

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

/* mma.m16n8k16: product m of all lanes, products (exact but where they leave fp32) added in
 * ascending k. Sums past the rows there are, which nobody reads, are left out. */
static void mma(int form, int m, int rows, uint32_t a[LANES][4][4], uint32_t b[LANES][8],
                float d[LANES][4])
{
    float left[16][16];

    for (int k = 0; k < 16; k++)
        for (int i = 0; i < 16; i++)
            left[k][i] = half_of(form, a[4 * (i % 8) + k % 8 / 2][m][i / 8 + 2 * (k / 8)], k % 2);
    for (int j = 0; j < rows; j++) {
        float sum[16];
        for (int i = 0; i < 16; i++)
            sum[i] = d[ccq_w2_sum_lane(i, j)][ccq_w2_sum_register(i, j)];
        for (int k = 0; k < 16; k++) {
            float right = half_of(form, b[4 * j + k % 8 / 2][2 * m + k / 8], k % 2);
            for (int i = 0; i < 16; i++)
                sum[i] += left[k][i] * right;
        }
        for (int i = 0; i < 16; i++)
            d[ccq_w2_sum_lane(i, j)][ccq_w2_sum_register(i, j)] = sum[i];
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

/* All threads' copies before the first turn. */
static void begin(ccq_w2_shape s, const ccq_w2_gemm *p, ccq_w2_thread *t, ccq_w2_host_ring *r)
{
    int size = ccq_w2_slot_bytes(s);

    ccq_w2_host_ring_begin(r, (size_t)(CCQ_W2_TURN * size));
    for (int block = 0; block < CCQ_W2_AHEAD; block += CCQ_W2_TURN) {
        uint8_t *to = ccq_w2_host_ring_fill(r, (size_t)(block * size));
        for (int i = 0; i < ccq_w2_threads(s); i++)
            ccq_w2_fetch_first(s, p, t + i, block, to);
    }
}

/* A turn: some warp has begun all of its copies before another one's products. */
static void turn(ccq_w2_shape s, const ccq_w2_gemm *p, const ccq_w2_block *b, ccq_w2_thread *t,
                 const ccq_w2_ring *ring, ccq_w2_host_ring *r)
{
    int threads = ccq_w2_threads(s);
    uint8_t *to;

    ccq_w2_host_ring_await(r, CCQ_W2_PENDING);
    to = ccq_w2_host_ring_fill(r, (size_t)ring->fill);
    for (int i = 0; i < threads; i++)
        ccq_w2_fetch_next(s, p, t + i, ring->fill, to);
    for (int i = 0; i < threads; i += LANES)
        for (int two = 0; two < CCQ_W2_TURN; two++)
            if (ccq_w2_has(t[i].blocks, two))
                warp_step(s, p->form, b, t + i, r->shared + ring->now + two * ccq_w2_slot_bytes(s));
    for (int i = 0; i < threads; i++)
        t[i].blocks -= CCQ_W2_TURN;
}

/* One pass over K. */
static void run_pass(ccq_w2_shape s, const ccq_w2_gemm *p, const ccq_w2_block *b,
                     ccq_w2_thread *t, ccq_w2_host_ring *r)
{
    ccq_w2_ring ring = ccq_w2_ring_of(ccq_w2_slot_bytes(s));
    ccq_w2_known known = ccq_w2_known_of();
    int threads = ccq_w2_threads(s);

    for (int i = 0; i < threads; i++)
        ccq_w2_thread_init(s, p, b, &known, i, t + i);
    begin(s, p, t, r);
    for (int most = ccq_w2_most_blocks(s, p); most > 0; most -= CCQ_W2_TURN) {
        turn(s, p, b, t, &ring, r);
        ccq_w2_ring_next(ccq_w2_slot_bytes(s), &ring);
    }
    ccq_w2_host_ring_await(r, 0);
    for (int i = 0; i < threads; i++)
        ccq_w2_leave(s, t + i, i, r->shared);
    for (int i = 0; i < threads; i++)
        ccq_w2_put(s, p, b, r->shared, i);
}

static void launch(int nt, const ccq_w2_gemm *p, int64_t experts, ccq_w2_thread *t,
                   ccq_w2_host_ring *ring)
{
    const ccq_w2_shape s = ccq_w2_shape_of(nt);

    for (int64_t y = 0; y < ccq_w2_launch_experts(nt, experts, p->rows); y++) {
        int64_t e = ccq_w2_expert_of(p->start, experts, nt, y, 0);
        ccq_w2_block b;
        for (int64_t group = 0; e >= 0 && group < p->n / (32 * s.cw); group++)
            for (ccq_w2_block_init(s, p, e, group, &b); b.left > 0; ccq_w2_block_next(s, &b))
                run_pass(s, p, &b, t, ring);
    }
}

static int gemm(ccq_gpu *gpu, const ccq_w2_gemm *p, int64_t experts)
{
    int threads = 0, bytes = 0, code = CCQ_GPU_NO_MEMORY;
    ccq_w2_host_ring ring;
    ccq_w2_thread *t;

    for (int nt = 1; nt <= CCQ_W2_MOST; nt++) {
        ccq_w2_shape s = ccq_w2_shape_of(nt);
        threads = ccq_w2_threads(s) > threads ? ccq_w2_threads(s) : threads;
        bytes = ccq_w2_shared_bytes(s) > bytes ? ccq_w2_shared_bytes(s) : bytes;
    }
    ring = ccq_w2_host_ring_of((size_t)bytes);
    t = malloc((size_t)threads * sizeof *t);
    if (!ring.shared || !t)
        goto out;
    code = CCQ_GPU_OK;
    for (int nt = 1; nt <= CCQ_W2_MOST; nt++)
        launch(nt, p, experts, t, &ring);
out:
    free(t);
    free(ring.shared);
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
