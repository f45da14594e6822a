/* Inside the device's part of libccq: a session's arrays. */
#ifndef CCQ_LIBCCQ_DEVICE_SESSION_H
#define CCQ_LIBCCQ_DEVICE_SESSION_H

#include "libccq/device.h"

enum {
    CCQ_DEVICE_LOGITS = 256, /* rows whose logits are made at a time */
    CCQ_DEVICE_NEVER = -1,   /* in place of a number of steps: they cannot be recorded */
    CCQ_DEVICE_GRAPHS = 65   /* steps of up to 64 rows, one of each sequence, are recorded */
};

/* Where the rows of a step are, [max_rows] each, in this order in memory. Elements of a
 * layer's part of the cache: keys of all slots, then values. */
typedef struct ccq_device_places {
    int32_t *id, *length;
    int64_t *k_at, *v_at, *k_first, *v_first;
    float *cos, *sin; /* [max_rows][d/2] */
} ccq_device_places;

struct ccq_device_session {
    ccq_gpu *gpu;
    void *memory;
    int64_t *first;    /* [slots], host: position of the slot's first in the cache */
    int64_t positions; /* of all slots */
    int64_t longest;   /* capacity of a slot */
    char *cache;       /* [held][layer_bytes]: [k|v][positions][nkv * d] */
    uint64_t layer_bytes;
    /* device memory, as in ccq_session */
    float *x, *h, *t, *qkv, *o, *gu, *a, *xg, *yg, *logits;
    int32_t *place, *from, *start, *ids, *pick;
    float *weights, *margin;
    uint8_t *nan; /* [routed][max_rows] */
    ccq_device_places places;
    void *work;
    /* the same places in pinned host memory */
    void *pinned;
    ccq_device_places host;
    uint8_t *host_nan; /* [routed][max_rows] */
    ccq_gpu_graph *graph[CCQ_DEVICE_GRAPHS]; /* by rows */
    int seen[CCQ_DEVICE_GRAPHS];             /* steps of so many rows */
};

#endif
