/* Feedback in plain C: the reference of all other instruction sets. */
#include "kernels/internal.h"

#include <math.h>

enum { TRIALS = 1, ROWS = 4 };

typedef struct lanes {
    float f[CCQ_PANEL];
} lanes;

#define EACH(x)                                                                                    \
    do {                                                                                           \
        lanes to;                                                                                  \
        for (int i = 0; i < CCQ_PANEL; i++)                                                        \
            to.f[i] = (x);                                                                         \
        return to;                                                                                 \
    } while (0)

static inline lanes v_load(const float *p) { EACH(p[i]); }
static inline lanes v_set(float x) { EACH(x); }
static inline lanes v_add(lanes a, lanes b) { EACH(a.f[i] + b.f[i]); }
static inline lanes v_sub(lanes a, lanes b) { EACH(a.f[i] - b.f[i]); }
static inline lanes v_mul(lanes a, lanes b) { EACH(a.f[i] * b.f[i]); }
static inline lanes v_fma(lanes a, lanes b, lanes c) { EACH(fmaf(a.f[i], b.f[i], c.f[i])); }
static inline lanes v_fnma(lanes a, lanes b, lanes c) { EACH(fmaf(-a.f[i], b.f[i], c.f[i])); }
static inline lanes v_min(lanes a, lanes b) { EACH(a.f[i] < b.f[i] ? a.f[i] : b.f[i]); }

static inline lanes v_pick(lanes a, lanes b, lanes x, lanes y)
{
    EACH(a.f[i] < b.f[i] ? x.f[i] : y.f[i]);
}

static inline void v_store(float *p, lanes a)
{
    for (int i = 0; i < CCQ_PANEL; i++)
        p[i] = a.f[i];
}

static inline int v_lowest(lanes a)
{
    int least = 0;

    for (int i = 1; i < CCQ_PANEL; i++)
        least = a.f[i] < a.f[least] ? i : least;
    return least;
}

#include "kernels/feedback_rows.h"

void ccq_feedback_init_c(ccq_feedback_ops *ops)
{
    fill(ops);
}
