/* A model layer by layer, as calibration runs it: read under a transform, multiplied by the
 * kernels. */
#ifndef CCQ_TESTS_READ_MODEL_H
#define CCQ_TESTS_READ_MODEL_H

#include "libccq/transform.h"

/* logits [count][V] of one sequence, in exact numerics. */
void read_run(const ccq_transform *t, const ccq_source *src, ccq_pool *pool, const int32_t *ids,
              int count, float *logits);

#endif
