/* Work on a matrix as vectors side by side: gathered, scaled and turned in fp64. */
#ifndef CCQ_LIBCCQ_LANES_H
#define CCQ_LIBCCQ_LANES_H

#include "libccq/pool.h"

#include <stdint.h>

/* Element i of lane j is stored j * lane + i * step elements from the beginning. The result
 * may lie where x does when from is NULL and both lie alike. */
typedef struct ccq_lanes {
    int64_t lanes, length;
    const uint16_t *x; /* bf16, or: */
    const float *wide;
    int64_t lane, step;       /* of these */
    const int64_t *from;      /* lane j comes from from[j]; NULL: from j */
    const double *by;         /* element i times by[i], then Hadamard's turn; NULL: neither */
    int64_t to_lane, to_step; /* of the result */
    float *f;                 /* the result: rounded to fp32, */
    uint16_t *h;              /* or to fp32, then to bf16 */
    double *scratch;
} ccq_lanes;

/* Bytes of scratch. */
uint64_t ccq_lanes_scratch(const ccq_lanes *t, int threads);
void ccq_lanes_turn(ccq_lanes *t, ccq_pool *pool);

#endif
