/* wint2 matrices of a device: index maps, decoding in all its forms, there and back again. On
 * the host device, or with the argument "cuda" on the first CUDA device. */
#include "kernels/gpu/wint2_checks.h"
#include "tests/gpu_wint2_bed.h"

static ccq_gpu *gpu;

/* ---- Halves -------------------------------------------------------------- */

/* All halves there and back; between two of them the nearer, and the even one in the middle. */
static void test_halves(void)
{
    int bad = 0;
    for (uint32_t h = 0; h < 0x7c00; h++) {
        float low = ccq_w2_from_f16((uint16_t)h), high = ccq_w2_from_f16((uint16_t)(h + 1));
        float mid = h == 0x7bff ? 65520.0f : low + (high - low) / 2;
        uint16_t even = (uint16_t)(h & 1 ? h + 1 : h);
        bad += ccq_w2_to_f16(low) != h || ccq_w2_to_f16(-low) != (h | 0x8000u);
        bad += ccq_w2_to_f16(mid) != even;
        bad += ccq_w2_to_f16(nextafterf(mid, 0)) != h;
        bad += ccq_w2_to_f16(nextafterf(mid, 1e30f)) != h + 1;
    }
    CHECK(!bad, "%d of 31744 halves", bad);
    CHECK(isnan(ccq_w2_from_f16(ccq_w2_to_f16(NAN))), "NaN");
    CHECK(ccq_w2_to_f16(INFINITY) == 0x7c00 && ccq_w2_to_f16(1e30f) == 0x7c00, "infinity");
}

/* ---- Index maps ---------------------------------------------------------- */

/* Both ways of index `at`, and of row `row` and place `place`; `codes`: or of local scales. */
static int64_t bad_index(int64_t k, int64_t n, int codes, int64_t at, int64_t row, int64_t place)
{
    int64_t rows = codes ? k / 4 : k / 128, r, p, back, there;

    (codes ? ccq_w2_code_of : ccq_w2_local_of)(at, k, &r, &p);
    back = (codes ? ccq_w2_code_at : ccq_w2_local_at)(r, p, k);
    there = (codes ? ccq_w2_code_at : ccq_w2_local_at)(row, place, k);
    if (r < 0 || r >= rows || p < 0 || p >= n || back != at || there < 0 || there >= rows * n)
        return 1;
    (codes ? ccq_w2_code_of : ccq_w2_local_of)(there, k, &r, &p);
    return r != row || p != place;
}

/* Of all indices (stride 1), which makes both a bijection, or of some. */
static void test_maps(int64_t k, int64_t n, int swiglu, int64_t stride)
{
    int64_t bad = 0, p;

    for (int64_t i = 0; i < k * n / 4; i += stride)
        bad += bad_index(k, n, 1, i, i / n, i % n);
    for (int64_t i = 0; i < k * n / 128; i++)
        bad += bad_index(k, n, 0, i, i / n, i % n);
    bad += bad_index(k, n, 1, k * n / 4 - 1, k / 4 - 1, n - 1);
    for (int64_t c = 0; c < n; c++) {
        p = ccq_w2_place(c, n, swiglu);
        bad += p < 0 || p >= n || ccq_w2_column(p, n, swiglu) != c;
        bad += swiglu && c < n / 2 && ccq_w2_place(c + n / 2, n, 1) != p + 16;
    }
    for (int i = 0; i < 64; i++)
        bad += ccq_w2_x_half(ccq_w2_x_row(i)) != i || ccq_w2_x_row(ccq_w2_x_half(i)) != i;
    CHECK(!bad, "%" PRId64 " x %" PRId64 ": %" PRId64 " places", k, n, bad);
}

/* Shapes of checkpoints, and what a rank has of them: columns or rows, where they can be cut. */
static void test_real_maps(void)
{
    const int64_t shapes[][2] = {{8192, 7168}, {3584, 8192}, {2560, 3072}, {1536, 2560}};

    for (int i = 0; i < 4; i++) {
        const int64_t k = shapes[i][0], n = shapes[i][1];
        test_maps(k, n, i % 2 == 0, 3);
        for (int64_t ranks = 2; ranks <= 8; ranks *= 2) {
            CHECK(ccq_gpu_wint2_bytes(k, n / ranks), "columns of %d ranks", (int)ranks);
            test_maps(k, n / ranks, i % 2 == 0, 17);
            CHECK(!ccq_gpu_wint2_bytes(k / ranks, n) == (k / ranks % 128 != 0), "a rank's rows");
            if (k / ranks % 128 == 0)
                test_maps(k / ranks, n, 0, 17);
        }
    }
}

/* ---- Decoding ------------------------------------------------------------ */

static float field_value(int form, uint16_t bits, int j, int local)
{
    float zero = j & 1 ? 1536.0f : 1088.0f, step = j & 1 ? 16.0f : 2.0f;
    if (form == CCQ_W2_FORM_G)
        return (ccq_w2_from_f16(bits) - zero) / step * (float)local;
    return form == CCQ_W2_FORM_W ? ccq_w2_from_f16(bits) : ccq_bf16_to_f32(bits);
}

/* What the columns of a lane, g and g + 8, have of their own. */
typedef struct columns {
    ccq_w2_line line[2];
    float cs[2], zp[2], super[2];
    int local[2];
} columns;

/* Byte b beside another in all four registers of both columns, at both places of a pair. */
static int one_group(int form, int exact, const columns *c, int b)
{
    int rounding = form == CCQ_W2_FORM_U ? CCQ_ROUND_UNZIP : CCQ_ROUND_FUSED, bad = 0;
    uint32_t word[2] = {(uint32_t)b * 0x00010001u | (uint32_t)(255 - b) * 0x01000100u, 0};
    uint32_t scale[2], a[4][4];

    word[1] = ~word[0];
    for (int u = 0; u < 2; u++)
        scale[u] = ccq_w2_scale(form, (float)c->local[u], c->super[u]);
    ccq_w2_group(form, exact, word, c->line, scale, a);
    for (int m = 0; m < 4; m++)
        for (int i = 0; i < 8; i++) {
            int u = i / 2 % 2, hi = i / 4, e = i % 2, byte = (e ^ u) ? 255 - b : b;
            int window = 3 - 2 * (m % 2) - hi, local = c->local[u];
            int value = ccq_code_value(ccq_code_word(byte, c->cs[u], c->zp[u], rounding), window);
            float scaled = ccq_group_scale(local, c->super[u], rounding);
            float want = form == CCQ_W2_FORM_B || form == CCQ_W2_FORM_U
                ? ccq_code_weight(value, scaled, rounding)
                : (float)(value * local);
            uint16_t got = (uint16_t)(a[m][2 * hi + u] >> 16 * e);
            bad += !(field_value(form, got, 3 - window, local) == want);
        }
    return bad;
}

static const float supers[] = {0.0f, 0x1.54p-9f, -0x1.9p-3f, 0x1p-133f, 0x1.fep100f};

/* Line i, and the next one, that is proved if `exact`. */
static columns columns_of(int i, int exact)
{
    columns c = {.cs = {0}};

    for (int u = 0; u < 2; u++) {
        c.cs[u] = lines[i][0];
        c.zp[u] = lines[i][1];
        c.line[u] = exact ? ccq_w2_prove(c.cs[u], c.zp[u]).line
                          : (ccq_w2_line){ccq_w2_bits(c.cs[u]), ccq_w2_bits(c.zp[u])};
        do
            i = (i + 1) % LINES;
        while (exact && !ccq_w2_prove(lines[i][0], lines[i][1]).exact);
    }
    return c;
}

/* Every local scale of column g, another one and another super of column g + 8. */
static void scales_of(columns *c, int i, int b, int local)
{
    c->local[0] = local;
    c->local[1] = (local * 7 + 3 + b) % 16;
    c->super[0] = supers[(b + local) % 5];
    c->super[1] = supers[(b + local + 1 + i % 4) % 5];
}

static void test_decode(void)
{
    int proved = 0;

    for (int i = 0; i < LINES; i++) {
        float cs = lines[i][0], zp = lines[i][1];
        ccq_w2_proof proof = ccq_w2_prove(cs, zp);
        columns plain = columns_of(i, 0), fixed = columns_of(i, 1);
        int bad[2][4] = {{0}};
        proved += proof.exact;
        for (int b = 0; b < 256; b++)
            for (int local = 0; local < 16; local++) {
                scales_of(&plain, i, b, local);
                scales_of(&fixed, i, b, local);
                for (int form = 0; form < 4; form++) {
                    bad[0][form] += one_group(form, 0, &plain, b);
                    if (proof.exact && form != CCQ_W2_FORM_U)
                        bad[1][form] += one_group(form, 1, &fixed, b);
                }
            }
        for (int form = 0; form < 8; form++)
            CHECK(!bad[form / 4][form % 4], "line %g %g, form %d, exact %d: %d", (double)cs,
                  (double)zp, form % 4, form / 4, bad[form / 4][form % 4]);
    }
    CHECK(proved > 7 && proved < LINES, "%d of %d lines proved", proved, LINES);
    CHECK(ccq_w2_prove(120.953125f, 1253.75f).line.slope == 15853568u, "CS of a known line");
    for (int i = 0; i < 1024; i++) {
        int l = i / 4 % 16, u = i & 1, o = i >> 1 & 1, other = i * 37 & 0xffff;
        int shift = 8 * u + (o ? 0 : 4);
        uint32_t bytes = ((uint32_t)other & ~(15u << shift)) | (uint32_t)l << shift;
        CHECK(ccq_w2_local(bytes, u, o) == (float)l, "local %d at %d", l, shift);
    }
}

/* The device's registers, local scales and scales for every byte and local scale are the bits
 * that the same functions give on the host. */
static void test_device_decode(int line, int form, int exact)
{
    enum { CASES = 256 * 16 };
    ccq_gpu_codes *codes = calloc(CASES, sizeof *codes);
    uint32_t *got = malloc(CASES * CCQ_GPU_DECODED * sizeof *got), want[CCQ_GPU_DECODED];
    columns c = columns_of(line, exact);
    void *from, *to;
    int bad = 0;

    for (int i = 0; i < CASES; i++) {
        int b = i / 16, upper = (b ^ i) & 1;
        scales_of(&c, line, b, i % 16);
        codes[i].word[0] = (uint32_t)b * 0x00010001u | (uint32_t)(255 - b) * 0x01000100u;
        codes[i].word[1] = ~codes[i].word[0];
        codes[i].locals = (uint32_t)(c.local[0] | c.local[1] << 8) << (upper ? 0 : 4);
        codes[i].form = form;
        codes[i].exact = exact;
        codes[i].upper = upper;
        for (int u = 0; u < 2; u++) {
            codes[i].line[u][0] = c.line[u].slope;
            codes[i].line[u][1] = c.line[u].start;
            codes[i].super[u] = c.super[u];
        }
    }
    memset(got, 0xff, CASES * sizeof want);
    from = on_device(gpu, codes, CASES * sizeof *codes);
    to = on_device(gpu, got, CASES * sizeof want);
    REQUIRE(!ccq_gpu_wint2(gpu)->decode(gpu, from, CASES, to), "%s", ccq_gpu_error(gpu));
    from_device(gpu, got, to, CASES * sizeof want);
    for (int i = 0; i < CASES; i++) {
        ccq_w2_decode_codes(codes + i, want);
        bad += memcmp(got + i * CCQ_GPU_DECODED, want, sizeof want) != 0;
        bad += want[16] != ccq_w2_bits((float)(i % 16));
    }
    CHECK(!bad, "line %d, form %d, exact %d: %d of %d groups", line, form, exact, bad, CASES);
    ccq_gpu_free(gpu, from);
    ccq_gpu_free(gpu, to);
    free(got);
    free(codes);
}

static void test_device(void)
{
    for (int line = 0; line < LINES; line++)
        for (int form = 0; form < 4; form++) {
            test_device_decode(line, form, 0);
            if (form != CCQ_W2_FORM_U && ccq_w2_prove(lines[line][0], lines[line][1]).exact)
                test_device_decode(line, form, 1);
        }
}

/* ---- Matrices ------------------------------------------------------------ */

static void count_found(const tensors *t, int swiglu, ccq_gpu_wint2_found *found)
{
    memset(found, 0, sizeof *found);
    for (int64_t tile = 0; tile < t->host.n / 16; tile++) {
        int exact = 1;
        for (int i = 0; i < 16; i++) {
            int64_t c = ccq_w2_column(tile * 16 + i, t->host.n, swiglu);
            ccq_w2_proof proof = ccq_w2_prove(t->host.code_scale[c], t->host.code_zp[c]);
            exact &= proof.exact;
            found->orders += proof.orders;
        }
        found->inexact += !exact;
    }
}

/* unpack(repack(x)) against the CPU's weights, bit by bit; `cases` of roundings and orders. */
static void test_repack(uint64_t *seed, int64_t k, int64_t n, int swiglu, int cases)
{
    tensors t = make_tensors(gpu, seed, k, n, 1, 0x1p-8f);
    size_t size = ccq_gpu_wint2_bytes(k, n);
    uint16_t *got = malloc((size_t)(k * n) * 2);
    void *to = on_device(gpu, got, (size_t)(k * n) * 2), *packed;
    ccq_gpu_wint2_found found, wanted;
    ccq_gpu_matrix m;

    REQUIRE(!ccq_gpu_alloc(gpu, size, &packed), "%s", ccq_gpu_error(gpu));
    REQUIRE(!ccq_gpu_wint2(gpu)->repack(gpu, &t.device, swiglu, packed, &m, &found), "%s",
            ccq_gpu_error(gpu));
    count_found(&t, swiglu, &wanted);
    CHECK(found.inexact == wanted.inexact && found.orders == wanted.orders,
          "%" PRId64 " inexact, %" PRId64 " orders", found.inexact, found.orders);
    CHECK(found.inexact > 0 && found.inexact < n / 16 && found.orders > 0, "nothing to find");
    for (int i = 0; i < cases; i++) {
        int rounding = i % 3, order = i / 3, bad = 0;
        float *want = decoded(&t, rounding, order);
        REQUIRE(!ccq_gpu_fill(gpu, to, 0xff, (size_t)(k * n) * 2), "fill");
        REQUIRE(!ccq_gpu_wint2(gpu)->unpack(gpu, &m, swiglu, rounding, order, to), "%s",
                ccq_gpu_error(gpu));
        from_device(gpu, got, to, (size_t)(k * n) * 2);
        for (int64_t j = 0; j < k * n; j++)
            bad += got[j] != ccq_f32_to_bf16(want[j]);
        CHECK(!bad, "%" PRId64 " x %" PRId64 " swiglu %d rounding %d order %d: %d weights", k, n,
              swiglu, rounding, order, bad);
        free(want);
    }
    ccq_gpu_free(gpu, packed);
    ccq_gpu_free(gpu, to);
    free(got);
    free_tensors(gpu, &t);
}

static void test_refused(void)
{
    ccq_weight w = {.type = CCQ_W_WINT2, .k = 192, .n = 32};
    ccq_gpu_wint2_found found;
    ccq_gpu_matrix m;

    CHECK(!ccq_gpu_wint2_bytes(192, 32) && !ccq_gpu_wint2_bytes(128, 24), "shapes");
    CHECK(!ccq_gpu_wint2_bytes(INT64_MAX / 128 * 128, 16), "a shape past all memory");
    CHECK(ccq_gpu_wint2(gpu)->repack(gpu, &w, 0, NULL, &m, &found) == CCQ_GPU_FAILED, "K = 192");
    w.k = 128, w.n = 48;
    CHECK(ccq_gpu_wint2(gpu)->repack(gpu, &w, 1, NULL, &m, &found) == CCQ_GPU_FAILED,
          "half a pair");
}

int main(int argc, char **argv)
{
    uint64_t seed = check_seed(20);

    gpu = bed_open(argc, argv);
    test_halves();
    test_maps(128, 32, 1, 1);
    test_maps(640, 48, 0, 1);
    test_maps(1536, 2560, 1, 1);
    test_real_maps();
    test_decode();
    test_device();
    test_repack(&seed, 128, 48, 0, 6);
    test_repack(&seed, 384, 64, 1, 6);
    test_repack(&seed, 256, 352, 1, 6);
    test_repack(&seed, 1536, 2560, 1, 1);
    test_refused();
    return bed_close(gpu);
}
