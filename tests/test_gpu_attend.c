/* Risk: attention of a device leaves out or doubles positions where they are cut, mixes heads,
 * rows or places of the cache, or scales sums of another maximum wrongly. Against the formula
 * in fp64.
 *
 *     test_gpu_attend [cuda] */
#include "tests/gpu_bed.h"

typedef struct shape {
    int64_t rows, heads, kv_heads, d, longest; /* longest: lengths go up to here */
    int64_t room;                              /* what the call is told */
    float scale;                               /* of the queries */
} shape;

typedef struct problem {
    int64_t ld, ldo, *k_first, *v_first;
    int32_t *length;
    float *qkv, *cache; /* cache: fp32 also where the device has bf16 */
    int64_t count;      /* elements of the cache */
} problem;

/* Rows in pairs are of one sequence, all of random lengths but the first two: 1, longest. */
static problem make_problem(bed *b, const shape *s, int bf16)
{
    int64_t line = s->kv_heads * s->d, places = (s->rows + 1) / 2;
    problem q = {.ld = (s->heads + 2 * s->kv_heads) * s->d + 4, .ldo = s->heads * s->d + 2};

    q.k_first = bed_host(b, (size_t)s->rows * sizeof *q.k_first);
    q.v_first = bed_host(b, (size_t)s->rows * sizeof *q.v_first);
    q.length = bed_host(b, (size_t)s->rows * sizeof *q.length);
    q.qkv = bed_floats(b, s->rows * q.ld, s->scale, bf16);
    q.count = 2 * places * s->longest * line + 8;
    q.cache = bed_floats(b, q.count, 1, bf16);
    for (int64_t r = 0; r < s->rows; r++) {
        q.k_first[r] = 8 + r / 2 * 2 * s->longest * line;
        q.v_first[r] = q.k_first[r] + s->longest * line;
        q.length[r] = (int32_t)(r ? 1 + bed_below(b, s->longest) : 1);
        if (r == 1 || s->rows == 1)
            q.length[r] = (int32_t)s->longest;
    }
    return q;
}

static void *put_cache(bed *b, const problem *q, int bf16)
{
    uint16_t *narrow;

    if (!bf16)
        return bed_put(b, q->cache, (size_t)q->count * sizeof *q->cache);
    narrow = bed_host(b, (size_t)q->count * sizeof *narrow);
    for (int64_t i = 0; i < q->count; i++)
        narrow[i] = ccq_f32_to_bf16(q->cache[i]);
    return bed_put(b, narrow, (size_t)q->count * sizeof *narrow);
}

static void truth_of(const shape *s, const problem *q, int64_t r, int64_t head, double *o)
{
    int64_t line = s->kv_heads * s->d, kv = head / (s->heads / s->kv_heads) * s->d;
    const float *query = q->qkv + r * q->ld + head * s->d;
    double most = -INFINITY, sum = 0, *p = malloc((size_t)q->length[r] * sizeof *p);

    REQUIRE(p, "no memory");
    for (int64_t j = 0; j < q->length[r]; j++) {
        const float *key = q->cache + q->k_first[r] + j * line + kv;
        double dot = 0;
        for (int64_t i = 0; i < s->d; i++)
            dot += (double)query[i] * (double)key[i];
        p[j] = dot / sqrt((double)s->d);
        most = p[j] > most ? p[j] : most;
    }
    for (int64_t i = 0; i < s->d; i++)
        o[i] = 0;
    for (int64_t j = 0; j < q->length[r]; j++) {
        const float *value = q->cache + q->v_first[r] + j * line + kv;
        double w = exp(p[j] - most);
        sum += w;
        for (int64_t i = 0; i < s->d; i++)
            o[i] += w * (double)value[i];
    }
    for (int64_t i = 0; i < s->d; i++)
        o[i] /= sum;
    free(p);
}

/* Weights are rounded to bf16 before they are summed: 2^-8.6 rms of the result, as much as its
 * own rounding, and some elements have three times that.
 * nan: a query of the last row. Its head is NaN, all others are not. */
static void check_rows(const shape *s, const problem *q, const float *o, int bf16, int nan)
{
    double truth[256];

    for (int64_t r = 0; r < s->rows; r++) {
        for (int64_t head = 0; head < s->heads; head++) {
            const float *got = o + r * q->ldo + head * s->d;
            int all = 1;
            truth_of(s, q, r, head, truth);
            for (int64_t i = 0; i < s->d; i++)
                all &= got[i] != got[i];
            CHECK(nan && r == s->rows - 1 && !head ? all : bed_near(got, truth, s->d, bf16, 2),
                  "row %lld, head %lld, %d positions, d %lld", (long long)r, (long long)head,
                  q->length[r], (long long)s->d);
        }
        for (int64_t i = s->heads * s->d; i < q->ldo; i++)
            CHECK(o[r * q->ldo + i] != o[r * q->ldo + i], "written behind row %lld", (long long)r);
    }
}

static void test_shape(bed *b, const shape *s, int bf16, int nan)
{
    problem q = make_problem(b, s, bf16);
    size_t bytes = (size_t)(s->rows * q.ldo) * sizeof(float), rows = (size_t)s->rows;
    size_t work = b->ops->attend_work(b->gpu, s->rows, s->heads, s->d, s->room);
    float *o, *again;

    if (nan)
        q.qkv[(s->rows - 1) * q.ld + s->d - 1] = NAN;
    ccq_gpu_attend p = {
        .qkv = bed_put(b, q.qkv, (size_t)(s->rows * q.ld) * sizeof(float)),
        .ld = q.ld,
        .rows = s->rows,
        .heads = s->heads,
        .kv_heads = s->kv_heads,
        .d = s->d,
        .cache = put_cache(b, &q, bf16),
        .k_first = bed_put(b, q.k_first, rows * sizeof *q.k_first),
        .v_first = bed_put(b, q.v_first, rows * sizeof *q.v_first),
        .length = bed_put(b, q.length, rows * sizeof *q.length),
        .longest = s->room,
        .bf16 = bf16,
        .o = bed_put(b, NULL, bytes),
        .ldo = q.ldo,
        .work = bed_put(b, NULL, work),
    };
    BED(b, b->ops->attend(b->gpu, &p));
    o = bed_get(b, p.o, bytes);
    check_rows(s, &q, o, bf16, nan);
    BED(b, ccq_gpu_fill(b->gpu, p.o, 0xff, bytes));
    BED(b, ccq_gpu_fill(b->gpu, p.work, 0xff, work));
    BED(b, b->ops->attend(b->gpu, &p));
    again = bed_get(b, p.o, bytes);
    CHECK(!memcmp(o, again, bytes), "attend: other bits");
    bed_clear(b);
}

/* A few positions in one piece: the scores are the CPU's, and so is all but the order of the
 * sums over positions. */
static void test_against_cpu(bed *b)
{
    enum { D = 64, N = 40, HEADS = 4, KV = 2 };
    shape s = {1, HEADS, KV, D, N, N, 2};
    problem q = make_problem(b, &s, 1);
    uint16_t *cache = bed_host(b, (size_t)q.count * 2);
    float *want = bed_host(b, HEADS * D * 4), *scratch, *o;

    for (int64_t i = 0; i < q.count; i++)
        cache[i] = ccq_f32_to_bf16(q.cache[i]);
    scratch = bed_host(b, ccq_attend_scratch(N, D) * sizeof *scratch);
    b->cpu.attend(q.qkv, HEADS * D, 1, N - 1, cache + q.k_first[0], cache + q.v_first[0], 1, HEADS,
                  KV, D, 0, HEADS, 1, scratch, want);
    ccq_gpu_attend p = {bed_put(b, q.qkv, (size_t)q.ld * 4), q.ld, 1, HEADS, KV, D,
                        put_cache(b, &q, 1), bed_put(b, q.k_first, 8), bed_put(b, q.v_first, 8),
                        bed_put(b, q.length, 4), N, 1, bed_put(b, NULL, HEADS * D * 4), HEADS * D,
                        bed_put(b, NULL, b->ops->attend_work(b->gpu, 1, HEADS, D, N))};
    BED(b, b->ops->attend(b->gpu, &p));
    o = bed_get(b, p.o, HEADS * D * 4);
    for (int i = 0; i < HEADS * D; i++)
        CHECK(fabsf(o[i] - want[i]) <= fabsf(want[i]) * 0x1p-7f, "%a, the CPU has %a",
              (double)o[i], (double)want[i]);
    bed_clear(b);
}

static void test_refusals(bed *b)
{
    static const shape bad[] = {{1, 4, 3, 64, 1, 1, 1}, {1, 4, 2, 36, 1, 1, 1},
                                {1, 4, 2, 264, 1, 1, 1}, {1, 4, 0, 64, 1, 1, 1}};
    for (int i = 0; i < 4; i++) {
        ccq_gpu_attend p = {.rows = 1, .heads = bad[i].heads, .kv_heads = bad[i].kv_heads,
                            .d = bad[i].d, .longest = 1};
        CHECK(b->ops->attend(b->gpu, &p) == CCQ_GPU_FAILED && *ccq_gpu_error(b->gpu),
              "shape %d is taken", i);
    }
}

int main(int argc, char **argv)
{
    static const shape shapes[] = {
        {0, 4, 2, 64, 10, 10, 1},       {1, 4, 2, 32, 1, 1, 1},     {5, 4, 2, 64, 70, 70, 1},
        {2, 8, 1, 128, 257, 4096, 1},   {1, 8, 8, 64, 1100, 1100, 1}, {3, 6, 2, 128, 300, 300, 8},
        {2, 20, 1, 256, 530, 530, 1},   {2, 9, 1, 200, 256, 5000, 1}, {3, 5, 1, 72, 513, 513, 30},
        {2, 2, 2, 8, 600, 600, 3},
    };
    bed b = bed_open(argc, argv, 22);

    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int mode = 0; mode < 3; mode++)
            test_shape(&b, &shapes[i], mode > 0, mode == 2 && shapes[i].rows > 0);
    test_against_cpu(&b);
    test_refusals(&b);
    bed_close(&b);
    return check_done();
}
