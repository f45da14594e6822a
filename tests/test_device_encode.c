/* Risk: a device that has no room, or fails in the middle of a job, changes the output or hangs
 * it. The host device with some of its functions made to fail, under blocks of a few columns and
 * under whole matrices; what comes out is compared with what the CPU writes. */
#include "kernels/gpu_device.h"
#include "kernels/gpu_host.h"
#include "libccq/quantize.h"
#include "tests/check.h"

#include "formats/checkpoint.h"

/* ---- A device that fails ------------------------------------------------- */

static struct {
    int uploads, downloads, waits; /* before it fails; -1: it does not */
    int pins, allocations;
    uint64_t room; /* 0: what there is */
} left;

static const ccq_gpu_device *real;

static int fails(int *count)
{
    if (*count > 0)
        --*count;
    return *count == 0;
}

static int no_upload(ccq_gpu *gpu, void *to, const void *from, size_t size)
{
    return fails(&left.uploads) ? ccq_gpu_fail(gpu, CCQ_GPU_FAILED, "upload: made to fail")
                                : real->upload(gpu, to, from, size);
}

static int no_download(ccq_gpu *gpu, void *to, const void *from, size_t size)
{
    return fails(&left.downloads) ? ccq_gpu_fail(gpu, CCQ_GPU_FAILED, "download: made to fail")
                                  : real->download(gpu, to, from, size);
}

static int no_wait(ccq_gpu *gpu, int queue)
{
    return fails(&left.waits) ? ccq_gpu_fail(gpu, CCQ_GPU_FAILED, "wait: made to fail")
                              : real->wait(gpu, queue);
}

static int no_pin(ccq_gpu *gpu, size_t size, void **memory)
{
    return fails(&left.pins) ? ccq_gpu_fail(gpu, CCQ_GPU_NO_MEMORY, "pin: made to fail")
                             : real->pin(gpu, size, memory);
}

static int no_alloc(ccq_gpu *gpu, size_t size, void **memory)
{
    return fails(&left.allocations) ? ccq_gpu_fail(gpu, CCQ_GPU_NO_MEMORY, "alloc: made to fail")
                                    : real->alloc(gpu, size, memory);
}

static int no_room(ccq_gpu *gpu, uint64_t *bytes)
{
    int code = real->room(gpu, bytes);
    *bytes = left.room ? left.room : *bytes;
    return code;
}

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
    char why[CCQ_GPU_TEXT];
    ccq_gpu_device mine;
    ccq_gpu *gpu;
    ccq_quantize_result r;

    REQUIRE(!ccq_gpu_open(CCQ_GPU_HOST, 0, &gpu, why), "%s", why);
    real = gpu->device;
    mine = *real;
    mine.upload = no_upload;
    mine.download = no_download;
    mine.wait = no_wait;
    mine.pin = no_pin;
    mine.alloc = no_alloc;
    mine.room = no_room;
    gpu->device = &mine;
    left.uploads = s->uploads;
    left.downloads = s->downloads;
    left.waits = s->waits;
    left.pins = s->pins;
    left.allocations = s->allocations;
    left.room = s->room;
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
    CHECK(!ccq_gpu_host_broken(gpu), "%s: written past an end", s->name);
    gpu->device = real;
    ccq_gpu_close(gpu);
}

/* ---- A device that is wrong ----------------------------------------------- */

static int wrong_download(ccq_gpu *gpu, void *to, const void *from, size_t size)
{
    int code = real->download(gpu, to, from, size);
    for (size_t i = 0; i < size; i++)
        ((uint8_t *)to)[i] ^= 1;
    return code;
}

/* It must not end in a checkpoint. */
static void check_wrong(void)
{
    char why[CCQ_GPU_TEXT], out[] = "/tmp/ccq-device-XXXXXX", inner[64], command[128];
    ccq_gpu_device mine;
    ccq_gpu *gpu;
    ccq_quantize_options o;
    ccq_quantize_result r;
    ccq_plan *plan;
    ccq_error err;

    REQUIRE(mkdtemp(out), "mkdtemp");
    snprintf(inner, sizeof inner, "%s/out", out);
    REQUIRE(!ccq_gpu_open(CCQ_GPU_HOST, 0, &gpu, why), "%s", why);
    real = gpu->device;
    mine = *real;
    mine.download = wrong_download;
    gpu->device = &mine;
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
    gpu->device = real;
    ccq_gpu_close(gpu);
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
