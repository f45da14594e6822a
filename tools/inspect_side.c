/* ccq-inspect --compare: what two checkpoints do not share. */
#include "tools/inspect.h"

#include <inttypes.h>
#include <string.h>

enum { NAME_BYTES = 300, SHOWN = 20 };

static void print_change(const ccq_diff *d)
{
    if (!*d->a)
        printf("only in OTHER: %s\n", d->b);
    else if (!*d->b)
        printf("only in MODEL: %s\n", d->a);
    else
        printf("%s, OTHER has %s\n", d->a, d->b);
}

static void print_one(const ccq_diff *d)
{
    char name[NAME_BYTES];
    ccq_escape(name, sizeof name, d->name, strlen(d->name));
    printf("%-6s %s: ", ccq_diff_kind_name(d->kind), name);
    if (d->kind != CCQ_DIFF_VALUES) {
        print_change(d);
        return;
    }
    printf("element [");
    for (int i = 0; i < d->rank; i++)
        printf("%s%" PRIu64, i ? ", " : "", d->index[i]);
    printf("] is %s, OTHER has %s; %" PRIu64 " of %" PRIu64 " differ\n", d->a, d->b, d->differ,
           d->elements);
}

void inspect_print_diff(const inspect *in)
{
    const ccq_diff_result *r = &in->diff;
    size_t shown = in->c.verbose || r->diffs < SHOWN ? r->diffs : SHOWN;
    uint64_t all = 0;
    for (int k = 0; k < CCQ_DIFF_KINDS; k++)
        all += r->count[k];
    for (size_t i = 0; i < shown; i++)
        print_one(&r->diff[i]);
    if (shown < all)
        printf("and %" PRIu64 " more%s\n", all - shown, in->c.verbose ? "" : " (-v)");
    if (!all)
        printf("compare: equal, %" PRIu64 " tensors\n", r->tensors);
    else
        printf("compare: %" PRIu64 " config keys, %" PRIu64 " tensors of one side, %" PRIu64
               " types or shapes, values of %" PRIu64 " tensors (%" PRIu64 " elements)\n",
               r->count[CCQ_DIFF_CONFIG], r->count[CCQ_DIFF_TENSOR], r->count[CCQ_DIFF_SHAPE],
               r->count[CCQ_DIFF_VALUES], r->elements);
}

static void one(ccq_jw *w, const ccq_diff *d)
{
    ccq_jw_object(w);
    ccq_jw_kstring(w, "kind", ccq_diff_kind_name(d->kind));
    ccq_jw_kstring(w, "name", d->name);
    if (*d->a)
        ccq_jw_kstring(w, "model", d->a);
    if (*d->b)
        ccq_jw_kstring(w, "other", d->b);
    if (d->kind == CCQ_DIFF_VALUES) {
        ccq_jw_key(w, "index");
        ccq_jw_array(w);
        for (int i = 0; i < d->rank; i++)
            ccq_jw_u64(w, d->index[i]);
        ccq_jw_end(w);
        ccq_jw_ku64(w, "element", d->first);
        ccq_jw_ku64(w, "differing", d->differ);
        ccq_jw_ku64(w, "elements", d->elements);
    }
    ccq_jw_end(w);
}

void inspect_diff_json(ccq_jw *w, const inspect *in)
{
    const ccq_diff_result *r = &in->diff;
    ccq_jw_key(w, "compare");
    ccq_jw_object(w);
    ccq_jw_kstring(w, "other", in->compare);
    ccq_jw_kbool(w, "equal", r->diffs == 0);
    ccq_jw_ku64(w, "tensors", r->tensors);
    ccq_jw_ku64(w, "differing_elements", r->elements);
    ccq_jw_key(w, "counts");
    ccq_jw_object(w);
    for (int k = 0; k < CCQ_DIFF_KINDS; k++)
        ccq_jw_ku64(w, ccq_diff_kind_name(k), r->count[k]);
    ccq_jw_end(w);
    ccq_jw_key(w, "differences");
    ccq_jw_array(w);
    for (size_t i = 0; i < r->diffs; i++)
        one(w, &r->diff[i]);
    ccq_jw_end(w);
    ccq_jw_end(w);
}
