/* Memory of a fixed size for buffers that come and go in about the same order. */
#ifndef CCQ_LIBCCQ_RING_H
#define CCQ_LIBCCQ_RING_H

#include <stddef.h>

enum { CCQ_RING_PARTS = 256 };

/* One thread at a time. */
typedef struct ccq_ring {
    char *base;
    int lent; /* base is the caller's */
    size_t size, head; /* head: where the next part would start */
    struct {
        size_t at, size;
        int given;
    } part[CCQ_RING_PARTS]; /* oldest first, around */
    size_t first, count;
} ccq_ring;

/* 0, or -1: out of memory. A size of 0 takes nothing. */
int ccq_ring_init(ccq_ring *ring, size_t size);
/* The same in memory of the caller, aligned to 64. */
void ccq_ring_init_at(ccq_ring *ring, void *memory, size_t size);
void ccq_ring_free(ccq_ring *ring); /* safe on zeros */
/* size bytes, aligned to 64; NULL: no room until something is given back. When nothing
 * is out, whatever is not larger than the ring fits. */
void *ccq_ring_take(ccq_ring *ring, size_t size);
/* Room is there again once everything taken earlier has been given back too. */
void ccq_ring_give(ccq_ring *ring, const void *data);

#endif
