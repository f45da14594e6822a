/* ccq.inspect/1: absent figures are left out. */
#include "tools/inspect.h"

#include <math.h>

static void total(ccq_jw *w, const ccq_total *t)
{
    ccq_jw_ku64(w, "bytes", t->bytes);
    if (t->parameters)
        ccq_jw_kdouble(w, "bits_per_weight", ccq_total_bits(t));
}

static void keys(ccq_jw *w, const char *key, const char *const *name, size_t count)
{
    ccq_jw_key(w, key);
    ccq_jw_array(w);
    for (size_t i = 0; i < count; i++)
        ccq_jw_string(w, name[i]);
    ccq_jw_end(w);
}

static void sizes(ccq_jw *w, const ccq_arch *a)
{
    ccq_jw_ki64(w, "layers", a->layers);
    ccq_jw_ki64(w, "hidden_size", a->hidden);
    ccq_jw_ki64(w, "heads", a->heads);
    ccq_jw_ki64(w, "kv_heads", a->kv_heads);
    ccq_jw_ki64(w, "head_dim", a->head_dim);
    ccq_jw_ki64(w, "vocab_size", a->vocab);
    ccq_jw_ki64(w, "intermediate_size", a->inter);
    if (a->experts > 0) {
        ccq_jw_ki64(w, "experts", a->experts);
        ccq_jw_ki64(w, "moe_k", a->moe_k);
        ccq_jw_ki64(w, "moe_intermediate_size", a->moe_inter);
        ccq_jw_ki64(w, "shared_experts", a->shared);
        ccq_jw_ki64(w, "moe_start", a->moe_start);
        ccq_jw_ki64(w, "moe_end", a->moe_end);
    }
    ccq_jw_kbool(w, "tied", a->tied);
}

static void summary(ccq_jw *w, const inspect *in)
{
    const ccq_summary *s = &in->summary;
    const ccq_source *src = in->src;
    ccq_jw_key(w, "summary");
    ccq_jw_object(w);
    ccq_jw_kstring(w, "family", inspect_family(src));
    ccq_jw_kstring(w, "names", src->arch.torch_names ? "torch" : "paddle");
    sizes(w, &src->arch);
    ccq_jw_ku64(w, "parameters", s->all.parameters);
    total(w, &s->all);
    ccq_jw_ku64(w, "file_bytes", s->file_bytes);
    ccq_jw_ku64(w, "shards", ccq_source_shards(src, NULL));
    if (src->ranks)
        ccq_jw_ki64(w, "tensor_parallel", src->ranks);
    if (src->tp_rank >= 0)
        ccq_jw_ki64(w, "tp_rank", src->tp_rank);
    if (s->quantized.parameters)
        ccq_jw_kdouble(w, "bits_per_quantized_weight", ccq_total_bits(&s->quantized));
    if (inspect_has_wint2(s)) {
        ccq_jw_kstring(w, "k_order", inspect_order(src));
        ccq_jw_kbool(w, "k_order_recorded", src->arch.order_recorded);
    }
    ccq_jw_key(w, "types");
    ccq_jw_object(w);
    for (int t = 0; t < CCQ_TYPES; t++) {
        if (!s->type[t].entries)
            continue;
        ccq_jw_key(w, ccq_type_name((ccq_type)t));
        ccq_jw_object(w);
        ccq_jw_ku64(w, "tensors", s->type[t].entries);
        ccq_jw_ku64(w, "parameters", s->type[t].parameters);
        total(w, &s->type[t]);
        ccq_jw_end(w);
    }
    ccq_jw_end(w);
    keys(w, "config_used", s->used, s->useds);
    keys(w, "config_ignored", s->ignored, s->ignoreds);
    keys(w, "notes", (const char *const *)src->note, src->notes);
    keys(w, "skipped", src->skipped, src->skips);
    ccq_jw_end(w);
}

static void part(ccq_jw *w, int number, const ccq_layer_part *p)
{
    char type[32];
    if (!p->types)
        return;
    ccq_jw_key(w, ccq_part_name(number));
    ccq_jw_object(w);
    ccq_jw_kstring(w, "type", ccq_part_type(p, type, sizeof type));
    ccq_jw_kstring(w, "granularity", ccq_part_granularity(p));
    if (ccq_part_group_size(p))
        ccq_jw_ki64(w, "group_size", ccq_part_group_size(p));
    ccq_jw_ku64(w, "parameters", p->total.parameters);
    total(w, &p->total);
    ccq_jw_end(w);
}

static void layers(ccq_jw *w, const ccq_summary *s)
{
    ccq_jw_key(w, "layers");
    ccq_jw_array(w);
    for (size_t i = 0; i < s->layers; i++) {
        ccq_jw_object(w);
        ccq_jw_ki64(w, "layer", s->layer[i].layer);
        for (int p = 0; p < CCQ_PARTS; p++)
            part(w, p, &s->layer[i].part[p]);
        ccq_jw_end(w);
    }
    ccq_jw_end(w);
}

static void stored(ccq_jw *w, const inspect *in, const ccq_tensor *t)
{
    ccq_jw_object(w);
    ccq_jw_kstring(w, "name", t->name);
    ccq_jw_kstring(w, "dtype", ccq_dtype_name((ccq_dtype)t->dtype));
    ccq_jw_key(w, "shape");
    ccq_jw_array(w);
    for (int i = 0; i < t->rank; i++)
        ccq_jw_u64(w, t->shape[i]);
    ccq_jw_end(w);
    char shard[600];
    ccq_jw_kstring(w, "shard", ccq_source_shard_name(in->src, t, shard, sizeof shard));
    ccq_jw_ku64(w, "offset", t->offset);
    ccq_jw_ku64(w, "bytes", t->bytes);
    ccq_jw_end(w);
}

static void counts(ccq_jw *w, const char *key, const uint64_t *count, int n)
{
    ccq_jw_key(w, key);
    ccq_jw_array(w);
    for (int i = 0; i < n; i++)
        ccq_jw_u64(w, count[i]);
    ccq_jw_end(w);
}

static void lines(ccq_jw *w, const ccq_detail *d)
{
    ccq_jw_ki64(w, "v_min", d->v_min);
    ccq_jw_ki64(w, "v_max", d->v_max);
    ccq_jw_key(w, "lines");
    ccq_jw_array(w);
    for (size_t i = 0; i < d->lines; i++) {
        ccq_jw_object(w);
        ccq_jw_kdouble(w, "code_scale", (double)d->line[i].cs);
        ccq_jw_kdouble(w, "code_zp", (double)d->line[i].zp);
        ccq_jw_ku64(w, "columns", d->line[i].columns);
        ccq_jw_end(w);
    }
    ccq_jw_end(w);
}

/* A number, or the name of what is none. */
static void value(ccq_jw *w, double x)
{
    if (isfinite(x))
        ccq_jw_double(w, x);
    else
        ccq_jw_string(w, isnan(x) ? "nan" : x < 0 ? "-inf" : "inf");
}

static void decoded(ccq_jw *w, const ccq_decoded *d)
{
    ccq_jw_key(w, "corner");
    ccq_jw_array(w);
    for (int k = 0; k < d->corner_k; k++) {
        ccq_jw_array(w);
        for (int n = 0; n < d->corner_n; n++)
            value(w, (double)d->corner[k][n]);
        ccq_jw_end(w);
    }
    ccq_jw_end(w);
    ccq_jw_ku64(w, "nonfinite", d->nonfinite);
    ccq_jw_key(w, "nonfinite_at");
    ccq_jw_array(w);
    for (int i = 0; i < d->places; i++) {
        ccq_jw_array(w);
        ccq_jw_i64(w, d->place[i][0]);
        ccq_jw_i64(w, d->place[i][1]);
        ccq_jw_end(w);
    }
    ccq_jw_end(w);
}

static void detail(ccq_jw *w, const inspect *in, size_t number)
{
    const ccq_detail *d = &in->detail[number];
    const ccq_entry *e = d->entry;
    const ccq_values *v = &d->values;
    ccq_jw_object(w);
    ccq_jw_kstring(w, "name", e->name);
    ccq_jw_kstring(w, "type", ccq_type_name(e->type));
    ccq_jw_key(w, "shape");
    ccq_jw_array(w);
    ccq_jw_i64(w, e->k);
    ccq_jw_i64(w, e->n);
    ccq_jw_end(w);
    ccq_jw_ku64(w, "bytes", ccq_entry_bytes(e));
    ccq_jw_key(w, "stored");
    ccq_jw_array(w);
    for (int i = 0; i < d->tensors; i++)
        stored(w, in, d->tensor[i]);
    ccq_jw_end(w);
    ccq_jw_key(w, e->weight_scale ? "scales" : "values");
    ccq_jw_object(w);
    ccq_jw_ku64(w, "count", v->count);
    ccq_jw_ku64(w, "zeros", v->zeros);
    ccq_jw_ku64(w, "nonfinite", v->nonfinite);
    ccq_jw_kdouble(w, "min", v->min);
    ccq_jw_kdouble(w, "max", v->max);
    ccq_jw_kdouble(w, "mean", v->mean);
    ccq_jw_kdouble(w, "rms", v->rms);
    ccq_jw_end(w);
    if (e->weight_scale)
        counts(w, "codes", d->code, e->type == CCQ_TYPE_WINT4 ? 16 : 256);
    if (e->type == CCQ_TYPE_WINT2) {
        counts(w, "local_scales", d->local, 16);
        lines(w, d);
    }
    if (in->decoded)
        decoded(w, &in->decoded[number]);
    ccq_jw_end(w);
}

static void against(ccq_jw *w, const inspect *in)
{
    ccq_jw_key(w, "against");
    ccq_jw_array(w);
    for (size_t i = 0; i < in->rows; i++) {
        const ccq_difference *d = &in->row[i].difference;
        ccq_jw_object(w);
        ccq_jw_kstring(w, "name", in->row[i].entry->name);
        ccq_jw_kstring(w, "type", ccq_type_name(in->row[i].entry->type));
        ccq_jw_kbool(w, "equal", d->equal);
        ccq_jw_kdouble(w, "sqnr_db", ccq_difference_sqnr(d));
        ccq_jw_kdouble(w, "rel_l2", ccq_difference_rel_l2(d));
        ccq_jw_kdouble(w, "max_abs", d->max_abs);
        ccq_jw_kdouble(w, "cosine", ccq_difference_cosine(d));
        ccq_jw_end(w);
    }
    ccq_jw_end(w);
    if (inspect_has_wint2(&in->summary))
        ccq_jw_kstring(w, "k_order", inspect_order(in->src));
    if (!in->fit.matrices)
        return;
    ccq_jw_key(w, "k_order_fit");
    ccq_jw_object(w);
    if (in->fit.clear)
        ccq_jw_kstring(w, "fits", inspect_order(in->src));
    ccq_jw_kdouble(w, "fastdeploy_db", in->fit.db[CCQ_ORDER_FASTDEPLOY]);
    ccq_jw_kdouble(w, "plain_db", in->fit.db[CCQ_ORDER_PLAIN]);
    ccq_jw_ku64(w, "matrices", in->fit.matrices);
    ccq_jw_end(w);
}

static void finding_list(ccq_jw *w, const char *key, const ccq_finding *list, size_t count)
{
    ccq_jw_key(w, key);
    ccq_jw_array(w);
    for (size_t i = 0; i < count; i++) {
        ccq_jw_object(w);
        if (list[i].code)
            ccq_jw_kstring(w, "code", ccq_code_name(list[i].code));
        ccq_jw_kstring(w, "file", list[i].file);
        ccq_jw_kstring(w, "tensor", list[i].tensor);
        ccq_jw_kstring(w, "message", list[i].message);
        ccq_jw_end(w);
    }
    ccq_jw_end(w);
}

static void findings(ccq_jw *w, const ccq_verify_result *r)
{
    finding_list(w, "findings", r->finding, r->findings);
    finding_list(w, "warnings", r->warning, r->warnings);
    if (r->dropped)
        ccq_jw_ku64(w, "findings_left_out", r->dropped);
    keys(w, "notes", (const char *const *)r->note, r->notes);
}

char *inspect_json(const inspect *in)
{
    ccq_jw w;
    size_t size;
    ccq_jw_init(&w, 1);
    ccq_jw_object(&w);
    ccq_jw_kstring(&w, "schema", "ccq.inspect/1");
    ccq_jw_kstring(&w, "model", in->model);
    if (in->src) {
        summary(&w, in);
        layers(&w, &in->summary);
    }
    if (in->pattern) {
        ccq_jw_key(&w, "tensors");
        ccq_jw_array(&w);
        for (size_t i = 0; i < in->details; i++)
            detail(&w, in, i);
        ccq_jw_end(&w);
    }
    if (in->against)
        against(&w, in);
    if (in->verify)
        findings(&w, &in->verified);
    if (in->compare)
        inspect_diff_json(&w, in);
    ccq_jw_end(&w);
    return ccq_jw_take(&w, &size);
}
