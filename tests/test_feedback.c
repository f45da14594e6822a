/* Risk: encoding with feedback departs from its formulas, from itself on another
 * instruction set or beside other columns, or fails on columns and statistics that are
 * out of the ordinary. Every step is checked against fp64 and the definition. */
#include "tests/feedback_bed.h"

static uint64_t state;

typedef struct result {
    uint8_t bytes[CCQ_PANEL][MOST / 4], local[CCQ_PANEL][MOST / 64];
    ccq_column column[CCQ_PANEL];
    ccq_feedback_figures figures;
} result;

static void encode(bed *b, const ccq_ops *ops, unsigned leave, int passes, int gain, int count,
                   result *r)
{
    const ccq_feedback_params p = {.leave = leave, .passes = passes, .gain = gain};

    memset(r, 0, sizeof *r);
    for (int c = 0; c < CCQ_PANEL; c++)
        r->column[c] = (ccq_column){.bytes = r->bytes[c], .local = r->local[c]};
    ccq_feedback_panel(ops, &b->enc, b->m, &p, b->target, b->original, count, r->column,
                       &r->figures, b->scratch);
}

/* The weight in row i of column c, without roundings or as it is served. */
static double decoded(const result *r, int c, int i, int rounding)
{
    const ccq_column *x = &r->column[c];
    int32_t word = ccq_word_fused(x->bytes[i / 4], x->code_scale, x->code_zp);
    float g = ccq_group_scale(x->local[i / 64], ccq_bf16_to_f32(x->super), rounding);

    return (double)ccq_code_weight(ccq_code_value(word, i % 4), g, rounding);
}

static double loss_of(const bed *b, const result *r, int c, int rounding)
{
    double e[MOST];

    for (int i = 0; i < b->k; i++)
        e[i] = (double)b->target[i * CCQ_PANEL + c] - decoded(r, c, i, rounding);
    return data_norm(b->h, b->k, e);
}

/* ---- Instruction sets ---------------------------------------------------- */

static void same(const result *a, const result *b, int count, const char *isa, const char *what)
{
    for (int c = 0; c < count; c++) {
        const ccq_column *x = &a->column[c], *y = &b->column[c];
        CHECK(!memcmp(a->bytes[c], b->bytes[c], sizeof a->bytes[c]) &&
                  !memcmp(a->local[c], b->local[c], sizeof a->local[c]) && x->super == y->super &&
                  x->code_scale == y->code_scale && x->code_zp == y->code_zp &&
                  x->status == y->status,
              "%s, %s: column %d has other codes", isa, what, c);
        CHECK(!memcmp(&x->error, &y->error, 3 * sizeof(double)) &&
                  !memcmp(&a->figures.loss[c], &b->figures.loss[c], sizeof(double)) &&
                  !memcmp(&a->figures.plain[c], &b->figures.plain[c], sizeof(double)),
              "%s, %s: column %d has other figures", isa, what, c);
    }
}

static void check_isa(const ccq_ops *c, const ccq_ops *x, const ccq_encoder *enc)
{
    static const struct { int k, kind, count, nasty; unsigned leave; } cases[] = {
        {64, 0, 16, 0, 0}, {128, 1, 5, 0, 0}, {192, 2, 16, 1, 0}, {128, 5, 16, 1, 0},
        {128, 6, 7, 0, 0}, {256, 3, 16, 0, CCQ_FEEDBACK_NO_TABLE},
        {512, 4, 1, 0, CCQ_FEEDBACK_NO_TABLE | CCQ_FEEDBACK_NO_JOINT},
        {128, 4, 16, 0, CCQ_FEEDBACK_FROZEN | CCQ_FEEDBACK_NO_PASSES},
    };
    static result a, b;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bed t = {.enc = *enc};
        char what[64];
        make_bed(&t, &state, cases[i].k, cases[i].kind, 1.0);
        draw_columns(&t, &state, cases[i].count, cases[i].nasty);
        encode(&t, c, cases[i].leave, 0, 4, cases[i].count, &a);
        encode(&t, x, cases[i].leave, 0, 4, cases[i].count, &b);
        snprintf(what, sizeof what, "case %zu", i);
        same(&a, &b, cases[i].count, x->name, what);
        free_bed(&t);
    }
}

/* A column alone and beside others; half of them with H times a power of two. */
static void check_alone(const ccq_ops *ops, const ccq_encoder *enc)
{
    static result all, one;
    const size_t size = 128 * CCQ_PANEL * sizeof(float);
    float *w[2] = {malloc(size), malloc(size)};
    uint64_t before = state;
    bed t = {.enc = *enc};

    make_bed(&t, &state, 128, 2, 1.0);
    draw_columns(&t, &state, CCQ_PANEL, 1);
    encode(&t, ops, 0, 0, 4, CCQ_PANEL, &all);
    memcpy(w[0], t.target, size), memcpy(w[1], t.original, size);
    for (int c = 0; c < CCQ_PANEL; c++) {
        if (c == CCQ_PANEL / 2) {
            free_bed(&t);
            state = before;
            make_bed(&t, &state, 128, 2, 0x1p40);
        }
        for (int i = 0; i < 128 * CCQ_PANEL; i++) {
            t.target[i] = i % CCQ_PANEL == 0 ? w[0][i + c] : 0.0f;
            t.original[i] = i % CCQ_PANEL == 0 ? w[1][i + c] : 0.0f;
        }
        encode(&t, ops, 0, 0, 4, 1, &one);
        CHECK(!memcmp(one.bytes[0], all.bytes[c], 32) && !memcmp(one.local[0], all.local[c], 2) &&
                  one.column[0].super == all.column[c].super &&
                  one.column[0].status == all.column[c].status,
              "%s: column %d differs from itself alone", ops->name, c);
    }
    free_bed(&t);
    free(w[0]), free(w[1]);
}

static void check_status(const ccq_ops *ops, const ccq_encoder *enc)
{
    static const int want[8] = {0, CCQ_COLUMN_ZERO, 0, 0, CCQ_COLUMN_HUGE, CCQ_COLUMN_ZERO, 0, 0};
    static result r;
    bed t = {.enc = *enc};

    make_bed(&t, &state, 128, 2, 1e-30);
    draw_columns(&t, &state, CCQ_PANEL, 1);
    for (int i = 0; i < 128; i++) /* up to the largest float */
        t.original[i * CCQ_PANEL + 4] = t.target[i * CCQ_PANEL + 4] = i & 1 ? 3e38f : -3e38f;
    encode(&t, ops, 0, 0, 4, CCQ_PANEL, &r);
    for (int c = 0; c < CCQ_PANEL; c++) {
        int status = c == 12 ? r.column[c].status : want[c % 8];
        CHECK(r.column[c].status == status, "column %d: status %d, not %d", c, r.column[c].status,
              status);
        CHECK(status != CCQ_COLUMN_ZERO || (r.column[c].super == 0x3f80 && !r.local[c][0]),
              "column %d is not zeros", c);
        CHECK(status || r.figures.loss[c] < 0.2 * r.figures.plain[c] || c % 8 == 3,
              "column %d: loss %g of %g", c, r.figures.loss[c], r.figures.plain[c]);
    }
    free_bed(&t);
}

/* ---- Formulas ------------------------------------------------------------ */

static void check_identities(const bed *b, const result *r, int c)
{
    double e[MOST], sum = 0.0, loss = loss_of(b, r, c, CCQ_ROUND_NONE);
    double served = loss_of(b, r, c, CCQ_ROUND_FUSED);

    for (int k = 0; k < b->k; k++) {
        double x = 0.0;
        e[k] = (double)b->target[k * CCQ_PANEL + c] - decoded(r, c, k, CCQ_ROUND_NONE);
        for (int j = 0; j < k; j++)
            x += e[j] * b->u[j * b->k + k];
        sum += b->u[k * b->k + k] * (e[k] + x) * (e[k] + x);
    }
    CHECK(fabs(sum - loss) <= 1e-9 * loss, "column %d: squares %g, loss %g", c, sum, loss);
    CHECK(fabs(r->figures.loss[c] - served) <= 1e-3 * served, "column %d: figure %g, loss %g", c,
          r->figures.loss[c], served);
}

/* t_B and M_B in fp64 from the errors of earlier rows. */
static void targets(const bed *b, const double *e, const float *w, int c, int first, double t[4],
                    double m[4][4])
{
    int n = b->k;

    for (int i = 0; i < 4; i++) {
        int k = first + i;
        t[i] = (double)w[k * CCQ_PANEL + c];
        for (int j = 0; j < first; j++)
            t[i] += e[j] * b->u[j * n + k];
        for (int j = 0; j < i; j++)
            t[i] += b->u[(first + j) * n + k] * ((double)w[(first + j) * CCQ_PANEL + c] - t[j]);
    }
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) {
            m[i][j] = 0.0;
            for (int k = i > j ? i : j; k < 4; k++)
                m[i][j] += (k == i ? 1.0 : b->u[(first + i) * n + first + k]) *
                           b->u[(first + k) * (n + 1)] *
                           (k == j ? 1.0 : b->u[(first + j) * n + first + k]);
        }
}

static double block_loss(const ccq_book *book, int code, double g, const double t[4],
                         double m[4][4], double d[4])
{
    double sum = 0.0;

    for (int i = 0; i < 4; i++)
        d[i] = t[i] - g * (book->value[i][code] / -256.0);
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++)
            sum += d[i] * m[i][j] * d[j];
    return sum;
}

/* A group at local scale l, codes by the definition, or those given: its loss; e goes on. */
static double walk(const bed *b, double *e, int c, int group, double g, const uint8_t *given)
{
    const ccq_book *book = &b->enc.book[0];
    double total = 0.0, t[4], m[4][4], d[4];

    for (int first = 64 * group; first < 64 * group + 64; first += 4) {
        double best = INFINITY;
        int code = 0;
        targets(b, e, b->target, c, first, t, m);
        for (int v = 0; v < 256; v++) {
            double x = block_loss(book, v, g, t, m, d);
            code = x < best ? v : code;
            best = x < best ? x : best;
        }
        if (given) {
            double x = block_loss(book, given[first / 4], g, t, m, d);
            CHECK(x <= best + 1e-5 * (best + g * g * m[0][0]),
                  "column %d block %d: byte %d loses %g, byte %d only %g", c, first / 4,
                  given[first / 4], x, code, best);
            code = given[first / 4];
            best = x;
        }
        for (int i = 0; i < 4; i++)
            e[first + i] = (double)b->target[(first + i) * CCQ_PANEL + c] -
                           g * (book->value[i][code] / -256.0);
        total += best;
    }
    return total;
}

/* Bytes are the best of their block, local scales of their window, given all before. */
static void check_loop(bed *b, const ccq_ops *ops)
{
    static result r;
    double e[MOST] = {0}, other[MOST];

    encode(b, ops, CCQ_FEEDBACK_NO_TABLE | CCQ_FEEDBACK_NO_PASSES, 0, 0, CCQ_PANEL, &r);
    for (int c = 0; c < CCQ_PANEL; c += 5) {
        double s = (double)ccq_bf16_to_f32(r.column[c].super), sum = 0.0, loss;
        for (int g = 0; g < b->k / 64; g++) {
            double rms = 0.0;
            int l0, l = r.local[c][g];
            for (int k = 64 * g; k < 64 * g + 64; k++) {
                double t = (double)b->target[k * CCQ_PANEL + c];
                for (int j = 0; j < 64 * g; j++)
                    t += e[j] * b->u[j * b->k + k];
                rms += t * t / 64;
            }
            l0 = (int)rint(1.13 * sqrt(rms) / ((double)b->enc.book[0].rms * s));
            l0 = l0 < 1 ? 1 : l0 > 15 ? 15 : l0;
            CHECK(abs(l - l0) <= 3, "column %d group %d: l %d, middle %d", c, g, l, l0);
            memcpy(other, e, sizeof e);
            loss = walk(b, e, c, g, l * s, r.column[c].bytes);
            sum += loss;
            for (int i = l0 - 3 < 1 ? 1 : l0 - 3; i <= 15 && i <= l0 + 3; i++)
                CHECK(loss <= 1.02 * walk(b, other, c, g, i * s, NULL), "column %d group %d: l %d "
                      "would be better than %d", c, g, i, l);
        }
        loss = loss_of(b, &r, c, CCQ_ROUND_NONE);
        CHECK(fabs(sum - loss) <= 1e-6 * sum, "column %d: blocks %g, loss %g", c, sum, loss);
        check_identities(b, &r, c);
    }
}

/* More passes never lose and gain share; the gain only moves the super scale. */
static void check_passes(bed *b, const ccq_ops *ops, double share)
{
    static result r, s;
    double before[CCQ_PANEL], first = 0.0, last = 0.0;

    encode(b, ops, CCQ_FEEDBACK_NO_PASSES, 0, 0, CCQ_PANEL, &r);
    for (int c = 0; c < CCQ_PANEL; c++)
        first += before[c] = loss_of(b, &r, c, CCQ_ROUND_NONE);
    for (int passes = 1; passes <= 6; passes++) {
        encode(b, ops, passes & 1 ? 0 : CCQ_FEEDBACK_NO_JOINT, passes, 0, CCQ_PANEL, &r);
        for (int c = 0; c < CCQ_PANEL && passes & 1; c++) {
            double now = loss_of(b, &r, c, CCQ_ROUND_NONE);
            CHECK(now <= before[c] * (1.0 + 1e-5), "column %d, %d passes: %g after %g", c, passes,
                  now, before[c]);
            before[c] = now;
        }
    }
    for (int c = 0; c < CCQ_PANEL; c++)
        last += before[c];
    CHECK(last < (1.0 - share) * first, "passes take the loss from %g to %g", first, last);
    encode(b, ops, 0, 5, 8, CCQ_PANEL, &s);
    encode(b, ops, 0, 5, 0, CCQ_PANEL, &r);
    CHECK(!memcmp(r.bytes, s.bytes, sizeof r.bytes), "the gain changes bytes");
    for (int c = 0; c < CCQ_PANEL; c++) {
        double wq = 0.0, want, got;
        for (int j = 0; j < b->k; j++) {
            double q = decoded(&r, c, j, CCQ_ROUND_FUSED);
            for (int i = 0; i < b->k; i++)
                wq += (double)b->original[i * CCQ_PANEL + c] * b->h[i * b->k + j] * q;
        }
        want = r.figures.plain[c] / wq;
        want = want < 1.0 ? 1.0 : want > 2.0 ? 2.0 : want;
        got = (double)ccq_bf16_to_f32(s.column[c].super) /
              (double)ccq_bf16_to_f32(r.column[c].super);
        CHECK(fabs(got - want) < 0.01, "column %d: gain %g, not %g", c, got, want);
    }
}

int main(void)
{
    static const int kinds[] = {0, 1, 2, 5, 6};
    ccq_encoder enc;
    ccq_ops c, ops;

    state = check_seed(1);
    REQUIRE(ccq_encoder_init(&enc) == 0, "encoder");
    ccq_ops_init(&c, CCQ_ISA_C);
    for (unsigned isa = CCQ_ISA_C; isa <= CCQ_ISA_AVX512; isa *= 2) {
        ccq_ops_init(&ops, 2 * isa - 1); /* it and all below */
        printf("%s\n", ops.name);
        if (isa != CCQ_ISA_C && strcmp(ops.name, "c"))
            check_isa(&c, &ops, &enc);
    }
    check_alone(&ops, &enc);
    check_status(&ops, &enc);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        bed b = {.enc = enc};
        make_bed(&b, &state, 192, kinds[i], 1.0);
        draw_columns(&b, &state, CCQ_PANEL, 0);
        check_loop(&b, &ops);
        check_passes(&b, &ops, kinds[i] <= 4 ? 0.01 : 0.0);
        free_bed(&b);
    }
    return check_done();
}
