/* Risk: what is read or written differs from the format's golden vectors, which
 * were made from the format's description alone, and from real Paddle's
 * weight_quantize. Everything is compared bit for bit, signed zeros included. */
#include "formats/checkpoint.h"
#include "kernels/encode.h"
#include "kernels/tile.h"
#include "tests/check.h"

#include <math.h>

/* ---- Reading ------------------------------------------------------------- */

static ccq_checkpoint *open_golden(const char *name)
{
    char rest[256];
    ccq_checkpoint *ck;
    ccq_error err;

    snprintf(rest, sizeof rest, "golden/%s", name);
    REQUIRE(ccq_checkpoint_open_file(&ck, check_shared(rest), &err) == CCQ_OK, "%s", err.text);
    return ck;
}

/* A tensor in memory that ends at an unmapped page; NULL when absent. */
static void *load(const ccq_checkpoint *ck, const char *name, uint64_t *shape)
{
    const ccq_tensor *t = ccq_checkpoint_find(ck, name);
    ccq_error err;
    void *data;

    if (!t)
        return NULL;
    for (int i = 0; shape && i < t->rank; i++)
        shape[i] = t->shape[i];
    data = check_guarded((size_t)t->bytes);
    REQUIRE(ccq_checkpoint_read(ck, t, 0, data, t->bytes, &err) == CCQ_OK, "%s", err.text);
    return data;
}

static void *need(const ccq_checkpoint *ck, const char *name, uint64_t *shape)
{
    void *data = load(ck, name, shape);

    REQUIRE(data, "no tensor %s", name);
    return data;
}

/* Every instruction set there is, C first. */
static int table_at(int i, ccq_ops *ops)
{
    static const unsigned isa[] = {CCQ_ISA_C, CCQ_ISA_AVX2, CCQ_ISA_AVX512};

    if (i >= 3)
        return 0;
    ccq_ops_init(ops, CCQ_ISA_C | (isa[i] & ccq_cpu_isa()));
    return 1;
}

/* ---- The code ------------------------------------------------------------ */

static void test_korder(void)
{
    ccq_checkpoint *ck = open_golden("korder_map.safetensors");
    uint8_t *logical = need(ck, "stored_to_logical", NULL);
    uint8_t *stored = need(ck, "logical_to_stored", NULL);

    for (int i = 0; i < CCQ_GROUP; i++) {
        CHECK(ccq_stored_to_logical(i, CCQ_ORDER_FASTDEPLOY) == logical[i], "stored %d", i);
        CHECK(ccq_logical_to_stored(i, CCQ_ORDER_FASTDEPLOY) == stored[i], "logical %d", i);
    }
    ccq_checkpoint_close(ck);
}

static void test_code_orders(void)
{
    ccq_checkpoint *ck = open_golden("wint2_code_orders.safetensors");
    uint64_t shape[2];
    float *cs = need(ck, "code_scale", NULL), *zp = need(ck, "code_zp", NULL);
    float *o1 = need(ck, "expect.o1", shape), *o2 = need(ck, "expect.o2", NULL);
    float *o3 = need(ck, "expect.o3", NULL);
    uint8_t *agree = need(ck, "expect.agree", NULL);

    for (int n = 0; n < (int)shape[0]; n++) {
        for (int b = 0; b < CCQ_CODES; b++) {
            int i = n * CCQ_CODES + b;
            CHECK((float)ccq_word_unzip(b, cs[n], zp[n]) == o1[i], "column %d byte %d o1", n, b);
            CHECK((float)ccq_word_plain(b, cs[n], zp[n]) == o2[i], "column %d byte %d o2", n, b);
            CHECK((float)ccq_word_fused(b, cs[n], zp[n]) == o3[i], "column %d byte %d o3", n, b);
        }
        CHECK((ccq_line_check(cs[n], zp[n], NULL) == CCQ_LINE_OK) == agree[n],
              "column %d: check %d, agree %d", n, ccq_line_check(cs[n], zp[n], NULL), agree[n]);
    }
    ccq_checkpoint_close(ck);
}

/* ---- wint2 --------------------------------------------------------------- */

static void check_words(const ccq_checkpoint *ck, const ccq_weight *w)
{
    float *expect = need(ck, "expect.code_words", NULL);

    for (int64_t n = 0; n < w->n; n++)
        for (int b = 0; b < CCQ_CODES; b++) {
            int32_t v = ccq_word_fused(b, w->code_scale[n], w->code_zp[n]);
            CHECK((float)v == expect[n * CCQ_CODES + b], "column %d byte %d: %d", (int)n, b, v);
        }
}

/* All of w through unpack, in steps of kc rows, against bf16 bits [k][n]. */
static void check_unpack(const ccq_ops *ops, const ccq_weight *w, int64_t step,
                         const uint16_t *expect, const char *where)
{
    for (int64_t n0 = 0; n0 < w->n; n0 += CCQ_PANEL)
        for (int64_t k0 = 0; k0 < w->k; k0 += step) {
            int64_t kc = k0 + step > w->k ? w->k - k0 : step;
            float *panel = check_guarded((size_t)kc * CCQ_PANEL * sizeof *panel);
            ops->unpack(w, k0, kc, n0, panel);
            for (int64_t i = 0; i < kc * CCQ_PANEL; i++) {
                int64_t at = (k0 + i / CCQ_PANEL) * w->n + n0 + i % CCQ_PANEL;
                CHECK(!(w->n <= n0 + i % CCQ_PANEL) && ccq_f32_to_bf16(panel[i]) == expect[at] &&
                          ccq_round_bf16(panel[i]) == panel[i],
                      "%s %s: row %d column %d: %04x, want %04x", where, ops->name,
                      (int)(at / w->n), (int)(at % w->n), ccq_f32_to_bf16(panel[i]), expect[at]);
            }
        }
}

/* Without rounding: the three factors in double, where they are exact. */
static void check_unrounded(const ccq_ops *ops, const ccq_weight *w)
{
    const uint8_t *data = w->data;
    float *panel = check_guarded((size_t)w->k * CCQ_PANEL * sizeof *panel);

    ops->unpack(w, 0, w->k, 0, panel);
    for (int64_t k = 0; k < w->k; k++)
        for (int64_t n = 0; n < CCQ_PANEL; n++) {
            int64_t s = ccq_wint2_stored_row(k, w->order);
            int local = ccq_local_scale(w->local[s / 128 * w->n + n], s / 64);
            int32_t v = ccq_word_fused(data[s / 4 * w->n + n], w->code_scale[n], w->code_zp[n]);
            float want = (float)((double)ccq_code_value(v, (int)(s % 4)) * local *
                                 (double)ccq_bf16_to_f32(w->super[n]));
            CHECK(panel[k * CCQ_PANEL + n] == want, "unrounded row %d column %d", (int)k, (int)n);
        }
}

static void test_wint2(const char *name)
{
    static const struct { const char *name; int order, rounding; } cases[] = {
        {"expect.plain.unzip", CCQ_ORDER_PLAIN, CCQ_ROUND_UNZIP},
        {"expect.plain.fused", CCQ_ORDER_PLAIN, CCQ_ROUND_FUSED},
        {"expect.fastdeploy.unzip", CCQ_ORDER_FASTDEPLOY, CCQ_ROUND_UNZIP},
        {"expect.fastdeploy.fused", CCQ_ORDER_FASTDEPLOY, CCQ_ROUND_FUSED},
    };
    ccq_checkpoint *ck = open_golden(name);
    uint64_t shape[2];
    ccq_weight w = {0};
    ccq_ops ops;

    w.type = CCQ_W_WINT2;
    w.data = need(ck, "quant_weight", shape);
    w.k = 4 * (int64_t)shape[0];
    w.n = (int64_t)shape[1];
    w.local = need(ck, "weight_scale", NULL);
    w.super = need(ck, "super_scales", NULL);
    w.code_scale = need(ck, "code_scale", NULL);
    w.code_zp = need(ck, "code_zp", NULL);
    check_words(ck, &w);
    for (int i = 0; table_at(i, &ops); i++) {
        for (int c = 0; c < 4; c++) {
            const uint16_t *expect = need(ck, cases[c].name, NULL);
            w.order = cases[c].order;
            w.rounding = cases[c].rounding;
            check_unpack(&ops, &w, 64, expect, name);
            check_unpack(&ops, &w, 192, expect, name);
        }
        w.rounding = CCQ_ROUND_NONE;
        check_unrounded(&ops, &w);
    }
    ccq_checkpoint_close(ck);
}

/* ---- wint8, wint4 -------------------------------------------------------- */

typedef struct matrix {
    int64_t k, n;
    uint8_t *stored;
    uint16_t *scale;
    int8_t *q; /* [n][k] */
} matrix;

static matrix quantize(int bits, int rule, const uint16_t *w, int64_t k, int64_t n)
{
    matrix m = {k, n, check_guarded((size_t)(k * n * bits / 8)),
                check_guarded((size_t)n * sizeof(uint16_t)), check_guarded((size_t)(k * n))};
    float *column = check_guarded((size_t)k * sizeof *column);

    for (int64_t j = n - 1; j >= 0; j--) { /* any order will do */
        for (int64_t i = 0; i < k; i++)
            column[i] = ccq_bf16_to_f32(w[i * n + j]);
        ccq_weight_only_column(bits, rule, column, k, m.q + j * k, &m.scale[j], NULL, NULL, NULL);
        ccq_weight_only_place(bits, m.q + j * k, k, j, m.stored);
    }
    return m;
}

/* unpack of the stored bytes gives bf16(q * scale). */
static void check_decode(int bits, const matrix *m, const char *where)
{
    uint16_t *expect = check_guarded((size_t)(m->k * m->n) * sizeof *expect);
    ccq_weight w = {0};
    ccq_ops ops;

    w.type = bits == 8 ? CCQ_W_WINT8 : CCQ_W_WINT4;
    w.k = m->k;
    w.n = m->n;
    w.data = m->stored;
    w.scale = m->scale;
    for (int64_t i = 0; i < m->k * m->n; i++) {
        float scale = ccq_bf16_to_f32(m->scale[i % m->n]);
        expect[i] = ccq_f32_to_bf16((float)m->q[i % m->n * m->k + i / m->n] * scale);
    }
    for (int i = 0; table_at(i, &ops); i++) {
        check_unpack(&ops, &w, 64, expect, where);
        check_unpack(&ops, &w, m->k, expect, where);
    }
}

static void test_weight_only(const char *name, int bits)
{
    static const char *const rules[] = {"gpu", "cpu"}; /* CCQ_RULE_* */
    ccq_checkpoint *ck = open_golden(name);
    uint64_t shape[2];
    uint16_t *w = need(ck, "weight", shape);

    for (int rule = 0; rule < 2; rule++) {
        matrix m = quantize(bits, rule, w, (int64_t)shape[0], (int64_t)shape[1]);
        char t[64];
        snprintf(t, sizeof t, "expect.%s.quant_weight", rules[rule]);
        CHECK(!memcmp(need(ck, t, NULL), m.stored, (size_t)(m.k * m.n * bits / 8)), "%s %s", name,
              t);
        snprintf(t, sizeof t, "expect.%s.weight_scale", rules[rule]);
        CHECK(!memcmp(need(ck, t, NULL), m.scale, (size_t)m.n * 2), "%s %s", name, t);
        check_decode(bits, &m, name);
    }
    ccq_checkpoint_close(ck);
}

/* Stored bytes of column n of two tensors differ: counted. */
static int column_differs(int bits, const matrix *m, const uint8_t *theirs, int64_t n)
{
    int differ = 0;

    for (int64_t k = 0; k < m->k; k++) {
        int64_t at = bits == 8 ? ccq_wint8_byte(k, n, m->k) : ccq_wint4_nibble(k, n, m->k);
        differ += bits == 8 ? m->stored[at] != theirs[at]
                            : (m->stored[at / 2] ^ theirs[at / 2]) >> 4 * (at & 1) & 15;
    }
    return differ;
}

/* One matrix of real Paddle. Its CPU build divides 0 by 0 in an all-zero column
 * and stores bytes 255 with scale 0: those decode to 0, as ours do. */
static int test_paddle(const ccq_checkpoint *ck, const char *name, size_t len, int bits)
{
    char t[300];
    uint64_t shape[2];
    uint16_t *w, *scale;
    uint8_t *stored;
    matrix m;

    snprintf(t, sizeof t, "%.*s.weight", (int)len, name);
    w = need(ck, t, shape);
    snprintf(t, sizeof t, "%.*s.weight_only_int%d.quant_weight", (int)len, name, bits);
    stored = load(ck, t, NULL);
    if (!stored)
        return 0;
    snprintf(t, sizeof t, "%.*s.weight_only_int%d.weight_scale", (int)len, name, bits);
    scale = need(ck, t, NULL);
    m = quantize(bits, CCQ_RULE_CPU, w, (int64_t)shape[0], (int64_t)shape[1]);
    for (int64_t n = 0; n < m.n; n++) {
        int zero = 1;
        for (int64_t k = 0; k < m.k; k++)
            zero = zero && !(w[k * m.n + n] & 0x7fff);
        CHECK(m.scale[n] == scale[n], "%s column %d: scale %04x, Paddle has %04x", t, (int)n,
              m.scale[n], scale[n]);
        CHECK(zero || !column_differs(bits, &m, stored, n), "%s column %d: bytes", t, (int)n);
    }
    return 1;
}

static void test_all_paddle(void)
{
    ccq_checkpoint *ck = open_golden("paddle/weight_quantize.safetensors");
    int outputs = 0;

    for (size_t i = 0; i < ccq_checkpoint_count(ck); i++) {
        const char *name = ccq_checkpoint_at(ck, i)->name;
        size_t len = strlen(name);
        if (len < 8 || strcmp(name + len - 7, ".weight"))
            continue;
        outputs += test_paddle(ck, name, len - 7, 8);
        outputs += test_paddle(ck, name, len - 7, 4);
    }
    CHECK(outputs == 42, "%d outputs of Paddle found, want 42", outputs);
    ccq_checkpoint_close(ck);
}

int main(void)
{
    test_korder();
    test_code_orders();
    test_wint2("wint2_k128_n16_recipe.safetensors");
    test_wint2("wint2_k256_n48_recipe.safetensors");
    test_wint2("wint2_k256_n48_lines.safetensors");
    test_wint2("wint2_k128_n48_lines.safetensors");
    test_wint2("wint2_k256_n16_lines.safetensors");
    test_wint2("wint2_k128_n16_scales.safetensors");
    test_weight_only("wint8_k128_n32.safetensors", 8);
    test_weight_only("wint8_k192_n48.safetensors", 8);
    test_weight_only("wint4_k128_n32.safetensors", 4);
    test_weight_only("wint4_k192_n48.safetensors", 4);
    test_all_paddle();
    return check_done();
}
