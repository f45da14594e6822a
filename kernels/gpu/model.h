/* Kernels of kernels/gpu_model.h that make every output by itself, and the norm of a row. */
#ifndef CCQ_KERNELS_GPU_MODEL_SIMPLE_H
#define CCQ_KERNELS_GPU_MODEL_SIMPLE_H

#include "kernels/exp.h"
#include "kernels/gpu/model_base.h"
#include "kernels/gpu_model.h"

CCQ_INLINE void ccq_gpu_embed_at(const ccq_gpu_embed *p, int64_t r, int64_t j)
{
    int64_t at = p->ids[r] * p->h + j;

    p->x[r * p->h + j] = p->type == CCQ_W_BF16
                             ? ccq_bf16_to_f32(((const uint16_t *)p->table)[at])
                             : ((const float *)p->table)[at];
}

CCQ_INLINE void ccq_gpu_add_at(const ccq_gpu_add *p, int64_t i)
{
    p->x[i] = ccq_gpu_store(p->x[i] + p->t[i], p->bf16);
}

CCQ_INLINE void ccq_gpu_swiglu_at(const ccq_gpu_swiglu *p, int64_t r, int64_t j)
{
    float gate = p->gu[r * 2 * p->n + j], up = p->gu[r * 2 * p->n + p->n + j];
    float silu = gate / (1.0f + ccq_exp_inline(-gate));

    p->a[r * p->n + j] = ccq_gpu_store(silu * up, p->bf16);
}

CCQ_INLINE void ccq_gpu_gather_at(const ccq_gpu_gather *p, int64_t i, int64_t j)
{
    p->y[i * p->h + j] = p->x[p->from[i] * p->h + j];
}

CCQ_INLINE void ccq_gpu_combine_at(const ccq_gpu_combine *p, int64_t r, int64_t i)
{
    const float *weights = p->weights + (r * p->stride + p->at) * p->k;
    float sum = 0, acc = 0;

    for (int64_t j = 0; j < p->k; j++)
        sum += weights[j];
    for (int64_t j = 0; j < p->k; j++)
        acc = __builtin_fmaf(weights[j], p->y[p->place[r * p->k + j] * p->h + i], acc);
    p->t[r * p->h + i] = ccq_gpu_store(acc / sum, p->bf16);
}

/* ---- Rotation ------------------------------------------------------------ */

CCQ_INLINE void ccq_gpu_rope_keep(const ccq_gpu_rope *p, int64_t at, const float pair[2])
{
    if (p->bf16) {
        uint16_t *cache = (uint16_t *)p->cache + at;
        cache[0] = ccq_f32_to_bf16(pair[0]);
        cache[1] = ccq_f32_to_bf16(pair[1]);
    } else {
        float *cache = (float *)p->cache + at;
        cache[0] = pair[0];
        cache[1] = pair[1];
    }
}

/* Pair `index` of the heads of row r: 0..(heads + 2 kv_heads) * d/2 - 1. */
CCQ_INLINE void ccq_gpu_rope_at(const ccq_gpu_rope *p, int64_t r, int64_t index)
{
    int64_t head = index / (p->d / 2), i = index % (p->d / 2), kv = head - p->heads;
    float *at = p->qkv + r * p->ld + 2 * index;
    float pair[2] = {at[0], at[1]};

    if (kv < p->kv_heads) {
        float c = p->cos[r * (p->d / 2) + i], s = p->sin[r * (p->d / 2) + i];
        pair[0] = ccq_gpu_store(at[0] * c - at[1] * s, p->bf16);
        pair[1] = ccq_gpu_store(at[1] * c + at[0] * s, p->bf16);
        at[0] = pair[0];
        at[1] = pair[1];
    }
    if (kv >= p->kv_heads)
        ccq_gpu_rope_keep(p, p->v_at[r] + (kv - p->kv_heads) * p->d + 2 * i, pair);
    else if (kv >= 0)
        ccq_gpu_rope_keep(p, p->k_at[r] + kv * p->d + 2 * i, pair);
}

/* ---- Norm ---------------------------------------------------------------- */

/* A block makes a row: every thread the sum of squares of its elements, then the sums are
 * folded in halves. */
CCQ_INLINE const float *ccq_gpu_rms_row(const ccq_gpu_rms *p, int64_t r)
{
    return p->x + (p->pick ? p->pick[r] : r) * p->h;
}

CCQ_INLINE float ccq_gpu_rms_sum(const ccq_gpu_rms *p, int64_t r, int t)
{
    const float *x = ccq_gpu_rms_row(p, r);
    float sum = 0;

    for (int64_t i = t; i < p->h; i += CCQ_GPU_RMS_THREADS)
        sum = __builtin_fmaf(x[i], x[i], sum);
    return sum;
}

CCQ_INLINE void ccq_gpu_rms_fold(float *sums, int half, int t)
{
    if (t < half)
        sums[t] += sums[t + half];
}

CCQ_INLINE void ccq_gpu_rms_write(const ccq_gpu_rms *p, int64_t r, int t, float sum)
{
    const float *x = ccq_gpu_rms_row(p, r);
    float factor = 1.0f / sqrtf(sum * (1.0f / (float)p->h) + p->eps);

    for (int64_t i = t; i < p->h; i += CCQ_GPU_RMS_THREADS)
        p->y[r * p->h + i] = ccq_gpu_store(x[i] * factor * p->g[i], p->bf16);
}

/* ---- Reading ------------------------------------------------------------- */

/* A warp walks through memory of its own, 512 bytes at a time, as wint2 experts do. */
CCQ_INLINE uint32_t ccq_gpu_read_thread(const ccq_gpu_read *p, int64_t block, int t)
{
    enum { AT_ONCE = 8, STEP = 512, RUN = CCQ_GPU_READ / (CCQ_GPU_THREADS / 32) };
    const char *from = (const char *)p->from + block * CCQ_GPU_READ + t / 32 * RUN + t % 32 * 16;
    uint32_t word[AT_ONCE][4], all = 0;

    for (int at = 0; at < RUN; at += AT_ONCE * STEP) {
        CCQ_UNROLL
        for (int i = 0; i < AT_ONCE; i++)
            ccq_gpu_load16(from + at + i * STEP, word[i]);
        CCQ_UNROLL
        for (int i = 0; i < AT_ONCE; i++)
            all ^= word[i][0] ^ word[i][1] ^ word[i][2] ^ word[i][3];
    }
    return all;
}

#endif
