/* What the parts of bench_kernels share. */
#ifndef CCQ_TESTS_BENCH_KERNELS_H
#define CCQ_TESTS_BENCH_KERNELS_H

#include "kernels/ops.h"

#include <time.h>

enum { MAX_ROUNDS = 201 };

typedef struct bench_options {
    int json, products, rounds, threads; /* products: nothing else */
    unsigned isa;
} bench_options;

double bench_clock(clockid_t id);
/* The best of a few short slices: what others do on the machine comes in between. */
void bench_keep(double *most, double rate);
/* rate, base: by round. The ratio of the best rates is held to the goal (0: none); base
 * may be NULL. */
void bench_report(const bench_options *o, const char *isa, const char *what, const double *rate,
                  const char *unit, const double *base, const char *to, double goal);
/* Memory that has been written. */
void *bench_need(size_t size);

/* bench_products.c */
typedef struct bench_memory bench_memory;
bench_memory *bench_products_open(const bench_options *o);
void bench_products(const bench_options *o, const ccq_ops *ops, bench_memory *m);
void bench_products_close(bench_memory *m);

#endif
