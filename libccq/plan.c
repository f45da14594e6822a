/* The plan: one action a tensor, shards, and every byte of the output, from
 * headers alone. What --dry-run prints is what the job writes. */
#include "libccq/ledger.h"
#include "libccq/slice.h"

#include "formats/file.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* What the file system needs beyond the files themselves. */
static const uint64_t spare_bytes = 64u << 20;

static ccq_code no_memory(ccq_error *err)
{
    return ccq_fail(err, CCQ_NO_MEMORY, "plan: out of memory");
}

/* ---- Actions and layout ------------------------------------------------------ */

static ccq_code add_stored(ccq_plan *plan, ccq_action *a, const ccq_stored *s, ccq_error *err)
{
    char name[5000];
    uint64_t bytes;
    ccq_code code = ccq_pack_name(a, s, plan->options.names, name, sizeof name, err);
    if (code)
        return code;
    if (ccq_stored_bytes(s, &bytes) || __builtin_mul_overflow(bytes, plan->ranks, &bytes) ||
        __builtin_add_overflow(plan->tensor_bytes, bytes, &plan->tensor_bytes))
        return ccq_fail(err, CCQ_OVERFLOW, "%s: size passes 2^64", a->entry->name);
    a->bytes_out += bytes;
    plan->kind_bytes[s->kind] += bytes;
    a->tensor[a->tensors] = ccq_layout_add(plan->layout, name, s->dtype, s->rank, s->shape);
    if (a->tensor[a->tensors] == SIZE_MAX)
        return no_memory(err);
    a->tensors++;
    return CCQ_OK;
}

static ccq_code add_action(ccq_plan *plan, ccq_rules *rules, const ccq_entry *e, ccq_action *a,
                           ccq_error *err)
{
    ccq_slice slice;
    ccq_slice_of(&plan->src->arch, e, 0, plan->ranks, &slice);
    a->entry = e;
    a->k = slice.k;
    a->n = slice.n;
    if (ccq_policy_choose(plan, rules, a))
        return no_memory(err);
    a->bytes_in = ccq_entry_bytes(e);
    plan->bytes_in += a->bytes_in;
    plan->parameters += ccq_entry_parameters(e);
    if (a->to != CCQ_TYPE_BF16 && a->to != CCQ_TYPE_F32)
        plan->quantized += ccq_entry_parameters(e);
    ccq_stored stored[5];
    int count = ccq_pack_describe(a, &plan->src->arch, plan->options.names, stored);
    for (int i = 0; i < count; i++) {
        ccq_code code = add_stored(plan, a, &stored[i], err);
        if (code)
            return code;
    }
    return CCQ_OK;
}

/* Behind the last norm; unknown vectors stand at the end. */
static size_t head_place(const ccq_source *src)
{
    size_t at = src->count;
    while (at > 0 && src->entry[at - 1].role == CCQ_ROLE_VECTOR)
        at--;
    return at;
}

static ccq_code add_actions(ccq_plan *plan, ccq_error *err)
{
    const ccq_source *src = plan->src;
    const ccq_entry *head = plan->transform ? ccq_transform_head(plan->transform) : NULL;
    plan->count = src->count + (head != NULL);
    plan->action = calloc(plan->count ? plan->count : 1, sizeof *plan->action);
    plan->layout = ccq_layout_new(plan->options.names == CCQ_NAMES_TORCH ? "pt" : "np",
                                  plan->options.shard_bytes);
    if (!plan->action || !plan->layout)
        return no_memory(err);
    ccq_rules *rules = NULL;
    ccq_code code = ccq_rules_new(&rules, &plan->options, err);
    size_t at = head_place(src), n = 0;
    for (size_t i = 0; !code && i <= src->count; i++) {
        if (head && i == at)
            code = add_action(plan, rules, head, &plan->action[n++], err);
        if (!code && i < src->count)
            code = add_action(plan, rules, &src->entry[i], &plan->action[n++], err);
    }
    if (!code)
        code = ccq_rules_check(rules, src, err);
    ccq_rules_free(rules);
    if (!code && plan->parameters)
        plan->bits_per_weight = 8.0 * (double)plan->tensor_bytes / (double)plan->parameters;
    return code;
}

/* Where ranks cannot share the model, rules about their slices would only repeat it. */
static ccq_code check_rules(ccq_plan *plan, ccq_error *err)
{
    if (ccq_policy_ranks(plan) || (!plan->problems.count && ccq_policy_check(plan)))
        return no_memory(err);
    if (plan->problems.count)
        return ccq_fail(err, plan->problem, "%s", plan->problems.text[0]);
    return CCQ_OK;
}

static ccq_code add_warnings(ccq_plan *plan, ccq_error *err)
{
    const ccq_arch *arch = &plan->src->arch;
    int failed = 0;
    if (plan->options.scheme == CCQ_SCHEME_WINT8 && arch->experts > 0)
        failed |= ccq_text_add(&plan->warnings, "%s", CCQ_WINT8_EXPERTS);
    if (plan->options.scheme == CCQ_SCHEME_WINT2 && plan->w4_end >= arch->moe_end)
        failed |= ccq_text_add(&plan->warnings,
                               "w4-end-layer %" PRId64 " makes all experts wint4: nothing is wint2",
                               plan->w4_end);
    return failed ? no_memory(err) : CCQ_OK;
}

/* ---- Files carried over -------------------------------------------------------- */

static int ends_with(const char *name, const char *end)
{
    size_t n = strlen(name), m = strlen(end);
    return n > m && strcmp(name + n - m, end) == 0;
}

/* Tokenizer and generation files: never weights, nor lists of weights. */
static int is_carried(const char *name)
{
    static const char *const endings[] = {".model", ".json", ".txt", ".md", ".jinja", ".py"};
    static const char *const ours[] = {"config.json", CCQ_MANIFEST_NAME, CCQ_RECIPE_NAME};
    if (name[0] == '.' || ends_with(name, ".index.json"))
        return 0;
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
        if (strcmp(name, ours[i]) == 0)
            return 0;
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++)
        if (ends_with(name, endings[i]))
            return 1;
    return 0;
}

static ccq_code carry(ccq_plan *plan, const char *name, ccq_error *err)
{
    char *path = ccq_path_join(plan->src->dir, name);
    ccq_file file = {0};
    ccq_code code = path ? ccq_file_open(&file, path, CCQ_NO_INPUT, err) : no_memory(err);
    if (code == CCQ_NOT_A_FILE) { /* a sub-directory */
        code = CCQ_OK;
    } else if (!code) {
        plan->carried[plan->carries] = (ccq_carried){
            strdup(name), file.size, {file.size, file.mtime_s, file.mtime_ns}};
        if (!plan->carried[plan->carries++].name)
            code = no_memory(err);
        plan->side_bytes += file.size;
    }
    ccq_file_close(&file);
    free(path);
    return code;
}

static ccq_code add_carried(ccq_plan *plan, ccq_error *err)
{
    char **names = NULL;
    size_t count = 0;
    ccq_code code = ccq_dir_list(plan->src->dir, &names, &count, err);
    if (code)
        return code;
    plan->carried = calloc(count ? count : 1, sizeof *plan->carried);
    if (!plan->carried)
        code = no_memory(err);
    for (size_t i = 0; !code && i < count; i++)
        if (is_carried(names[i]))
            code = carry(plan, names[i], err);
    ccq_names_free(names, count);
    return code;
}

/* ---- Sizes ----------------------------------------------------------------------- */

static ccq_code count_headers(ccq_plan *plan, ccq_error *err)
{
    size_t size = 0;
    char *index = ccq_layout_index(plan->layout, &size);
    if (!index)
        return no_memory(err);
    free(index);
    plan->index_bytes = plan->header_bytes = size;
    for (size_t i = 0; i < ccq_layout_shards(plan->layout); i++) {
        uint64_t header = 0;
        ccq_layout_header(plan->layout, i, &header);
        plan->header_bytes += header;
    }
    plan->header_bytes *= (uint64_t)plan->ranks;
    return CCQ_OK;
}

static ccq_code count_side_files(ccq_plan *plan, ccq_error *err)
{
    size_t recipe_size = 0, manifest_size = 0, config_size = 0;
    char *recipe = ccq_recipe_text(plan, &recipe_size);
    ccq_manifest *manifest = ccq_job_manifest(plan, recipe_size, NULL);
    char *text = manifest ? ccq_manifest_text(manifest, &manifest_size) : NULL;
    ccq_code code = recipe && text ? CCQ_OK : no_memory(err);
    ccq_config_text(plan->config, &config_size);
    plan->side_bytes += recipe_size + manifest_size + config_size;
    plan->total_bytes = plan->tensor_bytes + plan->header_bytes + plan->side_bytes;
    free(text);
    ccq_manifest_free(manifest);
    free(recipe);
    return code;
}

/* ---- The output directory ---------------------------------------------------------- */

/* What ccq_stage_open will say, without creating anything. */
static ccq_code check_output(const ccq_plan *plan, ccq_error *err)
{
    ccq_stage_options o;
    if (plan->options.look)
        return CCQ_OK;
    ccq_stage_options_of(&plan->options, &o);
    return ccq_stage_check(plan->output, &o, err);
}

/* Any file of the input may be a link, or its rank directory: what that points to must not
 * lie where the output goes. */
static ccq_code check_file(const ccq_plan *plan, const char *dir, const char *name, ccq_error *err)
{
    struct stat st;
    char shown[300], out[300], *path = ccq_path_join(dir, name);
    ccq_code code = path ? CCQ_OK : no_memory(err);
    if (!code && stat(path, &st) == 0 && S_ISREG(st.st_mode) &&
        ccq_path_inside(path, plan->output))
        code = ccq_fail(err, CCQ_USAGE, "%s: is a link into the output %s",
                        ccq_escape(shown, sizeof shown, path, strlen(path)),
                        ccq_escape(out, sizeof out, plan->output, strlen(plan->output)));
    free(path);
    return code;
}

static ccq_code check_files(const ccq_plan *plan, const ccq_source *src, ccq_error *err)
{
    char **names = NULL;
    size_t count = 0;
    ccq_code code = ccq_dir_list(src->dir, &names, &count, err);
    for (size_t i = 0; i < count && !code; i++)
        code = check_file(plan, src->dir, names[i], err);
    ccq_names_free(names, count);
    for (int r = 0; src->rank && r < src->ranks && !code; r++)
        code = check_files(plan, src->rank[r], err);
    return code;
}

static ccq_code check_paths(const ccq_plan *plan, ccq_error *err)
{
    if (ccq_path_inside(plan->output, plan->src->dir))
        return ccq_fail(err, CCQ_USAGE, "%s: the output is the input directory or inside it",
                        plan->output);
    if (ccq_path_inside(plan->src->dir, plan->output))
        return ccq_fail(err, CCQ_USAGE, "%s: the input directory is inside the output",
                        plan->output);
    return check_files(plan, plan->src, err);
}

static ccq_code check_space(ccq_plan *plan, ccq_error *err)
{
    ccq_code code = ccq_path_free_bytes(plan->output, &plan->free_bytes, err);
    uint64_t needed = plan->total_bytes + spare_bytes, held = 0, room;
    if (plan->options.resume || plan->options.finalize || plan->options.world > 1)
        held = ccq_stage_held(plan->output); /* of this job */
    if (__builtin_add_overflow(plan->free_bytes, held, &room))
        room = UINT64_MAX;
    plan->fits = !code && needed >= plan->total_bytes && room >= needed;
    return code;
}

ccq_code ccq_plan_make(ccq_plan **result, const ccq_source *src,
                       const ccq_quantize_options *options, const char *output, ccq_error *err)
{
    *result = NULL;
    ccq_plan *plan = calloc(1, sizeof *plan);
    if (!plan)
        return no_memory(err);
    plan->src = src;
    plan->options = *options;
    plan->output = strdup(output);
    ccq_code code = plan->output ? check_paths(plan, err) : no_memory(err);
    if (!code)
        code = ccq_policy_resolve(&plan->options, src, err);
    plan->ranks = plan->options.tensor_parallel;
    if (!code && plan->options.transform)
        code = ccq_transform_open(&plan->transform, src, plan->options.transform,
                                  plan->options.transform_seed, plan->ranks, err);
    if (!code)
        code = add_actions(plan, err);
    if (!code)
        code = check_rules(plan, err);
    if (!code)
        code = ccq_layout_finish(plan->layout, err);
    if (!code)
        code = add_warnings(plan, err);
    if (!code)
        code = ccq_served_config(plan, err);
    if (!code)
        code = add_carried(plan, err);
    if (!code)
        code = count_headers(plan, err);
    if (!code)
        code = count_side_files(plan, err);
    if (!code)
        code = check_output(plan, err);
    if (!code)
        code = check_space(plan, err);
    if (code && (!plan->problems.count || code != plan->problem)) {
        ccq_plan_free(plan);
        return code;
    }
    *result = plan;
    return code;
}

void ccq_plan_free(ccq_plan *plan)
{
    if (!plan)
        return;
    for (size_t i = 0; i < plan->carries; i++)
        free(plan->carried[i].name);
    free(plan->carried);
    ccq_text_free(&plan->problems);
    ccq_text_free(&plan->warnings);
    ccq_text_free(&plan->changes);
    ccq_config_free(plan->config);
    ccq_layout_free(plan->layout);
    free(plan->action);
    ccq_transform_close(plan->transform);
    free(plan->output);
    free(plan);
}
