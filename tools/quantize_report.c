/* The answer of ccq-quantize, as tables or as one JSON document. */
#include "tools/quantize_report.h"
#include "tools/quantize_calibration.h"

#include "formats/json.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { WORST = 10 };

/* ---- Tables --------------------------------------------------------------------- */

typedef struct row {
    size_t tensors;
    uint64_t parameters, bytes;
} row;

/* 1234567 as "1,234,567". */
static const char *grouped(char out[32], uint64_t v)
{
    char digits[24];
    int n = snprintf(digits, sizeof digits, "%" PRIu64, v), at = 0;
    for (int i = 0; i < n; i++) {
        if (i && (n - i) % 3 == 0)
            out[at++] = ',';
        out[at++] = digits[i];
    }
    out[at] = 0;
    return out;
}

static void print_row(const char *name, const row *t, double sqnr, int measured)
{
    char parameters[32], bytes[32];
    printf("%-14s %8zu %18s %18s %12.4f", name, t->tensors, grouped(parameters, t->parameters),
           grouped(bytes, t->bytes),
           t->parameters ? 8.0 * (double)t->bytes / (double)t->parameters : 0.0);
    if (measured && isfinite(sqnr))
        printf(" %10.2f", sqnr);
    putchar('\n');
}

static void print_types(const report *r, const ccq_quantize_result *result)
{
    row type[CCQ_TYPES] = {{0}}, all = {0};
    for (size_t i = 0; i < r->plan->count; i++) {
        const ccq_action *a = &r->plan->action[i];
        row *t = &type[a->to];
        t->tensors++;
        t->parameters += ccq_entry_parameters(a->entry);
        t->bytes += a->bytes_out;
    }
    printf("%-14s %8s %18s %18s %12s%s\n", "type", "tensors", "parameters", "bytes", "bits/weight",
           result ? "    SQNR dB" : "");
    for (int t = CCQ_TYPES - 1; t >= 0; t--) {
        if (!type[t].tensors)
            continue;
        print_row(ccq_type_name((ccq_type)t), &type[t], result ? result->type_sqnr[t] : 0,
                  result != NULL);
        all.tensors += type[t].tensors;
        all.parameters += type[t].parameters;
        all.bytes += type[t].bytes;
    }
    print_row("all", &all, 0, 0);
}

typedef struct ranked {
    size_t action;
    double sqnr;
} ranked;

static int by_sqnr(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    if (x->sqnr != y->sqnr)
        return x->sqnr < y->sqnr ? -1 : 1;
    return x->action < y->action ? -1 : 1;
}

static void print_worst(const report *r, const ccq_quantize_result *result)
{
    ranked *list = calloc(r->plan->count + 1, sizeof *list);
    size_t count = 0;
    char name[512];
    for (size_t i = 0; list && i < r->plan->count; i++) {
        double sqnr = ccq_outcome_sqnr(&result->outcome[i]);
        if (isfinite(sqnr))
            list[count++] = (ranked){i, sqnr};
    }
    if (count) {
        qsort(list, count, sizeof *list, by_sqnr);
        printf("\nworst tensors\n");
    }
    for (size_t i = 0; i < count && i < WORST; i++) {
        const ccq_action *a = &r->plan->action[list[i].action];
        printf("  %6.2f dB  %s  %s\n", list[i].sqnr, ccq_type_name(a->to),
               ccq_escape(name, sizeof name, a->entry->name, strlen(a->entry->name)));
    }
    free(list);
}

static void print_plan(const report *r)
{
    const ccq_plan *plan = r->plan;
    char name[512];
    for (size_t i = 0; r->c->verbose && i < plan->count; i++) {
        const ccq_action *a = &plan->action[i];
        printf("%s  [%" PRId64 "x%" PRId64 "] %s -> %s  %" PRIu64 " -> %" PRIu64 " bytes  (%s)\n",
               ccq_escape(name, sizeof name, a->entry->name, strlen(a->entry->name)), a->entry->k,
               a->entry->n, ccq_type_name(a->entry->type), ccq_type_name(a->to), a->bytes_in,
               a->bytes_out, a->why);
    }
    print_types(r, NULL);
    putchar('\n');
    char bytes[32];
    for (int i = 0; i < CCQ_BYTES_KINDS; i++)
        if (plan->kind_bytes[i])
            printf("  %-30s %18s\n", ccq_bytes_kind_name(i), grouped(bytes, plan->kind_bytes[i]));
    printf("  %-30s %18s\n", "tensor data", grouped(bytes, plan->tensor_bytes));
    printf("  %-30s %18s\n", "headers and index", grouped(bytes, plan->header_bytes));
    printf("  %-30s %18s\n", "side files", grouped(bytes, plan->side_bytes));
    printf("  %-30s %18s\n", "output, all files", grouped(bytes, plan->total_bytes));
    printf("  %-30s %18s\n", "free", grouped(bytes, plan->free_bytes));
    uint64_t least, memory = ccq_plan_memory(plan, r->threads, r->mem_limit, &least);
    printf("  %-30s %18s\n", "memory, at most", grouped(bytes, memory));
    printf("  %-30s %18s\n", "smallest --mem-limit", grouped(bytes, least));
}

static void print_device(const report *r, const ccq_quantize_result *result)
{
    double rate = result->device_s > 0 ? (double)result->device_weights / result->device_s : 0;
    if (!r->c->verbose || !(result->device_blocks + result->device_cpu_blocks))
        return;
    printf("\ndevice %s: %" PRIu64 " blocks of columns, %.3g weights a second", r->device,
           result->device_blocks, rate);
    if (result->device_cpu_blocks)
        printf("; %" PRIu64 " blocks did not fit or failed there: encoded by the CPU",
               result->device_cpu_blocks);
    putchar('\n');
}

void report_text(const report *r, const ccq_quantize_result *result)
{
    char bytes[32], rss[32], name[1000];
    if (!result) {
        print_plan(r);
        return;
    }
    print_types(r, result);
    print_worst(r, result);
    calibration_print(result);
    if (result->zero_columns)
        printf("\n%" PRIu64 " columns are zero, or too small for their format: written as zeros\n",
               result->zero_columns);
    print_device(r, result);
    printf("\n%s: %s in %.1f s, peak memory %s\n",
           ccq_escape(name, sizeof name, r->output, strlen(r->output)),
           cli_bytes(bytes, sizeof bytes, r->plan->total_bytes), result->wall_s,
           cli_bytes(rss, sizeof rss, report_peak_rss()));
    if (r->verify && !r->verify->findings)
        printf("verify: ok\n");
    /* Some versions take a path there that skips pre-quantized dense weights. */
    if (r->plan->kind_bytes[CCQ_BYTES_WINT8_WEIGHT])
        printf("FastDeploy on compute capability 9.0: serve with FD_USE_MACHETE=0\n");
}

/* ---- JSON ------------------------------------------------------------------------- */

static void put_tensors(ccq_jw *w, const report *r, const ccq_quantize_result *result)
{
    ccq_jw_key(w, "tensors");
    ccq_jw_array(w);
    for (size_t i = 0; i < r->plan->count; i++) {
        const ccq_action *a = &r->plan->action[i];
        ccq_jw_object(w);
        ccq_jw_kstring(w, "name", a->entry->name);
        ccq_jw_kstring(w, "from", ccq_type_name(a->entry->type));
        ccq_jw_kstring(w, "to", ccq_type_name(a->to));
        ccq_jw_key(w, "shape");
        ccq_jw_array(w);
        if (a->entry->k != 1 || a->entry->role == CCQ_ROLE_ROUTER_BIAS)
            ccq_jw_i64(w, a->entry->k);
        ccq_jw_i64(w, a->entry->n);
        ccq_jw_end(w);
        ccq_jw_ku64(w, "bytes_in", a->bytes_in);
        ccq_jw_ku64(w, "bytes_out", a->bytes_out);
        ccq_jw_kstring(w, "why", a->why);
        if (result) {
            ccq_jw_kdouble(w, "sqnr_db", ccq_outcome_sqnr(&result->outcome[i]));
            if (result->outcome[i].zero_columns)
                ccq_jw_ku64(w, "zero_columns", result->outcome[i].zero_columns);
        }
        ccq_jw_end(w);
    }
    ccq_jw_end(w);
}

static void put_strings(ccq_jw *w, const char *key, char *const *text, size_t count)
{
    ccq_jw_key(w, key);
    ccq_jw_array(w);
    for (size_t i = 0; i < count; i++)
        ccq_jw_string(w, text[i]);
    ccq_jw_end(w);
}

static void put_sizes(ccq_jw *w, const report *r)
{
    const ccq_plan *plan = r->plan;
    ccq_jw_key(w, "bytes_by_kind");
    ccq_jw_object(w);
    for (int i = 0; i < CCQ_BYTES_KINDS; i++)
        if (plan->kind_bytes[i])
            ccq_jw_ku64(w, ccq_bytes_kind_name(i), plan->kind_bytes[i]);
    ccq_jw_end(w);
    ccq_jw_ku64(w, "tensor_bytes", plan->tensor_bytes);
    ccq_jw_ku64(w, "header_bytes", plan->header_bytes);
    ccq_jw_ku64(w, "side_bytes", plan->side_bytes);
    ccq_jw_ku64(w, "total_bytes", plan->total_bytes);
    ccq_jw_ku64(w, "parameters", plan->parameters);
    ccq_jw_ku64(w, "quantized_parameters", plan->quantized);
    ccq_jw_kdouble(w, "bits_per_weight", plan->bits_per_weight);
    ccq_jw_ku64(w, "shards", (uint64_t)plan->ranks * ccq_layout_shards(plan->layout));
    if (plan->ranks > 1)
        ccq_jw_ki64(w, "tensor_parallel", plan->ranks);
    ccq_jw_kbool(w, "fits", plan->fits);
    ccq_jw_ku64(w, "free_bytes", plan->free_bytes);
    uint64_t least;
    ccq_jw_ku64(w, "memory_bytes", ccq_plan_memory(plan, r->threads, r->mem_limit, &least));
    ccq_jw_ku64(w, "memory_least_bytes", least);
    if (r->mem_limit)
        ccq_jw_ku64(w, "mem_limit_bytes", r->mem_limit);
    ccq_jw_key(w, "skipped");
    ccq_jw_array(w);
    for (size_t i = 0; i < plan->src->skips; i++)
        ccq_jw_string(w, plan->src->skipped[i]);
    ccq_jw_end(w);
    put_strings(w, "config_changes", plan->changes.text, plan->changes.count);
    put_strings(w, "notes", plan->src->note, plan->src->notes);
    put_strings(w, "warnings", plan->warnings.text, plan->warnings.count);
}

static void put_result(ccq_jw *w, const report *r, const ccq_quantize_result *result)
{
    ccq_jw_key(w, "sqnr_db_by_type");
    ccq_jw_object(w);
    for (int t = 0; t < CCQ_TYPES; t++)
        ccq_jw_kdouble(w, ccq_type_name((ccq_type)t), result->type_sqnr[t]);
    ccq_jw_end(w);
    ccq_jw_kdouble(w, "wall_s", result->wall_s);
    ccq_jw_kdouble(w, "encode_s", result->encode_s);
    ccq_jw_ku64(w, "encode_weights", result->encode_weights);
    ccq_jw_ku64(w, "peak_rss_bytes", report_peak_rss());
    ccq_jw_ki64(w, "threads", r->threads);
    ccq_jw_kstring(w, "isa", r->isa);
    ccq_jw_kstring(w, "device", r->device);
    if (strcmp(r->device, "cpu") != 0) {
        ccq_jw_ku64(w, "device_weights", result->device_weights);
        ccq_jw_kdouble(w, "device_s", result->device_s);
        ccq_jw_ku64(w, "device_blocks", result->device_blocks);
        ccq_jw_ku64(w, "device_cpu_blocks", result->device_cpu_blocks);
    }
    ccq_jw_ku64(w, "zero_columns", result->zero_columns);
    if (r->verify)
        ccq_jw_ku64(w, "verify_findings", r->verify->findings);
    calibration_json(w, result);
}

int report_json(const report *r, const ccq_quantize_result *result)
{
    size_t size = 0, recipe_size = 0;
    char *recipe = ccq_recipe_text(r->plan, &recipe_size);
    if (!recipe)
        return -1;
    ccq_jw w;
    ccq_jw_init(&w, 1);
    ccq_jw_object(&w);
    ccq_jw_kstring(&w, "schema", "ccq.quantize/1");
    ccq_jw_kstring(&w, "input", r->input);
    ccq_jw_kstring(&w, "output", r->output);
    ccq_jw_kbool(&w, "dry_run", result == NULL);
    ccq_jw_key(&w, "recipe");
    ccq_jw_raw(&w, recipe, recipe_size - 1); /* without its newline */
    put_tensors(&w, r, result);
    put_sizes(&w, r);
    if (result)
        put_result(&w, r, result);
    ccq_jw_end(&w);
    char *text = ccq_jw_take(&w, &size);
    free(recipe);
    if (!text)
        return -1;
    fwrite(text, 1, size, stdout);
    free(text);
    return 0;
}
