/* Places of the rows by expert: a counting sort that keeps their order. A block has an
 * expert and looks at all choices, every thread at a run of them: how many are of a lower
 * expert says where the expert starts, how many are its own in the runs before where the
 * thread's go. */
#ifndef CCQ_KERNELS_GPU_MODEL_SORT_H
#define CCQ_KERNELS_GPU_MODEL_SORT_H

#include "kernels/gpu/model_base.h"
#include "kernels/gpu_model.h"

typedef struct ccq_gpu_sort_shared {
    int32_t lower[CCQ_GPU_THREADS], own[CCQ_GPU_THREADS];
} ccq_gpu_sort_shared;

CCQ_INLINE int32_t ccq_gpu_sort_id(const ccq_gpu_sort *p, int64_t i)
{
    return p->ids[(i / p->k * p->stride + p->at) * p->k + i % p->k];
}

CCQ_INLINE void ccq_gpu_sort_count(const ccq_gpu_sort *p, int64_t expert, int t,
                                   ccq_gpu_sort_shared *s)
{
    int64_t count = p->rows * p->k, end = ccq_gpu_part(count, CCQ_GPU_THREADS, t + 1);
    int32_t lower = 0, own = 0;

    for (int64_t i = ccq_gpu_part(count, CCQ_GPU_THREADS, t); i < end; i++) {
        int32_t id = ccq_gpu_sort_id(p, i);
        lower += id < expert;
        own += id == expert;
    }
    s->lower[t] = lower;
    s->own[t] = own;
}

CCQ_INLINE void ccq_gpu_sort_place(const ccq_gpu_sort *p, int64_t expert, int t,
                                   const ccq_gpu_sort_shared *s)
{
    int64_t count = p->rows * p->k, end = ccq_gpu_part(count, CCQ_GPU_THREADS, t + 1);
    int32_t start = 0, at;

    for (int i = 0; i < CCQ_GPU_THREADS; i++)
        start += s->lower[i];
    at = start;
    for (int i = 0; i < t; i++)
        at += s->own[i];
    if (!t)
        p->start[expert] = start;
    if (!t && expert == p->experts - 1)
        p->start[p->experts] = (int32_t)count;
    for (int64_t i = ccq_gpu_part(count, CCQ_GPU_THREADS, t); i < end; i++)
        if (ccq_gpu_sort_id(p, i) == expert) {
            p->from[at] = (int32_t)(i / p->k);
            p->place[i] = at++;
        }
}

#endif
