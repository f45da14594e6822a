/* An expert layer with random weights, and its routings. */
#include "tests/bench_gpu_layer.h"

#include "kernels/code.h"
#include "kernels/gpu/wint2_dense.h"

enum { LEAST_TURNS = 8, QUICK_TURNS = 2 };

/* ---- Weights -------------------------------------------------------------------- */

static void make_expert(bench *b, const weights *w, int half, int64_t e, ccq_weight *one)
{
    const int64_t k = one->k, n = one->n;
    const size_t bytes = ccq_gpu_wint2_bytes(k, n);
    ccq_gpu_wint2_found found;
    void *codes = random_bytes(b, (size_t)(k * n / 4), NULL);
    uint8_t *local = random_locals(b, (size_t)(k * n / 128));
    one->data = codes;
    one->local = local;
    GPU(b, ccq_gpu_wint2(b->gpu)->repack(b->gpu, one, !half,
                                         (char *)w->memory[half] + (size_t)e * bytes,
                                         &w->host[half][e], &found));
    GPU(b, ccq_gpu_wait(b->gpu));
    ccq_gpu_free(b->gpu, codes);
    ccq_gpu_free(b->gpu, local);
}

/* Columns' constants: code_scale, code_zp and super one after the other. */
static float *make_columns(bench *b, int64_t n)
{
    float *line = malloc((size_t)n * 3 * sizeof *line), *there;
    REQUIRE(line, "out of memory");
    uint16_t *super = (uint16_t *)(void *)(line + 2 * n);
    for (int64_t i = 0; i < n; i++) {
        line[i] = 120.94921875f; /* the default pair: 15853056 and 164397056 over 2^17 */
        line[n + i] = 1253.75f;
        super[i] = ccq_f32_to_bf16((float)(0.0005 + 0.001 * check_uniform(&b->rng)));
    }
    there = copy_of(b, line, (size_t)n * 3 * sizeof *line);
    free(line);
    return there;
}

static void make_half(bench *b, const shape *s, weights *w, int half)
{
    const int64_t k = half ? s->inter : s->hidden, n = half ? s->hidden : 2 * s->inter;
    const size_t count = (size_t)s->experts, one = ccq_gpu_wint2_bytes(k, n);
    float *line = make_columns(b, n);
    const void *super = line + 2 * n;
    ccq_weight from = {.type = CCQ_W_WINT2, .k = k, .n = n, .code_scale = line,
                       .code_zp = line + n, .super = super};
    w->memory[half] = take(b, one * count);
    w->host[half] = calloc(count, sizeof *w->host[half]);
    REQUIRE(one && w->host[half], "%d x %d", (int)k, (int)n);
    for (int64_t e = 0; e < s->experts; e++)
        make_expert(b, w, half, e, &from);
    w->device[half] = copy_of(b, w->host[half], count * sizeof *w->host[half]);
    GPU(b, ccq_gpu_wait(b->gpu));
    ccq_gpu_free(b->gpu, line);
}

/* As many copies as make the bytes between two uses of a weight more than 4 L2: at batch 1,
 * where a turn reads the fewest. Turns: all copies equally often. */
static void plan_turns(const bench *b, layer *l)
{
    const shape *s = l->s;
    double n = (double)(3 * s->hidden * s->inter), turn, columns;
    columns = (double)(2 * s->inter + s->hidden);
    l->expert_bytes = n / 4 + n / 128 + 10 * columns;
    turn = (double)s->k * l->expert_bytes;
    l->want_bytes = 4 * (double)ccq_gpu_describe(b->gpu)->l2;
    l->copies = l->want_bytes / turn > MOST_TURNS - 1 ? MOST_TURNS
                                                      : 1 + (int)ceil(l->want_bytes / turn);
    for (int least = b->host ? QUICK_TURNS : LEAST_TURNS; l->turns < least;)
        l->turns += l->copies;
    l->reuse_bytes = (l->copies - 1) * turn;
}

static double *chances(double *to, int64_t experts, int skewed)
{
    double sum = 0;
    for (int64_t e = 0; e < experts; e++)
        to[e] = sum += skewed ? 1 / (double)(e + 1) : 1;
    return to;
}

static size_t work_bytes(const bench *b, const shape *s, int64_t rows)
{
    return ccq_gpu_wint2(b->gpu)->work(b->gpu, s->experts, s->hidden, s->inter, rows) +
           ccq_w2_dense_bytes(s->hidden, s->inter);
}

double layer_bytes(const bench *b, layer *l, const shape *s, int64_t most)
{
    *l = (layer){.s = s};
    plan_turns(b, l);
    return 1.05 * l->copies * (double)s->experts * l->expert_bytes +
           (double)work_bytes(b, s, most * s->k) +
           (double)(most * (s->k + 2) * s->hidden) * sizeof(float) +
           (double)(most * s->k * (3 * l->turns + 4)) * sizeof(int32_t);
}

void layer_make(bench *b, layer *l, const shape *s, int64_t most)
{
    const size_t rows = (size_t)(most * s->k), h = (size_t)s->hidden;
    *l = (layer){.s = s};
    plan_turns(b, l);
    for (int c = 0; c < l->copies; c++)
        for (int half = 0; half < 2; half++)
            make_half(b, s, &l->w[c], half);
    for (int skewed = 0; skewed < 2; skewed++)
        chances(l->chance[skewed], s->experts, skewed);
    l->x = random_floats(b, (size_t)most * h);
    l->y = take(b, rows * h * sizeof(float));
    l->t = take(b, (size_t)most * h * sizeof(float));
    l->weights = random_floats(b, rows);
    l->work = take(b, work_bytes(b, s, (int64_t)rows));
    l->router = random_floats(b, h * (size_t)s->experts);
    l->bias = random_floats(b, (size_t)s->experts);
    l->router_weights = take(b, rows * sizeof(float));
    l->router_ids = take(b, rows * sizeof(int32_t));
    l->margin = take(b, (size_t)most * sizeof(float));
    l->nan = take(b, (size_t)most);
    l->router_work = take(b, ccq_gpu_model(b->gpu)->router_work(b->gpu, most, s->experts));
}

void layer_free(bench *b, layer *l)
{
    void *all[] = {l->x,      l->y,    l->t,     l->weights,       l->work,
                   l->router, l->bias, l->margin, l->router_weights, l->router_ids,
                   l->nan,    l->router_work};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        ccq_gpu_free(b->gpu, all[i]);
    for (int c = 0; c < l->copies; c++)
        for (int half = 0; half < 2; half++) {
            ccq_gpu_free(b->gpu, l->w[c].memory[half]);
            ccq_gpu_free(b->gpu, l->w[c].device[half]);
            free(l->w[c].host[half]);
        }
}

/* ---- Routings --------------------------------------------------------------------- */

/* k different experts. */
static void draw(bench *b, const layer *l, int skewed, int32_t *ids)
{
    const int64_t experts = l->s->experts;
    const double *chance = l->chance[skewed];
    for (int64_t j = 0; j < l->s->k;) {
        double u = check_uniform(&b->rng) * chance[experts - 1];
        int64_t e = 0, i = 0;
        while (e < experts - 1 && chance[e] <= u)
            e++;
        ids[j] = (int32_t)((e * 29 + 7) % experts); /* a fixed permutation */
        while (i < j && ids[i] != ids[j])
            i++;
        j += i == j;
    }
}

static void count_rows(bench *b, layer *l, routing *r)
{
    const size_t count = (size_t)l->s->experts + 1;
    int32_t *start = malloc(count * sizeof *start);
    REQUIRE(start, "out of memory");
    GPU(b, ccq_gpu_download(b->gpu, start, r->start, count * sizeof *start));
    for (size_t e = 0; e + 1 < count; e++) {
        int64_t rows = start[e + 1] - start[e];
        r->active += rows > 0;
        r->most = rows > r->most ? rows : r->most;
    }
    free(start);
}

static void route(bench *b, layer *l, routing *r, int skewed)
{
    const shape *s = l->s;
    const size_t rows = (size_t)(l->batch * s->k), experts = (size_t)s->experts;
    int32_t *ids = malloc(rows * sizeof *ids);
    REQUIRE(ids, "out of memory");
    for (int64_t i = 0; i < l->batch; i++)
        draw(b, l, skewed, ids + i * s->k);
    *r = (routing){copy_of(b, ids, rows * sizeof *ids), take(b, (experts + 1) * sizeof *ids),
                   take(b, rows * sizeof *ids), take(b, rows * sizeof *ids), 0, 0};
    ccq_gpu_sort p = {r->ids, l->batch, s->experts, s->k, 1, 0, r->start, r->place, r->from};
    GPU(b, ccq_gpu_model(b->gpu)->sort(b->gpu, &p));
    count_rows(b, l, r);
    free(ids);
}

void layer_route(bench *b, layer *l, int skewed)
{
    l->active = l->most = 0;
    for (int t = 0; t < l->turns; t++) {
        route(b, l, &l->r[t], skewed);
        l->active += (double)l->r[t].active / l->turns;
        l->most = (double)l->r[t].most > l->most ? (double)l->r[t].most : l->most;
    }
}

void layer_free_routings(bench *b, layer *l)
{
    for (int t = 0; t < l->turns; t++) {
        ccq_gpu_free(b->gpu, l->r[t].ids);
        ccq_gpu_free(b->gpu, l->r[t].start);
        ccq_gpu_free(b->gpu, l->r[t].from);
        ccq_gpu_free(b->gpu, l->r[t].place);
    }
}
