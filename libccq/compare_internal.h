/* Inside libccq: what compare.c keeps of each row and stats.c sums up. */
#ifndef CCQ_LIBCCQ_COMPARE_INTERNAL_H
#define CCQ_LIBCCQ_COMPARE_INTERNAL_H

#include "libccq/compare.h"

typedef struct ccq_row_figures {
    double nll, nll_base, dp; /* when it has a target */
    double kld, kld_cut16, max_dlogit, mean_dlogit, rms, cosine;
    uint8_t given, has_target, same_top;
} ccq_row_figures;

struct ccq_compare {
    ccq_pool *pool;
    size_t rows;
    int64_t valid;
    int base;
    ccq_row_figures *row;
    double *scratch; /* [threads][2 * valid] */
    uint64_t routes, routes_equal, routes_clear, routes_clear_equal;
    uint64_t greedy, greedy_equal, greedy_clear, greedy_clear_equal;
};

#endif
