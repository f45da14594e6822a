/* Kernels of a device by the rules of docs/performance.md, "On a GPU":
 *
 *     bench_gpu [--device host] [--quick] [--json [FILE]]
 *
 * A table goes to standard output; --json FILE writes lines of JSON there as well, --json alone
 * writes them to standard output in place of the table. Memory is copied and read and matrices
 * are multiplied first: what the rest is told in fractions of. Codes, local scales and
 * activations are random; the seed is told. Each figure is the median of many replays, with the
 * tenth and the ninetieth percentile. */
#include "kernels/gpu_model.h"
#include "tests/bench_gpu.h"

/* ---- Memory --------------------------------------------------------------------- */

static void tell_rate(const bench *b, const char *what, const char *shown, const char *key,
                      double rate, double unit, const char *unit_name, const sample *s)
{
    say(b, "%-26s %9.1f %s", shown, rate / unit, unit_name);
    say_sample(b, s);
    say(b, "\n");
    say_clocks(b, s->before, s->after);
    json_begin(b, what);
    json_number(b, key, rate);
    json_sample(b, s);
    json_end(b);
}

typedef struct copying {
    void *memory[2];
    size_t size;
} copying;

static void copy_once(bench *b, void *ctx, int turn)
{
    copying *c = ctx;
    GPU(b, ccq_gpu_copy(b->gpu, c->memory[turn], c->memory[!turn], c->size));
}

static void measure_copy(bench *b)
{
    copying c = {.size = b->quick ? (size_t)4 << 20 : (size_t)1 << 30};
    c.memory[0] = random_bytes(b, c.size, NULL);
    c.memory[1] = random_bytes(b, c.size, NULL);
    sample s = measure(b, &(timed){copy_once, &c, 2, 0, 0});
    b->copy = 2e3 * (double)c.size / (double)s.median;
    ccq_gpu_free(b->gpu, c.memory[0]);
    ccq_gpu_free(b->gpu, c.memory[1]);
    tell_rate(b, "copy", "copy, read and written", "bytes_per_s", b->copy, 1e9, "GB/s   ", &s);
}

static void read_once(bench *b, void *ctx, int turn)
{
    (void)turn;
    GPU(b, ccq_gpu_model(b->gpu)->read(b->gpu, ctx));
}

static void check_read(bench *b, const ccq_gpu_read *p, uint32_t want)
{
    size_t count = p->size / CCQ_GPU_READ;
    uint32_t *got = malloc(count * sizeof *got), all = 0;
    REQUIRE(got, "out of memory");
    GPU(b, ccq_gpu_download(b->gpu, got, p->to, count * sizeof *got));
    for (size_t i = 0; i < count; i++)
        all ^= got[i];
    CHECK(all == want, "not all memory was read: %08x, %08x wanted", (unsigned)all,
          (unsigned)want);
    free(got);
}

static void measure_read(bench *b)
{
    uint32_t want = 0;
    ccq_gpu_read p = {.size = b->quick ? (size_t)4 << 20 : (size_t)1 << 30};
    void *memory = random_bytes(b, p.size, &want);
    p.from = memory;
    p.to = take(b, p.size / CCQ_GPU_READ * sizeof *p.to);
    sample s = measure(b, &(timed){read_once, &p, 1, 0, 0});
    b->read = 1e3 * (double)p.size / (double)s.median;
    check_read(b, &p, want);
    ccq_gpu_free(b->gpu, memory);
    ccq_gpu_free(b->gpu, p.to);
    tell_rate(b, "read", "read alone", "bytes_per_s", b->read, 1e9, "GB/s   ", &s);
}

/* ---- Products ------------------------------------------------------------------- */

static void multiply_once(bench *b, void *ctx, int turn)
{
    (void)turn;
    GPU(b, ccq_gpu_model(b->gpu)->dense(b->gpu, ctx));
}

/* The better of both layouts of the weights counts. */
static void measure_matmul(bench *b)
{
    int64_t n = b->quick ? 128 : 8192, rows = b->quick ? 32 : 16384;
    uint16_t *x = random_bf16(b, (size_t)(rows * n)), *w = random_bf16(b, (size_t)(n * n));
    float *y = take(b, (size_t)(rows * n) * sizeof *y);
    for (int along_k = 0; along_k < 2; along_k++) {
        ccq_gpu_dense p = {.along_k = along_k, .x = x, .w = w, .ldx = n, .rows = rows, .k = n,
                           .columns = n, .y = y, .ldy = n};
        sample s = measure(b, &(timed){multiply_once, &p, 1, 0, 0});
        double rate = 2e3 * (double)n * (double)n * (double)rows / (double)s.median;
        b->mm = rate > b->mm ? rate : b->mm;
        tell_rate(b, along_k ? "matmul_nk" : "matmul_kn",
                  along_k ? "bf16 product, weights nk" : "bf16 product, weights kn", "flop_per_s",
                  rate, 1e12, "TFLOP/s", &s);
    }
    ccq_gpu_free(b->gpu, x);
    ccq_gpu_free(b->gpu, w);
    ccq_gpu_free(b->gpu, y);
}

/* ---- The program ------------------------------------------------------------------ */

static void tell_device(const bench *b, uint64_t seed)
{
    const ccq_gpu_info *d = ccq_gpu_describe(b->gpu);
    char text[32];
    snprintf(text, sizeof text, "%d.%d", d->major, d->minor);
    say(b, "device: %s, %s, %d multiprocessors, L2 %.0f MB; driver %s, CUDA %s\n", d->name, text,
        d->multiprocessors, (double)d->l2 / 1e6, b->clocks ? clocks_driver(b->clocks) : "unknown",
        b->clocks ? clocks_cuda(b->clocks) : "unknown");
    say(b, "seed: CCQ_SEED=%" PRIu64 "\n", seed);
    say(b, "ms: median (10th and 90th percentile; samples)\n");
    json_begin(b, "device");
    json_text(b, "device", d->name);
    json_text(b, "capability", text);
    json_number(b, "multiprocessors", d->multiprocessors);
    json_number(b, "memory_bytes", (double)d->memory);
    json_number(b, "l2_bytes", (double)d->l2);
    json_text(b, "driver", clocks_driver(b->clocks));
    json_text(b, "cuda", clocks_cuda(b->clocks));
    snprintf(text, sizeof text, "%" PRIu64, seed); /* 64 bits are no number of JSON */
    json_text(b, "seed", text);
    json_number(b, "quick", b->quick);
    json_end(b);
}

static FILE *lines_to(const char *path)
{
    FILE *f = fopen(path, "w");
    REQUIRE(f, "%s cannot be written", path);
    return f;
}

/* Returns the kind of device. */
static int take_options(bench *b, int argc, char **argv)
{
    int kind = CCQ_GPU_CUDA;
    b->table = stdout;
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc && argv[i + 1][0] != '-' ? argv[i + 1] : NULL;
        if (!strcmp(argv[i], "--quick")) {
            b->quick = 1;
            continue;
        }
        if (!strcmp(argv[i], "--json")) {
            b->json = value ? lines_to(value) : stdout;
            b->table = value ? stdout : NULL;
        } else {
            REQUIRE(!strcmp(argv[i], "--device") && value,
                    "usage: bench_gpu [--device host|cuda] [--quick] [--json [FILE]]");
            kind = strcmp(value, "host") ? CCQ_GPU_CUDA : CCQ_GPU_HOST;
        }
        i += value != NULL;
    }
    return kind;
}

int main(int argc, char **argv)
{
    bench b = {.warm = WARM, .samples = SAMPLES};
    char why[CCQ_GPU_TEXT];
    const char *given = getenv("CCQ_SEED");
    uint64_t seed = given ? strtoull(given, NULL, 0) : 7;
    int kind = take_options(&b, argc, argv);
    b.rng = seed;
    if (ccq_gpu_open(kind, 0, &b.gpu, why)) {
        fprintf(stderr, "%s\n", why);
        return 77;
    }
    if (kind == CCQ_GPU_HOST) {
        b.host = b.quick = 1;
        b.warm = 0;
        b.samples = 2;
    }
    b.clocks = clocks_open(ccq_gpu_describe(b.gpu)->name);
    tell_device(&b, seed);
    measure_copy(&b);
    measure_read(&b);
    measure_matmul(&b);
    measure_encoder(&b);
    measure_layers(&b);
    measure_copy(&b); /* once more: is it the same machine still? */
    clocks_close(b.clocks);
    ccq_gpu_close(b.gpu);
    if (b.json && b.json != stdout)
        CHECK(!fclose(b.json), "JSON could not be written");
    return check_done();
}
