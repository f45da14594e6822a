/* The time of what is done again and again; memory with random contents. */
#include "kernels/code.h"
#include "tests/bench_gpu.h"

/* ---- Time --------------------------------------------------------------------- */

static int compare(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

typedef struct run {
    bench *b;
    const timed *t;
    ccq_gpu_graph *graph[MOST_TURNS];
    int turn;
} run;

static int repeats(const timed *t)
{
    return t->repeat ? t->repeat : 1;
}

static void once(run *r)
{
    if (r->graph[r->turn])
        GPU(r->b, ccq_gpu_replay(r->b->gpu, r->graph[r->turn]));
    else
        for (int i = 0; i < repeats(r->t); i++)
            r->t->fn(r->b, r->t->ctx, r->turn);
    r->turn = (r->turn + 1) % r->t->turns;
}

static void record(run *r)
{
    bench *b = r->b;
    for (int t = 0; t < r->t->turns; t++) {
        r->t->fn(b, r->t->ctx, t); /* what is set up at first use is not recorded */
        GPU(b, ccq_gpu_wait(b->gpu));
        GPU(b, ccq_gpu_record(b->gpu));
        for (int i = 0; i < repeats(r->t); i++)
            r->t->fn(b, r->t->ctx, t);
        GPU(b, ccq_gpu_recorded(b->gpu, &r->graph[t]));
    }
}

/* Samples without waits in between. On a device the first is none: its work may reach the
 * device later than its mark. */
enum { BURST = CCQ_GPU_MARKS / 2 - 1 };

static void burst(run *r, int samples, float *ms)
{
    bench *b = r->b;
    int drop = !b->host;
    for (int i = 0; i < samples + drop; i++) {
        GPU(b, ccq_gpu_mark(b->gpu, 2 * i));
        once(r);
        GPU(b, ccq_gpu_mark(b->gpu, 2 * i + 1));
    }
    for (int i = 0; i < samples; i++) {
        int mark = 2 * (i + drop);
        GPU(b, ccq_gpu_between(b->gpu, mark, mark + 1, &ms[i]));
        ms[i] /= (float)repeats(r->t);
    }
}

/* The number of samples to be taken. */
static int warm_up(run *r)
{
    float ms[BURST];
    if (!r->b->warm)
        return r->b->samples;
    burst(r, 2, ms);
    if (ms[1] * (float)repeats(r->t) > SLOW_MS)
        return r->b->samples < SLOW_SAMPLES ? r->b->samples : SLOW_SAMPLES;
    burst(r, r->b->warm, ms);
    return r->b->samples;
}

sample measure(bench *b, const timed *t)
{
    run r = {.b = b, .t = t};
    float ms[SAMPLES];
    sample s = {0};
    REQUIRE(t->turns <= MOST_TURNS, "%d turns", t->turns);
    if (t->recorded && !b->host)
        record(&r);
    s.samples = warm_up(&r);
    s.before = clocks_now(b->clocks);
    for (int done = 0; done < s.samples; done += BURST)
        burst(&r, s.samples - done < BURST ? s.samples - done : BURST, ms + done);
    s.after = clocks_now(b->clocks);
    for (int i = 0; i < t->turns; i++)
        ccq_gpu_graph_free(b->gpu, r.graph[i]);
    qsort(ms, (size_t)s.samples, sizeof *ms, compare);
    s.p10 = ms[s.samples / 10];
    s.median = ms[s.samples / 2];
    s.p90 = ms[s.samples * 9 / 10];
    return s;
}

/* ---- Random contents ------------------------------------------------------------ */

void *copy_of(bench *b, const void *from, size_t size)
{
    void *to = take(b, size);
    GPU(b, ccq_gpu_upload(b->gpu, to, from, size));
    return to;
}

static void *host_memory(size_t size)
{
    void *memory = malloc(size + 8);
    REQUIRE(memory, "out of memory");
    return memory;
}

static void *given(bench *b, void *host, size_t size)
{
    void *memory = copy_of(b, host, size);
    free(host);
    return memory;
}

void *random_bytes(bench *b, size_t size, uint32_t *all)
{
    uint64_t *host = host_memory(size), sum = 0;
    for (size_t i = 0; i < size / 8 + 1; i++)
        host[i] = check_next(&b->rng);
    for (size_t i = 0; i < size / 8; i++)
        sum ^= host[i];
    if (all)
        *all = (uint32_t)(sum ^ sum >> 32);
    return given(b, host, size);
}

uint8_t *random_locals(bench *b, size_t size)
{
    uint8_t *host = host_memory(size);
    for (size_t i = 0; i < size; i++) {
        uint32_t draw = (uint32_t)(check_next(&b->rng) >> 40);
        host[i] = (uint8_t)((1 + draw % 15) << 4 | (1 + (draw >> 12) % 15));
    }
    return given(b, host, size);
}

static float gauss(bench *b)
{
    double u = 1 - check_uniform(&b->rng), v = check_uniform(&b->rng);
    return (float)(sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
}

/* A few thousand draws, in an order of their own. */
enum { DRAWS = 8191 };

static uint16_t draw_at(const uint16_t draw[DRAWS], size_t i)
{
    return draw[(i * 2654435761u >> 7) % DRAWS];
}

static void draw_all(bench *b, uint16_t draw[DRAWS])
{
    for (int i = 0; i < DRAWS; i++)
        draw[i] = ccq_f32_to_bf16(gauss(b));
}

float *random_floats(bench *b, size_t count)
{
    uint16_t draw[DRAWS];
    float *host = host_memory(count * sizeof *host);
    draw_all(b, draw);
    for (size_t i = 0; i < count; i++)
        host[i] = ccq_bf16_to_f32(draw_at(draw, i));
    return given(b, host, count * sizeof *host);
}

uint16_t *random_bf16(bench *b, size_t count)
{
    uint16_t draw[DRAWS], *host = host_memory(count * sizeof *host);
    draw_all(b, draw);
    for (size_t i = 0; i < count; i++)
        host[i] = draw_at(draw, i);
    return given(b, host, count * sizeof *host);
}
