/* The forward pass over the rows of a step. Each block of code is one line of
 * the table in docs/design.md; R() is the bf16 argument of the kernels. */
#include "libccq/device.h"

#include "kernels/code.h"

#include <string.h>

/* Rows of one sequence that attention takes at a time. */
enum { ATTEND_ROWS = 32, LOGITS_ROWS = 256 };

static uint16_t bits_of(float f)
{
    return ccq_f32_to_bf16(f);
}

/* ---- Start of a step --------------------------------------------------------- */

static ccq_code place_rows(ccq_session *s, const ccq_span *spans, size_t count, ccq_error *err)
{
    s->rows = 0;
    for (size_t i = 0; i < count; i++) {
        const ccq_span *p = &spans[i];
        int64_t at = s->length[p->slot];
        if (p->rows < 1 || p->rows > s->max_rows - s->rows || p->rows > s->capacity[p->slot] - at)
            return ccq_fail(err, CCQ_BUG, "step: %lld rows at position %lld do not fit",
                            (long long)p->rows, (long long)at);
        for (int64_t j = 0; j < p->rows; j++) {
            ccq_row r = {p->slot, p->sequence, at + j, p->ids[j]};
            if (r.id < 0 || r.id >= s->m->arch->vocab)
                return ccq_fail(err, CCQ_BUG, "step: id %d outside the vocabulary", (int)r.id);
            s->row[s->rows++] = r;
        }
    }
    s->spans = spans;
    s->span_count = count;
    return CCQ_OK;
}

/* x = embed[id] */
static void embed_rows(ccq_session *s, int64_t r0, int64_t r1, int worker)
{
    const ccq_model *m = s->m;
    const ccq_weight *e = &m->embed.w;
    int64_t h = m->arch->hidden;

    (void)worker;
    for (int64_t r = r0; r < r1; r++)
        if (e->type == CCQ_W_F32)
            memcpy(s->x + r * h, (const float *)e->data + s->row[r].id * h,
                   (size_t)h * sizeof *s->x);
        else
            m->options.ops.widen((const uint16_t *)e->data + s->row[r].id * h, h, s->x + r * h);
}

/* The angles of the row's position. */
static void angle_rows(ccq_session *s, int64_t r0, int64_t r1, int worker)
{
    const ccq_arch *a = s->m->arch;
    int64_t half = a->head_dim / 2;

    (void)worker;
    for (int64_t r = r0; r < r1; r++)
        ccq_rope_angles(a->rope_theta, a->head_dim, s->row[r].position, s->cos + r * half,
                        s->sin + r * half);
}

static void begin_rows(ccq_session *s, int64_t r0, int64_t r1, int worker)
{
    embed_rows(s, r0, r1, worker);
    angle_rows(s, r0, r1, worker);
}

static void norm_row(const ccq_session *s, int64_t r, const float *g)
{
    int64_t h = s->m->arch->hidden;

    s->m->options.ops.rms(s->x + r * h, g, h, (float)s->m->arch->eps, s->m->bf16, s->h + r * h);
}

static void norm_in_rows(ccq_session *s, int64_t r0, int64_t r1, int worker)
{
    (void)worker;
    for (int64_t r = r0; r < r1; r++)
        norm_row(s, r, s->now->norm_in);
}

/* x = R(x + t) */
static void add_rows(ccq_session *s, int64_t r0, int64_t r1, int worker)
{
    int64_t h = s->m->arch->hidden;

    (void)worker;
    for (int64_t i = r0 * h; i < r1 * h; i++)
        s->x[i] += s->t[i];
    if (s->m->bf16)
        s->m->options.ops.round(s->x + r0 * h, (r1 - r0) * h, s->x + r0 * h);
}

static void add_norm_post_rows(ccq_session *s, int64_t r0, int64_t r1, int worker)
{
    add_rows(s, r0, r1, worker);
    for (int64_t r = r0; r < r1; r++)
        norm_row(s, r, s->now->norm_post);
}

/* ---- Attention ------------------------------------------------------------------- */

static void append(const ccq_session *s, const ccq_row *row, const float *k, const float *v)
{
    int64_t n = s->m->arch->kv_heads * s->m->arch->head_dim;
    uint64_t at = ccq_cache_at(s, row->slot, s->held_at) + (uint64_t)(row->position * n);
    uint64_t to_v = (uint64_t)(s->capacity[row->slot] * n);

    if (!s->m->bf16) {
        memcpy((float *)s->cache + at, k, (size_t)n * sizeof *k);
        memcpy((float *)s->cache + at + to_v, v, (size_t)n * sizeof *v);
        return;
    }
    uint16_t *c = (uint16_t *)s->cache + at;
    for (int64_t i = 0; i < n; i++) {
        c[i] = bits_of(k[i]);
        c[to_v + (uint64_t)i] = bits_of(v[i]);
    }
}

/* q and k turned, k and v appended to the cache. */
static void rope_rows(ccq_session *s, int64_t r0, int64_t r1, int worker)
{
    const ccq_arch *a = s->m->arch;
    const ccq_ops *ops = &s->m->options.ops;
    int64_t d = a->head_dim, nq = a->heads * d, nk = a->kv_heads * d;

    (void)worker;
    for (int64_t r = r0; r < r1; r++) {
        float *q = s->qkv + r * (nq + 2 * nk);
        const float *cos = s->cos + r * (d / 2), *sin = s->sin + r * (d / 2);
        ops->rope(q, a->heads, d, cos, sin, s->m->bf16);
        ops->rope(q + nq, a->kv_heads, d, cos, sin, s->m->bf16);
        append(s, &s->row[r], q + nq, q + nq + nk);
    }
}

static int64_t attend_blocks(int64_t rows)
{
    return (rows + ATTEND_ROWS - 1) / ATTEND_ROWS;
}

/* Task i: one KV head of one block of rows of one span. */
static void attend_task(void *ctx, size_t i, int worker)
{
    const ccq_session *s = ctx;
    const ccq_arch *a = s->m->arch;
    const ccq_span *p = s->spans;
    int64_t kv = (int64_t)i % a->kv_heads, block = (int64_t)i / a->kv_heads, first = 0, r0, rows;
    int64_t d = a->head_dim, n = a->kv_heads * d, group = a->heads / a->kv_heads;
    size_t size = s->m->bf16 ? sizeof(uint16_t) : sizeof(float);

    for (; block >= attend_blocks(p->rows); p++) {
        block -= attend_blocks(p->rows);
        first += p->rows;
    }
    r0 = first + block * ATTEND_ROWS;
    rows = first + p->rows - r0 < ATTEND_ROWS ? first + p->rows - r0 : ATTEND_ROWS;
    const char *k = (const char *)s->cache + ccq_cache_at(s, p->slot, s->held_at) * size;
    const char *v = k + (size_t)(s->capacity[p->slot] * n) * size;
    /* the kernel has one stride for q and o, so o has the width of qkv */
    s->m->options.ops.attend(s->qkv + r0 * (a->heads * d + 2 * n), a->heads * d + 2 * n, rows,
                             s->row[r0].position, k, v, s->m->bf16, a->heads, a->kv_heads, d,
                             kv * group, (kv + 1) * group, s->m->bf16, s->scratch[worker],
                             s->o + r0 * (a->heads * d + 2 * n));
}

static void attention(ccq_session *s)
{
    const ccq_arch *a = s->m->arch;
    int64_t d = a->head_dim, nq = a->heads * d, ld = nq + 2 * a->kv_heads * d, blocks = 0, work = 0;
    ccq_product qkv = {&s->now->qkv.w, s->h, a->hidden, s->rows, s->qkv, ld};
    ccq_product o = {&s->now->o.w, s->o, ld, s->rows, s->t, a->hidden};

    ccq_products(s, &qkv, 1, s->m->bf16);
    ccq_on_rows(s, s->rows, rope_rows);
    for (size_t i = 0; i < s->span_count; i++) {
        const ccq_span *p = &s->spans[i];
        blocks += attend_blocks(p->rows);
        work += 2 * p->rows * (s->length[p->slot] + p->rows) * nq;
    }
    ccq_tasks(s, blocks * a->kv_heads, work, attend_task, s);
    ccq_products(s, &o, 1, s->m->bf16);
}

/* ---- A step ------------------------------------------------------------------------ */

/* x += attention(norm_in(x)), the sum still to be made; add does that. */
static void attend(ccq_session *s, ccq_rows_fn add)
{
    ccq_on_rows(s, s->rows, norm_in_rows);
    attention(s);
    ccq_on_rows(s, s->rows, add);
    ccq_spend(s, CCQ_STEP_ATTENTION, s->now->qkv.bytes + s->now->o.bytes);
}

/* x += mlp(h) */
static ccq_code mlp(ccq_session *s, ccq_error *err)
{
    ccq_code code = CCQ_OK;

    if (s->now->moe)
        code = ccq_moe(s, err);
    else
        ccq_dense(s, s->t);
    if (!code)
        ccq_on_rows(s, s->rows, add_rows);
    return code;
}

static void advance(ccq_session *s, const ccq_span *spans, size_t count)
{
    for (size_t i = 0; i < count; i++)
        s->length[spans[i].slot] += spans[i].rows;
}

ccq_code ccq_session_step(ccq_session *s, const ccq_span *spans, size_t count, ccq_error *err)
{
    ccq_code code = place_rows(s, spans, count, err);

    if (code)
        return code;
    if (!s->m->layer)
        return ccq_fail(err, CCQ_BUG, "a step of a model that is read layer by layer");
    if (s->device) {
        if (!(code = ccq_device_step(s, err)))
            advance(s, spans, count);
        return code;
    }
    ccq_spend(s, CCQ_STEP_PARTS, 0);
    s->x = s->own;
    ccq_on_rows(s, s->rows, begin_rows);
    s->moe_at = 0;
    for (s->layer = 0; s->layer < s->m->arch->layers; s->layer++) {
        s->now = &s->m->layer[s->layer];
        s->held_at = s->layer;
        if ((code = ccq_model_cancelled(s->m, err)))
            return code;
        attend(s, add_norm_post_rows);
        if ((code = mlp(s, err)))
            return code;
        s->moe_at += s->now->moe;
    }
    advance(s, spans, count);
    return CCQ_OK;
}

/* ---- One layer of it ---------------------------------------------------------------- */

ccq_code ccq_session_embed(ccq_session *s, const int32_t *ids, int64_t rows, float *x,
                           ccq_error *err)
{
    if (rows > s->max_rows || !s->m->embed.memory)
        return ccq_fail(err, CCQ_BUG, "embedding of %lld rows", (long long)rows);
    for (int64_t r = 0; r < rows; r++) {
        if (ids[r] < 0 || ids[r] >= s->m->arch->vocab)
            return ccq_fail(err, CCQ_BUG, "embedding: id %d outside the vocabulary", (int)ids[r]);
        s->row[r].id = ids[r];
    }
    s->x = x;
    s->rows = 0; /* these have no place in the cache */
    ccq_on_rows(s, rows, embed_rows);
    return CCQ_OK;
}

static void at_layer(ccq_session *s, const ccq_layer *l, int64_t number, float *x)
{
    s->now = l;
    s->layer = number;
    s->held_at = s->moe_at = 0;
    s->x = x;
    ccq_spend(s, CCQ_STEP_PARTS, 0);
}

ccq_code ccq_session_attend(ccq_session *s, const ccq_layer *l, int64_t number,
                            const ccq_span *spans, size_t count, float *x, ccq_error *err)
{
    ccq_code code = ccq_model_cancelled(s->m, err);

    if (code || (code = place_rows(s, spans, count, err)))
        return code;
    at_layer(s, l, number, x);
    if (s->device) {
        if ((code = ccq_device_attend(s, l, x, err)))
            return code;
    } else {
        ccq_on_rows(s, s->rows, angle_rows);
        attend(s, add_rows);
    }
    advance(s, spans, count);
    return CCQ_OK;
}

static void norm_post_rows(ccq_session *s, int64_t r0, int64_t r1, int worker)
{
    (void)worker;
    for (int64_t r = r0; r < r1; r++)
        norm_row(s, r, s->now->norm_post);
}

void ccq_session_rows(ccq_session *s, int64_t first, int64_t rows)
{
    s->rows = rows;
    for (int64_t r = 0; r < rows; r++)
        s->row[r] = (ccq_row){.position = first + r, .id = -1};
}

ccq_code ccq_session_mlp(ccq_session *s, const ccq_layer *l, int64_t number, float *x,
                         ccq_error *err)
{
    ccq_code code = ccq_model_cancelled(s->m, err);

    if (code)
        return code;
    at_layer(s, l, number, x);
    if (s->device)
        return ccq_device_mlp(s, l, x, err);
    ccq_on_rows(s, s->rows, norm_post_rows);
    return mlp(s, err);
}

/* ---- Logits -------------------------------------------------------------------------- */

/* Final norm of the wanted rows, gathered to the front of h. */
static void norm_wanted(ccq_session *s, int64_t r0, int64_t r1, int worker)
{
    int64_t h = s->m->arch->hidden;

    (void)worker;
    for (int64_t r = r0; r < r1; r++)
        s->m->options.ops.rms(s->x + (s->wanted ? s->wanted[r] : r) * h, s->m->norm, h,
                              (float)s->m->arch->eps, s->m->bf16, s->h + r * h);
}

/* Logits of s->wanted, or of the first n rows of x. */
static void head(ccq_session *s, int64_t n, float *logits)
{
    const ccq_arch *a = s->m->arch;
    ccq_product p = {&s->m->head.w, s->h, a->hidden, n, logits, a->vocab};

    ccq_on_rows(s, n, norm_wanted);
    ccq_products(s, &p, 1, s->m->bf16 && !s->m->options.fp32_logits);
}

ccq_code ccq_session_logits(ccq_session *s, const int64_t *rows, size_t count, float *logits,
                            ccq_error *err)
{
    for (size_t i = 0; i < count; i++)
        if (count > (size_t)s->rows || rows[i] < 0 || rows[i] >= s->rows)
            return ccq_fail(err, CCQ_BUG, "logits of row %lld of %lld", (long long)rows[i],
                            (long long)s->rows);
    ccq_spend(s, CCQ_STEP_PARTS, 0);
    s->wanted = rows;
    if (s->device && count)
        return ccq_device_logits(s, NULL, (int64_t)count, logits, err);
    for (size_t at = 0; at < count; at += LOGITS_ROWS) {
        s->wanted = rows + at;
        head(s, count - at < LOGITS_ROWS ? (int64_t)(count - at) : LOGITS_ROWS,
             logits + at * (size_t)s->m->arch->vocab);
    }
    ccq_spend(s, CCQ_STEP_HEAD, count ? s->m->head.bytes : 0);
    return CCQ_OK;
}

ccq_code ccq_session_head(ccq_session *s, float *x, int64_t rows, float *logits, ccq_error *err)
{
    if (rows > s->max_rows || !s->m->head.w.data)
        return ccq_fail(err, CCQ_BUG, "head: %lld rows", (long long)rows);
    ccq_spend(s, CCQ_STEP_PARTS, 0);
    s->x = x;
    s->wanted = NULL;
    if (s->device)
        return ccq_device_logits(s, x, rows, logits, err);
    head(s, rows, logits);
    ccq_spend(s, CCQ_STEP_HEAD, s->m->head.bytes);
    return CCQ_OK;
}

void ccq_session_routes(const ccq_session *s, ccq_routes *routes)
{
    routes->rows = s->routed ? s->rows : 0;
    routes->layers = s->routed;
    routes->k = s->m->arch->moe_k;
    routes->ids = s->ids;
    routes->weights = s->weights;
    routes->margin = s->margin;
}
