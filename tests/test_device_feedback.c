/* Risk: a device that has little room, fails in the middle of a matrix, or is wrong, changes what
 * error feedback makes of it. The host device with some of its functions made to fail, against
 * the CPU. */
#include "kernels/gpu_encode.h"
#include "libccq/calib_internal.h"
#include "tests/failing_device.h"
#include "tests/feedback_data.h"

enum { K = 128, N = 75 };

static ccq_pool *pool;
static ccq_ops ops;
static int warnings;

static void warn(void *ctx, const char *text)
{
    (void)ctx;
    warnings++;
    printf("  %s\n", text);
}

/* A matrix, its statistics, and what becomes of it. */
typedef struct matrix {
    ccq_plan plan;
    ccq_entry entry;
    ccq_action action;
    float w[K * N], target[K * N];
    double h[K * K];
} matrix;

typedef struct result {
    uint8_t bytes[K * N];
    uint64_t size;
    ccq_outcome outcome;
    ccq_device_figures device;
} result;

static void make(matrix *m, uint64_t seed)
{
    source x;

    source_init(&x, seed);
    ccq_quantize_defaults(&m->plan.options);
    m->plan.options.effort = CCQ_EFFORT_FAST;
    m->entry = (ccq_entry){.name = "matrix"};
    m->action = (ccq_action){.entry = &m->entry, .to = CCQ_TYPE_WINT2, .k = K, .n = N};
    data_h(&x, 3, K, m->h);
    for (int i = 0; i < K * N; i++) {
        m->w[i] = 0.02f * (float)source_normal(&x);
        m->target[i] = 0.97f * m->w[i];
    }
    for (int i = 0; i < K; i++)
        m->w[i * N + 70] = m->target[i * N + 70] = 0.0f;
}

static ccq_code encode(const matrix *m, ccq_gpu *gpu, result *r, ccq_error *err)
{
    const ccq_quantize_run_options run = {.pool = pool, .ops = &ops, .gpu = gpu, .warn = warn};
    ccq_engine engine = {.plan = &m->plan, .run = &run, .workers = ccq_pool_threads(pool)};
    const ccq_solver solver = {ops.dense, pool};
    ccq_calib_metric metric;
    ccq_planes planes;

    memset(r, 0, sizeof *r);
    REQUIRE(ccq_encoder_init(&engine.encoder) == 0, "a line fails its proof");
    REQUIRE(!ccq_calib_metric_make(&metric, &engine, &solver, CCQ_TYPE_WINT2, m->h, K, "matrix",
                                   err), "%s", err->text);
    r->size = ccq_planes_size(&m->action);
    REQUIRE(r->size <= sizeof r->bytes, "room for %d bytes", (int)r->size);
    void *memory = malloc(r->size);
    REQUIRE(memory, "out of memory");
    ccq_planes_place(&planes, &m->action, memory);
    ccq_code code = ccq_calib_encode(&engine, &m->action, &metric, m->w, m->target, &planes,
                                     &r->outcome, err);
    memcpy(r->bytes, memory, r->size);
    r->device = engine.device;
    free(memory);
    ccq_calib_metric_free(&metric);
    return code;
}

typedef struct scene {
    const char *name;
    int uploads, downloads, allocations;
    uint64_t room; /* columns at a time, about: 0: what there is */
    int warnings, columns; /* expected; columns: encoded on the device */
} scene;

/* The metric, the rows; the target, the weights (a row at a time where not all fit at once). */
static const scene scenes[] = {
    {"all is well", -1, -1, -1, 0, 0, N},
    {"the metric", 1, -1, -1, 0, 1, 0},
    {"the rows", 2, -1, -1, 0, 1, 0},
    {"the weights", 4, -1, -1, 0, 1, 0},
    {"the results", -1, 1, -1, 0, 1, 0},
    {"no memory for the metric", -1, -1, 1, 0, 1, 0},
    {"no memory for columns", -1, -1, 2, 0, 1, 0},
    {"64 columns at a time", -1, -1, -1, 64, 0, N},
    {"32 columns at a time", -1, -1, -1, 32, 0, N},
    {"fails at the second strip", -1, 2, -1, 32, 1, 32},
    {"fails in a row of the third", 2 + 5 * K, -1, -1, 32, 1, 64},
    {"no room for a strip", -1, -1, -1, 1, 0, 0},
};

/* Device memory that is free, for so many columns to fit and no more. */
static uint64_t room_for(ccq_gpu *gpu, uint64_t columns)
{
    uint64_t work = ccq_gpu_encode(gpu)->feedback_work(gpu, K, (int64_t)columns, 1);
    uint64_t metric = ccq_metric_bytes(K, 1, 1);

    return columns == 1 ? metric : (metric + 2 * K * 4 * columns + work + 16384) / 7 * 8;
}

static void check_scene(const matrix *m, const scene *s, const result *want)
{
    ccq_gpu_device mine;
    ccq_gpu *gpu = failing_open(&mine, 0);
    result r;
    ccq_error err;

    failing.uploads = s->uploads;
    failing.downloads = s->downloads;
    failing.allocations = s->allocations;
    failing.room = s->room ? room_for(gpu, s->room) : 0;
    warnings = 0;
    printf("%s\n", s->name);
    ccq_code code = encode(m, gpu, &r, &err);
    CHECK(code == CCQ_OK, "%s: %s", s->name, err.text);
    CHECK(r.size == want->size && !memcmp(r.bytes, want->bytes, r.size), "%s: other bytes",
          s->name);
    CHECK(!memcmp(&r.outcome, &want->outcome, sizeof r.outcome), "%s: other figures", s->name);
    CHECK(warnings == s->warnings, "%s: %d warnings", s->name, warnings);
    CHECK(r.device.weights == (uint64_t)(K * s->columns), "%s: %d columns on the device", s->name,
          (int)r.device.weights / K);
    CHECK(r.device.cpu_blocks == (s->columns < N), "%s: blocks", s->name);
    failing_close(gpu);
}

static void check_wrong(const matrix *m)
{
    ccq_gpu_device mine;
    ccq_gpu *gpu = failing_open(&mine, 1);
    result r;
    ccq_error err = {.text = ""};

    CHECK(encode(m, gpu, &r, &err) == CCQ_BUG, "a device that is wrong: '%s'", err.text);
    failing_close(gpu);
}

int main(void)
{
    static matrix m;
    static result cpu;
    ccq_error err;
    uint64_t state = check_seed(5);

    ccq_ops_init(&ops, ~0u);
    pool = ccq_pool_new(2);
    REQUIRE(pool, "no threads");
    make(&m, check_next(&state));
    REQUIRE(!encode(&m, NULL, &cpu, &err), "%s", err.text);
    CHECK(cpu.device.weights == 0 && cpu.device.cpu_blocks == 0, "there is no device");
    for (size_t i = 0; i < sizeof scenes / sizeof *scenes; i++)
        check_scene(&m, &scenes[i], &cpu);
    check_wrong(&m);
    ccq_pool_free(pool);
    return check_done();
}
