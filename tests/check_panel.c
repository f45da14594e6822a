/* Risk: a pass of the encoder over a panel departs from plain C on some instruction
 * set, or a column encoded beside others from the same column alone. Random and
 * nasty finite data, buffers that end at an unmapped page. */
#include "kernels/encode.h"
#include "tests/check.h"

#include <math.h>

enum { K = 384, N = K * CCQ_PANEL, KINDS = 4 };

static uint64_t state;

static int64_t below(int64_t n)
{
    return (int64_t)(check_next(&state) % (uint64_t)n);
}

/* 0: ordinary; 1: bf16; 2: any finite bits; 3: mostly zeros, both signs, subnormals */
static float draw(int kind)
{
    static const float edge[] = {0.0f, -0.0f, 0x1p-149f, -0x1p-130f, 0x1p-126f, 0.5f};
    uint32_t bits;
    float f;

    if (kind == 2) {
        do
            bits = (uint32_t)check_next(&state);
        while ((bits & 0x7f800000) == 0x7f800000);
        memcpy(&f, &bits, sizeof f);
        return f;
    }
    if (kind == 3)
        return edge[below(6)];
    f = (float)(check_uniform(&state) + check_uniform(&state) - 1.0);
    return kind == 1 ? ccq_round_bf16(f) : f;
}

static void same(const char *what, const char *isa, int kind, const void *a, const void *b,
                 size_t size)
{
    CHECK(!memcmp(a, b, size), "%s of %s, kind %d, is not what C gives", what, isa, kind);
}

/* ---- Floats -------------------------------------------------------------- */

static void check_column(const ccq_ops *c, const ccq_ops *x, int kind, const float *w)
{
    float *a = check_guarded(N * sizeof *a), *b = check_guarded(N * sizeof *b);
    const int64_t groups = K / CCQ_GROUP;
    float *p = check_guarded((size_t)groups * sizeof *p);
    float *q = check_guarded((size_t)groups * sizeof *q);
    int16_t *u = check_guarded(K * sizeof *u), *v = check_guarded(K * sizeof *v);
    float scale[CCQ_PANEL], most[2][CCQ_PANEL];

    for (int i = 0; i < CCQ_PANEL; i++)
        scale[i] = ldexpf(1.0f, (int)below(40) - 20);
    for (int64_t k = 1; k < 20; k++) {
        c->panel.amax(w + N - k * CCQ_PANEL, k, most[0]);
        x->panel.amax(w + N - k * CCQ_PANEL, k, most[1]);
        same("amax", x->name, kind, most[0], most[1], sizeof most[0]);
    }
    for (int order = 0; order < 2; order++) {
        c->panel.gather(w, K, order, scale, a);
        x->panel.gather(w, K, order, scale, b);
        same("gather", x->name, kind, a, b, N * sizeof *a);
    }
    c->panel.rms(w, groups, p), x->panel.rms(w, groups, q);
    same("rms", x->name, kind, p, q, (size_t)groups * sizeof *p);
    for (float inv = 1.0f; inv < 1e9f; inv *= 57.3f) {
        c->panel.units(w, K, inv, u), x->panel.units(w, K, inv, v);
        same("units", x->name, kind, u, v, K * sizeof *u);
    }
}

/* Rows that end at the end of the memory, the last one included. */
static void check_widen(const ccq_ops *c, const ccq_ops *x)
{
    for (int64_t k = 1, ld = 32; k < 100; k += 7, ld += 3) {
        size_t count = (size_t)((k - 1) * ld + 32), size = (size_t)(2 * k * CCQ_PANEL);
        uint16_t *w = check_guarded(count * sizeof *w);
        float *a = check_guarded(size * sizeof *a), *b = check_guarded(size * sizeof *b);
        for (size_t i = 0; i < count; i++)
            w[i] = (uint16_t)check_next(&state);
        c->panel.widen(w, ld, k, a), x->panel.widen(w, ld, k, b);
        same("widen", x->name, 0, a, b, size * sizeof *a);
        for (int64_t i = 0; i < k; i++)
            for (int j = 0; j < 32; j++) {
                float f = ccq_bf16_to_f32(w[i * ld + j]);
                CHECK(!memcmp(&a[j / CCQ_PANEL * k * CCQ_PANEL + i * CCQ_PANEL + j % CCQ_PANEL],
                              &f, sizeof f), "widen: row %d, column %d", (int)i, j);
            }
    }
}

/* ---- Decoded values ------------------------------------------------------ */

static ccq_coded_group draw_group(const ccq_encoder *enc, int order, int huge)
{
    ccq_coded_group g;

    for (int i = 0; i < CCQ_GROUP; i++) {
        g.row[i] = ccq_stored_to_logical(i, order);
        for (int j = 0; j < 4; j++)
            g.bytes[i / 4][4 * (i % 4) + j] = (uint8_t)check_next(&state);
    }
    for (int c = 0; c < CCQ_PANEL; c++) {
        const ccq_book *book = &enc->book[below(CCQ_BOOKS)];
        g.cs[c] = book->cs;
        g.zp[c] = book->zp;
        g.scale[c] = ccq_round_bf16((float)check_uniform(&state));
        if (huge && below(4) == 0)
            g.scale[c] = ldexpf(g.scale[c], 121);
        if (below(8) == 0)
            g.scale[c] = 0.0f;
    }
    return g;
}

static void check_sums(const ccq_ops *c, const ccq_ops *x, const ccq_encoder *enc, int kind,
                       const float *w)
{
    ccq_panel_sums a, b;
    float scale[CCQ_PANEL];

    for (int i = 0; i < CCQ_PANEL; i++)
        scale[i] = ldexpf(1.0f, (int)below(40) - 20);
    for (int round = 0; round < 12; round++) {
        ccq_coded_group g = draw_group(enc, round & 1, kind == 2);
        memset(&a, 0, sizeof a), memset(&b, 0, sizeof b);
        for (int64_t i = 0; i < N; i += CCQ_GROUP * CCQ_PANEL) {
            c->panel.products(&g, w + i, scale, &a), x->panel.products(&g, w + i, scale, &b);
            c->panel.errors(&g, w + i, &a), x->panel.errors(&g, w + i, &b);
        }
        same("sums", x->name, kind, &a, &b, sizeof a);
    }
}

/* ---- wint8, wint4 -------------------------------------------------------- */

static void check_integers(const ccq_ops *c, const ccq_ops *x, int kind, const float *w)
{
    int8_t *p = check_guarded(N), *q = check_guarded(N);
    uint8_t *a = check_guarded(CCQ_GROUP), *b = check_guarded(CCQ_GROUP);
    float by[CCQ_PANEL], scale[CCQ_PANEL];
    uint8_t turned[2][16][CCQ_PANEL];

    for (int bits = 4; bits <= 8; bits += 4) {
        float bound = bits == 8 ? 127.0f : 7.0f;
        ccq_panel_sums s = {{0}, {0}, {0}, {0}}, t = s;
        for (int i = 0; i < CCQ_PANEL; i++) {
            by[i] = below(8) ? (float)check_uniform(&state) : i & 1 ? INFINITY : 0x1p-140f;
            scale[i] = ccq_round_bf16(kind == 2 ? 0x1p100f * by[i] : by[i] / 127.0f);
            scale[i] = scale[i] - scale[i] == 0.0f ? scale[i] : 1.0f;
        }
        for (int round = 0; round < 2; round++) {
            float factor = round ? 1.0f : bound;
            c->panel.integers(w, K, by, factor, bound, p);
            x->panel.integers(w, K, by, factor, bound, q);
            same("integers", x->name, kind, p, q, N);
        }
        c->panel.integer_errors(w, p, K, scale, &s), x->panel.integer_errors(w, p, K, scale, &t);
        same("integer errors", x->name, kind, &s, &t, sizeof s);
        c->panel.place(bits, p + N - 64, a + 64 - 8 * bits);
        x->panel.place(bits, p + N - 64, b + 64 - 8 * bits);
        same("place", x->name, kind, a + 64 - 8 * bits, b + 64 - 8 * bits, (size_t)(8 * bits));
    }
    c->panel.turn((uint8_t *)p + N - 16 * 16, 16, turned[0]);
    x->panel.turn((uint8_t *)p + N - 16 * 16, 16, turned[1]);
    same("turn", x->name, kind, turned[0], turned[1], sizeof turned[0]);
}

/* Columns of codes against the index map, in a tensor wider than they are. */
static void check_place(const ccq_ops *ops, int count)
{
    const int64_t n = count + 3;
    const size_t bytes = (size_t)count * K / 4, local = (size_t)count * K / 64;
    uint8_t *from = check_guarded(bytes), *l = check_guarded(local);
    uint8_t *weight = check_guarded((size_t)(K / 4 * n));
    uint8_t *scale = check_guarded((size_t)(K / 128 * n));

    for (size_t i = 0; i < bytes; i++)
        from[i] = (uint8_t)check_next(&state);
    for (size_t i = 0; i < local; i++)
        l[i] = (uint8_t)below(16);
    memset(weight, 0, (size_t)(K / 4 * n)), memset(scale, 0, (size_t)(K / 128 * n));
    ccq_wint2_place(ops, from, l, K, count, n, weight + 3, scale + 3);
    for (int64_t j = -3; j < count; j++)
        for (int64_t r = 0; r < K / 4; r++) {
            int high = j < 0 ? 0 : l[j * (K / 64) + r / 32 * 2];
            int low = j < 0 ? 0 : l[j * (K / 64) + r / 32 * 2 + 1];
            CHECK(weight[r * n + 3 + j] == (j < 0 ? 0 : from[j * (K / 4) + r]) &&
                  scale[r / 32 * n + 3 + j] == (high << 4 | low),
                  "%s: place of %d columns: column %d, row %d", ops->name, count, (int)j, (int)r);
        }
}

/* ---- Columns side by side ------------------------------------------------ */

static void check_alone(const ccq_ops *ops, const ccq_encoder *enc, int count, int kind)
{
    const ccq_encode_params p = {kind & 1, (int)below(9), (int)below(2)};
    float *w = check_guarded(N * sizeof *w), *one = check_guarded(K * sizeof *one);
    void *scratch = check_guarded(ccq_encode_scratch(K));
    uint8_t bytes[CCQ_PANEL + 1][K / 4], local[CCQ_PANEL + 1][K / 64];
    ccq_column all[CCQ_PANEL], alone = {.bytes = bytes[CCQ_PANEL], .local = local[CCQ_PANEL]};

    memset(w, 0, N * sizeof *w);
    for (int c = 0; c < count; c++) {
        int e = c % 5 == 4 ? 110 : c % 5 == 3 ? -130 : c % 5 == 2 ? -108 : 0;
        for (int i = 0; i < K; i++)
            w[i * CCQ_PANEL + c] = c % 7 == 6 ? 0.0f : ldexpf(draw(kind & 1), e);
        all[c] = (ccq_column){.bytes = bytes[c], .local = local[c]};
    }
    ccq_encode_panel(ops, enc, &p, w, K, count, all, scratch);
    for (int c = 0; c < count; c++) {
        for (int i = 0; i < K; i++)
            one[i] = w[i * CCQ_PANEL + c];
        ccq_encode_column(ops, enc, &p, one, K, &alone, scratch);
        CHECK(!memcmp(alone.bytes, bytes[c], K / 4) && !memcmp(alone.local, local[c], K / 64) &&
              alone.super == all[c].super && alone.code_scale == all[c].code_scale &&
              alone.code_zp == all[c].code_zp && alone.status == all[c].status &&
              alone.error == all[c].error && alone.energy == all[c].energy &&
              alone.max_error == all[c].max_error,
              "%s: column %d of %d differs from itself alone", ops->name, c, count);
    }
}

/* The panel against one column after the other: bytes, scales, figures. */
static void check_weight_only(const ccq_ops *ops, int bits, int rule, int kind, int count)
{
    const int64_t n0 = CCQ_PANEL, n = n0 + count, size = n * K * bits / 8;
    float *w = check_guarded(N * sizeof *w), *one = check_guarded(K * sizeof *one);
    uint8_t *a = check_guarded((size_t)size), *b = check_guarded((size_t)size);
    int8_t *q = check_guarded(K);
    ccq_weight_only out;

    memset(w, 0, N * sizeof *w);
    memset(a, 0, (size_t)size), memset(b, 0, (size_t)size);
    for (int c = 0; c < count; c++) {
        int e = kind == 2 ? 0 : c % 5 == 4 ? 127 : c % 5 == 3 ? -140 : c % 5 == 2 ? -133 : 0;
        for (int i = 0; i < K; i++)
            w[i * CCQ_PANEL + c] = c % 7 == 6 ? 0.0f : ldexpf(draw(kind), e);
    }
    ccq_weight_only_panel(ops, bits, rule, w, K, n0, count, a, &out);
    for (int c = 0; c < count; c++) {
        double error, energy, most;
        uint16_t scale;
        int least = 0, status;
        for (int i = 0; i < K; i++)
            one[i] = w[i * CCQ_PANEL + c];
        ccq_weight_only_column(bits, rule, one, K, q, &scale, &error, &energy, &most);
        ccq_weight_only_place(bits, q, K, n0 + c, b);
        for (int i = 0; i < K; i++)
            least = abs(q[i]) > least ? abs(q[i]) : least;
        status = !isfinite(ccq_round_bf16((float)least * ccq_bf16_to_f32(scale))) ? CCQ_COLUMN_HUGE
                 : (scale & 0x7fff) == 0 ? CCQ_COLUMN_ZERO : CCQ_COLUMN_OK;
        CHECK(out.scale[c] == scale && out.status[c] == status, "%s wint%d column %d: scale %04x "
              "status %d, want %04x %d", ops->name, bits, c, out.scale[c], out.status[c], scale,
              status);
        if (status != CCQ_COLUMN_HUGE)
            CHECK(out.error[c] == error && out.energy[c] == energy && out.max_error[c] == most,
                  "%s wint%d column %d: figures", ops->name, bits, c);
    }
    CHECK(!memcmp(a, b, (size_t)size), "%s wint%d rule %d: bytes", ops->name, bits, rule);
}

int main(void)
{
    float *w = check_guarded(N * sizeof *w);
    const char *last = "";
    ccq_encoder enc;
    ccq_ops c, ops;

    state = check_seed(1);
    REQUIRE(ccq_encoder_init(&enc) == 0, "encoder");
    ccq_ops_init(&c, CCQ_ISA_C);
    for (unsigned isa = CCQ_ISA_C; isa <= CCQ_ISA_AVX512; isa *= 2) {
        ccq_ops_init(&ops, 2 * isa - 1); /* it and all below */
        if (!strcmp(ops.name, last))
            continue;
        last = ops.name;
        printf("%s\n", last);
        for (int kind = 0; kind < KINDS; kind++) {
            for (int i = 0; i < N; i++)
                w[i] = draw(kind);
            check_column(&c, &ops, kind, w);
            check_sums(&c, &ops, &enc, kind, w);
            check_integers(&c, &ops, kind, w);
        }
        check_widen(&c, &ops);
        for (int count = 1; count <= 48; count += 5)
            check_place(&ops, count);
        check_alone(&ops, &enc, 16, 0);
        check_alone(&ops, &enc, 16, 1);
        check_alone(&ops, &enc, 5, 1);
        for (int i = 0; i < 16; i++) /* wint4 wants columns in fours, wint8 in twos */
            check_weight_only(&ops, 4 + 4 * (i & 1), i >> 1 & 1, i >> 2, 16 - 4 * (i & 2));
    }
    return check_done();
}
