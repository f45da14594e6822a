/* Norms are folded into the matrices behind them, then R turns the residual stream:
 *
 *     embed_tokens           E R               o_proj, down_proj     W R
 *     qkv_proj               R' diag(in) W     up_gate_proj, router  R' diag(post) W
 *     lm_head                R' diag(last) W   norms                 1
 *
 * and neuron j of an MLP becomes neuron order[j]: columns j and I + j of up_gate_proj, row
 * j of down_proj. */
#include "libccq/transform.h"
#include "libccq/lanes.h"

#include "kernels/convert.h"
#include "kernels/hadamard.h"

#include <stdlib.h>
#include <string.h>

struct ccq_transform {
    const ccq_source *src;
    unsigned which;
    int ranks;
    double *factor; /* of the rotation, by residual channel */
    ccq_entry head; /* name NULL: none of its own */
};

static ccq_code no_memory(const char *name, ccq_error *err)
{
    return ccq_fail(err, CCQ_NO_MEMORY, "%s: out of memory to transform", name);
}

/* ---- What becomes of an entry ------------------------------------------------- */

typedef enum side {
    SIDE_NONE,
    SIDE_IN,  /* its rows are residual channels */
    SIDE_OUT, /* its columns are */
    SIDE_NORM
} side;

static side side_of(const ccq_transform *t, const ccq_entry *e)
{
    if (!(t->which & CCQ_TRANSFORM_ROTATE))
        return SIDE_NONE;
    switch (e->role) {
    case CCQ_ROLE_EMBED:
    case CCQ_ROLE_O: /* their biases are added to the residual stream */
    case CCQ_ROLE_DOWN:
        return SIDE_OUT;
    case CCQ_ROLE_QKV:
    case CCQ_ROLE_UP_GATE:
    case CCQ_ROLE_ROUTER:
    case CCQ_ROLE_HEAD:
        return e->bias ? SIDE_NONE : SIDE_IN;
    case CCQ_ROLE_NORM_IN:
    case CCQ_ROLE_NORM_POST:
    case CCQ_ROLE_NORM:
        return SIDE_NORM;
    default:
        return SIDE_NONE;
    }
}

/* Whether rows of down, or columns of up_gate and its bias, move. */
static int moves(const ccq_transform *t, const ccq_entry *e)
{
    if (!(t->which & CCQ_TRANSFORM_PERMUTE))
        return 0;
    return e->role == CCQ_ROLE_UP_GATE || (e->role == CCQ_ROLE_DOWN && !e->bias);
}

int ccq_transform_touches(const ccq_transform *t, const ccq_entry *e)
{
    return side_of(t, e) != SIDE_NONE || moves(t, e);
}

static const ccq_entry *norm_before(const ccq_source *src, const ccq_entry *e)
{
    ccq_role role = e->role == CCQ_ROLE_QKV    ? CCQ_ROLE_NORM_IN
                    : e->role == CCQ_ROLE_HEAD ? CCQ_ROLE_NORM
                                               : CCQ_ROLE_NORM_POST;
    return ccq_source_find(src, role, CCQ_BLOCK_NONE, e->role == CCQ_ROLE_HEAD ? -1 : e->layer, -1,
                           0);
}

/* ---- Opening ---------------------------------------------------------------------- */

/* Stored, the embedding is this head the other way round. */
static ccq_entry tied_head(const ccq_source *src)
{
    const ccq_entry *e = ccq_source_find(src, CCQ_ROLE_EMBED, CCQ_BLOCK_NONE, -1, -1, 0);
    ccq_entry head = {.name = "lm_head.weight", .role = CCQ_ROLE_HEAD, .layer = -1, .expert = -1,
                      .type = CCQ_TYPE_BF16, .k = e->n, .n = e->k, .pieces = 1,
                      .rank_bytes = e->rank_bytes};
    head.piece[0] = (ccq_piece){e->piece[0].tensor, 1, 0, e->k};
    return head;
}

static ccq_code open_rotation(ccq_transform *t, uint64_t seed, ccq_error *err)
{
    int64_t hidden = t->src->arch.hidden;
    if (!ccq_hadamard_size(hidden))
        return ccq_fail(err, CCQ_USAGE,
                        "transform rotate: hidden_size %lld of %s is neither 2^k nor 20 * 2^k",
                        (long long)hidden, t->src->dir);
    t->factor = malloc((size_t)hidden * sizeof *t->factor);
    if (!t->factor)
        return no_memory(t->src->dir, err);
    ccq_hadamard_factors(seed, hidden, t->factor);
    if (t->src->arch.tied)
        t->head = tied_head(t->src);
    return CCQ_OK;
}

ccq_code ccq_transform_open(ccq_transform **out, const ccq_source *src, unsigned which,
                            uint64_t seed, int ranks, ccq_error *err)
{
    ccq_code code = CCQ_OK;
    *out = NULL;
    if (which && src->arch.quantized)
        return ccq_fail(err, CCQ_UNSUPPORTED,
                        "%s: is quantized: transforms mix weights and have to come before",
                        src->dir);
    ccq_transform *t = calloc(1, sizeof *t);
    if (!t)
        return no_memory(src->dir, err);
    t->src = src;
    t->which = which;
    t->ranks = ranks;
    if (which & CCQ_TRANSFORM_ROTATE)
        code = open_rotation(t, seed, err);
    if (code)
        ccq_transform_close(t);
    else
        *out = t;
    return code;
}

void ccq_transform_close(ccq_transform *t)
{
    if (!t)
        return;
    free(t->factor);
    free(t);
}

const ccq_entry *ccq_transform_head(const ccq_transform *t)
{
    return t->head.name ? &t->head : NULL;
}

/* ---- The order of neurons ------------------------------------------------------------ */

typedef struct neuron {
    double energy; /* of its row of down */
    int64_t number;
} neuron;

typedef struct ordering {
    const uint16_t *down;
    int64_t width;
    neuron *neuron;
} ordering;

/* Sum of squares, columns ascending. A rotation leaves it as it is. */
static void measure(void *ctx, size_t i, int worker)
{
    const ordering *o = ctx;
    const uint16_t *row = o->down + (int64_t)i * o->width;
    double sum = 0;
    (void)worker;
    for (int64_t c = 0; c < o->width; c++) {
        double w = (double)ccq_bf16_to_f32(row[c]);
        sum += w * w;
    }
    o->neuron[i] = (neuron){sum, (int64_t)i};
}

static int compare(const void *x, const void *y)
{
    const neuron *a = x, *b = y;
    if (a->energy != b->energy)
        return a->energy > b->energy ? -1 : 1;
    return a->number < b->number ? -1 : a->number > b->number;
}

static ccq_code read_order(const ccq_transform *t, const ccq_entry *down, ccq_pool *pool,
                           uint16_t *x, neuron *all, int64_t *order, ccq_error *err)
{
    ordering o = {x, down->n, all};
    int64_t share = down->k / t->ranks;
    ccq_code code = ccq_source_read_bf16(t->src, down, x, err);
    if (code)
        return code;
    ccq_pool_run(pool, (size_t)down->k, measure, &o);
    for (int64_t at = 0; at < down->k; at += share)
        qsort(all + at, (size_t)share, sizeof *all, compare);
    for (int64_t j = 0; j < down->k; j++)
        order[j] = all[j].number;
    return CCQ_OK;
}

ccq_code ccq_transform_order(const ccq_transform *t, const ccq_entry *e, ccq_pool *pool,
                             int64_t *order, ccq_error *err)
{
    const ccq_entry *down =
        ccq_source_find(t->src, CCQ_ROLE_DOWN, e->block, e->layer, e->expert, 0);
    if (!down || down->k % t->ranks || down->k < t->ranks)
        return ccq_fail(err, CCQ_USAGE, "%s: its neurons cannot be split over %d ranks", e->name,
                        t->ranks);
    uint16_t *x = malloc((size_t)ccq_entry_parameters(down) * sizeof *x);
    neuron *all = malloc((size_t)down->k * sizeof *all);
    ccq_code code = x && all ? read_order(t, down, pool, x, all, order, err)
                             : no_memory(e->name, err);
    free(all);
    free(x);
    return code;
}

/* from[j]: which row of down, or column of up_gate, becomes the j-th. */
static ccq_code make_map(const ccq_transform *t, const ccq_entry *e, ccq_pool *pool,
                         int64_t **map, ccq_error *err)
{
    int64_t width = e->role == CCQ_ROLE_DOWN ? e->k : e->n / 2;
    int64_t *from = malloc(2 * (size_t)width * sizeof *from);
    *map = from;
    ccq_code code = from ? ccq_transform_order(t, e, pool, from, err) : no_memory(e->name, err);
    for (int64_t j = 0; !code && j < width; j++)
        from[width + j] = width + from[j];
    return code;
}

/* ---- One entry --------------------------------------------------------------------------- */

/* Lanes of an entry: the columns of what the residual stream goes into, else the rows. */
static void lay_out(const ccq_transform *t, const ccq_entry *e, ccq_lanes *w)
{
    int columns = side_of(t, e) == SIDE_IN || e->role == CCQ_ROLE_UP_GATE;
    w->lanes = columns ? e->n : e->k;
    w->length = columns ? e->k : e->n;
    w->to_lane = columns ? 1 : e->n;
    w->to_step = columns ? e->n : 1;
    w->lane = e == &t->head ? e->k : w->to_lane;
    w->step = e == &t->head ? 1 : w->to_step;
}

static ccq_code read_gamma(const ccq_transform *t, const ccq_entry *e, double *by, ccq_error *err)
{
    int64_t hidden = t->src->arch.hidden;
    float *gamma = malloc((size_t)hidden * sizeof *gamma);
    ccq_code code = gamma ? ccq_source_read_f32(t->src, norm_before(t->src, e), gamma, err)
                          : no_memory(e->name, err);
    for (int64_t i = 0; !code && i < hidden; i++)
        by[i] *= (double)gamma[i];
    free(gamma);
    return code;
}

static ccq_code make_factors(const ccq_transform *t, const ccq_entry *e, double **by,
                             ccq_error *err)
{
    size_t size = (size_t)t->src->arch.hidden * sizeof **by;
    *by = malloc(size);
    if (!*by)
        return no_memory(e->name, err);
    memcpy(*by, t->factor, size);
    return side_of(t, e) == SIDE_IN ? read_gamma(t, e, *by, err) : CCQ_OK;
}

/* Whether the result may take the place of what it is made from. */
static int in_place(const ccq_transform *t, const ccq_entry *e)
{
    return e != &t->head && !moves(t, e);
}

/* The stored values: at w itself where f or h is what they lie as, else at *memory. */
static ccq_code read_values(const ccq_transform *t, const ccq_entry *e, ccq_lanes *w, void **memory,
                            ccq_error *err)
{
    const ccq_entry *from =
        e == &t->head ? ccq_source_find(t->src, CCQ_ROLE_EMBED, CCQ_BLOCK_NONE, -1, -1, 0) : e;
    uint16_t *x = w->h;
    if (e->type == CCQ_TYPE_F32) { /* the router: never bf16 */
        w->wide = w->f;
        return ccq_source_read_f32(t->src, from, w->f, err);
    }
    if (!x || !in_place(t, e))
        x = *memory = malloc((size_t)ccq_entry_parameters(e) * sizeof *x);
    w->x = x;
    return x ? ccq_source_read_bf16(t->src, from, x, err) : no_memory(e->name, err);
}

static ccq_code check_finite(const ccq_entry *e, const ccq_lanes *w, ccq_error *err)
{
    int64_t count = e->k * e->n;
    int64_t i = w->f ? ccq_f32_find_nonfinite(w->f, count) : ccq_bf16_find_nonfinite(w->h, count);
    return i == count ? CCQ_OK
                      : ccq_fail(err, CCQ_NONFINITE,
                                 "%s: transformed, a weight is not finite, first at [%lld,%lld]",
                                 e->name, (long long)(i / e->n), (long long)(i % e->n));
}

static ccq_code turn_all(const ccq_transform *t, const ccq_entry *e, ccq_pool *pool, ccq_lanes *w,
                         ccq_error *err)
{
    int64_t *from = NULL;
    double *by = NULL;
    void *values = NULL;
    lay_out(t, e, w);
    w->scratch = malloc((size_t)ccq_lanes_scratch(w, ccq_pool_threads(pool)));
    ccq_code code = w->scratch ? CCQ_OK : no_memory(e->name, err);
    if (!code && moves(t, e))
        code = make_map(t, e, pool, &from, err);
    if (!code && side_of(t, e) != SIDE_NONE)
        code = make_factors(t, e, &by, err);
    if (!code)
        code = read_values(t, e, w, &values, err);
    w->from = from;
    w->by = by;
    if (!code) {
        ccq_lanes_turn(w, pool);
        code = check_finite(e, w, err);
    }
    free(values);
    free(by);
    free(from);
    free(w->scratch);
    return code;
}

ccq_code ccq_transform_matrix(const ccq_transform *t, const ccq_entry *e, ccq_pool *pool,
                              float *w, ccq_error *err)
{
    ccq_lanes all = {.f = w};
    if (e->type == CCQ_TYPE_F32 && !ccq_transform_touches(t, e))
        return ccq_source_read_f32(t->src, e, w, err);
    if (side_of(t, e) != SIDE_NORM)
        return turn_all(t, e, pool, &all, err);
    for (int64_t i = 0; i < e->n; i++)
        w[i] = 1.0f;
    return CCQ_OK;
}

ccq_code ccq_transform_bf16(const ccq_transform *t, const ccq_entry *e, ccq_pool *pool,
                            uint16_t *w, ccq_error *err)
{
    ccq_lanes all = {.h = w};
    if (e->type == CCQ_TYPE_F32)
        return ccq_fail(err, CCQ_BUG, "%s: is not stored as bf16", e->name);
    if (!ccq_transform_touches(t, e))
        return ccq_source_read_bf16(t->src, e, w, err);
    if (side_of(t, e) != SIDE_NORM)
        return turn_all(t, e, pool, &all, err);
    for (int64_t i = 0; i < e->n; i++)
        w[i] = 0x3f80; /* 1 */
    return CCQ_OK;
}

uint64_t ccq_transform_memory(const ccq_transform *t, const ccq_entry *e)
{
    ccq_lanes w = {0};
    lay_out(t, e, &w);
    return 2 * ccq_entry_parameters(e) + 16 * (uint64_t)(w.lanes + w.length);
}

uint64_t ccq_transform_scratch(const ccq_transform *t, int threads)
{
    uint64_t most = 0;
    for (size_t i = 0; i < t->src->count; i++) {
        const ccq_entry *e = &t->src->entry[i];
        ccq_lanes w = {0};
        lay_out(t, e, &w);
        uint64_t size = ccq_lanes_scratch(&w, threads);
        if (size > most && (ccq_transform_touches(t, e) || ccq_entry_linear(e)))
            most = size;
    }
    return most;
}
