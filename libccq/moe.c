/* Feed-forward blocks: dense, shared and routed experts. */
#include "libccq/model.h"

#include <string.h>

/* ---- Dense and shared ------------------------------------------------------ */

static void swiglu_rows(ccq_session *s, int64_t r0, int64_t r1, int worker)
{
    int64_t n = s->now->down.w.k;

    (void)worker;
    for (int64_t r = r0; r < r1; r++)
        s->m->options.ops.swiglu(s->gu + r * 2 * n, n, s->m->bf16, s->a + r * n);
}

void ccq_dense(ccq_session *s, float *t)
{
    const ccq_layer *l = s->now;
    int64_t h = s->m->arch->hidden, n = l->down.w.k;
    ccq_product up = {&l->up_gate.w, s->h, h, s->rows, s->gu, 2 * n};
    ccq_product down = {&l->down.w, s->a, n, s->rows, t, h};

    ccq_products(s, &up, 1, s->m->bf16);
    ccq_on_rows(s, s->rows, swiglu_rows);
    ccq_products(s, &down, 1, s->m->bf16);
    ccq_spend(s, CCQ_STEP_DENSE, l->up_gate.bytes + l->down.bytes);
}

/* ---- Router ------------------------------------------------------------------ */

static int64_t choice_at(const ccq_session *s, int64_t row)
{
    return row * s->routed + s->moe_at;
}

static void route_rows(ccq_session *s, int64_t r0, int64_t r1, int worker)
{
    const ccq_arch *a = s->m->arch;
    const ccq_layer *l = s->now;

    for (int64_t r = r0; r < r1; r++) {
        int64_t at = choice_at(s, r);
        s->nan_row[r] = ccq_router(s->h + r * a->hidden, l->router, l->bias, a->hidden, a->experts,
                                   a->moe_k, s->ids + at * a->moe_k, s->weights + at * a->moe_k,
                                   &s->margin[at], s->scratch[worker]) != 0;
    }
}

static ccq_code check_nan(const ccq_session *s, ccq_error *err)
{
    for (int64_t r = 0; r < s->rows; r++)
        if (s->nan_row[r])
            return ccq_fail(
                err, CCQ_NONFINITE,
                "%s: layer %lld: router logit is NaN at token %lld (id %d) of sequence %zu",
                s->m->src->dir, (long long)s->layer, (long long)s->row[r].position,
                (int)s->row[r].id, s->row[r].sequence);
    return CCQ_OK;
}

/* ---- Experts -------------------------------------------------------------------- */

/* Rows of each expert side by side, ascending inside an expert. */
static void sort_rows(ccq_session *s)
{
    int64_t experts = s->m->arch->experts, k = s->m->arch->moe_k;

    memset(s->start, 0, (size_t)(experts + 1) * sizeof *s->start);
    for (int64_t r = 0; r < s->rows; r++)
        for (int64_t j = 0; j < k; j++)
            s->start[s->ids[choice_at(s, r) * k + j] + 1]++;
    for (int64_t e = 0; e < experts; e++)
        s->start[e + 1] += s->start[e];
    for (int64_t r = 0; r < s->rows; r++)
        for (int64_t j = 0; j < k; j++) {
            int32_t at = s->start[s->ids[choice_at(s, r) * k + j]]++;
            s->place[r * k + j] = at;
            s->from[at] = (int32_t)r;
        }
    /* every start has moved to its end: shift back */
    memmove(s->start + 1, s->start, (size_t)experts * sizeof *s->start);
    s->start[0] = 0;
}

static void gather_rows(ccq_session *s, int64_t r0, int64_t r1, int worker)
{
    int64_t h = s->m->arch->hidden;

    (void)worker;
    for (int64_t r = r0; r < r1; r++)
        memcpy(s->xg + r * h, s->h + s->from[r] * h, (size_t)h * sizeof *s->xg);
}

static void swiglu_gathered(ccq_session *s, int64_t r0, int64_t r1, int worker)
{
    int64_t n = s->m->arch->moe_inter;

    (void)worker;
    for (int64_t r = r0; r < r1; r++)
        s->m->options.ops.swiglu(s->gu + r * 2 * n, n, s->m->bf16, s->a + r * n);
}

static void combine_rows(ccq_session *s, int64_t r0, int64_t r1, int worker)
{
    int64_t h = s->m->arch->hidden, k = s->m->arch->moe_k;
    float *y = s->scratch[worker];

    for (int64_t r = r0; r < r1; r++) {
        for (int64_t j = 0; j < k; j++)
            memcpy(y + j * h, s->yg + s->place[r * k + j] * h, (size_t)h * sizeof *y);
        ccq_combine(y, h, s->weights + choice_at(s, r) * k, k, h, s->m->bf16, s->t + r * h);
    }
}

/* One product of all experts that have rows: up (0) or down (1). Bytes of their weights. */
static uint64_t expert_products(ccq_session *s, int down)
{
    const ccq_arch *a = s->m->arch;
    const float *x = down ? s->a : s->xg;
    float *y = down ? s->yg : s->gu;
    int64_t ldx = down ? a->moe_inter : a->hidden, ldy = down ? a->hidden : 2 * a->moe_inter;
    size_t count = 0;
    uint64_t bytes = 0;

    for (int64_t e = 0; e < a->experts; e++) {
        int64_t at = s->start[e], rows = s->start[e + 1] - at;
        ccq_product p = {
            &s->now->expert[2 * e + down].w, x + at * ldx, ldx, rows, y + at * ldy, ldy};
        if (rows > 0) {
            s->products[count++] = p;
            bytes += s->now->expert[2 * e + down].bytes;
        }
    }
    ccq_products(s, s->products, count, s->m->bf16);
    return bytes;
}

/* t = R(t + shared), the shared expert's output being in yg. */
static void add_shared(ccq_session *s, int64_t r0, int64_t r1, int worker)
{
    int64_t h = s->m->arch->hidden;

    (void)worker;
    for (int64_t i = r0 * h; i < r1 * h; i++)
        s->t[i] += s->yg[i];
    if (s->m->bf16)
        s->m->options.ops.round(s->t + r0 * h, (r1 - r0) * h, s->t + r0 * h);
}

ccq_code ccq_moe(ccq_session *s, ccq_error *err)
{
    const ccq_arch *a = s->m->arch;
    uint64_t bytes;
    ccq_code code;

    ccq_on_rows(s, s->rows, route_rows);
    if ((code = check_nan(s, err)))
        return code;
    sort_rows(s);
    ccq_spend(s, CCQ_STEP_ROUTER, (uint64_t)(a->hidden * a->experts) * sizeof(float));
    ccq_on_rows(s, s->rows * a->moe_k, gather_rows);
    bytes = expert_products(s, 0);
    ccq_on_rows(s, s->rows * a->moe_k, swiglu_gathered);
    bytes += expert_products(s, 1);
    ccq_on_rows(s, s->rows, combine_rows);
    ccq_spend(s, CCQ_STEP_EXPERTS, bytes);
    if (s->now->shared) {
        ccq_dense(s, s->yg); /* its rows have been combined */
        ccq_on_rows(s, s->rows, add_shared);
    }
    return CCQ_OK;
}
