/* Experts of many rows on the host device: wgmma is a function over a warp's A and the rows
 * of x as they lie in shared memory. */
#include "kernels/gpu/wint2_device.h"
#include "kernels/gpu/linear_steps.h"
#include "kernels/gpu/wint2_dense.h"
#include "kernels/gpu_wint2_host_ring.h"

#include <stdlib.h>

enum { LANES = 32, SUMS = CCQ_W2_WIDE_MOST / 2, BUFFERS = CCQ_W2_WIDE_BUFFERS };

/* The registers of one thread. */
typedef struct thread {
    ccq_w2_wide_thread t;
    uint32_t a[BUFFERS][4][4];
    float d[SUMS];
} thread;

/* Groups of a block of threads whose products are under way: they are computed when they are
 * awaited, as late as on any device. x: their rows of x, in a slot. */
typedef struct flight {
    int n, form, rows;
    thread *all;
    const uint8_t *x[BUFFERS];
    unsigned begun, done;
} flight;

/* ---- Staging ------------------------------------------------------------- */

static void stage(const ccq_w2_stage *s)
{
    for (int64_t row = 0; row < s->rows; row++) {
        uint32_t top = 0;
        int tau;
        for (int i = 0; s->form == CCQ_W2_FORM_W && i < CCQ_W2_STAGERS; i++) {
            uint32_t own = ccq_w2_stage_top(s, row, i);
            top = own > top ? own : top;
        }
        tau = ccq_w2_stage_tau(top);
        if (s->form == CCQ_W2_FORM_W)
            s->tau[row] = tau;
        for (int64_t i = 0; i < s->k / 8; i++)
            ccq_w2_wide_stage(s, row, i / 8, (int)(i % 8), tau);
    }
}

/* ---- Tensor cores --------------------------------------------------------- */

static float half_of(int form, uint16_t bits)
{
    return form == CCQ_W2_FORM_W ? ccq_w2_from_f16(bits) : ccq_bf16_to_f32(bits);
}

/* A warp's 16 rows of A of product m: left[row][slot]. */
static void take_a(int form, const thread *warp, int buffer, int m, float left[16][16])
{
    for (int i = 0; i < 16; i++)
        for (int k = 0; k < 16; k++) {
            uint32_t pair = warp[4 * (i % 8) + k % 8 / 2].a[buffer][m][i / 8 + 2 * (k / 8)];
            left[k][i] = half_of(form, (uint16_t)(pair >> 16 * (k % 2)));
        }
}

/* Product m of a warp with rows of a group's x. Missing rows, which nobody reads, are left
 * out. */
static void multiply(const flight *f, thread *warp, int buffer, int m)
{
    float left[16][16];

    take_a(f->form, warp, buffer, m, left);
    for (int row = 0; row < f->rows; row++) {
        int at = row / 8 * 4 + row % 2, lane = row % 8 / 2;
        float sum[16];
        for (int i = 0; i < 16; i++)
            sum[i] = warp[4 * (i % 8) + lane].d[at + i / 8 * 2];
        for (int k = 0; k < 16; k++) {
            uint16_t bits;
            memcpy(&bits, f->x[buffer] + ccq_w2_wide_swizzle(row, 16 * m + k), sizeof bits);
            float right = half_of(f->form, bits);
            for (int i = 0; i < 16; i++)
                sum[i] += left[k][i] * right;
        }
        for (int i = 0; i < 16; i++)
            warp[4 * (i % 8) + lane].d[at + i / 8 * 2] = sum[i];
    }
}

/* Until `pending` groups are under way. */
static void await_products(flight *f, unsigned pending)
{
    for (; f->begun - f->done > pending; f->done++)
        for (int i = 0; i < CCQ_W2_WIDE_THREADS; i += LANES)
            for (int m = 0; m < 4; m++)
                multiply(f, f->all + i, (int)(f->done % BUFFERS), m);
}

/* Group o of a slot: decoded to registers whose last products are done, and on its way. */
static void begin_products(flight *f, const ccq_w2_wide_block *b, const uint8_t *slot, int o)
{
    unsigned buffer = f->begun % BUFFERS;

    await_products(f, BUFFERS - 1);
    for (int i = 0; i < CCQ_W2_WIDE_THREADS; i++)
        ccq_w2_wide_load_a(f->n, f->form, b->exact, &f->all[i].t, slot, o, f->all[i].a[buffer]);
    f->x[buffer] = slot + o * f->n * CCQ_W2_WIDE_ROW;
    f->begun++;
}

/* ---- Blocks --------------------------------------------------------------- */

static void fetch(int n, const ccq_w2_gemm *p, const ccq_w2_wide_block *b, const thread *all,
                  ccq_w2_wide_ring *ring, ccq_w2_host_ring *r)
{
    uint8_t *to = ccq_w2_host_ring_fill(r, (size_t)(ring->to * ccq_w2_wide_slot_bytes(n)));

    for (int i = 0; i < CCQ_W2_WIDE_THREADS; i++)
        ccq_w2_wide_fetch_next(n, p, b, &all[i].t, ring, to);
    ccq_w2_wide_filled(n, ring);
}

static void loop(int n, const ccq_w2_gemm *p, const ccq_w2_wide_block *b, flight *f,
                 ccq_w2_host_ring *r)
{
    ccq_w2_wide_ring ring = ccq_w2_wide_ring_of();

    for (int k = 0; k < ccq_w2_wide_ahead(n); k++)
        fetch(n, p, b, f->all, &ring, r);
    for (int64_t k = 0; k < p->k / CCQ_W2_BLOCK; k++) {
        ccq_w2_host_ring_await(r, (unsigned)ccq_w2_wide_pending(n));
        fetch(n, p, b, f->all, &ring, r);
        for (int o = 0; o < 2; o++)
            begin_products(f, b, r->shared + ring.slot * ccq_w2_wide_slot_bytes(n), o);
        ccq_w2_wide_used(n, &ring);
    }
    await_products(f, 0);
}

static void run_block(int n, const ccq_w2_gemm *p, const ccq_w2_wide_block *b, thread *all,
                      ccq_w2_host_ring *r)
{
    flight f = {.n = n, .form = p->form, .rows = b->left < n ? (int)b->left : n, .all = all};

    ccq_w2_host_ring_begin(r, (size_t)ccq_w2_wide_slot_bytes(n));
    for (int i = 0; i < CCQ_W2_WIDE_THREADS; i++) {
        ccq_w2_wide_thread_init(b, i, &all[i].t);
        memset(all[i].d, 0, sizeof all[i].d);
        ccq_w2_wide_clear(n, b, i, r->shared);
    }
    loop(n, p, b, &f, r);
    for (int i = 0; i < CCQ_W2_WIDE_THREADS; i++)
        ccq_w2_wide_leave(n, &all[i].t, all[i].d, (float *)(void *)r->shared);
    for (int i = 0; i < CCQ_W2_WIDE_THREADS; i++)
        ccq_w2_wide_put(n, p, b, (const float *)(const void *)r->shared, i);
}

static int gemm(ccq_gpu *gpu, const ccq_w2_gemm *p, int64_t experts, int n)
{
    ccq_w2_host_ring ring = ccq_w2_host_ring_of((size_t)ccq_w2_wide_shared_bytes(n));
    thread *all = malloc(CCQ_W2_WIDE_THREADS * sizeof *all);
    int good = ring.shared && all;

    for (int64_t e = 0; good && e < experts; e++)
        for (int64_t chunk = 0; p->start[e] + chunk * n < p->start[e + 1]; chunk++)
            for (int64_t c = 0; c < p->n / CCQ_W2_WIDE_COLUMNS; c++) {
                ccq_w2_wide_block b;
                ccq_w2_wide_init(n, p, e, c, chunk, &b);
                run_block(n, p, &b, all, &ring);
            }
    free(all);
    free(ring.shared);
    return good ? CCQ_GPU_OK
                : ccq_gpu_fail(gpu, CCQ_GPU_NO_MEMORY, "host device: no memory for experts");
}

int ccq_gpu_wint2_host_wide(ccq_gpu *gpu, const ccq_gpu_experts *p)
{
    ccq_w2_plan plan = ccq_w2_wide_plan_of(p);
    int n = ccq_w2_wide_rows(p), code;

    stage(&plan.x);
    code = gemm(gpu, &plan.up_gate, p->experts, n);
    if (plan.h.form == CCQ_W2_FORM_W && !code)
        stage(&plan.h);
    return code ? code : gemm(gpu, &plan.down, p->experts, n);
}

/* ---- Dequantized ---------------------------------------------------------------- */

static int stage_all(ccq_gpu *gpu, const ccq_w2_stage *s)
{
    (void)gpu;
    stage(s);
    return CCQ_GPU_OK;
}

static int dequant(ccq_gpu *gpu, const ccq_w2_dequant *p)
{
    (void)gpu;
    for (int64_t i = 0; i < ccq_w2_dequant_warps(p) * LANES; i++)
        ccq_w2_dequant_lane(p, i / LANES, (int)(i % LANES));
    return CCQ_GPU_OK;
}

static int hidden(ccq_gpu *gpu, const ccq_w2_hidden *p)
{
    (void)gpu;
    for (int64_t i = 0; i < p->rows * p->inter; i++)
        ccq_w2_hidden_at(p, i / p->inter, i % p->inter);
    return CCQ_GPU_OK;
}

int ccq_gpu_wint2_host_dense(ccq_gpu *gpu, const ccq_gpu_experts *p)
{
    static const ccq_w2_dense_steps steps = {stage_all, dequant, ccq_gpu_host_dense, hidden,
                                             ccq_gpu_host_round};
    return ccq_gpu_wint2_dense_by(gpu, &steps, p);
}
