/* plan.json of OUT/.ccq: everything that decides the bytes of an output. Threads, memory,
 * processes and instruction sets do not. */
#include "libccq/ledger.h"

#include "formats/file.h"
#include "formats/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <zlib.h>

static void put_crc(ccq_jw *w, const char *key, uint32_t crc)
{
    char hex[9];
    snprintf(hex, sizeof hex, "%08x", (unsigned)crc);
    ccq_jw_kstring(w, key, hex);
}

/* The time is compared, but may differ: then contents are. */
static void put_mtime(ccq_jw *w, const char *dir, const char *name)
{
    struct stat st;
    char text[48] = "unknown", *path = ccq_path_join(dir, name);
    if (path && stat(path, &st) == 0)
        snprintf(text, sizeof text, "%lld.%09ld", (long long)st.st_mtim.tv_sec,
                 st.st_mtim.tv_nsec);
    ccq_jw_kstring(w, "mtime", text);
    free(path);
}

static void put_inputs(ccq_jw *w, const ccq_source *src)
{
    for (int r = 0; src->rank && r < src->ranks; r++)
        put_inputs(w, src->rank[r]);
    for (size_t i = 0; !src->rank && i < ccq_checkpoint_shards(src->files); i++) {
        const ccq_shard *s = ccq_checkpoint_shard(src->files, i);
        ccq_jw_object(w);
        ccq_jw_kstring(w, "name", s->name);
        ccq_jw_ku64(w, "bytes", s->size);
        put_crc(w, "header_crc32", s->header_crc);
        put_mtime(w, src->dir, s->name);
        ccq_jw_end(w);
    }
}

static void put_shards(ccq_jw *w, const ccq_plan *plan)
{
    for (size_t i = 0; i < ccq_layout_shards(plan->layout); i++) {
        uint64_t size = 0;
        const void *header = ccq_layout_header(plan->layout, i, &size);
        ccq_jw_object(w);
        ccq_jw_kstring(w, "name", ccq_layout_shard_name(plan->layout, i));
        ccq_jw_ku64(w, "bytes", ccq_layout_shard_bytes(plan->layout, i));
        put_crc(w, "header_crc32", (uint32_t)crc32_z(0, header, size));
        ccq_jw_end(w);
    }
}

static void put_list(ccq_jw *w, const char *key)
{
    ccq_jw_key(w, key);
    ccq_jw_array(w);
}

char *ccq_plan_identity(const ccq_plan *plan, size_t *size)
{
    size_t length = 0, config_size = 0;
    char *recipe = ccq_recipe_text(plan, &length);
    const char *config = ccq_config_text(plan->config, &config_size);
    ccq_jw w;
    if (!recipe)
        return NULL;
    ccq_jw_init(&w, 1);
    ccq_jw_object(&w);
    ccq_jw_kstring(&w, "schema", "ccq.plan/1");
    ccq_jw_ki64(&w, "output_version", CCQ_OUTPUT_VERSION);
    ccq_jw_key(&w, "recipe");
    ccq_jw_raw(&w, recipe, length - 1); /* without its newline */
    put_list(&w, "input");
    put_inputs(&w, plan->src);
    ccq_jw_end(&w);
    put_crc(&w, "config_crc32", (uint32_t)crc32_z(0, (const Bytef *)config, config_size));
    put_list(&w, "shards");
    put_shards(&w, plan);
    ccq_jw_end(&w);
    put_list(&w, "carried");
    for (size_t i = 0; i < plan->carries; i++) {
        ccq_jw_object(&w);
        ccq_jw_kstring(&w, "name", plan->carried[i].name);
        ccq_jw_ku64(&w, "bytes", plan->carried[i].bytes);
        ccq_jw_end(&w);
    }
    ccq_jw_end(&w);
    ccq_jw_kbool(&w, "sync", !plan->options.no_sync);
    ccq_jw_kbool(&w, "overwrite", plan->options.overwrite);
    ccq_jw_end(&w);
    free(recipe);
    return ccq_jw_take(&w, size);
}

void ccq_stage_options_of(const ccq_quantize_options *o, ccq_stage_options *out)
{
    *out = (ccq_stage_options){.overwrite = o->overwrite,
                               .resume = o->resume,
                               .finalize = o->finalize,
                               .no_sync = o->no_sync,
                               .rank = o->rank,
                               .world = o->world};
}
