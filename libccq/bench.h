/* How fast a model runs on this machine, beside how fast the machine reads memory. */
#ifndef CCQ_LIBCCQ_BENCH_H
#define CCQ_LIBCCQ_BENCH_H

#include "libccq/run.h"

/* A number of equal steps. */
typedef struct ccq_bench {
    int64_t batch; /* sequences of a step */
    uint64_t steps, tokens;
    double seconds;
    ccq_spent spent; /* over all steps */
    uint64_t cache_bytes, work_bytes;
} ccq_bench;

/* Bytes a second that all threads together read from memory that no cache holds, the
 * best of some passes. 0: no memory for it. */
double ccq_bench_read_rate(ccq_pool *pool);
/* Bytes a second that a device copies in its own memory, read and written; 0: no room. */
double ccq_bench_copy_rate(ccq_gpu *gpu);
/* One sequence of rows tokens, at most chunk a step, and the logits of the last one;
 * again until a second is over. */
ccq_code ccq_bench_prefill(const ccq_model *model, int64_t rows, int64_t chunk, ccq_bench *result,
                           ccq_error *err);
/* Steps of one token for each of batch sequences that hold context tokens, and logits. */
ccq_code ccq_bench_decode(const ccq_model *model, int64_t batch, int64_t context,
                          ccq_bench *result, ccq_error *err);

#endif
