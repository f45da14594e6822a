/* Statistics of logits: worked examples, identity, NaN, and gates. The whole set of
 * formulas is held against an independent program by test_run_cli.py. */
#include "tests/check.h"

#include "libccq/compare.h"

#include <fcntl.h>
#include <math.h>

enum { VOCAB = 7, VALID = 5, ROWS = 300 };

static double value(const ccq_stats *s, const char *name)
{
    ccq_figure f = ccq_figure_find(name);

    REQUIRE(f < CCQ_FIGURE_COUNT, "no figure %s", name);
    CHECK(s->has[f], "%s is missing", name);
    return s->value[f];
}

static int near(double a, double b)
{
    return fabs(a - b) <= 1e-9 * (1 + fabs(b));
}

static void run(ccq_pool *pool, const float *ours, const float *base, size_t rows,
                const int32_t *target, ccq_stats *s)
{
    ccq_compare *c;
    ccq_error err;

    REQUIRE(!ccq_compare_open(&c, pool, rows, VALID, base != NULL, &err), "%s", err.text);
    for (size_t at = 0; at < rows; at += 100) { /* in blocks */
        size_t n = rows - at < 100 ? rows - at : 100;
        ccq_compare_rows(c, at, n, ours + at * VOCAB, base ? base + at * VOCAB : NULL, VOCAB,
                         target + at);
    }
    REQUIRE(!ccq_compare_stats(c, s, &err), "%s", err.text);
    ccq_compare_close(c);
}

/* Two rows: p = (1/2, 1/4, 1/8, 1/16, 1/16) against the uniform q, and the reverse. Ids
 * past the valid vocabulary hold what must not count. */
static void check_hand(ccq_pool *pool)
{
    const float ln2 = 0.693147180559945f;
    const float peaked[VOCAB] = {0, -ln2, -2 * ln2, -3 * ln2, -3 * ln2, 99, NAN};
    const float flat[VOCAB] = {3, 3, 3, 3, 3, -99, 55};
    float ours[2 * VOCAB], base[2 * VOCAB];
    const int32_t target[2] = {1, -1};
    double kl = -1.875 * log(2) + log(5); /* of p to q */
    double lk = -log(5) + 2.8 * log(2);   /* of q to p */
    ccq_stats s;

    memcpy(base, peaked, sizeof peaked);
    memcpy(ours, flat, sizeof flat);
    memcpy(base + VOCAB, flat, sizeof flat);
    memcpy(ours + VOCAB, peaked, sizeof peaked);
    run(pool, ours, base, 2, target, &s);
    CHECK(value(&s, "rows") == 2 && value(&s, "target_rows") == 1, "rows");
    CHECK(fabs(value(&s, "mean_kld") - (kl + lk) / 2) < 1e-6, "mean %.9f", value(&s, "mean_kld"));
    CHECK(fabs(value(&s, "max_kld") - fmax(kl, lk)) < 1e-6, "max %.9f", value(&s, "max_kld"));
    CHECK(fabs(value(&s, "kld_p50") - (kl + lk) / 2) < 1e-6, "median between two");
    CHECK(fabs(value(&s, "ppl") - 5) < 1e-6, "ppl %.9f", value(&s, "ppl"));
    CHECK(fabs(value(&s, "ppl_base") - 4) < 1e-6, "base ppl %.9f", value(&s, "ppl_base"));
    CHECK(fabs(value(&s, "mean_dp") + 0.05) < 1e-6, "dp %.9f", value(&s, "mean_dp"));
    CHECK(value(&s, "same_top") == 1, "ties go to the lowest id, 0 on both sides");
    CHECK(fabs(value(&s, "max_dlogit") - 1.8 * (double)ln2) < 1e-6, "dlogit %.9f",
          value(&s, "max_dlogit"));
}

static void fill(float *x, size_t count, uint64_t *state)
{
    for (size_t i = 0; i < count; i++)
        x[i] = (float)(8 * check_uniform(state) - 4);
}

/* The same logits twice: not nearly zero but zero. */
static void check_identity(ccq_pool *pool, uint64_t *state)
{
    static const char *const zeros[] = {"mean_kld",
                                        "max_kld",
                                        "min_kld",
                                        "kld_cut16",
                                        "max_dp",
                                        "rms_dp",
                                        "ln_ppl_ratio",
                                        "ppl_diff",
                                        "ln_ppl_ratio_se",
                                        "max_dlogit",
                                        "max_dlogit_over_rms"};
    static float x[ROWS * VOCAB];
    static int32_t target[ROWS];
    ccq_stats s, one;
    ccq_pool *alone = ccq_pool_new(1);

    fill(x, ROWS * VOCAB, state);
    run(pool, x, x, ROWS, target, &s);
    for (size_t i = 0; i < sizeof zeros / sizeof *zeros; i++)
        CHECK(value(&s, zeros[i]) == 0, "%s is %g", zeros[i], value(&s, zeros[i]));
    CHECK(value(&s, "same_top") == 1, "top");
    CHECK(near(value(&s, "min_cosine"), 1), "cosine %.17g", value(&s, "min_cosine"));
    CHECK(!s.has[ccq_figure_find("router_agreement")], "no routes were compared");
    run(alone, x, x, ROWS, target, &one);
    CHECK(!memcmp(&s, &one, sizeof s), "the digits depend on the threads");
    ccq_pool_free(alone);
}

/* A NaN in one row may not hide: every gate on it fails. */
static void check_nan(ccq_pool *pool, uint64_t *state)
{
    static const char *const names[] = {"mean_kld",   "max_kld", "max_dlogit_over_rms",
                                        "min_cosine", "mean_dp", "ppl"};
    static float x[ROWS * VOCAB], y[ROWS * VOCAB];
    static int32_t target[ROWS];
    ccq_stats s;

    fill(x, ROWS * VOCAB, state);
    memcpy(y, x, sizeof x);
    y[ROWS / 2 * VOCAB + 1] = NAN;
    run(pool, y, x, ROWS, target, &s);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        ccq_gate gates[2] = {{ccq_figure_find(names[i]), 0, 1e300, 0, 0},
                             {ccq_figure_find(names[i]), 1, -1e300, 0, 0}};
        size_t missed;
        ccq_error err;
        CHECK(!ccq_gates_check(gates, 2, &s, &missed, &err) && missed == 2, "%s passed as %g",
              names[i], value(&s, names[i]));
    }
}

/* One value has no spread: no error figure, and a gate on one is refused. Everything
 * that there is, is a number. */
static void check_one_row(ccq_pool *pool, uint64_t *state)
{
    float x[VOCAB], y[VOCAB];
    const int32_t target = 1;
    ccq_gate gate = {CCQ_FIG_mean_kld_se, 0, 1e300, 0, 0};
    size_t missed;
    ccq_stats s;
    ccq_error err;

    fill(x, VOCAB, state);
    fill(y, VOCAB, state);
    for (int base = 0; base < 2; base++) {
        run(pool, y, base ? x : NULL, 1, &target, &s);
        CHECK(s.has[CCQ_FIG_ppl] && s.has[CCQ_FIG_mean_kld] == base, "means are missing");
        for (int i = 0; i < CCQ_FIGURE_COUNT; i++) {
            const char *name = ccq_figure_name((ccq_figure)i);
            size_t n = strlen(name);
            CHECK(!s.has[i] || isfinite(s.value[i]), "%s is %g", name, s.value[i]);
            CHECK(!s.has[i] || n < 3 || strcmp(name + n - 3, "_se"), "%s of one row", name);
        }
    }
    CHECK(!s.has[CCQ_FIG_cor_ln_ppl], "a correlation of one row");
    CHECK(ccq_gates_check(&gate, 1, &s, &missed, &err) == CCQ_USAGE, "a gate on no figure");
}

static void check_agreement(ccq_pool *pool)
{
    const int32_t ours[] = {1, 2, 3, 4, 5, 6}, base[] = {2, 1, 3, 5, 6, 5};
    const float margin[] = {1, 1e-5f, 1e-4f}, gap[] = {1, 1, 1e-4f, 1};
    const int32_t mine[] = {7, 8, 9, 1}, theirs[] = {7, 8, 1, 1};
    const float nan = NAN, nans[] = {NAN, NAN, NAN};
    ccq_compare *c;
    ccq_stats s;
    ccq_error err;

    REQUIRE(!ccq_compare_open(&c, pool, 0, VALID, 1, &err), "%s", err.text);
    ccq_compare_router(c, ours, base, margin, 3, 2);
    CHECK(ccq_compare_greedy(c, mine, theirs, gap, 4) == 2, "prefix");
    CHECK(ccq_compare_greedy(c, mine, mine, gap, 4) == 4, "no difference");
    REQUIRE(!ccq_compare_stats(c, &s, &err), "%s", err.text);
    CHECK(near(value(&s, "router_agreement"), 2. / 3), "sets, not lists");
    CHECK(value(&s, "router_agreement_clear") == 1, "the unclear one is left out");
    CHECK(near(value(&s, "greedy_agreement"), 6. / 7), "six of seven compared");
    CHECK(value(&s, "greedy_agreement_clear") == 1, "a small gap ends without counting");
    ccq_compare_router(c, ours + 4, base + 3, &nan, 1, 2); /* {5, 6} and {5, 6} */
    ccq_compare_router(c, ours, base + 2, &nan, 1, 2);     /* {1, 2} and {3, 5} */
    ccq_compare_greedy(c, mine, theirs + 1, nans, 3);
    REQUIRE(!ccq_compare_stats(c, &s, &err), "%s", err.text);
    CHECK(value(&s, "router_agreement_clear") == 3. / 4, "a margin of NaN counts");
    CHECK(near(value(&s, "greedy_agreement_clear"), 6. / 7), "a gap of NaN counts");
    ccq_compare_close(c);
}

static ccq_code load(const char *text, ccq_gate **gates, size_t *count)
{
    char path[] = "/tmp/ccq-gates-XXXXXX";
    int fd = mkstemp(path);
    ccq_error err;

    REQUIRE(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text), "%s", path);
    close(fd);
    ccq_code code = ccq_gates_load(gates, count, path, &err);
    unlink(path);
    return code;
}

static void check_gates(void)
{
    static const struct {
        const char *text;
        ccq_code code;
    } bad[] = {
        {"{\"max\": {\"no_such\": 1}}", CCQ_USAGE},
        {"{\"max\": {\"mean_kld\": \"1\"}}", CCQ_JSON},
        {"{\"max\": {\"mean_kld\": 1e999}}", CCQ_JSON},
        {"{\"most\": {\"mean_kld\": 1}}", CCQ_JSON},
        {"{\"max\": 3}", CCQ_JSON},
        {"[]", CCQ_JSON},
        {"{\"max\": {\"mean_kld\": 1}", CCQ_JSON},
        {"{\"max\": {}} {}", CCQ_JSON},
        {"{\"max\": {\"mean_kld\": 1, \"mean_kld\": 2}}", CCQ_JSON},
        {"{\"max\": {\"mean_kld\": 1}, \"max\": {\"max_kld\": 2}}", CCQ_JSON},
        {"", CCQ_JSON},
    };
    ccq_gate *gates;
    size_t count, missed;
    ccq_stats s;
    ccq_error err;

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK(load(bad[i].text, &gates, &count) == bad[i].code && !gates, "%s", bad[i].text);
    REQUIRE(!load("{\"max\":{\"mean_kld\":0.5},\"min\":{\"same_top\":0.9}}", &gates, &count),
            "good");
    REQUIRE(count == 2, "%zu gates", count);
    free(gates);
    REQUIRE(!load("{\"max\":{\"rows\":9},\"min\":{\"rows\":5}}", &gates, &count), "a range");
    free(gates);
    REQUIRE(!load("{\"max\":{\"mean_kld\":0.5},\"min\":{\"same_top\":0.9}}", &gates, &count),
            "good");
    memset(&s, 0, sizeof s);
    s.value[CCQ_FIG_mean_kld] = 0.5;
    s.has[CCQ_FIG_mean_kld] = 1;
    CHECK(ccq_gates_check(gates, count, &s, &missed, &err) == CCQ_USAGE, "a figure is missing");
    s.value[CCQ_FIG_same_top] = 0.89;
    s.has[CCQ_FIG_same_top] = 1;
    CHECK(!ccq_gates_check(gates, count, &s, &missed, &err) && missed == 1, "one missed");
    CHECK(gates[0].ok && !gates[1].ok, "which");
    free(gates);
}

int main(void)
{
    uint64_t state = check_seed(3);
    ccq_pool *pool = ccq_pool_new(3);

    REQUIRE(pool, "no threads");
    check_hand(pool);
    check_identity(pool, &state);
    check_nan(pool, &state);
    check_one_row(pool, &state);
    check_agreement(pool);
    check_gates();
    ccq_pool_free(pool);
    return check_done();
}
