/* Where fastdeploy numerics rounds, op by op, on every instruction set: equal to
 * the stored answers bit for bit under their masks, and to none of the stored
 * wrong ones (golden/README.md, ops.safetensors). */
#include "formats/checkpoint.h"
#include "kernels/ops.h"
#include "tests/check.h"

#include <math.h>

static ccq_checkpoint *file;

static const ccq_tensor *find(const char *group, const char *name)
{
    char full[100];
    const ccq_tensor *t;

    snprintf(full, sizeof full, "%s.%s", group, name);
    t = ccq_checkpoint_find(file, full);
    REQUIRE(t, "no tensor %s", full);
    return t;
}

static int64_t dim(const char *group, const char *name, int i)
{
    return (int64_t)find(group, name)->shape[i];
}

static void *raw(const ccq_tensor *t)
{
    ccq_error err;
    void *data = malloc(t->bytes);

    REQUIRE(data, "out of memory");
    REQUIRE(!ccq_checkpoint_read(file, t, 0, data, t->bytes, &err), "%s", err.text);
    return data;
}

/* Any of BF16 and F32 as floats; the caller frees. */
static float *load(const char *group, const char *name)
{
    const ccq_tensor *t = find(group, name);
    uint64_t i, count = t->bytes / 2;
    uint16_t *half;
    float *x;

    if (t->dtype == CCQ_DT_F32)
        return raw(t);
    REQUIRE(t->dtype == CCQ_DT_BF16, "%s: type", t->name);
    half = raw(t);
    x = malloc((size_t)count * sizeof *x);
    REQUIRE(x, "out of memory");
    for (i = 0; i < count; i++)
        x[i] = ccq_bf16_to_f32(half[i]);
    free(half);
    return x;
}

/* First masked place where two results differ, or -1. */
static int64_t differ(const float *a, const float *b, const uint8_t *mask, int64_t count)
{
    int64_t i;

    for (i = 0; i < count; i++)
        if (mask[i] && memcmp(&a[i], &b[i], sizeof *a))
            return i;
    return -1;
}

/* y against CASE.expect and every CASE.wrong.NAME. */
static void compare(const char *isa, const char *group, const float *y)
{
    float *want = load(group, "expect"), *wrong;
    int64_t count = (int64_t)find(group, "expect")->bytes / 2, at, compared = 0, i;
    uint8_t *mask = raw(find(group, "mask"));
    char prefix[100];
    size_t t;

    for (i = 0; i < count; i++)
        compared += mask[i];
    at = differ(y, want, mask, count);
    CHECK(compared > 0 && at < 0, "%s %s: output %lld is %a, want %a", isa, group, (long long)at,
          (double)y[at < 0 ? 0 : at], (double)want[at < 0 ? 0 : at]);
    snprintf(prefix, sizeof prefix, "%s.wrong.", group);
    for (t = 0; t < ccq_checkpoint_count(file); t++) {
        const char *name = ccq_checkpoint_at(file, t)->name;
        if (strncmp(name, prefix, strlen(prefix)) != 0)
            continue;
        wrong = load(group, name + strlen(group) + 1);
        CHECK(differ(want, wrong, mask, count) >= 0, "%s: no fault to see", name);
        CHECK(differ(y, wrong, mask, count) >= 0, "%s %s: this is the fault", isa, name);
        free(wrong);
    }
    free(want), free(mask);
}

static void test_rms(const ccq_ops *ops)
{
    float *x = load("rms", "x"), *g = load("rms", "g"), *eps = load("rms", "eps");
    int64_t rows = dim("rms", "x", 0), h = dim("rms", "x", 1), r;
    float *y = check_guarded((size_t)(rows * h) * sizeof *y);

    for (r = 0; r < rows; r++)
        ops->rms(x + r * h, g, h, *eps, 1, y + r * h);
    compare(ops->name, "rms", y);
    free(x), free(g), free(eps);
}

static void test_rope(const ccq_ops *ops)
{
    float *q = load("rope", "q"), *theta = load("rope", "theta"), cosine[64], sine[64];
    int64_t rows = dim("rope", "q", 0), heads = dim("rope", "q", 1), d = dim("rope", "q", 2), r;
    int32_t *pos = raw(find("rope", "pos"));

    REQUIRE(d <= 128, "head of %lld", (long long)d);
    for (r = 0; r < rows; r++) {
        ccq_rope_angles((double)*theta, d, pos[r], cosine, sine);
        ops->rope(q + r * heads * d, heads, d, cosine, sine, 1);
    }
    compare(ops->name, "rope", q);
    free(q), free(theta), free(pos);
}

/* Each case is one query at the last position; keys in bf16 and in fp32. */
static void test_attention(const ccq_ops *ops)
{
    int64_t cases = dim("attention", "k", 0), n = dim("attention", "k", 1);
    int64_t d = dim("attention", "k", 2), c;
    float *q = load("attention", "q"), *k = load("attention", "k"), *v = load("attention", "v");
    uint16_t *kh = raw(find("attention", "k")), *vh = raw(find("attention", "v"));
    float *o = check_guarded((size_t)(cases * d) * sizeof *o);
    float *scratch = check_guarded(ccq_attend_scratch(n, d) * sizeof *scratch);
    int bf16;

    for (bf16 = 0; bf16 < 2; bf16++) {
        for (c = 0; c < cases; c++) {
            int64_t at = c * n * d;
            const void *key = bf16 ? (void *)(kh + at) : (void *)(k + at);
            const void *value = bf16 ? (void *)(vh + at) : (void *)(v + at);
            ops->attend(q + c * d, d, 1, n - 1, key, value, bf16, 1, 1, d, 0, 1, 1, scratch,
                        o + c * d);
        }
        compare(ops->name, "attention", o);
    }
    free(q), free(k), free(v), free(kh), free(vh);
}

static void test_swiglu(const ccq_ops *ops)
{
    float *gate = load("swiglu", "gate"), *up = load("swiglu", "up");
    int64_t rows = dim("swiglu", "gate", 0), n = dim("swiglu", "gate", 1), r;
    float *gu = check_guarded((size_t)(2 * n) * sizeof *gu);
    float *a = check_guarded((size_t)(rows * n) * sizeof *a);

    for (r = 0; r < rows; r++) {
        memcpy(gu, gate + r * n, (size_t)n * sizeof *gu);
        memcpy(gu + n, up + r * n, (size_t)n * sizeof *gu);
        ops->swiglu(gu, n, 1, a + r * n);
    }
    compare(ops->name, "swiglu", a);
    free(gate), free(up);
}

static void test_linear(const ccq_ops *ops)
{
    ccq_weight w = {.type = CCQ_W_BF16, .k = dim("linear", "w", 0), .n = dim("linear", "w", 1)};
    int64_t rows = dim("linear", "x", 0);
    float *x = load("linear", "x"), *y = check_guarded((size_t)(rows * w.n) * sizeof *y);
    float *scratch = check_guarded(ccq_matmul_scratch(rows) * sizeof *scratch);
    void *data = raw(find("linear", "w"));

    w.data = data;
    ccq_matmul(ops, &w, x, w.k, rows, 0, w.n, 1, y, w.n, scratch);
    compare(ops->name, "linear", y);
    free(x), free(data);
}

static void test_experts(const ccq_ops *ops)
{
    float *y = load("experts", "y"), *w = load("experts", "w");
    int64_t rows = dim("experts", "y", 0), k = dim("experts", "y", 1);
    int64_t h = dim("experts", "y", 2), r;
    float *out = check_guarded((size_t)(rows * h) * sizeof *out);

    for (r = 0; r < rows; r++)
        ccq_combine(y + r * k * h, h, w + r * k, k, h, 1, out + r * h);
    compare(ops->name, "experts", out);
    free(y), free(w);
}

static void test_residual(const ccq_ops *ops)
{
    float *x = load("residual", "x"), *o = load("residual", "o");
    int64_t count = (int64_t)find("residual", "o")->bytes / 4, i;

    ops->round(o, count, o);
    for (i = 0; i < count; i++)
        x[i] += o[i];
    ops->round(x, count, x);
    compare(ops->name, "residual", x);
    free(x), free(o);
}

static void test_router(const ccq_ops *ops)
{
    float *h = load("router", "h"), *w = load("router", "w"), *bias = load("router", "bias");
    float *want = load("router", "weights"), weight[64], margin, scratch[128];
    int64_t rows = dim("router", "h", 0), hidden = dim("router", "h", 1);
    int64_t experts = dim("router", "w", 1), k = dim("router", "ids", 1), r, i;
    int32_t *ids = raw(find("router", "ids")), id[64];
    uint8_t *mask = raw(find("router", "mask"));

    REQUIRE(experts <= 64 && k <= experts, "%lld experts", (long long)experts);
    for (r = 0; r < rows; r++) {
        CHECK(!ccq_router(h + r * hidden, w, bias, hidden, experts, k, id, weight, &margin,
                          scratch), "router");
        for (i = 0; mask[r] && i < k; i++)
            CHECK(id[i] == ids[r * k + i] &&
                      fabsf(weight[i] - want[r * k + i]) <= 1e-6f * want[r * k + i],
                  "%s router row %lld choice %lld: expert %d (%g), want %d (%g)", ops->name,
                  (long long)r, (long long)i, id[i], (double)weight[i], ids[r * k + i],
                  (double)want[r * k + i]);
        CHECK(margin >= 0, "margin %g", (double)margin);
    }
    free(h), free(w), free(bias), free(want), free(ids), free(mask);
}

/* What the stored rows do not reach: no bias, all chosen, a logit that is NaN. */
static void test_router_ends(void)
{
    float h[2] = {1, 2}, w[6] = {1, 3, 3, 0, 0, 0}, weight[3], margin, scratch[6];
    int32_t id[3];

    CHECK(!ccq_router(h, w, NULL, 2, 3, 2, id, weight, &margin, scratch), "plain");
    CHECK(id[0] == 1 && id[1] == 2 && weight[0] == weight[1] && margin > 0, "ties: %d %d", id[0],
          id[1]);
    CHECK(!ccq_router(h, w, NULL, 2, 3, 1, id, weight, &margin, scratch) && margin == 0, "tie");
    CHECK(!ccq_router(h, w, NULL, 2, 3, 3, id, weight, &margin, scratch), "all");
    CHECK(id[2] == 0 && isinf(margin), "all: %d", id[2]);
    h[1] = NAN;
    CHECK(ccq_router(h, w, NULL, 2, 3, 2, id, weight, NULL, scratch) == -1, "NaN");
}

int main(void)
{
    ccq_error err;
    unsigned isa;
    ccq_ops ops;

    REQUIRE(!ccq_checkpoint_open_file(&file, check_shared("golden/ops.safetensors"), &err), "%s",
            err.text);
    for (isa = CCQ_ISA_C; isa <= CCQ_ISA_AVX512; isa *= 2) {
        ccq_ops_init(&ops, 2 * isa - 1);
        test_rms(&ops);
        test_rope(&ops);
        test_attention(&ops);
        test_swiglu(&ops);
        test_linear(&ops);
        test_experts(&ops);
        test_residual(&ops);
        test_router(&ops);
    }
    test_router_ends();
    ccq_checkpoint_close(file);
    return check_done();
}
