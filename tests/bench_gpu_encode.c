/* The encoder of a device, without and with statistics. */
#include "kernels/gpu_encode.h"
#include "tests/bench_gpu.h"

/* Columns on the device, and where they go. */
static ccq_gpu_columns columns_of(bench *b, int64_t k, int64_t n, size_t work)
{
    size_t columns = (size_t)n;
    return (ccq_gpu_columns){
        .k = k, .n = n, .strip = 32,
        .weight = take(b, (size_t)(k / 4 * n)), .scale = take(b, (size_t)(k / 128 * n)),
        .super = take(b, columns * 2), .code_scale = take(b, columns * 4),
        .code_zp = take(b, columns * 4), .status = take(b, columns),
        .error = take(b, columns * 8), .energy = take(b, columns * 8),
        .max_error = take(b, columns * 8), .work = take(b, work)};
}

static void give_back(bench *b, ccq_gpu_columns *c)
{
    void *all[] = {c->weight, c->scale, c->super, c->code_scale, c->code_zp, c->status,
                   c->error, c->energy, c->max_error, c->work};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        ccq_gpu_free(b->gpu, all[i]);
}

static void tell(const bench *b, const char *what, const char *effort, const ccq_gpu_columns *c,
                 sample s)
{
    double rate = 1e3 * (double)(c->k * c->n) / (double)s.median;
    say(b, "%s, effort %-6s %*s %9.3f Gw/s   ", what, effort, (int)(11 - strlen(what)), "",
        rate / 1e9);
    say_sample(b, &s);
    say(b, "\n");
    say_clocks(b, s.before, s.after);
    json_begin(b, what);
    json_text(b, "effort", effort);
    json_number(b, "k", (double)c->k);
    json_number(b, "n", (double)c->n);
    json_number(b, "weights_per_s", rate);
    json_sample(b, &s);
    json_end(b);
}

/* ---- Plain --------------------------------------------------------------------- */

typedef struct searching {
    const void *tables;
    ccq_encode_params params;
    ccq_gpu_columns c;
} searching;

static void search_once(bench *b, void *ctx, int turn)
{
    searching *e = ctx;
    (void)turn;
    GPU(b, ccq_gpu_encode(b->gpu)->columns(b->gpu, e->tables, &e->params, &e->c));
}

static void measure_search(bench *b, const ccq_encoder *enc)
{
    int64_t k = b->quick ? 256 : 8192, n = b->quick ? 32 : 7168;
    void *tables = take(b, sizeof *enc);
    uint16_t *w = random_bf16(b, (size_t)(k * n));
    searching e = {tables, {CCQ_EFFORT_FAST, 4, CCQ_ORDER_FASTDEPLOY},
                   columns_of(b, k, n, ccq_gpu_encode(b->gpu)->work(b->gpu, k, n))};
    e.c.w = w;
    GPU(b, ccq_gpu_encode(b->gpu)->tables(b->gpu, enc, tables));
    for (int effort = CCQ_EFFORT_FAST; effort <= CCQ_EFFORT_NORMAL; effort++) {
        e.params.effort = effort;
        tell(b, "encode", effort == CCQ_EFFORT_FAST ? "fast" : "normal", &e.c,
             measure(b, &(timed){search_once, &e, 1, 0, 0}));
    }
    give_back(b, &e.c);
    ccq_gpu_free(b->gpu, w);
    ccq_gpu_free(b->gpu, tables);
}

/* ---- With statistics ------------------------------------------------------------ */

typedef struct feeding {
    const ccq_encoder *enc;
    ccq_feedback_params params;
    ccq_gpu_feedback p;
} feeding;

static void feed_once(bench *b, void *ctx, int turn)
{
    feeding *e = ctx;
    (void)turn;
    GPU(b, ccq_gpu_encode(b->gpu)->feedback(b->gpu, e->enc, &e->params, &e->p));
}

/* H = 0.9^|i - j|, whose factor is U_ik = 0.9^(k - i), D = 0.19 and, last, 1. */
static ccq_metric *metric_of(const ccq_encoder *enc, int64_t k)
{
    size_t all = (size_t)(k * k);
    double *h = malloc(all * sizeof *h), *u = malloc(all * sizeof *u);
    void *memory = aligned_alloc(64, (ccq_metric_bytes(k, CCQ_BOOKS, 1) + 63) / 64 * 64);
    REQUIRE(h && u && memory, "out of memory");
    for (int64_t i = 0; i < k; i++)
        for (int64_t j = 0; j < k; j++) {
            double power = pow(0.9, (double)(i < j ? j - i : i - j));
            h[i * k + j] = power;
            u[i * k + j] = i < j ? power : i > j ? 0.0 : i == k - 1 ? 1.0 : 0.19;
        }
    ccq_metric *m = ccq_metric_fill(enc, k, CCQ_BOOKS, 1, h, u, memory);
    free(h);
    free(u);
    return m;
}

static int32_t *rows_of(bench *b, int64_t k)
{
    int32_t *rows = malloc((size_t)k * sizeof *rows);
    REQUIRE(rows, "out of memory");
    for (int64_t i = 0; i < k; i++)
        rows[i] = (int32_t)i;
    int32_t *there = copy_of(b, rows, (size_t)k * sizeof *rows);
    free(rows);
    return there;
}

/* The up_gate of a 21B model's expert. */
static void measure_feedback(bench *b, const ccq_encoder *enc)
{
    int64_t k = b->quick ? 128 : 2560, n = b->quick ? 32 : 3072;
    ccq_metric *m = metric_of(enc, k);
    void *metric = copy_of(b, m, ccq_metric_bytes(k, CCQ_BOOKS, 1));
    float *w = random_floats(b, (size_t)(k * n));
    int32_t *rows = rows_of(b, k);
    feeding e = {enc, {.gain = 4},
                 {m, metric, w, w, rows,
                  columns_of(b, k, n,
                             ccq_gpu_encode(b->gpu)->feedback_work(b->gpu, k, n, CCQ_BOOKS))}};
    for (int effort = CCQ_EFFORT_FAST; effort <= CCQ_EFFORT_NORMAL; effort++) {
        int fast = effort == CCQ_EFFORT_FAST;
        e.params.leave = fast ? CCQ_FEEDBACK_NO_TABLE | CCQ_FEEDBACK_NO_PASSES : 0;
        tell(b, "feedback", fast ? "fast" : "normal", &e.p.out,
             measure(b, &(timed){feed_once, &e, 1, 0, 0}));
    }
    give_back(b, &e.p.out);
    ccq_gpu_free(b->gpu, metric);
    ccq_gpu_free(b->gpu, w);
    ccq_gpu_free(b->gpu, rows);
    free(m);
}

void measure_encoder(bench *b)
{
    ccq_encoder *enc = malloc(sizeof *enc);
    int samples = b->samples, warm = b->warm;
    REQUIRE(enc && ccq_encoder_init(enc) == 0, "encoder");
    measure_search(b, enc);
    b->samples = samples < 5 ? 1 : 5;
    b->warm = warm < 2 ? warm : 2;
    measure_feedback(b, enc);
    b->samples = samples;
    b->warm = warm;
    free(enc);
}
