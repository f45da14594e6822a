#include "libccq/bench.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* A figure takes a second, or three steps where those take longer. */
static const double enough = 1.0;
enum { LEAST_STEPS = 3, WARM_ON_DEVICE = 20 };

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- Memory ---------------------------------------------------------------- */

enum { PASSES = 6, LANES = 16, BLOCK = 1 << 20 };

typedef struct reading {
    uint64_t *data;
    uint64_t *sum; /* of each block: what is not used need not be read */
} reading;

static void touch(void *ctx, size_t i, int worker)
{
    const reading *r = ctx;

    (void)worker;
    memset(r->data + i * (BLOCK / sizeof *r->data), (int)i, BLOCK);
}

static void read_block(void *ctx, size_t i, int worker)
{
    const reading *r = ctx;
    const uint64_t *x = r->data + i * (BLOCK / sizeof *x);
    uint64_t sum[LANES] = {0};

    (void)worker;
    for (size_t j = 0; j < BLOCK / sizeof *x; j += LANES)
        for (int lane = 0; lane < LANES; lane++)
            sum[lane] += x[j + (size_t)lane];
    for (int lane = 0; lane < LANES; lane++)
        r->sum[i] += sum[lane];
}

double ccq_bench_read_rate(ccq_pool *pool)
{
    size_t size = (size_t)512 << 20, blocks;
    reading r = {0};
    double best = 0;

    while (size >= (size_t)256 << 20 && !(r.data = aligned_alloc(64, size)))
        size /= 2;
    blocks = size / BLOCK;
    r.sum = calloc(blocks + 1, sizeof *r.sum);
    if (r.data && r.sum) {
        ccq_pool_run(pool, blocks, touch, &r);
        for (int pass = 0; pass < PASSES; pass++) {
            double begin = now(), rate;
            ccq_pool_run(pool, blocks, read_block, &r);
            rate = (double)size / (now() - begin);
            best = rate > best ? rate : best;
        }
    }
    free(r.sum);
    free(r.data);
    return best;
}

enum { COPIES = 8 };

double ccq_bench_copy_rate(ccq_gpu *gpu)
{
    size_t size = ccq_gpu_kind(gpu) == CCQ_GPU_HOST ? (size_t)64 << 20 : (size_t)1 << 30;
    void *memory[2] = {NULL, NULL};
    double best = 0;
    float ms = 0;
    int code = ccq_gpu_alloc(gpu, size, &memory[0]);

    if (!code)
        code = ccq_gpu_alloc(gpu, size, &memory[1]);
    for (int i = 0; i < COPIES && !code; i++)
        if (!(code = ccq_gpu_mark(gpu, 0)) &&
            !(code = ccq_gpu_copy(gpu, memory[1], memory[0], size)) &&
            !(code = ccq_gpu_mark(gpu, 1)) && !(code = ccq_gpu_between(gpu, 0, 1, &ms)) && ms > 0)
            best = 2e3 * (double)size / ms > best ? 2e3 * (double)size / ms : best;
    ccq_gpu_free(gpu, memory[0]);
    ccq_gpu_free(gpu, memory[1]);
    return best;
}

/* ---- Steps -------------------------------------------------------------------- */

typedef struct work {
    ccq_session *session;
    int64_t vocab;
    int32_t *ids;
    ccq_span *span;
    int64_t *row;
    float *logits;
    uint64_t draw;
} work;

static void free_work(work *w)
{
    ccq_session_close(w->session);
    free(w->ids);
    free(w->span);
    free(w->row);
    free(w->logits);
}

static ccq_code open_work(work *w, const ccq_model *m, int64_t slots, int64_t capacity,
                          int64_t tokens, int64_t max_rows, ccq_error *err)
{
    int64_t *capacities = calloc((size_t)slots, sizeof *capacities);
    ccq_code code;

    w->vocab = ccq_model_source(m)->arch.vocab;
    w->ids = calloc((size_t)tokens, sizeof *w->ids);
    w->span = calloc((size_t)slots, sizeof *w->span);
    w->row = calloc((size_t)slots, sizeof *w->row);
    w->logits = calloc((size_t)slots * (size_t)w->vocab, sizeof *w->logits);
    for (int64_t i = 0; capacities && i < slots; i++)
        capacities[i] = capacity;
    if (capacities && w->ids && w->span && w->row && w->logits)
        code = ccq_session_open(&w->session, m, (size_t)slots, capacities, max_rows, err);
    else
        code = ccq_fail(err, CCQ_NO_MEMORY, "benchmark of %lld sequences: out of memory",
                        (long long)slots);
    free(capacities);
    return code;
}

/* Tokens that differ, so that the router spreads them as text would. */
static void draw_ids(work *w, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        w->draw = w->draw * 6364136223846793005u + 1442695040888963407u;
        w->ids[i] = (int32_t)((w->draw >> 33) % (uint64_t)w->vocab);
    }
}

static ccq_code prefill_once(work *w, int64_t rows, int64_t chunk, ccq_error *err)
{
    int64_t last = 0;
    ccq_code code = CCQ_OK;

    ccq_session_reset(w->session, 0);
    for (int64_t at = 0; !code && at < rows; at += chunk) {
        ccq_span span = {0, 0, rows - at < chunk ? rows - at : chunk, w->ids + at};
        last = span.rows - 1;
        code = ccq_session_step(w->session, &span, 1, err);
    }
    return code ? code : ccq_session_logits(w->session, &last, 1, w->logits, err);
}

static ccq_code decode_once(work *w, int64_t batch, int64_t context, ccq_error *err)
{
    ccq_code code;

    draw_ids(w, batch);
    for (int64_t i = 0; i < batch; i++) {
        ccq_session_seek(w->session, (size_t)i, context);
        w->span[i] = (ccq_span){(size_t)i, (size_t)i, 1, w->ids + i};
        w->row[i] = i;
    }
    code = ccq_session_step(w->session, w->span, (size_t)batch, err);
    return code ? code
                : ccq_session_logits(w->session, w->row, (size_t)batch, w->logits, err);
}

/* Starts the figures anew: what ran before was to warm up. */
static void begin(const work *w, ccq_bench *r, ccq_spent *before, double *start)
{
    r->steps = 0;
    ccq_session_spent(w->session, before);
    *start = now();
}

static void finish(const work *w, ccq_bench *r, const ccq_spent *before, double start)
{
    r->seconds = now() - start;
    r->cache_bytes = ccq_session_cache_bytes(w->session);
    r->work_bytes = ccq_session_work_bytes(w->session);
    ccq_session_spent(w->session, &r->spent);
    for (int i = 0; i < CCQ_STEP_PARTS; i++) {
        r->spent.seconds[i] -= before->seconds[i];
        r->spent.bytes[i] -= before->bytes[i];
    }
}

/* On a device the parts of a step are timed in steps of their own: their shares count. */
static ccq_code time_parts(work *w, ccq_bench *r, ccq_code (*step)(void *ctx, ccq_error *err),
                           void *ctx, ccq_error *err)
{
    ccq_spent spent;
    ccq_code code = CCQ_OK;

    ccq_session_time_parts(w->session, 1);
    for (int i = 0; i < LEAST_STEPS && !code; i++)
        code = step(ctx, err);
    ccq_session_time_parts(w->session, 0);
    ccq_session_spent(w->session, &spent);
    for (int i = 0; i < CCQ_STEP_PARTS; i++) {
        r->spent.seconds[i] = spent.seconds[i] / LEAST_STEPS * (double)r->steps;
        r->spent.bytes[i] = spent.bytes[i] / LEAST_STEPS * r->steps;
    }
    return code;
}

typedef struct once {
    work *w;
    int64_t count, size; /* rows and chunk, batch and context */
} once;

static ccq_code prefill_step(void *ctx, ccq_error *err)
{
    const once *o = ctx;
    return prefill_once(o->w, o->count, o->size, err);
}

static ccq_code decode_step(void *ctx, ccq_error *err)
{
    const once *o = ctx;
    return decode_once(o->w, o->count, o->size, err);
}

ccq_code ccq_bench_prefill(const ccq_model *m, int64_t rows, int64_t chunk, ccq_bench *r,
                           ccq_error *err)
{
    work w = {.draw = 1};
    ccq_spent before;
    double start = 0;
    ccq_code code;

    *r = (ccq_bench){.batch = 1};
    chunk = chunk < rows ? chunk : rows;
    code = open_work(&w, m, 1, rows, rows, chunk, err);
    if (code)
        goto done;
    draw_ids(&w, rows);
    begin(&w, r, &before, &start);
    code = prefill_once(&w, rows, chunk, err);
    r->steps = 1;
    if (now() - start < enough) /* else once is enough, its first touch of everything included */
        begin(&w, r, &before, &start);
    while (!code && now() - start < enough) {
        code = prefill_once(&w, rows, chunk, err);
        r->steps++;
    }
    finish(&w, r, &before, start);
    if (!code && ccq_model_settings(m)->gpu)
        code = time_parts(&w, r, prefill_step, &(once){&w, rows, chunk}, err);
done:
    r->tokens = r->steps * (uint64_t)rows;
    free_work(&w);
    return code;
}

ccq_code ccq_bench_decode(const ccq_model *m, int64_t batch, int64_t context, ccq_bench *r,
                          ccq_error *err)
{
    work w = {.draw = 2};
    ccq_spent before;
    double start = 0;
    ccq_code code = open_work(&w, m, batch, context + 1, batch, batch, err);

    *r = (ccq_bench){.batch = batch};
    /* a device records the third step of its kind */
    for (int i = 0; !code && i < (ccq_model_settings(m)->gpu ? WARM_ON_DEVICE : 1); i++)
        code = decode_once(&w, batch, context, err);
    if (!code)
        begin(&w, r, &before, &start);
    while (!code && (r->steps < LEAST_STEPS || now() - start < enough)) {
        code = decode_once(&w, batch, context, err);
        r->steps++;
    }
    if (!code)
        finish(&w, r, &before, start);
    if (!code && ccq_model_settings(m)->gpu)
        code = time_parts(&w, r, decode_step, &(once){&w, batch, context}, err);
    r->tokens = r->steps * (uint64_t)batch;
    free_work(&w);
    return code;
}
