/* Risk: a device that has no room, or fails in the middle of a job, changes the output or hangs
 * it. The host device with some of its functions made to fail, under blocks of a few columns and
 * under whole matrices; what comes out is compared with what the CPU writes. */
#include "libccq/quantize.h"
#include "tests/failing_device.h"

#include "formats/checkpoint.h"

/* ---- A job --------------------------------------------------------------- */

static ccq_source *src;
static ccq_pool *pool;
static ccq_ops ops;
static int warnings;

static void warn(void *ctx, const char *text)
{
    (void)ctx;
    warnings++;
    printf("  %s\n", text);
}

/* CRC-32 of the output's tensors; limit: bytes, 0 = none. */
static uint32_t run(ccq_gpu *gpu, uint64_t limit, ccq_quantize_result *r)
{
    char out[] = "/tmp/ccq-device-XXXXXX", inner[64], command[128];
    ccq_quantize_options o;
    ccq_plan *plan;
    ccq_error err;
    uint64_t least;
    uint32_t crc = 0;

    REQUIRE(mkdtemp(out), "mkdtemp");
    snprintf(inner, sizeof inner, "%s/out", out);
    ccq_quantize_defaults(&o);
    o.effort = CCQ_EFFORT_FAST;
    o.w4_end_layer = 3;
    o.no_sync = 1;
    REQUIRE(!ccq_plan_make(&plan, src, &o, inner, &err), "%s", err.text);
    ccq_plan_memory(plan, ccq_pool_threads(pool), 0, &least);
    ccq_quantize_run_options ro = {.pool = pool, .ops = &ops, .gpu = gpu, .warn = warn,
                                   .mem_limit = limit ? least : 0};
    REQUIRE(!ccq_quantize_run(plan, &ro, r, &err), "%s", err.text);
    ccq_plan_free(plan);
    ccq_checkpoint *ck;
    REQUIRE(!ccq_checkpoint_open(&ck, inner, &err), "%s", err.text);
    for (size_t i = 0; i < ccq_checkpoint_count(ck); i++) {
        const ccq_tensor *t = ccq_checkpoint_at(ck, i);
        uint8_t *data = malloc(t->bytes + 1);
        REQUIRE(data && !ccq_checkpoint_read(ck, t, 0, data, t->bytes, &err), "%s", t->name);
        for (uint64_t b = 0; b < t->bytes; b++) /* any sum that tells places apart */
            crc = (crc << 5 | crc >> 27) * 0x01000193u + data[b];
        free(data);
    }
    ccq_checkpoint_close(ck);
    snprintf(command, sizeof command, "rm -r %s", out);
    REQUIRE(!system(command), "%s", command);
    return crc;
}

typedef struct scene {
    const char *name;
    int uploads, downloads, waits, pins, allocations;
    uint64_t room;
    int warnings, device; /* expected; device: 1 some blocks are encoded there, 0 none */
} scene;

/* Tables, then two areas; two areas for results are pinned, then the ring. */
static const scene scenes[] = {
    {"all is well", -1, -1, -1, -1, -1, 0, 0, 1},
    {"the first upload", 1, -1, -1, -1, -1, 0, 1, 0},
    {"a later upload", 5, -1, -1, -1, -1, 0, 1, 1},
    {"the first download", -1, 1, -1, -1, -1, 0, 1, 0},
    {"a later download", -1, 4, -1, -1, -1, 0, 1, 1},
    {"a wait", -1, -1, 3, -1, -1, 0, 1, 1},
    {"no memory for the tables", -1, -1, -1, -1, 1, 0, 1, 0},
    {"no memory for a block", -1, -1, -1, -1, 3, 0, 1, 0},
    {"nothing can be pinned", -1, -1, -1, 1, -1, 0, 1, 0},
    {"the ring cannot be pinned", -1, -1, -1, 3, -1, 0, 0, 1},
    {"a small device", -1, -1, -1, -1, -1, 100000, 0, 0},
};

static void check_scene(const scene *s, uint64_t limit, uint32_t want,
                        const ccq_quantize_result *cpu)
{
    ccq_gpu_device mine;
    ccq_gpu *gpu = failing_open(&mine, 0);
    ccq_quantize_result r;

    failing.uploads = s->uploads;
    failing.downloads = s->downloads;
    failing.waits = s->waits;
    failing.pins = s->pins;
    failing.allocations = s->allocations;
    failing.room = s->room;
    warnings = 0;
    printf("%s%s\n", s->name, limit ? ", in few columns" : "");
    CHECK(run(gpu, limit, &r) == want, "%s: other bytes", s->name);
    CHECK(warnings == s->warnings, "%s: %d warnings", s->name, warnings);
    CHECK(!r.device_blocks == !s->device, "%s: %" PRIu64 " blocks on the device, %" PRIu64
          " not", s->name, r.device_blocks, r.device_cpu_blocks);
    CHECK(r.device_weights + r.encode_weights == cpu->encode_weights, "%s: weights", s->name);
    CHECK(r.zero_columns == cpu->zero_columns && !memcmp(r.type_sqnr, cpu->type_sqnr,
          sizeof r.type_sqnr), "%s: other figures", s->name);
    ccq_quantize_result_free(&r);
    failing_close(gpu);
}

/* ---- A device that is wrong ----------------------------------------------- */

/* It must not end in a checkpoint. */
static void check_wrong(void)
{
    char out[] = "/tmp/ccq-device-XXXXXX", inner[64], command[128];
    ccq_gpu_device mine;
    ccq_gpu *gpu = failing_open(&mine, 1);
    ccq_quantize_options o;
    ccq_quantize_result r;
    ccq_plan *plan;
    ccq_error err;

    REQUIRE(mkdtemp(out), "mkdtemp");
    snprintf(inner, sizeof inner, "%s/out", out);
    ccq_quantize_defaults(&o);
    o.effort = CCQ_EFFORT_FAST;
    o.w4_end_layer = 3;
    o.no_sync = 1;
    REQUIRE(!ccq_plan_make(&plan, src, &o, inner, &err), "%s", err.text);
    ccq_quantize_run_options ro = {.pool = pool, .ops = &ops, .gpu = gpu, .warn = warn};
    ccq_code code = ccq_quantize_run(plan, &ro, &r, &err);
    CHECK(code == CCQ_BUG, "a device that is wrong: %s", code ? err.text : "nothing is said");
    CHECK(access(inner, F_OK) != 0, "a device that is wrong leaves %s", inner);
    ccq_quantize_result_free(&r);
    ccq_plan_free(plan);
    failing_close(gpu);
    snprintf(command, sizeof command, "rm -r %s", out);
    REQUIRE(!system(command), "%s", command);
}

int main(void)
{
    ccq_error err;
    ccq_quantize_result cpu, few;

    ccq_ops_init(&ops, ~0u);
    pool = ccq_pool_new(2);
    REQUIRE(pool, "no threads");
    REQUIRE(!ccq_source_open(&src, check_data("ernie-micro"), NULL, &err), "%s", err.text);
    uint32_t want = run(NULL, 0, &cpu);
    CHECK(run(NULL, 1, &few) == want, "blocks leave a trace");
    for (size_t i = 0; i < sizeof scenes / sizeof *scenes; i++)
        for (uint64_t limit = 0; limit < 2; limit++)
            check_scene(&scenes[i], limit, want, &cpu);
    check_wrong();
    ccq_quantize_result_free(&cpu);
    ccq_quantize_result_free(&few);
    ccq_source_close(src);
    ccq_pool_free(pool);
    return check_done();
}
