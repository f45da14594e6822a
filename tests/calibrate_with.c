/* Quantizes with steps of calibration left out: what ccq-quantize has no options for.
 *
 *   calibrate_with MODEL OUTPUT TOKENS.npy|random COUNT W4_END [STEP]...
 *
 * Windows of 256. A STEP is left out: table, passes, joint, loop, cross, residual, alpha,
 * shrink, weights, spread; or "shared" (one H a layer), "gain0", "fast", "seed=N". */
#include "libccq/ccq.h"
#include "libccq/reference.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int fail(const ccq_error *err)
{
    fprintf(stderr, "calibrate_with: %s\n", err->text);
    return 1;
}

static int take_step(ccq_quantize_options *o, const char *step)
{
    static const char *const names[] = {"table",    "passes", "joint",  "loop",    "cross",
                                        "residual", "alpha",  "shrink", "weights", "spread"};
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(step, names[i]) == 0) {
            o->calibration.leave |= 1u << i;
            return 0;
        }
    if (strcmp(step, "shared") == 0)
        o->calibration.shared = 1;
    else if (strcmp(step, "gain0") == 0)
        o->gain = 0;
    else if (strcmp(step, "fast") == 0)
        o->effort = CCQ_EFFORT_FAST;
    else if (strncmp(step, "seed=", 5) == 0)
        o->calibration.seed = strtoull(step + 5, NULL, 10);
    else if (strncmp(step, "ids=", 4) == 0)
        o->calibration.valid = strtoll(step + 4, NULL, 10);
    else
        return -1;
    return 0;
}

static int quantize(const char *model, const char *output, ccq_quantize_options *o,
                    const char *tokens)
{
    ccq_error err = {0};
    ccq_source *src = NULL;
    ccq_plan *plan = NULL;
    ccq_pool *pool = ccq_pool_new(0);
    int32_t *ids = NULL;
    ccq_ops ops;
    ccq_quantize_result result = {0};
    ccq_code code = ccq_source_open(&src, model, NULL, &err);
    ccq_ops_init(&ops, ~0u);
    if (!code && o->calibration.kind == CCQ_CALIBRATE_TOKENS)
        code = ccq_tokens_load(tokens, src->arch.vocab, &ids, &o->calibration.count, &err);
    o->calibration.ids = ids;
    if (!code)
        code = ccq_plan_make(&plan, src, o, output, &err);
    ccq_quantize_run_options run = {.pool = pool, .ops = &ops};
    if (!code)
        code = ccq_quantize_run(plan, &run, &result, &err);
    for (size_t i = 0; !code && i < result.layers; i++)
        printf("layer %lld: n/K %.2f, alpha %.3f, without %lld\n",
               (long long)result.layer[i].layer, result.layer[i].per_row,
               result.layer[i].alpha_experts
                   ? result.layer[i].alpha / (double)result.layer[i].alpha_experts : 0.0,
               (long long)result.layer[i].without);
    ccq_quantize_result_free(&result);
    ccq_plan_free(plan);
    ccq_source_close(src);
    ccq_pool_free(pool);
    free(ids);
    return code ? fail(&err) : 0;
}

int main(int argc, char **argv)
{
    ccq_quantize_options o;
    if (argc < 6) {
        fprintf(stderr,
                "usage: calibrate_with MODEL OUTPUT TOKENS|random COUNT W4_END [STEP]...\n");
        return 64;
    }
    ccq_quantize_defaults(&o);
    o.w4_end_layer = strtoll(argv[5], NULL, 10);
    o.calibration.kind = strcmp(argv[3], "random") ? CCQ_CALIBRATE_TOKENS : CCQ_CALIBRATE_RANDOM;
    o.calibration.tokens = strtoll(argv[4], NULL, 10);
    o.calibration.window = 256;
    for (int i = 6; i < argc; i++)
        if (take_step(&o, argv[i])) {
            fprintf(stderr, "calibrate_with: unknown step '%s'\n", argv[i]);
            return 64;
        }
    return quantize(argv[1], argv[2], &o, argv[3]);
}
