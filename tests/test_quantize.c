/* The job seen from inside: a cancelled or failed run leaves nothing, progress
 * only grows, the manifest tells every flipped bit. */
#include "tests/check.h"

#include "formats/file.h"
#include "libccq/manifest.h"
#include "libccq/quantize.h"

#include <math.h>
#include <zlib.h>

typedef struct watch {
    size_t stop_after; /* tensors; SIZE_MAX: never */
    size_t tensors;
    ccq_progress last;
    int shrank;
} watch;

static int cancelled(void *ctx)
{
    const watch *w = ctx;
    return w->tensors >= w->stop_after;
}

static void progress(void *ctx, const ccq_progress *p)
{
    watch *w = ctx;
    w->shrank |= p->tensors < w->last.tensors || p->bytes_in < w->last.bytes_in ||
                 p->bytes_out < w->last.bytes_out;
    w->last = *p;
}

static void tensor(void *ctx, size_t i, const ccq_outcome *o)
{
    watch *w = ctx;
    (void)o;
    CHECK(i == w->tensors, "tensor %zu after %zu", i, w->tensors);
    w->tensors++;
}

typedef struct fixture {
    ccq_source *src;
    ccq_pool *pool;
    ccq_ops ops;
    char dir[64], out[80];
    int resume, overwrite;
} fixture;

static ccq_code quantize(fixture *f, int layer, watch *w, ccq_plan **plan, ccq_quantize_result *r)
{
    ccq_error err;
    ccq_quantize_options o;
    ccq_quantize_defaults(&o);
    o.effort = CCQ_EFFORT_FAST;
    o.w4_end_layer = layer;
    o.resume = f->resume;
    o.overwrite = f->overwrite;
    REQUIRE(!ccq_plan_make(plan, f->src, &o, f->out, &err), "%s", err.text);
    ccq_quantize_run_options run = {.pool = f->pool, .ops = &f->ops, .ctx = w,
                                    .cancelled = cancelled, .progress = progress,
                                    .tensor = tensor};
    return ccq_quantize_run(*plan, &run, r, &err);
}

static uint32_t crc_of_tensor(const ccq_checkpoint *ck, const ccq_tensor *t)
{
    uint8_t *data = malloc(t->bytes ? t->bytes : 1);
    ccq_error err;
    REQUIRE(data && !ccq_checkpoint_read(ck, t, 0, data, t->bytes, &err), "%s", t->name);
    uint32_t crc = (uint32_t)crc32_z(0, data, t->bytes);
    free(data);
    return crc;
}

/* Every recorded tensor CRC is that of the bytes on disk, and none is missing. */
static void check_manifest_of_tensors(const fixture *f)
{
    ccq_error err;
    ccq_manifest *m;
    ccq_checkpoint *ck;
    REQUIRE(!ccq_manifest_load(&m, f->out, &err) && m, "%s", err.text);
    REQUIRE(!ccq_checkpoint_open(&ck, f->out, &err), "%s", err.text);
    CHECK(m->tensors.count == ccq_checkpoint_count(ck), "%zu tensors", m->tensors.count);
    for (size_t i = 0; i < ccq_checkpoint_count(ck); i++) {
        const ccq_tensor *t = ccq_checkpoint_at(ck, i);
        const ccq_manifest_item *item = ccq_manifest_find(&m->tensors, t->name);
        CHECK(item && item->crc == crc_of_tensor(ck, t), "%s", t->name);
    }
    for (size_t i = 0; i < ccq_checkpoint_shards(ck); i++) {
        const ccq_shard *s = ccq_checkpoint_shard(ck, i);
        const ccq_manifest_item *item = ccq_manifest_find(&m->shards, s->name);
        CHECK(item && item->crc == s->header_crc && item->bytes == s->size, "%s", s->name);
    }
    CHECK(!ccq_manifest_find(&m->files, "nothing"), "a file that is not there");
    CHECK(ccq_manifest_find(&m->files, "config.json") != NULL, "config.json");
    ccq_checkpoint_close(ck);
    ccq_manifest_free(m);
}

static void put_file(const char *path, const char *text, size_t size)
{
    FILE *out = fopen(path, "wb");
    REQUIRE(out && fwrite(text, 1, size, out) == size && !fclose(out), "%s", path);
}

/* One bit anywhere in the manifest itself, its last bytes all the more. */
static void check_manifest_flips(const fixture *f)
{
    char *path = ccq_path_join(f->out, CCQ_MANIFEST_NAME), *text = NULL;
    size_t size = 0;
    ccq_error err;
    uint64_t state = check_seed(0x5EED);
    REQUIRE(path && !ccq_file_load(path, 1 << 24, CCQ_NO_INPUT, &text, &size, &err), "manifest");
    for (size_t i = 0; i < 300; i++) {
        size_t at = i < 24 ? size - 1 - i : (size_t)(check_next(&state) % size);
        int bit = (int)(check_next(&state) % 8);
        text[at] = (char)(text[at] ^ 1 << bit);
        put_file(path, text, size);
        ccq_manifest *m;
        ccq_code code = ccq_manifest_load(&m, f->out, &err);
        CHECK(code == CCQ_MANIFEST, "bit %d of byte %zu of %zu: %s", bit, at, size,
              ccq_code_name(code));
        ccq_manifest_free(m);
        text[at] = (char)(text[at] ^ 1 << bit);
    }
    put_file(path, text, size / 2);
    ccq_manifest *m;
    CHECK(ccq_manifest_load(&m, f->out, &err) == CCQ_MANIFEST, "half of it");
    remove(path);
    CHECK(!ccq_manifest_load(&m, f->out, &err) && !m, "none");
    free(text);
    free(path);
}

static void remove_output(const fixture *f)
{
    char **names;
    size_t count;
    REQUIRE(!ccq_dir_list(f->out, &names, &count, NULL), "%s", f->out);
    for (size_t i = 0; i < count; i++) {
        char *path = ccq_path_join(f->out, names[i]);
        remove(path);
        free(path);
    }
    ccq_names_free(names, count);
    CHECK(!rmdir(f->out), "%s is not empty", f->out);
}

/* Broken off after any tensor, begun anew or gone on with. */
static void check_cancel(fixture *f)
{
    size_t stops[] = {0, 1, 40, 88};
    watch w = {.stop_after = SIZE_MAX, .tensors = 88}; /* the last of them are done */
    ccq_plan *plan;
    ccq_quantize_result r;
    for (size_t i = 0; i < sizeof stops / sizeof *stops; i++) {
        watch stop = {.stop_after = stops[i]};
        char work[100];
        ccq_code code = quantize(f, 1, &stop, &plan, &r);
        CHECK(code == CCQ_INTERRUPTED, "stop after %zu: %s", stops[i], ccq_code_name(code));
        CHECK(stop.tensors == stops[i], "stopped after %zu, not %zu", stop.tensors, stops[i]);
        snprintf(work, sizeof work, "%s/.ccq/journal.0-of-1", f->out);
        CHECK(ccq_path_exists(work), "stop after %zu leaves no journal", stops[i]);
        ccq_quantize_result_free(&r);
        ccq_plan_free(plan);
        f->overwrite = 1;
    }
    f->resume = 1;
    CHECK(!quantize(f, 1, &w, &plan, &r), "gone on with");
    CHECK(w.tensors == plan->count, "%zu of %zu", w.tensors, plan->count);
    CHECK(w.last.bytes_in == plan->bytes_in && w.last.bytes_out == plan->tensor_bytes, "bytes");
    f->resume = 0;
    ccq_quantize_result_free(&r);
    ccq_plan_free(plan);
    check_manifest_of_tensors(f);
}

static void check_run(fixture *f)
{
    watch w = {.stop_after = SIZE_MAX};
    ccq_plan *plan;
    ccq_quantize_result r;
    REQUIRE(!quantize(f, 1, &w, &plan, &r), "the job failed");
    CHECK(!w.shrank && w.tensors == plan->count, "progress");
    CHECK(w.last.bytes_in == plan->bytes_in && w.last.bytes_out == plan->tensor_bytes, "bytes");
    for (size_t i = 0; i < plan->count; i++) {
        const ccq_action *a = &plan->action[i];
        double sqnr = ccq_outcome_sqnr(&r.outcome[i]);
        CHECK(isnan(sqnr) == !ccq_entry_linear(a->entry), "%s: SQNR %g", a->entry->name, sqnr);
        CHECK(isnan(sqnr) || sqnr > (a->to == CCQ_TYPE_WINT2 ? 8 : 15), "%s: SQNR %g",
              a->entry->name, sqnr);
        CHECK(ccq_entry_linear(a->entry) || a->to == a->entry->type, "%s quantized",
              a->entry->name);
    }
    CHECK(r.encode_weights == 4 * 4 * 3 * 128 * 128, "%" PRIu64 " weights", r.encode_weights);
    ccq_quantize_result_free(&r);
    ccq_plan_free(plan);
}

/* Small shards: all tensors land in them, and the manifest knows them all. */
static void check_shards(fixture *f)
{
    ccq_error err;
    ccq_quantize_options o;
    ccq_quantize_defaults(&o);
    o.effort = CCQ_EFFORT_FAST;
    o.shard_bytes = 100000;
    o.overwrite = 1;
    ccq_plan *plan;
    REQUIRE(!ccq_plan_make(&plan, f->src, &o, f->out, &err), "%s", err.text);
    CHECK(ccq_layout_shards(plan->layout) > 10, "%zu shards", ccq_layout_shards(plan->layout));
    ccq_quantize_run_options run = {.pool = f->pool, .ops = &f->ops};
    ccq_quantize_result r;
    REQUIRE(!ccq_quantize_run(plan, &run, &r, &err), "%s", err.text);
    check_manifest_of_tensors(f);
    ccq_quantize_result_free(&r);
    ccq_plan_free(plan);
}

int main(void)
{
    ccq_error err;
    fixture f = {.dir = "/tmp/ccq-quantize-XXXXXX", .pool = ccq_pool_new(3)};
    REQUIRE(f.pool && mkdtemp(f.dir), "setup");
    snprintf(f.out, sizeof f.out, "%s/out", f.dir);
    ccq_ops_init(&f.ops, CCQ_ISA_C | CCQ_ISA_AVX2);
    REQUIRE(!ccq_source_open(&f.src, check_data("ernie-micro"), NULL, &err), "%s", err.text);
    check_cancel(&f);
    check_run(&f);
    check_manifest_of_tensors(&f);
    check_shards(&f);
    check_manifest_flips(&f);
    remove_output(&f);
    rmdir(f.dir);
    ccq_source_close(f.src);
    ccq_pool_free(f.pool);
    return check_done();
}
