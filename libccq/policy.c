/* Which tensor gets which type. Only what ccq_entry_linear names is ever
 * quantized: the router, norms, the embedding and the head cannot be reached. */
#include "libccq/job.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *ccq_scheme_name(int scheme)
{
    static const char *const names[CCQ_SCHEMES] = {"wint2", "wint8"};
    return scheme >= 0 && scheme < CCQ_SCHEMES ? names[scheme] : NULL;
}

void ccq_quantize_defaults(ccq_quantize_options *options)
{
    *options = (ccq_quantize_options){
        .scheme = CCQ_SCHEME_WINT2,
        .w4_end_layer = CCQ_W4_DEFAULT,
        .order = CCQ_ORDER_FASTDEPLOY,
        .rule = CCQ_RULE_GPU,
        .effort = CCQ_EFFORT_NORMAL,
        .gain = 4,
        .shard_bytes = 5000000000u,
    };
}

int ccq_text_add(ccq_text_list *list, const char *fmt, ...)
{
    if (list->count == list->cap) {
        size_t cap = list->cap ? 2 * list->cap : 16;
        char **text = realloc(list->text, cap * sizeof *text);
        if (!text)
            return -1;
        list->text = text;
        list->cap = cap;
    }
    char line[1200];
    va_list args;
    va_start(args, fmt);
    vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    char *copy = strdup(line);
    if (!copy)
        return -1;
    list->text[list->count++] = copy;
    return 0;
}

void ccq_text_free(ccq_text_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        free(list->text[i]);
    free(list->text);
    *list = (ccq_text_list){0};
}

static ccq_code resolve_wint2(ccq_quantize_options *o, const ccq_arch *arch, ccq_error *err)
{
    if (arch->experts < 1)
        return ccq_fail(err, CCQ_USAGE,
                        "scheme wint2: the model has no experts, and nothing else is served as "
                        "wint2; use --scheme wint8");
    if (o->w4_end_layer == CCQ_W4_DEFAULT) {
        o->w4_end_layer = arch->moe_start + 3;
        if (o->w4_end_layer >= arch->layers)
            o->w4_end_layer = arch->layers - 1;
    }
    if (o->w4_end_layer < -1 || o->w4_end_layer >= arch->layers)
        return ccq_fail(err, CCQ_USAGE, "w4-end-layer %" PRId64 " is outside -1..%" PRId64,
                        o->w4_end_layer, arch->layers - 1);
    return CCQ_OK;
}

ccq_code ccq_policy_resolve(ccq_quantize_options *o, const ccq_source *src, ccq_error *err)
{
    if (!ccq_scheme_name(o->scheme) || o->gain < 0 || o->gain > 8)
        return ccq_fail(err, CCQ_USAGE, "scheme or gain out of range");
    if (src->arch.quantized)
        return ccq_fail(err, CCQ_UNSUPPORTED,
                        "%s: is quantized already; the BF16 checkpoint is needed", src->dir);
    if (o->scheme == CCQ_SCHEME_WINT2)
        return resolve_wint2(o, &src->arch, err);
    if (o->w4_end_layer != CCQ_W4_DEFAULT)
        return ccq_fail(err, CCQ_USAGE, "w4-end-layer is about experts of scheme wint2, not of %s",
                        ccq_scheme_name(o->scheme));
    o->w4_end_layer = -1;
    return CCQ_OK;
}

ccq_type ccq_policy_type(const ccq_quantize_options *o, const ccq_entry *e, const char **why)
{
    if (!ccq_entry_linear(e)) {
        *why = e->type == CCQ_TYPE_F32 ? "router: kept in fp32" : "never quantized";
        return e->type;
    }
    if (o->scheme == CCQ_SCHEME_WINT2 && e->block == CCQ_BLOCK_EXPERT) {
        int low = e->layer <= o->w4_end_layer;
        *why = low ? "expert up to w4-end-layer" : "expert above w4-end-layer";
        return low ? CCQ_TYPE_WINT4 : CCQ_TYPE_WINT2;
    }
    *why = e->block == CCQ_BLOCK_ATTENTION ? "attention"
           : e->block == CCQ_BLOCK_DENSE   ? "dense layer"
           : e->block == CCQ_BLOCK_SHARED  ? "shared experts"
                                           : "expert under scheme wint8";
    return CCQ_TYPE_WINT8;
}

/* ---- The rules of docs/format.md, by their numbers ------------------------ */

static int broken(ccq_plan *plan, const ccq_entry *e, const char *message)
{
    char name[256];
    ccq_escape(name, sizeof name, e->name, strlen(e->name));
    return ccq_text_add(&plan->problems, "%s: %s", name, message);
}

static int check_sizes(ccq_plan *plan, const ccq_action *a)
{
    const ccq_entry *e = a->entry;
    char text[160] = "";
    int failed = 0;
    if (a->to == CCQ_TYPE_WINT2) {
        if (e->k % 128 != 0) {
            snprintf(text, sizeof text,
                     "K=%" PRId64 " is not a multiple of 128: wint2 packs two 64-row scale groups "
                     "per byte", e->k); /* A1 */
            failed |= broken(plan, e, text);
        }
        if (e->n % 16 != 0) {
            snprintf(text, sizeof text,
                     "N=%" PRId64 " is not a multiple of 16: the fused kernel copies 16 local "
                     "scales at a time", e->n); /* A2 */
            failed |= broken(plan, e, text);
        }
        return failed;
    }
    if (e->k % 64 != 0) {
        snprintf(text, sizeof text,
                 "K=%" PRId64 " is not a multiple of 64: the interleaved layout works on 64-row "
                 "tiles", e->k); /* A3 */
        failed |= broken(plan, e, text);
    }
    if (e->n % 16 != 0) {
        snprintf(text, sizeof text, "N=%" PRId64 " is not a multiple of 16", e->n); /* A4 */
        failed |= broken(plan, e, text);
    }
    return failed;
}

/* A9: a layer's experts have one type, and a wint2 layer is never followed by a
 * wint4 one. */
static int check_layers(ccq_plan *plan)
{
    int last_layer = -1, failed = 0;
    ccq_type last = CCQ_TYPES;
    for (size_t i = 0; i < plan->count; i++) {
        const ccq_entry *e = plan->action[i].entry;
        if (e->block != CCQ_BLOCK_EXPERT || !ccq_entry_linear(e))
            continue;
        ccq_type to = plan->action[i].to;
        if (last != CCQ_TYPES && to != last && (e->layer == last_layer || to == CCQ_TYPE_WINT4))
            failed |= ccq_text_add(&plan->problems,
                                   "layer %d mixes types: FastDeploy selects by layer and "
                                   "quant_end_layer only", e->layer);
        last = to;
        last_layer = e->layer;
    }
    return failed;
}

int ccq_policy_check(ccq_plan *plan)
{
    int failed = 0;
    for (size_t i = 0; i < plan->count && !failed; i++) {
        const ccq_action *a = &plan->action[i];
        if (a->to == CCQ_TYPE_BF16 || a->to == CCQ_TYPE_F32)
            continue;
        failed = check_sizes(plan, a);
        if (a->to == CCQ_TYPE_WINT2 && a->entry->block != CCQ_BLOCK_EXPERT)
            failed |= broken(plan, a->entry, "wint2 is served for MoE experts only"); /* A8 */
    }
    return failed ? failed : check_layers(plan);
}
