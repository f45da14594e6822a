#include "libccq/lanes.h"

#include "kernels/code.h"
#include "kernels/hadamard.h"

enum { LANES = CCQ_HADAMARD_LANES };

static void load_tile(const ccq_lanes *t, const int64_t *at, double *s)
{
    for (int64_t i = 0; i < t->length; i++, s += LANES) {
        int64_t step = i * t->step;
        if (t->wide)
            for (int j = 0; j < LANES; j++)
                s[j] = (double)t->wide[at[j] + step];
        else
            for (int j = 0; j < LANES; j++)
                s[j] = (double)ccq_bf16_to_f32(t->x[at[j] + step]);
        for (int j = 0; t->by && j < LANES; j++)
            s[j] *= t->by[i];
    }
}

static void store_tile(const ccq_lanes *t, int64_t at, int count, const double *s)
{
    for (int64_t i = 0; i < t->length; i++, s += LANES) {
        int64_t to = at + i * t->to_step;
        if (t->f)
            for (int j = 0; j < count; j++)
                t->f[to + j * t->to_lane] = (float)s[j];
        else
            for (int j = 0; j < count; j++)
                t->h[to + j * t->to_lane] = ccq_f32_to_bf16((float)s[j]);
    }
}

/* Lanes 16 i .. 16 i + 15; past the last one, the first again. */
static void turn_tile(void *ctx, size_t i, int worker)
{
    const ccq_lanes *t = ctx;
    double *s = t->scratch + (int64_t)worker * t->length * LANES;
    int64_t first = (int64_t)i * LANES, at[LANES];
    int count = t->lanes - first < LANES ? (int)(t->lanes - first) : LANES;
    for (int j = 0; j < LANES; j++) {
        int64_t lane = first + (j < count ? j : 0);
        at[j] = (t->from ? t->from[lane] : lane) * t->lane;
    }
    load_tile(t, at, s);
    if (t->by)
        ccq_hadamard_turn(s, t->length);
    store_tile(t, first * t->to_lane, count, s);
}

uint64_t ccq_lanes_scratch(const ccq_lanes *t, int threads)
{
    return (uint64_t)threads * (uint64_t)t->length * LANES * sizeof *t->scratch;
}

void ccq_lanes_turn(ccq_lanes *t, ccq_pool *pool)
{
    ccq_pool_run(pool, ((size_t)t->lanes + LANES - 1) / LANES, turn_tile, t);
}
