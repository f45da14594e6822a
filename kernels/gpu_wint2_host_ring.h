/* Copies of the host device that take their time, as those of kernels/gpu/wint2_ring.h may on
 * any other: from when they are begun their slots hold no numbers, and only when they are
 * awaited their bytes are there. So slots that are used too early, or filled before all are past
 * them, spoil the result. */
#ifndef CCQ_KERNELS_GPU_WINT2_HOST_RING_H
#define CCQ_KERNELS_GPU_WINT2_HOST_RING_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { CCQ_W2_HOST_COPIES = 8 };

typedef struct ccq_w2_host_ring {
    uint8_t *shared, *coming; /* shared memory, and where copies wait */
    size_t size, slots;       /* bytes of shared memory, of what a copy fills */
    size_t at[CCQ_W2_HOST_COPIES];
    unsigned begun, done;
} ccq_w2_host_ring;

/* NULL in shared: no memory. At a multiple of 1024, as devices have it. */
static inline ccq_w2_host_ring ccq_w2_host_ring_of(size_t size)
{
    ccq_w2_host_ring r = {.size = (size + 1023) / 1024 * 1024};

    r.shared = aligned_alloc(1024, 2 * r.size);
    r.coming = r.shared ? r.shared + r.size : NULL;
    return r;
}

/* Of a block of threads: nothing under way, no numbers anywhere. */
static inline void ccq_w2_host_ring_begin(ccq_w2_host_ring *r, size_t slots)
{
    memset(r->shared, 0xff, 2 * r->size);
    r->slots = slots;
    r->begun = r->done = 0;
}

/* The slots at `at` are to be filled: through the ring that this returns. */
static inline uint8_t *ccq_w2_host_ring_fill(ccq_w2_host_ring *r, size_t at)
{
    memset(r->shared + at, 0xff, r->slots);
    memset(r->coming + at, 0xff, r->slots);
    r->at[r->begun++ % CCQ_W2_HOST_COPIES] = at;
    return r->coming;
}

/* Until `pending` copies are under way. */
static inline void ccq_w2_host_ring_await(ccq_w2_host_ring *r, unsigned pending)
{
    for (; r->begun - r->done > pending; r->done++) {
        size_t at = r->at[r->done % CCQ_W2_HOST_COPIES];
        memcpy(r->shared + at, r->coming + at, r->slots);
    }
}

#endif
