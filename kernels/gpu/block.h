/* A block of threads written once. Between two barriers every thread does the same to its own
 * part:
 *
 *     CCQ_THREADS(count, t) statement
 *
 * is that and the barrier behind it: on CUDA the thread's own t, on the host device all of
 * them in turn. What a thread keeps from one to the next lies at [CCQ_OWN(t)] of an array
 * that has one element there and `count` here. */
#ifndef CCQ_KERNELS_GPU_BLOCK_H
#define CCQ_KERNELS_GPU_BLOCK_H

#include "kernels/gpu/words.h"

#ifdef __CUDA_ARCH__
#define CCQ_THREADS(count, t)                                                                     \
    for (int t = (int)threadIdx.x, t##_once = (count); t##_once; t##_once = 0, __syncthreads())
#define CCQ_OWN(t) ((t) & 0)
#define CCQ_UNROLL _Pragma("unroll")
#define CCQ_PRAGMA(text) _Pragma(#text)
#define CCQ_UNROLL_BY(n) CCQ_PRAGMA(unroll n)
#else
#define CCQ_THREADS(count, t) for (int t = 0; t < (count); t++)
#define CCQ_OWN(t) (t)
#define CCQ_UNROLL
#define CCQ_UNROLL_BY(n)
#endif

/* Thread t of `threads` copies its 16-byte pieces to shared memory; they are there for all
 * once ccq_block_landed has been called and a barrier passed. Copies are counted in batches,
 * the last `pending` of which (0 or 1) may still be under way. */
CCQ_INLINE void ccq_block_copy(void *to, const void *from, int bytes, int t, int threads)
{
    for (int i = 16 * t; i < bytes; i += 16 * threads) {
#ifdef __CUDA_ARCH__
        unsigned at = (unsigned)__cvta_generic_to_shared((char *)to + i);
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at),
                     "l"((const char *)from + i)
                     : "memory");
#else
        memcpy((char *)to + i, (const char *)from + i, 16);
#endif
    }
}

CCQ_INLINE void ccq_block_batch(void)
{
#ifdef __CUDA_ARCH__
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

CCQ_INLINE void ccq_block_landed(int pending)
{
#ifdef __CUDA_ARCH__
    if (pending)
        asm volatile("cp.async.wait_group 1;" ::: "memory");
    else
        asm volatile("cp.async.wait_group 0;" ::: "memory");
#else
    (void)pending;
#endif
}

#endif
