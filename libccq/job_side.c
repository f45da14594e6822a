/* Everything but the shards: manifest, recipe, index, carried files, config.json. */
#include "libccq/job_internal.h"

#include "formats/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* name, or "rankR/name" where the output is cut. */
static const char *in_rank(const ccq_plan *plan, size_t rank, const char *name, char *out,
                           size_t size)
{
    if (plan->ranks == 1)
        return name;
    snprintf(out, size, "rank%zu/%s", rank, name);
    return out;
}

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
            ccq_layout_shard_bytes(l, i), ccq_job_crc(0, header, size));
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
    if (m)
        m->unsynced = plan->options.no_sync;
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

static ccq_code carried_files(ccq_job *j, ccq_error *err)
{
    ccq_code code = CCQ_OK;
    for (size_t i = 0; !code && i < j->plan->carries; i++) {
        char *path = ccq_path_join(j->plan->src->dir, j->plan->carried[i].name);
        code = path ? ccq_stage_copy(ccq_ledger_stage(j->ledger), path, j->plan->carried[i].name,
                                     &j->side[i], err)
                    : ccq_job_no_memory(err);
        if (!code) /* behind the copy: it is of what was planned */
            code = ccq_stamp_check(&j->plan->carried[i].stamp, path, err);
        free(path);
    }
    return code;
}

/* In the order of the commit: what makes the checkpoint visible comes last. */
ccq_code ccq_job_side_files(ccq_job *j, ccq_error *err)
{
    ccq_stage *stage = ccq_ledger_stage(j->ledger);
    size_t recipe_size = 0, index_size = 0, config_size = 0, manifest_size = 0;
    const char *config = ccq_config_text(j->plan->config, &config_size);
    char name[128];
    char *recipe = ccq_recipe_text(j->plan, &recipe_size), *text = NULL;
    char *index = ccq_layout_index(j->plan->layout, &index_size);
    ccq_manifest *manifest = NULL;
    ccq_code code = recipe && index ? carried_files(j, err) : ccq_job_no_memory(err);
    if (code)
        goto done;
    ccq_sums sums = {ccq_ledger_crcs(j->ledger), j->side, ccq_job_crc(0, index, index_size),
                     ccq_job_crc(0, recipe, recipe_size), ccq_job_crc(0, config, config_size)};
    manifest = ccq_job_manifest(j->plan, recipe_size, &sums);
    text = manifest ? ccq_manifest_text(manifest, &manifest_size) : NULL;
    code = text ? ccq_stage_put(stage, CCQ_MANIFEST_NAME, text, manifest_size, err)
                : ccq_job_no_memory(err);
    if (!code)
        code = ccq_stage_put(stage, CCQ_RECIPE_NAME, recipe, recipe_size, err);
    for (int r = 0; !code && r < j->plan->ranks; r++)
        code = ccq_stage_put(stage,
                             in_rank(j->plan, (size_t)r, CCQ_INDEX_NAME, name, sizeof name), index,
                             index_size, err);
    if (!code)
        code = ccq_stage_put(stage, "config.json", config, config_size, err);
done:
    free(text);
    ccq_manifest_free(manifest);
    free(index);
    free(recipe);
    return code;
}

ccq_code ccq_job_forget_old(ccq_job *j, ccq_error *err)
{
    ccq_manifest *old = NULL;
    ccq_code code = CCQ_OK;
    if (!j->plan->options.overwrite || ccq_manifest_load(&old, j->plan->output, NULL) || !old)
        return CCQ_OK; /* a damaged or missing manifest tells nothing */
    for (size_t i = 0; i < old->files.count && !code; i++)
        if (!strchr(old->files.item[i].name, '/')) /* rank directories go anyway */
            code = ccq_stage_forget(ccq_ledger_stage(j->ledger), old->files.item[i].name, err);
    ccq_manifest_free(old);
    return code;
}


/* ---- An output that is in place ------------------------------------------------------- */

static ccq_code same_text(const ccq_job *j, const char *name, const char *text, size_t size,
                          ccq_error *err)
{
    char *path = ccq_path_join(j->plan->output, name), *found = NULL;
    size_t length = 0;
    ccq_code code = path ? ccq_file_load(path, (uint64_t)1 << 30, CCQ_CHANGED, &found, &length, err)
                         : ccq_job_no_memory(err);
    if (!code && (length != size || memcmp(found, text, size) != 0))
        code = ccq_fail(err, CCQ_CHANGED, "%s: is that of another job", name);
    free(found);
    free(path);
    return code;
}

/* The shards that the plan would write, by name, length and header. */
static ccq_code same_shards(const ccq_job *j, size_t recipe_size, ccq_error *err)
{
    ccq_manifest *found = NULL, *want = ccq_job_manifest(j->plan, recipe_size, NULL);
    ccq_code code = want ? ccq_manifest_load(&found, j->plan->output, err)
                         : ccq_job_no_memory(err);
    int same = !code && found && found->shards.count == want->shards.count;
    for (size_t i = 0; same && i < want->shards.count; i++) {
        const ccq_manifest_item *a = &want->shards.item[i],
                                *b = ccq_manifest_find(&found->shards, a->name);
        same = b && a->bytes == b->bytes && a->crc == b->crc;
    }
    ccq_manifest_free(found);
    ccq_manifest_free(want);
    return code || same ? code
                        : ccq_fail(err, CCQ_CHANGED, "%s: names the files of another job",
                                   CCQ_MANIFEST_NAME);
}

static int is_later(const char *dir, const char *name, const struct stat *than)
{
    struct stat st;
    char *path = ccq_path_join(dir, name);
    int later = !path || stat(path, &st) != 0 || st.st_mtim.tv_sec > than->st_mtim.tv_sec ||
                (st.st_mtim.tv_sec == than->st_mtim.tv_sec &&
                 st.st_mtim.tv_nsec > than->st_mtim.tv_nsec);
    free(path);
    return later;
}

/* Without a plan that has their times: inputs as old as what was made of them. */
static ccq_code not_later(const ccq_source *src, const struct stat *than, ccq_error *err)
{
    ccq_code code = CCQ_OK;
    for (int r = 0; src->rank && r < src->ranks && !code; r++)
        code = not_later(src->rank[r], than, err);
    for (size_t i = 0; !src->rank && i < ccq_checkpoint_shards(src->files) && !code; i++)
        if (is_later(src->dir, ccq_checkpoint_shard(src->files, i)->name, than))
            code = ccq_fail(err, CCQ_CHANGED, "%s/%s: is younger than the output, and nothing "
                            "tells whether that was made from it", src->dir,
                            ccq_checkpoint_shard(src->files, i)->name);
    return code;
}

static ccq_code made_since(const ccq_job *j, ccq_error *err)
{
    struct stat st;
    char *path = ccq_path_join(j->plan->output, "config.json");
    ccq_code code = !path ? ccq_job_no_memory(err)
                    : stat(path, &st) != 0 ? ccq_fail(err, CCQ_IO, "%s: cannot be looked at", path)
                                           : not_later(j->plan->src, &st, err);
    free(path);
    return code;
}

ccq_code ccq_job_same_output(const ccq_job *j, ccq_error *err)
{
    size_t config_size = 0, recipe_size = 0;
    const char *config = ccq_config_text(j->plan->config, &config_size);
    char *recipe = ccq_recipe_text(j->plan, &recipe_size);
    ccq_code code = recipe ? same_text(j, "config.json", config, config_size, err)
                           : ccq_job_no_memory(err);
    if (!code)
        code = same_text(j, CCQ_RECIPE_NAME, recipe, recipe_size, err);
    if (!code)
        code = same_shards(j, recipe_size, err);
    if (!code && !ccq_stage_planned(ccq_ledger_stage(j->ledger)))
        code = made_since(j, err);
    free(recipe);
    return code;
}
