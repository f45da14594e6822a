/* Which slots of the ring in shared memory a turn of the loop over K uses, and which it fills
 * for a turn to come: for the loops of all devices.
 *
 * Few rows (kernels/gpu/wint2_gemm.h): two blocks a turn. A turn fills the slots of the one
 * before it, which all warps are past, as they have met at its start.
 * Many rows (kernels/gpu/wint2_wide.h): one block a turn. A turn fills the slot of the second
 * before it: products of the last may still be under way, but no older ones, as there are no
 * more registers for A than for the groups of one block.
 *
 * A turn first awaits the copies of its own slots, which are the oldest; PENDING younger ones
 * stay under way. Every turn commits a copy, an empty one where nothing is left to fetch, so
 * that the count holds up to the last turn. */
#ifndef CCQ_KERNELS_GPU_WINT2_RING_H
#define CCQ_KERNELS_GPU_WINT2_RING_H

#include "kernels/gpu/wint2_half.h"

/* Known to a compiler, for the arguments of templates. */
#ifdef __CUDACC__
#define CCQ_W2_CONSTANT static constexpr __forceinline__ __host__ __device__
#else
#define CCQ_W2_CONSTANT static inline
#endif

/* ---- Few rows -------------------------------------------------------------- */

enum {
    CCQ_W2_TURN = 2,  /* blocks */
    CCQ_W2_AHEAD = 4, /* blocks that are fetched before the first turn */
    CCQ_W2_STAGES = CCQ_W2_AHEAD + CCQ_W2_TURN,
    CCQ_W2_PENDING = CCQ_W2_AHEAD / CCQ_W2_TURN - 1
};

/* Bytes from the start of the ring to the slots that the turn uses, and to those it fills. */
typedef struct ccq_w2_ring {
    int now, fill;
} ccq_w2_ring;

/* size: of a slot. Block i before the first turn goes to slot i. */
CCQ_W2_FN ccq_w2_ring ccq_w2_ring_of(int size)
{
    ccq_w2_ring ring = {0, CCQ_W2_AHEAD * size};
    return ring;
}

CCQ_W2_FN void ccq_w2_ring_next(int size, ccq_w2_ring *ring)
{
    const int last = (CCQ_W2_STAGES - CCQ_W2_TURN) * size;
    ring->fill = ring->now;
    ring->now = ring->now == last ? 0 : ring->now + CCQ_W2_TURN * size;
}

/* Does a split with `left` blocks from this turn on fetch in it, and is block i of the turn
 * one of its? */
CCQ_W2_FN int ccq_w2_fetches(int left)
{
    return left > CCQ_W2_AHEAD;
}

CCQ_W2_FN int ccq_w2_has(int left, int i)
{
    return left > i;
}

/* ---- Many rows ------------------------------------------------------------- */

enum {
    CCQ_W2_WIDE_BUFFERS = 2, /* registers of A, in groups: whose products may be under way */
    CCQ_W2_WIDE_BUSY = 2     /* slots that this turn and products under way read */
};

/* n: rows of a block of threads. */
CCQ_W2_CONSTANT int ccq_w2_wide_stages(int n)
{
    return n == 256 ? 3 : n == 128 ? 5 : 6;
}

/* Blocks that are fetched before the first turn. */
CCQ_W2_CONSTANT int ccq_w2_wide_ahead(int n)
{
    return ccq_w2_wide_stages(n) - CCQ_W2_WIDE_BUSY;
}

CCQ_W2_CONSTANT int ccq_w2_wide_pending(int n)
{
    return ccq_w2_wide_ahead(n) - 1;
}

typedef struct ccq_w2_wide_ring {
    int next;     /* block that is fetched next, if there is one */
    int to, slot; /* slots: where it goes, and what the turn uses */
} ccq_w2_wide_ring;

CCQ_W2_FN ccq_w2_wide_ring ccq_w2_wide_ring_of(void)
{
    ccq_w2_wide_ring ring = {0, 0, 0};
    return ring;
}

CCQ_W2_FN int ccq_w2_wide_after(int n, int slot)
{
    return slot + 1 == ccq_w2_wide_stages(n) ? 0 : slot + 1;
}

CCQ_W2_FN void ccq_w2_wide_filled(int n, ccq_w2_wide_ring *ring)
{
    ring->next++;
    ring->to = ccq_w2_wide_after(n, ring->to);
}

CCQ_W2_FN void ccq_w2_wide_used(int n, ccq_w2_wide_ring *ring)
{
    ring->slot = ccq_w2_wide_after(n, ring->slot);
}

#endif
