/* A step on a device: the order of libccq/forward.c and moe.c. Everything is given to queue 0
 * and waited for once, when the router's choices come back. */
#include "libccq/device_session.h"

#include <string.h>

enum { FEW_ROWS = 64 }; /* an expert's, up to which its weights are decoded in registers */

/* A call on the device; the first that fails ends the step. */
typedef struct step {
    ccq_session *s;
    ccq_device_session *d;
    const ccq_device_layer *l;
    const ccq_layer *from; /* of which l is a copy */
    const ccq_gpu_model_ops *ops;
    int64_t rows;
    int recording;
    int any_length; /* grids are made for the longest row there can be */
    int code;
} step;

static void did(step *t, int code)
{
    t->code = t->code ? t->code : code;
}

static step begin(ccq_session *s, int64_t rows)
{
    step t = {.s = s, .d = s->device, .ops = ccq_gpu_model(s->m->options.gpu), .rows = rows};
    ccq_gpu_queue(t.d->gpu, 0);
    return t;
}

static ccq_code result(const step *t, ccq_error *err)
{
    return t->code ? ccq_device_error(t->s->m->device, t->code, err) : CCQ_OK;
}

/* Parts of a step are timed one by one only when asked for: a device that is waited for is
 * slower. */
static void spend(step *t, ccq_step_part part, uint64_t bytes)
{
    if (!t->s->parts || t->code)
        return;
    did(t, ccq_gpu_wait(t->d->gpu));
    ccq_spend(t->s, part, bytes);
}

/* ---- Places ---------------------------------------------------------------- */

/* The places of s->row, by position and slot. */
static void fill_places(const ccq_session *s)
{
    const ccq_device_session *d = s->device;
    const ccq_arch *a = s->m->arch;
    const ccq_device_places *p = &d->host;
    int64_t n = a->kv_heads * a->head_dim, half = a->head_dim / 2;
    for (int64_t r = 0; r < s->rows; r++) {
        const ccq_row *row = &s->row[r];
        int64_t first = d->first[row->slot];
        p->id[r] = row->id;
        p->length[r] = (int32_t)(row->position + 1);
        p->k_first[r] = first * n;
        p->v_first[r] = (d->positions + first) * n;
        p->k_at[r] = p->k_first[r] + row->position * n;
        p->v_at[r] = p->v_first[r] + row->position * n;
        ccq_rope_angles(a->rope_theta, a->head_dim, row->position, p->cos + r * half,
                        p->sin + r * half);
    }
}

static void upload_places(step *t)
{
    const ccq_device_places *to = &t->d->places, *from = &t->d->host;
    size_t n = (size_t)t->rows, half = (size_t)t->s->m->arch->head_dim / 2;
    ccq_gpu *g = t->d->gpu;
    did(t, ccq_gpu_upload(g, to->id, from->id, n * sizeof *to->id));
    did(t, ccq_gpu_upload(g, to->length, from->length, n * sizeof *to->length));
    did(t, ccq_gpu_upload(g, to->k_at, from->k_at, n * sizeof *to->k_at));
    did(t, ccq_gpu_upload(g, to->v_at, from->v_at, n * sizeof *to->v_at));
    did(t, ccq_gpu_upload(g, to->k_first, from->k_first, n * sizeof *to->k_first));
    did(t, ccq_gpu_upload(g, to->v_first, from->v_first, n * sizeof *to->v_first));
    did(t, ccq_gpu_upload(g, to->cos, from->cos, n * half * sizeof *to->cos));
    did(t, ccq_gpu_upload(g, to->sin, from->sin, n * half * sizeof *to->sin));
}

static int64_t longest_row(const step *t)
{
    int64_t most = 1;
    if (t->any_length)
        return t->d->longest;
    for (int64_t r = 0; r < t->rows; r++)
        most = t->d->host.length[r] > most ? t->d->host.length[r] : most;
    return most;
}

/* ---- Pieces ------------------------------------------------------------------ */

static void norm(step *t, const float *g, const float *x, const int32_t *pick, int64_t rows)
{
    const ccq_model *m = t->s->m;
    ccq_gpu_rms p = {x, g, pick, rows, m->arch->hidden, (float)m->arch->eps, m->bf16, t->d->h};
    did(t, t->ops->rms(t->d->gpu, &p));
}

static void add(step *t, float *x, const float *y)
{
    ccq_gpu_add p = {x, y, t->rows * t->s->m->arch->hidden, t->s->m->bf16};
    did(t, t->ops->add(t->d->gpu, &p));
}

static void linear(step *t, const ccq_weight *w, const float *x, int64_t rows, int round, float *y)
{
    ccq_gpu_linear p = {w, x, w->k, rows, t->s->m->bf16, round, y, w->n, t->d->work};
    did(t, t->ops->linear(t->d->gpu, &p));
}

static void swiglu(step *t, int64_t rows, int64_t n)
{
    ccq_gpu_swiglu p = {t->d->gu, rows, n, t->s->m->bf16, t->d->a};
    did(t, t->ops->swiglu(t->d->gpu, &p));
}

static void attention(step *t, int64_t held)
{
    const ccq_arch *a = t->s->m->arch;
    ccq_device_session *d = t->d;
    const ccq_device_places *p = &d->places;
    int64_t q = a->heads * a->head_dim, ld = q + 2 * a->kv_heads * a->head_dim;
    void *cache = d->cache + (uint64_t)held * d->layer_bytes;
    int bf16 = t->s->m->bf16;
    ccq_gpu_rope rope = {d->qkv, ld, t->rows, a->heads, a->kv_heads, a->head_dim, p->cos, p->sin,
                         cache, p->k_at, p->v_at, bf16};
    ccq_gpu_attend attend = {d->qkv, ld, t->rows, a->heads, a->kv_heads, a->head_dim, cache,
                             p->k_first, p->v_first, p->length, longest_row(t), bf16, d->o, q,
                             d->work};
    linear(t, &t->l->qkv, d->h, t->rows, bf16, d->qkv);
    did(t, t->ops->rope(d->gpu, &rope));
    did(t, t->ops->attend(d->gpu, &attend));
    linear(t, &t->l->o, d->o, t->rows, bf16, d->t);
}

static void dense(step *t, float *to)
{
    int bf16 = t->s->m->bf16;
    linear(t, &t->l->up_gate, t->d->h, t->rows, bf16, t->d->gu);
    swiglu(t, t->rows, t->l->down.k);
    linear(t, &t->l->down, t->d->a, t->rows, bf16, to);
}

/* ---- Experts -------------------------------------------------------------------- */

static void route(step *t, int64_t moe)
{
    const ccq_arch *a = t->s->m->arch;
    ccq_device_session *d = t->d;
    ccq_gpu_router router = {d->h, t->l->router, t->l->bias, t->rows, a->hidden, a->experts,
                             a->moe_k, t->s->routed, moe, d->ids, d->weights, d->margin,
                             d->nan + moe * t->s->max_rows, d->work};
    ccq_gpu_sort sort = {d->ids, t->rows, a->experts, a->moe_k, t->s->routed, moe, d->start,
                         d->place, d->from};
    did(t, t->ops->router(d->gpu, &router));
    did(t, t->ops->sort(d->gpu, &sort));
}

/* Rows of an expert, about: chance spreads them, and some get more. */
static int is_few(const step *t)
{
    const ccq_arch *a = t->s->m->arch;
    return t->rows * a->moe_k <= FEW_ROWS / 2 * a->experts || t->rows <= FEW_ROWS;
}

static void wint2_experts(step *t)
{
    const ccq_arch *a = t->s->m->arch;
    ccq_device_session *d = t->d;
    const ccq_device_layer *l = t->l;
    ccq_gpu_experts p = {
        .up_gate = l->matrix_table[0], .down = l->matrix_table[1],
        .host_up_gate = l->matrix[0], .host_down = l->matrix[1], .experts = a->experts,
        .hidden = a->hidden, .inter = a->moe_inter, .x = d->h, .ldx = a->hidden,
        .start = d->start, .from = d->from, .rows = t->rows * a->moe_k, .most = t->rows,
        .rounding = t->s->m->options.rounding, .round = 1, .order = t->s->m->arch->order,
        .large = !is_few(t), .y = d->yg, .work = d->work};
    did(t, ccq_gpu_wint2(d->gpu)->experts(d->gpu, &p));
}

static void grouped(step *t, int part, const float *x, float *y)
{
    const ccq_arch *a = t->s->m->arch;
    const ccq_weight *w = t->l->expert[part];
    ccq_gpu_grouped p = {w, t->l->expert_table[part], a->experts, t->d->start, x, w->k,
                         t->rows * a->moe_k, t->s->m->bf16, is_few(t), y, w->n, t->d->work};
    did(t, t->ops->grouped(t->d->gpu, &p));
}

static void stored_experts(step *t)
{
    const ccq_arch *a = t->s->m->arch;
    ccq_device_session *d = t->d;
    int64_t rows = t->rows * a->moe_k;
    ccq_gpu_gather gather = {d->h, d->from, rows, a->hidden, d->xg};
    did(t, t->ops->gather(d->gpu, &gather));
    grouped(t, 0, d->xg, d->gu);
    swiglu(t, rows, a->moe_inter);
    grouped(t, 1, d->a, d->yg);
}

static void moe(step *t, int64_t at)
{
    const ccq_arch *a = t->s->m->arch;
    ccq_device_session *d = t->d;
    ccq_gpu_combine combine = {d->yg, d->weights, d->place, t->rows, a->moe_k, a->hidden,
                               t->s->routed, at, t->s->m->bf16, d->t};
    route(t, at);
    spend(t, CCQ_STEP_ROUTER, (uint64_t)(a->hidden * a->experts) * sizeof(float));
    if (t->l->wint2)
        wint2_experts(t);
    else
        stored_experts(t);
    did(t, t->ops->combine(d->gpu, &combine));
    if (t->l->shared) {
        spend(t, CCQ_STEP_EXPERTS, 0);
        dense(t, d->yg); /* its rows have been combined */
        add(t, d->t, d->yg);
        spend(t, CCQ_STEP_DENSE, t->from->up_gate.bytes + t->from->down.bytes);
    }
}

/* ---- A layer ----------------------------------------------------------------------- */

/* x += attention(norm_in(x)) */
static void attend_layer(step *t, int64_t held)
{
    norm(t, t->l->norm_in, t->d->x, NULL, t->rows);
    attention(t, held);
    add(t, t->d->x, t->d->t);
    spend(t, CCQ_STEP_ATTENTION, t->from->qkv.bytes + t->from->o.bytes);
}

/* x += mlp(norm_post(x)) */
static void mlp_layer(step *t, int64_t moe_at)
{
    norm(t, t->l->norm_post, t->d->x, NULL, t->rows);
    if (t->l->moe)
        moe(t, moe_at);
    else
        dense(t, t->d->t);
    add(t, t->d->x, t->d->t);
    spend(t, t->l->moe ? CCQ_STEP_EXPERTS : CCQ_STEP_DENSE,
          t->l->moe ? 0 : t->from->up_gate.bytes + t->from->down.bytes);
}

/* ---- What comes back ------------------------------------------------------------------ */

static ccq_code check_nan(const ccq_session *s, const uint8_t *nan, int64_t layer, ccq_error *err)
{
    for (int64_t r = 0; r < s->rows; r++)
        if (nan[r])
            return ccq_fail(
                err, CCQ_NONFINITE,
                "%s: layer %lld: router logit is NaN at token %lld (id %d) of sequence %zu",
                s->m->src->dir, (long long)layer, (long long)s->row[r].position,
                (int)s->row[r].id, s->row[r].sequence);
    return CCQ_OK;
}

/* The choices of all rows, and whether they were made of numbers. Waits. */
static ccq_code take_routes(step *t, int64_t layers, ccq_error *err)
{
    ccq_session *s = t->s;
    ccq_device_session *d = t->d;
    ccq_gpu *g = d->gpu;
    size_t n = (size_t)(t->rows * s->routed), k = (size_t)s->m->arch->moe_k;
    ccq_code code = CCQ_OK;
    if (s->routed) {
        did(t, ccq_gpu_download(g, s->ids, d->ids, n * k * sizeof *s->ids));
        did(t, ccq_gpu_download(g, s->weights, d->weights, n * k * sizeof *s->weights));
        did(t, ccq_gpu_download(g, s->margin, d->margin, n * sizeof *s->margin));
        did(t, ccq_gpu_download(g, d->host_nan, d->nan, (size_t)(s->routed * s->max_rows)));
    }
    did(t, ccq_gpu_wait(g));
    for (int64_t i = 0; i < layers && !t->code && !code; i++)
        code = check_nan(s, d->host_nan + i * s->max_rows,
                         s->m->options.layered ? s->layer : s->m->moe[i], err);
    return t->code ? result(t, err) : code;
}

/* Bytes of the experts that had rows, of all layers. */
static void count_experts(ccq_session *s)
{
    const ccq_model *m = s->m;
    int64_t k = m->arch->moe_k, experts = m->arch->experts;
    for (int64_t i = 0; i < m->moe_layers; i++)
        for (int64_t e = 0; e < experts; e++) {
            const ccq_linear *two = &m->layer[m->moe[i]].expert[2 * e];
            int has = 0;
            for (int64_t r = 0; r < s->rows && !has; r++)
                for (int64_t j = 0; j < k; j++)
                    has |= s->ids[(r * s->routed + i) * k + j] == e;
            s->spent.bytes[CCQ_STEP_EXPERTS] += has ? two[0].bytes + two[1].bytes : 0;
        }
}

/* ---- A step ------------------------------------------------------------------------------ */

static ccq_code all_layers(step *t, ccq_error *err)
{
    ccq_session *s = t->s;
    const ccq_model *m = s->m;
    ccq_device *device = m->device;
    int64_t layers = m->arch->layers, moe_at = 0;
    ccq_gpu_embed embed = {device->embed.type, device->embed.data, t->d->places.id, t->rows,
                           m->arch->hidden, t->d->x};
    did(t, t->ops->embed(t->d->gpu, &embed));
    for (int64_t i = 0; i < layers && !t->code; i++) {
        ccq_code code = t->recording ? CCQ_OK : ccq_model_cancelled(m, err);
        t->from = &m->layer[i];
        if (code || (code = ccq_device_bring(device, t->from, i, &t->l, err)))
            return code;
        attend_layer(t, i);
        mlp_layer(t, moe_at);
        moe_at += t->l->moe;
        if (i + 1 < layers && (code = ccq_device_ahead(device, &m->layer[i + 1], i + 1, err)))
            return code;
    }
    return result(t, err);
}

/* Decoding with everything resident: the third step of so many rows is recorded, and those
 * after it are replayed. The ones before it are cut up alike, so that a token's bits do not
 * tell how many steps there were. */
static int can_record(const step *t)
{
    const ccq_session *s = t->s;
    return ccq_gpu_kind(t->d->gpu) == CCQ_GPU_CUDA && !s->parts &&
           t->rows < CCQ_DEVICE_GRAPHS && is_few(t) && s->span_count == (size_t)t->rows &&
           s->m->device->resident == s->m->arch->layers;
}

static void record(step *t)
{
    ccq_gpu_graph **graph = &t->d->graph[t->rows];
    ccq_error ignored;
    ccq_code code = CCQ_UNAVAILABLE;
    if (!ccq_gpu_record(t->d->gpu)) {
        t->recording = 1;
        code = all_layers(t, &ignored);
        t->recording = 0;
        if (ccq_gpu_recorded(t->d->gpu, graph))
            *graph = NULL;
    }
    if (code && *graph) {
        ccq_gpu_graph_free(t->d->gpu, *graph);
        *graph = NULL;
    }
    t->code = CCQ_GPU_OK; /* without a recording the step is taken as those before it */
    if (!*graph)
        t->d->seen[t->rows] = CCQ_DEVICE_NEVER;
}

ccq_code ccq_device_step(ccq_session *s, ccq_error *err)
{
    step t = begin(s, s->rows);
    ccq_code code = CCQ_OK;
    int replays = can_record(&t);
    t.any_length = replays;
    if (s->parts)
        ccq_spend(s, CCQ_STEP_PARTS, 0);
    fill_places(s);
    upload_places(&t);
    if (replays && !t.d->graph[t.rows] && t.d->seen[t.rows] != CCQ_DEVICE_NEVER &&
        ++t.d->seen[t.rows] > 2)
        record(&t);
    if (replays && t.d->graph[t.rows])
        did(&t, ccq_gpu_replay(t.d->gpu, t.d->graph[t.rows]));
    else if ((code = all_layers(&t, err)))
        return code;
    code = take_routes(&t, s->m->moe_layers, err);
    if (!code && s->parts)
        count_experts(s);
    return code;
}

/* ---- Layer by layer: x is host memory ------------------------------------------------------ */

static size_t x_bytes(const step *t)
{
    return (size_t)(t->rows * t->s->m->arch->hidden) * sizeof(float);
}

ccq_code ccq_device_attend(ccq_session *s, const ccq_layer *l, float *x, ccq_error *err)
{
    step t = begin(s, s->rows);
    ccq_code code = ccq_device_bring(s->m->device, l, s->layer, &t.l, err);
    t.from = l;
    if (code)
        return code;
    fill_places(s);
    upload_places(&t);
    did(&t, ccq_gpu_upload(t.d->gpu, t.d->x, x, x_bytes(&t)));
    attend_layer(&t, 0);
    did(&t, ccq_gpu_download(t.d->gpu, x, t.d->x, x_bytes(&t)));
    did(&t, ccq_gpu_wait(t.d->gpu));
    return result(&t, err);
}

ccq_code ccq_device_mlp(ccq_session *s, const ccq_layer *l, float *x, ccq_error *err)
{
    step t = begin(s, s->rows);
    ccq_code code = ccq_device_bring(s->m->device, l, s->layer, &t.l, err);
    t.from = l;
    if (code)
        return code;
    did(&t, ccq_gpu_upload(t.d->gpu, t.d->x, x, x_bytes(&t)));
    mlp_layer(&t, 0);
    did(&t, ccq_gpu_download(t.d->gpu, x, t.d->x, x_bytes(&t)));
    if (l->moe)
        return take_routes(&t, 1, err);
    did(&t, ccq_gpu_wait(t.d->gpu));
    return result(&t, err);
}

/* ---- Logits ------------------------------------------------------------------------------ */

static void head(step *t, int64_t n, const int32_t *pick, float *logits)
{
    const ccq_model *m = t->s->m;
    const ccq_device *device = m->device;
    size_t bytes = (size_t)(n * m->arch->vocab) * sizeof *logits;
    norm(t, device->norm, t->d->x, pick, n);
    linear(t, &device->head, t->d->h, n, m->bf16 && !m->options.fp32_logits, t->d->logits);
    did(t, ccq_gpu_download(t->d->gpu, logits, t->d->logits, bytes));
    did(t, ccq_gpu_wait(t->d->gpu));
}

ccq_code ccq_device_logits(ccq_session *s, const float *x, int64_t n, float *logits,
                           ccq_error *err)
{
    const ccq_arch *a = s->m->arch;
    step t = begin(s, n);
    ccq_code code = ccq_device_ends(s->m->device, err);
    if (code)
        return code;
    if (s->parts)
        ccq_spend(s, CCQ_STEP_PARTS, 0);
    for (int64_t at = 0, count; at < n && !t.code; at += count) {
        int32_t pick[CCQ_DEVICE_LOGITS];
        count = n - at < CCQ_DEVICE_LOGITS ? n - at : CCQ_DEVICE_LOGITS;
        for (int64_t i = 0; i < count; i++)
            pick[i] = (int32_t)(x ? i : s->wanted[at + i]);
        if (x)
            did(&t, ccq_gpu_upload(t.d->gpu, t.d->x, x + at * a->hidden,
                                   (size_t)(count * a->hidden) * sizeof *x));
        did(&t, ccq_gpu_upload(t.d->gpu, t.d->pick, pick, (size_t)count * sizeof *pick));
        head(&t, count, t.d->pick, logits + at * a->vocab);
    }
    spend(&t, CCQ_STEP_HEAD, s->m->head.bytes);
    return result(&t, err);
}
