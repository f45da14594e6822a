/* Every slot of the forward pass on every instruction set against plain C, bit
 * for bit: random and nasty values, odd sizes, buffers that end at an unmapped
 * page. A NaN equals any NaN: which payload survives is the processor's choice. */
#include "kernels/ops.h"
#include "tests/check.h"

#include <math.h>

enum { ORDINARY, NASTY, KINDS };

static uint64_t state;

static int64_t below(int64_t n)
{
    return (int64_t)(check_next(&state) % (uint64_t)n);
}

static float from_bits(uint32_t u)
{
    float f;

    memcpy(&f, &u, sizeof f);
    return f;
}

/* NASTY mixes any bits, zeros of both signs, infinities, NaN, subnormals and
 * huge values into the ordinary ones. */
static float draw(int kind)
{
    static const uint32_t edge[] = {0x00000000, 0x80000000, 0x7f800000, 0xff800000, 0x7fc00000,
                                    0xffc12345, 0x7f812345, 0x00000001, 0x807fffff, 0x7f7fffff,
                                    0xff7fffff, 0x00800000, 0x3f800000, 0x42b17218, 0xc2cff1b5};
    double u = check_uniform(&state) + check_uniform(&state) - 1.0;

    if (kind == NASTY && below(16) == 0)
        return from_bits(edge[below(sizeof edge / sizeof *edge)]);
    if (kind == NASTY && below(16) == 0)
        return from_bits((uint32_t)check_next(&state));
    return (float)(u * 4.0);
}

static float *floats(int64_t n, int kind)
{
    float *x = check_guarded((size_t)n * sizeof *x);
    int64_t i;

    for (i = 0; i < n; i++)
        x[i] = draw(kind);
    return x;
}

static uint16_t *halves(int64_t n, int kind)
{
    uint16_t *x = check_guarded((size_t)n * sizeof *x);
    int64_t i;

    for (i = 0; i < n; i++)
        x[i] = ccq_f32_to_bf16(draw(kind));
    return x;
}

static uint8_t *bytes(int64_t n)
{
    uint8_t *x = check_guarded((size_t)n);
    int64_t i;

    for (i = 0; i < n; i++)
        x[i] = (uint8_t)check_next(&state);
    return x;
}

static void drop(const void *p, int64_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), body = ((size_t)size + page - 1) / page * page;
    uintptr_t end = (uintptr_t)p + (size_t)size;

    munmap((void *)(end - body - page), body + 2 * page);
}

static void same(const char *what, const float *c, const float *x, int64_t n, int nan_bits)
{
    int64_t i;

    for (i = 0; i < n; i++)
        if (memcmp(&c[i], &x[i], sizeof *c) && (nan_bits || c[i] == c[i] || x[i] == x[i]))
            break;
    CHECK(i == n, "%s: value %lld of %lld: C %a, here %a", what, (long long)i, (long long)n,
          (double)c[i < n ? i : 0], (double)x[i < n ? i : 0]);
}

/* ---- Rows ---------------------------------------------------------------- */

static void check_rows(const ccq_ops *c, const ccq_ops *x, int64_t n, int kind)
{
    uint16_t *half = halves(n, kind);
    float *in = floats(2 * n, kind), *g = floats(n, kind);
    float *a = floats(n, ORDINARY), *b = floats(n, ORDINARY);
    int bf16;

    c->widen(half, n, a), x->widen(half, n, b);
    same("widen", a, b, n, 1);
    c->round(in, n, a), x->round(in, n, b);
    same("round", a, b, n, 1);
    memcpy(b, in, (size_t)n * sizeof *b);
    x->round(b, n, b);
    same("round in place", a, b, n, 1);
    for (bf16 = 0; bf16 < 2; bf16++) {
        c->rms(in, g, n, 1e-5f, bf16, a), x->rms(in, g, n, 1e-5f, bf16, b);
        same("rms", a, b, n, 0);
        c->swiglu(in, n, bf16, a), x->swiglu(in, n, bf16, b);
        same("swiglu", a, b, n, 0);
    }
    drop(half, n * 2), drop(in, n * 8), drop(g, n * 4), drop(a, n * 4), drop(b, n * 4);
}

static void check_rope(const ccq_ops *c, const ccq_ops *x, int64_t heads, int64_t d, int kind)
{
    float *cosine = floats(d / 2, kind), *sine = floats(d / 2, kind);
    float *a = floats(heads * d, kind), *b = floats(heads * d, kind);
    int bf16;

    for (bf16 = 0; bf16 < 2; bf16++) {
        memcpy(b, a, (size_t)(heads * d) * sizeof *b);
        c->rope(a, heads, d, cosine, sine, bf16), x->rope(b, heads, d, cosine, sine, bf16);
        same("rope", a, b, heads * d, 0);
    }
    drop(cosine, d * 2), drop(sine, d * 2), drop(a, heads * d * 4), drop(b, heads * d * 4);
}

/* ---- Weights and products ------------------------------------------------ */

/* bf16 scales: ordinary, any bits at all, or ordinary ones of one far exponent. */
static uint16_t *make_scales(int64_t n, int kind)
{
    uint16_t *s = halves(n, kind == NASTY && below(3) == 0 ? NASTY : ORDINARY);
    float far = kind == NASTY && below(2) ? ldexpf(1.0f, (int)below(250) - 138) : 1.0f;
    int64_t j;

    for (j = 0; j < n; j++)
        s[j] = ccq_f32_to_bf16(ccq_bf16_to_f32(s[j]) * far);
    return s;
}

/* The default line, moderate ones, or when far one of any size among them. */
static void make_line(int far, float *cs, float *zp)
{
    int line = (int)below(far ? 3 : 2);

    *cs = line == 0 ? 120.94921875f : draw(line == 1 ? ORDINARY : NASTY) * 30.0f;
    *zp = line == 0 ? 1253.75f : draw(line == 1 ? ORDINARY : NASTY) * 3000.0f;
    if (line == 2 && below(2))
        *(below(2) ? cs : zp) *= ldexpf(1.0f, (int)below(60));
}

static int64_t stored_bytes(int type, int64_t weights)
{
    switch (type) {
    case CCQ_W_WINT8: return weights;
    case CCQ_W_WINT4: return weights / 2;
    case CCQ_W_WINT2: return weights / 4;
    case CCQ_W_F32: return weights * 4;
    default: return weights * 2;
    }
}

static ccq_weight make_weight(int type, int64_t k, int64_t n, int kind)
{
    ccq_weight w = {.type = type, .k = k, .n = n, .order = (int)below(2),
                    .rounding = (int)below(3)};
    float *cs = floats(n, ORDINARY), *zp = floats(n, ORDINARY);
    int far = kind == NASTY && below(3) == 0;
    int64_t j;

    for (j = 0; j < n; j++)
        make_line(far, &cs[j], &zp[j]);
    w.data = type <= CCQ_W_BF16_T ? (void *)halves(k * n, kind)
             : type == CCQ_W_F32  ? (void *)floats(k * n, kind)
                                  : (void *)bytes(stored_bytes(type, k * n));
    w.scale = w.super = make_scales(n, kind);
    w.local = bytes((k + 127) / 128 * n);
    w.code_scale = cs;
    w.code_zp = zp;
    return w;
}

static void drop_weight(const ccq_weight *w)
{
    int64_t size = stored_bytes(w->type, w->k * w->n);

    drop(w->data, size), drop(w->scale, w->n * 2), drop(w->local, (w->k + 127) / 128 * w->n);
    drop(w->code_scale, w->n * 4), drop(w->code_zp, w->n * 4);
}

static void check_unpack(const ccq_ops *c, const ccq_ops *x, int type, int64_t k, int64_t n,
                         int kind)
{
    static const char *const names[] = {"bf16", "bf16_t", "wint8", "wint4", "wint2", "fp8", "f32"};
    ccq_weight w = make_weight(type, k, n, kind);
    int64_t n0, k0, kc;

    for (n0 = 0; n0 < n; n0 += CCQ_PANEL)
        for (k0 = 0; k0 < k; k0 += kc) {
            float *a, *b;
            kc = 64 * (1 + below(3));
            kc = kc < k - k0 ? kc : k - k0;
            a = floats(kc * CCQ_PANEL, ORDINARY), b = floats(kc * CCQ_PANEL, ORDINARY);
            c->unpack(&w, k0, kc, n0, a), x->unpack(&w, k0, kc, n0, b);
            same(names[type], a, b, kc * CCQ_PANEL,
                 type <= CCQ_W_BF16_T || type == CCQ_W_F32);
            drop(a, kc * 64), drop(b, kc * 64);
        }
    drop_weight(&w);
}

static void check_product(const ccq_ops *c, const ccq_ops *x, int64_t rows, int64_t kc, int kind)
{
    int64_t ldx = kc + below(5), ld = CCQ_PANEL + below(5), i;
    int64_t nx = (rows - 1) * ldx + kc, na = (rows - 1) * ld + CCQ_PANEL;
    float *in = floats(nx, kind), *panel = floats(kc * CCQ_PANEL, kind);
    float *a = floats(na, kind), *b = floats(na, ORDINARY);

    for (i = 0; i < na; i++)
        b[i] = a[i];
    c->product(in, ldx, rows, panel, kc, a, ld), x->product(in, ldx, rows, panel, kc, b, ld);
    same("product", a, b, na, 0);
    drop(in, nx * 4), drop(panel, kc * 64), drop(a, na * 4), drop(b, na * 4);
}

/* Lines of multiples of 1/256 with words in 0..32767, falling ones too; the served
 * rounding. */
static void make_exact(ccq_weight *w)
{
    float *cs = floats(w->n, ORDINARY), *zp = floats(w->n, ORDINARY);
    int64_t j;

    for (j = 0; j < w->n; j++) {
        cs[j] = (float)below(120 * 256) / 256.0f;
        zp[j] = (float)(below(2000 * 256) - 128) / 256.0f;
        if (below(4) == 0) {
            zp[j] += 255.0f * cs[j];
            cs[j] = -cs[j];
        }
    }
    drop(w->code_scale, w->n * 4), drop(w->code_zp, w->n * 4);
    w->code_scale = cs;
    w->code_zp = zp;
    w->rounding = CCQ_ROUND_FUSED;
}

/* The blocked product against the law itself, in parts of any width. */
static void check_matmul(const ccq_ops *c, const ccq_ops *x, int type, int64_t rows,
                         int64_t k, int64_t n, int bf16, int kind)
{
    ccq_weight w = make_weight(type, k, n, kind);
    float *in = floats(rows * k, ORDINARY), *y = floats(rows * n, NASTY);
    float *want = floats(rows * n, ORDINARY), *panel = floats(k * CCQ_PANEL, ORDINARY);
    size_t size = ccq_matmul_scratch(rows) * sizeof(float);
    float *scratch = check_guarded(size);
    int64_t n0, n1, r, j, i;

    if (below(2))
        make_exact(&w);
    for (n0 = 0; n0 < n; n0 += CCQ_PANEL) {
        c->unpack(&w, 0, k, n0, panel);
        for (r = 0; r < rows; r++)
            for (j = 0; j < CCQ_PANEL && n0 + j < n; j++) {
                float acc = 0;
                for (i = 0; i < k; i++)
                    acc = __builtin_fmaf(in[r * k + i], panel[i * CCQ_PANEL + j], acc);
                want[r * n + n0 + j] = bf16 ? ccq_round_bf16(acc) : acc;
            }
    }
    for (n0 = 0; n0 < n; n0 = n1) {
        n1 = n0 + CCQ_PANEL * (1 + below(6));
        n1 = n1 < n ? n1 : n;
        ccq_matmul(x, &w, in, k, rows, n0, n1, bf16, y, n, scratch);
    }
    same("matmul", want, y, rows * n, 0);
    drop_weight(&w);
    drop(in, rows * k * 4), drop(y, rows * n * 4), drop(want, rows * n * 4), drop(panel, k * 64);
    drop(scratch, (int64_t)size);
}

/* ---- Attention ----------------------------------------------------------- */

typedef struct shape {
    int64_t rows, pos0, heads, kv, d;
} shape;

static void check_attend(const ccq_ops *c, const ccq_ops *x, shape s, int kind)
{
    int64_t len = s.pos0 + s.rows, ld = s.heads * s.d + below(4), nq = s.rows * ld;
    int64_t nkv = len * s.kv * s.d, h0 = below(s.heads), h1 = h0 + 1 + below(s.heads - h0);
    size_t size = ccq_attend_scratch(len, s.d) * sizeof(float);
    float *q = floats(nq, ORDINARY), *scratch = check_guarded(size);
    float *a = floats(nq, ORDINARY), *b = floats(nq, ORDINARY);
    int kv_bf16 = (int)below(2), bf16 = (int)below(2);
    void *k = kv_bf16 ? (void *)halves(nkv, kind) : (void *)floats(nkv, kind);
    void *v = kv_bf16 ? (void *)halves(nkv, kind) : (void *)floats(nkv, kind);

    memcpy(b, a, (size_t)nq * sizeof *b);
    c->attend(q, ld, s.rows, s.pos0, k, v, kv_bf16, s.heads, s.kv, s.d, h0, h1, bf16, scratch, a);
    memset(scratch, 0xFF, size);
    x->attend(q, ld, s.rows, s.pos0, k, v, kv_bf16, s.heads, s.kv, s.d, h0, h1, bf16, scratch, b);
    same("attend", a, b, nq, 0);
    drop(q, nq * 4), drop(a, nq * 4), drop(b, nq * 4), drop(scratch, (int64_t)size);
    drop(k, nkv * (kv_bf16 ? 2 : 4)), drop(v, nkv * (kv_bf16 ? 2 : 4));
}

static void check_attention(const ccq_ops *c, const ccq_ops *x, int kind)
{
    static const shape shapes[] = {
        {1, 0, 1, 1, 16},   {1, 11, 4, 2, 32},  {1, 300, 8, 2, 24}, {13, 0, 4, 4, 20},
        {29, 70, 6, 2, 32}, {60, 1, 5, 1, 8},   {7, 129, 3, 1, 2},  {3, 17, 100, 1, 16},
        {131, 0, 2, 1, 64}, {16, 256, 4, 2, 128}};
    size_t i;

    for (i = 0; i < sizeof shapes / sizeof *shapes; i++)
        check_attend(c, x, shapes[i], kind);
}

static void check_isa(const ccq_ops *c, const ccq_ops *x)
{
    static const int64_t sizes[] = {1, 2, 7, 8, 9, 15, 16, 17, 31, 100, 257, 1024};
    size_t i;
    int kind, type, t;

    for (kind = 0; kind < KINDS; kind++) {
        for (i = 0; i < sizeof sizes / sizeof *sizes; i++)
            check_rows(c, x, sizes[i], kind);
        for (t = 0; t < 20; t++) {
            check_rope(c, x, 1 + below(5), 2 * (1 + below(40)), kind);
            check_product(c, x, 1 + below(20), 1 + below(100), kind);
        }
        for (type = CCQ_W_BF16; type <= CCQ_W_WINT2; type++)
            for (t = 0; t < 40; t++) {
                int whole = type > CCQ_W_BF16_T;
                int64_t unit = type == CCQ_W_WINT2 ? 128 : 64; /* rows of w */
                int64_t k = whole ? unit * (1 + below(4)) : 1 + below(300);
                check_unpack(c, x, type, k, whole ? 16 * (1 + below(3)) : 1 + below(50), kind);
            }
        for (t = 0; t < 40; t++)
            check_unpack(c, x, CCQ_W_F32, 1 + below(300), 1 + below(50), kind);
        check_attention(c, x, kind);
    }
}

int main(void)
{
    static const unsigned masks[] = {CCQ_ISA_C, CCQ_ISA_C | CCQ_ISA_AVX2,
                                     CCQ_ISA_C | CCQ_ISA_AVX2 | CCQ_ISA_AVX512};
    ccq_ops c, x;
    size_t i;
    int type, t;

    state = check_seed(20261);
    ccq_ops_init(&c, CCQ_ISA_C);
    for (i = 0; i < sizeof masks / sizeof *masks; i++) {
        ccq_ops_init(&x, masks[i]);
        printf("%s against %s\n", x.name, c.name);
        check_isa(&c, &x);
        for (type = CCQ_W_BF16; type <= CCQ_W_WINT2; type++) {
            int64_t n = type <= CCQ_W_BF16_T ? 75 : 80;
            check_matmul(&c, &x, type, 1, 384, n, 0, ORDINARY);
            check_matmul(&c, &x, type, 21, 384, n, 1, ORDINARY);
            for (t = 0; t < 16; t++) /* few rows have kernels of their own */
                check_matmul(&c, &x, type, 1 + t % 4, 128 * (1 + t % 3), n, t & 1, t / 4 % KINDS);
        }
        check_matmul(&c, &x, CCQ_W_BF16, 400, 300, 35, 1, ORDINARY);
        check_matmul(&c, &x, CCQ_W_BF16, 3, 301, 35, 1, NASTY);
        for (t = 0; t < 8; t++)
            check_matmul(&c, &x, CCQ_W_F32, 1 + 7 * t, 301 + 50 * t, 35 + 16 * t, t & 1, NASTY);
    }
    return check_done();
}
