/* An expert layer with random weights, more than once where one would stay in the cache, and
 * routings of a step. */
#ifndef CCQ_TESTS_BENCH_GPU_LAYER_H
#define CCQ_TESTS_BENCH_GPU_LAYER_H

#include "kernels/gpu_model.h"
#include "kernels/gpu_wint2.h"
#include "tests/bench_gpu.h"

typedef struct shape {
    const char *name;
    int64_t hidden, inter, experts, k;
} shape;

typedef struct routing {
    int32_t *ids, *start, *from, *place; /* device */
    int active;
    int64_t most;
} routing;

/* The same layer's shape with weights of its own: [0] up_gate, [1] down. */
typedef struct weights {
    ccq_gpu_matrix *host[2], *device[2];
    void *memory[2];
} weights;

typedef struct layer {
    const shape *s;
    weights w[MOST_TURNS];
    int copies, turns; /* turn t has routing t and copy t % copies */
    double expert_bytes, reuse_bytes, want_bytes;
    routing r[MOST_TURNS];
    double active, most; /* of all routings: mean, largest */
    double chance[2][256]; /* cumulative; [1]: skewed */
    float *x, *y, *t, *weights;
    void *work;
    float *router, *bias, *router_weights, *margin;
    int32_t *router_ids;
    uint8_t *nan;
    void *router_work;
    int64_t batch;
    int rounding, way;
} layer;

/* Bytes of the device's memory that layer_make takes, about. */
double layer_bytes(const bench *b, layer *l, const shape *s, int64_t most);
/* For batches up to most. */
void layer_make(bench *b, layer *l, const shape *s, int64_t most);
void layer_free(bench *b, layer *l);
void layer_route(bench *b, layer *l, int skewed); /* l->batch rows, all turns */
void layer_free_routings(bench *b, layer *l);

#endif
