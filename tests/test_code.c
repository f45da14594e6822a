/* Risk: the one definition of the code (kernels/code.h), its index maps
 * (kernels/tile.h) or the built-in lines differ from the format. */
#include "kernels/encode.h"
#include "kernels/tile.h"
#include "tests/check.h"

#include <math.h>

/* The states of a word, from its bits one by one. */
static int state_by_bits(uint32_t word, int i)
{
    int state = 0;

    for (int bit = 0; bit < 6; bit++)
        state |= (int)(word >> (9 - 3 * i + bit) & 1u) << bit;
    return state;
}

static void test_words(void)
{
    for (int32_t v = -32768; v <= 32767; v++)
        for (int i = 0; i < CCQ_WINDOWS; i++) {
            int state = state_by_bits((uint32_t)v, i);
            CHECK(ccq_code_state(v, i) == state, "word %d window %d", v, i);
            CHECK(ccq_code_value(v, i) == state - 32, "word %d window %d", v, i);
            CHECK(ccq_code_state(v + 32768, i) == state, "word %d does not wrap at 2^15", v);
        }
}

static void test_neighbours(void)
{
    for (int32_t v = 0; v < 32768; v++)
        for (int i = 0; i < 3; i++)
            CHECK((ccq_code_state(v, i) & 7) == ccq_code_state(v, i + 1) >> 3,
                  "word %d: windows %d and %d share other bits", v, i, i + 1);
}

static void test_floor(void)
{
    static const struct { float f; int32_t want; } cases[] = {
        {0.0f, 0}, {-0.0f, 0}, {0.99f, 0}, {-0.01f, -1}, {-1.0f, -1}, {3e9f, INT32_MAX},
        {-3e9f, INT32_MIN}, {NAN, 0}, {INFINITY, INT32_MAX}, {-INFINITY, INT32_MIN},
        {2147483520.0f, 2147483520}, {-2147483648.0f, INT32_MIN},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        CHECK(ccq_floor_i32(cases[i].f) == cases[i].want, "floor(%g) is %d", (double)cases[i].f,
              ccq_floor_i32(cases[i].f));
}

static void test_bf16(void)
{
    static const struct { uint32_t in; uint16_t want; } cases[] = {
        {0x00000000, 0x0000}, {0x80000000, 0x8000}, {0x3f808000, 0x3f80}, /* tie, even */
        {0x3f818000, 0x3f82}, {0x3f808001, 0x3f81}, {0x7f7fffff, 0x7f80}, /* up to infinity */
        {0x7f7f7fff, 0x7f7f}, {0x7f800000, 0x7f80}, {0xff800000, 0xff80},
        {0x7f800001, 0x7fc0}, {0xffffffff, 0xffff}, {0x00008000, 0x0000}, {0x00018000, 0x0002},
    };
    union { uint32_t u; float f; } x;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        x.u = cases[i].in;
        CHECK(ccq_f32_to_bf16(x.f) == cases[i].want, "%08x gives %04x", x.u, ccq_f32_to_bf16(x.f));
    }
    for (uint32_t b = 0; b < 65536; b++) {
        int nan = (b & 0x7fff) > 0x7f80;
        CHECK(ccq_f32_to_bf16(ccq_bf16_to_f32((uint16_t)b)) == (nan ? (b | 0x40) : b), "%04x", b);
    }
}

static void test_order(int order)
{
    int seen[CCQ_GROUP] = {0};

    for (int s = 0; s < CCQ_GROUP; s++) {
        int k = ccq_stored_to_logical(s, order);
        REQUIRE(k >= 0 && k < CCQ_GROUP, "order %d: stored %d gives %d", order, s, k);
        seen[k]++;
        CHECK(ccq_logical_to_stored(k, order) == s, "order %d: %d does not come back", order, s);
        CHECK(ccq_wint2_stored_row(192 + k, order) == 192 + s, "order %d: row %d", order, k);
    }
    for (int k = 0; k < CCQ_GROUP; k++)
        CHECK(seen[k] == 1, "order %d: logical %d has %d stored rows", order, k, seen[k]);
}

/* The table as printed in docs/format.md. */
static void test_fastdeploy_order(void)
{
    static const int first[16] = {0, 1, 8, 9, 16, 17, 24, 25, 32, 33, 40, 41, 48, 49, 56, 57};

    for (int a = 0; a < 4; a++)
        for (int i = 0; i < 16; i++)
            CHECK(ccq_stored_to_logical(16 * a + i, CCQ_ORDER_FASTDEPLOY) == first[i] + 2 * a,
                  "stored %d", 16 * a + i);
}

/* Every (k, n) of a tensor has a place of its own, and the check values hold. */
static void test_tiles(void)
{
    enum { K = 128, N = 16 };
    static const int int8_rows[16] = {0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15};
    static const int int4_rows[8] = {0, 8, 16, 24, 1, 9, 17, 25};
    uint8_t seen8[K * N] = {0}, seen4[K * N] = {0};

    for (int64_t n = 0; n < N; n++)
        for (int64_t k = 0; k < K; k++) {
            int64_t b8 = ccq_wint8_byte(k, n, K), b4 = ccq_wint4_nibble(k, n, K);
            REQUIRE(b8 >= 0 && b8 < K * N && b4 >= 0 && b4 < K * N, "place of %d,%d", (int)k,
                    (int)n);
            CHECK(!seen8[b8]++, "wint8 byte %d used twice", (int)b8);
            CHECK(!seen4[b4]++, "wint4 nibble %d used twice", (int)b4);
        }
    for (int i = 0; i < 16; i++)
        CHECK(ccq_wint8_byte(int8_rows[i], 0, 64) == i, "wint8 byte %d", i);
    for (int i = 0; i < 8; i++)
        CHECK(ccq_wint4_nibble(int4_rows[i], 0, 64) == i, "wint4 nibble %d", i);
    CHECK(ccq_wint8_byte(77, 5, 128) == 715 && ccq_wint4_nibble(77, 5, 128) == 853, "check value");
    CHECK(ccq_wint8_byte(127, 7, 128) == 1023 && ccq_wint4_nibble(127, 7, 128) == 1023, "last");
}

static void test_line_check(void)
{
    static const struct { float cs, zp; int want; } cases[] = {
        {120.94921875f, 1253.75f, CCQ_LINE_OK},
        {128.0f, 0.0f, CCQ_LINE_OK}, /* legal, if a bad choice */
        {0.0f, 0.0f, CCQ_LINE_OK},
        {-120.94921875f, 32095.80078125f, CCQ_LINE_OK},
        {257.0f, -32768.0f, CCQ_LINE_OK},
        {257.0f, -32769.0f, CCQ_LINE_RANGE},
        {128.5f, 32767.0f, CCQ_LINE_RANGE},
        {0.539999962f, 30.6000004f, CCQ_LINE_UNSAFE},
        {NAN, 0.0f, CCQ_LINE_NONFINITE},
        {1.0f, INFINITY, CCQ_LINE_NONFINITE},
        {-INFINITY, 1.0f, CCQ_LINE_NONFINITE},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int byte = -1, got = ccq_line_check(cases[i].cs, cases[i].zp, &byte);
        CHECK(got == cases[i].want, "line %g, %g: %d, want %d (byte %d)", (double)cases[i].cs,
              (double)cases[i].zp, got, cases[i].want, byte);
    }
}

/* The built-in lines: range of the words, rms of the values, exactness. */
static void test_lines(void)
{
    static const struct { float cs, zp; int lo, hi; double rms; } want[CCQ_BOOKS] = {
        {120.94921875f, 1253.75f, 1254, 32096, 18.092},
        {120.9453125f, 1249.75f, 1250, 32091, 18.053},
        {120.953125f, 1175.0f, 1175, 32018, 18.078},
        {120.953125f, 804.25f, 804, 31647, 18.082},
        {120.96484375f, 1253.0f, 1253, 32099, 18.084},
        {120.94140625f, 672.0f, 672, 31512, 18.108},
        {120.95703125f, 1119.5f, 1120, 31964, 18.082},
        {120.95703125f, 1210.25f, 1210, 32054, 18.107},
        {120.93359375f, 1268.0f, 1268, 32106, 18.087},
    };
    ccq_encoder enc;

    REQUIRE(ccq_encoder_init(&enc) == 0, "a built-in line fails its proof");
    for (int i = 0; i < CCQ_BOOKS; i++) {
        const ccq_book *b = &enc.book[i];
        double sum = 0.0;
        CHECK(b->cs == want[i].cs && b->zp == want[i].zp, "line %d", i);
        CHECK(ccq_word_fused(0, b->cs, b->zp) == want[i].lo, "line %d starts at %d", i,
              ccq_word_fused(0, b->cs, b->zp));
        CHECK(ccq_word_fused(255, b->cs, b->zp) == want[i].hi, "line %d ends at %d", i,
              ccq_word_fused(255, b->cs, b->zp));
        for (int c = 0; c < CCQ_CODES; c++) {
            int32_t norm = 0;
            for (int j = 0; j < CCQ_WINDOWS; j++) {
                int value = ccq_code_value(ccq_word_plain(c, b->cs, b->zp), j);
                CHECK(b->value[j][c] == -256 * value, "line %d byte %d window %d", i, c, j);
                norm += value * value;
            }
            CHECK(b->norm[c] == norm, "line %d byte %d norm", i, c);
            sum += norm;
        }
        CHECK(fabs((double)b->rms - sqrt(sum / 1024)) < 1e-5, "line %d rms %g", i, (double)b->rms);
        CHECK(fabs((double)b->rms - want[i].rms) < 6e-4, "line %d rms %g", i, (double)b->rms);
    }
}

/* fp64 to bf16 in one rounding: beside a tie, where fp32 would land on it. */
static void test_f64(void)
{
    uint64_t rng = check_seed(11);

    for (int i = 0; i < 20000; i++) {
        uint16_t h = (uint16_t)(0x0100 + check_next(&rng) % 0x7d00); /* normal, finite */
        double a = ccq_bf16_to_f32(h), b = ccq_bf16_to_f32((uint16_t)(h + 1));
        double tie = (a + b) / 2, near = (b - a) * 0x1p-30;
        uint16_t even = h & 1 ? (uint16_t)(h + 1) : h;
        CHECK(ccq_f64_to_bf16(a) == h, "%a", a);
        CHECK(ccq_f64_to_bf16(tie) == even, "tie above %a", a);
        CHECK(ccq_f64_to_bf16(tie - near) == h, "below the tie above %a", a);
        CHECK(ccq_f64_to_bf16(tie + near) == h + 1, "over the tie above %a", a);
        CHECK(ccq_f64_to_bf16(-(tie + near)) == (0x8000 | (h + 1)), "negative, %a", a);
    }
    CHECK(ccq_f64_to_bf16(0.0) == 0 && ccq_f64_to_bf16(1e-320) == 0, "zero");
}

int main(void)
{
    test_f64();
    test_words();
    test_neighbours();
    test_floor();
    test_bf16();
    test_order(CCQ_ORDER_PLAIN);
    test_order(CCQ_ORDER_FASTDEPLOY);
    test_fastdeploy_order();
    test_tiles();
    test_line_check();
    test_lines();
    return check_done();
}
