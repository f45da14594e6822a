/* Opening models: every naming and storage form gives the same entries, and a
 * model whose parts disagree is refused with the right code. */
#include "libccq/source.h"
#include "tests/check.h"

static ccq_source *open_model(const char *path)
{
    ccq_error err;
    ccq_source *src = NULL;
    ccq_code code = ccq_source_open(&src, path, NULL, &err);
    REQUIRE(code == CCQ_OK, "%s: %s", ccq_code_name(code), err.text);
    return src;
}

/* The same model under torch names: same entries, same bits. */
static void check_torch_names(void)
{
    char *paddle = strdup(check_shared("models/ernie-micro"));
    ccq_source *a = open_model(paddle), *b = open_model(check_shared("models/ernie-micro/pt"));
    size_t i;
    ccq_error err;
    CHECK(a->count == b->count, "%zu and %zu entries", a->count, b->count);
    CHECK(!a->arch.torch_names && b->arch.torch_names, "naming");
    for (i = 0; i < a->count && i < b->count; i++) {
        const ccq_entry *x = &a->entry[i], *y = &b->entry[i];
        size_t n = (size_t)(x->k * x->n);
        uint16_t *p = malloc(n * 2), *q = malloc(n * 2);
        CHECK(strcmp(x->name, y->name) == 0, "%s and %s", x->name, y->name);
        REQUIRE(x->k == y->k && x->n == y->n, "%s: shapes differ", x->name);
        REQUIRE(p && q, "memory");
        CHECK(!ccq_source_read_bf16(a, x, p, &err), "%s", err.text);
        CHECK(!ccq_source_read_bf16(b, y, q, &err), "%s", err.text);
        CHECK(memcmp(p, q, n * 2) == 0, "%s: bits differ", x->name);
        free(p);
        free(q);
    }
    ccq_source_close(a);
    ccq_source_close(b);
    free(paddle);
}

static void check_figures(void)
{
    ccq_source *s = open_model(check_shared("models/ernie-micro"));
    CHECK(s->parameters == 1757332, "%llu parameters", (unsigned long long)s->parameters);
    CHECK(s->arch.moe_start == 1 && s->arch.moe_end == 5 && s->arch.shared == 1, "MoE layers");
    CHECK(s->arch.inter == 256 && s->arch.moe_inter == 128 && !s->arch.tied, "widths");
    ccq_source_close(s);
    s = open_model(check_shared("models/ernie-mini/wint2"));
    CHECK(s->arch.quantized && !s->arch.order_recorded && s->notes == 1,
          "quantized, order assumed");
    CHECK(ccq_source_find(s, CCQ_ROLE_DOWN, CCQ_BLOCK_EXPERT, 5, 7, 0)->type == CCQ_TYPE_WINT2,
          "type");
    CHECK(ccq_source_find(s, CCQ_ROLE_O, CCQ_BLOCK_ATTENTION, 5, -1, 0)->type == CCQ_TYPE_WINT8,
          "type");
    CHECK(!ccq_source_find(s, CCQ_ROLE_DOWN, CCQ_BLOCK_EXPERT, 5, 8, 0), "no expert 8");
    ccq_source_close(s);
}

/* --set fills gaps only. */
static void check_set(void)
{
    const char *dir = check_shared("models/ernie-micro");
    const char *good[] = {"some_key=7", "other=word"}, *bad[] = {"hidden_size=128"};
    ccq_source_options options = {-1, good, 2, -1};
    ccq_source *s = NULL;
    ccq_error err;
    int64_t v = 0;
    CHECK(!ccq_source_open(&s, dir, &options, &err), "%s", err.text);
    CHECK(s && ccq_config_int(s->config, "some_key", &v) && v == 7, "some_key");
    CHECK(s && strcmp(ccq_config_string(s->config, "other"), "word") == 0, "other");
    ccq_source_close(s);
    options.set = bad;
    options.sets = 1;
    CHECK(ccq_source_open(&s, dir, &options, &err) == CCQ_USAGE, "a key that is there");
}

int main(void)
{
    check_torch_names();
    check_figures();
    check_set();
    return check_done();
}
