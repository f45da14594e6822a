/* Risk: a simple kernel of a device computes something else than the same function on the
 * CPU: another order, another rounding, a row mixed with another, an edge left out. All but
 * the norm, whose sum has another order, are compared bit by bit.
 *
 *     test_gpu_model [cuda] */
#include "kernels/gpu/weight.h"
#include "kernels/encode.h"
#include "tests/gpu_bed.h"

static void same(const float *got, const float *want, int64_t count, const char *what)
{
    for (int64_t i = 0; i < count; i++)
        if (!bed_same(got[i], want[i])) {
            CHECK(0, "%s: element %lld: %a, wanted %a", what, (long long)i, (double)got[i],
                  (double)want[i]);
            return;
        }
}

static size_t floats(int64_t count)
{
    return (size_t)count * sizeof(float);
}

static void test_embed(bed *b, int64_t rows, int64_t h)
{
    enum { VOCAB = 7 };
    int32_t *ids = bed_host(b, (size_t)rows * sizeof *ids);
    float *table = bed_floats(b, VOCAB * h, 1, 1), *want = bed_host(b, floats(rows * h));
    uint16_t *narrow = bed_host(b, (size_t)(VOCAB * h) * sizeof *narrow);

    for (int64_t i = 0; i < VOCAB * h; i++)
        narrow[i] = ccq_f32_to_bf16(table[i]);
    for (int64_t r = 0; r < rows; r++) {
        ids[r] = (int32_t)bed_below(b, VOCAB);
        memcpy(want + r * h, table + ids[r] * h, floats(h));
    }
    for (int type = CCQ_W_BF16; type <= CCQ_W_F32; type += CCQ_W_F32 - CCQ_W_BF16) {
        ccq_gpu_embed p = {type, NULL, bed_put(b, ids, (size_t)rows * sizeof *ids), rows, h,
                           bed_put(b, NULL, floats(rows * h))};
        p.table = type == CCQ_W_F32 ? bed_put(b, table, floats(VOCAB * h))
                                    : bed_put(b, narrow, (size_t)(VOCAB * h) * sizeof *narrow);
        BED(b, b->ops->embed(b->gpu, &p));
        same(bed_get(b, p.x, floats(rows * h)), want, rows * h, "embed");
    }
}

/* The last row is not a number: the others are. */
static void test_rms(bed *b, int64_t rows, int64_t h, int bf16)
{
    float *x = bed_floats(b, (rows + 1) * h, 3, bf16), *g = bed_floats(b, h, 1, 1);
    float *want = bed_host(b, floats(rows * h)), *got, *again;
    int32_t *pick = bed_host(b, (size_t)rows * sizeof *pick);
    ccq_gpu_rms p = {.rows = rows, .h = h, .eps = 1e-5f, .bf16 = bf16};

    if (rows)
        x[(rows - 1) * h + h / 2] = NAN;
    p.x = bed_put(b, x, floats((rows + 1) * h));
    p.g = bed_put(b, g, floats(h));
    for (int picked = 0; picked < 2; picked++) {
        for (int64_t r = 0; r < rows; r++) {
            pick[r] = (int32_t)(picked ? bed_below(b, rows) : r);
            b->cpu.rms(x + pick[r] * h, g, h, p.eps, bf16, want + r * h);
        }
        p.pick = picked ? bed_put(b, pick, (size_t)rows * sizeof *pick) : NULL;
        p.y = bed_put(b, NULL, floats(rows * h));
        BED(b, b->ops->rms(b->gpu, &p));
        got = bed_get(b, p.y, floats(rows * h));
        for (int64_t i = 0; i < rows * h; i++)
            CHECK(bed_same(got[i], want[i]) || fabsf(got[i] - want[i]) <=
                                                   fabsf(want[i]) * (bf16 ? 0x1p-7f : 4e-6f),
                  "rms: %a, wanted %a", (double)got[i], (double)want[i]);
        BED(b, ccq_gpu_fill(b->gpu, p.y, 0xff, floats(rows * h)));
        BED(b, b->ops->rms(b->gpu, &p));
        again = bed_get(b, p.y, floats(rows * h));
        CHECK(!memcmp(got, again, floats(rows * h)), "rms: other bits");
    }
}

static void test_add_swiglu(bed *b, int64_t rows, int64_t n, int bf16)
{
    float *gu = bed_floats(b, rows * 2 * n, 20, bf16), *want = bed_host(b, floats(rows * n));
    float *t = bed_floats(b, rows * n, 1, bf16);
    ccq_gpu_swiglu s = {bed_put(b, gu, floats(rows * 2 * n)), rows, n, bf16,
                        bed_put(b, NULL, floats(rows * n))};
    ccq_gpu_add a = {s.a, bed_put(b, t, floats(rows * n)), rows * n, bf16};

    for (int64_t r = 0; r < rows; r++)
        b->cpu.swiglu(gu + r * 2 * n, n, bf16, want + r * n);
    BED(b, b->ops->swiglu(b->gpu, &s));
    same(bed_get(b, s.a, floats(rows * n)), want, rows * n, "swiglu");
    for (int64_t i = 0; i < rows * n; i++)
        want[i] = bf16 ? ccq_round_bf16(want[i] + t[i]) : want[i] + t[i];
    BED(b, b->ops->add(b->gpu, &a));
    same(bed_get(b, s.a, floats(rows * n)), want, rows * n, "add");
}

/* ---- Rotation ------------------------------------------------------------ */

enum { ROWS = 3, PLACES = 5 };

/* Rows lie in other places of the cache than their own; what is between stays. */
static void test_rope(bed *b, int64_t heads, int64_t kv, int64_t d, int bf16)
{
    int64_t width = (heads + 2 * kv) * d, ld = width + 3, at[2][ROWS], size = bf16 ? 2 : 4;
    float *qkv = bed_floats(b, ROWS * ld, 1, bf16), *cs = bed_host(b, floats(ROWS * d));
    size_t bytes = (size_t)(2 * PLACES * kv * d * size);
    ccq_gpu_rope p = {.ld = ld, .rows = ROWS, .heads = heads, .kv_heads = kv, .d = d,
                      .bf16 = bf16};
    uint8_t *cache;

    for (int64_t r = 0; r < ROWS; r++) {
        at[0][r] = (PLACES - 1 - r) * kv * d;
        at[1][r] = (PLACES + r) * kv * d;
        ccq_rope_angles(1e4, d, 3 * r, cs + r * d / 2, cs + ROWS * d / 2 + r * d / 2);
    }
    p.qkv = bed_put(b, qkv, floats(ROWS * ld));
    p.cos = bed_put(b, cs, floats(ROWS * d));
    p.sin = p.cos + ROWS * d / 2;
    p.cache = bed_put(b, NULL, bytes);
    p.k_at = bed_put(b, at[0], sizeof at[0]);
    p.v_at = bed_put(b, at[1], sizeof at[1]);
    BED(b, b->ops->rope(b->gpu, &p));
    cache = bed_get(b, p.cache, bytes);
    for (int64_t r = 0; r < ROWS; r++) {
        float *row = qkv + r * ld;
        b->cpu.rope(row, heads + kv, d, cs + r * d / 2, cs + (ROWS + r) * d / 2, bf16);
        for (int64_t i = 0; i < 2 * kv * d; i++) {
            int64_t to = i < kv * d ? at[0][r] + i : at[1][r] + i - kv * d;
            uint16_t narrow = ccq_f32_to_bf16(row[heads * d + i]);
            const void *want = bf16 ? (const void *)&narrow : &row[heads * d + i];
            CHECK(!memcmp(cache + to * size, want, (size_t)size), "cache at %lld", (long long)to);
        }
    }
    same(bed_get(b, p.qkv, floats(ROWS * ld)), qkv, ROWS * ld, "rope");
    for (size_t i = (size_t)((PLACES - ROWS) * kv * d * size); i--;)
        CHECK(cache[i] == 0xff, "the cache was written elsewhere");
}

/* ---- Router, sort -------------------------------------------------------- */

typedef struct routed {
    int64_t rows, experts, k, stride, at;
    int32_t *ids;
    float *weights; /* as laid out by stride and at */
} routed;

/* Ties: columns of w are equal now and then. nan: the second row is not a number. */
static void test_router(bed *b, routed *q, int64_t hidden, int with_bias, int nan)
{
    int64_t rows = q->rows, experts = q->experts, k = q->k, slots = rows * q->stride;
    float *h = bed_floats(b, rows * hidden, 1, 1), *w = bed_floats(b, hidden * experts, 0.1f, 0);
    float *bias = bed_floats(b, experts, 0.05f, 0), *scratch = bed_host(b, floats(2 * experts));
    ccq_gpu_router p = {.rows = rows, .hidden = hidden, .experts = experts, .k = k,
                        .stride = q->stride, .at = q->at};
    float want_weight[64], want_margin, *margin;
    int32_t want[64];
    uint8_t *flags;

    for (int64_t i = 0; i < hidden && experts > 2; i++)
        w[i * experts + experts - 1] = w[i * experts + 1];
    bias[experts - 1] = bias[experts > 2 ? 1 : 0];
    if (nan)
        h[hidden + hidden / 2] = NAN;
    p.h = bed_put(b, h, floats(rows * hidden));
    p.w = bed_put(b, w, floats(hidden * experts));
    p.bias = with_bias ? bed_put(b, bias, floats(experts)) : NULL;
    p.ids = bed_put(b, NULL, (size_t)(slots * k) * sizeof(int32_t));
    p.weights = bed_put(b, NULL, floats(slots * k));
    p.margin = bed_put(b, NULL, floats(slots));
    p.nan = bed_put(b, NULL, (size_t)rows);
    p.work = bed_put(b, NULL, b->ops->router_work(b->gpu, rows, experts));
    BED(b, b->ops->router(b->gpu, &p));
    q->ids = bed_get(b, p.ids, (size_t)(slots * k) * sizeof(int32_t));
    q->weights = bed_get(b, p.weights, floats(slots * k));
    margin = bed_get(b, p.margin, floats(slots));
    flags = bed_get(b, p.nan, (size_t)rows);
    for (int64_t r = 0; r < rows; r++) {
        int64_t row = r * q->stride + q->at;
        int code = ccq_router(h + r * hidden, w, with_bias ? bias : NULL, hidden, experts, k, want,
                              want_weight, &want_margin, scratch);
        CHECK(flags[r] == (code ? 1 : 0), "row %lld: nan %d", (long long)r, flags[r]);
        for (int64_t j = 0; j < k; j++) {
            CHECK(q->ids[row * k + j] == (code ? j : want[j]), "row %lld: choice %lld is %d",
                  (long long)r, (long long)j, q->ids[row * k + j]);
            CHECK(bed_same(q->weights[row * k + j], code ? NAN : want_weight[j]), "weight");
        }
        CHECK(bed_same(margin[row], code ? (k < experts ? NAN : INFINITY) : want_margin),
              "margin %a, wanted %a", (double)margin[row], (double)want_margin);
    }
}

/* Places, and what gather and combine make of them. */
static void test_sort(bed *b, const routed *q, int64_t h, int bf16)
{
    int64_t rows = q->rows, k = q->k, count = rows * k, slots = rows * q->stride * k, next = 0;
    float *x = bed_floats(b, rows * h, 1, bf16), *y = bed_host(b, floats(count * h));
    float *chosen = bed_host(b, floats(k * h)), *want = bed_host(b, floats(rows * h));
    size_t bytes = (size_t)count * sizeof(int32_t);
    ccq_gpu_sort s = {bed_put(b, q->ids, (size_t)slots * sizeof(int32_t)), rows, q->experts, k,
                      q->stride, q->at,
                      bed_put(b, NULL, (size_t)(q->experts + 1) * sizeof(int32_t)),
                      bed_put(b, NULL, bytes), bed_put(b, NULL, bytes)};
    ccq_gpu_gather g = {bed_put(b, x, floats(rows * h)), s.from, count, h,
                        bed_put(b, NULL, floats(count * h))};
    ccq_gpu_combine c = {g.y, bed_put(b, q->weights, floats(slots)), s.place, rows, k, h,
                         q->stride, q->at, bf16, bed_put(b, NULL, floats(rows * h))};
    int32_t *start, *place, *from;

    BED(b, b->ops->sort(b->gpu, &s));
    BED(b, b->ops->gather(b->gpu, &g));
    BED(b, b->ops->combine(b->gpu, &c));
    start = bed_get(b, s.start, (size_t)(q->experts + 1) * sizeof(int32_t));
    place = bed_get(b, s.place, bytes);
    from = bed_get(b, s.from, bytes);
    for (int64_t e = 0; e < q->experts; e++) {
        CHECK(start[e] == next, "expert %lld starts at %d", (long long)e, start[e]);
        for (int64_t i = 0; i < count; i++) {
            if (q->ids[(i / k * q->stride + q->at) * k + i % k] != e)
                continue;
            CHECK(place[i] == next && from[next] == i / k, "place %lld", (long long)i);
            memcpy(y + next++ * h, x + i / k * h, floats(h));
        }
    }
    CHECK(start[q->experts] == count && next == count, "the end is %d", start[q->experts]);
    same(bed_get(b, g.y, floats(count * h)), y, count * h, "gather");
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t j = 0; j < k; j++)
            memcpy(chosen + j * h, y + place[r * k + j] * h, floats(h));
        ccq_combine(chosen, h, q->weights + (r * q->stride + q->at) * k, k, h, bf16, want + r * h);
    }
    same(bed_get(b, c.t, floats(rows * h)), want, rows * h, "combine");
}

static void test_routes(bed *b)
{
    static const routed shapes[] = {{0, 4, 2, 1, 0, NULL, NULL},  {1, 64, 8, 1, 0, NULL, NULL},
                                    {5, 64, 6, 3, 2, NULL, NULL}, {9, 4, 4, 1, 0, NULL, NULL},
                                    {2, 1, 1, 2, 1, NULL, NULL},  {300, 37, 3, 1, 0, NULL, NULL}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int mode = 0; mode < 4; mode++) {
            routed q = shapes[i];
            test_router(b, &q, q.rows > 100 ? 65 : 515, mode & 1, mode == 3 && q.rows > 1);
            test_sort(b, &q, 5, mode & 1);
            bed_clear(b);
        }
}

static void test_fp8_codes(void)
{
    for (int code = 0; code < 256; code++)
        CHECK(bed_same(ccq_gpu_e4m3((uint32_t)code), ccq_e4m3_to_f32((uint8_t)code)), "code %d",
              code);
}

int main(int argc, char **argv)
{
    static const int64_t sides[] = {1, 8, 130, 515, 1500};
    bed b = bed_open(argc, argv, 20);

    test_fp8_codes();
    for (int i = 0; i < 5; i++)
        for (int64_t rows = 0; rows < 8; rows += 1 + 2 * rows) {
            test_embed(&b, rows, sides[i]);
            bed_clear(&b);
            for (int bf16 = 0; bf16 < 2; bf16++) {
                test_rms(&b, rows, sides[i], bf16);
                test_add_swiglu(&b, rows, sides[i], bf16);
                bed_clear(&b);
            }
        }
    for (int bf16 = 0; bf16 < 2; bf16++) {
        test_rope(&b, 4, 2, 32, bf16);
        test_rope(&b, 5, 5, 64, bf16);
        test_rope(&b, 3, 1, 200, bf16);
        bed_clear(&b);
    }
    test_routes(&b);
    bed_close(&b);
    return check_done();
}
