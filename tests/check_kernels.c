/* Risk: a kernel of the quantizer's side departs from the formula of its
 * contract (kernels/ops.h) on some instruction set. Each is held to that formula,
 * one value at a time from kernels/code.h and kernels/tile.h; random and nasty
 * data, buffers that end at an unmapped page. The forward pass has
 * check_forward.c. */
#include "kernels/encode.h"
#include "kernels/tile.h"
#include "tests/check.h"

#include <math.h>

static uint64_t state;

static int64_t below(int64_t n)
{
    return (int64_t)(check_next(&state) % (uint64_t)n);
}

static void drop(const void *p, size_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), body = (size + page - 1) / page * page;

    munmap((char *)(uintptr_t)p + size - body - page, body + 2 * page);
}

/* ---- search -------------------------------------------------------------- */

enum { FULL, SMALL, EXTREME, ZERO, RAMP, UNITS };

static void draw_units(int kind, int16_t u[CCQ_GROUP])
{
    static const int16_t extreme[] = {-32768, 32767, -32767, 0, 1, -1};

    for (int i = 0; i < CCQ_GROUP; i++)
        switch (kind) {
        case FULL: u[i] = (int16_t)(below(65536) - 32768); break;
        case SMALL: u[i] = (int16_t)(below(1024) - 512); break;
        case EXTREME: u[i] = extreme[below(6)]; break;
        case ZERO: u[i] = 0; break;
        default: u[i] = (int16_t)(i * 16 - 512); break;
        }
}

static int64_t least_score(const ccq_book *book, const int16_t *u, int l)
{
    int64_t least = INT64_MAX;

    for (int b = 0; b < CCQ_CODES; b++) {
        int64_t score = b, norm = 0;
        for (int i = 0; i < CCQ_WINDOWS; i++) {
            int64_t c = ccq_code_value(ccq_word_fused(b, book->cs, book->zp), i);
            score -= 256 * c * u[i];
            norm += c * c;
        }
        score += 2048 * l * norm;
        least = score < least ? score : least;
    }
    return least;
}

static void check_search(const ccq_ops *ops, const ccq_book *book, int kind, int lo, int hi)
{
    size_t count = (size_t)(hi - lo + 1);
    int16_t *u = check_guarded(CCQ_GROUP * sizeof *u);
    int32_t *J = check_guarded(count * sizeof *J);
    uint8_t(*best)[16] = check_guarded(count * 16);

    draw_units(kind, u);
    ops->search(book, u, lo, hi, J, best);
    for (int l = lo; l <= hi; l++) {
        int64_t sum = 0;
        for (int r = 0; r < 16; r++) {
            int64_t m = least_score(book, u + 4 * r, l);
            CHECK(best[l - lo][r] == (m & 255), "%s kind %d l %d block %d: byte %d, want %d",
                  ops->name, kind, l, r, best[l - lo][r], (int)(m & 255));
            sum += (m - (m & 255)) / 256;
        }
        CHECK(J[l - lo] == l * sum, "%s kind %d l %d: J %d", ops->name, kind, l, J[l - lo]);
    }
    drop(u, CCQ_GROUP * sizeof *u);
    drop(J, count * sizeof *J);
    drop(best, count * 16);
}

static void check_searches(const ccq_ops *ops)
{
    ccq_encoder enc;
    ccq_book odd;

    REQUIRE(ccq_encoder_init(&enc) == 0, "encoder");
    ccq_book_init(&odd, 128.0f, 0.0f); /* the last window never moves: many ties */
    for (int kind = 0; kind < UNITS; kind++) {
        check_search(ops, &odd, kind, 1, 15);
        for (int i = 0; i < CCQ_BOOKS; i++)
            check_search(ops, &enc.book[i], kind, 1, 15);
    }
    for (int width = 1; width <= 15; width++) /* every count of local scales */
        for (int lo = 1; lo + width <= 16; lo += 3)
            check_search(ops, &enc.book[0], SMALL, lo, lo + width - 1);
}

/* ---- widen, round -------------------------------------------------------- */

static void check_conversions(const ccq_ops *ops)
{
    for (int count = 0; count < 70; count++) {
        size_t size = (size_t)count * sizeof(float);
        uint32_t *x = check_guarded(size), *y = check_guarded(size);
        uint16_t *h = check_guarded((size_t)count * sizeof *h);
        float *f = (float *)(void *)x;

        for (int i = 0; i < count; i++) {
            h[i] = (uint16_t)check_next(&state);
            x[i] = (uint32_t)check_next(&state);
        }
        ops->widen(h, count, (float *)(void *)y);
        for (int i = 0; i < count; i++)
            CHECK(y[i] == (uint32_t)h[i] << 16, "%s: widen of %04x", ops->name, h[i]);
        ops->round(f, count, (float *)(void *)y);
        for (int i = 0; i < count; i++)
            CHECK(y[i] == (uint32_t)ccq_f32_to_bf16(f[i]) << 16, "%s: round of %08x", ops->name,
                  x[i]);
        ops->round(f, count, f);
        CHECK(!memcmp(x, y, size), "%s: round in place", ops->name);
        drop(x, size);
        drop(y, size);
        drop(h, (size_t)count * sizeof *h);
    }
}

/* ---- unpack -------------------------------------------------------------- */

static float element(const ccq_weight *w, int64_t k, int64_t n)
{
    const uint8_t *d = w->data;
    const uint16_t *h = w->data;
    int64_t at, s;
    int32_t word;
    int local;

    switch (w->type) {
    case CCQ_W_BF16: return ccq_bf16_to_f32(h[k * w->n + n]);
    case CCQ_W_BF16_T: return ccq_bf16_to_f32(h[n * w->k + k]);
    case CCQ_W_F32: return ((const float *)w->data)[k * w->n + n];
    case CCQ_W_WINT8:
        at = ccq_wint8_byte(k, n, w->k);
        return ccq_round_bf16((float)(d[at] - 128) * ccq_bf16_to_f32(w->scale[n]));
    case CCQ_W_WINT4:
        at = ccq_wint4_nibble(k, n, w->k);
        return ccq_round_bf16((float)((d[at / 2] >> 4 * (at & 1) & 15) - 8) *
                              ccq_bf16_to_f32(w->scale[n]));
    default:
        s = ccq_wint2_stored_row(k, w->order);
        word = ccq_code_word(d[s / 4 * w->n + n], w->code_scale[n], w->code_zp[n], w->rounding);
        local = ccq_local_scale(w->local[s / 128 * w->n + n], s / 64);
        return ccq_code_weight(ccq_code_value(word, (int)(s % 4)),
                               ccq_group_scale(local, ccq_bf16_to_f32(w->super[n]), w->rounding),
                               w->rounding);
    }
}

static float draw_line(int scale)
{
    static const float nasty[] = {0.0f, -0.0f, 1e-40f, 1e30f, -1e30f, INFINITY, NAN, 65535.99f,
                                  -32768.5f, 0.1f, 257.0f, 1e9f};

    if (below(4) == 0)
        return nasty[below(12)];
    if (below(2))
        return (float)(below(65536) - 32768) / (scale ? 256.0f : 4.0f);
    return (float)(check_uniform(&state) * (scale ? 128.0 : 20000.0));
}

static void *random_bytes(size_t size)
{
    uint8_t *p = check_guarded(size);

    for (size_t i = 0; i < size; i++)
        p[i] = (uint8_t)check_next(&state);
    return p;
}

/* super and scale: any bf16, NaN and infinities too, or only ordinary ones. */
static uint16_t *random_scales(int64_t n, int nasty)
{
    uint16_t *s = check_guarded((size_t)n * sizeof *s);

    for (int64_t i = 0; i < n; i++)
        s[i] = nasty && below(2) ? (uint16_t)check_next(&state)
                                 : ccq_f32_to_bf16((float)check_uniform(&state) * 0.01f);
    return s;
}

static ccq_weight make_weight(int type, int64_t k, int64_t n, int nasty)
{
    static const int quarters[] = {8, 8, 4, 2, 1, 4, 16}; /* bytes per 4 weights */
    size_t size = (size_t)(k * n * quarters[type] / 4);
    float *cs, *zp;
    ccq_weight w = {0};

    w.type = type;
    w.k = k;
    w.n = n;
    w.data = random_bytes(size);
    if (type == CCQ_W_WINT8 || type == CCQ_W_WINT4)
        w.scale = random_scales(n, nasty);
    if (type != CCQ_W_WINT2)
        return w;
    w.local = random_bytes((size_t)(k / 128 * n));
    w.super = random_scales(n, nasty);
    cs = check_guarded((size_t)n * sizeof *cs);
    zp = check_guarded((size_t)n * sizeof *zp);
    for (int64_t i = 0; i < n; i++) {
        cs[i] = nasty ? draw_line(1) : 120.94921875f;
        zp[i] = nasty ? draw_line(0) : 1253.75f;
    }
    w.code_scale = cs;
    w.code_zp = zp;
    w.order = (int)below(2);
    w.rounding = (int)below(3);
    return w;
}

static int same(float a, float b) /* bit for bit, but one NaN is as good as another */
{
    return !memcmp(&a, &b, sizeof a) || (a != a && b != b);
}

static void check_panel(const ccq_ops *ops, const ccq_weight *w, int64_t k0, int64_t kc, int64_t n0)
{
    size_t size = (size_t)kc * CCQ_PANEL * sizeof(float);
    float *panel = check_guarded(size);

    ops->unpack(w, k0, kc, n0, panel);
    for (int64_t i = 0; i < kc * CCQ_PANEL; i++) {
        int64_t k = k0 + i / CCQ_PANEL, n = n0 + i % CCQ_PANEL;
        float want = n < w->n ? element(w, k, n) : 0.0f;
        CHECK(same(panel[i], want), "%s type %d order %d rounding %d: row %d column %d: %g not %g",
              ops->name, w->type, w->order, w->rounding, (int)k, (int)n, (double)panel[i],
              (double)want);
    }
    drop(panel, size);
}

static void check_unpack(const ccq_ops *ops, int type, int64_t k, int64_t n, int nasty)
{
    ccq_weight w = make_weight(type, k, n, nasty);

    for (int64_t n0 = 0; n0 < n; n0 += CCQ_PANEL) {
        check_panel(ops, &w, 0, k, n0);
        check_panel(ops, &w, k / CCQ_GROUP / 2 * CCQ_GROUP, k - k / CCQ_GROUP / 2 * CCQ_GROUP, n0);
        if (k > CCQ_GROUP)
            check_panel(ops, &w, 0, CCQ_GROUP, n0);
    }
}

static void check_unpacks(const ccq_ops *ops)
{
    for (int type = CCQ_W_BF16; type <= CCQ_W_WINT2; type++)
        for (int nasty = 0; nasty < 2; nasty++)
            for (int round = 0; round < 6; round++) {
                check_unpack(ops, type, 128, 16, nasty);
                check_unpack(ops, type, 384, 48, nasty);
                check_unpack(ops, type, 256, 40, nasty); /* a panel that is not whole */
            }
    check_unpack(ops, CCQ_W_BF16, 70, 19, 1);
    check_unpack(ops, CCQ_W_BF16, 1, 1, 1);
    for (int round = 0; round < 6; round++)
        check_unpack(ops, CCQ_W_F32, 1 + (int64_t)below(200), 1 + (int64_t)below(50), 1);
    check_unpack(ops, CCQ_W_BF16_T, 70, 19, 1);
    check_unpack(ops, CCQ_W_BF16_T, 1, 3, 1);
    check_unpack(ops, CCQ_W_WINT8, 64, 2, 1);
    check_unpack(ops, CCQ_W_WINT4, 64, 4, 1);
}

int main(void)
{
    const char *last = "";
    ccq_ops ops;

    state = check_seed(1);
    for (unsigned isa = CCQ_ISA_C; isa <= CCQ_ISA_AVX512; isa *= 2) {
        ccq_ops_init(&ops, 2 * isa - 1); /* it and all below */
        if (!strcmp(ops.name, last))
            continue;
        last = ops.name;
        printf("%s\n", last);
        check_searches(&ops);
        check_conversions(&ops);
        check_unpacks(&ops);
    }
    return check_done();
}
