/* Steps of an expert layer: the products alone, with the reduction, and all there is from the
 * router on; by every way that the kernels know. */
#include "tests/bench_gpu_layer.h"

static const shape shapes[] = {
    {"300B", 8192, 3584, 64, 8},
    {"21B", 2560, 1536, 64, 6},
};
static const shape small = {"small", 256, 128, 4, 2};
/* The last one is for the dequantized way, which a device goes by itself from 1000 rows an
 * expert on; not skewed. */
static const int64_t batches[] = {1, 4, 16, 32, 64, 128, 256, 1024, 4096, 16384};
enum { BATCHES = sizeof batches / sizeof *batches, SMALL_BATCHES = 2, TOGETHER = 16 };
enum { FEW_MOST = 1024, WIDE_LEAST = 128, DENSE_LEAST = 1024 }; /* batches that are tried */

/* ---- What is measured -------------------------------------------------------------- */

static void route_once(bench *b, void *ctx, int turn)
{
    const layer *l = ctx;
    const shape *s = l->s;
    ccq_gpu_router p = {l->x, l->router, l->bias, l->batch, s->hidden, s->experts, s->k, 1, 0,
                        l->router_ids, l->router_weights, l->margin, l->nan, l->router_work};
    (void)turn;
    GPU(b, ccq_gpu_model(b->gpu)->router(b->gpu, &p));
}

static void sort_once(bench *b, void *ctx, int turn)
{
    const layer *l = ctx;
    const routing *r = &l->r[turn];
    ccq_gpu_sort p = {r->ids, l->batch, l->s->experts, l->s->k, 1, 0, r->start, r->place, r->from};
    GPU(b, ccq_gpu_model(b->gpu)->sort(b->gpu, &p));
}

static ccq_gpu_experts experts_of(const layer *l, int turn)
{
    const shape *s = l->s;
    const routing *r = &l->r[turn];
    const weights *w = &l->w[turn % l->copies];
    return (ccq_gpu_experts){
        .up_gate = w->device[0], .down = w->device[1], .host_up_gate = w->host[0],
        .host_down = w->host[1], .experts = s->experts, .hidden = s->hidden, .inter = s->inter,
        .x = l->x, .ldx = s->hidden, .start = r->start, .from = r->from, .rows = l->batch * s->k,
        .most = l->batch, .rounding = l->rounding, .round = 1, .order = CCQ_ORDER_FASTDEPLOY,
        .large = l->way, .y = l->y, .work = l->work};
}

static void experts_once(bench *b, void *ctx, int turn)
{
    const ccq_gpu_experts p = experts_of(ctx, turn);
    GPU(b, ccq_gpu_wint2(b->gpu)->experts(b->gpu, &p));
}

static void reduced_once(bench *b, void *ctx, int turn)
{
    const layer *l = ctx;
    ccq_gpu_combine p = {l->y, l->weights, l->r[turn].place, l->batch, l->s->k, l->s->hidden, 1,
                         0, l->rounding == CCQ_ROUND_FUSED, l->t};
    experts_once(b, ctx, turn);
    GPU(b, ccq_gpu_model(b->gpu)->combine(b->gpu, &p));
}

/* The router's choice is put aside: rows go where the routing of the turn says. */
static void moe_once(bench *b, void *ctx, int turn)
{
    route_once(b, ctx, turn);
    sort_once(b, ctx, turn);
    reduced_once(b, ctx, turn);
}

/* ---- What is told ------------------------------------------------------------------- */

static void tell_step(const bench *b, const layer *l, int skewed)
{
    json_text(b, "model", l->s->name);
    json_number(b, "batch", (double)l->batch);
    json_text(b, "routing", skewed ? "zipf" : "uniform");
    json_number(b, "active", l->active);
    json_number(b, "most", l->most);
    json_number(b, "turns", l->turns);
}

static const char *way_name(int way)
{
    return way == CCQ_GPU_WAY_DENSE ? "dequant" : way == CCQ_GPU_WAY_WIDE ? "wgmma" : "few";
}

static const char *rounding_name(int rounding)
{
    return rounding == CCQ_ROUND_FUSED ? "fused" : "none";
}

static void tell_experts(const bench *b, const layer *l, int skewed, const char *what,
                         const char *shown, const sample *s)
{
    double bytes = l->active * l->expert_bytes, seconds = 1e-3 * (double)s->median, least;
    double flop = 6.0 * (double)(l->batch * l->s->k) * (double)(l->s->hidden * l->s->inter);
    double of_copy = bytes / seconds / b->copy, of_mm = flop / seconds / b->mm;
    least = of_copy > of_mm ? of_copy : of_mm;
    say(b, "  %-5s %-7s %-39s", rounding_name(l->rounding), way_name(l->way), shown);
    say_sample(b, s);
    say(b, "  %.3f BW %.3f read %.3f MM  %.2f of the floor\n", of_copy, bytes / seconds / b->read,
        of_mm, least);
    json_begin(b, what);
    tell_step(b, l, skewed);
    json_text(b, "rounding", rounding_name(l->rounding));
    json_text(b, "way", way_name(l->way));
    json_number(b, "copies", l->copies);
    json_number(b, "reuse_bytes", l->reuse_bytes);
    json_number(b, "bytes", bytes);
    json_number(b, "flop", flop);
    json_number(b, "of_bw", of_copy);
    json_number(b, "of_read", bytes / seconds / b->read);
    json_number(b, "of_mm", of_mm);
    json_number(b, "of_floor", least);
    json_sample(b, s);
    json_end(b);
}

/* Too short for a launch of its own: many in a graph. */
static sample measure_short(bench *b, layer *l, int skewed, const char *what, int sorts)
{
    timed t = {sorts ? sort_once : route_once, l, l->turns, 1, b->host ? 1 : TOGETHER};
    sample s = measure(b, &t);
    say(b, "  %-53s", what);
    say_sample(b, &s);
    say(b, "\n");
    json_begin(b, what);
    tell_step(b, l, skewed);
    json_number(b, "repeat", t.repeat);
    json_sample(b, &s);
    json_end(b);
    return s;
}

/* ---- All of it ------------------------------------------------------------------------ */

/* Whether this way is tried at this batch, and the device goes it. */
static int goes(bench *b, layer *l, int rounding, int way)
{
    l->rounding = rounding;
    l->way = way;
    const ccq_gpu_experts p = experts_of(l, 0);
    if (way == CCQ_GPU_WAY_FEW ? l->batch > FEW_MOST
                               : !b->quick && l->batch < (way == CCQ_GPU_WAY_WIDE ? WIDE_LEAST
                                                                                  : DENSE_LEAST))
        return 0;
    return ccq_gpu_wint2(b->gpu)->way(b->gpu, &p) == way;
}

static sample measure_way(bench *b, layer *l, int skewed)
{
    static const struct {
        const char *what, *shown;
        void (*fn)(bench *b, void *ctx, int turn);
    } lines[] = {
        {"experts", "experts (both products, swiglu fused)", experts_once},
        {"experts+reduce", "+ reduce", reduced_once},
        {"moe", "whole: router, sort, experts, reduce", moe_once},
    };
    int recorded = l->way != CCQ_GPU_WAY_DENSE; /* which waits inside */
    sample s = {0};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        s = measure(b, &(timed){lines[i].fn, l, l->turns, recorded, 0});
        tell_experts(b, l, skewed, lines[i].what, lines[i].shown, &s);
    }
    return s;
}

static void measure_batch(bench *b, layer *l, int skewed)
{
    static const int roundings[] = {CCQ_ROUND_FUSED, CCQ_ROUND_NONE};
    static const int ways[] = {CCQ_GPU_WAY_FEW, CCQ_GPU_WAY_WIDE, CCQ_GPU_WAY_DENSE};
    layer_route(b, l, skewed);
    say(b, "%s, batch %d, %s: %.1f experts active, one has up to %.0f rows, %.1f MB\n", l->s->name,
        (int)l->batch, skewed ? "zipf" : "uniform", l->active, l->most,
        l->active * l->expert_bytes / 1e6);
    bench_clock before = clocks_now(b->clocks), after;
    measure_short(b, l, skewed, "sort", 1);
    after = measure_short(b, l, skewed, "router", 0).after;
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 3; j++)
            if (goes(b, l, roundings[i], ways[j]))
                after = measure_way(b, l, skewed).after;
    say_clocks(b, before, after);
    layer_free_routings(b, l);
}

static void measure_layer(bench *b, const shape *s, int count)
{
    layer *l = malloc(sizeof *l);
    uint64_t room = 0;
    REQUIRE(l, "out of memory");
    GPU(b, ccq_gpu_room(b->gpu, &room));
    for (; count > 1 && layer_bytes(b, l, s, batches[count - 1]) > 0.95 * (double)room; count--)
        say(b, "%s: no memory for batch %d\n", s->name, (int)batches[count - 1]);
    layer_make(b, l, s, batches[count - 1]);
    say(b, "%s: %d routings take turns over %d copies of the layer: %.0f MB at least between two "
           "uses of a weight, wanted 4 L2 = %.0f MB; gather is part of experts\n",
        s->name, l->turns, l->copies, l->reuse_bytes / 1e6, l->want_bytes / 1e6);
    for (int i = 0; i < count; i++)
        for (int skewed = 0; skewed < (i < BATCHES - 1 ? 2 : 1); skewed++) {
            l->batch = batches[i];
            measure_batch(b, l, skewed);
        }
    layer_free(b, l);
    free(l);
}

void measure_layers(bench *b)
{
    if (!ccq_gpu_wint2(b->gpu)) {
        say(b, "this device has no kernels for wint2 experts\n");
        return;
    }
    if (b->quick)
        measure_layer(b, &small, SMALL_BATCHES);
    for (size_t i = 0; !b->quick && i < sizeof shapes / sizeof *shapes; i++)
        measure_layer(b, &shapes[i], BATCHES);
}
