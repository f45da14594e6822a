/* A logit is the same bits alone and in any batch, in any chunk of prefill rows, by
 * decode or by prefill, with any number of threads and any instruction set. */
#include "tests/check.h"

#include "libccq/run.h"

enum { PROMPTS = 4, LONGEST = 23 };

typedef struct setting {
    int numerics, threads;
    unsigned isa;
    int64_t prefill_rows;
    size_t prompts; /* of the list, run together */
    size_t first;
} setting;

typedef struct fixture {
    const char *dir;
    ccq_source *src;
    int64_t vocab;
    int32_t ids[PROMPTS][LONGEST];
    ccq_prompt prompt[PROMPTS];
    int32_t seq[PROMPTS * LONGEST], pos[PROMPTS * LONGEST];
    float *logits; /* of the run being made: [row][vocab] */
} fixture;

static const int64_t lengths[PROMPTS] = {1, LONGEST, 7, 12};

static void must(ccq_code code, const ccq_error *err)
{
    REQUIRE(!code, "%s", err->text);
}

static void make_prompts(fixture *f, uint64_t *state)
{
    for (int i = 0; i < PROMPTS; i++) {
        for (int64_t j = 0; j < lengths[i]; j++)
            f->ids[i][j] = (int32_t)(check_next(state) % 500);
        f->prompt[i].ids = f->ids[i];
        f->prompt[i].length = lengths[i];
    }
}

static ccq_model *open_model(const fixture *f, const setting *s, ccq_pool **pool)
{
    ccq_model_options o = {.numerics = s->numerics, .fp32_logits = 1};
    ccq_model *m;
    ccq_error err;

    *pool = ccq_pool_new(s->threads);
    REQUIRE(*pool, "no threads");
    ccq_ops_init(&o.ops, s->isa);
    o.pool = *pool;
    must(ccq_model_open(&m, f->src, &o, &err), &err);
    return m;
}

static ccq_code keep(void *ctx, const ccq_eval_block *b, ccq_error *err)
{
    fixture *f = ctx;
    size_t vocab = (size_t)f->vocab;

    (void)err;
    memcpy(f->logits + b->first * vocab, b->logits[0], b->rows * vocab * sizeof *f->logits);
    return CCQ_OK;
}

/* Logits of every row of prompts first..first+prompts-1; the caller frees them. */
static float *evaluate(fixture *f, const setting *s, size_t *rows)
{
    ccq_eval e = {.prompts = f->prompt + s->first,
                  .prompt_count = s->prompts,
                  .prefill_rows = s->prefill_rows,
                  .row_seq = f->seq,
                  .row_pos = f->pos,
                  .block = keep,
                  .ctx = f};
    ccq_pool *pool;
    ccq_error err;

    e.model[0] = open_model(f, s, &pool);
    for (size_t i = 0; i < s->prompts; i++)
        for (int64_t j = 0; j < e.prompts[i].length; j++, e.row_count++) {
            f->seq[e.row_count] = (int32_t)i;
            f->pos[e.row_count] = (int32_t)j;
        }
    f->logits = calloc(e.row_count * (size_t)f->vocab, sizeof *f->logits);
    REQUIRE(f->logits, "memory");
    must(ccq_evaluate(&e, NULL, &err), &err);
    ccq_model_close(e.model[0]);
    ccq_pool_free(pool);
    *rows = e.row_count;
    return f->logits;
}

static void same(const float *a, const float *b, size_t rows, int64_t vocab, const char *what)
{
    for (size_t r = 0; r < rows; r++)
        if (memcmp(a + r * (size_t)vocab, b + r * (size_t)vocab, (size_t)vocab * sizeof *a)) {
            CHECK(0, "%s: row %zu of %zu differs", what, r, rows);
            return;
        }
}

/* Every setting against all prompts at once, on one thread in one step. */
static void check_settings(fixture *f, int numerics)
{
    const setting base = {numerics, 1, ccq_cpu_isa(), 0, PROMPTS, 0};
    const struct {
        const char *name;
        setting s;
    } others[] = {
        {"2 threads", {numerics, 2, ccq_cpu_isa(), 0, PROMPTS, 0}},
        {"3 threads", {numerics, 3, ccq_cpu_isa(), 0, PROMPTS, 0}},
        {"7 threads", {numerics, 7, ccq_cpu_isa(), 0, PROMPTS, 0}},
        {"1 prefill row", {numerics, 2, ccq_cpu_isa(), 1, PROMPTS, 0}},
        {"5 prefill rows", {numerics, 2, ccq_cpu_isa(), 5, PROMPTS, 0}},
        {"13 prefill rows", {numerics, 2, ccq_cpu_isa(), 13, PROMPTS, 0}},
        {"C kernels", {numerics, 2, CCQ_ISA_C, 0, PROMPTS, 0}},
        {"C kernels, AVX2 allowed", {numerics, 1, CCQ_ISA_C | CCQ_ISA_AVX2, 6, PROMPTS, 0}},
    };
    size_t rows, at = 0;
    float *want = evaluate(f, &base, &rows);

    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        size_t n;
        float *got = evaluate(f, &others[i].s, &n);
        same(want, got, rows, f->vocab, others[i].name);
        free(got);
    }
    for (size_t i = 0; i < PROMPTS; i++) {
        setting alone = {numerics, 2, ccq_cpu_isa(), 0, 1, i};
        size_t n;
        float *got = evaluate(f, &alone, &n);
        same(want + at * (size_t)f->vocab, got, n, f->vocab, "alone");
        at += n;
        free(got);
    }
    free(want);
}

/* ---- Decode ------------------------------------------------------------------- */

enum { NEW = 6 };

typedef struct decoded {
    fixture *f;
    int32_t out[PROMPTS][NEW];
    float *logits; /* [PROMPTS][NEW][vocab] */
} decoded;

static int on_token(void *ctx, size_t request, int64_t number, int32_t id, const float *logits)
{
    decoded *d = ctx;
    size_t vocab = (size_t)d->f->vocab;

    (void)id;
    memcpy(d->logits + (request * NEW + (size_t)number) * vocab, logits, vocab * sizeof *logits);
    return 0;
}

static void generate(fixture *f, const setting *s, size_t batch, decoded *d)
{
    ccq_generate_options o = {
        .batch = batch, .prefill_rows = s->prefill_rows, .token = on_token, .ctx = d};
    ccq_request q[PROMPTS] = {0};
    ccq_pool *pool;
    ccq_model *m = open_model(f, s, &pool);
    ccq_timing timing = {0};
    ccq_error err;

    d->f = f;
    d->logits = calloc(PROMPTS * NEW * (size_t)f->vocab, sizeof *d->logits);
    REQUIRE(d->logits, "memory");
    for (int i = 0; i < PROMPTS; i++) {
        ccq_sampling_default(&q[i].sampling);
        q[i].sampling.seed = (uint64_t)i; /* sampled: the draw must not depend on the batch */
        q[i].prompt = f->prompt[i];
        q[i].max_tokens = NEW;
        q[i].out = d->out[i];
    }
    must(ccq_generate(m, q, PROMPTS, &o, &timing, &err), &err);
    for (int i = 0; i < PROMPTS; i++) {
        CHECK(q[i].count == NEW, "%d tokens", (int)q[i].count);
        CHECK(q[i].finish == CCQ_FINISH_LENGTH, "finish %d", q[i].finish);
    }
    CHECK(timing.prefill_rows == 1 + LONGEST + 7 + 12, "%d rows", (int)timing.prefill_rows);
    CHECK(timing.decode_rows == PROMPTS * (NEW - 1), "%d rows", (int)timing.decode_rows);
    ccq_model_close(m);
    ccq_pool_free(pool);
}

/* Row p of prompt + output, by prefill, is what decode saw when it drew p + 1. */
static void check_prefill_of_output(fixture *f, const setting *s, const decoded *d)
{
    for (int i = 0; i < PROMPTS; i++) {
        fixture g = *f;
        int32_t ids[LONGEST + NEW];
        setting alone = *s;
        size_t n, vocab = (size_t)f->vocab;
        memcpy(ids, f->ids[i], (size_t)lengths[i] * sizeof *ids);
        memcpy(ids + lengths[i], d->out[i], NEW * sizeof *ids);
        g.prompt[0].ids = ids;
        g.prompt[0].length = lengths[i] + NEW - 1;
        alone.prompts = 1;
        alone.first = 0;
        float *got = evaluate(&g, &alone, &n);
        same(d->logits + (size_t)i * NEW * vocab, got + (size_t)(lengths[i] - 1) * vocab, NEW,
             f->vocab, "decode against prefill");
        free(got);
    }
}

static void check_decode(fixture *f, int numerics)
{
    const setting base = {numerics, 1, ccq_cpu_isa(), 0, PROMPTS, 0};
    const setting chunked = {numerics, 3, ccq_cpu_isa(), 4, PROMPTS, 0};
    decoded want, got;

    generate(f, &base, 0, &want);
    for (size_t batch = 1; batch <= 3; batch++) {
        generate(f, &chunked, batch, &got);
        CHECK(!memcmp(want.out, got.out, sizeof want.out), "batch %zu: other tokens", batch);
        same(want.logits, got.logits, PROMPTS * NEW, f->vocab, "batch size");
        free(got.logits);
    }
    check_prefill_of_output(f, &base, &want);
    free(want.logits);
}

/* More sequences at a time than there are rows in a block of logits. */
static void check_many(fixture *f)
{
    enum { MANY = 600 };
    const setting s = {CCQ_FASTDEPLOY, 2, ccq_cpu_isa(), 0, 1, 0};
    static int32_t ids[MANY], out[2][MANY][2];
    static ccq_request q[MANY];
    ccq_pool *pool;
    ccq_model *m = open_model(f, &s, &pool);
    ccq_error err;

    for (size_t batch = 0; batch < 2; batch++) { /* all at once, and 9 at a time */
        ccq_generate_options o = {.batch = 9 * batch};
        for (int i = 0; i < MANY; i++) {
            ids[i] = i % 500;
            q[i] = (ccq_request){.prompt = {&ids[i], 1}, .max_tokens = 2, .out = out[batch][i]};
            ccq_sampling_default(&q[i].sampling);
        }
        must(ccq_generate(m, q, MANY, &o, NULL, &err), &err);
    }
    CHECK(!memcmp(out[0], out[1], sizeof out[0]), "other tokens with many sequences");
    ccq_model_close(m);
    ccq_pool_free(pool);
}

/* ---- Refusals ------------------------------------------------------------------ */

static void check_refusals(fixture *f)
{
    const setting s = {CCQ_EXACT, 1, CCQ_ISA_C, 0, 1, 0};
    ccq_generate_options o = {0};
    int32_t out[4], bad = (int32_t)f->vocab;
    ccq_pool *pool;
    ccq_model *m = open_model(f, &s, &pool);
    ccq_request q = {.max_tokens = 4, .out = out};
    ccq_error err;

    q.prompt.ids = f->ids[0];
    CHECK(ccq_generate(m, &q, 1, &o, NULL, &err) == CCQ_USAGE, "an empty prompt ran");
    q.prompt.length = 1;
    q.max_tokens = f->src->arch.max_position;
    CHECK(ccq_generate(m, &q, 1, &o, NULL, &err) == CCQ_USAGE, "the context was passed");
    q.max_tokens = 4;
    q.prompt.ids = &bad;
    CHECK(ccq_generate(m, &q, 1, &o, NULL, &err) == CCQ_USAGE, "an id outside ran");
    ccq_model_close(m);
    ccq_pool_free(pool);
}

/* More positions than any machine has memory for are an error before they are one
 * in the middle of a run. */
static void check_memory(fixture *f)
{
    const setting s = {CCQ_FASTDEPLOY, 1, CCQ_ISA_C, 0, 1, 0};
    const int64_t huge[2] = {INT64_C(1) << 45, INT64_MAX};
    ccq_session *session;
    ccq_pool *pool;
    ccq_model *m = open_model(f, &s, &pool);
    ccq_error err;

    for (int i = 0; i < 2; i++)
        CHECK(ccq_session_open(&session, m, 1, &huge[i], 1, &err) == CCQ_NO_MEMORY && !session,
              "a cache of %lld positions", (long long)huge[i]);
    CHECK(ccq_session_open(&session, m, 1, (const int64_t[]){8}, INT64_MAX, &err) ==
                  CCQ_NO_MEMORY &&
              !session,
          "work space for all rows");
    ccq_model_close(m);
    ccq_pool_free(pool);
}

/* ---- The cache of an evaluation, and stopping one ----------------------------- */

enum { LONG = 400, SHORT = 31, ROWS = 64, LISTS = 3 };

static void on_memory(void *ctx, uint64_t cache, uint64_t work)
{
    uint64_t *bytes = ctx;

    (void)work;
    *bytes = cache;
}

static ccq_code forget(void *ctx, const ccq_eval_block *b, ccq_error *err)
{
    (void)ctx;
    (void)b;
    (void)err;
    return CCQ_OK;
}

/* One long prompt among many short ones, and prompts of half a step at another place in
 * each group: what is paid for is near what one group needs. */
static void check_cache(fixture *f)
{
    const setting s = {CCQ_EXACT, 1, CCQ_ISA_C, 0, 1, 0};
    static int32_t ids[LONG];
    ccq_prompt prompt[1 + LISTS * SHORT];
    uint64_t got = 0, one;
    size_t count = 0;
    ccq_eval e = {.prompts = prompt,
                  .prefill_rows = ROWS,
                  .hooks = {.ctx = &got, .memory = on_memory},
                  .block = forget};
    int32_t seq[1 + LISTS * SHORT], pos[1 + LISTS * SHORT];
    ccq_session *session;
    ccq_pool *pool;
    ccq_error err;

    for (int k = 0; k < LISTS; k++)
        for (int i = 0; i < SHORT; i++) /* 30 of one row and one of 34 make a step */
            prompt[count++] = (ccq_prompt){ids, i == 10 * k ? 34 : 1};
    prompt[count++] = (ccq_prompt){ids, LONG};
    for (size_t i = 0; i < count; i++) {
        seq[i] = (int32_t)i;
        pos[i] = (int32_t)prompt[i].length - 1;
    }
    e.prompt_count = e.row_count = count;
    e.row_seq = seq;
    e.row_pos = pos;
    e.model[0] = open_model(f, &s, &pool);
    must(ccq_session_open(&session, e.model[0], 1, (const int64_t[]){1}, 1, &err), &err);
    one = ccq_session_cache_bytes(session);
    ccq_session_close(session);
    must(ccq_evaluate(&e, NULL, &err), &err);
    CHECK(got <= (LONG + 2 * ROWS) * one, "%llu positions are held, %d are needed",
          (unsigned long long)(got / one), LONG);
    ccq_model_close(e.model[0]);
    ccq_pool_free(pool);
}

static int count_down(void *ctx)
{
    int *left = ctx;

    return (*left)-- <= 0;
}

static void check_cancel(fixture *f)
{
    int left = 3, out_of_steps = 1000;
    ccq_pool *pool = ccq_pool_new(1);
    ccq_model_options o = {.pool = pool, .cancelled = count_down, .cancel_ctx = &left};
    ccq_generate_options g = {0};
    int32_t out[900];
    ccq_request q = {.prompt = f->prompt[0], .max_tokens = 900, .out = out};
    ccq_model *m;
    ccq_error err;

    REQUIRE(pool, "no threads");
    ccq_ops_init(&o.ops, CCQ_ISA_C);
    CHECK(ccq_model_open(&m, f->src, &o, &err) == CCQ_INTERRUPTED && !m, "opened all the same");
    o.cancel_ctx = &out_of_steps;
    must(ccq_model_open(&m, f->src, &o, &err), &err);
    CHECK(ccq_generate(m, &q, 1, &g, NULL, &err) == CCQ_INTERRUPTED, "ran on");
    CHECK(q.count > 0 && q.count < 900, "%d tokens", (int)q.count);
    ccq_model_close(m);
    ccq_pool_free(pool);
}

static void check_model(const char *dir, uint64_t *state)
{
    fixture f = {.dir = dir};
    ccq_error err;

    must(ccq_source_open(&f.src, dir, NULL, &err), &err);
    f.vocab = f.src->arch.vocab;
    make_prompts(&f, state);
    for (int numerics = CCQ_FASTDEPLOY; numerics <= CCQ_EXACT; numerics++) {
        check_settings(&f, numerics);
        check_decode(&f, numerics);
    }
    check_many(&f);
    check_refusals(&f);
    check_memory(&f);
    check_cache(&f);
    check_cancel(&f);
    ccq_source_close(f.src);
}

int main(void)
{
    uint64_t state = check_seed(1);
    const char *shared = getenv("CCQ_SHARED");
    char path[4096];

    check_model(check_data("ernie-micro"), &state);
    snprintf(path, sizeof path, "%s/models/ernie-micro/wint2", shared ? shared : "../shared");
    if (access(path, R_OK) == 0)
        check_model(path, &state);
    return check_done();
}
