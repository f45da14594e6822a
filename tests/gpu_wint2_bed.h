/* What tests of wint2 on a device stand on: the device, matrices on both sides. */
#ifndef CCQ_TESTS_GPU_WINT2_BED_H
#define CCQ_TESTS_GPU_WINT2_BED_H

#include "kernels/gpu_host.h"
#include "kernels/gpu_wint2.h"
#include "tests/check.h"

#include <math.h>

/* Skips where the device is absent. */
static inline ccq_gpu *bed_open(int argc, char **argv)
{
    int kind = argc > 1 && !strcmp(argv[1], "cuda") ? CCQ_GPU_CUDA : CCQ_GPU_HOST;
    char why[CCQ_GPU_TEXT];
    ccq_gpu *gpu;
    int code = ccq_gpu_open(kind, 0, &gpu, why);

    if (code == CCQ_GPU_ABSENT)
        check_skip(why);
    REQUIRE(!code, "%s", why);
    if (!ccq_gpu_wint2(gpu))
        check_skip("no wint2 kernels");
    return gpu;
}

static inline int bed_close(ccq_gpu *gpu)
{
    if (ccq_gpu_kind(gpu) == CCQ_GPU_HOST)
        CHECK(!ccq_gpu_host_broken(gpu), "memory was written past an end");
    ccq_gpu_close(gpu);
    return check_done();
}

/* code_scale, code_zp: ccq's own, any, negative, wrapping, and such as have no fixed point. */
static const float lines[][2] = {
    {120.953125f, 1253.75f},   {64.0f, 0.0f},          {20.25f, 400.5f},
    {100.125f, -3000.75f},     {-80.5f, 20000.25f},    {20000.5f, -30000.25f},
    {1.0f / 3, 7.0f / 3},      {127.99f, 0.01f},       {77.777f, -31.41f},
    {1e6f / 7, 12345.678f},    {3e6f, -2e8f},          {3e8f, 5.0f},
    {NAN, 1.0f},               {1.0f, INFINITY},       {0.0f, -12.5f},
    {-0x1p40f, 0x1p20f},
};
enum { LINES = sizeof lines / sizeof *lines };


/* ---- Matrices ------------------------------------------------------------ */

typedef struct tensors {
    ccq_weight host, device;
} tensors;

static inline void *on_device(ccq_gpu *gpu, const void *from, size_t size)
{
    void *to;
    REQUIRE(!ccq_gpu_alloc(gpu, size, &to), "%s", ccq_gpu_error(gpu));
    REQUIRE(!ccq_gpu_upload(gpu, to, from, size), "%s", ccq_gpu_error(gpu));
    return to;
}

static inline void from_device(ccq_gpu *gpu, void *to, const void *from, size_t size)
{
    REQUIRE(!ccq_gpu_download(gpu, to, from, size), "%s", ccq_gpu_error(gpu));
}

/* What a column of number c has: mostly lines of ccq, tile 1 with the nasty ones. */
static inline void column_constants(uint64_t *seed, int64_t c, int nasty, float scale, float *line,
                             uint16_t *super)
{
    int pick = (int)(check_next(seed) % 3);
    line[0] = pick ? (float)(5120 + check_next(seed) % 20480) / 256.0f : 120.953125f;
    line[1] = pick ? (float)(check_next(seed) % 100000) / 256.0f - 100.0f : 1253.75f;
    if (nasty && c / 16 == 1)
        memcpy(line, lines[c % LINES], 2 * sizeof *line);
    *super = ccq_f32_to_bf16(scale * (0.5f + (float)check_uniform(seed)));
    if (c % 37 == 5)
        *super = 0;
}

static inline tensors make_tensors(ccq_gpu *gpu, uint64_t *seed, int64_t k, int64_t n, int nasty,
                                   float scale)
{
    uint8_t *data = malloc((size_t)(k * n / 4)), *local = malloc((size_t)(k * n / 128));
    uint16_t *super = malloc((size_t)n * 2);
    float *cs = malloc((size_t)n * 4), *zp = malloc((size_t)n * 4);
    tensors t = {.host = {.type = CCQ_W_WINT2, .k = k, .n = n}};

    for (int64_t i = 0; i < k * n / 4; i++)
        data[i] = (uint8_t)check_next(seed);
    for (int64_t i = 0; i < k * n / 128; i++)
        local[i] = (uint8_t)(check_next(seed) & (i % 11 ? 0xff : i % 2 ? 0xf0 : 0x0f));
    for (int64_t c = 0; c < n; c++) {
        float line[2];
        column_constants(seed, c, nasty, scale, line, super + c);
        cs[c] = line[0];
        zp[c] = line[1];
    }
    t.host.data = data;
    t.host.local = local;
    t.host.super = super;
    t.host.code_scale = cs;
    t.host.code_zp = zp;
    t.device = t.host;
    t.device.data = on_device(gpu, data, (size_t)(k * n / 4));
    t.device.local = on_device(gpu, local, (size_t)(k * n / 128));
    t.device.super = on_device(gpu, super, (size_t)n * 2);
    t.device.code_scale = on_device(gpu, cs, (size_t)n * 4);
    t.device.code_zp = on_device(gpu, zp, (size_t)n * 4);
    return t;
}

static inline void drop(ccq_gpu *gpu, const void *host, const void *device)
{
    union { const void *from; void *to; } a = {host}, b = {device};
    free(a.to);
    ccq_gpu_free(gpu, b.to);
}

static inline void free_tensors(ccq_gpu *gpu, tensors *t)
{
    drop(gpu, t->host.data, t->device.data);
    drop(gpu, t->host.local, t->device.local);
    drop(gpu, t->host.super, t->device.super);
    drop(gpu, t->host.code_scale, t->device.code_scale);
    drop(gpu, t->host.code_zp, t->device.code_zp);
}

/* All weights as the CPU decodes them, [k][n]. */
static inline float *decoded(const tensors *t, int rounding, int order)
{
    ccq_weight w = t->host;
    ccq_ops ops;
    float *all = malloc((size_t)(w.k * w.n) * sizeof *all);
    float *panel = malloc((size_t)w.k * 16 * sizeof *panel);

    ccq_ops_init(&ops, CCQ_ISA_C);
    w.rounding = rounding;
    w.order = order;
    for (int64_t n0 = 0; n0 < w.n; n0 += 16) {
        ops.unpack(&w, 0, w.k, n0, panel);
        for (int64_t k = 0; k < w.k; k++)
            memcpy(all + k * w.n + n0, panel + k * 16, 16 * sizeof *panel);
    }
    free(panel);
    return all;
}

#endif
