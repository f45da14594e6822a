/* Figures of all rows: means, standard errors, percentiles. Sums run over rows in
 * order, so that the same rows give the same digits on any number of threads. */
#include "libccq/compare_internal.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

const char *ccq_figure_name(ccq_figure figure)
{
    static const char *const names[] = {
#define FIGURE_NAME(name) #name,
        CCQ_FIGURES(FIGURE_NAME)
#undef FIGURE_NAME
    };
    return figure < CCQ_FIGURE_COUNT ? names[figure] : "?";
}

ccq_figure ccq_figure_find(const char *name)
{
    int i = 0;

    while (i < CCQ_FIGURE_COUNT && strcmp(ccq_figure_name((ccq_figure)i), name))
        i++;
    return (ccq_figure)i;
}

static void set(ccq_stats *s, ccq_figure figure, double value)
{
    s->value[figure] = value;
    s->has[figure] = 1;
}

/* ---- Sums -------------------------------------------------------------------- */

typedef struct series {
    double *x;
    size_t n;
} series;

/* One column of the row figures; targets: only rows that have one. */
static void collect(const ccq_compare *c, size_t offset, int targets, series *s)
{
    s->n = 0;
    for (size_t i = 0; i < c->rows; i++)
        if (c->row[i].given && (!targets || c->row[i].has_target))
            memcpy(&s->x[s->n++], (const char *)&c->row[i] + offset, sizeof(double));
}

static double mean(const series *s)
{
    double sum = 0;

    for (size_t i = 0; i < s->n; i++)
        sum += s->x[i];
    return sum / (double)s->n;
}

static double mean_product(const series *a, const series *b)
{
    double sum = 0;

    for (size_t i = 0; i < a->n; i++)
        sum += a->x[i] * b->x[i];
    return sum / (double)a->n;
}

static double not_negative(double x)
{
    return x < 0 ? 0 : x; /* NaN stays */
}

static double standard_error(const series *s)
{
    double m = mean(s);

    return sqrt(not_negative(mean_product(s, s) - m * m) / (double)(s->n - 1));
}

/* An error figure: one value has no spread, so it gives none. */
static void set_error(ccq_stats *s, ccq_figure figure, double value, size_t n)
{
    if (n > 1)
        set(s, figure, value);
}

/* Ascending, NaN last. */
static int by_value(const void *pa, const void *pb)
{
    double a = *(const double *)pa, b = *(const double *)pb;

    if (isnan(a) || isnan(b))
        return isnan(a) - isnan(b);
    return (a > b) - (a < b);
}

static double percentile(const series *sorted, double f)
{
    double at = f * (double)(sorted->n - 1), low = floor(at);
    size_t i = (size_t)low;

    if (i + 1 >= sorted->n)
        return sorted->x[sorted->n - 1];
    return sorted->x[i] + (at - low) * (sorted->x[i + 1] - sorted->x[i]);
}

/* ---- Blocks -------------------------------------------------------------------- */

static void perplexity(const ccq_compare *c, series *q, series *b, ccq_stats *s)
{
    double m, mb, se, seb, cov, ppl, pplb, error;

    collect(c, offsetof(ccq_row_figures, nll), 1, q);
    set(s, CCQ_FIG_target_rows, (double)q->n);
    if (!q->n)
        return;
    m = mean(q);
    se = standard_error(q);
    ppl = exp(m);
    set(s, CCQ_FIG_nll, m);
    set_error(s, CCQ_FIG_nll_se, se, q->n);
    set(s, CCQ_FIG_ppl, ppl);
    set_error(s, CCQ_FIG_ppl_se, ppl * se, q->n);
    if (!c->base)
        return;
    collect(c, offsetof(ccq_row_figures, nll_base), 1, b);
    mb = mean(b);
    seb = standard_error(b);
    pplb = exp(mb);
    cov = (mean_product(q, b) - m * mb) / (double)(q->n - 1);
    error = sqrt(not_negative(se * se + seb * seb - 2 * cov));
    set(s, CCQ_FIG_nll_base, mb);
    set(s, CCQ_FIG_ppl_base, pplb);
    set_error(s, CCQ_FIG_ppl_base_se, pplb * seb, q->n);
    if (se > 0 && seb > 0)
        set(s, CCQ_FIG_cor_ln_ppl, cov / (se * seb));
    set(s, CCQ_FIG_ln_ppl_ratio, m - mb);
    set_error(s, CCQ_FIG_ln_ppl_ratio_se, error, q->n);
    set(s, CCQ_FIG_ppl_ratio, exp(m - mb));
    set_error(s, CCQ_FIG_ppl_ratio_se, exp(m - mb) * error, q->n);
    set(s, CCQ_FIG_ppl_diff, ppl - pplb);
    error = not_negative(ppl * se * ppl * se + pplb * seb * pplb * seb - 2 * ppl * pplb * cov);
    set_error(s, CCQ_FIG_ppl_diff_se, sqrt(error), q->n);
}

typedef struct point {
    ccq_figure figure;
    double f;
} point;

static void percentiles(series *x, const point *p, size_t count, ccq_stats *s)
{
    qsort(x->x, x->n, sizeof *x->x, by_value);
    for (size_t i = 0; i < count; i++)
        set(s, p[i].figure, percentile(x, p[i].f));
}

static void divergence(const ccq_compare *c, series *x, ccq_stats *s)
{
    static const point points[] = {
        {CCQ_FIG_min_kld, 0},      {CCQ_FIG_kld_p001, 0.001}, {CCQ_FIG_kld_p01, 0.01},
        {CCQ_FIG_kld_p05, 0.05},   {CCQ_FIG_kld_p10, 0.1},    {CCQ_FIG_kld_p50, 0.5},
        {CCQ_FIG_kld_p90, 0.9},    {CCQ_FIG_kld_p95, 0.95},   {CCQ_FIG_kld_p99, 0.99},
        {CCQ_FIG_kld_p999, 0.999}, {CCQ_FIG_max_kld, 1},
    };
    collect(c, offsetof(ccq_row_figures, kld_cut16), 0, x);
    set(s, CCQ_FIG_kld_cut16, mean(x));
    collect(c, offsetof(ccq_row_figures, kld), 0, x);
    set(s, CCQ_FIG_mean_kld, mean(x));
    set_error(s, CCQ_FIG_mean_kld_se, standard_error(x), x->n);
    percentiles(x, points, sizeof points / sizeof *points, s);
}

static void probability(const ccq_compare *c, series *x, ccq_stats *s)
{
    static const point points[] = {
        {CCQ_FIG_min_dp, 0},    {CCQ_FIG_dp_p001, 0.001}, {CCQ_FIG_dp_p01, 0.01},
        {CCQ_FIG_dp_p05, 0.05}, {CCQ_FIG_dp_p10, 0.1},    {CCQ_FIG_dp_p25, 0.25},
        {CCQ_FIG_dp_p50, 0.5},  {CCQ_FIG_dp_p75, 0.75},   {CCQ_FIG_dp_p90, 0.9},
        {CCQ_FIG_dp_p95, 0.95}, {CCQ_FIG_dp_p99, 0.99},   {CCQ_FIG_dp_p999, 0.999},
        {CCQ_FIG_max_dp, 1},
    };
    double rms;

    collect(c, offsetof(ccq_row_figures, dp), 1, x);
    if (!x->n)
        return;
    set(s, CCQ_FIG_mean_dp, mean(x));
    set_error(s, CCQ_FIG_mean_dp_se, standard_error(x), x->n);
    percentiles(x, points, sizeof points / sizeof *points, s);
    collect(c, offsetof(ccq_row_figures, dp), 1, x);
    for (size_t i = 0; i < x->n; i++)
        x->x[i] *= x->x[i];
    rms = sqrt(mean(x));
    set(s, CCQ_FIG_rms_dp, rms);
    set_error(s, CCQ_FIG_rms_dp_se, rms > 0 ? standard_error(x) / (2 * rms) : 0, x->n);
}

static void share(ccq_stats *s, ccq_figure figure, uint64_t equal, uint64_t all)
{
    if (all)
        set(s, figure, (double)equal / (double)all);
}

static void share_se(ccq_stats *s, ccq_figure figure, ccq_figure of, uint64_t all)
{
    double q = s->value[of];

    if (all > 1)
        set(s, figure, sqrt(q * (1 - q) / (double)(all - 1)));
}

/* In a row of zeros no difference is none, and any is without bound. */
static double relative(double difference, double rms)
{
    return difference == 0 ? 0 : difference / rms;
}

static void distances(const ccq_compare *c, ccq_stats *s)
{
    double max = 0, max_over = 0, sum = 0, sum_over = 0, cosine = 0, min = INFINITY;
    uint64_t n = 0, same = 0;

    for (size_t i = 0; i < c->rows; i++) {
        const ccq_row_figures *f = &c->row[i];
        double over, mean_over;
        if (!f->given)
            continue;
        n++;
        same += f->same_top;
        over = relative(f->max_dlogit, f->rms);
        mean_over = relative(f->mean_dlogit, f->rms);
        max = f->max_dlogit > max ? f->max_dlogit : max;
        max_over = over > max_over ? over : max_over;
        min = f->cosine < min ? f->cosine : min;
        sum += f->mean_dlogit;
        sum_over += mean_over;
        cosine += f->cosine;
    }
    if (isnan(sum_over)) /* comparisons pass NaN by */
        max = max_over = sum_over;
    if (isnan(cosine))
        min = cosine;
    share(s, CCQ_FIG_same_top, same, n);
    share_se(s, CCQ_FIG_same_top_se, CCQ_FIG_same_top, n);
    set(s, CCQ_FIG_max_dlogit, max);
    set(s, CCQ_FIG_mean_dlogit, sum / (double)n);
    set(s, CCQ_FIG_max_dlogit_over_rms, max_over);
    set(s, CCQ_FIG_mean_dlogit_over_rms, sum_over / (double)n);
    set(s, CCQ_FIG_min_cosine, min);
    set(s, CCQ_FIG_mean_cosine, cosine / (double)n);
}

static void agreements(const ccq_compare *c, ccq_stats *s)
{
    share(s, CCQ_FIG_router_agreement, c->routes_equal, c->routes);
    share_se(s, CCQ_FIG_router_agreement_se, CCQ_FIG_router_agreement, c->routes);
    share(s, CCQ_FIG_router_agreement_clear, c->routes_clear_equal, c->routes_clear);
    share(s, CCQ_FIG_greedy_agreement, c->greedy_equal, c->greedy);
    share(s, CCQ_FIG_greedy_agreement_clear, c->greedy_clear_equal, c->greedy_clear);
}

ccq_code ccq_compare_stats(const ccq_compare *c, ccq_stats *stats, ccq_error *err)
{
    series a = {calloc(c->rows + 1, sizeof *a.x), 0}, b = {calloc(c->rows + 1, sizeof *b.x), 0};
    ccq_code code = CCQ_OK;

    memset(stats, 0, sizeof *stats);
    if (a.x && b.x) {
        collect(c, offsetof(ccq_row_figures, kld), 0, &a);
        set(stats, CCQ_FIG_rows, (double)a.n);
        if (a.n) {
            perplexity(c, &a, &b, stats);
            if (c->base) {
                divergence(c, &a, stats);
                probability(c, &a, stats);
                distances(c, stats);
            }
        }
        agreements(c, stats);
    } else {
        code = ccq_fail(err, CCQ_NO_MEMORY, "statistics of %zu rows: out of memory", c->rows);
    }
    free(a.x);
    free(b.x);
    return code;
}
