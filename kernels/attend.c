/* Norm, activation, rotation and attention as the formulas stand: loops in
 * their order, every sum one ascending chain. The reference of the SIMD ones. */
#include "kernels/attend.h"
#include "kernels/exp.h"
#include "kernels/internal.h"
#include "kernels/ops.h"

#include <math.h>

static float store(float value, int bf16)
{
    return bf16 ? ccq_round_bf16(value) : value;
}

void ccq_rms_c(const float *x, const float *g, int64_t h, float eps, int bf16, float *y)
{
    float s = 0, r;
    int64_t i;

    for (i = 0; i < h; i++)
        s = __builtin_fmaf(x[i], x[i], s);
    r = 1.0f / sqrtf(s * (1.0f / (float)h) + eps);
    for (i = 0; i < h; i++)
        y[i] = store(x[i] * r * g[i], bf16);
}

void ccq_swiglu_c(const float *gu, int64_t n, int bf16, float *a)
{
    int64_t j;

    for (j = 0; j < n; j++) {
        float silu = gu[j] / (1.0f + ccq_exp_inline(-gu[j]));
        a[j] = store(silu * gu[n + j], bf16);
    }
}

void ccq_rope_c(float *x, int64_t heads, int64_t d, const float *cos, const float *sin, int bf16)
{
    int64_t h, i;

    for (h = 0; h < heads; h++)
        for (i = 0; i < d / 2; i++) {
            float *pair = x + h * d + 2 * i;
            float a = pair[0], b = pair[1];
            pair[0] = store(a * cos[i] - b * sin[i], bf16);
            pair[1] = store(b * cos[i] + a * sin[i], bf16);
        }
}

void ccq_rope_angles(double theta, int64_t d, int64_t pos, float *cosine, float *sine)
{
    int64_t i;

    for (i = 0; i < d / 2; i++) {
        float f = (float)pow(theta, -2.0 * (double)i / (double)d);
        float angle = (float)pos * f;
        cosine[i] = (float)cos((double)angle);
        sine[i] = (float)sin((double)angle);
    }
}

/* ---- Attention ----------------------------------------------------------- */

/* Room for the widest version: a block of queries with their scores over the
 * whole context, their sums, and one tile of keys or values. */
size_t ccq_attend_scratch(int64_t len, int64_t d)
{
    size_t scores = ((size_t)len + 15) / 16 * 16, width = ((size_t)d + 15) / 16 * 16;
    size_t tile = 16 * (width > CCQ_ATTEND_TILE ? width : CCQ_ATTEND_TILE);
    return CCQ_ATTEND_QUERIES * (scores + 2 * width + 1) + tile;
}

/* One KV tensor as seen by one head. */
typedef struct cache {
    const void *data;
    int bf16;
    int64_t stride, offset; /* in values: between positions, of the head */
} cache;

static float at(const cache *c, int64_t position, int64_t i)
{
    int64_t index = position * c->stride + c->offset + i;

    return c->bf16 ? ccq_bf16_to_f32(((const uint16_t *)c->data)[index])
                   : ((const float *)c->data)[index];
}

/* p[j] = R(exp(s_j - max)) for j < n; returns their sum. */
static float weigh(const float *q, const cache *k, int64_t n, int64_t d, int bf16, float *p)
{
    float scale = (float)(1.0 / sqrt((double)d)), m = -INFINITY, sum = 0;
    int64_t i, j;

    for (j = 0; j < n; j++) {
        float s = 0;
        for (i = 0; i < d; i++)
            s = __builtin_fmaf(q[i], at(k, j, i), s);
        p[j] = s * scale;
        m = p[j] > m ? p[j] : m;
    }
    for (j = 0; j < n; j++) {
        p[j] = store(ccq_exp_inline(p[j] - m), bf16);
        sum += p[j];
    }
    return sum;
}

void ccq_attend_c(const float *q, int64_t ld, int64_t rows, int64_t pos0, const void *k,
                  const void *v, int kv_bf16, int64_t heads, int64_t kv_heads, int64_t d,
                  int64_t h0, int64_t h1, int bf16, float *scratch, float *o)
{
    int64_t h, r, i, j;

    for (h = h0; h < h1; h++) {
        int64_t offset = h / (heads / kv_heads) * d;
        cache keys = {k, kv_bf16, kv_heads * d, offset};
        cache values = {v, kv_bf16, kv_heads * d, offset};
        for (r = 0; r < rows; r++) {
            int64_t n = pos0 + r + 1;
            float sum = weigh(q + r * ld + h * d, &keys, n, d, bf16, scratch);
            for (i = 0; i < d; i++) {
                float acc = 0;
                for (j = 0; j < n; j++)
                    acc = __builtin_fmaf(scratch[j], at(&values, j, i), acc);
                o[r * ld + h * d + i] = store(acc / sum, bf16);
            }
        }
    }
}
