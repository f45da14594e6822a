/* The statistics as text. Labels, order and digits are llama-perplexity's, so
 * that scripts which read its output read this one. */
#include "tools/run.h"

#include <inttypes.h>
#include <string.h>

enum { FEW_ROWS = 100 };

static double value(const run *r, ccq_figure f)
{
    return r->stats.value[f];
}

static int has(const run *r, ccq_figure f)
{
    return r->stats.has[f];
}

static void pair(const run *r, const char *label, ccq_figure f, ccq_figure se)
{
    if (has(r, f) && has(r, se))
        printf("%s: %10.6f ± %10.6f\n", label, value(r, f), value(r, se));
    else if (has(r, f))
        printf("%s: %10.6f\n", label, value(r, f));
}

typedef struct line {
    const char *label;
    ccq_figure figure;
} line;

static void perplexity(const run *r)
{
    printf("====== Perplexity statistics ======\n");
    pair(r, "Mean PPL(Q)                   ", CCQ_FIG_ppl, CCQ_FIG_ppl_se);
    pair(r, "Mean PPL(base)                ", CCQ_FIG_ppl_base, CCQ_FIG_ppl_base_se);
    if (has(r, CCQ_FIG_cor_ln_ppl))
        printf("Cor(ln(PPL(Q)), ln(PPL(base))): %6.2f%%\n", 100 * value(r, CCQ_FIG_cor_ln_ppl));
    pair(r, "Mean ln(PPL(Q)/PPL(base))     ", CCQ_FIG_ln_ppl_ratio, CCQ_FIG_ln_ppl_ratio_se);
    pair(r, "Mean PPL(Q)/PPL(base)         ", CCQ_FIG_ppl_ratio, CCQ_FIG_ppl_ratio_se);
    pair(r, "Mean PPL(Q)-PPL(base)         ", CCQ_FIG_ppl_diff, CCQ_FIG_ppl_diff_se);
    printf("\n");
}

static void divergence(const run *r)
{
    static const line lines[] = {
        {"Maximum", CCQ_FIG_max_kld},  {"99.9%  ", CCQ_FIG_kld_p999}, {"99.0%  ", CCQ_FIG_kld_p99},
        {"95.0%  ", CCQ_FIG_kld_p95},  {"90.0%  ", CCQ_FIG_kld_p90},  {"Median ", CCQ_FIG_kld_p50},
        {"10.0%  ", CCQ_FIG_kld_p10},  {" 5.0%  ", CCQ_FIG_kld_p05},  {" 1.0%  ", CCQ_FIG_kld_p01},
        {" 0.1%  ", CCQ_FIG_kld_p001}, {"Minimum", CCQ_FIG_min_kld},
    };
    if (!has(r, CCQ_FIG_mean_kld))
        return;
    printf("====== KL divergence statistics ======\n");
    pair(r, "Mean    KLD", CCQ_FIG_mean_kld, CCQ_FIG_mean_kld_se);
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        printf("%s KLD: %10.6f\n", lines[i].label, value(r, lines[i].figure));
    printf("\n");
}

static void percent(const run *r, const char *label, ccq_figure f, ccq_figure se)
{
    if (has(r, se))
        printf("%s: %6.3f ± %5.3f %%\n", label, 100 * value(r, f), 100 * value(r, se));
    else
        printf("%s: %6.3f %%\n", label, 100 * value(r, f));
}

static void probability(const run *r)
{
    static const line lines[] = {
        {"Maximum", CCQ_FIG_max_dp}, {"99.9%  ", CCQ_FIG_dp_p999}, {"99.0%  ", CCQ_FIG_dp_p99},
        {"95.0%  ", CCQ_FIG_dp_p95}, {"90.0%  ", CCQ_FIG_dp_p90},  {"75.0%  ", CCQ_FIG_dp_p75},
        {"Median ", CCQ_FIG_dp_p50}, {"25.0%  ", CCQ_FIG_dp_p25},  {"10.0%  ", CCQ_FIG_dp_p10},
        {" 5.0%  ", CCQ_FIG_dp_p05}, {" 1.0%  ", CCQ_FIG_dp_p01},  {" 0.1%  ", CCQ_FIG_dp_p001},
        {"Minimum", CCQ_FIG_min_dp},
    };
    if (!has(r, CCQ_FIG_same_top))
        return;
    printf("====== Token probability statistics ======\n");
    if (has(r, CCQ_FIG_mean_dp)) {
        percent(r, "Mean    Δp", CCQ_FIG_mean_dp, CCQ_FIG_mean_dp_se);
        for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
            printf("%s Δp: %6.3f%%\n", lines[i].label, 100 * value(r, lines[i].figure));
        percent(r, "RMS Δp    ", CCQ_FIG_rms_dp, CCQ_FIG_rms_dp_se);
    }
    percent(r, "Same top p", CCQ_FIG_same_top, CCQ_FIG_same_top_se);
    printf("\n");
}

static const char *among(int found)
{
    return found < 0 ? "unknown" : found ? "yes" : "no";
}

static void greedy(const run *r)
{
    for (size_t i = 0; r->greedy && i < r->ref->prompts; i++) {
        const run_greedy *g = &r->greedy[i];
        if (g->same == g->length)
            continue;
        printf("Greedy prompt %zu         : %zu of %zu tokens, then %d instead of %d (gap %.3g); "
               "theirs in our 5 best: %s, ours in theirs: %s\n",
               i, g->same, g->length, (int)g->ours, (int)g->theirs, (double)g->gap,
               among(g->theirs_in_ours), among(g->ours_in_theirs));
    }
}

/* What was asked for that changes what the figures mean. */
static void settings(const run *r)
{
    const run_options *o = r->o;
    char shown[200];

    if (o->rounding != CCQ_ROUND_FUSED)
        printf("Wint2 rounding           : %s, not the weights that are served\n",
               o->rounding == CCQ_ROUND_NONE ? "none" : "unzip");
    if (o->blas)
        printf("Products                 : OpenBLAS, last bits depend on threads and batch\n");
    if (o->fp32_logits && o->numerics == CCQ_FASTDEPLOY)
        printf("Logits                   : not rounded to bf16\n");
    for (size_t i = 0; i < o->set.count; i++)
        printf("Set                      : %s\n",
               ccq_escape(shown, sizeof shown, o->set.at[i], strlen(o->set.at[i])));
}

static void rest(const run *r)
{
    static const line lines[] = {
        {"Maximum |dlogit|         ", CCQ_FIG_max_dlogit},
        {"Mean |dlogit|            ", CCQ_FIG_mean_dlogit},
        {"Maximum |dlogit|/rms     ", CCQ_FIG_max_dlogit_over_rms},
        {"Mean |dlogit|/rms        ", CCQ_FIG_mean_dlogit_over_rms},
        {"1 - minimum cosine       ", CCQ_FIG_min_cosine},
        {"1 - mean cosine          ", CCQ_FIG_mean_cosine},
        {"Mean KLD, ln p > -16 only", CCQ_FIG_kld_cut16},
        {"Router agreement         ", CCQ_FIG_router_agreement},
        {"  where margin >= 1e-4   ", CCQ_FIG_router_agreement_clear},
        {"Greedy agreement         ", CCQ_FIG_greedy_agreement},
        {"  where gap >= 1e-3      ", CCQ_FIG_greedy_agreement_clear},
    };
    printf("====== ccq statistics ======\n");
    printf("Rows                     : %.0f\n", value(r, CCQ_FIG_rows));
    printf("Rows with a next token   : %.0f\n", value(r, CCQ_FIG_target_rows));
    printf("Valid vocabulary         : %" PRId64 "\n", r->valid_compare);
    settings(r);
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        ccq_figure f = lines[i].figure;
        double v = value(r, f);
        if (!has(r, f))
            continue;
        if (f == CCQ_FIG_min_cosine || f == CCQ_FIG_mean_cosine)
            printf("%s: %.3e\n", lines[i].label, 1 - v);
        else if (f >= CCQ_FIG_router_agreement)
            printf("%s: %.4f %%\n", lines[i].label, 100 * v);
        else
            printf("%s: %.6g\n", lines[i].label, v);
    }
    greedy(r);
    printf("\n");
}

void run_print_statistics(const run *r)
{
    perplexity(r);
    divergence(r);
    probability(r);
    rest(r);
    if (value(r, CCQ_FIG_rows) < FEW_ROWS)
        cli_note(r->cli, "warning: %.0f rows are few; these figures are noisy",
                 value(r, CCQ_FIG_rows));
}
