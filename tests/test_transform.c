/* Transforms are exact: identities in fp64, and the logits of models before and after, in
 * fp32 and before any rounding to bf16.
 *
 *     test_transform           identities, and the models of CCQ_SHARED
 *     test_transform DIR...    these models */
#include "tests/check.h"
#include "tests/plain_model.h"
#include "tests/read_model.h"

#include "kernels/hadamard.h"
#include "libccq/transform.h"

#include <math.h>

enum { TOKENS = 64, LANES = CCQ_HADAMARD_LANES };

static const unsigned all_kinds[] = {CCQ_TRANSFORM_ROTATE, CCQ_TRANSFORM_PERMUTE,
                                     CCQ_TRANSFORM_ROTATE | CCQ_TRANSFORM_PERMUTE};

static double *doubles(int64_t count)
{
    double *x = calloc((size_t)count, sizeof *x);
    REQUIRE(x, "memory");
    return x;
}

/* ---- R ------------------------------------------------------------------------- */

/* Element i, j of Hd without its fast form: chi(d) = d^9 mod 19. */
static int slow_sylvester(int64_t i, int64_t j)
{
    return __builtin_parityll((unsigned long long)(i & j)) ? -1 : 1;
}

static int slow_paley(int64_t i, int64_t j)
{
    int64_t d = (i - j + 19) % 19, power = 1;
    if (i == j)
        return 1;
    if (i == 0 || j == 0)
        return i == 0 ? 1 : -1;
    for (int n = 0; n < 9; n++)
        power = power * d % 19;
    return power == 1 ? 1 : -1;
}

static int slow(int64_t n, int64_t i, int64_t j)
{
    int64_t part = n & (n - 1) ? n / 20 : n;
    int value = slow_sylvester(i % part, j % part);
    return part == n ? value : value * slow_paley(i / part, j / part);
}

/* R [n][n], by the fast transform: row i is e_i' R. */
static double *make_r(int64_t n, uint64_t seed)
{
    double *r = doubles(n * n), *factor = doubles(n), *x = doubles(n * LANES);
    ccq_hadamard_factors(seed, n, factor);
    for (int64_t i0 = 0; i0 < n; i0 += LANES) {
        memset(x, 0, (size_t)(n * LANES) * sizeof *x);
        for (int64_t i = i0; i < n && i < i0 + LANES; i++)
            x[i * LANES + i - i0] = factor[i];
        ccq_hadamard_turn(x, n);
        for (int64_t i = i0; i < n && i < i0 + LANES; i++)
            for (int64_t j = 0; j < n; j++)
                r[i * n + j] = x[j * LANES + i - i0];
    }
    free(x);
    free(factor);
    return r;
}

static void check_r(int64_t n)
{
    double *r = make_r(n, 7), *factor = doubles(n), worst = 0;
    int64_t wrong = 0, minus = 0, step = n > 1000 ? 37 : 1;
    ccq_hadamard_factors(7, n, factor);
    for (int64_t i = 0; i < n; i++) {
        minus += factor[i] < 0;
        for (int64_t j = 0; j < n; j++)
            wrong += r[i * n + j] != factor[i] * slow(n, i, j);
    }
    CHECK(wrong == 0, "R of %" PRId64 ": %" PRId64 " elements", n, wrong);
    CHECK(n < 64 || (minus > n / 4 && minus < 3 * n / 4), "%" PRId64 " signs of %" PRId64, minus,
          n);
    for (int64_t i = 0; i < n; i += step)
        for (int64_t j = 0; j < n; j++) {
            double sum = -(double)(i == j);
            for (int64_t k = 0; k < n; k++)
                sum += r[i * n + k] * r[j * n + k];
            worst = fmax(worst, fabs(sum));
        }
    CHECK(worst < 1e-13, "R R' - I of %" PRId64 ": %g", n, worst);
    free(factor);
    free(r);
}

static void check_sizes(void)
{
    static const int64_t good[] = {1, 2, 4, 20, 40, 128, 320, 640, 2560, 8192};
    static const int64_t bad[] = {-20, 0, 3, 10, 12, 60, 100, 2561, 5120 + 128, 7168};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        CHECK(ccq_hadamard_size(good[i]), "%" PRId64, good[i]);
        if (good[i] <= 2560)
            check_r(good[i]);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK(!ccq_hadamard_size(bad[i]), "%" PRId64, bad[i]);
}

/* ---- A source, transformed ---------------------------------------------------------- */

static ccq_transform *transform(const ccq_source *src, unsigned which, int ranks)
{
    ccq_transform *t;
    ccq_error err;
    REQUIRE(ccq_transform_open(&t, src, which, 7, ranks, &err) == CCQ_OK, "%s", err.text);
    return t;
}

static float *matrix(const ccq_transform *t, const ccq_entry *e, ccq_pool *pool)
{
    ccq_error err;
    float *w = malloc((size_t)ccq_entry_parameters(e) * sizeof *w);
    REQUIRE(w && ccq_transform_matrix(t, e, pool, w, &err) == CCQ_OK, "%s: %s", e->name, err.text);
    return w;
}

/* x (R' diag(g) W), x turned, is (x diag(g)) W; and the library's fp32 is that matrix. */
static void check_fold(const ccq_source *src, const ccq_entry *e, ccq_pool *pool, uint64_t *random)
{
    ccq_transform *none = transform(src, 0, 1), *turned = transform(src, CCQ_TRANSFORM_ROTATE, 1);
    ccq_role role = e->role == CCQ_ROLE_QKV ? CCQ_ROLE_NORM_IN : CCQ_ROLE_NORM_POST;
    int64_t h = e->k, columns = e->n < 24 ? e->n : 24;
    float *w = matrix(none, e, pool), *f = matrix(turned, e, pool);
    float *g = matrix(none, ccq_source_find(src, role, CCQ_BLOCK_NONE, e->layer, -1, 0), pool);
    double *r = make_r(h, 7), *x = doubles(h), worst = 0, far = 0;
    for (int64_t i = 0; i < h; i++)
        x[i] = 2 * check_uniform(random) - 1;
    for (int64_t n = 0; n < columns; n++) {
        double unfolded = 0, folded = 0, size = 0;
        for (int64_t j = 0; j < h; j++) {
            double y = 0, v = 0;
            for (int64_t i = 0; i < h; i++) {
                y += x[i] * r[i * h + j];
                v += r[i * h + j] * (double)g[i] * (double)w[i * e->n + n];
            }
            folded += y * v;
            unfolded += x[j] * (double)g[j] * (double)w[j * e->n + n];
            size += fabs(x[j] * (double)g[j] * (double)w[j * e->n + n]);
            far = fmax(far, fabs(v - (double)f[j * e->n + n]) / (fabs(v) * 0x1p-24 + 1e-13));
        }
        worst = fmax(worst, fabs(folded - unfolded) / size);
    }
    CHECK(worst < 1e-12, "%s: folded and unfolded products differ by %g", e->name, worst);
    CHECK(far <= 1.0001, "%s: not the fp64 matrix rounded once (%g)", e->name, far);
    free(x);
    free(r);
    free(g);
    free(f);
    free(w);
    ccq_transform_close(turned);
    ccq_transform_close(none);
}

/* fp64: y = (silu(x gate) (x up)) down. */
static void mlp(const float *up_gate, const float *down, int64_t h, int64_t width, const double *x,
                double *y)
{
    memset(y, 0, (size_t)h * sizeof *y);
    for (int64_t j = 0; j < width; j++) {
        double gate = 0, up = 0;
        for (int64_t i = 0; i < h; i++) {
            gate += x[i] * (double)up_gate[i * 2 * width + j];
            up += x[i] * (double)up_gate[i * 2 * width + width + j];
        }
        for (int64_t i = 0; i < h; i++)
            y[i] += gate / (1 + exp(-gate)) * up * (double)down[j * h + i];
    }
}

static double row_energy(const float *down, int64_t h, int64_t j)
{
    double sum = 0;
    for (int64_t i = 0; i < h; i++)
        sum += (double)down[j * h + i] * (double)down[j * h + i];
    return sum;
}

static void check_permuted(const ccq_source *src, const ccq_entry *down, int ranks, ccq_pool *pool,
                           uint64_t *random)
{
    const ccq_entry *up = ccq_source_find(src, CCQ_ROLE_UP_GATE, down->block, down->layer,
                                          down->expert, 0);
    ccq_transform *none = transform(src, 0, 1);
    ccq_transform *sorted = transform(src, CCQ_TRANSFORM_PERMUTE, ranks);
    float *u0 = matrix(none, up, pool), *d0 = matrix(none, down, pool);
    float *u1 = matrix(sorted, up, pool), *d1 = matrix(sorted, down, pool);
    int64_t h = down->n, width = down->k, moved = 0;
    double *x = doubles(h), *y0 = doubles(h), *y1 = doubles(h), most = 0, worst = 0;
    int64_t *order = calloc((size_t)width, sizeof *order);
    ccq_error err;
    REQUIRE(order && !ccq_transform_order(sorted, up, pool, order, &err), "order");
    for (int64_t i = 0; i < h; i++)
        x[i] = 2 * check_uniform(random) - 1;
    mlp(u0, d0, h, width, x, y0);
    mlp(u1, d1, h, width, x, y1);
    for (int64_t i = 0; i < h; i++) {
        most = fmax(most, fabs(y0[i]));
        worst = fmax(worst, fabs(y0[i] - y1[i]));
    }
    CHECK(worst <= 1e-12 * most, "%s: another output by %g", down->name, worst / most);
    for (int64_t j = 0; j < width; j++) {
        moved += order[j] != j;
        CHECK(order[j] * ranks / width == j * ranks / width, "%s: neuron %" PRId64 " left its rank",
              down->name, order[j]);
        CHECK(!memcmp(d1 + j * h, d0 + order[j] * h, (size_t)h * sizeof *d0), "row %" PRId64, j);
        CHECK(j * ranks % width == 0 || row_energy(d1, h, j) <= row_energy(d1, h, j - 1),
              "%s: row %" PRId64 " is larger than the one before", down->name, j);
    }
    CHECK(moved > width / 2, "%s: %" PRId64 " of %" PRId64 " moved", down->name, moved, width);
    free(order);
    free(y1);
    free(y0);
    free(x);
    free(d1);
    free(u1);
    free(d0);
    free(u0);
    ccq_transform_close(sorted);
    ccq_transform_close(none);
}

/* Any number of threads, and bf16 is the fp32 tensor rounded. */
static void check_bits(const ccq_source *src, unsigned which, ccq_pool *pool)
{
    ccq_transform *t = transform(src, which, 1);
    ccq_pool *one = ccq_pool_new(1);
    ccq_error err;
    for (size_t i = 0; i <= src->count; i++) {
        const ccq_entry *e = i < src->count ? &src->entry[i] : ccq_transform_head(t);
        if (!e)
            continue;
        size_t count = (size_t)ccq_entry_parameters(e), wrong = 0;
        float *a = matrix(t, e, pool), *b = matrix(t, e, one);
        uint16_t *h = malloc(count * sizeof *h);
        CHECK(!memcmp(a, b, count * sizeof *a), "%s: other bits with one thread", e->name);
        if (e->type == CCQ_TYPE_BF16) {
            REQUIRE(h && !ccq_transform_bf16(t, e, pool, h, &err), "%s", err.text);
            for (size_t j = 0; j < count; j++)
                wrong += h[j] != ccq_f32_to_bf16(a[j]);
        }
        CHECK(wrong == 0, "%s: %zu values of bf16", e->name, wrong);
        free(h);
        free(b);
        free(a);
    }
    ccq_pool_free(one);
    ccq_transform_close(t);
}

/* ---- Logits ------------------------------------------------------------------------------ */

/* The first tokens of DIR/tokens_test.npy (a header of 10 bytes and its text, then int32),
 * random ones where there is none. */
static void read_tokens(const ccq_source *src, uint64_t *random, int32_t *ids, int count)
{
    char path[4096];
    uint8_t head[10];
    snprintf(path, sizeof path, "%s/tokens_test.npy", src->dir);
    FILE *f = fopen(path, "rb");
    for (int i = 0; i < count; i++)
        ids[i] = (int32_t)(check_uniform(random) * (double)src->arch.vocab);
    if (!f)
        return;
    REQUIRE(fread(head, 1, 10, f) == 10 && !fseek(f, 10 + head[8] + 256 * head[9], SEEK_SET) &&
                fread(ids, sizeof *ids, (size_t)count, f) == (size_t)count,
            "%s", path);
    fclose(f);
}

static double compare(const float *a, const float *b, int64_t vocab, int count)
{
    double worst = 0;
    for (int t = 0; t < count; t++, a += vocab, b += vocab) {
        double most = 0, squares = 0;
        for (int64_t v = 0; v < vocab; v++) {
            most = fmax(most, fabs((double)a[v] - (double)b[v]));
            squares += (double)a[v] * (double)a[v];
        }
        worst = fmax(worst, most / sqrt(squares / (double)vocab));
    }
    return worst;
}

static void check_logits(const ccq_source *src, ccq_pool *pool, uint64_t *random)
{
    int64_t vocab = src->arch.vocab, layers = src->arch.layers;
    int count = src->arch.max_position < TOKENS ? (int)src->arch.max_position : TOKENS;
    int32_t ids[TOKENS];
    float *logits[2] = {malloc((size_t)(count * vocab) * sizeof(float)),
                        malloc((size_t)(count * vocab) * sizeof(float))};
    uint64_t *chosen[2] = {calloc((size_t)(count * layers), sizeof(uint64_t)),
                           calloc((size_t)(count * layers), sizeof(uint64_t))};
    REQUIRE(logits[0] && logits[1] && chosen[0] && chosen[1], "memory");
    read_tokens(src, random, ids, count);
    for (int kind = -1; kind < 3; kind++) {
        ccq_transform *t = transform(src, kind < 0 ? 0 : all_kinds[kind], 1);
        plain_model m;
        plain_open(&m, t, src, pool);
        plain_run(&m, ids, count, logits[kind >= 0], chosen[kind >= 0]);
        if (kind >= 0) {
            double far = compare(logits[0], logits[1], vocab, count);
            printf("%s: transform %u: %.2g max |dlogit|/rms\n", src->dir, all_kinds[kind], far);
            CHECK(far <= 1e-4, "%s: transform %u: %g", src->dir, all_kinds[kind], far);
            CHECK(!memcmp(chosen[0], chosen[1], (size_t)(count * layers) * sizeof **chosen),
                  "%s: transform %u: other experts", src->dir, all_kinds[kind]);
            CHECK(far > 0, "%s: transform %u changed nothing", src->dir, all_kinds[kind]);
        }
        plain_close(&m);
        read_run(t, src, pool, ids, count, logits[1]);
        double far = compare(logits[0], logits[1], vocab, count);
        CHECK(far <= 1e-4, "%s: read under transform %d: %g", src->dir, kind, far);
        ccq_transform_close(t);
    }
    for (int i = 0; i < 2; i++) {
        free(logits[i]);
        free(chosen[i]);
    }
}

static void check_model(const char *dir, uint64_t *random)
{
    ccq_source *src;
    ccq_error err;
    ccq_pool *pool = ccq_pool_new(3);
    REQUIRE(pool && ccq_source_open(&src, dir, NULL, &err) == CCQ_OK, "%s", err.text);
    for (int i = 0; i < 3; i++)
        check_bits(src, all_kinds[i], pool);
    int folds = 0, sorts = 0;
    for (size_t i = 0; i < src->count; i++) {
        const ccq_entry *e = &src->entry[i];
        int in = e->role == CCQ_ROLE_QKV || e->role == CCQ_ROLE_UP_GATE ||
                 e->role == CCQ_ROLE_ROUTER;
        if (in && !e->bias && src->arch.hidden <= 640 && folds++ % 5 == 0)
            check_fold(src, e, pool, random);
        if (e->role == CCQ_ROLE_DOWN && !e->bias && sorts++ % 3 == 0)
            check_permuted(src, e, sorts % 2 + 1, pool, random);
    }
    check_logits(src, pool, random);
    ccq_source_close(src);
    ccq_pool_free(pool);
}

/* Mixing weights that have scales is not possible. */
static void check_refused(const char *dir)
{
    ccq_source *src;
    ccq_transform *t;
    ccq_error err;
    REQUIRE(ccq_source_open(&src, dir, NULL, &err) == CCQ_OK, "%s", err.text);
    for (int i = 0; i < 3; i++)
        CHECK(ccq_transform_open(&t, src, all_kinds[i], 1, 1, &err) == CCQ_UNSUPPORTED && !t, "%s",
              dir);
    ccq_source_close(src);
}

int main(int argc, char **argv)
{
    static const char *const models[] = {"models/ernie-micro", "models/ernie-micro/pt",
                                         "models/ernie-mini"};
    uint64_t random = check_seed(11);
    for (int i = 1; i < argc; i++)
        check_model(argv[i], &random);
    if (argc > 1)
        return check_done();
    check_sizes();
    check_model(check_data("ernie-micro"), &random);
    for (size_t i = 0; i < sizeof models / sizeof *models && !check_failures; i++)
        check_model(check_shared(models[i]), &random);
    check_refused(check_shared("models/ernie-micro/wint2"));
    return check_done();
}
