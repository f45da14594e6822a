#include "tests/read_model.h"
#include "tests/check.h"

#include "libccq/layers.h"

static void must(ccq_code code, const ccq_error *err)
{
    REQUIRE(code == CCQ_OK, "%s", err->text);
}

static void one_layer(ccq_model *m, ccq_session *s, int64_t i, const ccq_span *span, float *x)
{
    ccq_layer l;
    ccq_error err;
    must(ccq_layer_load(m, i, &l, &err), &err);
    ccq_session_reset(s, 0);
    must(ccq_session_attend(s, &l, i, span, 1, x, &err), &err);
    must(ccq_session_mlp(s, &l, i, x, &err), &err);
    ccq_layer_free(m, &l);
}

void read_run(const ccq_transform *t, const ccq_source *src, ccq_pool *pool, const int32_t *ids,
              int count, float *logits)
{
    ccq_model_options o = {.numerics = CCQ_EXACT, .rounding = CCQ_ROUND_FUSED, .pool = pool,
                           .layered = 1, .transform = t};
    ccq_span span = {.rows = count, .ids = ids};
    int64_t capacity = count;
    float *x = calloc((size_t)(count * src->arch.hidden), sizeof *x);
    ccq_model *m;
    ccq_session *s;
    ccq_error err;
    REQUIRE(x, "memory");
    ccq_ops_init(&o.ops, ~0u);
    must(ccq_model_open(&m, src, &o, &err), &err);
    must(ccq_session_open(&s, m, 1, &capacity, count, &err), &err);
    must(ccq_embed_load(m, &err), &err);
    must(ccq_session_embed(s, ids, count, x, &err), &err);
    ccq_embed_free(m);
    for (int64_t i = 0; i < src->arch.layers; i++)
        one_layer(m, s, i, &span, x);
    must(ccq_head_load(m, &err), &err);
    must(ccq_session_head(s, x, count, logits, &err), &err);
    ccq_head_free(m);
    CHECK(m->bytes == (uint64_t)src->arch.hidden * sizeof(float),
          "%s: %llu bytes of weights are left", src->dir, (unsigned long long)m->bytes);
    ccq_session_close(s);
    ccq_model_close(m);
    free(x);
}
