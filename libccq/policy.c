/* Which tensor gets which type. Only what ccq_entry_linear names is quantized: the
 * router, norms and the embedding cannot be reached, the head by force alone. */
#include "libccq/calibrate.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *ccq_scheme_name(int scheme)
{
    static const char *const names[CCQ_SCHEMES] = {"wint2", "wint4", "wint8", "block_wise_fp8",
                                                  "bf16"};
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
        .tensor_parallel = 1,
        .sync_bytes = (uint64_t)256 << 20,
        .world = 1,
        .transform_seed = 1,
        .calibration = {.window = 2048},
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
    va_list args;
    va_start(args, fmt);
    int length = vasprintf(&list->text[list->count], fmt, args);
    va_end(args);
    if (length < 0)
        return -1;
    list->count++;
    return 0;
}

void ccq_text_free(ccq_text_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        free(list->text[i]);
    free(list->text);
    *list = (ccq_text_list){0};
}

/* Experts of these are wint4 and wint2 by layer, everything else wint8. */
static int has_w4w2(int scheme)
{
    return scheme == CCQ_SCHEME_WINT2 || scheme == CCQ_SCHEME_WINT4;
}

static ccq_code resolve_end(ccq_quantize_options *o, const ccq_arch *arch, ccq_error *err)
{
    if (arch->experts < 1)
        return ccq_fail(err, CCQ_USAGE,
                        "scheme %s: the model has no experts, and nothing else is served as %s; "
                        "use --scheme wint8",
                        ccq_scheme_name(o->scheme), ccq_scheme_name(o->scheme));
    if (o->scheme == CCQ_SCHEME_WINT4) {
        o->w4_end_layer = arch->layers - 1;
        return CCQ_OK;
    }
    if (o->w4_end_layer == CCQ_W4_DEFAULT) {
        o->w4_end_layer = arch->moe_start + 3;
        if (o->w4_end_layer >= arch->layers)
            o->w4_end_layer = arch->layers - 1;
    }
    if (o->w4_end_layer < -1 || o->w4_end_layer >= arch->layers) /* A10 */
        return ccq_fail(err, CCQ_USAGE, "w4-end-layer %" PRId64 " is outside -1..%" PRId64,
                        o->w4_end_layer, arch->layers - 1);
    return CCQ_OK;
}

ccq_code ccq_policy_resolve(ccq_quantize_options *o, const ccq_source *src, ccq_error *err)
{
    const char *name = ccq_scheme_name(o->scheme);
    ccq_code code;
    if (!name || o->gain < 0 || o->gain > 8 || o->shard_bytes > (uint64_t)1 << 53)
        return ccq_fail(err, CCQ_USAGE, "scheme, gain or shard size out of range");
    if (o->names == CCQ_NAMES_TORCH && o->scheme != CCQ_SCHEME_BF16)
        return ccq_fail(err, CCQ_USAGE, "names torch: only with scheme bf16, not with %s", name);
    if (o->tensor_parallel < 1 || o->tensor_parallel > CCQ_MAX_RANKS)
        return ccq_fail(err, CCQ_USAGE, "tensor-parallel %d is outside 1..%d", o->tensor_parallel,
                        CCQ_MAX_RANKS);
    if (o->names == CCQ_NAMES_TORCH && o->tensor_parallel > 1)
        return ccq_fail(err, CCQ_USAGE, "names torch: transformers does not read rank directories");
    if (src->arch.quantized && o->scheme != CCQ_SCHEME_BF16)
        return ccq_fail(err, CCQ_UNSUPPORTED,
                        "%s: is quantized already; the BF16 checkpoint is needed, or --scheme bf16 "
                        "to decode this one",
                        src->dir);
    if (o->scheme != CCQ_SCHEME_WINT2 && o->w4_end_layer != CCQ_W4_DEFAULT)
        return ccq_fail(err, CCQ_USAGE, "w4-end-layer is about experts of scheme wint2, not of %s",
                        name);
    if (o->effort == CCQ_EFFORT_BEST && !o->calibration.kind)
        o->calibration.kind = CCQ_CALIBRATE_RANDOM;
    if (o->world > 1 && (o->calibration.kind == CCQ_CALIBRATE_TOKENS ||
                         o->calibration.kind == CCQ_CALIBRATE_RANDOM))
        return ccq_fail(err, CCQ_USAGE,
                        "calibration is the work of one process: make statistics first "
                        "(--save-stats), then use them (--stats)");
    if (o->calibration.kind && (code = ccq_calibration_resolve(o, src, err)))
        return code;
    if (has_w4w2(o->scheme))
        return resolve_end(o, &src->arch, err);
    o->w4_end_layer = -1;
    return CCQ_OK;
}

static int broken(ccq_plan *plan, ccq_code code, const ccq_entry *e, const char *message)
{
    char name[256];
    ccq_escape(name, sizeof name, e->name, strlen(e->name));
    if (!plan->problems.count) /* of slices it is the option that is wrong */
        plan->problem = plan->ranks > 1 ? CCQ_USAGE : code;
    return ccq_text_add(&plan->problems, "%s: %s", name, message);
}

/* ---- Choosing --------------------------------------------------------------- */

static ccq_type linear_type(const ccq_quantize_options *o, const ccq_entry *e, const char **why)
{
    if (has_w4w2(o->scheme) && e->block == CCQ_BLOCK_EXPERT) {
        int low = e->layer <= o->w4_end_layer;
        *why = o->scheme == CCQ_SCHEME_WINT4 ? "expert"
               : low                         ? "expert up to w4-end-layer"
                                             : "expert above w4-end-layer";
        return low ? CCQ_TYPE_WINT4 : CCQ_TYPE_WINT2;
    }
    *why = e->block == CCQ_BLOCK_ATTENTION ? "attention"
           : e->block == CCQ_BLOCK_DENSE   ? "dense layer"
           : e->block == CCQ_BLOCK_SHARED  ? "shared experts"
                                           : "expert";
    return o->scheme == CCQ_SCHEME_FP8    ? CCQ_TYPE_FP8
           : o->scheme == CCQ_SCHEME_BF16 ? CCQ_TYPE_BF16
                                          : CCQ_TYPE_WINT8;
}

/* A tensor that no loader takes quantized. Only the head can be read back. */
static int choose_denied(ccq_plan *plan, ccq_action *a, ccq_type type, const char *text)
{
    const ccq_entry *e = a->entry;
    if (type == CCQ_TYPE_BF16) /* what it is */
        return 0;
    if (e->role != CCQ_ROLE_HEAD)
        return broken(plan, CCQ_USAGE, e, "is never quantized: nothing could read it");
    if (type == CCQ_TYPE_WINT2)
        return broken(plan, CCQ_USAGE, e, "wint2 is served for MoE experts only");
    if (!plan->options.force)
        return broken(plan, CCQ_USAGE, e,
                      "is never quantized: FastDeploy would not load it; --force writes it for "
                      "ccq's own tools");
    a->to = type;
    a->why = text;
    a->chosen = 1;
    return ccq_text_add(&plan->warnings, "%s: is %s by force: FastDeploy does not load it",
                        e->name, ccq_type_name(type));
}

int ccq_policy_choose(ccq_plan *plan, ccq_rules *rules, ccq_action *a)
{
    const ccq_entry *e = a->entry;
    const char *text;
    ccq_type type;
    int linear = ccq_entry_linear(e), matched = ccq_rules_match(rules, e, &type, &text);
    if (linear) {
        a->to = linear_type(&plan->options, e, &a->why);
    } else {
        a->to = e->type == CCQ_TYPE_F32 ? CCQ_TYPE_F32 : CCQ_TYPE_BF16;
        a->why = a->to == CCQ_TYPE_F32 ? "router: kept in fp32" : "never quantized";
    }
    if (!matched)
        return 0;
    if (!linear)
        return choose_denied(plan, a, type, text);
    a->to = type;
    a->why = text;
    a->chosen = 1;
    return 0;
}

/* ---- The rules of docs/format.md, by their numbers ------------------------ */

static int check_k(ccq_plan *plan, const ccq_action *a)
{
    char text[160];
    int unit = a->to == CCQ_TYPE_WINT2 ? 128 : 64;
    if (a->k % unit == 0)
        return 0;
    snprintf(text, sizeof text, "K=%" PRId64 " is not a multiple of %d: %s", a->k, unit,
             unit == 128 ? "wint2 packs two 64-row scale groups per byte"          /* A1 */
                         : "the interleaved layout works on 64-row tiles");        /* A3 */
    return broken(plan, CCQ_SHAPE_RULE, a->entry, text);
}

static int check_n(ccq_plan *plan, const ccq_action *a)
{
    char text[160];
    if (a->n % 16 == 0)
        return 0;
    snprintf(text, sizeof text, "N=%" PRId64 " is not a multiple of 16%s", a->n, /* A2, A4 */
             a->to == CCQ_TYPE_WINT2 ? ": the fused kernel copies 16 local scales at a time" : "");
    return broken(plan, CCQ_SHAPE_RULE, a->entry, text);
}

static int check_fp8(ccq_plan *plan, const ccq_action *a)
{
    char text[160];
    if (a->entry->role != CCQ_ROLE_UP_GATE || a->n / 2 % CCQ_FP8_BLOCK == 0)
        return 0;
    snprintf(text, sizeof text,
             "gate/up boundary %" PRId64 " is not a multiple of 128: a block would span both",
             a->n / 2); /* A6 */
    return broken(plan, CCQ_SHAPE_RULE, a->entry, text);
}

static int check_sizes(ccq_plan *plan, const ccq_action *a)
{
    if (a->to == CCQ_TYPE_BF16 || a->to == CCQ_TYPE_F32)
        return 0;
    if (a->to == CCQ_TYPE_FP8)
        return check_fp8(plan, a);
    int failed = check_k(plan, a);
    return failed ? failed : check_n(plan, a);
}

/* quantization_config states one type for all linears, or one for the experts of
 * each layer and one for the rest: what a tensor_type asks beyond that no loader
 * would follow. */
static int check_mix(ccq_plan *plan, const ccq_action *a)
{
    const char *scheme = ccq_scheme_name(plan->options.scheme), *why, *ignored;
    int w4w2 = has_w4w2(plan->options.scheme), expert = a->entry->block == CCQ_BLOCK_EXPERT;
    char text[200];
    if (!a->chosen || !ccq_entry_linear(a->entry))
        return 0;
    if (a->to == CCQ_TYPE_WINT2 && !expert) /* A8 */
        return broken(plan, CCQ_USAGE, a->entry, "wint2 is served for MoE experts only");
    if (w4w2 && expert && (a->to == CCQ_TYPE_WINT2 || a->to == CCQ_TYPE_WINT4))
        return 0;
    if (a->to == linear_type(&plan->options, a->entry, &ignored))
        return 0;
    why = w4w2 && expert ? "FastDeploy reads its experts as wint4 or wint2"
          : w4w2         ? "FastDeploy reads linears outside the experts as wint8"
                         : "it has one type for all linears";
    snprintf(text, sizeof text, "cannot be %s under scheme %s: %s", ccq_type_name(a->to), scheme,
             why);
    return broken(plan, CCQ_USAGE, a->entry, text);
}

/* A9: a layer's experts have one type, and wint4 layers come before wint2 ones. */
static int check_layers(ccq_plan *plan)
{
    int last_layer = -1, said = -1, failed = 0;
    int64_t low = -1, high = plan->src->arch.layers; /* last wint4, first wint2 */
    ccq_type last = CCQ_TYPES;
    for (size_t i = 0; i < plan->count; i++) {
        const ccq_entry *e = plan->action[i].entry;
        if (e->block != CCQ_BLOCK_EXPERT || !ccq_entry_linear(e))
            continue;
        ccq_type to = plan->action[i].to;
        if (last != CCQ_TYPES && to != last && e->layer != said &&
            (e->layer == last_layer || to == CCQ_TYPE_WINT4)) {
            if (!plan->problems.count)
                plan->problem = CCQ_USAGE;
            said = e->layer;
            failed |= ccq_text_add(&plan->problems,
                                   "layer %d mixes types: FastDeploy selects by layer and "
                                   "quant_end_layer only", e->layer);
        }
        last = to;
        last_layer = e->layer;
        if (to == CCQ_TYPE_WINT4)
            low = e->layer;
        else if (e->layer < high)
            high = e->layer;
    }
    /* the option where it tells the truth: it may lie below the first MoE layer */
    plan->w4_end = plan->options.w4_end_layer;
    if (plan->w4_end < low || plan->w4_end >= high)
        plan->w4_end = low;
    return failed;
}

int ccq_policy_check(ccq_plan *plan)
{
    int failed = 0;
    for (size_t i = 0; i < plan->count && !failed; i++) {
        failed = check_mix(plan, &plan->action[i]);
        if (!failed)
            failed = check_sizes(plan, &plan->action[i]);
    }
    if (failed || !has_w4w2(plan->options.scheme))
        return failed;
    return check_layers(plan);
}
