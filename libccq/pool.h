/* Threads: run n independent pieces of work. */
#ifndef CCQ_LIBCCQ_POOL_H
#define CCQ_LIBCCQ_POOL_H

#include "formats/types.h"

typedef struct ccq_pool ccq_pool;

/* CPUs this process may use: affinity mask and cgroup quota. At least 1. */
int ccq_cpu_count(void);
/* threads < 1 = ccq_cpu_count(). NULL: out of memory or no thread could start. */
ccq_pool *ccq_pool_new(int threads);
void ccq_pool_free(ccq_pool *pool); /* NULL is fine */
int ccq_pool_threads(const ccq_pool *pool); /* NULL: 1 */
/* Calls fn(ctx, i, worker) once for each i < n, in any order, on the pool's
 * threads and the caller (worker: 0..threads-1), and returns when all are done.
 * Not reentrant: one caller at a time. */
typedef void (*ccq_pool_fn)(void *ctx, size_t i, int worker);
void ccq_pool_run(ccq_pool *pool, size_t n, ccq_pool_fn fn, void *ctx);

#endif
