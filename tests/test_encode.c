/* Risk: the encoder departs from its definition (docs/design.md, "The
 * encoder"). The oracle below is that definition in int64 and double, one
 * candidate at a time, for every scale, line, local scale and byte. */
#include "kernels/encode.h"
#include "tests/check.h"

#include <float.h>
#include <math.h>

enum { MAX_K = 512 };

typedef struct result {
    uint8_t bytes[MAX_K / 4], local[MAX_K / 64];
    float cs, zp, s; /* s: of the scaled column, before the gain */
    double cost;
} result;

/* ---- The oracle ---------------------------------------------------------- */

static int value_of(const ccq_book *book, int b, int i)
{
    int v = (int)floor((double)b * (double)book->cs + (double)book->zp + 0.5); /* exact */

    return (v >> (9 - 3 * i) & 63) - 32;
}

static int row_of(int stored, int order) /* logical row of a stored row of the column */
{
    int g = stored / 64 * 64, s = stored % 64, a = s / 16, b = s % 16 / 2, c = s % 2;

    return order == CCQ_ORDER_PLAIN ? stored : g + 8 * b + 2 * a + c;
}

static float rms_of(const float *w)
{
    float q[16] = {0};

    for (int i = 0; i < 64; i++)
        q[i / 4] = fmaf(w[i], w[i], q[i / 4]);
    for (int n = 8; n; n /= 2)
        for (int j = 0; j < n; j++)
            q[j] = q[j] + q[j + n];
    return sqrtf(q[0] / 64.0f);
}

static int64_t clamp(int64_t x, int64_t lo, int64_t hi)
{
    return x < lo ? lo : x > hi ? hi : x;
}

/* The best byte of one block at local scale l, and its score. */
static int64_t block_score(const ccq_book *book, const int64_t *u, int l)
{
    int64_t best = INT64_MAX;

    for (int b = 0; b < 256; b++) {
        int64_t dot = 0, norm = 0, score;
        for (int i = 0; i < 4; i++) {
            int64_t c = -(book->value[i][b] / 256); /* test_code checks the table */
            dot += u[i] * c;
            norm += c * c;
        }
        score = -256 * dot + 2048 * l * norm + b;
        best = score < best ? score : best;
    }
    return best;
}

static int64_t encode_group(const ccq_book *book, const int64_t *u, int l0, int width,
                            uint8_t *bytes, uint8_t *local)
{
    int64_t least = 0;

    *local = 0;
    memset(bytes, 0, 16);
    for (int l = (int)clamp(l0 - width, 1, 15); l <= clamp(l0 + width, 1, 15); l++) {
        int64_t score[16], J = 0;
        for (int r = 0; r < 16; r++) {
            score[r] = block_score(book, u + 4 * r, l);
            J += (score[r] - (score[r] & 255)) / 256;
        }
        J *= l;
        if (J < least) {
            least = J;
            *local = (uint8_t)l;
            for (int r = 0; r < 16; r++)
                bytes[r] = (uint8_t)(score[r] & 255);
        }
    }
    return least;
}

static void encode_at(const ccq_book *book, const float *w, int k, float s, int width, result *out)
{
    float inv = 16.0f / s;
    int64_t sum = 0, u[64];

    for (int g = 0; g < k / 64; g++) {
        float l = 1.13f * rms_of(w + 64 * g) / book->rms / s;
        for (int i = 0; i < 64; i++) {
            float p = w[64 * g + i] * inv;
            u[i] = clamp((int64_t)rint((double)p), -32768, 32767);
        }
        sum += encode_group(book, u, (int)clamp((int64_t)rintf(l), 1, 15), width,
                            out->bytes + 16 * g, out->local + g);
    }
    out->cs = book->cs;
    out->zp = book->zp;
    out->s = s;
    out->cost = (double)s * (double)s * (double)sum;
}

static void encode(const ccq_encoder *enc, const float *w, int k, int effort, result *best)
{
    static const int divisors[] = {15, 14, 13, 12};
    float max = 0.0f, s;
    result r;

    memset(&r, 0, sizeof r);
    for (int g = 0; g < k / 64; g++)
        max = fmaxf(max, rms_of(w + 64 * g));
    s = ccq_round_bf16((1.13f * max) / (enc->book[0].rms * 14.0f));
    encode_at(&enc->book[0], w, k, s, 2, best);
    if (effort == CCQ_EFFORT_FAST)
        return;
    for (int j = 0; j < 4; j++) {
        s = ccq_round_bf16((1.13f * max) / (enc->book[0].rms * (float)divisors[j]));
        encode_at(&enc->book[0], w, k, s, 3, &r);
        if (j == 0 || r.cost < best->cost)
            *best = r;
    }
    s = best->s;
    for (int i = 1; i < CCQ_BOOKS; i++) {
        encode_at(&enc->book[i], w, k, s, 2, &r);
        if (r.cost < best->cost)
            *best = r;
    }
}

static double decoded(const ccq_book *book, const result *r, int stored, float super)
{
    float scale = ccq_round_bf16((float)r->local[stored / 64] * super);

    return (double)ccq_round_bf16((float)value_of(book, r->bytes[stored / 4], stored % 4) * scale);
}

static const ccq_book *book_of(const ccq_encoder *enc, const result *r)
{
    for (int i = 0; i < CCQ_BOOKS; i++)
        if (enc->book[i].cs == r->cs && enc->book[i].zp == r->zp)
            return &enc->book[i];
    return &enc->book[0];
}

/* The bf16 nearest to a positive normal x, ties to even, by its neighbours. */
static float nearest_bf16(double x)
{
    uint16_t low = (uint16_t)(ccq_f32_to_bf16((float)x) - 1);
    double a = ccq_bf16_to_f32(low), b = ccq_bf16_to_f32((uint16_t)(low + 1)),
           c = ccq_bf16_to_f32((uint16_t)(low + 2));
    uint16_t best = low;
    if (fabs(b - x) < fabs(a - x) || (fabs(b - x) == fabs(a - x) && (best & 1)))
        best = (uint16_t)(low + 1), a = b;
    if (fabs(c - x) < fabs(a - x) || (fabs(c - x) == fabs(a - x) && (best & 1)))
        best = (uint16_t)(low + 2);
    return ccq_bf16_to_f32(best);
}

static float gain(const ccq_encoder *enc, const result *r, const float *w, int k, int eighths)
{
    double ww = 0.0, wv = 0.0, rho, p = 1.0;

    for (int i = 0; i < k; i++) {
        ww += (double)w[i] * (double)w[i];
        wv += (double)w[i] * decoded(book_of(enc, r), r, i, r->s);
    }
    if (eighths == 0 || wv <= 0.0)
        return r->s;
    rho = fmin(fmax(ww / wv, 1.0), 2.0);
    if (eighths == 8)
        p = rho;
    else {
        if (eighths & 4)
            p *= sqrt(rho);
        if (eighths & 2)
            p *= sqrt(sqrt(rho));
        if (eighths & 1)
            p *= sqrt(sqrt(sqrt(rho)));
    }
    return nearest_bf16((double)r->s * p);
}

/* The whole column by definition: status, and super in *super. */
static int oracle(const ccq_encoder *enc, const ccq_encode_params *p, const float *w, int k,
                  result *r, float *super)
{
    float v[MAX_K], amax = 0.0f;
    int e;

    memset(r, 0, sizeof *r);
    r->cs = enc->book[0].cs;
    r->zp = enc->book[0].zp;
    *super = 1.0f;
    for (int i = 0; i < k; i++)
        amax = fmaxf(amax, fabsf(w[i]));
    if (amax == 0.0f)
        return CCQ_COLUMN_ZERO;
    frexpf(amax, &e);
    e--;
    for (int i = 0; i < k; i++)
        v[i] = ldexpf(w[row_of(i, p->order)], -e);
    encode(enc, v, k, p->effort, r);
    *super = ldexpf(gain(enc, r, v, k, p->gain), e);
    if (*super < 0x1p-110f) {
        memset(r, 0, sizeof *r);
        r->cs = enc->book[0].cs;
        r->zp = enc->book[0].zp;
        *super = 1.0f;
        return CCQ_COLUMN_ZERO;
    }
    return 480.0 * (double)*super < 0x1.fep127 ? CCQ_COLUMN_OK : CCQ_COLUMN_HUGE;
}

/* ---- Columns ------------------------------------------------------------- */

static float gauss(uint64_t *seed)
{
    double u = check_uniform(seed) + 0x1p-54, v = check_uniform(seed);

    return (float)(sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v));
}

enum { KINDS = 17 };

static void make_column(int kind, uint64_t *seed, float *w, int k)
{
    float floor = ldexpf(1.0f, -100 - (int)(check_next(seed) % 5)); /* super about 2^-108 - that */

    for (int i = 0; i < k; i++) {
        float g = gauss(seed), u = (float)check_uniform(seed);
        switch (kind) {
        case 0: w[i] = 0.02f * g; break;
        case 1: w[i] = 0.0f; break;
        case 2: w[i] = i == k / 3 ? 1000.0f : 0.01f * g; break;
        case 3: w[i] = 0.5f; break;
        case 4: w[i] = i & 1 ? -1.0f : 1.0f; break;
        case 5: w[i] = 1e-30f * g; break;
        case 6: w[i] = 1e30f * g; break;
        case 7: w[i] = 1e-40f * g; break; /* subnormal */
        case 8: w[i] = i & 1 ? -0.0f : 0.0f; break;
        case 9: w[i] = i / 64 == 1 ? 0.0f : g * (float)(1 + i / 64 * 7); break;
        case 10: w[i] = i % 64 ? g * 1e-38f : 3e38f; break; /* the widest range there is */
        case 11: w[i] = g * floor; break; /* about the floor of super */
        case 12: w[i] = FLT_MAX * (u < 0.5f ? -1.0f : 1.0f); break;
        case 13: w[i] = i == 5 ? FLT_TRUE_MIN : 0.0f; break;
        case 14: w[i] = g * g * g * g * g; break; /* heavy tails */
        case 15: w[i] = g * 1e36f; break;
        default: w[i] = (float)(i - k / 2) / (float)k; break;
        }
        if (kind % 2 == 0)
            w[i] = ccq_round_bf16(w[i]);
        if (w[i] - w[i] != 0.0f)
            w[i] = 0x1.fep127f;
    }
}

/* ---- Comparing ----------------------------------------------------------- */

static void check_figures(const ccq_encoder *enc, const ccq_column *c, const result *r,
                          const ccq_encode_params *p, const float *w, int k, const char *where)
{
    double error = 0.0, energy = 0.0, most = 0.0;

    for (int i = 0; i < k; i++) {
        double a = (double)w[row_of(i, p->order)];
        double d = a - decoded(book_of(enc, r), r, i, ccq_bf16_to_f32(c->super));
        error += d * d;
        energy += a * a;
        most = fmax(most, fabs(d));
    }
    CHECK(c->error == error, "%s: error %g, decoding gives %g", where, c->error, error);
    CHECK(c->energy == energy && c->max_error == most, "%s: energy or largest error", where);
}

static int check_column(const ccq_ops *ops, const ccq_encoder *enc, const ccq_encode_params *p,
                        int kind, uint64_t *seed, int k)
{
    float *w = check_guarded((size_t)k * sizeof *w), super;
    uint8_t *bytes = check_guarded((size_t)k / 4), *local = check_guarded((size_t)k / 64);
    ccq_column c = {bytes, local, 0, 0, 0, 0, 0, 0, 0};
    void *scratch = check_guarded(ccq_encode_scratch(k));
    char where[99];
    result r;
    int status;

    make_column(kind, seed, w, k);
    snprintf(where, sizeof where, "%s kind %d k %d effort %d gain %d order %d", ops->name, kind, k,
             p->effort, p->gain, p->order);
    status = oracle(enc, p, w, k, &r, &super);
    ccq_encode_column(ops, enc, p, w, k, &c, scratch);
    CHECK(c.status == status, "%s: status %d, want %d", where, c.status, status);
    CHECK(c.super == ccq_f32_to_bf16(super), "%s: super %04x, want %04x", where, c.super,
          ccq_f32_to_bf16(super));
    CHECK(c.code_scale == r.cs && c.code_zp == r.zp, "%s: line", where);
    CHECK(!memcmp(c.local, r.local, (size_t)k / 64), "%s: local scales", where);
    CHECK(!memcmp(c.bytes, r.bytes, (size_t)k / 4), "%s: bytes", where);
    if (status != CCQ_COLUMN_HUGE)
        check_figures(enc, &c, &r, p, w, k, where);
    return status;
}

/* ---- Ties ---------------------------------------------------------------- */

/* Every local scale is as good as every other; the bytes tell which was taken. */
static void search_tie(const ccq_book *book, const int16_t u[64], int lo, int hi, int32_t *J,
                       uint8_t (*best)[16])
{
    (void)book;
    for (int l = lo; l <= hi; l++) {
        J[l - lo] = u[0] < 0 ? 0 : -100; /* 0: no better than l = 0 */
        memset(best[l - lo], l, 16);
    }
}

static void check_ties(const ccq_encoder *enc)
{
    const ccq_encode_params p = {CCQ_EFFORT_NORMAL, 0, CCQ_ORDER_PLAIN};
    uint8_t bytes[32], local[2];
    ccq_column c = {bytes, local, 0, 0, 0, 0, 0, 0, 0};
    void *scratch = check_guarded(ccq_encode_scratch(128));
    ccq_ops ops;
    float w[128];

    ccq_ops_init(&ops, CCQ_ISA_C);
    ops.search = search_tie;
    for (int i = 0; i < 128; i++)
        w[i] = i < 64 ? 1.0f : -1.0f;
    ccq_encode_column(&ops, enc, &p, w, 128, &c, scratch);
    CHECK(c.code_scale == enc->book[0].cs && c.code_zp == enc->book[0].zp, "not the first line");
    CHECK(local[0] == 9 && bytes[0] == 9, "local scale %d, not the lowest of 12 - 3", local[0]);
    CHECK(local[1] == 0 && bytes[16] == 0, "local scale %d where 0 does as well", local[1]);
}

int main(void)
{
    static const int sizes[] = {128, 384};
    uint64_t seed = check_seed(1);
    const char *last = "";
    int seen[3] = {0};
    ccq_encoder enc;
    ccq_ops ops;

    REQUIRE(ccq_encoder_init(&enc) == 0, "encoder");
    check_ties(&enc);
    for (unsigned isa = CCQ_ISA_C; isa <= CCQ_ISA_AVX512; isa *= 2) {
        ccq_ops_init(&ops, 2 * isa - 1); /* it and all below */
        if (!strcmp(ops.name, last))
            continue;
        last = ops.name;
        for (int kind = 0; kind < KINDS; kind++)
            for (int v = 0; v < 4; v++) {
                ccq_encode_params p = {v & 1, (kind + 3 * v) % 9, v >> 1};
                seen[check_column(&ops, &enc, &p, kind, &seed, sizes[(kind + v) % 2])]++;
            }
    }
    CHECK(seen[CCQ_COLUMN_OK] && seen[CCQ_COLUMN_ZERO] && seen[CCQ_COLUMN_HUGE],
          "the columns do not reach every status: %d %d %d", seen[0], seen[1], seen[2]);
    return check_done();
}
