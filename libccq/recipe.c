#include "libccq/job.h"

#include "formats/json.h"

static const char *const orders[] = {"fastdeploy", "plain"};
static const char *const rules[] = {"gpu", "cpu"};
static const char *const efforts[] = {"fast", "normal"};

char *ccq_recipe_text(const ccq_plan *plan, size_t *size)
{
    const ccq_quantize_options *o = &plan->options;
    ccq_jw w;
    ccq_jw_init(&w, 2);
    ccq_jw_object(&w);
    ccq_jw_kstring(&w, "schema", "ccq.recipe/1");
    ccq_jw_ki64(&w, "output_version", CCQ_OUTPUT_VERSION);
    ccq_jw_kstring(&w, "scheme", ccq_scheme_name(o->scheme));
    if (o->scheme == CCQ_SCHEME_WINT2)
        ccq_jw_ki64(&w, "w4_end_layer", o->w4_end_layer);
    ccq_jw_kstring(&w, "k_order", orders[o->order]);
    ccq_jw_kstring(&w, "weight_only_rule", rules[o->rule]);
    ccq_jw_kstring(&w, "effort", efforts[o->effort]);
    ccq_jw_ki64(&w, "gain", o->gain);
    /* No option, but what a reader of the checkpoint must know. */
    if (o->scheme == CCQ_SCHEME_WINT8 && plan->src->arch.experts > 0)
        ccq_jw_kstring(&w, "note", CCQ_WINT8_EXPERTS);
    ccq_jw_end(&w);
    return ccq_jw_take(&w, size);
}
