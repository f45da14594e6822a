#include "libccq/ring.h"

#include <stdlib.h>
#include <string.h>

enum { ALIGN = 64 };

static size_t rounded(size_t size)
{
    return (size + ALIGN - 1) / ALIGN * ALIGN;
}

int ccq_ring_init(ccq_ring *ring, size_t size)
{
    memset(ring, 0, sizeof *ring);
    ring->size = rounded(size);
    ring->base = ring->size ? aligned_alloc(ALIGN, ring->size) : NULL;
    return ring->size && !ring->base ? -1 : 0;
}

void ccq_ring_init_at(ccq_ring *ring, void *memory, size_t size)
{
    memset(ring, 0, sizeof *ring);
    ring->base = memory;
    ring->size = size / ALIGN * ALIGN;
    ring->lent = 1;
}

void ccq_ring_free(ccq_ring *ring)
{
    if (!ring->lent)
        free(ring->base);
    ring->base = NULL;
}

void *ccq_ring_take(ccq_ring *ring, size_t size)
{
    size_t oldest, at;

    size = size ? rounded(size) : ALIGN;
    if (size > ring->size || ring->count == CCQ_RING_PARTS)
        return NULL;
    if (!ring->count)
        ring->head = 0;
    oldest = ring->part[ring->first].at;
    at = ring->head;
    if (!ring->count || at > oldest) { /* free: from at to the end, and before the oldest */
        if (size > ring->size - at) {
            if (ring->count && size > oldest)
                return NULL;
            at = 0;
        }
    } else if (size > oldest - at) {
        return NULL;
    }
    size_t i = (ring->first + ring->count++) % CCQ_RING_PARTS;
    ring->part[i].at = at;
    ring->part[i].size = size;
    ring->part[i].given = 0;
    ring->head = at + size;
    return ring->base + at;
}

void ccq_ring_give(ccq_ring *ring, const void *data)
{
    size_t at = (size_t)((const char *)data - ring->base);

    for (size_t i = 0; i < ring->count; i++) {
        size_t n = (ring->first + i) % CCQ_RING_PARTS;
        if (ring->part[n].at == at && !ring->part[n].given) {
            ring->part[n].given = 1;
            break;
        }
    }
    while (ring->count && ring->part[ring->first].given) {
        ring->first = (ring->first + 1) % CCQ_RING_PARTS;
        ring->count--;
    }
}
