#include "tests/plain_model.h"
#include "tests/check.h"

#include <math.h>

static float *read_one(const ccq_transform *t, const ccq_entry *e, ccq_pool *pool)
{
    ccq_error err;
    float *w = malloc((size_t)ccq_entry_parameters(e) * sizeof *w);
    REQUIRE(w && ccq_transform_matrix(t, e, pool, w, &err) == CCQ_OK, "%s: %s", e->name, err.text);
    return w;
}

void plain_open(plain_model *m, const ccq_transform *t, const ccq_source *src, ccq_pool *pool)
{
    const ccq_entry *head = ccq_transform_head(t);
    *m = (plain_model){src, t, calloc(src->count + 1, sizeof *m->tensor)};
    REQUIRE(m->tensor, "memory");
    for (size_t i = 0; i < src->count; i++)
        m->tensor[i] = read_one(t, &src->entry[i], pool);
    if (head)
        m->tensor[src->count] = read_one(t, head, pool);
}

void plain_close(plain_model *m)
{
    for (size_t i = 0; i <= m->src->count; i++)
        free(m->tensor[i]);
    free(m->tensor);
}

static const float *find(const plain_model *m, ccq_role role, ccq_block block, int layer,
                         int expert)
{
    const ccq_entry *e = ccq_source_find(m->src, role, block, layer, expert, 0);
    return e ? m->tensor[e - m->src->entry] : NULL;
}

static float *floats(int64_t count)
{
    float *x = calloc((size_t)count, sizeof *x);
    REQUIRE(x, "memory");
    return x;
}

/* y = x w, one row. */
static void multiply(const float *x, const float *w, int64_t k, int64_t n, float *y)
{
    memset(y, 0, (size_t)n * sizeof *y);
    for (int64_t i = 0; i < k; i++)
        for (int64_t j = 0; j < n; j++)
            y[j] += x[i] * w[i * n + j];
}

static void norm(const float *x, const float *gamma, const ccq_arch *a, float *y)
{
    float sum = 0;
    for (int64_t i = 0; i < a->hidden; i++)
        sum += x[i] * x[i];
    float r = 1.0f / sqrtf(sum / (float)a->hidden + (float)a->eps);
    for (int64_t i = 0; i < a->hidden; i++)
        y[i] = x[i] * r * gamma[i];
}

static void rotate(float *head, int64_t dim, int position, double theta)
{
    for (int64_t i = 0; i < dim; i += 2) {
        double angle = position * pow(theta, -(double)i / (double)dim);
        float c = (float)cos(angle), s = (float)sin(angle), a = head[i], b = head[i + 1];
        head[i] = a * c - b * s;
        head[i + 1] = b * c + a * s;
    }
}

/* out = softmax(q k / sqrt(d)) v of one query head over positions 0..at. */
static void attend(const float *q, const float *k, const float *v, int64_t ld, int at, int64_t dim,
                   float *out)
{
    float most = -INFINITY, sum = 0, *p = floats(at + 1);
    for (int j = 0; j <= at; j++) {
        for (int64_t i = 0; i < dim; i++)
            p[j] += q[i] * k[j * ld + i];
        p[j] /= sqrtf((float)dim);
        most = fmaxf(most, p[j]);
    }
    memset(out, 0, (size_t)dim * sizeof *out);
    for (int j = 0; j <= at; j++) {
        float e = expf(p[j] - most);
        sum += e;
        for (int64_t i = 0; i < dim; i++)
            out[i] += e * v[j * ld + i];
    }
    for (int64_t i = 0; i < dim; i++)
        out[i] /= sum;
    free(p);
}

/* x += attention of all rows. */
static void attention(const plain_model *m, int layer, int count, float *x)
{
    const ccq_arch *a = &m->src->arch;
    int64_t d = a->head_dim, q = a->heads * d, kv = a->kv_heads * d, ld = q + 2 * kv, h = a->hidden;
    const float *gamma = find(m, CCQ_ROLE_NORM_IN, CCQ_BLOCK_NONE, layer, -1);
    float *all = floats(count * ld), *o = floats(q), *y = floats(h);
    for (int t = 0; t < count; t++) {
        norm(x + t * h, gamma, a, y);
        multiply(y, find(m, CCQ_ROLE_QKV, CCQ_BLOCK_ATTENTION, layer, -1), h, ld, all + t * ld);
        for (int64_t i = 0; i < a->heads + a->kv_heads; i++)
            rotate(all + t * ld + i * d, d, t, a->rope_theta);
    }
    for (int t = 0; t < count; t++) {
        for (int64_t i = 0; i < a->heads; i++) {
            const float *k = all + q + i / (a->heads / a->kv_heads) * d;
            attend(all + t * ld + i * d, k, k + kv, ld, t, d, o + i * d);
        }
        multiply(o, find(m, CCQ_ROLE_O, CCQ_BLOCK_ATTENTION, layer, -1), q, h, y);
        for (int64_t i = 0; i < h; i++)
            x[t * h + i] += y[i];
    }
    free(y);
    free(o);
    free(all);
}

/* y += share * mlp(x) */
static void mlp(const plain_model *m, ccq_block block, int layer, int expert, const float *x,
                float share, float *y)
{
    const ccq_entry *down = ccq_source_find(m->src, CCQ_ROLE_DOWN, block, layer, expert, 0);
    int64_t width = down->k, h = m->src->arch.hidden;
    float *g = floats(2 * width), *out = floats(h);
    multiply(x, find(m, CCQ_ROLE_UP_GATE, block, layer, expert), h, 2 * width, g);
    for (int64_t i = 0; i < width; i++)
        g[i] = g[i] / (1.0f + expf(-g[i])) * g[width + i];
    multiply(g, m->tensor[down - m->src->entry], width, h, out);
    for (int64_t i = 0; i < h; i++)
        y[i] += share * out[i];
    free(out);
    free(g);
}

static void probabilities(const float *x, const float *w, int64_t h, int64_t experts, float *p)
{
    float most = -INFINITY, sum = 0;
    for (int64_t e = 0; e < experts; e++) {
        double logit = 0;
        for (int64_t i = 0; i < h; i++)
            logit += (double)x[i] * (double)w[i * experts + e];
        p[e] = (float)logit;
        most = fmaxf(most, p[e]);
    }
    for (int64_t e = 0; e < experts; e++)
        sum += p[e] = expf(p[e] - most);
    for (int64_t e = 0; e < experts; e++)
        p[e] /= sum;
}

/* The k largest p + bias, ties to the lowest. */
static uint64_t choose(const float *p, const float *bias, int64_t experts, int64_t k)
{
    uint64_t set = 0;
    for (int64_t i = 0; i < k; i++) {
        int64_t best = -1;
        float score = -INFINITY;
        for (int64_t e = 0; e < experts; e++) {
            float s = p[e] + (bias ? bias[e] : 0);
            if (!(set >> e & 1) && s > score) {
                best = e;
                score = s;
            }
        }
        set |= (uint64_t)1 << best;
    }
    return set;
}

static uint64_t moe(const plain_model *m, int layer, const float *x, float *y)
{
    const ccq_arch *a = &m->src->arch;
    const float *bias = find(m, CCQ_ROLE_ROUTER_BIAS, CCQ_BLOCK_NONE, layer, -1);
    float *p = floats(a->experts), sum = 0;
    REQUIRE(a->experts <= 64, "too many experts for this test");
    probabilities(x, find(m, CCQ_ROLE_ROUTER, CCQ_BLOCK_NONE, layer, -1), a->hidden, a->experts, p);
    uint64_t set = choose(p, bias, a->experts, a->moe_k);
    for (int e = 0; e < a->experts; e++)
        sum += set >> e & 1 ? p[e] : 0;
    for (int e = 0; e < a->experts; e++)
        if (set >> e & 1)
            mlp(m, CCQ_BLOCK_EXPERT, layer, e, x, p[e] / sum, y);
    if (a->shared)
        mlp(m, CCQ_BLOCK_SHARED, layer, -1, x, 1, y);
    free(p);
    return set;
}

static void last(const plain_model *m, const float *x, float *logits)
{
    const ccq_arch *a = &m->src->arch;
    const float *head = m->tensor[m->src->count], *embed;
    float *y = floats(a->hidden);
    norm(x, find(m, CCQ_ROLE_NORM, CCQ_BLOCK_NONE, -1, -1), a, y);
    head = head ? head : find(m, CCQ_ROLE_HEAD, CCQ_BLOCK_NONE, -1, -1);
    embed = find(m, CCQ_ROLE_EMBED, CCQ_BLOCK_NONE, -1, -1);
    if (head)
        multiply(y, head, a->hidden, a->vocab, logits);
    for (int64_t v = 0; !head && v < a->vocab; v++)
        multiply(y, embed + v * a->hidden, a->hidden, 1, logits + v);
    free(y);
}

void plain_run(const plain_model *m, const int32_t *ids, int count, float *logits,
               uint64_t *chosen)
{
    const ccq_arch *a = &m->src->arch;
    const float *embed = find(m, CCQ_ROLE_EMBED, CCQ_BLOCK_NONE, -1, -1);
    int64_t h = a->hidden;
    float *x = floats(count * h), *y = floats(h);
    for (int t = 0; t < count; t++)
        memcpy(x + t * h, embed + ids[t] * h, (size_t)h * sizeof *x);
    for (int layer = 0; layer < a->layers; layer++) {
        attention(m, layer, count, x);
        for (int t = 0; t < count; t++) {
            norm(x + t * h, find(m, CCQ_ROLE_NORM_POST, CCQ_BLOCK_NONE, layer, -1), a, y);
            chosen[t * a->layers + layer] =
                a->layer_moe[layer] ? moe(m, layer, y, x + t * h)
                                    : (mlp(m, CCQ_BLOCK_DENSE, layer, -1, y, 1, x + t * h), 0);
        }
    }
    for (int t = 0; t < count; t++)
        last(m, x + t * h, logits + t * a->vocab);
    free(y);
    free(x);
}
