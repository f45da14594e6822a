/* Risk: a value of block_wise_fp8 is rounded another way than e4m3fn asks, a
 * partial block goes wrong, or an instruction set decodes it differently. */
#include "formats/checkpoint.h"
#include "kernels/encode.h"
#include "tests/check.h"

#include <float.h>
#include <math.h>

static const int64_t block = CCQ_FP8_BLOCK;

/* ---- One value ------------------------------------------------------------- */

/* Value of a code by the definition: sign, 4 bits of exponent (bias 7), 3 bits. */
static double value(int code)
{
    int e = code >> 3 & 15, m = code & 7;
    double x = e ? ldexp(1 + m / 8.0, e - 7) : ldexp(m / 8.0, -6);
    return code & 0x80 ? -x : x;
}

static void test_codes(void)
{
    for (int code = 0; code < 256; code++) {
        float x = ccq_e4m3_to_f32((uint8_t)code);
        if ((code & 0x7f) == 0x7f) {
            CHECK(isnan(x), "code %02x is no NaN", code);
            continue;
        }
        CHECK((double)x == value(code) && !signbit(x) == !(code & 0x80), "code %02x: %g", code,
              (double)x);
        CHECK(ccq_f32_to_e4m3(x) == code, "code %02x comes back as %02x", code,
              ccq_f32_to_e4m3(x));
    }
    CHECK(ccq_e4m3_to_f32(0x7e) == 448.0f && ccq_e4m3_to_f32(1) == 0x1p-9f, "the ends");
}

/* Between two neighbours: nearest, and the even code in the middle. */
static void test_rounding(void)
{
    for (int code = 0; code < 0x7e; code++) {
        float low = ccq_e4m3_to_f32((uint8_t)code), high = ccq_e4m3_to_f32((uint8_t)(code + 1));
        float middle = (low + high) / 2; /* exact */
        int even = code + (code & 1);
        for (int sign = 0; sign < 2; sign++) {
            float s = sign ? -1.0f : 1.0f;
            int bit = sign << 7;
            CHECK(ccq_f32_to_e4m3(s * middle) == (even | bit), "middle above %02x", code);
            CHECK(ccq_f32_to_e4m3(s * nextafterf(middle, 0)) == (code | bit), "below %02x", code);
            CHECK(ccq_f32_to_e4m3(s * nextafterf(middle, 500)) == ((code + 1) | bit),
                  "above %02x", code);
        }
    }
    const float large[] = {448.0f, 449.0f, 464.0f, 480.0f, 1e30f, FLT_MAX, INFINITY};
    for (size_t i = 0; i < sizeof large / sizeof *large; i++)
        CHECK(ccq_f32_to_e4m3(large[i]) == 0x7e && ccq_f32_to_e4m3(-large[i]) == 0xfe,
              "%g does not saturate", (double)large[i]);
    CHECK(ccq_f32_to_e4m3(-0.0f) == 0x80 && ccq_f32_to_e4m3(-1e-40f) == 0x80, "negative zero");
}

/* ---- Matrices ---------------------------------------------------------------- */

typedef struct matrix {
    int64_t k, n;
    uint8_t *q;
    float *scale;
    ccq_fp8_error sum;
} matrix;

static matrix quantize(const uint16_t *w, int64_t k, int64_t n)
{
    int64_t blocks = (n + block - 1) / block, rows = (k + block - 1) / block;
    matrix m = {k, n, check_guarded((size_t)(k * n)),
                check_guarded((size_t)(rows * blocks) * sizeof(float)), {0, 0, 0}};
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < blocks; j++) {
            int64_t at = i * block * n + j * block;
            int kc = (int)(k - i * block < block ? k - i * block : block);
            int nc = (int)(n - j * block < block ? n - j * block : block);
            ccq_fp8_block(w + at, n, kc, nc, m.q + at, n, &m.scale[i * blocks + j], &m.sum);
        }
    return m;
}

/* Every instruction set decodes bf16(e4m3 * scale), and the sums are of that. */
static void check_decode(const uint16_t *w, const matrix *m)
{
    static const unsigned isa[] = {CCQ_ISA_C, CCQ_ISA_AVX2, CCQ_ISA_AVX512};
    ccq_weight x = {.type = CCQ_W_FP8, .k = m->k, .n = m->n, .data = m->q,
                    .block_scale = m->scale};
    int64_t blocks = (m->n + block - 1) / block;
    double error = 0;
    for (int i = 0; i < 3; i++) {
        ccq_ops ops;
        ccq_ops_init(&ops, CCQ_ISA_C | (isa[i] & ccq_cpu_isa()));
        error = 0;
        for (int64_t n0 = 0; n0 < m->n; n0 += CCQ_PANEL)
            for (int64_t k0 = 0; k0 < m->k; k0 += 64) {
                int64_t kc = m->k - k0 < 64 ? m->k - k0 : 64;
                float *panel = check_guarded((size_t)kc * CCQ_PANEL * sizeof *panel);
                ops.unpack(&x, k0, kc, n0, panel);
                for (int64_t at = 0; at < kc * CCQ_PANEL; at++) {
                    int64_t k = k0 + at / CCQ_PANEL, n = n0 + at % CCQ_PANEL;
                    float want = 0;
                    if (n < m->n) {
                        want = ccq_round_bf16((float)value(m->q[k * m->n + n]) *
                                              m->scale[k / block * blocks + n / block]);
                        error += pow((double)ccq_bf16_to_f32(w[k * m->n + n]) - (double)want, 2);
                    }
                    CHECK(memcmp(&want, &panel[at], 4) == 0, "%s [%d,%d]: %g, want %g", ops.name,
                          (int)k, (int)n, (double)panel[at], (double)want);
                }
            }
    }
    CHECK(fabs(error - m->sum.error) <= 1e-12 * error, "error %g, sums say %g", error,
          m->sum.error);
}

static void test_golden(void)
{
    ccq_checkpoint *ck;
    ccq_error err;
    const char *path = check_shared("golden/block_wise_fp8_k200_n136.safetensors");
    REQUIRE(ccq_checkpoint_open_file(&ck, path, &err) == CCQ_OK, "%s", err.text);
    const char *names[] = {"weight", "expect.quant_weight", "expect.weight_scale"};
    void *data[3];
    const ccq_tensor *t = NULL;
    for (int i = 2; i >= 0; i--) {
        t = ccq_checkpoint_find(ck, names[i]);
        REQUIRE(t, "no tensor %s", names[i]);
        data[i] = check_guarded(t->bytes);
        REQUIRE(ccq_checkpoint_read(ck, t, 0, data[i], t->bytes, &err) == CCQ_OK, "%s", err.text);
    }
    int64_t k = (int64_t)t->shape[0], n = (int64_t)t->shape[1];
    matrix m = quantize(data[0], k, n);
    CHECK(memcmp(m.q, data[1], (size_t)(k * n)) == 0, "quant_weight differs from the golden file");
    CHECK(memcmp(m.scale, data[2], 4 * 4) == 0, "weight_scale differs from the golden file");
    check_decode(data[0], &m);
    ccq_checkpoint_close(ck);
}

/* Edges that no golden file has: one row, one column, tiny and huge blocks. */
static void test_edges(void)
{
    static const int sizes[][2] = {{1, 1}, {1, 300}, {300, 1}, {129, 17}, {128, 128}};
    static const float scales[] = {1, 1e-38f, 1e-41f, 3.3e38f, 0};
    uint64_t state = check_seed(6);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (size_t j = 0; j < sizeof scales / sizeof *scales; j++) {
            int64_t k = sizes[i][0], n = sizes[i][1];
            uint16_t *w = check_guarded((size_t)(k * n) * sizeof *w);
            for (int64_t at = 0; at < k * n; at++)
                w[at] = ccq_f32_to_bf16((float)(2 * check_uniform(&state) - 1) * scales[j]);
            matrix m = quantize(w, k, n);
            for (int64_t at = 0; at < (k + 127) / 128 * ((n + 127) / 128); at++)
                CHECK(isfinite(m.scale[at]) && m.scale[at] > 0, "scale %g at %d of %dx%d, %g",
                      (double)m.scale[at], (int)at, (int)k, (int)n, (double)scales[j]);
            check_decode(w, &m);
        }
}

int main(void)
{
    test_codes();
    test_rounding();
    test_edges();
    test_golden();
    return check_done();
}
