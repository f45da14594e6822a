/* Columns of a matrix are encoded in tiles (strips of blocks for block_wise_fp8) over
 * the pool, into their place in the planes. They are independent of each other and
 * figures are summed by column afterwards, so threads and the size of blocks leave no
 * trace. */
#include "libccq/job.h"

#include <inttypes.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    TILE = CCQ_PANEL, /* columns: 32 bytes of a bf16 row, half a cache line */
    PAIR = 2 * TILE   /* columns that are taken and placed together, where there are so many */
};

/* What the tiles of a block of columns share. */
typedef struct batch {
    ccq_engine *engine;
    const ccq_action *a;
    const ccq_columns *c;
    ccq_planes *planes;
    double *error, *energy, *max_error; /* by column of the block; fp8: the first of a strip */
    uint8_t *status;                    /* CCQ_COLUMN_* */
    size_t pairs; /* of tiles, all of them full */
    atomic_int stop;
    atomic_llong columns; /* done */
} batch;

/* Pieces of a worker's scratch, for columns of k rows. */
typedef struct tile_memory {
    float *x;       /* [k][TILE], twice */
    void *scratch;  /* of the encoder */
    uint8_t *bytes; /* PAIR columns */
    uint8_t *local;
} tile_memory;

static size_t round64(size_t n)
{
    return (n + 63) / 64 * 64;
}

static size_t tile_layout(char *base, int64_t k, tile_memory *m)
{
    size_t rows = (size_t)k, x = round64(PAIR * rows * sizeof(float));
    size_t scratch = round64(ccq_encode_scratch(k)), bytes = round64(PAIR * rows / CCQ_WINDOWS);
    size_t local = round64(PAIR * rows / CCQ_GROUP);
    if (base)
        *m = (tile_memory){(float *)(void *)base, base + x, (uint8_t *)base + x + scratch,
                           (uint8_t *)base + x + scratch + bytes};
    return x + scratch + bytes + local;
}

static int64_t longest_column(const ccq_plan *plan)
{
    int64_t k = CCQ_GROUP;
    for (size_t i = 0; i < plan->count; i++)
        if (ccq_is_quantized(plan->action[i].to) && plan->action[i].k > k)
            k = plan->action[i].k;
    return k;
}

uint64_t ccq_tile_memory(const ccq_plan *plan)
{
    return tile_layout(NULL, longest_column(plan), NULL);
}

static ccq_code check_limit(const ccq_engine *engine, ccq_error *err)
{
    uint64_t limit = engine->run->mem_limit, least = engine->budget.least;
    return !limit || limit >= least || !engine->plan->fits /* which is told first */
               ? CCQ_OK
               : ccq_fail(err, CCQ_USAGE,
                          "memory limit of %llu bytes: this job with %d threads needs %llu",
                          (unsigned long long)limit, engine->workers, (unsigned long long)least);
}

ccq_code ccq_engine_init(ccq_engine *engine, const ccq_plan *plan,
                         const ccq_quantize_run_options *run, ccq_error *err)
{
    *engine = (ccq_engine){.plan = plan, .run = run, .workers = ccq_pool_threads(run->pool)};
    if (ccq_encoder_init(&engine->encoder))
        return ccq_fail(err, CCQ_BUG, "encoder: a built-in code line fails its proof");
    ccq_budget_of(plan, engine->workers, run->mem_limit, &engine->budget);
    if (check_limit(engine, err))
        return CCQ_USAGE;
    size_t size = (size_t)ccq_tile_memory(plan), n = (size_t)engine->budget.columns + 1;
    engine->worker = calloc((size_t)engine->workers, sizeof *engine->worker);
    engine->figures = malloc(3 * n * sizeof *engine->figures);
    engine->status = malloc(n);
    int good = engine->worker && engine->figures && engine->status;
    for (int i = 0; good && i < engine->workers; i++)
        good = (engine->worker[i].memory = aligned_alloc(64, size)) != NULL;
    return good ? CCQ_OK : ccq_fail(err, CCQ_NO_MEMORY, "encoder: out of memory");
}

void ccq_engine_free(ccq_engine *engine)
{
    for (int i = 0; engine->worker && i < engine->workers; i++)
        free(engine->worker[i].memory);
    free(engine->worker);
    free(engine->figures);
    free(engine->status);
    engine->worker = NULL;
}

static int cancelled(const ccq_engine *engine)
{
    return engine->run->cancelled && engine->run->cancelled(engine->run->ctx);
}

ccq_code ccq_engine_poll(const ccq_engine *engine, ccq_error *err)
{
    if (cancelled(engine))
        return ccq_fail(err, CCQ_INTERRUPTED, "interrupted");
    return CCQ_OK;
}

/* ---- A tile ------------------------------------------------------------------ */

static int tile_columns(int64_t left)
{
    return left < TILE ? (int)left : TILE;
}

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void encode_wint2(batch *b, int64_t at, int count, ccq_worker *worker, tile_memory *m)
{
    const ccq_quantize_options *o = &b->engine->plan->options;
    const ccq_ops *ops = b->engine->run->ops;
    ccq_encode_params p = {o->effort, o->gain, o->order};
    ccq_column column[PAIR];
    int64_t k = b->a->k;
    double begin = cpu_seconds();
    for (int j = 0; j < count; j++)
        column[j] = (ccq_column){.bytes = m->bytes + j * (k / CCQ_WINDOWS),
                                 .local = m->local + j * (k / CCQ_GROUP)};
    for (int j = 0; j < count; j += TILE)
        ccq_encode_panel(ops, &b->engine->encoder, &p, m->x + j * k, k, tile_columns(count - j),
                         &column[j], m->scratch);
    worker->encode_s += cpu_seconds() - begin;
    for (int j = 0; j < count; j++) {
        b->error[at + j] = column[j].error;
        b->energy[at + j] = column[j].energy;
        b->max_error[at + j] = column[j].max_error;
        b->status[at + j] = (uint8_t)column[j].status;
    }
    ccq_planes_place_wint2(ops, b->planes, b->c->n0 + at, count, column);
}

static void encode_weight_only(batch *b, int64_t at, int count, const float *x)
{
    int bits = b->planes->type == CCQ_TYPE_WINT8 ? 8 : 4;
    ccq_weight_only figures;
    ccq_weight_only_panel(b->engine->run->ops, bits, b->engine->plan->options.rule, x, b->a->k,
                          b->c->n0 + at, count, b->planes->plane[0], &figures);
    for (int j = 0; j < count; j++) {
        b->error[at + j] = figures.error[j];
        b->energy[at + j] = figures.energy[j];
        b->max_error[at + j] = figures.max_error[j];
        b->status[at + j] = (uint8_t)figures.status[j];
        ((uint16_t *)b->planes->plane[1])[b->c->n0 + at + j] = figures.scale[j];
    }
}

/* Index of a weight of row 0, and how far apart the rows of its strip are. */
static int64_t index_of(const ccq_columns *c, int64_t column, int64_t *ld)
{
    int64_t first = column - column % c->strip;
    *ld = c->nc - first < c->strip ? c->nc - first : c->strip;
    return first * c->a->k + column - first;
}

static float weight_at(const ccq_columns *c, int64_t i)
{
    return c->f ? c->f[i] : ccq_bf16_to_f32(c->w[i]);
}

/* Columns of a block from `at` on in fp32, [k][TILE] for each tile of them, filled up with
 * zeros. */
static void take_columns(const batch *b, int64_t at, int count, float *x)
{
    const ccq_columns *c = b->c;
    int64_t k = b->a->k, ld, first = index_of(c, at, &ld);
    if (count == PAIR && !c->f) {
        b->engine->run->ops->panel.widen(c->w + first, ld, k, x);
        return;
    }
    for (int from = 0; from < count; from += TILE)
        for (int64_t r = 0; r < k; r++, x += TILE)
            for (int j = 0; j < TILE; j++)
                x[j] = from + j < count ? weight_at(c, first + r * ld + from + j) : 0.0f;
}

/* Worker 0 is the caller of the pool, so reports never overlap. */
static void report(batch *b, int worker)
{
    const ccq_quantize_run_options *run = b->engine->run;
    if (worker != 0 || !run->progress)
        return;
    double columns = (double)(b->c->n0 + atomic_load(&b->columns));
    double share = (columns / (double)b->a->n + b->c->rank) / b->engine->plan->ranks;
    ccq_progress p = b->engine->done;
    p.bytes_in += (uint64_t)(share * (double)b->a->bytes_in);
    p.bytes_out += (uint64_t)(share * (double)b->a->bytes_out);
    run->progress(run->ctx, &p);
}

static int stopped(batch *b)
{
    if (!atomic_load(&b->stop) && cancelled(b->engine))
        atomic_store(&b->stop, 1);
    return atomic_load(&b->stop);
}

/* 128 columns: all blocks below each other. */
static void encode_strip(void *ctx, size_t i, int number)
{
    batch *b = ctx;
    int64_t k = b->a->k, n = b->a->n, nc = b->c->nc, at = (int64_t)i * CCQ_FP8_BLOCK;
    int64_t n0 = b->c->n0 + at, strips = (n + CCQ_FP8_BLOCK - 1) / CCQ_FP8_BLOCK;
    int64_t ld, first = index_of(b->c, at, &ld);
    int cols = nc - at < CCQ_FP8_BLOCK ? (int)(nc - at) : CCQ_FP8_BLOCK;
    uint8_t *q = b->planes->plane[0];
    float *scale = (float *)b->planes->plane[1] + n0 / CCQ_FP8_BLOCK;
    ccq_fp8_error sum = {0, 0, 0};
    if (stopped(b))
        return;
    for (int64_t k0 = 0; k0 < k; k0 += CCQ_FP8_BLOCK) {
        int rows = k - k0 < CCQ_FP8_BLOCK ? (int)(k - k0) : CCQ_FP8_BLOCK;
        float *to = &scale[k0 / CCQ_FP8_BLOCK * strips];
        if (b->c->f)
            ccq_fp8_block_f32(b->c->f + first + k0 * ld, ld, rows, cols, q + k0 * n + n0, n, to,
                              &sum);
        else
            ccq_fp8_block(b->c->w + first + k0 * ld, ld, rows, cols, q + k0 * n + n0, n, to, &sum);
    }
    b->error[at] = sum.error;
    b->energy[at] = sum.energy;
    b->max_error[at] = sum.max_error;
    atomic_fetch_add(&b->columns, cols);
    report(b, number);
}

/* A pair of tiles while their cache lines are at hand; single ones at the end, so that the
 * threads are done about the same time. */
static void encode_tiles(void *ctx, size_t i, int number)
{
    batch *b = ctx;
    ccq_worker *worker = &b->engine->worker[number];
    size_t tile = i < b->pairs ? 2 * i : b->pairs + i;
    int64_t k = b->a->k, at = (int64_t)tile * TILE, left = b->c->nc - at;
    int count = i < b->pairs ? PAIR : tile_columns(left);
    tile_memory m = {NULL, NULL, NULL, NULL};
    if (stopped(b))
        return;
    tile_layout(worker->memory, k, &m);
    take_columns(b, at, count, m.x);
    if (b->planes->type == CCQ_TYPE_WINT2)
        encode_wint2(b, at, count, worker, &m);
    else
        for (int j = 0; j < count; j += TILE)
            encode_weight_only(b, at + j, tile_columns(count - j), m.x + j * k);
    atomic_fetch_add(&b->columns, count);
    report(b, number);
}

/* ---- A block of columns ----------------------------------------------------------- */

static ccq_code huge_column(const ccq_engine *engine, const ccq_columns *c, int64_t at,
                            ccq_error *err)
{
    const ccq_entry *e = c->a->entry;
    float most = 0;
    int64_t row = 0, n = c->n0 + at, ld, first = index_of(c, at, &ld);
    for (int64_t r = 0; r < c->a->k; r++) {
        float w = fabsf(weight_at(c, first + r * ld));
        if (w > most) {
            most = w;
            row = r;
        }
    }
    char name[256], rank[32] = "";
    ccq_escape(name, sizeof name, e->name, strlen(e->name));
    if (engine->plan->ranks > 1)
        snprintf(rank, sizeof rank, "rank%d/", c->rank);
    return ccq_fail(err, CCQ_NONFINITE,
                    "%s%s: column %" PRId64 ": |w| = %g at [%" PRId64 ",%" PRId64
                    "]: as %s its largest decoded weight would not be finite in bf16",
                    rank, name, n, (double)most, row, n, ccq_type_name(c->a->to));
}

ccq_code ccq_quantize_sum(const ccq_engine *engine, const ccq_columns *c, const ccq_figures *f,
                          ccq_outcome *out, ccq_error *err)
{
    for (int64_t n = 0; n < c->nc; n++) {
        if (f->status[n] == CCQ_COLUMN_HUGE)
            return huge_column(engine, c, n, err);
        out->error += f->error[n];
        out->energy += f->energy[n];
        if (f->max_error[n] > out->max_error)
            out->max_error = f->max_error[n];
        out->zero_columns += f->status[n] == CCQ_COLUMN_ZERO;
    }
    return CCQ_OK;
}

ccq_code ccq_read_matrix(const ccq_engine *engine, const ccq_action *a, uint16_t **w,
                         ccq_error *err)
{
    const ccq_quantize_run_options *run = engine->run;
    const ccq_transform *t = engine->plan->transform;
    *w = malloc((size_t)ccq_entry_parameters(a->entry) * sizeof **w); /* the file's size */
    if (!*w)
        return ccq_fail(err, CCQ_NO_MEMORY, "%s: out of memory", a->entry->name);
    ccq_code code = t ? ccq_transform_bf16(t, a->entry, run->pool, *w, err)
                      : ccq_source_decode(engine->plan->src, a->entry, CCQ_ROUND_FUSED, run->ops,
                                          run->pool, *w, err);
    if (code) {
        free(*w);
        *w = NULL;
    }
    return code;
}

ccq_code ccq_quantize_columns(ccq_engine *engine, const ccq_columns *c, ccq_planes *planes,
                              ccq_outcome *outcome, ccq_error *err)
{
    size_t n = (size_t)c->nc;
    int fp8 = c->a->to == CCQ_TYPE_FP8;
    size_t unit = fp8 ? CCQ_FP8_BLOCK : TILE, pieces = (n + unit - 1) / unit;
    size_t single = 2 * (size_t)engine->workers; /* tiles, at least */
    batch b = {.engine = engine, .a = c->a, .c = c, .planes = planes, .error = engine->figures,
               .energy = engine->figures + n, .max_error = engine->figures + 2 * n,
               .status = engine->status, .pairs = pieces > single ? (pieces - single) / 2 : 0};
    memset(engine->figures, 0, 3 * n * sizeof *engine->figures);
    memset(engine->status, 0, n);
    if (fp8)
        ccq_pool_run(engine->run->pool, pieces, encode_strip, &b);
    else
        ccq_pool_run(engine->run->pool, pieces - b.pairs, encode_tiles, &b);
    ccq_code code = ccq_engine_poll(engine, err);
    const ccq_figures f = {b.error, b.energy, b.max_error, b.status};
    if (!code)
        code = ccq_quantize_sum(engine, c, &f, outcome, err);
    if (!code && c->a->to == CCQ_TYPE_WINT2)
        engine->encode_weights += (uint64_t)c->a->k * (uint64_t)c->nc;
    return code;
}
