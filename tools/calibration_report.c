/* What calibration says of itself: tokens for each row, shares of the residual, experts
 * that saw too little. */
#include "tools/quantize_calibration.h"

#include <inttypes.h>

static double alpha_of(const ccq_calib_layer *l)
{
    return l->alpha_experts ? l->alpha / (double)l->alpha_experts : 0;
}

void calibration_print(const ccq_quantize_result *result)
{
    size_t without = result->without_statistics.count, thin = 0;

    for (size_t i = 0; i < result->layers; i++) {
        const ccq_calib_layer *l = &result->layer[i];
        if (i == 0)
            printf("\nlayer   tokens/row   residual taken back   without statistics\n");
        printf("%5" PRId64 "   %10.2f   %19.3f   %18" PRId64 "\n", l->layer, l->per_row,
               alpha_of(l), l->without);
        thin += l->per_row < 8;
    }
    if (thin)
        printf("%zu layers have fewer than 8 tokens for each row of an expert: more of "
               "--calibration-tokens would help\n", thin);
    if (without)
        printf("%zu linears of experts saw fewer than 32 tokens, and were quantized without "
               "statistics (--json names them)\n", without);
}

void calibration_json(ccq_jw *w, const ccq_quantize_result *result)
{
    ccq_jw_key(w, "experts_without_statistics");
    ccq_jw_array(w);
    for (size_t i = 0; i < result->without_statistics.count; i++)
        ccq_jw_string(w, result->without_statistics.text[i]);
    ccq_jw_end(w);
    if (!result->layers)
        return;
    ccq_jw_key(w, "calibration_layers");
    ccq_jw_array(w);
    for (size_t i = 0; i < result->layers; i++) {
        const ccq_calib_layer *l = &result->layer[i];
        ccq_jw_object(w);
        ccq_jw_ki64(w, "layer", l->layer);
        ccq_jw_kdouble(w, "tokens_per_row", l->per_row);
        ccq_jw_kdouble(w, "residual", alpha_of(l));
        ccq_jw_ki64(w, "without_statistics", l->without);
        ccq_jw_end(w);
    }
    ccq_jw_end(w);
}
