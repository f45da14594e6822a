/* Risk: a product of a device reads a weight from another place than the format says, loses
 * or doubles a part of k, mixes rows or columns, or runs past an edge that is a multiple of
 * nothing. Against fp64 sums of what ops.unpack decodes, for all kinds of weights; and weights
 * one by one, exactly, by rows of x that pick them.
 *
 *     test_gpu_linear [cuda] */
#include "tests/gpu_bed.h"

typedef struct shape {
    int type;
    int64_t k, n;
    int order, rounding;
} shape;

/* A weight in host memory, its copy on the device, and its values [k][n]. */
typedef struct matrix {
    ccq_weight host, device;
    float *value;
} matrix;

static void *random_bytes(bed *b, int64_t count)
{
    uint8_t *x = bed_host(b, (size_t)count);
    for (int64_t i = 0; i < count; i++)
        x[i] = (uint8_t)check_next(&b->rng);
    return x;
}

static uint16_t *narrow_floats(bed *b, int64_t count, float scale)
{
    uint16_t *x = bed_host(b, (size_t)count * sizeof *x);
    for (int64_t i = 0; i < count; i++)
        x[i] = ccq_f32_to_bf16(bed_number(b, scale));
    return x;
}

static float *block_scales(bed *b, int64_t k, int64_t n)
{
    int64_t count = (k + 127) / 128 * ((n + 127) / 128);
    float *x = bed_host(b, (size_t)count * sizeof *x);
    for (int64_t i = 0; i < count; i++)
        x[i] = (float)(0.001 * (0.5 + check_uniform(&b->rng)));
    return x;
}

/* Lines that ccq writes, negative ones, and ones that are in range of nothing. */
static void make_lines(bed *b, ccq_weight *w)
{
    float *cs = bed_host(b, (size_t)w->n * sizeof *cs);
    float *zp = bed_host(b, (size_t)w->n * sizeof *zp);
    uint16_t *super = narrow_floats(b, w->n, 0.001f);

    for (int64_t i = 0; i < w->n; i++) {
        cs[i] = i % 3 ? 120.94921875f : (float)(20 + 100 * check_uniform(&b->rng));
        zp[i] = i % 3 ? 1253.75f : (float)(60000 * (check_uniform(&b->rng) - 0.5));
    }
    super[w->n / 2] = 0;
    w->code_scale = cs;
    w->code_zp = zp;
    w->super = super;
}

static void make_data(bed *b, ccq_weight *w, size_t *bytes)
{
    int64_t count = w->k * w->n;
    uint8_t *data;

    switch (w->type) {
    case CCQ_W_BF16:
    case CCQ_W_BF16_T: w->data = narrow_floats(b, count, 0.05f); break;
    case CCQ_W_F32: w->data = bed_floats(b, count, 0.05f, 0); break;
    default: w->data = data = random_bytes(b, count); break;
    }
    *bytes = (size_t)count * (w->type == CCQ_W_F32 ? 4 : w->type <= CCQ_W_BF16_T ? 2 : 1);
    if (w->type == CCQ_W_WINT4)
        *bytes /= 2;
    if (w->type == CCQ_W_WINT2)
        *bytes /= 4;
    if (w->type == CCQ_W_FP8)
        for (int64_t i = 0; i < count; i++)
            data[i] = (data[i] & 0x7f) == 0x7f ? 0 : data[i]; /* no NaN */
}

static void put_arrays(bed *b, const ccq_weight *h, size_t bytes, ccq_weight *d)
{
    size_t n = (size_t)h->n, blocks = (size_t)((h->k + 127) / 128 * ((h->n + 127) / 128));

    d->data = bed_put(b, h->data, bytes);
    if (h->scale)
        d->scale = bed_put(b, h->scale, n * 2);
    if (h->block_scale)
        d->block_scale = bed_put(b, h->block_scale, blocks * 4);
    if (h->local) {
        d->local = bed_put(b, h->local, (size_t)((h->k + 127) / 128) * n);
        d->super = bed_put(b, h->super, n * 2);
        d->code_scale = bed_put(b, h->code_scale, n * 4);
        d->code_zp = bed_put(b, h->code_zp, n * 4);
    }
}

static matrix make_matrix(bed *b, const shape *s)
{
    matrix m = {.host = {.type = s->type, .k = s->k, .n = s->n, .order = s->order,
                         .rounding = s->rounding}};
    float *panel = bed_host(b, (size_t)s->k * CCQ_PANEL * sizeof *panel);
    size_t bytes;

    make_data(b, &m.host, &bytes);
    if (s->type == CCQ_W_WINT8 || s->type == CCQ_W_WINT4)
        m.host.scale = narrow_floats(b, s->n, s->type == CCQ_W_WINT8 ? 0.001f : 0.02f);
    if (s->type == CCQ_W_FP8)
        m.host.block_scale = block_scales(b, s->k, s->n);
    if (s->type == CCQ_W_WINT2) {
        make_lines(b, &m.host);
        m.host.local = random_bytes(b, (s->k + 127) / 128 * s->n);
    }
    m.value = bed_host(b, (size_t)(s->k * s->n) * sizeof *m.value);
    for (int64_t n0 = 0; n0 < s->n; n0 += CCQ_PANEL) {
        b->cpu.unpack(&m.host, 0, s->k, n0, panel);
        for (int64_t k = 0; k < s->k; k++)
            for (int64_t j = 0; j < CCQ_PANEL && n0 + j < s->n; j++)
                m.value[k * s->n + n0 + j] = panel[k * CCQ_PANEL + j];
    }
    m.device = m.host;
    put_arrays(b, &m.host, bytes, &m.device);
    return m;
}

/* Row r of x against the whole of w. */
static void check_row(const matrix *m, const float *x, const float *y, int bf16, const char *what)
{
    int64_t k = m->host.k, n = m->host.n;
    double *truth = calloc((size_t)n, sizeof *truth);
    int is_nan = 0, good = 1;

    REQUIRE(truth, "no memory");
    for (int64_t i = 0; i < k; i++) {
        is_nan |= x[i] != x[i];
        for (int64_t c = 0; c < n; c++)
            truth[c] += (double)x[i] * (double)m->value[i * n + c];
    }
    for (int64_t c = 0; c < n && is_nan; c++)
        good &= y[c] != y[c];
    CHECK(is_nan ? good : bed_near(y, truth, n, bf16, 1), "%s: type %d, %lld x %lld", what,
          m->host.type, (long long)k, (long long)n);
    free(truth);
}

/* Two strides that are not the widths; what is between the rows of y stays. */
static void test_rows(bed *b, const matrix *m, int64_t rows, int bf16, int round, int nan)
{
    int64_t k = m->host.k, n = m->host.n, ldx = k + 5, ldy = n + 3;
    float *x = bed_floats(b, rows * ldx, 1, bf16), *y, *again;
    size_t bytes = (size_t)(rows * ldy) * sizeof *y;
    size_t work = b->ops->linear_work(b->gpu, &m->device, rows, bf16);
    ccq_gpu_linear p = {.w = &m->device, .ldx = ldx, .rows = rows, .bf16 = bf16, .round = round,
                        .ldy = ldy};

    if (nan)
        x[rows / 2 * ldx + k - 1] = NAN;
    p.x = bed_put(b, x, (size_t)(rows * ldx) * sizeof *x);
    p.y = bed_put(b, NULL, bytes);
    p.work = bed_put(b, NULL, work);
    BED(b, b->ops->linear(b->gpu, &p));
    y = bed_get(b, p.y, bytes);
    for (int64_t r = 0; r < rows; r++) {
        check_row(m, x + r * ldx, y + r * ldy, bf16 && round, "linear");
        for (int64_t c = n; c < ldy; c++)
            CHECK(y[r * ldy + c] != y[r * ldy + c], "written behind row %lld", (long long)r);
    }
    for (int64_t i = 0; i < rows * ldy && bf16 && round; i++)
        CHECK(bed_same(y[i], ccq_round_bf16(y[i])), "not rounded: %a", (double)y[i]);
    BED(b, ccq_gpu_fill(b->gpu, p.y, 0xff, bytes));
    BED(b, ccq_gpu_fill(b->gpu, p.work, 0xff, work));
    BED(b, b->ops->linear(b->gpu, &p));
    again = bed_get(b, p.y, bytes);
    CHECK(!memcmp(y, again, bytes), "linear: other bits");
}

/* Rows of x with a single 1 pick rows of w, which come out as they are. */
static void test_picks(bed *b, const matrix *m, int64_t rows, int64_t first, int bf16)
{
    int64_t k = m->host.k, n = m->host.n;
    float *x = bed_host(b, (size_t)(rows * k) * sizeof *x), *y;
    ccq_gpu_linear p = {.w = &m->device, .ldx = k, .rows = rows, .bf16 = bf16, .ldy = n};

    for (int64_t i = 0; i < rows * k; i++)
        x[i] = 0;
    for (int64_t r = 0; r < rows; r++)
        x[r * k + (first + r) % k] = 1;
    p.x = bed_put(b, x, (size_t)(rows * k) * sizeof *x);
    p.y = bed_put(b, NULL, (size_t)(rows * n) * sizeof *y);
    p.work = bed_put(b, NULL, b->ops->linear_work(b->gpu, &m->device, rows, bf16));
    BED(b, b->ops->linear(b->gpu, &p));
    y = bed_get(b, p.y, (size_t)(rows * n) * sizeof *y);
    for (int64_t i = 0; i < rows * n; i++) {
        int64_t row = (first + i / n) % k;
        if (y[i] == m->value[row * n + i % n])
            continue;
        CHECK(0, "type %d, weight %lld, %lld: %a, wanted %a", m->host.type, (long long)row,
              (long long)(i % n), (double)y[i], (double)m->value[row * n + i % n]);
        return;
    }
}

static void test_shape(bed *b, const shape *s)
{
    static const int64_t some[] = {0, 1, 3, 8, 9, 20};
    int small = s->k * s->n <= 20000;

    for (int i = 0; i < 6; i++)
        for (int mode = 0; mode < 3; mode++) { /* fp32, bf16, bf16 unrounded */
            matrix m = make_matrix(b, s);
            test_rows(b, &m, some[i], mode > 0, mode == 1, some[i] > 1 && mode == 1);
            bed_clear(b);
        }
    for (int bf16 = 0; bf16 < 2 && small; bf16++) {
        matrix m = make_matrix(b, s);
        test_picks(b, &m, s->k < 9 ? 9 : s->k, 0, bf16);
        for (int64_t first = 0; first < s->k; first += 8) {
            int devices = b->devices, hosts = b->hosts;
            test_picks(b, &m, 8, first, bf16);
            while (b->devices > devices)
                ccq_gpu_free(b->gpu, b->device[--b->devices]);
            while (b->hosts > hosts)
                free(b->host[--b->hosts]);
        }
        bed_clear(b);
    }
}

/* ---- All experts --------------------------------------------------------- */

enum { EXPERTS = 5, LONGEST = 15 };

static void test_grouped(bed *b, const shape *s, const int32_t start[EXPERTS + 1], int few,
                         int bf16)
{
    matrix m[EXPERTS];
    ccq_weight device[EXPERTS];
    int64_t rows = start[EXPERTS], n = s->n;
    float *x, *y;
    size_t bytes = (size_t)(rows * n) * sizeof *y, work = 0;

    for (int e = 0; e < EXPERTS; e++) {
        m[e] = make_matrix(b, s);
        device[e] = m[e].device;
        work = b->ops->linear_work(b->gpu, &device[e], rows, bf16);
    }
    x = bed_floats(b, rows * s->k, 1, bf16);
    ccq_gpu_grouped p = {
        .w = device,
        .table = bed_put(b, device, sizeof device),
        .experts = EXPERTS,
        .start = bed_put(b, start, (EXPERTS + 1) * sizeof *start),
        .x = bed_put(b, x, (size_t)(rows * s->k) * sizeof *x),
        .ldx = s->k,
        .rows = rows,
        .bf16 = bf16,
        .few = few,
        .y = bed_put(b, NULL, bytes),
        .ldy = n,
        .work = bed_put(b, NULL, work),
    };
    BED(b, b->ops->grouped(b->gpu, &p));
    y = bed_get(b, p.y, bytes);
    for (int e = 0; e < EXPERTS; e++)
        for (int64_t r = start[e]; r < start[e + 1]; r++)
            check_row(&m[e], x + r * s->k, y + r * n, bf16, "grouped");
    bed_clear(b);
}

static void test_refusals(bed *b)
{
    static const shape bad[] = {{CCQ_W_WINT8, 72, 8, 0, 0}, {CCQ_W_WINT4, 64, 6, 0, 0},
                                {CCQ_W_WINT2, 96, 8, 0, 0}, {99, 64, 8, 0, 0}};
    for (int i = 0; i < 4; i++) {
        ccq_weight w = {.type = bad[i].type, .k = bad[i].k, .n = bad[i].n};
        ccq_gpu_linear p = {.w = &w, .rows = 1};
        CHECK(b->ops->linear(b->gpu, &p) == CCQ_GPU_FAILED && *ccq_gpu_error(b->gpu),
              "shape %d is taken", i);
    }
}

int main(int argc, char **argv)
{
    static const shape shapes[] = {
        {CCQ_W_BF16, 72, 40, 0, 0},      {CCQ_W_BF16, 77, 37, 0, 0},
        {CCQ_W_BF16, 1100, 64, 0, 0},    {CCQ_W_BF16_T, 72, 40, 0, 0},
        {CCQ_W_BF16_T, 77, 33, 0, 0},    {CCQ_W_BF16_T, 1100, 32, 0, 0},
        {CCQ_W_WINT8, 64, 2, 0, 0},      {CCQ_W_WINT8, 192, 70, 0, 0},
        {CCQ_W_WINT8, 1600, 66, 0, 0},   {CCQ_W_WINT4, 64, 4, 0, 0},
        {CCQ_W_WINT4, 192, 100, 0, 0},   {CCQ_W_WINT4, 1600, 132, 0, 0},
        {CCQ_W_FP8, 130, 136, 0, 0},     {CCQ_W_FP8, 77, 131, 0, 0},
        {CCQ_W_FP8, 1100, 40, 0, 0},     {CCQ_W_F32, 72, 40, 0, 0},
        {CCQ_W_F32, 77, 37, 0, 0},       {CCQ_W_F32, 700, 16, 0, 0},
        {CCQ_W_WINT2, 128, 24, 0, 0},    {CCQ_W_WINT2, 192, 37, 0, CCQ_ROUND_UNZIP},
        {CCQ_W_WINT2, 192, 40, 1, CCQ_ROUND_NONE}, {CCQ_W_WINT2, 1664, 24, 1, 0},
        {CCQ_W_BF16, 1, 1, 0, 0},        {CCQ_W_F32, 8, 0, 0, 0},
    };
    static const int32_t starts[3][EXPERTS + 1] = {
        {0, 0, 1, 12, 12, LONGEST}, {0, 0, 0, 0, 10, 10}, {0, 0, 0, 0, 0, 0}};
    bed b = bed_open(argc, argv, 21);

    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        test_shape(&b, &shapes[i]);
    for (int i = 0; i < 24; i += 4)
        for (int mode = 0; mode < 12; mode++)
            test_grouped(&b, &shapes[i], starts[mode / 4], mode & 1, mode / 2 & 1);
    test_refusals(&b);
    bed_close(&b);
    return check_done();
}
