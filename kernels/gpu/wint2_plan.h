/* The steps of a call of `experts`, and how its work memory is cut up: host code that all
 * devices share. */
#ifndef CCQ_KERNELS_GPU_WINT2_PLAN_H
#define CCQ_KERNELS_GPU_WINT2_PLAN_H

#include "kernels/gpu/wint2_gemm.h"
#include "kernels/gpu_device.h"

#include <inttypes.h>

/* stage x; up_gate; with form G stage h; down. */
typedef struct ccq_w2_plan {
    ccq_w2_stage x, h;
    ccq_w2_gemm up_gate, down;
} ccq_w2_plan;

static inline size_t ccq_w2_aligned(size_t size)
{
    return (size + 255) / 256 * 256;
}

static inline int ccq_w2_form_of(int rounding)
{
    return rounding == CCQ_ROUND_NONE    ? CCQ_W2_FORM_G
           : rounding == CCQ_ROUND_FUSED ? CCQ_W2_FORM_B
                                         : CCQ_W2_FORM_U;
}

static inline int ccq_w2_check_matrix(ccq_gpu *gpu, const ccq_gpu_matrix *m, int64_t k, int64_t n,
                                      int64_t expert)
{
    if (m->k != k || m->n != n)
        return ccq_gpu_fail(gpu, CCQ_GPU_FAILED,
                            "wint2 expert %" PRId64 ": %" PRId64 " x %" PRId64 ", wanted %" PRId64
                            " x %" PRId64,
                            expert, m->k, m->n, k, n);
    return CCQ_GPU_OK;
}

static inline int ccq_w2_check_experts(ccq_gpu *gpu, const ccq_gpu_experts *p)
{
    int64_t e;
    int code = CCQ_GPU_OK;

    if (p->hidden <= 0 || p->inter <= 0 || p->hidden % CCQ_W2_BLOCK || p->inter % CCQ_W2_BLOCK ||
        p->experts > 65535 || p->rows < 0 || p->rows > 1 << 23)
        return ccq_gpu_fail(gpu, CCQ_GPU_FAILED,
                            "wint2 experts: %" PRId64 " of hidden size %" PRId64
                            ", %" PRId64 " neurons (multiples of 128 wanted), %" PRId64 " rows",
                            p->experts, p->hidden, p->inter, p->rows);
    if (p->rounding < CCQ_ROUND_FUSED || p->rounding > CCQ_ROUND_NONE)
        return ccq_gpu_fail(gpu, CCQ_GPU_FAILED, "wint2 experts: rounding %d", p->rounding);
    for (e = 0; e < p->experts && !code; e++) {
        code = ccq_w2_check_matrix(gpu, p->host_up_gate + e, p->hidden, 2 * p->inter, e);
        if (!code)
            code = ccq_w2_check_matrix(gpu, p->host_down + e, p->inter, p->hidden, e);
    }
    return code;
}

static inline ccq_w2_stage ccq_w2_stage_of(const ccq_gpu_experts *p, const float *x, int64_t ldx,
                                           const int32_t *from, int64_t k, uint8_t *to,
                                           int32_t *tau)
{
    ccq_w2_stage s;

    s.x = x;
    s.ldx = ldx;
    s.rows = p->rows;
    s.k = k;
    s.from = from;
    s.form = ccq_w2_form_of(p->rounding);
    s.order = p->order;
    s.to = to;
    s.tau = tau;
    return s;
}

static inline ccq_w2_gemm ccq_w2_gemm_of(const ccq_gpu_experts *p, const ccq_w2_stage *x,
                                         const ccq_gpu_matrix *matrix, int swiglu, uint8_t *h,
                                         float *y)
{
    ccq_w2_gemm g;

    g.matrix = matrix;
    g.start = p->start;
    g.x = x->to;
    g.tau = x->tau;
    g.k = x->k;
    g.n = swiglu ? 2 * p->inter : p->hidden;
    g.form = x->form;
    g.round = p->round;
    g.order = p->order;
    g.swiglu = swiglu;
    g.h = h;
    g.y = y;
    g.rows = p->rows;
    return g;
}

/* Staged x, staged h, h in fp32, the rows' powers of two. */
static inline size_t ccq_w2_work_bytes(int64_t hidden, int64_t inter, int64_t rows)
{
    return ccq_w2_aligned((size_t)ccq_w2_x_bytes(rows, hidden)) +
           ccq_w2_aligned((size_t)ccq_w2_x_bytes(rows, inter)) +
           ccq_w2_aligned((size_t)(rows * inter) * sizeof(float)) +
           2 * ccq_w2_aligned((size_t)rows * sizeof(int32_t));
}

static inline ccq_w2_plan ccq_w2_plan_of(const ccq_gpu_experts *p)
{
    uint8_t *x = (uint8_t *)p->work;
    uint8_t *h = x + ccq_w2_aligned((size_t)ccq_w2_x_bytes(p->rows, p->hidden));
    float *h32 = (float *)(void *)(h + ccq_w2_aligned((size_t)ccq_w2_x_bytes(p->rows, p->inter)));
    uint8_t *tau = (uint8_t *)h32 + ccq_w2_aligned((size_t)(p->rows * p->inter) * sizeof(float));
    uint8_t *tau_h = tau + ccq_w2_aligned((size_t)p->rows * sizeof(int32_t));
    ccq_w2_plan plan;

    plan.x = ccq_w2_stage_of(p, p->x, p->ldx, p->from, p->hidden, x, (int32_t *)(void *)tau);
    plan.h = ccq_w2_stage_of(p, h32, p->inter, 0, p->inter, h, (int32_t *)(void *)tau_h);
    plan.up_gate = ccq_w2_gemm_of(p, &plan.x, p->up_gate, 1, h, h32);
    plan.down = ccq_w2_gemm_of(p, &plan.h, p->down, 0, 0, p->y);
    return plan;
}

#endif
