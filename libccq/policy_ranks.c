/* What ranks can share (docs/format.md, "Tensor parallel"): sizes that divide, and
 * slices that the storage types can hold. */
#include "libccq/job.h"
#include "libccq/slice.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static int refuse(ccq_plan *plan, const char *text)
{
    if (!plan->problems.count)
        plan->problem = CCQ_USAGE;
    return ccq_text_add(&plan->problems, "%s", text);
}

static int divides(ccq_plan *plan, const char *what, int64_t value)
{
    char text[160];
    if (value % plan->ranks == 0)
        return 0;
    snprintf(text, sizeof text, what, value, plan->ranks);
    return refuse(plan, text);
}

static int check_sizes(ccq_plan *plan)
{
    const ccq_arch *a = &plan->src->arch;
    return divides(plan, "%" PRId64 " heads cannot be split over %d ranks", a->heads) ||
           divides(plan, "%" PRId64 " kv heads cannot be split over %d ranks", a->kv_heads) ||
           divides(plan, "vocabulary %" PRId64 " cannot be split over %d ranks", a->vocab) ||
           divides(plan, "intermediate_size %" PRId64 " cannot be split over %d ranks", a->inter) ||
           divides(plan, "moe_intermediate_size %" PRId64 " cannot be split over %d ranks",
                   a->moe_inter);
}

/* Rows that belong together in a type. */
static int unit_of(ccq_type type)
{
    return type == CCQ_TYPE_WINT2 || type == CCQ_TYPE_FP8     ? 128
           : type == CCQ_TYPE_WINT4 || type == CCQ_TYPE_WINT8 ? 64
                                                              : 1;
}

static int is_down(const ccq_entry *e)
{
    return ccq_entry_linear(e) && ccq_cut_of(e) == CCQ_CUT_ROWS;
}

/* The widest unit among the experts speaks for all. */
static int check_experts(ccq_plan *plan)
{
    int64_t width = plan->src->arch.moe_inter / plan->ranks;
    char text[160];
    int unit = 1;
    for (size_t i = 0; i < plan->count; i++) {
        const ccq_action *a = &plan->action[i];
        if (a->entry->block == CCQ_BLOCK_EXPERT && is_down(a->entry) && unit_of(a->to) > unit)
            unit = unit_of(a->to);
    }
    if (plan->src->arch.moe_inter % plan->ranks || width % unit == 0)
        return 0;
    snprintf(text, sizeof text,
             "moe_intermediate_size/%d = %" PRId64 " is not a multiple of %d", plan->ranks, width,
             unit);
    return refuse(plan, text);
}

/* One line for each of o_proj, dense and shared down_proj. */
static int check_rows(ccq_plan *plan, ccq_block block)
{
    char text[300], name[160];
    for (size_t i = 0; i < plan->count; i++) {
        const ccq_action *a = &plan->action[i];
        const ccq_entry *e = a->entry;
        if (e->block != block || !is_down(e) || e->k % plan->ranks ||
            a->k % unit_of(a->to) == 0)
            continue;
        snprintf(text, sizeof text, "K=%" PRId64 " of rank slice %s is not a multiple of %d", a->k,
                 ccq_escape(name, sizeof name, e->name, strlen(e->name)), unit_of(a->to));
        return refuse(plan, text);
    }
    return 0;
}

int ccq_policy_ranks(ccq_plan *plan)
{
    if (plan->ranks == 1)
        return 0;
    return check_sizes(plan) || check_experts(plan) || check_rows(plan, CCQ_BLOCK_ATTENTION) ||
           check_rows(plan, CCQ_BLOCK_DENSE) || check_rows(plan, CCQ_BLOCK_SHARED);
}
