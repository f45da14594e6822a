/* Risk: encoding with feedback on a device gives other bytes or figures than on the CPU. Columns
 * and statistics of all kinds, targets that are not the weights, every step left out in turn,
 * compared bit for bit. Run with the argument cuda for CUDA's device. */
#include "kernels/gpu_encode.h"
#include "kernels/gpu_host.h"
#include "tests/feedback_bed.h"

#include <string.h>

enum { COLUMNS = 70 };

typedef struct result {
    uint8_t weight[MOST / 4 * COLUMNS], scale[MOST / 128 * COLUMNS], status[COLUMNS];
    uint16_t super[COLUMNS];
    float code_scale[COLUMNS], code_zp[COLUMNS];
    double error[COLUMNS], energy[COLUMNS], max_error[COLUMNS];
} result;

/* Columns of a bed's statistics. */
typedef struct work {
    bed *b;
    int n, order;
    ccq_feedback_params params;
    float *target, *original; /* [k][n], logical rows */
    int32_t rows[MOST];
} work;

static ccq_gpu *gpu;
static ccq_ops ops;

/* ---- The CPU ------------------------------------------------------------- */

static void panel_of(const work *w, const float *from, int n0, float *to)
{
    for (int i = 0; i < w->b->k; i++)
        for (int c = 0; c < CCQ_PANEL; c++)
            to[i * CCQ_PANEL + c] = n0 + c < w->n ? from[w->rows[i] * w->n + n0 + c] : 0.0f;
}

static void keep(const ccq_column *x, const work *w, int n, result *r)
{
    const int k = w->b->k;

    for (int i = 0; i < k / 4; i++)
        r->weight[i * w->n + n] = x->bytes[i];
    for (int i = 0; i < k / 128; i++)
        r->scale[i * w->n + n] = (uint8_t)(x->local[2 * i] << 4 | x->local[2 * i + 1]);
    r->status[n] = (uint8_t)x->status;
    r->super[n] = x->super;
    r->code_scale[n] = x->code_scale;
    r->code_zp[n] = x->code_zp;
    r->error[n] = x->error;
    r->energy[n] = x->energy;
    r->max_error[n] = x->max_error;
}

static void by_cpu(const work *w, result *r)
{
    bed *b = w->b;
    static uint8_t bytes[CCQ_PANEL][MOST / 4], local[CCQ_PANEL][MOST / 64];

    for (int n0 = 0; n0 < w->n; n0 += CCQ_PANEL) {
        int count = w->n - n0 < CCQ_PANEL ? w->n - n0 : CCQ_PANEL;
        ccq_column column[CCQ_PANEL];
        for (int c = 0; c < CCQ_PANEL; c++)
            column[c] = (ccq_column){.bytes = bytes[c], .local = local[c]};
        panel_of(w, w->target, n0, b->target);
        panel_of(w, w->original, n0, b->original);
        ccq_feedback_panel(&ops, &b->enc, b->m, &w->params, b->target,
                           w->target == w->original ? b->target : b->original, count, column,
                           NULL, b->scratch);
        for (int c = 0; c < count; c++)
            keep(&column[c], w, n0 + c, r);
    }
}

/* ---- The device ---------------------------------------------------------- */

#define TRY(call) REQUIRE((call) == CCQ_GPU_OK, "%s: %s", #call, ccq_gpu_error(gpu))

static void *put(const void *from, size_t size)
{
    void *memory;

    TRY(ccq_gpu_alloc(gpu, size, &memory));
    TRY(from ? ccq_gpu_upload(gpu, memory, from, size) : ccq_gpu_fill(gpu, memory, 0xff, size));
    return memory;
}

static void take(void *to, void *from, size_t size)
{
    TRY(ccq_gpu_download(gpu, to, from, size));
    ccq_gpu_free(gpu, from);
}

static void by_device(const work *w, result *r)
{
    const ccq_gpu_encode_ops *e = ccq_gpu_encode(gpu);
    const size_t k = (size_t)w->b->k, n = (size_t)w->n;
    void *metric = put(w->b->m, ccq_metric_bytes(w->b->k, CCQ_BOOKS, 1));
    float *target = put(w->target, k * n * sizeof *target);
    float *original = w->original == w->target ? target
                                               : put(w->original, k * n * sizeof *original);
    int32_t *rows = put(w->rows, k * sizeof *rows);
    ccq_gpu_feedback p = {w->b->m, metric, target, original, rows,
                          {NULL, w->b->k, w->n, 0, put(NULL, k / 4 * n), put(NULL, k / 128 * n),
                           put(NULL, 2 * n), put(NULL, 4 * n), put(NULL, 4 * n), put(NULL, n),
                           put(NULL, 8 * n), put(NULL, 8 * n), put(NULL, 8 * n),
                           put(NULL, e->feedback_work(gpu, w->b->k, w->n, CCQ_BOOKS))}};

    TRY(e->feedback(gpu, &w->b->enc, &w->params, &p));
    take(r->weight, p.out.weight, k / 4 * n);
    take(r->scale, p.out.scale, k / 128 * n);
    take(r->super, p.out.super, 2 * n);
    take(r->code_scale, p.out.code_scale, 4 * n);
    take(r->code_zp, p.out.code_zp, 4 * n);
    take(r->status, p.out.status, n);
    take(r->error, p.out.error, 8 * n);
    take(r->energy, p.out.energy, 8 * n);
    take(r->max_error, p.out.max_error, 8 * n);
    ccq_gpu_free(gpu, p.out.work);
    ccq_gpu_free(gpu, metric);
    ccq_gpu_free(gpu, rows);
    ccq_gpu_free(gpu, target);
    if (original != target)
        ccq_gpu_free(gpu, original);
}

/* ---- Comparison ---------------------------------------------------------- */

/* A NaN, of columns that are refused, has any sign. */
static int same(double a, double b)
{
    return memcmp(&a, &b, sizeof a) == 0 || (a != a && b != b);
}

static void compare(const work *w, const result *a, const result *b, const char *what)
{
    for (int n = 0; n < w->n; n++) {
        int bytes = 0, scales = 0;
        for (int i = 0; i < w->b->k / 4; i++)
            bytes += a->weight[i * w->n + n] != b->weight[i * w->n + n];
        for (int i = 0; i < w->b->k / 128; i++)
            scales += a->scale[i * w->n + n] != b->scale[i * w->n + n];
        CHECK(!bytes && !scales, "%s, column %d: %d bytes, %d scales differ", what, n, bytes,
              scales);
        CHECK(a->status[n] == b->status[n] && a->super[n] == b->super[n],
              "%s, column %d: status %d super %04x, not %d %04x", what, n, b->status[n],
              b->super[n], a->status[n], a->super[n]);
        CHECK(!memcmp(&a->code_scale[n], &b->code_scale[n], 4) &&
                  !memcmp(&a->code_zp[n], &b->code_zp[n], 4),
              "%s, column %d: another line", what, n);
        CHECK(same(a->error[n], b->error[n]) && same(a->energy[n], b->energy[n]) &&
                  same(a->max_error[n], b->max_error[n]),
              "%s, column %d: figures %a %a %a, not %a %a %a", what, n, b->error[n], b->energy[n],
              b->max_error[n], a->error[n], a->energy[n], a->max_error[n]);
    }
}

static void check(bed *b, uint64_t *state, int n, int nasty, int apart, ccq_feedback_params params)
{
    static result cpu, device;
    static float target[MOST * COLUMNS], original[MOST * COLUMNS];
    work w = {b, n, params.order, params, target, apart ? original : target, {0}};
    char what[100];

    for (int i = 0; i < b->k; i++)
        w.rows[i] = i / 64 * 64 + ccq_stored_to_logical(i % 64, params.order);
    for (int n0 = 0; n0 < n; n0 += CCQ_PANEL) {
        draw_columns(b, state, CCQ_PANEL, nasty);
        for (int i = 0; i < b->k; i++)
            for (int c = 0; c < CCQ_PANEL && n0 + c < n; c++) {
                target[i * n + n0 + c] = b->target[i * CCQ_PANEL + c];
                original[i * n + n0 + c] = b->original[i * CCQ_PANEL + c];
            }
    }
    snprintf(what, sizeof what, "%d x %d, leave %u gain %d order %d%s%s", b->k, n, params.leave,
             params.gain, params.order, nasty ? ", nasty" : "", apart ? ", apart" : "");
    by_cpu(&w, &cpu);
    by_device(&w, &device);
    compare(&w, &cpu, &device, what);
}

static void check_kind(uint64_t *state, int k, int kind, double scale)
{
    bed b = {.k = 0};

    REQUIRE(ccq_encoder_init(&b.enc) == 0, "a line fails its proof");
    make_bed(&b, state, k, kind, scale);
    check(&b, state, 5, 0, 1, (ccq_feedback_params){.gain = 4, .order = kind % 2});
    if (kind == 2) {
        for (unsigned leave = 1; leave <= 8; leave *= 2)
            check(&b, state, 33, 0, leave == 2, (ccq_feedback_params){.gain = 8, .leave = leave});
        check(&b, state, 9, 0, 0,
              (ccq_feedback_params){.leave = CCQ_FEEDBACK_NO_TABLE | CCQ_FEEDBACK_NO_PASSES});
        check(&b, state, COLUMNS, 1, 1, (ccq_feedback_params){.gain = 4, .passes = 2});
    }
    if (kind == 4)
        check(&b, state, 16, 1, 0, (ccq_feedback_params){.gain = 0, .passes = 7});
    free_bed(&b);
}

/* Shapes that are refused before they do harm. */
static void check_limits(void)
{
    const ccq_gpu_encode_ops *e = ccq_gpu_encode(gpu);

    CHECK(e->feedback_work(gpu, 64, 16, 1) == 0, "an odd number of groups");
    CHECK(e->feedback_work(gpu, 0, 16, 1) == 0 && e->feedback_work(gpu, 128, 0, 1) == 0, "nothing");
    CHECK(e->feedback_work(gpu, 128, 16, 1) != 0, "128 x 16 is served");
}

int main(int argc, char **argv)
{
    int kind = argc > 1 && strcmp(argv[1], "cuda") == 0 ? CCQ_GPU_CUDA : CCQ_GPU_HOST;
    uint64_t state = check_seed(31);
    char why[CCQ_GPU_TEXT];
    int code = ccq_gpu_open(kind, 0, &gpu, why);

    if (code == CCQ_GPU_ABSENT)
        check_skip(why);
    REQUIRE(!code, "%s", why);
    ccq_ops_init(&ops, ~0u);
    check_limits();
    for (int h = 0; h <= 6; h++)
        check_kind(&state, h == 2 ? 256 : 128, h, h == 3 ? 1e-30 : h == 4 ? 1e25 : 1.0);
    check_kind(&state, 384, 1, 1.0);
    if (kind == CCQ_GPU_HOST)
        CHECK(!ccq_gpu_host_broken(gpu), "written past an end");
    ccq_gpu_close(gpu);
    return check_done();
}
