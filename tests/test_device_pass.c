/* Risk: layers that do not fit a device and pass through it are mixed up, or used before they
 * are there: other logits than with all of them resident. The host device, or with the argument
 * cuda CUDA's, said to have less and less room. */
#include "kernels/gpu_device.h"
#include "libccq/device.h"
#include "tests/check.h"

enum { ROWS = 9, STEPS = 3 };

static const ccq_gpu_device *real;
static uint64_t room_left;
static int kind;

static int little_room(ccq_gpu *gpu, uint64_t *bytes)
{
    (void)gpu;
    *bytes = room_left;
    return CCQ_GPU_OK;
}

/* Logits of a prefill and of a few steps of two sequences; returns layers that stayed. */
static int64_t run(ccq_source *src, ccq_pool *pool, uint64_t room, float *logits)
{
    ccq_model_options o = {.numerics = CCQ_FASTDEPLOY, .pool = pool};
    char why[CCQ_GPU_TEXT];
    ccq_gpu_device mine;
    ccq_model *m;
    ccq_session *s;
    ccq_error err;
    int64_t capacity[2] = {32, 32}, at = 0, vocab = src->arch.vocab;

    ccq_ops_init(&o.ops, ~0u);
    REQUIRE(!ccq_gpu_open(kind, 0, &o.gpu, why), "%s", why);
    real = o.gpu->device;
    mine = *real;
    room_left = room;
    mine.room = room ? little_room : real->room;
    o.gpu->device = &mine;
    REQUIRE(!ccq_model_open(&m, src, &o, &err), "%s", err.text);
    REQUIRE(!ccq_session_open(&s, m, 2, capacity, 2 * ROWS, &err), "%s", err.text);
    for (int step = 0; step < STEPS; step++) {
        int32_t ids[2][ROWS];
        int64_t rows[2], n = step ? 1 : ROWS;
        ccq_span span[2];
        for (size_t i = 0; i < 2; i++) {
            for (int64_t j = 0; j < n; j++)
                ids[i][j] = (int32_t)((7 * j + 31 * step + 101 * (int64_t)i) % vocab);
            span[i] = (ccq_span){i, i, n, ids[i]};
            rows[i] = (int64_t)i * n + n - 1;
        }
        REQUIRE(!ccq_session_step(s, span, 2, &err), "%s", err.text);
        REQUIRE(!ccq_session_logits(s, rows, 2, logits + at, &err), "%s", err.text);
        at += 2 * vocab;
    }
    int64_t stayed = m->device->resident;
    ccq_session_close(s);
    ccq_model_close(m);
    o.gpu->device = real;
    ccq_gpu_close(o.gpu);
    return stayed;
}

/* Smaller GPUs have too little shared memory for the wint2 kernels. */
static void check_small(void)
{
    char why[CCQ_GPU_TEXT];
    ccq_gpu *gpu;
    REQUIRE(!ccq_gpu_open(kind, 0, &gpu, why), "%s", why);
    gpu->info.shared_bytes = 99 << 10;
    CHECK(!ccq_gpu_wint2(gpu), "wint2 kernels in 99 KiB of shared memory");
    gpu->info.shared_bytes = 163 << 10;
    CHECK(ccq_gpu_wint2(gpu) != NULL, "no wint2 kernels in 163 KiB of shared memory");
    ccq_gpu_close(gpu);
}

int main(int argc, char **argv)
{
    char why[CCQ_GPU_TEXT];
    ccq_error err;
    ccq_source *src;
    ccq_pool *pool = ccq_pool_new(2);
    kind = argc > 1 && !strcmp(argv[1], "cuda") ? CCQ_GPU_CUDA : CCQ_GPU_HOST;
    if (!ccq_gpu_count(kind, why))
        check_skip(why);
    REQUIRE(pool, "no threads");
    REQUIRE(!ccq_source_open(&src, check_data("ernie-micro"), NULL, &err), "%s", err.text);
    size_t count = (size_t)(2 * STEPS * src->arch.vocab);
    float *want = malloc(count * sizeof *want), *got = malloc(count * sizeof *got);
    REQUIRE(want && got, "memory");
    int64_t layers = src->arch.layers, stayed = run(src, pool, 0, want);
    int none = 0, partly = 0;
    CHECK(stayed == layers, "%d of %d layers fit", (int)stayed, (int)layers);
    /* beside what is left free: from nothing, which two layers that pass take anyway, to all */
    for (uint64_t more = 1; more < (uint64_t)24 << 20; more += (uint64_t)2200 << 10) {
        stayed = run(src, pool, ((uint64_t)256 << 20) + more, got);
        printf("%d of %d layers stay\n", (int)stayed, (int)layers);
        partly |= stayed > 0 && stayed < layers;
        none |= !stayed;
        CHECK(!memcmp(got, want, count * sizeof *got), "%d layers stay: other logits", (int)stayed);
    }
    CHECK(none && partly, "rooms that try nothing");
    check_small();
    free(want);
    free(got);
    ccq_source_close(src);
    ccq_pool_free(pool);
    return check_done();
}
