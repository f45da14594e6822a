/* One tensor: its matrix is read whole, its columns are encoded in tiles (strips
 * of blocks for block_wise_fp8) over the pool, the planes come out. Columns are
 * independent of each other and figures are summed by column afterwards, so
 * threads leave no trace. */
#include "libccq/job.h"

#include <inttypes.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { TILE = CCQ_PANEL }; /* columns: 32 bytes of a bf16 row, half a cache line */

/* What the tiles of one matrix share. */
typedef struct batch {
    ccq_engine *engine;
    const ccq_action *a;
    const uint16_t *w; /* [k][n] */
    ccq_planes *planes;
    double *error, *energy, *max_error; /* by column; fp8: by the first of a strip */
    uint8_t *status;                    /* CCQ_COLUMN_* */
    atomic_int stop;
    atomic_llong columns; /* done */
} batch;

/* Pieces of a worker's scratch, for columns of k rows. */
typedef struct tile_memory {
    float *x;       /* [k][TILE] */
    void *scratch;  /* of the encoder */
    uint8_t *bytes; /* TILE columns */
    uint8_t *local;
} tile_memory;

static size_t round64(size_t n)
{
    return (n + 63) / 64 * 64;
}

static size_t tile_layout(char *base, int64_t k, tile_memory *m)
{
    size_t rows = (size_t)k, x = round64(TILE * rows * sizeof(float));
    size_t scratch = round64(ccq_encode_scratch(k)), bytes = round64(TILE * rows / 4 + TILE);
    size_t local = round64(TILE * rows / CCQ_GROUP + TILE);
    if (base)
        *m = (tile_memory){(float *)(void *)base, base + x, (uint8_t *)base + x + scratch,
                           (uint8_t *)base + x + scratch + bytes};
    return x + scratch + bytes + local;
}

static int is_quantized(ccq_type type)
{
    return type != CCQ_TYPE_BF16 && type != CCQ_TYPE_F32;
}

static int64_t longest_column(const ccq_plan *plan)
{
    int64_t k = CCQ_GROUP;
    for (size_t i = 0; i < plan->count; i++)
        if (is_quantized(plan->action[i].to) && plan->action[i].k > k)
            k = plan->action[i].k;
    return k;
}

uint64_t ccq_plan_memory(const ccq_plan *plan, int threads)
{
    uint64_t most = 0;
    for (size_t i = 0; i < plan->count; i++) {
        const ccq_action *a = &plan->action[i];
        const ccq_entry *e = a->entry;
        uint64_t need;
        if (is_quantized(a->to))
            need = a->bytes_out / (uint64_t)plan->ranks + 25 * (uint64_t)a->n +
                   2 * ccq_entry_parameters(e) +
                   (plan->ranks > 1 ? 2 * (uint64_t)a->k * (uint64_t)a->n : 0);
        else
            need = ccq_copy_memory(plan, a);
        if (e->pieces > 1 || e->piece[0].transposed) /* a piece before it is placed */
            need += e->piece[0].tensor->bytes;
        if (need > most)
            most = need;
    }
    return most + (uint64_t)threads * tile_layout(NULL, longest_column(plan), NULL);
}

ccq_code ccq_engine_init(ccq_engine *engine, const ccq_plan *plan,
                         const ccq_quantize_run_options *run, ccq_error *err)
{
    *engine = (ccq_engine){.plan = plan, .run = run, .workers = ccq_pool_threads(run->pool)};
    if (ccq_encoder_init(&engine->encoder))
        return ccq_fail(err, CCQ_BUG, "encoder: a built-in code line fails its proof");
    engine->worker = calloc((size_t)engine->workers, sizeof *engine->worker);
    size_t size = tile_layout(NULL, longest_column(plan), NULL);
    for (int i = 0; engine->worker && i < engine->workers; i++) {
        engine->worker[i].memory = aligned_alloc(64, size);
        if (!engine->worker[i].memory) {
            ccq_engine_free(engine);
            break;
        }
    }
    return engine->worker ? CCQ_OK : ccq_fail(err, CCQ_NO_MEMORY, "encoder: out of memory");
}

void ccq_engine_free(ccq_engine *engine)
{
    for (int i = 0; engine->worker && i < engine->workers; i++)
        free(engine->worker[i].memory);
    free(engine->worker);
    engine->worker = NULL;
}

static int cancelled(const ccq_engine *engine)
{
    return engine->run->cancelled && engine->run->cancelled(engine->run->ctx);
}

ccq_code ccq_engine_poll(const ccq_engine *engine, ccq_error *err)
{
    if (cancelled(engine))
        return ccq_fail(err, CCQ_INTERRUPTED, "interrupted: nothing is left behind; start again");
    return CCQ_OK;
}

/* ---- A tile ------------------------------------------------------------------ */

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void encode_wint2(batch *b, int64_t n0, int count, ccq_worker *worker, tile_memory *m)
{
    const ccq_quantize_options *o = &b->engine->plan->options;
    ccq_encode_params p = {o->effort, o->gain, o->order};
    ccq_column column[TILE];
    int64_t k = b->a->k;
    double begin = cpu_seconds();
    for (int j = 0; j < count; j++)
        column[j] = (ccq_column){.bytes = m->bytes + j * (k / CCQ_WINDOWS),
                                 .local = m->local + j * (k / CCQ_GROUP)};
    ccq_encode_panel(b->engine->run->ops, &b->engine->encoder, &p, m->x, k, count, column,
                     m->scratch);
    worker->encode_s += cpu_seconds() - begin;
    for (int j = 0; j < count; j++) {
        b->error[n0 + j] = column[j].error;
        b->energy[n0 + j] = column[j].energy;
        b->max_error[n0 + j] = column[j].max_error;
        b->status[n0 + j] = (uint8_t)column[j].status;
    }
    ccq_planes_place_wint2(b->planes, n0, count, column);
}

static void encode_weight_only(batch *b, int64_t n0, int count, tile_memory *m)
{
    int bits = b->planes->type == CCQ_TYPE_WINT8 ? 8 : 4;
    ccq_weight_only figures;
    ccq_weight_only_panel(b->engine->run->ops, bits, b->engine->plan->options.rule, m->x, b->a->k,
                          n0, count, b->planes->plane[0], &figures);
    for (int j = 0; j < count; j++) {
        b->error[n0 + j] = figures.error[j];
        b->energy[n0 + j] = figures.energy[j];
        b->max_error[n0 + j] = figures.max_error[j];
        b->status[n0 + j] = (uint8_t)figures.status[j];
        ((uint16_t *)b->planes->plane[1])[n0 + j] = figures.scale[j];
    }
}

/* x[r][j]: rows of the tile in fp32, columns past count zero. */
static void widen_tile(const uint16_t *w, int64_t ld, int64_t k, int count, float *x)
{
    if (count == TILE)
        for (int64_t r = 0; r < k; r++)
            for (int j = 0; j < TILE; j++)
                x[r * TILE + j] = ccq_bf16_to_f32(w[r * ld + j]);
    else
        for (int64_t r = 0; r < k; r++)
            for (int j = 0; j < TILE; j++)
                x[r * TILE + j] = j < count ? ccq_bf16_to_f32(w[r * ld + j]) : 0.0f;
}

/* Worker 0 is the caller of the pool, so reports never overlap. */
static void report(batch *b, int worker)
{
    const ccq_quantize_run_options *run = b->engine->run;
    if (worker != 0 || !run->progress)
        return;
    double share = ((double)atomic_load(&b->columns) / (double)b->a->n + b->engine->rank) /
                   b->engine->plan->ranks;
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
    int64_t k = b->a->k, n = b->a->n, n0 = (int64_t)i * CCQ_FP8_BLOCK;
    int64_t strips = (n + CCQ_FP8_BLOCK - 1) / CCQ_FP8_BLOCK;
    int cols = n - n0 < CCQ_FP8_BLOCK ? (int)(n - n0) : CCQ_FP8_BLOCK;
    uint8_t *q = b->planes->plane[0];
    float *scale = b->planes->plane[1];
    ccq_fp8_error sum = {0, 0, 0};
    if (stopped(b))
        return;
    for (int64_t k0 = 0; k0 < k; k0 += CCQ_FP8_BLOCK) {
        int rows = k - k0 < CCQ_FP8_BLOCK ? (int)(k - k0) : CCQ_FP8_BLOCK;
        ccq_fp8_block(b->w + k0 * n + n0, n, rows, cols, q + k0 * n + n0, n,
                      &scale[k0 / CCQ_FP8_BLOCK * strips + (int64_t)i], &sum);
    }
    b->error[n0] = sum.error;
    b->energy[n0] = sum.energy;
    b->max_error[n0] = sum.max_error;
    atomic_fetch_add(&b->columns, cols);
    report(b, number);
}

static void encode_tile(void *ctx, size_t i, int number)
{
    batch *b = ctx;
    if (stopped(b))
        return;
    ccq_worker *worker = &b->engine->worker[number];
    int64_t k = b->a->k, n = b->a->n, n0 = (int64_t)i * TILE;
    int count = n - n0 < TILE ? (int)(n - n0) : TILE;
    tile_memory m;
    tile_layout(worker->memory, k, &m);
    widen_tile(b->w + n0, n, k, count, m.x);
    if (b->planes->type == CCQ_TYPE_WINT2)
        encode_wint2(b, n0, count, worker, &m);
    else
        encode_weight_only(b, n0, count, &m);
    atomic_fetch_add(&b->columns, count);
    report(b, number);
}

/* ---- The whole matrix ----------------------------------------------------------- */

static ccq_code huge_column(const batch *b, int64_t n, ccq_error *err)
{
    const ccq_entry *e = b->a->entry;
    float most = 0;
    int64_t row = 0;
    for (int64_t r = 0; r < b->a->k; r++) {
        float w = fabsf(ccq_bf16_to_f32(b->w[r * b->a->n + n]));
        if (w > most) {
            most = w;
            row = r;
        }
    }
    char name[256], rank[32] = "";
    ccq_escape(name, sizeof name, e->name, strlen(e->name));
    if (b->engine->plan->ranks > 1)
        snprintf(rank, sizeof rank, "rank%d/", b->engine->rank);
    return ccq_fail(err, CCQ_NONFINITE,
                    "%s%s: column %" PRId64 ": |w| = %g at [%" PRId64 ",%" PRId64
                    "]: as %s its largest decoded weight would not be finite in bf16",
                    rank, name, n, (double)most, row, n, ccq_type_name(b->planes->type));
}

static ccq_code gather(const batch *b, ccq_outcome *out, ccq_error *err)
{
    for (int64_t n = 0; n < b->a->n; n++) {
        if (b->status[n] == CCQ_COLUMN_HUGE)
            return huge_column(b, n, err);
        out->error += b->error[n];
        out->energy += b->energy[n];
        if (b->max_error[n] > out->max_error)
            out->max_error = b->max_error[n];
        out->zero_columns += b->status[n] == CCQ_COLUMN_ZERO;
    }
    return CCQ_OK;
}

ccq_code ccq_read_matrix(const ccq_engine *engine, const ccq_action *a, uint16_t **w,
                         ccq_error *err)
{
    const ccq_quantize_run_options *run = engine->run;
    *w = malloc((size_t)ccq_entry_parameters(a->entry) * sizeof **w); /* the file's size */
    if (!*w)
        return ccq_fail(err, CCQ_NO_MEMORY, "%s: out of memory", a->entry->name);
    ccq_code code = ccq_source_decode(engine->plan->src, a->entry, CCQ_ROUND_FUSED, run->ops,
                                      run->pool, *w, err);
    if (code) {
        free(*w);
        *w = NULL;
    }
    return code;
}

static void encode(batch *b)
{
    int fp8 = b->a->to == CCQ_TYPE_FP8;
    size_t unit = fp8 ? CCQ_FP8_BLOCK : TILE;
    ccq_pool_run(b->engine->run->pool, ((size_t)b->a->n + unit - 1) / unit,
                 fp8 ? encode_strip : encode_tile, b);
}

ccq_code ccq_quantize_slice(ccq_engine *engine, const ccq_action *a, const uint16_t *w,
                            ccq_planes *planes, ccq_outcome *outcome, ccq_error *err)
{
    size_t n = (size_t)a->n;
    double *figures = calloc(3 * n, sizeof *figures);
    uint8_t *status = calloc(n, 1);
    ccq_code code = figures && status ? ccq_planes_new(planes, a, err)
                                      : ccq_fail(err, CCQ_NO_MEMORY, "%s: out of memory",
                                                 a->entry->name);
    if (code)
        goto done;
    batch b = {.engine = engine, .a = a, .w = w, .planes = planes, .error = figures,
               .energy = figures + n, .max_error = figures + 2 * n, .status = status};
    encode(&b);
    code = ccq_engine_poll(engine, err);
    if (!code)
        code = gather(&b, outcome, err);
    if (!code && a->to == CCQ_TYPE_WINT2)
        engine->encode_weights += (uint64_t)a->k * (uint64_t)a->n;
    if (code)
        ccq_planes_free(planes);
done:
    free(status);
    free(figures);
    return code;
}
