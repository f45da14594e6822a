/* Passes over the rows of a target's matrices. Not for callers outside libccq/targets*.c. */
#ifndef CCQ_LIBCCQ_TARGETS_INTERNAL_H
#define CCQ_LIBCCQ_TARGETS_INTERNAL_H

#include "libccq/targets.h"

/* Columns of a right side that are there at once: k x 512 numbers, twice. */
enum { CCQ_TARGET_COLUMNS = 512 };

/* A pass over rows; what a step of it does not name it leaves alone. */
typedef struct ccq_pass {
    void (*rows_fn)(const struct ccq_pass *p, int64_t i, int64_t end);
    int64_t rows, n;    /* n: columns of w, target and of the residual's sums */
    int64_t j, width;   /* the block of them in x and y, [rows][width] */
    const ccq_down_sums *m;
    int first, end;     /* halves that are summed */
    double scale, more; /* of the sums; what a diagonal gets, or the factor of an addition */
    double *x, *y;
    const double *h;
    const float *w;
    float *target;
    double *num, *den;  /* [rows] */
} ccq_pass;

/* fn over all rows, in pieces on the pool. */
void ccq_pass_run(const ccq_solver *s, ccq_pass *p,
                  void (*fn)(const ccq_pass *p, int64_t i, int64_t end));
/* x = columns of w. */
void ccq_pass_widen(const ccq_pass *p, int64_t i, int64_t end);
/* target = w + scale y; y NULL: w. */
void ccq_pass_narrow(const ccq_pass *p, int64_t i, int64_t end);

/* A target of count numbers is done, or rc of CCQ_SOLVE_* says why not (singular: what). */
ccq_code ccq_target_done(int rc, const char *what, const float *target, int64_t count,
                         ccq_error *err);

#endif
