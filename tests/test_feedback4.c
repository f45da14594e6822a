/* Risk: wint4 with feedback departs from its formulas, or from itself on another
 * instruction set: scale and integers against fp64 and the definition. */
#include "kernels/tile.h"
#include "tests/feedback_bed.h"

static uint64_t state;

static int nibble(const uint8_t *stored, int k, int n, int rows)
{
    int64_t at = ccq_wint4_nibble(k, n, rows);
    return (stored[at / 2] >> 4 * (at & 1) & 15) - 8;
}

/* What plain rounding at scale s costs in the diagonal metric. */
static double plain_cost(const bed *b, const int32_t *order, int c, double s)
{
    double sum = 0.0;

    for (int i = 0; i < b->k; i++) {
        double w = (double)b->target[order[i] * CCQ_PANEL + c], q = rint(w / s);
        q = q > 7.0 ? 7.0 : q < -7.0 ? -7.0 : q;
        sum += b->h[i * b->k + i] * (w - q * s) * (w - q * s);
    }
    return sum;
}

/* Every integer is the nearest to its target, given those before it. */
static void check_rows(const bed *b, const int32_t *order, const uint8_t *stored, int n0, int c,
                       double s)
{
    double e[MOST], amax = 0.0, best = INFINITY;

    for (int i = 0; i < b->k; i++) {
        double w = (double)b->target[order[i] * CCQ_PANEL + c], t = w, q, want;
        for (int j = 0; j < i; j++)
            t += e[j] * b->u[j * b->k + i];
        q = nibble(stored, order[i], n0 + c, b->k);
        want = t / s > 7.0 ? 7.0 : t / s < -7.0 ? -7.0 : t / s;
        CHECK(fabs(q - want) < 0.5001, "column %d place %d: %g, target %g", c, i, q, want);
        e[i] = w - q * s;
        amax = fabs(w) > amax ? fabs(w) : amax;
    }
    for (int i = 0; i < 17; i++) {
        double f = (double)ccq_round_bf16((float)(amax / 7.0 * (1.0 - 0.025 * i)));
        double cost = plain_cost(b, order, c, f);
        best = cost < best ? cost : best;
    }
    CHECK(plain_cost(b, order, c, s) <= best * (1.0 + 1e-5), "column %d: scale %g", c, s);
}

static void check_wint4(const ccq_ops *c, const ccq_ops *x, const ccq_encoder *enc, int k,
                        int nasty, int count)
{
    const int n0 = CCQ_PANEL;
    size_t size = (size_t)(n0 + count) * (size_t)k / 2;
    uint8_t *stored = check_guarded(size), *again = check_guarded(size);
    ccq_weight_only a, b;
    bed t = {.enc = *enc};
    int32_t order[MOST];

    make_bed(&t, &state, k, 2, 1.0);
    draw_columns(&t, &state, count, nasty);
    t.m = ccq_metric_fill(enc, k, 1, 0, t.h, t.u, room(ccq_metric_bytes(k, 1, 0)));
    for (int i = 0; i < k; i++) /* any order will do */
        order[i] = (i * 7 + 3) % k;
    memset(&a, 0, sizeof a), memset(&b, 0, sizeof b);
    memset(stored, 0, size), memset(again, 0, size);
    ccq_feedback4_panel(c, t.m, order, t.target, t.original, n0, count, stored, &a, t.scratch);
    ccq_feedback4_panel(x, t.m, order, t.target, t.original, n0, count, again, &b, t.scratch);
    CHECK(!memcmp(stored, again, size) && !memcmp(&a, &b, sizeof a), "wint4 of %s is not what C "
          "gives", x->name);
    for (int i = 0; i < count; i++) {
        double s = (double)ccq_bf16_to_f32(a.scale[i]), error = 0.0;
        int zero = nasty && (i % 8 == 1 || i % 8 == 5);
        CHECK(a.status[i] == (zero ? CCQ_COLUMN_ZERO : CCQ_COLUMN_OK), "column %d: status %d", i,
              a.status[i]);
        for (int r = 0; r < k; r++) {
            double w = (double)t.original[r * CCQ_PANEL + i];
            double d = w - (double)ccq_round_bf16((float)(nibble(stored, r, n0 + i, k) * s));
            CHECK(!zero || !nibble(stored, r, n0 + i, k), "column %d is not zeros", i);
            error += d * d;
        }
        CHECK(fabs(error - a.error[i]) <= 1e-9 * error, "column %d: error", i);
        if (!nasty)
            check_rows(&t, order, stored, n0, i, s);
    }
    free_bed(&t);
}

int main(void)
{
    ccq_encoder enc;
    ccq_ops c, ops;

    state = check_seed(1);
    REQUIRE(ccq_encoder_init(&enc) == 0, "encoder");
    ccq_ops_init(&c, CCQ_ISA_C);
    for (unsigned isa = CCQ_ISA_C; isa <= CCQ_ISA_AVX512; isa *= 2) {
        ccq_ops_init(&ops, 2 * isa - 1); /* it and all below */
        printf("%s\n", ops.name);
        check_wint4(&c, &ops, &enc, 128, 0, 16);
        check_wint4(&c, &ops, &enc, 320, 1, 12);
    }
    return check_done();
}
