/* A forward pass in plain fp32 over fp32 tensors: no bf16, none of the kernels. What a
 * transformed model computes before anything is rounded. */
#ifndef CCQ_TESTS_PLAIN_MODEL_H
#define CCQ_TESTS_PLAIN_MODEL_H

#include "libccq/transform.h"

/* All tensors of a transformed model (which may be 0), read at once. */
typedef struct plain_model {
    const ccq_source *src;
    const ccq_transform *t;
    float **tensor; /* by entry of src, then the head of its own */
} plain_model;

void plain_open(plain_model *m, const ccq_transform *t, const ccq_source *src, ccq_pool *pool);
void plain_close(plain_model *m);
/* logits [count][V] of one sequence; chosen [count][layers]: a bit for each expert taken
 * (0 in dense layers). */
void plain_run(const plain_model *m, const int32_t *ids, int count, float *logits,
               uint64_t *chosen);

#endif
