/* --bench: tokens a second, where the time goes, and how near the machine's memory. */
#include "tools/run.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

enum { DEFAULT_CONTEXT = 512, MAX_BATCH = 4096 };

/* "1,8,32" to o->bench_batch. */
int run_bench_batches(cli *c, run_options *o)
{
    const char *p = c->value;

    o->bench_batches = 0;
    do {
        char *end;
        errno = 0;
        long long n = *p >= '0' && *p <= '9' ? strtoll(p, &end, 10) : 0;
        if (n < 1 || n > MAX_BATCH || errno || (*end && *end != ',') ||
            o->bench_batches == RUN_MAX_BENCH) {
            cli_error(c, "--bench-batch: up to %d numbers of 1..%d separated by commas are wanted",
                      RUN_MAX_BENCH, MAX_BATCH);
            return -1;
        }
        o->bench_batch[o->bench_batches++] = n;
        p = *end ? end + 1 : NULL;
    } while (p);
    return 0;
}

ccq_code run_check_bench(run *r, ccq_error *err)
{
    run_options *o = r->o;
    int64_t most = r->src->arch.max_position - 1;

    if (!o->bench_batches)
        for (int64_t n = 1; n <= 32; n *= n == 1 ? 8 : 4)
            o->bench_batch[o->bench_batches++] = n;
    if (!o->bench_context)
        o->bench_context = most < DEFAULT_CONTEXT ? most : DEFAULT_CONTEXT;
    if (o->bench_context < 1 || o->bench_context > most)
        return ccq_fail(err, CCQ_USAGE,
                        "--bench-context %" PRId64 ": the model has a context of %" PRId64
                        ", one of which is for the next token",
                        o->bench_context, most + 1);
    return CCQ_OK;
}

static void count_memory(run *r, const ccq_bench *b)
{
    r->cache_bytes = b->cache_bytes > r->cache_bytes ? b->cache_bytes : r->cache_bytes;
    r->work_bytes = b->work_bytes > r->work_bytes ? b->work_bytes : r->work_bytes;
}

/* Of the memory that holds the weights. */
static double memory_rate(const run *r)
{
    return r->gpu ? ccq_bench_copy_rate(r->gpu) : ccq_bench_read_rate(r->pool);
}

ccq_code run_bench(run *r, ccq_error *err)
{
    const run_options *o = r->o;
    int64_t chunk = o->prefill_rows ? o->prefill_rows : CCQ_PREFILL_ROWS;
    double again;
    ccq_code code;

    r->read_rate = memory_rate(r);
    cli_note(r->cli, "prefill of %" PRId64 " tokens", o->bench_context);
    code = ccq_bench_prefill(r->model, o->bench_context, chunk, &r->bench_prefill, err);
    count_memory(r, &r->bench_prefill);
    for (size_t i = 0; !code && i < o->bench_batches; i++) {
        cli_note(r->cli, "decode of %" PRId64 " sequences", o->bench_batch[i]);
        code = ccq_bench_decode(r->model, o->bench_batch[i], o->bench_context, &r->bench_decode[i],
                                err);
        count_memory(r, &r->bench_decode[i]);
    }
    again = memory_rate(r);
    r->read_rate = again > r->read_rate ? again : r->read_rate;
    return code;
}

/* ---- What came out ---------------------------------------------------------------- */

static uint64_t bytes_of(const ccq_bench *b)
{
    uint64_t sum = 0;

    for (int i = 0; i < CCQ_STEP_PARTS; i++)
        sum += b->spent.bytes[i];
    return sum;
}

/* NAN, which JSON leaves out, where there is nothing to divide by. */
static double over(double a, double b)
{
    return b > 0 ? a / b : NAN;
}

static void write_one(ccq_jw *w, const run *r, const ccq_bench *b)
{
    double steps = (double)b->steps, rate = over((double)bytes_of(b), b->seconds);

    ccq_jw_object(w);
    ccq_jw_ki64(w, "batch", b->batch);
    ccq_jw_ku64(w, "steps", b->steps);
    ccq_jw_ku64(w, "tokens", b->tokens);
    ccq_jw_kdouble(w, "tokens_per_s", over((double)b->tokens, b->seconds));
    ccq_jw_kdouble(w, "step_s", over(b->seconds, steps));
    ccq_jw_ku64(w, "bytes_per_step", bytes_of(b) / b->steps);
    ccq_jw_kdouble(w, "bytes_per_s", rate);
    ccq_jw_kdouble(w, "bandwidth_fraction", over(rate, r->read_rate));
    ccq_jw_key(w, "parts");
    ccq_jw_object(w);
    for (int i = 0; i < CCQ_STEP_PARTS; i++) {
        ccq_jw_key(w, ccq_step_part_name((ccq_step_part)i));
        ccq_jw_object(w);
        ccq_jw_kdouble(w, "step_s", over(b->spent.seconds[i], steps));
        ccq_jw_ku64(w, "bytes_per_step", b->spent.bytes[i] / b->steps);
        ccq_jw_end(w);
    }
    ccq_jw_end(w);
    ccq_jw_end(w);
}

void run_write_bench(ccq_jw *w, const run *r)
{
    ccq_jw_key(w, "bench");
    ccq_jw_object(w);
    ccq_jw_ki64(w, "context", r->o->bench_context);
    ccq_jw_kdouble(w, "read_bytes_per_s", r->read_rate > 0 ? r->read_rate : NAN);
    ccq_jw_key(w, "prefill");
    write_one(w, r, &r->bench_prefill);
    ccq_jw_key(w, "decode");
    ccq_jw_array(w);
    for (size_t i = 0; i < r->o->bench_batches; i++)
        write_one(w, r, &r->bench_decode[i]);
    ccq_jw_end(w);
    ccq_jw_end(w);
}

static void print_one(const run *r, const char *what, const ccq_bench *b)
{
    double rate = over((double)bytes_of(b), b->seconds);
    char bytes[16];

    printf("%-8s %6" PRId64 " %11.1f %10.3f %11s %6.3f ", what, b->batch,
           over((double)b->tokens, b->seconds), 1e3 * over(b->seconds, (double)b->steps),
           cli_bytes(bytes, sizeof bytes, bytes_of(b) / b->steps), over(rate, r->read_rate));
    for (int i = 0; i < CCQ_STEP_PARTS; i++)
        printf(" %8.1f%%", 100 * over(b->spent.seconds[i], b->seconds));
    putchar('\n');
}

void run_print_bench(const run *r)
{
    printf("====== Benchmark ======\n");
    printf("context %" PRId64 ", %s, %d threads, memory %s at %.2f GB/s\n", r->o->bench_context,
           r->device, ccq_pool_threads(r->pool), r->gpu ? "copied" : "read", r->read_rate / 1e9);
    printf("%-8s %6s %11s %10s %11s %6s ", "", "batch", "tokens/s", "ms/step", "bytes/step",
           "of it");
    for (int i = 0; i < CCQ_STEP_PARTS; i++)
        printf(" %9s", ccq_step_part_name((ccq_step_part)i));
    putchar('\n');
    print_one(r, "prefill", &r->bench_prefill);
    for (size_t i = 0; i < r->o->bench_batches; i++)
        print_one(r, "decode", &r->bench_decode[i]);
}
