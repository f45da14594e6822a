/* Rank directories: a model that was cut for tensor parallel, opened whole. Each
 * rank is a source of its own, with the sizes of its slices; here they are
 * counted, checked against each other, and joined when they are read. */
#include "libccq/internal.h"
#include "libccq/slice.h"

#include "formats/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ccq_code no_memory(const char *name, ccq_error *err)
{
    return ccq_fail(err, CCQ_NO_MEMORY, "%s: out of memory", name);
}

/* ---- Which directories ------------------------------------------------------ */

static int is_directory(const char *dir, const char *name)
{
    char *path = ccq_path_join(dir, name), **names = NULL;
    size_t count = 0;
    int yes = path && ccq_dir_list(path, &names, &count, NULL) == CCQ_OK;
    if (yes)
        ccq_names_free(names, count);
    free(path);
    return yes;
}

char *ccq_rank_dir(const char *dir, int rank)
{
    char name[32];
    snprintf(name, sizeof name, "rank%d", rank);
    return ccq_path_join(dir, name);
}

/* FastDeploy counts every directory whose name begins with rank; from two on
 * they are the model. */
ccq_code ccq_ranks_find(const char *dir, int *ranks, ccq_error *err)
{
    char **names = NULL, name[32];
    size_t count = 0, found = 0, i;
    ccq_code code = ccq_dir_list(dir, &names, &count, err);
    *ranks = 0;
    if (code)
        return code;
    for (i = 0; i < count; i++)
        found += strncmp(names[i], "rank", 4) == 0 && is_directory(dir, names[i]);
    ccq_names_free(names, count);
    if (found < 2)
        return CCQ_OK;
    if (found > CCQ_MAX_RANKS)
        return ccq_fail(err, CCQ_LIMIT, "%s: %zu rank directories, at most %d are read", dir,
                        found, CCQ_MAX_RANKS);
    for (i = 0; i < found; i++) {
        snprintf(name, sizeof name, "rank%zu", i);
        if (!is_directory(dir, name))
            return ccq_fail(err, CCQ_INCOMPLETE,
                            "%s: %zu directories have names that begin with rank, %s is not "
                            "among them", dir, found, name);
    }
    *ranks = (int)found;
    return CCQ_OK;
}

ccq_code ccq_arch_cut(ccq_arch *a, int ranks, const char *name, ccq_error *err)
{
    struct {
        const char *key;
        int64_t *value;
    } sizes[] = {
        {"num_attention_heads", &a->heads},     {"num_key_value_heads", &a->kv_heads},
        {"vocab_size", &a->vocab},              {"intermediate_size", &a->inter},
        {"moe_intermediate_size", &a->moe_inter},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        if (*sizes[i].value % ranks)
            return ccq_fail(err, CCQ_CONFIG, "%s: \"%s\" %lld cannot be split over %d ranks", name,
                            sizes[i].key, (long long)*sizes[i].value, ranks);
        *sizes[i].value /= ranks;
    }
    return CCQ_OK;
}

/* ---- Opening ------------------------------------------------------------------ */

/* The recipe tells a lost directory from a model of fewer ranks. */
static ccq_code check_recipe(const ccq_source *src, const char *dir, ccq_error *err)
{
    int64_t recorded;
    if (src->recipe && ccq_config_int(src->recipe, "tensor_parallel", &recorded) &&
        recorded != src->ranks)
        return ccq_fail(err, CCQ_INCOMPLETE,
                        "%s: ccq_recipe.json says %lld ranks, %d directories are there", dir,
                        (long long)recorded, src->ranks);
    return CCQ_OK;
}

/* Ranks differ in their values alone. */
static ccq_code check_alike(const ccq_source *src, int r, ccq_error *err)
{
    const ccq_source *a = src->rank[0], *b = src->rank[r];
    for (size_t i = 0; i < a->count && i < b->count; i++) {
        const ccq_entry *x = &a->entry[i], *y = &b->entry[i];
        if (strcmp(x->name, y->name) != 0 || x->type != y->type || x->k != y->k || x->n != y->n ||
            !x->weight_scale != !y->weight_scale)
            return ccq_fail(err, CCQ_CONFIG,
                            "%s: \"%s\" (%s) and \"%s\" (%s) are not slices of one tensor",
                            b->dir, y->name, ccq_type_name(y->type), x->name,
                            ccq_type_name(x->type));
    }
    if (a->count != b->count)
        return ccq_fail(err, CCQ_INCOMPLETE, "%s: holds %zu tensors of the model, rank0 %zu",
                        b->dir, b->count, a->count);
    return CCQ_OK;
}

static ccq_code make_entry(ccq_source *src, size_t i, ccq_error *err)
{
    ccq_entry *e = &src->entry[i];
    ccq_cut cut = ccq_cut_of(e);
    int64_t *axis = cut == CCQ_CUT_ROWS ? &e->k : &e->n;
    *e = src->rank[0]->entry[i];
    for (int r = 0; r < src->ranks; r++)
        e->rank_bytes += ccq_entry_bytes(&src->rank[r]->entry[i]);
    if (cut == CCQ_CUT_NONE)
        return CCQ_OK;
    if (*axis > INT32_MAX / src->ranks)
        return ccq_fail(err, CCQ_SHAPE, "%s: \"%s\": an axis is longer than 2^31 - 1", src->dir,
                        e->name);
    *axis *= src->ranks;
    e->pieces = 2; /* so that nobody takes rank 0 for the whole */
    e->piece[1] = src->rank[1]->entry[i].piece[0];
    return CCQ_OK;
}

static ccq_code join(ccq_source *src, ccq_error *err)
{
    ccq_source *first = src->rank[0];
    ccq_arch *a = &src->arch;
    ccq_code code = CCQ_OK;
    src->files = first->files;
    src->config = first->config;
    src->recipe = first->recipe;
    src->skips = first->skips;
    src->count = first->count;
    *a = first->arch;
    a->heads *= src->ranks;
    a->kv_heads *= src->ranks;
    a->vocab *= src->ranks;
    a->inter *= src->ranks;
    a->moe_inter *= src->ranks;
    src->entry = calloc(src->count + 1, sizeof *src->entry);
    src->skipped = calloc(src->skips + 1, sizeof *src->skipped);
    if (!src->entry || !src->skipped)
        return no_memory(src->dir, err);
    memcpy(src->skipped, first->skipped, src->skips * sizeof *src->skipped);
    for (size_t i = 0; i < src->count && !code; i++) {
        src->entry[i].role = first->entry[i].role;
        src->entry[i].bias = first->entry[i].bias;
        code = make_entry(src, i, err);
        src->parameters += ccq_entry_parameters(&src->entry[i]);
    }
    for (size_t i = 0; i < first->notes && !code; i++)
        if (ccq_source_note(src, "%s", first->note[i]))
            code = no_memory(src->dir, err);
    return code;
}

ccq_code ccq_ranks_open(ccq_source *src, const ccq_source_options *options, ccq_error *err)
{
    ccq_source_options one = *options;
    ccq_code code = CCQ_OK;
    src->rank = calloc((size_t)src->ranks, sizeof(ccq_source *));
    if (!src->rank)
        return no_memory(src->dir, err);
    for (int r = 0; r < src->ranks && !code; r++) {
        one.tp_rank = r;
        code = ccq_source_open(&src->rank[r], src->dir, &one, err);
        if (!code && r == 0)
            code = check_recipe(src->rank[0], src->dir, err);
        if (!code && r > 0)
            code = check_alike(src, r, err);
    }
    return code ? code : join(src, err);
}

/* ---- Reading -------------------------------------------------------------------- */

const ccq_entry *ccq_rank_entry(const ccq_source *src, const ccq_entry *e, int r)
{
    return &src->rank[r]->entry[e - src->entry];
}

/* Rows of what every rank holds whole, as bf16 or fp32, from one of them. */
typedef struct replica {
    int64_t k0, kc;
    int wide;
    size_t size;
} replica;

static ccq_code read_one(const ccq_source *src, const ccq_entry *e, const replica *p, void *dst,
                         ccq_error *err)
{
    if (p->wide)
        return ccq_source_read_f32(src, e, dst, err);
    if (p->kc < e->k)
        return ccq_source_read_rows(src, e, p->k0, p->kc, dst, err);
    return ccq_source_read_bf16(src, e, dst, err);
}

/* They must be the same in all. */
static ccq_code read_replicas(const ccq_source *src, const ccq_entry *e, const replica *p,
                              void *dst, ccq_error *err)
{
    void *other = malloc(p->size + 1);
    ccq_code code = other ? read_one(src->rank[0], ccq_rank_entry(src, e, 0), p, dst, err)
                          : no_memory(e->name, err);
    for (int r = 1; r < src->ranks && !code; r++) {
        code = read_one(src->rank[r], ccq_rank_entry(src, e, r), p, other, err);
        if (!code && memcmp(dst, other, p->size) != 0)
            code = ccq_fail(err, CCQ_CONFIG, "%s: \"%s\" is not that of rank0: every rank holds "
                                             "the same", src->rank[r]->dir, e->name);
    }
    free(other);
    return code;
}

static uint64_t elements(const ccq_entry *e)
{
    return ccq_entry_parameters(e);
}

ccq_code ccq_ranks_read_rows(const ccq_source *src, const ccq_entry *e, int64_t k0, int64_t kc,
                             uint16_t *dst, ccq_error *err)
{
    replica p = {k0, kc, 0, (size_t)(kc * e->n) * sizeof *dst};
    return read_replicas(src, e, &p, dst, err);
}

ccq_code ccq_ranks_read_bf16(const ccq_source *src, const ccq_entry *e, uint16_t *dst,
                             ccq_error *err)
{
    ccq_slice s;
    uint16_t *part;
    ccq_code code = CCQ_OK;
    if (ccq_cut_of(e) == CCQ_CUT_NONE)
        return ccq_ranks_read_rows(src, e, 0, e->k, dst, err);
    part = malloc(elements(ccq_rank_entry(src, e, 0)) * sizeof *part);
    if (!part)
        return no_memory(e->name, err);
    for (int r = 0; r < src->ranks && !code; r++) {
        code = ccq_source_read_bf16(src->rank[r], ccq_rank_entry(src, e, r), part, err);
        ccq_slice_of(&src->arch, e, r, src->ranks, &s);
        if (!code)
            ccq_slice_put(&s, part, dst);
    }
    free(part);
    return code;
}

ccq_code ccq_ranks_read_f32(const ccq_source *src, const ccq_entry *e, float *dst, ccq_error *err)
{
    replica p = {0, e->k, 1, elements(e) * sizeof *dst};
    return read_replicas(src, e, &p, dst, err);
}

/* Each rank's slice has scales of its own, so the joined matrix has none: it is
 * decoded. The bits of a weight are those that the rank would compute with. */
ccq_code ccq_ranks_decode(const ccq_source *src, const ccq_entry *e, int rounding,
                          const ccq_ops *ops, ccq_pool *pool, uint16_t *dst, ccq_error *err)
{
    uint16_t *part = malloc(elements(ccq_rank_entry(src, e, 0)) * sizeof *part);
    ccq_code code = part ? CCQ_OK : no_memory(e->name, err);
    for (int r = 0; r < src->ranks && !code; r++) {
        ccq_slice s;
        ccq_slice_of(&src->arch, e, r, src->ranks, &s);
        code = ccq_source_decode(src->rank[r], ccq_rank_entry(src, e, r), rounding, ops, pool,
                                 part, err);
        if (!code)
            ccq_slice_put(&s, part, dst);
    }
    free(part);
    return code;
}

static ccq_code load_decoded(const ccq_source *src, const ccq_entry *e, int rounding,
                             uint16_t *dst, ccq_error *err)
{
    ccq_pool *pool = ccq_pool_new(1);
    ccq_ops ops;
    ccq_ops_init(&ops, ccq_cpu_isa());
    ccq_code code = pool ? ccq_ranks_decode(src, e, rounding, &ops, pool, dst, err)
                         : no_memory(e->name, err);
    ccq_pool_free(pool);
    return code;
}

ccq_code ccq_ranks_load(const ccq_source *src, const ccq_entry *e, int rounding, ccq_weight *w,
                        void **memory, ccq_error *err)
{
    uint64_t size = elements(e) * sizeof(uint16_t);
    ccq_code code;
    *memory = NULL;
    *w = (ccq_weight){.type = CCQ_W_BF16, .k = e->k, .n = e->n, .rounding = rounding};
    if (e->type == CCQ_TYPE_WINT2 && rounding == CCQ_ROUND_NONE)
        return ccq_fail(err, CCQ_UNSUPPORTED,
                        "%s: joined ranks are decoded to bf16: unrounded wint2 weights are for "
                        "models that are not cut", e->name);
    *memory = aligned_alloc(64, (size + 63) / 64 * 64);
    if (!*memory)
        return ccq_fail(err, CCQ_NO_MEMORY, "%s: no memory for %llu bytes", e->name,
                        (unsigned long long)size);
    w->data = *memory;
    code = e->weight_scale ? load_decoded(src, e, rounding, *memory, err)
                           : ccq_ranks_read_bf16(src, e, *memory, err);
    if (code) {
        free(*memory);
        *memory = NULL;
    }
    return code;
}
