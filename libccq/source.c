/* Opening a model: names -> entries -> sizes -> everything checked against everything. */
#include "libccq/source.h"
#include "libccq/internal.h"

#include "formats/file.h"
#include "formats/json.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *ccq_type_name(ccq_type type)
{
    static const char *const names[CCQ_TYPES] = {"bf16",  "f32",   "wint8",
                                                "wint4", "wint2", "block_wise_fp8"};
    return (unsigned)type < CCQ_TYPES ? names[type] : "?";
}

int ccq_entry_linear(const ccq_entry *e)
{
    return !e->bias && (e->role == CCQ_ROLE_QKV || e->role == CCQ_ROLE_O ||
                        e->role == CCQ_ROLE_UP_GATE || e->role == CCQ_ROLE_DOWN);
}

uint64_t ccq_entry_parameters(const ccq_entry *e)
{
    return (uint64_t)e->k * (uint64_t)e->n;
}

uint64_t ccq_entry_bytes(const ccq_entry *e)
{
    const ccq_tensor *rest[] = {e->weight_scale, e->super_scales, e->code_scale, e->code_zp};
    uint64_t bytes = 0;
    size_t i;
    if (e->rank_bytes)
        return e->rank_bytes;
    for (i = 0; i < (size_t)e->pieces; i++)
        bytes += e->piece[i].tensor->bytes;
    for (i = 0; i < sizeof rest / sizeof *rest; i++)
        if (rest[i])
            bytes += rest[i]->bytes;
    return bytes;
}

ccq_code ccq_source_note(ccq_source *src, const char *fmt, ...)
{
    char text[600];
    va_list ap;
    char **grown = realloc(src->note, (src->notes + 1) * sizeof *grown);
    if (!grown)
        return CCQ_NO_MEMORY;
    src->note = grown;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    grown[src->notes] = strdup(text);
    return grown[src->notes] ? (src->notes++, CCQ_OK) : CCQ_NO_MEMORY;
}

/* ---- Completeness --------------------------------------------------------- */

typedef struct census {
    const ccq_source *src;
    size_t missing;
    char first[200];
} census;

static void expect(census *c, ccq_role role, ccq_block block, int64_t layer, int64_t expert)
{
    ccq_slot slot = {role, block, (int)layer, (int)expert, 0, 0, 0, CCQ_SUFFIX_WEIGHT};
    if (ccq_source_find(c->src, role, block, (int)layer, (int)expert, 0))
        return;
    if (c->missing++ == 0)
        ccq_name_write(&slot, c->first, sizeof c->first);
}

static void expect_mlp(census *c, ccq_block block, int64_t layer, int64_t expert)
{
    expect(c, CCQ_ROLE_UP_GATE, block, layer, expert);
    expect(c, CCQ_ROLE_DOWN, block, layer, expert);
}

static ccq_code check_complete(const ccq_source *src, ccq_error *err)
{
    const ccq_arch *a = &src->arch;
    census c = {src, 0, ""};
    int64_t i, e;
    expect(&c, CCQ_ROLE_EMBED, CCQ_BLOCK_NONE, -1, -1);
    expect(&c, CCQ_ROLE_NORM, CCQ_BLOCK_NONE, -1, -1);
    for (i = 0; i < a->layers; i++) {
        expect(&c, CCQ_ROLE_NORM_IN, CCQ_BLOCK_NONE, i, -1);
        expect(&c, CCQ_ROLE_NORM_POST, CCQ_BLOCK_NONE, i, -1);
        expect(&c, CCQ_ROLE_QKV, CCQ_BLOCK_ATTENTION, i, -1);
        expect(&c, CCQ_ROLE_O, CCQ_BLOCK_ATTENTION, i, -1);
        if (!a->layer_moe[i]) {
            expect_mlp(&c, CCQ_BLOCK_DENSE, i, -1);
            continue;
        }
        if (a->correction_bias)
            expect(&c, CCQ_ROLE_ROUTER_BIAS, CCQ_BLOCK_NONE, i, -1);
        for (e = 0; e < a->experts; e++)
            expect_mlp(&c, CCQ_BLOCK_EXPERT, i, e);
        if (a->shared)
            expect_mlp(&c, CCQ_BLOCK_SHARED, i, -1);
    }
    if (c.missing)
        return ccq_fail(err, CCQ_INCOMPLETE, "%s: %zu tensors are missing, first \"%s\"", src->dir,
                        c.missing, c.first);
    return CCQ_OK;
}

/* ---- Config, recipe, opening ---------------------------------------------- */

/* --set KEY=VALUE: a gap of config.json, filled before anything reads it. */
static ccq_code apply_set(ccq_source *src, const char *set, ccq_error *err)
{
    const char *eq = strchr(set, '=');
    char key[128], *quoted = NULL;
    ccq_json json;
    ccq_json_event event;
    ccq_jw w;
    ccq_config *next = NULL;
    ccq_config_edit edit;
    ccq_code code;
    if (!eq || eq == set || (size_t)(eq - set) >= sizeof key)
        return ccq_fail(err, CCQ_USAGE, "--set %s: wanted KEY=VALUE", set);
    memcpy(key, set, (size_t)(eq - set));
    key[eq - set] = 0;
    if (ccq_config_kind(src->config, key) != CCQ_KIND_ABSENT)
        return ccq_fail(err, CCQ_USAGE, "--set %s: config.json has \"%s\" already", set, key);
    ccq_json_init(&json, eq + 1, strlen(eq + 1), NULL);
    do
        event = ccq_json_next(&json);
    while (event != CCQ_JSON_END && event != CCQ_JSON_ERROR);
    ccq_json_free(&json);
    ccq_jw_init(&w, 0);
    if (event == CCQ_JSON_ERROR)
        ccq_jw_string(&w, eq + 1); /* a bare word is a string */
    else
        ccq_jw_raw(&w, eq + 1, strlen(eq + 1));
    quoted = ccq_jw_take(&w, NULL);
    if (!quoted)
        return ccq_fail(err, CCQ_NO_MEMORY, "--set: out of memory");
    edit = (ccq_config_edit){key, quoted};
    code = ccq_config_splice(src->config, &edit, 1, &next, err);
    free(quoted);
    if (code)
        return code;
    ccq_config_free(src->config);
    src->config = next;
    return CCQ_OK;
}

static ccq_code read_recipe(ccq_source *src, const char *dir, ccq_error *err)
{
    char *path = ccq_path_join(dir, "ccq_recipe.json"), *text = NULL;
    size_t size;
    ccq_code code = CCQ_OK;
    if (!path)
        return ccq_fail(err, CCQ_NO_MEMORY, "%s: out of memory", src->dir);
    if (ccq_path_exists(path)) {
        code = ccq_file_load(path, 1 << 20, CCQ_NO_INPUT, &text, &size, err);
        if (!code)
            code = ccq_config_parse(&src->recipe, text, size, path, err);
    }
    free(text);
    free(path);
    return code;
}

/* What the recipe records decides; else the caller; else fastdeploy, with a note. */
static ccq_code settle_order(ccq_source *src, int asked, ccq_error *err)
{
    const char *s = src->recipe ? ccq_config_string(src->recipe, "k_order") : NULL;
    int recorded = !s                          ? -1
                   : strcmp(s, "plain") == 0      ? CCQ_ORDER_PLAIN
                   : strcmp(s, "fastdeploy") == 0 ? CCQ_ORDER_FASTDEPLOY
                                                  : -2;
    char shown[100];
    int wint2 = 0;
    size_t i;
    for (i = 0; i < src->count; i++)
        wint2 |= src->entry[i].type == CCQ_TYPE_WINT2;
    if (recorded == -2)
        return ccq_fail(err, CCQ_CONFIG, "ccq_recipe.json: unknown k_order \"%s\"",
                        ccq_escape(shown, sizeof shown, s, strlen(s)));
    if (recorded >= 0 && asked >= 0 && asked != recorded)
        return ccq_fail(err, CCQ_USAGE, "%s: ccq_recipe.json records K order %s", src->dir, s);
    src->arch.order_recorded = recorded >= 0;
    src->arch.order = recorded >= 0 ? recorded : asked >= 0 ? asked : CCQ_ORDER_FASTDEPLOY;
    if (wint2 && recorded < 0 && asked < 0 &&
        ccq_source_note(src, "K order not recorded: fastdeploy assumed"))
        return ccq_fail(err, CCQ_NO_MEMORY, "%s: out of memory", src->dir);
    return CCQ_OK;
}

static ccq_code open_tensors(ccq_source *src, ccq_error *err)
{
    ccq_code code = ccq_checkpoint_open(&src->files, src->dir, err);
    if (!code)
        code = ccq_source_classify(src, err);
    if (!code)
        code = ccq_arch_settle(src, err);
    return code ? code : check_complete(src, err);
}

/* One checkpoint: config.json and recipe of dir, tensors of src->dir, which is dir itself
 * or a rank directory in it. */
static int ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

/* FastDeploy would prefer the .pdparams; here the safetensors are the model. */
static ccq_code note_unread(ccq_source *src, ccq_error *err)
{
    char **names, shown[300];
    size_t count;
    ccq_code code = ccq_dir_list(src->dir, &names, &count, err);
    if (code)
        return code;
    for (size_t i = 0; i < count && !code; i++)
        if (ends_with(names[i], ".pdparams") &&
            !ends_with(ccq_checkpoint_shard(src->files, 0)->name, ".pdparams"))
            code = ccq_source_note(src, "%s is not read: safetensors are there",
                                   ccq_escape(shown, sizeof shown, names[i], strlen(names[i])));
    ccq_names_free(names, count);
    return code ? ccq_fail(err, code, "%s: out of memory", src->dir) : CCQ_OK;
}

static ccq_code open_one(ccq_source *src, const char *dir, const ccq_source_options *options,
                         ccq_error *err)
{
    char *path = ccq_path_join(dir, "config.json");
    if (path)
        ccq_stamp_take(&src->config_stamp, path); /* one that is not there is told below */
    free(path);
    ccq_code code = ccq_config_load(&src->config, dir, err);
    for (size_t i = 0; i < options->sets && !code; i++)
        code = apply_set(src, options->set[i], err);
    if (!code)
        code = ccq_arch_read(src->config, &src->arch, err);
    if (!code && src->ranks)
        code = ccq_arch_cut(&src->arch, src->ranks, ccq_config_name(src->config), err);
    if (!code)
        code = open_tensors(src, err);
    if (!code)
        code = read_recipe(src, dir, err);
    if (!code)
        code = note_unread(src, err);
    return code ? code : settle_order(src, options->order, err);
}

static ccq_code need_directory(const char *dir, ccq_error *err)
{
    char *inside = ccq_path_join(dir, ".");
    ccq_code code = CCQ_OK;
    if (!inside)
        return ccq_fail(err, CCQ_NO_MEMORY, "%s: out of memory", dir);
    if (!ccq_path_exists(inside))
        code = ccq_fail(err, CCQ_NO_INPUT, "%s: %s", dir,
                        ccq_path_exists(dir) ? "not a directory" : "no such directory");
    free(inside);
    return code;
}

static ccq_code open_any(ccq_source *src, const char *dir, const ccq_source_options *options,
                         ccq_error *err)
{
    ccq_code code = need_directory(dir, err);
    if (!code)
        code = ccq_ranks_find(dir, &src->ranks, err);
    src->tp_rank = options->tp_rank;
    if (code)
        return code;
    if (src->tp_rank >= 0 && !src->ranks)
        return ccq_fail(err, CCQ_USAGE, "%s: has no rank directories", dir);
    if (src->tp_rank >= 0 && src->tp_rank >= src->ranks)
        return ccq_fail(err, CCQ_USAGE, "%s: rank %d is outside 0..%d", dir, src->tp_rank,
                        src->ranks - 1);
    if (src->ranks && src->tp_rank < 0)
        src->dir = strdup(dir);
    else
        src->dir = src->ranks ? ccq_rank_dir(dir, src->tp_rank) : strdup(dir);
    if (!src->dir)
        return ccq_fail(err, CCQ_NO_MEMORY, "%s: out of memory", dir);
    return src->ranks && src->tp_rank < 0 ? ccq_ranks_open(src, options, err)
                                          : open_one(src, dir, options, err);
}

ccq_code ccq_source_open(ccq_source **out, const char *dir, const ccq_source_options *options,
                         ccq_error *err)
{
    static const ccq_source_options defaults = {-1, NULL, 0, -1};
    ccq_source *src = calloc(1, sizeof *src);
    *out = NULL;
    if (!src)
        return ccq_fail(err, CCQ_NO_MEMORY, "%s: out of memory", dir);
    ccq_code code = open_any(src, dir, options ? options : &defaults, err);
    if (code)
        ccq_source_close(src);
    else
        *out = src;
    return code;
}

void ccq_source_close(ccq_source *src)
{
    size_t i;
    if (!src)
        return;
    for (i = 0; i < src->notes; i++)
        free(src->note[i]);
    free(src->note);
    free(src->skipped);
    free(src->entry);
    free(src->memory);
    if (!src->rank) { /* else they are those of rank 0 */
        ccq_config_free(src->recipe);
        ccq_config_free(src->config);
        ccq_checkpoint_close(src->files);
    }
    for (int r = 0; src->rank && r < src->ranks; r++)
        ccq_source_close(src->rank[r]);
    free(src->rank);
    free(src->dir);
    free(src);
}

size_t ccq_source_shards(const ccq_source *src, uint64_t *bytes)
{
    size_t count = 0;
    uint64_t sum = 0;
    for (int r = 0; r < (src->rank ? src->ranks : 1); r++) {
        const ccq_checkpoint *files = src->rank ? src->rank[r]->files : src->files;
        for (size_t i = 0; i < ccq_checkpoint_shards(files); i++, count++)
            sum += ccq_checkpoint_shard(files, i)->size;
    }
    if (bytes)
        *bytes = sum;
    return count;
}

const char *ccq_source_shard_name(const ccq_source *src, const ccq_tensor *t, char *out,
                                  size_t size)
{
    snprintf(out, size, "%s%s", src->rank ? "rank0/" : "",
             ccq_checkpoint_shard(src->files, t->shard)->name);
    return out;
}

ccq_code ccq_source_recheck(const ccq_source *src, ccq_error *err)
{
    ccq_code code = CCQ_OK;
    for (int r = 0; r < (src->rank ? src->ranks : 1) && !code; r++)
        code = ccq_checkpoint_recheck(src->rank ? src->rank[r]->files : src->files, err);
    const ccq_source *first = src->rank ? src->rank[0] : src;
    return code ? code
                : ccq_stamp_check(&first->config_stamp, ccq_config_name(first->config), err);
}

const ccq_entry *ccq_source_find(const ccq_source *src, ccq_role role, ccq_block block, int layer,
                                 int expert, int bias)
{
    ccq_slot wanted = {role, block, layer, expert, bias, 0, 0, CCQ_SUFFIX_WEIGHT};
    size_t lo = 0, hi = src->count;
    while (hi > lo && src->entry[hi - 1].role == CCQ_ROLE_VECTOR)
        hi--; /* unknown vectors stand at the end, unsorted */
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        const ccq_entry *e = &src->entry[mid];
        ccq_slot slot = {e->role, e->block, e->layer, e->expert, e->bias, 0, 0, CCQ_SUFFIX_WEIGHT};
        int c = ccq_slot_compare(&wanted, &slot);
        if (c == 0)
            return e;
        if (c < 0)
            hi = mid;
        else
            lo = mid + 1;
    }
    return NULL;
}
