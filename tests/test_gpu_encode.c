/* Risk: the encoder of a device gives other bytes or other figures than that of the CPU. Columns
 * of all kinds, strips, both row orders, every gain and effort, compared bit for bit. Run with
 * the argument cuda for CUDA's device. */
#include "kernels/gpu/encode_search.h"
#include "kernels/gpu_host.h"
#include "tests/check.h"

#include <math.h>

typedef struct result {
    int64_t k, n;
    uint8_t *weight, *scale, *status;
    uint16_t *super;
    float *code_scale, *code_zp;
    double *error, *energy, *max_error;
} result;

static ccq_ops ops;
static ccq_encoder encoder;
static ccq_gpu *gpu;
static void *tables;

static void *memory_of(size_t size)
{
    void *p = malloc(size ? size : 1);
    REQUIRE(p, "out of memory");
    memset(p, 0xff, size);
    return p;
}

static result result_new(int64_t k, int64_t n)
{
    size_t c = (size_t)n, rows = (size_t)k;
    return (result){k, n, memory_of(rows / 4 * c), memory_of(rows / 128 * c), memory_of(c),
                    memory_of(2 * c), memory_of(4 * c), memory_of(4 * c), memory_of(8 * c),
                    memory_of(8 * c), memory_of(8 * c)};
}

static void result_free(result *r)
{
    free(r->weight);
    free(r->scale);
    free(r->status);
    free(r->super);
    free(r->code_scale);
    free(r->code_zp);
    free(r->error);
    free(r->energy);
    free(r->max_error);
}

/* ---- Both encoders ------------------------------------------------------- */

/* w: [k][n]. */
static void by_cpu(const uint16_t *w, const ccq_encode_params *params, result *r)
{
    const int64_t k = r->k;
    float *x = memory_of((size_t)k * sizeof *x);
    uint8_t *bytes = memory_of((size_t)k / 4), *local = memory_of((size_t)k / 64);
    void *scratch = memory_of(ccq_encode_scratch(k));

    for (int64_t n = 0; n < r->n; n++) {
        ccq_column c = {.bytes = bytes, .local = local};
        for (int64_t i = 0; i < k; i++)
            x[i] = ccq_bf16_to_f32(w[i * r->n + n]);
        ccq_encode_column(&ops, &encoder, params, x, k, &c, scratch);
        ccq_wint2_place(&ops, bytes, local, k, 1, r->n, r->weight + n, r->scale + n);
        r->status[n] = (uint8_t)c.status;
        r->super[n] = c.super;
        r->code_scale[n] = c.code_scale;
        r->code_zp[n] = c.code_zp;
        r->error[n] = c.error;
        r->energy[n] = c.energy;
        r->max_error[n] = c.max_error;
    }
    free(x);
    free(bytes);
    free(local);
    free(scratch);
}

/* [k][n] to strips. */
static uint16_t *in_strips(const uint16_t *w, int64_t k, int64_t n, int64_t strip)
{
    uint16_t *to = memory_of((size_t)(k * n) * sizeof *to);

    for (int64_t first = 0; first < n; first += strip) {
        int64_t width = n - first < strip ? n - first : strip;
        for (int64_t i = 0; i < k; i++)
            memcpy(to + first * k + i * width, w + i * n + first, (size_t)width * sizeof *w);
    }
    return to;
}

#define TRY(call)                                                                                  \
    do {                                                                                           \
        int try_code = (call);                                                                     \
        REQUIRE(try_code == CCQ_GPU_OK, "%d: %s", try_code, ccq_gpu_error(gpu));                   \
    } while (0)

static void *device_of(size_t size)
{
    void *p;
    TRY(ccq_gpu_alloc(gpu, size, &p));
    TRY(ccq_gpu_fill(gpu, p, 0xff, size));
    return p;
}

static void take(void *to, void *from, size_t size)
{
    TRY(ccq_gpu_download(gpu, to, from, size));
    ccq_gpu_free(gpu, from);
}

static void by_device(const uint16_t *w, int64_t strip, const ccq_encode_params *params,
                      result *r)
{
    const ccq_gpu_encode_ops *e = ccq_gpu_encode(gpu);
    size_t rows = (size_t)r->k, c = (size_t)r->n;
    uint16_t *strips = in_strips(w, r->k, r->n, strip), *x = device_of(2 * rows * c);
    ccq_gpu_columns p = {x, r->k, r->n, strip, device_of(rows / 4 * c), device_of(rows / 128 * c),
                         device_of(2 * c), device_of(4 * c), device_of(4 * c), device_of(c),
                         device_of(8 * c), device_of(8 * c), device_of(8 * c),
                         device_of(e->work(gpu, r->k, r->n))};

    TRY(ccq_gpu_upload(gpu, x, strips, 2 * rows * c));
    TRY(e->columns(gpu, tables, params, &p));
    take(r->weight, p.weight, rows / 4 * c);
    take(r->scale, p.scale, rows / 128 * c);
    take(r->super, p.super, 2 * c);
    take(r->code_scale, p.code_scale, 4 * c);
    take(r->code_zp, p.code_zp, 4 * c);
    take(r->status, p.status, c);
    take(r->error, p.error, 8 * c);
    take(r->energy, p.energy, 8 * c);
    take(r->max_error, p.max_error, 8 * c);
    ccq_gpu_free(gpu, p.work);
    ccq_gpu_free(gpu, x);
    free(strips);
}

/* ---- Comparison ---------------------------------------------------------- */

/* A NaN, of columns that are refused, has any sign. */
static int same(double a, double b)
{
    return memcmp(&a, &b, sizeof a) == 0 || (a != a && b != b);
}

static void check_column(const result *a, const result *b, int64_t n, const char *what)
{
    int64_t bytes = 0, scales = 0;

    for (int64_t r = 0; r < a->k / 4; r++)
        bytes += a->weight[r * a->n + n] != b->weight[r * a->n + n];
    for (int64_t r = 0; r < a->k / 128; r++)
        scales += a->scale[r * a->n + n] != b->scale[r * a->n + n];
    CHECK(!bytes && !scales, "%s, column %" PRId64 ": %" PRId64 " bytes, %" PRId64 " scales differ",
          what, n, bytes, scales);
    CHECK(a->status[n] == b->status[n], "%s, column %" PRId64 ": status %d, not %d", what, n,
          b->status[n], a->status[n]);
    CHECK(a->super[n] == b->super[n], "%s, column %" PRId64 ": super %04x, not %04x", what, n,
          b->super[n], a->super[n]);
    CHECK(memcmp(&a->code_scale[n], &b->code_scale[n], 4) == 0 &&
              memcmp(&a->code_zp[n], &b->code_zp[n], 4) == 0,
          "%s, column %" PRId64 ": another line", what, n);
    CHECK(same(a->error[n], b->error[n]) && same(a->energy[n], b->energy[n]) &&
              same(a->max_error[n], b->max_error[n]),
          "%s, column %" PRId64 ": figures %a %a %a, not %a %a %a", what, n, b->error[n],
          b->energy[n], b->max_error[n], a->error[n], a->energy[n], a->max_error[n]);
}

static void check(const uint16_t *w, int64_t k, int64_t n, int64_t strip,
                  const ccq_encode_params *params)
{
    result a = result_new(k, n), b = result_new(k, n);
    char what[120];

    snprintf(what, sizeof what, "%" PRId64 " x %" PRId64 " in %" PRId64
             ", effort %d gain %d order %d", k, n, strip, params->effort, params->gain,
             params->order);
    by_cpu(w, params, &a);
    by_device(w, strip, params, &b);
    for (int64_t c = 0; c < n; c++)
        check_column(&a, &b, c, what);
    result_free(&a);
    result_free(&b);
}

/* ---- Columns ------------------------------------------------------------- */

static double normal(uint64_t *state)
{
    double u = 1 - check_uniform(state), v = check_uniform(state);
    return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}

/* Gaussian columns with groups of unlike size. */
static void fill(uint16_t *w, int64_t k, int64_t n, uint64_t *state)
{
    for (int64_t c = 0; c < n; c++) {
        double size = ldexp(1, (int)(check_next(state) % 40) - 20), group = 1;
        for (int64_t i = 0; i < k; i++) {
            if (i % 64 == 0)
                group = exp(0.7 * normal(state));
            w[i * n + c] = ccq_f32_to_bf16((float)(size * group * normal(state)));
        }
    }
}

enum { KINDS = 16 };

/* One weight of a nasty column; i of k. */
static double nasty(int kind, int64_t i, int64_t k, uint64_t *state)
{
    double x = normal(state), sign = check_next(state) & 1 ? 1 : -1;

    switch (kind) {
    case 0: return 0;
    case 1: return -0.0;
    case 2: return i == k / 2 ? 1 : 0;                    /* a spike */
    case 3: return i == 5 ? 3e4 : 1e-3 * x;               /* an outlier that clips */
    case 4: return sign * 0x1.fep127;                     /* the largest there is */
    case 5: return 0x1p120 * x;                           /* about the limit */
    case 6: return sign * 0x1p-133;                       /* the smallest there is */
    case 7: return 0x1p-127 * x;                          /* subnormal */
    case 8: return 0x1p-105 * x;                          /* about the limit below */
    case 9: return i == 0 ? 0x1p126 : 0x1p-130 * x;       /* what is small underflows */
    case 10: return 1;                                    /* all alike */
    case 11: return sign;
    case 12: return i / 64 % 2 ? 0 : x;                   /* groups of zeros */
    case 13: return ldexp(x, -(int)(i / 64) % 24);        /* l from 15 down to 0 */
    case 14: return i % 64 == 63 ? x : 0;
    default: return 0x1p-112 * x;
    }
}

static void check_nasty(uint64_t *state, int64_t k)
{
    uint16_t *w = memory_of((size_t)(k * KINDS) * sizeof *w);

    for (int c = 0; c < KINDS; c++)
        for (int64_t i = 0; i < k; i++) {
            double x = nasty(c, i, k, state);
            x = x > 0x1.fep127 ? 0x1.fep127 : x < -0x1.fep127 ? -0x1.fep127 : x;
            w[i * KINDS + c] = ccq_f32_to_bf16((float)x);
        }
    for (int effort = CCQ_EFFORT_FAST; effort <= CCQ_EFFORT_NORMAL; effort++)
        for (int gain = 0; gain <= 8; gain += 4)
            check(w, k, KINDS, 32, &(ccq_encode_params){effort, gain, gain / 8});
    free(w);
}

static void check_random(uint64_t *state, int64_t k, int64_t n, int64_t strip,
                         ccq_encode_params params)
{
    uint16_t *w = memory_of((size_t)(k * n) * sizeof *w);

    fill(w, k, n, state);
    check(w, k, n, strip, &params);
    free(w);
}

static void check_shapes(uint64_t *state)
{
    const int order = CCQ_ORDER_FASTDEPLOY, plain = CCQ_ORDER_PLAIN;

    check_random(state, 128, 1, 1, (ccq_encode_params){CCQ_EFFORT_NORMAL, 4, order});
    check_random(state, 128, 33, 32, (ccq_encode_params){CCQ_EFFORT_NORMAL, 4, plain});
    check_random(state, 256, 65, 65, (ccq_encode_params){CCQ_EFFORT_FAST, 4, order});
    check_random(state, 384, 70, 32, (ccq_encode_params){CCQ_EFFORT_FAST, 0, plain});
    check_random(state, 640, 131, 128, (ccq_encode_params){CCQ_EFFORT_FAST, 4, order});
    check_random(state, 1152, 7, 32, (ccq_encode_params){CCQ_EFFORT_NORMAL, 4, order});
    check_random(state, 4224, 5, 5, (ccq_encode_params){CCQ_EFFORT_FAST, 4, order}); /* 2 rounds */
    check_random(state, 8192, 3, 32, (ccq_encode_params){CCQ_EFFORT_NORMAL, 4, order});
    check_random(state, 256, 9, 9, (ccq_encode_params){CCQ_EFFORT_BEST, 4, order});
    check_random(state, 256, 9, 9, (ccq_encode_params){CCQ_EFFORT_SCALES, 4, order});
    for (int gain = 1; gain <= 8; gain++)
        check_random(state, 256, 6, 6, (ccq_encode_params){CCQ_EFFORT_FAST, gain, gain % 2});
}

/* The rms of groups by four threads each: another order of adding seldom shows in codes. */
static void check_rms(uint64_t *state)
{
    enum { GROUPS = 400 };
    uint16_t w[CCQ_GROUP];
    ccq_search_shared sh = {.scale = 0.25f};

    for (int g = 0; g < GROUPS; g++) {
        ccq_search_thread th[CCQ_SEARCH_QUAD];
        float x[CCQ_GROUP], want, sum[CCQ_SEARCH_BLOCKS];
        fill(w, CCQ_GROUP, 1, state);
        for (int i = 0; i < CCQ_GROUP; i++)
            x[i] = ccq_bf16_to_f32(w[i]) * sh.scale;
        ops.panel.rms(x, 1, &want);
        for (int t = 0; t < CCQ_SEARCH_QUAD; t++)
            ccq_search_energies(&th[t], w + 16 * t, &sh);
        for (int r = 0; r < CCQ_SEARCH_BLOCKS; r++)
            sum[r] = (th[0].q[r] + th[2].q[r]) + (th[1].q[r] + th[3].q[r]);
        memcpy(th[0].q, sum, sizeof sum);
        CHECK(ccq_search_group_rms(&th[0]) == want, "group %d: rms %a, not %a", g,
              (double)ccq_search_group_rms(&th[0]), (double)want);
    }
}

/* Shapes that are refused before they do harm. */
static void check_limits(void)
{
    const ccq_gpu_encode_ops *e = ccq_gpu_encode(gpu);

    CHECK(e->work(gpu, 64, 16) == 0, "an odd number of groups");
    CHECK(e->work(gpu, 0, 16) == 0 && e->work(gpu, 128, 0) == 0, "nothing");
    CHECK(e->work(gpu, (int64_t)1 << 30, 16) == 0, "longer than shared memory has room for");
    CHECK(e->work(gpu, 128, 16) != 0, "128 x 16 is served");
}

int main(int argc, char **argv)
{
    int kind = argc > 1 && strcmp(argv[1], "cuda") == 0 ? CCQ_GPU_CUDA : CCQ_GPU_HOST;
    uint64_t state = check_seed(20);
    char why[CCQ_GPU_TEXT];
    int code = ccq_gpu_open(kind, 0, &gpu, why);

    if (code == CCQ_GPU_ABSENT)
        check_skip(why);
    REQUIRE(!code, "%s", why);
    ccq_ops_init(&ops, ~0u);
    REQUIRE(ccq_encoder_init(&encoder) == 0, "a line fails its proof");
    tables = device_of(sizeof encoder);
    TRY(ccq_gpu_encode(gpu)->tables(gpu, &encoder, tables));
    check_limits();
    check_rms(&state);
    check_shapes(&state);
    check_nasty(&state, 128);
    check_nasty(&state, 1536);
    ccq_gpu_free(gpu, tables);
    if (kind == CCQ_GPU_HOST)
        CHECK(!ccq_gpu_host_broken(gpu), "written past an end");
    ccq_gpu_close(gpu);
    return check_done();
}
