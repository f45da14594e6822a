/* exp is within 1 ulp of the true value everywhere, and its ends are right. The
 * truth is the double exp, good to 2^-52. The SIMD one: check_forward. */
#include "kernels/ops.h"
#include "tests/check.h"

#include <float.h>
#include <math.h>

static double worst;
static float worst_at;

static float from_bits(uint32_t u)
{
    float f;

    memcpy(&f, &u, sizeof f);
    return f;
}

/* |error| in units of the last place of the true value. */
static void measure(float x)
{
    double truth = exp((double)x), error;
    float y = ccq_exp(x);
    int e;

    frexp(truth, &e);
    error = fabs((double)y - truth) / ldexp(1.0, e - 24 < -149 ? -149 : e - 24);
    if (!(error <= worst)) {
        worst = error;
        worst_at = x;
    }
}

/* Every stride-th float of the bit patterns first..last. */
static void sweep(float first, float last, uint32_t stride)
{
    uint32_t u, from, to;

    memcpy(&from, &first, sizeof from);
    memcpy(&to, &last, sizeof to);
    for (u = from; u <= to; u += stride)
        measure(from_bits(u));
}

static void check_ends(void)
{
    CHECK(ccq_exp(0.0f) == 1.0f && ccq_exp(-0.0f) == 1.0f, "exp(0) is not 1");
    CHECK(ccq_exp(-INFINITY) == 0.0f && !signbit(ccq_exp(-INFINITY)), "exp(-inf) is not +0");
    CHECK(ccq_exp(INFINITY) == INFINITY, "exp(inf) is not inf");
    CHECK(ccq_exp(NAN) != ccq_exp(NAN) && ccq_exp(-NAN) != ccq_exp(-NAN), "exp(NaN) is a number");
    CHECK(ccq_exp(0x1.62e42ep+6f) < INFINITY, "the last finite one overflows");
    CHECK(ccq_exp(0x1.62e43p+6f) == INFINITY, "the first infinite one does not overflow");
    CHECK(ccq_exp(FLT_MAX) == INFINITY && ccq_exp(-FLT_MAX) == 0.0f, "far ends");
    CHECK(ccq_exp(-0x1.9d1dap+6f) == 0x1p-149f, "the last one above half the smallest");
    CHECK(ccq_exp(-0x1.9fe36ap+6f) == 0.0f, "below half the smallest");
    CHECK(ccq_exp(from_bits(1)) == 1.0f && ccq_exp(from_bits(0x80000001)) == 1.0f, "subnormals");
}

int main(void)
{
    check_ends();
    sweep(0x1p-40f, 0x1.62e42ep+6f, 61);  /* up to the largest finite result */
    sweep(-0x1p-40f, -0x1.ap+6f, 61);     /* down to zero */
    sweep(0.6931471f, 0.694f, 1);          /* where n changes */
    sweep(0.3465f, 0.3467f, 1);
    sweep(-0.3465f, -0.3467f, 1);
    sweep(88.7f, 0x1.62e42ep+6f, 1);       /* overflow */
    sweep(-87.3f, -87.4f, 1);              /* into the subnormals */
    sweep(-103.2f, -104.0f, 1);            /* and to zero */
    printf("worst error %.4f ulp at %a\n", worst, (double)worst_at);
    CHECK(worst <= 1.0, "%.4f ulp at %a", worst, (double)worst_at);
    return check_done();
}
