/* Kernels of a device by the rules of docs/performance.md, "On a GPU":
 *
 *     bench_gpu [--device host] [--quick] [--json]
 *
 * Memory is copied and matrices are multiplied first: BW and MM, in whose fractions the rest
 * is told. Codes, local scales and activations are random (the seed is printed). Each figure
 * is the median of many replays, with the tenth and the ninetieth percentile; routings take
 * turns, so that the weights of a replay are not those of the one before. Bytes are those of
 * the experts that have rows, once. */
#include "kernels/gpu_model.h"
#include "kernels/gpu_wint2.h"
#include "tests/bench_gpu.h"

#include <math.h>

enum { BATCHES = 9 };

typedef struct shape {
    const char *name;
    int64_t hidden, inter, experts, k;
} shape;

static const shape shapes[] = {
    {"300B", 8192, 3584, 64, 8},
    {"21B", 2560, 1536, 64, 6},
};
static const shape small = {"small", 256, 128, 4, 2};
static const int64_t batches[BATCHES] = {1, 4, 16, 32, 64, 128, 256, 1024, 4096};

/* ---- BW and MM --------------------------------------------------------------- */

typedef struct copying {
    void *memory[2];
    size_t size;
} copying;

static void copy_once(bench *b, void *ctx, int turn)
{
    copying *c = ctx;
    GPU(b, ccq_gpu_copy(b->gpu, c->memory[turn & 1], c->memory[!(turn & 1)], c->size));
}

static void measure_copy(bench *b)
{
    copying c = {.size = b->quick ? (size_t)16 << 20 : (size_t)1 << 30};
    c.memory[0] = take(b, c.size);
    c.memory[1] = take(b, c.size);
    GPU(b, ccq_gpu_fill(b->gpu, c.memory[0], 0x5a, c.size));
    sample s = measure(b, copy_once, &c, 1);
    b->bw = 2e3 * (double)c.size / (double)s.median;
    ccq_gpu_free(b->gpu, c.memory[0]);
    ccq_gpu_free(b->gpu, c.memory[1]);
    if (b->json)
        printf("{\"bench\":\"gpu\",\"what\":\"copy\",\"bytes_per_s\":%.0f}\n", b->bw);
    else
        printf("copy, read and written      %10.1f GB/s\n", b->bw / 1e9);
}

static void multiply_once(bench *b, void *ctx, int turn)
{
    (void)turn;
    GPU(b, ccq_gpu_model(b->gpu)->linear(b->gpu, ctx));
}

/* A dense product of bf16, with what it takes to bring fp32 rows to it. */
static void measure_matmul(bench *b)
{
    int64_t n = b->quick ? 256 : 8192, rows = b->quick ? 32 : 16384;
    ccq_weight w = {.type = CCQ_W_BF16, .k = n, .n = n};
    size_t work = ccq_gpu_model(b->gpu)->linear_work(b->gpu, &w, rows, 1);
    w.data = random_bf16(b, (size_t)(n * n));
    ccq_gpu_linear p = {&w, random_floats(b, (size_t)(rows * n)), n, rows, 1, 0,
                        take(b, (size_t)(rows * n) * sizeof(float)), n, take(b, work)};
    sample s = measure(b, multiply_once, &p, 1);
    b->mm = 2e3 * (double)n * (double)n * (double)rows / (double)s.median;
    ccq_gpu_free(b->gpu, (void *)(uintptr_t)w.data);
    ccq_gpu_free(b->gpu, (void *)(uintptr_t)p.x);
    ccq_gpu_free(b->gpu, p.y);
    ccq_gpu_free(b->gpu, p.work);
    if (b->json)
        printf("{\"bench\":\"gpu\",\"what\":\"matmul\",\"flop_per_s\":%.0f}\n", b->mm);
    else
        printf("bf16 product                %10.1f TFLOP/s\n", b->mm / 1e12);
}

/* ---- An expert layer ----------------------------------------------------------- */

typedef struct routing {
    int32_t *start, *from, *place; /* device */
    int active;
    int64_t most;
} routing;

typedef struct layer {
    const shape *s;
    ccq_gpu_matrix *host[2], *device[2];
    void *memory[2];
    uint64_t expert_bytes;
    routing r[ROUTINGS];
    float *x, *y, *t, *weights;
    void *work;
    int64_t batch;
    int rounding, large, combine;
} layer;

static void make_half(bench *b, layer *l, int half, int64_t k, int64_t n)
{
    size_t one = ccq_gpu_wint2_bytes(k, n), count = (size_t)l->s->experts;
    float *line = malloc((size_t)n * 2 * sizeof *line);
    uint16_t *super = malloc((size_t)n * sizeof *super);
    REQUIRE(one && line && super, "%d x %d", (int)k, (int)n);
    for (int64_t i = 0; i < n; i++) {
        line[i] = 120.94921875f; /* the default pair: 15853056 and 164397056 over 2^17 */
        line[n + i] = 1253.75f;
        super[i] = ccq_f32_to_bf16(0.001f);
    }
    ccq_weight w = {.type = CCQ_W_WINT2, .k = k, .n = n, .rounding = l->rounding};
    float *cs = take(b, (size_t)n * 2 * sizeof *cs);
    uint16_t *sc = take(b, (size_t)n * sizeof *sc);
    GPU(b, ccq_gpu_upload(b->gpu, cs, line, (size_t)n * 2 * sizeof *cs));
    GPU(b, ccq_gpu_upload(b->gpu, sc, super, (size_t)n * sizeof *sc));
    l->memory[half] = take(b, one * count);
    l->host[half] = calloc(count, sizeof *l->host[half]);
    for (size_t e = 0; e < count; e++) {
        ccq_gpu_wint2_found found;
        void *codes = random_bytes(b, (size_t)(k * n / 4));
        void *local = random_bytes(b, (size_t)(k * n / 128));
        w.data = codes, w.local = local, w.super = sc, w.code_scale = cs, w.code_zp = cs + n;
        GPU(b, ccq_gpu_wint2(b->gpu)->repack(b->gpu, &w, !half, (char *)l->memory[half] + e * one,
                                             &l->host[half][e], &found));
        GPU(b, ccq_gpu_wait(b->gpu));
        ccq_gpu_free(b->gpu, codes);
        ccq_gpu_free(b->gpu, local);
    }
    l->device[half] = take(b, count * sizeof *l->host[half]);
    GPU(b, ccq_gpu_upload(b->gpu, l->device[half], l->host[half], count * sizeof *l->host[half]));
    l->expert_bytes += (uint64_t)(k * n / 4 + k * n / 128 + 10 * n);
    GPU(b, ccq_gpu_wait(b->gpu));
    ccq_gpu_free(b->gpu, cs);
    ccq_gpu_free(b->gpu, sc);
    free(line);
    free(super);
}

/* k different experts; skewed: expert of rank i with weight 1 / (i + 1). */
static void draw(bench *b, const shape *s, int skewed, int32_t *ids)
{
    for (int64_t j = 0; j < s->k; j++) {
        int again;
        do {
            double u = check_uniform(&b->rng), sum = 0, all = 0;
            int64_t e = 0;
            for (int64_t i = 0; i < s->experts; i++)
                all += skewed ? 1.0 / (double)(i + 1) : 1;
            for (; e < s->experts - 1 && (sum += (skewed ? 1.0 / (double)(e + 1) : 1) / all) < u;)
                e++;
            ids[j] = (int32_t)((e * 29 + 7) % s->experts); /* a fixed permutation */
            again = 0;
            for (int64_t i = 0; i < j; i++)
                again |= ids[i] == ids[j];
        } while (again);
    }
}

static void route(bench *b, layer *l, routing *r, int skewed)
{
    const shape *s = l->s;
    size_t rows = (size_t)(l->batch * s->k);
    int32_t *ids = malloc(rows * sizeof *ids), *device = take(b, rows * sizeof *ids);
    int32_t *start = malloc(((size_t)s->experts + 1) * sizeof *start);
    REQUIRE(ids && start, "memory");
    for (int64_t i = 0; i < l->batch; i++)
        draw(b, s, skewed, ids + i * s->k);
    r->start = take(b, ((size_t)s->experts + 1) * sizeof *start);
    r->from = take(b, rows * sizeof *ids);
    r->place = take(b, rows * sizeof *ids);
    GPU(b, ccq_gpu_upload(b->gpu, device, ids, rows * sizeof *ids));
    ccq_gpu_sort p = {device, l->batch, s->experts, s->k, 1, 0, r->start, r->place, r->from};
    GPU(b, ccq_gpu_model(b->gpu)->sort(b->gpu, &p));
    GPU(b, ccq_gpu_download(b->gpu, start, r->start, ((size_t)s->experts + 1) * sizeof *start));
    r->active = 0;
    r->most = 0;
    for (int64_t e = 0; e < s->experts; e++) {
        int64_t n = start[e + 1] - start[e];
        r->active += n > 0;
        r->most = n > r->most ? n : r->most;
    }
    ccq_gpu_free(b->gpu, device);
    free(ids);
    free(start);
}

static void layer_once(bench *b, void *ctx, int turn)
{
    const layer *l = ctx;
    const shape *s = l->s;
    const routing *r = &l->r[turn];
    ccq_gpu_experts p = {
        .up_gate = l->device[0], .down = l->device[1], .host_up_gate = l->host[0],
        .host_down = l->host[1], .experts = s->experts, .hidden = s->hidden, .inter = s->inter,
        .x = l->x, .ldx = s->hidden, .start = r->start, .from = r->from, .rows = l->batch * s->k,
        .most = l->batch, .rounding = l->rounding, .round = 1, .order = CCQ_ORDER_FASTDEPLOY,
        .large = l->large, .y = l->y, .work = l->work};
    ccq_gpu_combine c = {l->y, l->weights, r->place, l->batch, s->k, s->hidden, 1, 0,
                         l->rounding == CCQ_ROUND_FUSED, l->t};
    GPU(b, ccq_gpu_wint2(b->gpu)->experts(b->gpu, &p));
    if (l->combine)
        GPU(b, ccq_gpu_model(b->gpu)->combine(b->gpu, &c));
}

static void tell(const bench *b, const layer *l, int skewed, const sample *s)
{
    const char *rounding = l->rounding == CCQ_ROUND_FUSED ? "fused" : "none";
    const char *what = l->combine ? "experts+reduce" : "experts";
    double active = 0, most = 0, bytes, flop;
    for (int i = 0; i < ROUTINGS; i++) {
        active += (double)l->r[i].active / ROUTINGS;
        most = (double)l->r[i].most > most ? (double)l->r[i].most : most;
    }
    bytes = active * (double)l->expert_bytes;
    flop = 2.0 * (double)(l->batch * l->s->k) * 3.0 * (double)(l->s->hidden * l->s->inter);
    double seconds = 1e-3 * (double)s->median, floor_s = bytes / b->bw;
    floor_s = flop / b->mm > floor_s ? flop / b->mm : floor_s;
    if (b->json)
        printf("{\"bench\":\"gpu\",\"what\":\"%s\",\"model\":\"%s\",\"batch\":%lld,"
               "\"routing\":\"%s\",\"rounding\":\"%s\",\"way\":\"%s\",\"active\":%.1f,"
               "\"most\":%.0f,\"bytes\":%.0f,"
               "\"ms\":%.4f,\"p10\":%.4f,\"p90\":%.4f,\"of_bw\":%.3f,\"of_mm\":%.3f,"
               "\"of_floor\":%.3f}\n",
               what, l->s->name, (long long)l->batch, skewed ? "zipf" : "uniform", rounding,
               l->large ? "dense" : "decode", active, most, bytes, (double)s->median,
               (double)s->p10, (double)s->p90, bytes / seconds / b->bw, flop / seconds / b->mm,
               floor_s / seconds);
    else
        printf("%-5s b%-5lld %-7s %-5s %-6s %-14s active %5.1f most %5.0f  %9.4f ms (%.4f %.4f)  "
               "%.3f BW %.3f MM  %.2f of the floor\n",
               l->s->name, (long long)l->batch, skewed ? "zipf" : "uniform", rounding,
               l->large ? "dense" : "decode", what, active, most, (double)s->median,
               (double)s->p10, (double)s->p90, bytes / seconds / b->bw, flop / seconds / b->mm,
               floor_s / seconds);
}

static void free_routings(bench *b, layer *l)
{
    for (int i = 0; i < ROUTINGS; i++) {
        ccq_gpu_free(b->gpu, l->r[i].start);
        ccq_gpu_free(b->gpu, l->r[i].from);
        ccq_gpu_free(b->gpu, l->r[i].place);
    }
}

static void measure_batch(bench *b, layer *l, int skewed)
{
    for (int i = 0; i < ROUTINGS; i++)
        route(b, l, &l->r[i], skewed);
    for (int way = 0; way < 4; way++) {
        l->rounding = way & 1 ? CCQ_ROUND_NONE : CCQ_ROUND_FUSED;
        l->large = way >> 1;
        if (l->large ? l->batch < 128 || (way & 1) : l->batch > 1024)
            continue;
        for (l->combine = 0; l->combine < 2; l->combine++) {
            /* what waits inside cannot be recorded: one turn */
            sample s = measure(b, layer_once, l, l->large ? 1 : ROUTINGS);
            tell(b, l, skewed, &s);
            fflush(stdout);
        }
    }
    free_routings(b, l);
}

static void measure_layer(bench *b, const shape *s)
{
    int64_t most = b->quick ? 16 : batches[BATCHES - 1];
    size_t rows = (size_t)(most * s->k), h = (size_t)s->hidden;
    layer l = {.s = s, .rounding = CCQ_ROUND_FUSED};
    make_half(b, &l, 0, s->hidden, 2 * s->inter);
    make_half(b, &l, 1, s->inter, s->hidden);
    l.x = random_floats(b, (size_t)most * h);
    l.y = take(b, rows * h * sizeof(float));
    l.t = take(b, (size_t)most * h * sizeof(float));
    l.weights = random_floats(b, rows);
    l.work = take(b, ccq_gpu_wint2(b->gpu)->work(b->gpu, s->experts, s->hidden, s->inter,
                                                 (int64_t)rows));
    for (int i = 0; i < BATCHES && batches[i] <= most; i++)
        for (int skewed = 0; skewed < 2; skewed++) {
            l.batch = batches[i];
            measure_batch(b, &l, skewed);
        }
    void *all[] = {l.x, l.y, l.t, l.weights, l.work, l.memory[0], l.memory[1], l.device[0],
                   l.device[1]};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        ccq_gpu_free(b->gpu, all[i]);
    free(l.host[0]);
    free(l.host[1]);
}

int main(int argc, char **argv)
{
    bench b = {.samples = SAMPLES};
    char why[CCQ_GPU_TEXT];
    int kind = CCQ_GPU_CUDA;
    for (int i = 1; i < argc; i++) {
        b.json |= !strcmp(argv[i], "--json");
        b.quick |= !strcmp(argv[i], "--quick");
        if (!strcmp(argv[i], "--device") && i + 1 < argc && !strcmp(argv[i + 1], "host"))
            kind = CCQ_GPU_HOST;
    }
    b.rng = check_seed(7);
    if (ccq_gpu_open(kind, 0, &b.gpu, why)) {
        printf("%s\n", why);
        return 77;
    }
    if (kind == CCQ_GPU_HOST) {
        b.quick = 1;
        b.samples = 3;
    }
    if (!b.json)
        printf("device: %s\n", ccq_gpu_describe(b.gpu)->name);
    measure_copy(&b);
    measure_matmul(&b);
    measure_encoder(&b);
    if (b.quick)
        measure_layer(&b, &small);
    for (size_t i = 0; !b.quick && i < sizeof shapes / sizeof *shapes; i++)
        measure_layer(&b, &shapes[i]);
    measure_copy(&b); /* once more: is it the same machine still? */
    ccq_gpu_close(b.gpu);
    return check_done();
}
