/* Statistics of our logits against a base, and thresholds on them. Names and units:
 * docs/ccq-run.1; labels of llama-perplexity are the tool's. */
#ifndef CCQ_LIBCCQ_COMPARE_H
#define CCQ_LIBCCQ_COMPARE_H

#include "formats/types.h"
#include "libccq/pool.h"

/* Every figure by its name in JSON and in gate files. A share is 0..1, delta-p a
 * difference of probabilities, a logit a logit; _se is one standard error. */
#define CCQ_FIGURES(X)                                                                             \
    X(rows)                                                                                        \
    X(target_rows) X(nll) X(nll_se) X(ppl) X(ppl_se) X(nll_base) X(ppl_base) X(ppl_base_se)        \
        X(cor_ln_ppl) X(ln_ppl_ratio) X(ln_ppl_ratio_se) X(ppl_ratio) X(ppl_ratio_se) X(ppl_diff)  \
            X(ppl_diff_se) X(mean_kld) X(mean_kld_se) X(max_kld) X(kld_p999) X(kld_p99) X(kld_p95) \
                X(kld_p90) X(kld_p50) X(kld_p10) X(kld_p05) X(kld_p01) X(kld_p001) X(min_kld)      \
                    X(kld_cut16) X(mean_dp) X(mean_dp_se) X(max_dp) X(dp_p999) X(dp_p99) X(dp_p95) \
                        X(dp_p90) X(dp_p75) X(dp_p50) X(dp_p25) X(dp_p10) X(dp_p05) X(dp_p01)      \
                            X(dp_p001) X(min_dp) X(rms_dp) X(rms_dp_se) X(same_top) X(same_top_se) \
                                X(max_dlogit) X(mean_dlogit) X(max_dlogit_over_rms)                \
                                    X(mean_dlogit_over_rms) X(min_cosine) X(mean_cosine)           \
                                        X(router_agreement) X(router_agreement_se)                 \
                                            X(router_agreement_clear) X(greedy_agreement)          \
                                                X(greedy_agreement_clear)

typedef enum ccq_figure {
#define CCQ_FIGURE_ENUM(name) CCQ_FIG_##name,
    CCQ_FIGURES(CCQ_FIGURE_ENUM)
#undef CCQ_FIGURE_ENUM
        CCQ_FIGURE_COUNT
} ccq_figure;

const char *ccq_figure_name(ccq_figure figure);
/* CCQ_FIGURE_COUNT when unknown. */
ccq_figure ccq_figure_find(const char *name);

typedef struct ccq_stats {
    double value[CCQ_FIGURE_COUNT]; /* may be infinite or NaN: then it fails every gate */
    uint8_t has[CCQ_FIGURE_COUNT];  /* the run produced it; no _se of one row */
} ccq_stats;

typedef struct ccq_compare ccq_compare;

/* rows: how many will be given. valid: ids that count. base: 0 = only ours
 * (perplexity alone). */
ccq_code ccq_compare_open(ccq_compare **c, ccq_pool *pool, size_t rows, int64_t valid, int base,
                          ccq_error *err);
void ccq_compare_close(ccq_compare *c); /* NULL is fine */
/* Rows first.. of logits with stride ld; target: the next token or -1. */
void ccq_compare_rows(ccq_compare *c, size_t first, size_t rows, const float *ours,
                      const float *base, int64_t ld, const int32_t *target);
/* count sets of k experts, any order; margin of the base's choice. */
void ccq_compare_router(ccq_compare *c, const int32_t *ours, const int32_t *base,
                        const float *margin, size_t count, int64_t k);
/* Continuations of one prompt; gap: top 1 minus top 2 of the base. Returns the
 * first difference, or count. */
size_t ccq_compare_greedy(ccq_compare *c, const int32_t *ours, const int32_t *base,
                          const float *gap, size_t count);
/* Rows that were not given count as nothing. NO_MEMORY. */
ccq_code ccq_compare_stats(const ccq_compare *c, ccq_stats *stats, ccq_error *err);

/* ---- Gates ----------------------------------------------------------------- */

typedef struct ccq_gate {
    ccq_figure figure;
    int min; /* 1: value >= limit, 0: value <= limit */
    double limit, value;
    int ok;
} ccq_gate;

/* {"max": {NAME: LIMIT}, "min": {...}}. USAGE: an unknown name. JSON: anything else, a
 * name twice included. The caller frees *gates. */
ccq_code ccq_gates_load(ccq_gate **gates, size_t *count, const char *path, ccq_error *err);
/* Fills value and ok; USAGE when a figure was not produced. *missed: how many. */
ccq_code ccq_gates_check(ccq_gate *gates, size_t count, const ccq_stats *stats, size_t *missed,
                         ccq_error *err);

#endif
