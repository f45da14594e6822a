/* Layer by layer every logit, router choice and trace line is the same bits as with the
 * whole model in memory, whatever the memory limit, the steps, and where rows are kept. */
#include "tests/check.h"

#include "libccq/run.h"

#include <unistd.h>

enum { PROMPTS = 6, LONGEST = 41 };

static const int64_t lengths[PROMPTS] = {1, LONGEST, 7, 12, 33, 2};

/* What came out: everything that a caller can see of an evaluation, in its order. */
typedef struct output {
    size_t rows; /* given so far */
    int64_t vocab, layers, k;
    int models, no_routes;
    float *logits[2];
    int32_t *ids[2];
    float *weights[2], *margin[2];
    char *trace;
    size_t trace_size;
    FILE *out;
    ccq_layers_plan plan;
    uint64_t done, total;
} output;

typedef struct fixture {
    ccq_source *src;
    ccq_pool *pool;
    int32_t ids[PROMPTS][LONGEST];
    ccq_prompt prompt[PROMPTS];
    int32_t seq[PROMPTS * LONGEST], pos[PROMPTS * LONGEST];
    size_t rows;
} fixture;

typedef struct setting {
    const char *name;
    int models, trace, no_routes;
    int64_t prefill_rows;
    uint64_t limit; /* layered: 0 none */
    const char *spill;
} setting;

static void must(ccq_code code, const ccq_error *err)
{
    REQUIRE(!code, "%s", err->text);
}

static void make_rows(fixture *f, uint64_t *state)
{
    f->rows = 0;
    for (int i = 0; i < PROMPTS; i++) {
        for (int64_t j = 0; j < lengths[i]; j++)
            f->ids[i][j] = (int32_t)(check_next(state) % 500);
        f->prompt[i] = (ccq_prompt){f->ids[i], lengths[i]};
        /* of the fourth prompt no row is wanted; others have gaps, and a rest that need not
         * run */
        for (int64_t j = 0; i != 3 && j < lengths[i] && j < 38; j++)
            if (i != 4 || check_next(state) % 3 == 0) {
                f->seq[f->rows] = i;
                f->pos[f->rows++] = (int32_t)j;
            }
    }
}

/* ---- One evaluation ------------------------------------------------------------- */

static ccq_code on_block(void *ctx, const ccq_eval_block *b, ccq_error *err)
{
    output *o = ctx;

    (void)err;
    CHECK(b->first == o->rows, "block at row %zu after %zu rows", b->first, o->rows);
    o->rows += b->rows;
    for (int i = 0; i < o->models; i++) {
        const ccq_routes *r = &b->routes[i];
        size_t n = (size_t)(o->layers * o->k), v = (size_t)o->vocab, l = (size_t)o->layers;
        memcpy(o->logits[i] + b->first * v, b->logits[i], b->rows * v * sizeof(float));
        if (o->no_routes)
            continue;
        REQUIRE(r->rows == (int64_t)b->rows && r->layers == o->layers && r->k == o->k,
                "routes of %d rows, %d layers", (int)r->rows, (int)r->layers);
        memcpy(o->ids[i] + b->first * n, r->ids, b->rows * n * sizeof(int32_t));
        memcpy(o->weights[i] + b->first * n, r->weights, b->rows * n * sizeof(float));
        memcpy(o->margin[i] + b->first * l, r->margin, b->rows * l * sizeof(float));
    }
    return CCQ_OK;
}

static void on_trace(void *ctx, size_t sequence, int64_t position, int32_t id,
                     const ccq_routes *one)
{
    output *o = ctx;

    fprintf(o->out, "%zu %d %d:", sequence, (int)position, (int)id);
    for (int64_t i = 0; i < one->layers * one->k; i++)
        fprintf(o->out, " %d %a", (int)one->ids[i], (double)one->weights[i]);
    for (int64_t i = 0; i < one->layers; i++)
        fprintf(o->out, " %a", (double)one->margin[i]);
    fputc('\n', o->out);
}

static void on_layers(void *ctx, const ccq_layers_plan *plan)
{
    output *o = ctx;

    o->plan = *plan;
}

static void on_progress(void *ctx, uint64_t done, uint64_t total)
{
    output *o = ctx;

    CHECK(done > o->done, "no progress after %d", (int)o->done);
    o->done = done;
    o->total = total;
}

static void open_output(const fixture *f, const setting *s, output *o)
{
    *o = (output){.vocab = f->src->arch.vocab, .k = f->src->arch.moe_k, .models = s->models,
                  .no_routes = s->no_routes};
    for (int64_t i = 0; i < f->src->arch.layers; i++)
        o->layers += f->src->arch.layer_moe[i];
    for (int i = 0; i < s->models; i++) {
        o->logits[i] = calloc(f->rows * (size_t)o->vocab, sizeof(float));
        o->ids[i] = calloc(f->rows * (size_t)(o->layers * o->k) + 1, sizeof(int32_t));
        o->weights[i] = calloc(f->rows * (size_t)(o->layers * o->k) + 1, sizeof(float));
        o->margin[i] = calloc(f->rows * (size_t)o->layers + 1, sizeof(float));
        REQUIRE(o->logits[i] && o->ids[i] && o->weights[i] && o->margin[i], "memory");
    }
    o->out = open_memstream(&o->trace, &o->trace_size);
    REQUIRE(o->out, "memory");
}

static void free_output(output *o)
{
    for (int i = 0; i < 2; i++) {
        free(o->logits[i]);
        free(o->ids[i]);
        free(o->weights[i]);
        free(o->margin[i]);
    }
    free(o->trace);
}

static ccq_model_options options_of(const fixture *f, int numerics)
{
    ccq_model_options o = {.numerics = numerics, .pool = f->pool};

    ccq_ops_init(&o.ops, ccq_cpu_isa());
    return o;
}

/* Of two models the second has the other numerics, so that they cannot be mixed up. */
static ccq_code evaluate(fixture *f, const setting *s, int numerics, int layered, output *o,
                         ccq_error *err)
{
    ccq_eval e = {.prompts = f->prompt,
                  .prompt_count = PROMPTS,
                  .row_seq = f->seq,
                  .row_pos = f->pos,
                  .row_count = f->rows,
                  .prefill_rows = s->prefill_rows,
                  .no_routes = s->no_routes,
                  .spill_dir = s->spill,
                  .hooks = {.ctx = o, .progress = on_progress, .layers = on_layers},
                  .block = on_block,
                  .ctx = o};
    ccq_code code = CCQ_OK;

    open_output(f, s, o);
    if (s->trace)
        e.hooks.trace = on_trace;
    for (int i = 0; i < s->models; i++) {
        ccq_model_options m = options_of(f, i ? !numerics : numerics);
        m.layered = layered;
        m.mem_limit = layered ? s->limit : 0;
        must(ccq_model_open(&e.model[i], f->src, &m, err), err);
    }
    code = ccq_evaluate(&e, NULL, err);
    if (!code && layered)
        CHECK(ccq_model_bytes(e.model[0]) <= o->plan.weights, "%d bytes of weights, %d planned",
              (int)ccq_model_bytes(e.model[0]), (int)o->plan.weights);
    ccq_model_close(e.model[0]);
    ccq_model_close(e.model[1]);
    fclose(o->out);
    return code;
}

/* ---- The same bits -------------------------------------------------------------- */

static void same(const setting *s, const char *what, const void *a, const void *b, size_t size)
{
    CHECK(!memcmp(a, b, size), "%s: %s differ", s->name, what);
}

static void compare(const fixture *f, const setting *s, const output *a, const output *b)
{
    size_t sets = f->rows * (size_t)a->layers;

    CHECK(b->rows == f->rows, "%s: %zu rows of %zu", s->name, b->rows, f->rows);
    CHECK(b->done == b->total, "%s: progress ends at %d of %d", s->name, (int)b->done,
          (int)b->total);
    for (int i = 0; i < s->models; i++) {
        same(s, "logits", a->logits[i], b->logits[i], f->rows * (size_t)a->vocab * sizeof(float));
        if (s->no_routes)
            continue;
        same(s, "experts", a->ids[i], b->ids[i], sets * (size_t)a->k * sizeof(int32_t));
        same(s, "weights", a->weights[i], b->weights[i], sets * (size_t)a->k * sizeof(float));
        same(s, "margins", a->margin[i], b->margin[i], sets * sizeof(float));
    }
    CHECK(a->trace_size == b->trace_size, "%s: trace of %zu bytes, not %zu", s->name,
          b->trace_size, a->trace_size);
    if (a->trace_size == b->trace_size)
        same(s, "traces", a->trace, b->trace, a->trace_size);
    CHECK(!s->trace || a->trace_size > 0, "%s: no trace", s->name);
}

static void check_same(fixture *f, int numerics, uint64_t least, const char *dir)
{
    const setting settings[] = {
        {"no limit", 1, 1, 0, 0, 0, NULL},
        {"two models", 2, 1, 0, 0, 0, NULL},
        {"without routes", 2, 0, 1, 0, 0, NULL},
        {"traced without routes", 1, 1, 1, 0, 0, NULL},
        {"1 row a step", 1, 1, 0, 1, 0, NULL},
        {"5 rows a step", 2, 0, 0, 5, 0, NULL},
        {"13 rows a step", 1, 0, 0, 13, 0, NULL},
        {"least memory, files", 1, 1, 0, 0, least, dir},
        {"13 rows a step, files", 1, 0, 0, 13, least, dir},
    };

    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        const setting *s = &settings[i];
        output a, b;
        ccq_error err;
        must(evaluate(f, s, numerics, 0, &a, &err), &err);
        must(evaluate(f, s, numerics, 1, &b, &err), &err);
        compare(f, s, &a, &b);
        CHECK(!s->limit || (b.plan.spilled > 0 && b.plan.total <= s->limit),
              "%s: %d bytes spilled, %d of %d in memory", s->name, (int)b.plan.spilled,
              (int)b.plan.total, (int)s->limit);
        free_output(&a);
        free_output(&b);
    }
}

/* Two models whose rows partly fit. */
static void check_partly(fixture *f, uint64_t least, const char *dir)
{
    setting s = {"partly in files", 2, 1, 0, 16, 0, dir};
    output a, b;
    ccq_error err;

    must(evaluate(f, &s, CCQ_EXACT, 0, &a, &err), &err);
    for (int part = 0; part < 4; part++) {
        s.limit = 2 * least + (uint64_t)part * 40000;
        must(evaluate(f, &s, CCQ_EXACT, 1, &b, &err), &err);
        compare(f, &s, &a, &b);
        CHECK(b.plan.total <= s.limit, "%d bytes", (int)b.plan.total);
        free_output(&b);
    }
    free_output(&a);
}

/* ---- Limits ---------------------------------------------------------------------- */

/* The number of bytes that a refusal names is enough; less is refused with it. */
static uint64_t find_least(fixture *f, const char *dir)
{
    setting s = {"refused", 1, 0, 0, 0, 1000, dir};
    unsigned long long least = 0;
    output o;
    ccq_error err = {0};
    const char *at;

    CHECK(evaluate(f, &s, CCQ_EXACT, 1, &o, &err) == CCQ_NO_MEMORY, "1000 bytes were enough");
    CHECK(o.rows == 0, "rows came all the same");
    CHECK(strstr(err.text, "the memory limit is 1000"), "%s", err.text);
    at = strstr(err.text, "at least ");
    REQUIRE(at && sscanf(at, "at least %llu", &least) == 1, "%s", err.text);
    free_output(&o);
    s.limit = least - 1;
    CHECK(evaluate(f, &s, CCQ_EXACT, 1, &o, &err) == CCQ_NO_MEMORY, "%llu were enough", least - 1);
    free_output(&o);
    s.limit = least;
    s.spill = NULL;
    CHECK(evaluate(f, &s, CCQ_EXACT, 1, &o, &err) == CCQ_NO_MEMORY, "rows that have no place");
    free_output(&o);
    s.spill = "/nonexistent/ccq";
    CHECK(evaluate(f, &s, CCQ_EXACT, 1, &o, &err) == CCQ_CREATE, "%s", err.text);
    CHECK(strstr(err.text, "/nonexistent/ccq: "), "%s", err.text);
    free_output(&o);
    return least;
}

/* ---- Stopping --------------------------------------------------------------------- */

static int count_down(void *ctx)
{
    int *left = ctx;

    return (*left)-- <= 0;
}

static void check_cancel(fixture *f)
{
    output o;
    ccq_error err;
    int most = 1 << 20, turn = 0, left;

    for (int start = 0; start < most && turn < 40; start += turn < 20 ? 1 : 37, turn++) {
        setting s = {"cancelled", 1, 0, 0, 16, 0, NULL};
        ccq_model_options m = options_of(f, CCQ_EXACT);
        ccq_eval e = {.prompts = f->prompt, .prompt_count = PROMPTS, .row_seq = f->seq,
                      .row_pos = f->pos, .row_count = f->rows, .prefill_rows = 16,
                      .block = on_block, .ctx = &o};
        open_output(f, &s, &o);
        m.layered = 1;
        m.cancelled = count_down;
        m.cancel_ctx = &left;
        left = start;
        must(ccq_model_open(&e.model[0], f->src, &m, &err), &err);
        ccq_code code = ccq_evaluate(&e, NULL, &err);
        CHECK(code == CCQ_INTERRUPTED || (!code && left >= 0), "code %d", (int)code);
        CHECK(start || o.rows == 0, "rows at once");
        if (!code)
            most = 0;
        ccq_model_close(e.model[0]);
        fclose(o.out);
        free_output(&o);
    }
    CHECK(turn > 5, "it is asked %d times", turn);
}

/* A model that has no layers runs no step. */
static void check_step(fixture *f)
{
    ccq_model_options m = options_of(f, CCQ_EXACT);
    ccq_generate_options g = {0};
    int32_t out[2];
    ccq_request q = {.prompt = f->prompt[1], .max_tokens = 2, .out = out};
    ccq_model *model;
    ccq_error err;

    ccq_sampling_default(&q.sampling);
    m.layered = 1;
    must(ccq_model_open(&model, f->src, &m, &err), &err);
    CHECK(ccq_generate(model, &q, 1, &g, NULL, &err) == CCQ_BUG, "generated without layers");
    ccq_model_close(model);
}

static void check_model(const char *dir, uint64_t *state)
{
    const char *tmp = getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";
    fixture f = {.pool = ccq_pool_new(2)};
    ccq_error err;
    uint64_t least;

    REQUIRE(f.pool, "no threads");
    must(ccq_source_open(&f.src, dir, NULL, &err), &err);
    make_rows(&f, state);
    least = find_least(&f, tmp);
    for (int numerics = CCQ_FASTDEPLOY; numerics <= CCQ_EXACT; numerics++)
        check_same(&f, numerics, least, tmp);
    check_partly(&f, least, tmp);
    check_cancel(&f);
    check_step(&f);
    ccq_source_close(f.src);
    ccq_pool_free(f.pool);
}

int main(void)
{
    uint64_t state = check_seed(1);
    const char *shared = getenv("CCQ_SHARED");
    char path[4096];

    check_model(check_data("ernie-micro"), &state);
    for (int i = 0; i < 2; i++) { /* quantized; with separate, transposed pieces */
        snprintf(path, sizeof path, "%s/models/ernie-micro/%s", shared ? shared : "../shared",
                 i ? "pt" : "wint2");
        if (access(path, R_OK) == 0)
            check_model(path, &state);
    }
    return check_done();
}
