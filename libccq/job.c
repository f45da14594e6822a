/* Carries out a plan: tensor after tensor into staged shards, the next being read and
 * the last written meanwhile, then the side files, then one commit. */
#include "libccq/pipeline.h"
#include "libccq/slice.h"

#include "formats/file.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <zlib.h>

typedef struct job {
    const ccq_plan *plan;
    ccq_engine engine;
    ccq_pipe *pipe;
    ccq_planes planes; /* of the slice at work */
    ccq_stage *stage;
    /* rank after rank */
    ccq_out **out;  /* by shard; NULL before its first and after its last tensor */
    size_t *left;   /* tensors still to be written, by shard */
    uint32_t *crc;  /* by tensor of the layout */
    uint32_t *side; /* by carried file */
} job;

static ccq_code no_memory(ccq_error *err)
{
    return ccq_fail(err, CCQ_NO_MEMORY, "job: out of memory");
}

static uint32_t crc_of(uint32_t crc, const void *data, uint64_t size)
{
    return (uint32_t)crc32_z(crc, data, (size_t)size);
}

/* ---- Stored tensors -------------------------------------------------------------- */

/* name, or "rankR/name" where the output is cut. */
static const char *in_rank(const ccq_plan *plan, size_t rank, const char *name, char *out,
                           size_t size)
{
    if (plan->ranks == 1)
        return name;
    snprintf(out, size, "rank%zu/%s", rank, name);
    return out;
}

static ccq_code open_shard(job *j, size_t rank, uint32_t shard, ccq_out **out, ccq_error *err)
{
    const ccq_layout *l = j->plan->layout;
    uint64_t size = 0;
    const void *header = ccq_layout_header(l, shard, &size);
    char name[128];
    ccq_code code = ccq_stage_create(
        j->stage, in_rank(j->plan, rank, ccq_layout_shard_name(l, shard), name, sizeof name),
        ccq_layout_shard_bytes(l, shard), out, err);
    return code ? code : ccq_out_write(*out, 0, header, size, err);
}

/* Bytes of a tensor in ascending order; last: there are no more of them. */
static ccq_code put(void *ctx, size_t tensor, uint64_t offset, const void *data, uint64_t size,
                    int last, ccq_error *err)
{
    job *j = ctx;
    size_t rank = tensor / ccq_layout_count(j->plan->layout);
    const ccq_layout_tensor *t =
        ccq_layout_at(j->plan->layout, tensor % ccq_layout_count(j->plan->layout));
    size_t shard = rank * ccq_layout_shards(j->plan->layout) + t->shard;
    ccq_code code = j->out[shard] ? CCQ_OK : open_shard(j, rank, t->shard, &j->out[shard], err);
    if (code)
        return code;
    j->crc[tensor] = crc_of(j->crc[tensor], data, size);
    code = ccq_out_write(j->out[shard], t->offset + offset, data, size, err);
    if (code || !last || --j->left[shard])
        return code;
    ccq_out *out = j->out[shard];
    j->out[shard] = NULL;
    return ccq_out_close(out, err);
}

/* ---- Tensors -------------------------------------------------------------------------- */

/* A matrix that is worked whole, and a slice of it (NULL: not cut): bf16, or fp32 where a
 * transform made it. */
typedef struct matrix {
    uint16_t *whole, *part;
    float *whole_f, *part_f;
    ccq_planes planes;
} matrix;

/* Slices first, each encoded with scales of its own. */
static ccq_code whole_rank(job *j, const ccq_action *a, int rank, matrix *m, ccq_outcome *outcome,
                           ccq_error *err)
{
    size_t first = (size_t)rank * ccq_layout_count(j->plan->layout);
    ccq_columns c = {a, rank, 0, a->n, m->part ? m->part : m->whole,
                     m->part_f ? m->part_f : m->whole_f};
    ccq_slice slice;
    ccq_slice_of(&j->plan->src->arch, a->entry, rank, j->plan->ranks, &slice);
    if (m->part)
        ccq_slice_take(&slice, m->whole, m->part);
    if (m->part_f)
        ccq_slice_take_f32(&slice, m->whole_f, m->part_f);
    ccq_planes_place(&m->planes, a, m->planes.memory);
    ccq_code code = ccq_quantize_columns(&j->engine, &c, &m->planes, outcome, err);
    for (int i = 0; !code && i < a->tensors; i++)
        code = put(j, first + a->tensor[i], 0, m->planes.plane[i], m->planes.bytes[i], 1, err);
    return code;
}

static ccq_code read_transformed(const job *j, const ccq_action *a, float **w, ccq_error *err)
{
    *w = malloc((size_t)ccq_entry_parameters(a->entry) * sizeof **w);
    return *w ? ccq_transform_matrix(j->plan->transform, a->entry, j->engine.run->pool, *w, err)
              : no_memory(err);
}

static ccq_code whole_matrix(job *j, const ccq_action *a, ccq_outcome *outcome, ccq_error *err)
{
    matrix m = {.planes = {.memory = malloc((size_t)ccq_planes_size(a))}};
    size_t size = (size_t)a->k * (size_t)a->n;
    int wide = j->plan->transform != NULL;
    ccq_code code = m.planes.memory ? CCQ_OK : no_memory(err);
    if (j->plan->ranks > 1 && wide)
        m.part_f = malloc(size * sizeof *m.part_f);
    else if (j->plan->ranks > 1)
        m.part = malloc(size * sizeof *m.part);
    if (j->plan->ranks > 1 && !m.part && !m.part_f)
        code = no_memory(err);
    if (!code)
        code = wide ? read_transformed(j, a, &m.whole_f, err)
                    : ccq_read_matrix(&j->engine, a, &m.whole, err);
    for (int rank = 0; !code && rank < j->plan->ranks; rank++)
        code = whole_rank(j, a, rank, &m, outcome, err);
    free(m.part_f);
    free(m.part);
    free(m.whole_f);
    free(m.whole);
    free(m.planes.memory);
    return code;
}

/* What cannot be read ahead, with nothing left for the writer. */
static ccq_code work_whole(job *j, const ccq_action *a, ccq_outcome *outcome, ccq_error *err)
{
    ccq_code code = ccq_pipe_drain(j->pipe, err);
    if (code)
        return code;
    return ccq_is_quantized(a->to) ? whole_matrix(j, a, outcome, err)
                                   : ccq_copy_tensor(&j->engine, a, put, j, err);
}

static ccq_code work_block(job *j, const ccq_action *a, const ccq_unit *u, ccq_outcome *outcome,
                           ccq_error *err)
{
    ccq_columns c = {a, u->rank, u->n0, u->nc, u->data, NULL};
    ccq_code code = u->n0 ? CCQ_OK : ccq_pipe_planes(j->pipe, a, &j->planes, err);
    if (!code)
        code = ccq_quantize_columns(&j->engine, &c, &j->planes, outcome, err);
    ccq_pipe_done(j->pipe, u);
    return code || !u->last ? code : ccq_pipe_write(j->pipe, a, u->rank, &j->planes, err);
}

static void report_done(job *j, size_t i, const ccq_outcome *outcome)
{
    const ccq_quantize_run_options *run = j->engine.run;
    ccq_progress *done = &j->engine.done;
    done->tensors++;
    done->bytes_in += j->plan->action[i].bytes_in;
    done->bytes_out += j->plan->action[i].bytes_out;
    if (run->progress)
        run->progress(run->ctx, done);
    if (run->tensor)
        run->tensor(run->ctx, i, outcome);
}

static ccq_code all_tensors(job *j, ccq_quantize_result *result, ccq_error *err)
{
    ccq_unit u;
    int more;
    ccq_code code = ccq_pipe_open(&j->pipe, &j->engine, put, j, err);
    while (!code && !(code = ccq_pipe_next(j->pipe, &u, &more, err)) && more) {
        const ccq_action *a = &j->plan->action[u.action];
        code = ccq_engine_poll(&j->engine, err);
        if (!code && u.kind == CCQ_UNIT_BLOCK)
            code = work_block(j, a, &u, &result->outcome[u.action], err);
        else if (!code && u.kind == CCQ_UNIT_WINDOW)
            code = ccq_pipe_pass(j->pipe, &u, err);
        else if (!code)
            code = work_whole(j, a, &result->outcome[u.action], err);
        if (!code && u.last && u.rank == j->plan->ranks - 1)
            report_done(j, u.action, &result->outcome[u.action]);
    }
    if (!code)
        code = ccq_pipe_drain(j->pipe, err);
    ccq_pipe_close(j->pipe);
    return code;
}

/* ---- Side files --------------------------------------------------------------------- */

static int list_rank(ccq_manifest *m, const ccq_plan *plan, size_t rank, const ccq_sums *sums)
{
    const ccq_layout *l = plan->layout;
    size_t count = ccq_layout_count(l);
    char name[5100];
    int failed = 0;
    for (size_t i = 0; !failed && i < ccq_layout_shards(l); i++) {
        uint64_t size = 0;
        const void *header = ccq_layout_header(l, i, &size);
        failed = ccq_manifest_add(
            &m->shards, in_rank(plan, rank, ccq_layout_shard_name(l, i), name, sizeof name),
            ccq_layout_shard_bytes(l, i), crc_of(0, header, size));
    }
    for (size_t i = 0; !failed && i < count; i++)
        failed = ccq_manifest_add(&m->tensors,
                                  in_rank(plan, rank, ccq_layout_at(l, i)->name, name, sizeof name),
                                  0, sums ? sums->tensor[rank * count + i] : 0);
    return failed ? failed
                  : ccq_manifest_add(&m->files,
                                     in_rank(plan, rank, CCQ_INDEX_NAME, name, sizeof name),
                                     plan->index_bytes, sums ? sums->index : 0);
}

ccq_manifest *ccq_job_manifest(const ccq_plan *plan, size_t recipe_bytes, const ccq_sums *sums)
{
    ccq_manifest *m = ccq_manifest_new();
    size_t config_bytes = 0;
    int failed = !m;
    ccq_config_text(plan->config, &config_bytes);
    for (size_t i = 0; !failed && i < plan->carries; i++)
        failed = ccq_manifest_add(&m->files, plan->carried[i].name, plan->carried[i].bytes,
                                  sums ? sums->carried[i] : 0);
    for (int r = 0; !failed && r < plan->ranks; r++)
        failed = list_rank(m, plan, (size_t)r, sums);
    if (!failed)
        failed = ccq_manifest_add(&m->files, CCQ_RECIPE_NAME, recipe_bytes,
                                  sums ? sums->recipe : 0) ||
                 ccq_manifest_add(&m->files, "config.json", config_bytes,
                                  sums ? sums->config : 0);
    if (!failed)
        return m;
    ccq_manifest_free(m);
    return NULL;
}

static ccq_code carried_files(job *j, ccq_error *err)
{
    ccq_code code = CCQ_OK;
    for (size_t i = 0; !code && i < j->plan->carries; i++) {
        char *path = ccq_path_join(j->plan->src->dir, j->plan->carried[i].name);
        code = path ? ccq_stage_copy(j->stage, path, j->plan->carried[i].name, &j->side[i], err)
                    : no_memory(err);
        free(path);
    }
    return code;
}

/* In the order of the commit: what makes the checkpoint visible comes last. */
static ccq_code side_files(job *j, ccq_error *err)
{
    size_t recipe_size = 0, index_size = 0, config_size = 0, manifest_size = 0;
    const char *config = ccq_config_text(j->plan->config, &config_size);
    char name[128];
    char *recipe = ccq_recipe_text(j->plan, &recipe_size), *text = NULL;
    char *index = ccq_layout_index(j->plan->layout, &index_size);
    ccq_manifest *manifest = NULL;
    ccq_code code = recipe && index ? carried_files(j, err) : no_memory(err);
    if (code)
        goto done;
    ccq_sums sums = {j->crc, j->side, crc_of(0, index, index_size), crc_of(0, recipe, recipe_size),
                     crc_of(0, config, config_size)};
    manifest = ccq_job_manifest(j->plan, recipe_size, &sums);
    text = manifest ? ccq_manifest_text(manifest, &manifest_size) : NULL;
    code = text ? ccq_stage_put(j->stage, CCQ_MANIFEST_NAME, text, manifest_size, err)
                : no_memory(err);
    if (!code)
        code = ccq_stage_put(j->stage, CCQ_RECIPE_NAME, recipe, recipe_size, err);
    for (int r = 0; !code && r < j->plan->ranks; r++)
        code = ccq_stage_put(j->stage,
                             in_rank(j->plan, (size_t)r, CCQ_INDEX_NAME, name, sizeof name), index,
                             index_size, err);
    if (!code)
        code = ccq_stage_put(j->stage, "config.json", config, config_size, err);
done:
    free(text);
    ccq_manifest_free(manifest);
    free(index);
    free(recipe);
    return code;
}

/* ---- The job --------------------------------------------------------------------------- */

/* Side files that the old output's manifest lists: they belong to its model. */
static ccq_code forget_old(job *j, ccq_error *err)
{
    ccq_manifest *old = NULL;
    ccq_code code = CCQ_OK;
    if (!j->plan->options.overwrite || ccq_manifest_load(&old, j->plan->output, NULL) || !old)
        return CCQ_OK; /* a damaged or missing manifest tells nothing */
    for (size_t i = 0; i < old->files.count && !code; i++)
        if (!strchr(old->files.item[i].name, '/')) /* rank directories go anyway */
            code = ccq_stage_forget(j->stage, old->files.item[i].name, err);
    ccq_manifest_free(old);
    return code;
}

static ccq_code start(job *j, ccq_error *err)
{
    const ccq_plan *plan = j->plan;
    size_t shards = ccq_layout_shards(plan->layout), tensors = ccq_layout_count(plan->layout);
    size_t ranks = (size_t)plan->ranks;
    if (!plan->fits)
        return ccq_fail(err, CCQ_NO_SPACE,
                        "%s: %" PRIu64 " bytes and 64 MiB to spare are needed, %" PRIu64
                        " are free",
                        plan->output, plan->total_bytes, plan->free_bytes);
    j->out = calloc(ranks * shards + 1, sizeof *j->out);
    j->left = calloc(ranks * shards + 1, sizeof *j->left);
    j->crc = calloc(ranks * tensors + 1, sizeof *j->crc);
    j->side = calloc(plan->carries + 1, sizeof *j->side);
    if (!j->out || !j->left || !j->crc || !j->side)
        return no_memory(err);
    for (size_t i = 0; i < ranks * tensors; i++)
        j->left[i / tensors * shards + ccq_layout_at(plan->layout, i % tensors)->shard]++;
    ccq_code code = ccq_stage_open(&j->stage, plan->output, plan->options.overwrite, err);
    return code ? code : forget_old(j, err);
}

static void finish(job *j)
{
    size_t shards = (size_t)j->plan->ranks * ccq_layout_shards(j->plan->layout);
    for (size_t i = 0; j->out && i < shards; i++)
        if (j->out[i])
            ccq_out_close(j->out[i], NULL);
    ccq_stage_abandon(j->stage);
    ccq_engine_free(&j->engine);
    free(j->side);
    free(j->crc);
    free(j->left);
    free(j->out);
}

double ccq_outcome_sqnr(const ccq_outcome *o)
{
    if (!(o->energy > 0))
        return NAN;
    return o->error > 0 ? -10.0 * log10(o->error / o->energy) : INFINITY;
}

static void sum_up(const job *j, ccq_quantize_result *r)
{
    ccq_outcome type[CCQ_TYPES] = {{0}};
    for (size_t i = 0; i < j->plan->count; i++) {
        ccq_outcome *t = &type[j->plan->action[i].to];
        t->error += r->outcome[i].error;
        t->energy += r->outcome[i].energy;
        r->zero_columns += r->outcome[i].zero_columns;
    }
    for (int i = 0; i < CCQ_TYPES; i++)
        r->type_sqnr[i] = ccq_outcome_sqnr(&type[i]);
    for (int i = 0; i < j->engine.workers; i++)
        r->encode_s += j->engine.worker[i].encode_s;
    r->encode_weights = j->engine.encode_weights;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

ccq_code ccq_quantize_run(const ccq_plan *plan, const ccq_quantize_run_options *run,
                          ccq_quantize_result *result, ccq_error *err)
{
    double begin = now();
    job j = {.plan = plan};
    *result = (ccq_quantize_result){0};
    result->outcome = calloc(plan->count + 1, sizeof *result->outcome);
    ccq_code code = result->outcome ? ccq_engine_init(&j.engine, plan, run, err) : no_memory(err);
    if (!code)
        code = start(&j, err);
    if (!code)
        code = all_tensors(&j, result, err);
    if (!code)
        code = ccq_source_recheck(plan->src, err);
    if (!code)
        code = side_files(&j, err);
    if (!code)
        code = ccq_engine_poll(&j.engine, err);
    if (!code)
        code = ccq_stage_commit(j.stage, err);
    if (!code) {
        j.stage = NULL;
        sum_up(&j, result);
        result->wall_s = now() - begin;
    }
    finish(&j);
    return code;
}

void ccq_quantize_result_free(ccq_quantize_result *result)
{
    free(result->outcome);
    result->outcome = NULL;
}
