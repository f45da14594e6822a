/* --trace: the router's choices, one JSON line a token and MoE layer. */
#include "tools/run.h"

#include <inttypes.h>

void run_trace_row(void *ctx, size_t sequence, int64_t position, int32_t id, const ccq_routes *one)
{
    run *r = ctx;
    FILE *f = r->trace.f;

    for (int64_t i = 0; i < one->layers; i++) {
        fprintf(f,
                "{\"sequence\":%zu,\"position\":%" PRId64 ",\"id\":%d,\"layer\":%d,\"experts\":[",
                sequence, position, (int)id, (int)ccq_model_moe_layer(r->model, i));
        for (int64_t k = 0; k < one->k; k++)
            fprintf(f, "%s%d", k ? "," : "", (int)one->ids[i * one->k + k]);
        fputs("],\"weights\":[", f);
        for (int64_t k = 0; k < one->k; k++)
            fprintf(f, "%s%.9g", k ? "," : "", (double)one->weights[i * one->k + k]);
        fputc(']', f);
        if (one->margin[i] <= 3e38f)
            fprintf(f, ",\"margin\":%.9g", (double)one->margin[i]);
        fputs("}\n", f);
    }
}
