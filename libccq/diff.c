#include "libccq/diff.h"
#include "libccq/diff_internal.h"
#include "libccq/internal.h"
#include "libccq/scan.h"

#include "formats/file.h"
#include "kernels/convert.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DIFFS = 1000 };

const char *ccq_diff_kind_name(int kind)
{
    static const char *const names[CCQ_DIFF_KINDS] = {"config", "tensor", "shape", "values"};
    return names[kind];
}

/* ---- Collecting ----------------------------------------------------------- */

ccq_diff *ccq_diff_add(ccq_diff_result *r, ccq_diff_kind kind, const char *prefix,
                       const char *name, const char *a, const char *b, int *failed)
{
    size_t len = strlen(prefix) + strlen(name) + 1;
    r->count[kind]++;
    if (r->diffs == MAX_DIFFS)
        return NULL;
    ccq_diff *grown = realloc(r->diff, (r->diffs + 1) * sizeof *grown);
    if (grown)
        r->diff = grown;
    ccq_diff d = {.kind = kind, .name = malloc(len), .a = strdup(a), .b = strdup(b)};
    if (!grown || !d.name || !d.a || !d.b) {
        free(d.name);
        free(d.a);
        free(d.b);
        *failed = 1;
        return NULL;
    }
    snprintf(d.name, len, "%s%s", prefix, name);
    grown[r->diffs] = d;
    return &grown[r->diffs++];
}

void ccq_diff_free(ccq_diff_result *r)
{
    for (size_t i = 0; i < r->diffs; i++) {
        free(r->diff[i].name);
        free(r->diff[i].a);
        free(r->diff[i].b);
    }
    free(r->diff);
    memset(r, 0, sizeof *r);
}

/* ---- Tensors -------------------------------------------------------------- */

typedef struct sides {
    ccq_diff_result *out;
    const ccq_checkpoint *a, *b;
    const char *prefix; /* of names: "", "rank1/" */
    ccq_pool *pool;
    int failed;
} sides;

static const char *describe(const ccq_tensor *t, char out[300])
{
    int used = snprintf(out, 300, "%s [", ccq_dtype_name((ccq_dtype)t->dtype));
    for (int i = 0; i < t->rank && used < 270; i++)
        used += snprintf(out + used, (size_t)(300 - used), "%s%" PRIu64, i ? ", " : "",
                         t->shape[i]);
    snprintf(out + used, (size_t)(300 - used), "]");
    return out;
}

static int same_form(const ccq_tensor *x, const ccq_tensor *y)
{
    return x->dtype == y->dtype && x->rank == y->rank &&
           (x->rank == 0 || memcmp(x->shape, y->shape, x->rank * sizeof *x->shape) == 0);
}

/* Element i as a number, floats with their bits: -0, NaN and near values differ too. */
static ccq_code show(const ccq_checkpoint *files, const ccq_tensor *t, uint64_t i, char out[64],
                     ccq_error *err)
{
    unsigned size = ccq_dtype_bits((ccq_dtype)t->dtype) / 8;
    uint64_t bits = 0;
    size = size ? size : 1;
    ccq_code code = ccq_checkpoint_read(files, t, i * size, &bits, size, err); /* little-endian */
    if (code)
        return code;
    uint32_t word = (uint32_t)bits;
    float f = 0;
    memcpy(&f, &word, 4);
    if (t->dtype == CCQ_DT_BF16 || t->dtype == CCQ_DT_U16)
        f = ccq_bf16_to_f32((uint16_t)bits);
    else if (t->dtype == CCQ_DT_F16)
        f = ccq_f16_to_f32((uint16_t)bits);
    else if (t->dtype != CCQ_DT_F32) {
        if (t->dtype == CCQ_DT_I8)
            snprintf(out, 64, "%d", (int)(int8_t)bits);
        else
            snprintf(out, 64, "%" PRIu64, bits);
        return CCQ_OK;
    }
    snprintf(out, 64, "%.9g (%0*" PRIx64 ")", (double)f, (int)(2 * size), bits);
    return CCQ_OK;
}

static ccq_code compare_values(sides *s, const ccq_tensor *x, const ccq_tensor *y, ccq_error *err)
{
    ccq_unlike u;
    char a[64] = "", b[64] = "";
    ccq_code code = ccq_scan_pair(&u, s->a, x, s->b, y, s->pool, err);
    if (code || !u.differ)
        return code;
    s->out->elements += u.differ;
    code = show(s->a, x, u.first, a, err);
    if (!code)
        code = show(s->b, y, u.first, b, err);
    ccq_diff *d = ccq_diff_add(s->out, CCQ_DIFF_VALUES, s->prefix, x->name, a, b, &s->failed);
    if (code || !d)
        return code;
    d->elements = u.count;
    d->differ = u.differ;
    d->first = u.first;
    d->rank = x->rank;
    for (int i = x->rank - 1; i >= 0; i--) {
        d->index[i] = u.first % x->shape[i]; /* no axis is 0: there are elements */
        u.first /= x->shape[i];
    }
    return CCQ_OK;
}

static ccq_code compare_tensors(sides *s, ccq_error *err)
{
    size_t i = 0, j = 0, m = ccq_checkpoint_count(s->a), n = ccq_checkpoint_count(s->b);
    char a[300], b[300];
    ccq_code code = CCQ_OK;
    while ((i < m || j < n) && !code && !s->failed) { /* both sorted by name */
        const ccq_tensor *x = i < m ? ccq_checkpoint_at(s->a, i) : NULL;
        const ccq_tensor *y = j < n ? ccq_checkpoint_at(s->b, j) : NULL;
        int c = !x ? 1 : !y ? -1 : strcmp(x->name, y->name);
        i += c <= 0;
        j += c >= 0;
        if (c) {
            const ccq_tensor *t = c < 0 ? x : y;
            ccq_diff_add(s->out, CCQ_DIFF_TENSOR, s->prefix, t->name, c < 0 ? describe(t, a) : "",
                         c < 0 ? "" : describe(t, b), &s->failed);
            continue;
        }
        s->out->tensors++;
        if (same_form(x, y))
            code = compare_values(s, x, y, err);
        else
            ccq_diff_add(s->out, CCQ_DIFF_SHAPE, s->prefix, x->name, describe(x, a),
                         describe(y, b), &s->failed);
    }
    return code;
}

/* ---- Directories and files ------------------------------------------------ */

static int is_directory(const char *path)
{
    char **names = NULL;
    size_t count;
    if (ccq_dir_list(path, &names, &count, NULL))
        return 0;
    ccq_names_free(names, count);
    return 1;
}

static ccq_code compare_at(sides *s, const char *a, const char *b, int files, ccq_error *err)
{
    ccq_checkpoint *x = NULL, *y = NULL;
    ccq_code code = files ? ccq_checkpoint_open_file(&x, a, err) : ccq_checkpoint_open(&x, a, err);
    if (!code)
        code = files ? ccq_checkpoint_open_file(&y, b, err) : ccq_checkpoint_open(&y, b, err);
    s->a = x;
    s->b = y;
    if (!code)
        code = compare_tensors(s, err);
    if (!code)
        code = ccq_checkpoint_recheck(x, err);
    if (!code)
        code = ccq_checkpoint_recheck(y, err);
    ccq_checkpoint_close(x);
    ccq_checkpoint_close(y);
    return code;
}

static ccq_code compare_rank(sides *s, const char *a, const char *b, int rank, ccq_error *err)
{
    char prefix[32], *x = ccq_rank_dir(a, rank), *y = ccq_rank_dir(b, rank);
    snprintf(prefix, sizeof prefix, "rank%d/", rank);
    s->prefix = prefix;
    ccq_code code = x && y ? compare_at(s, x, y, 0, err)
                           : ccq_fail(err, CCQ_NO_MEMORY, "%s: out of memory", a);
    s->prefix = "";
    free(x);
    free(y);
    return code;
}

/* NULL when dir has none. */
static ccq_code load_recipe(ccq_config **recipe, const char *dir, ccq_error *err)
{
    char *path = ccq_path_join(dir, "ccq_recipe.json"), *text = NULL;
    size_t size;
    ccq_code code = path ? CCQ_OK : ccq_fail(err, CCQ_NO_MEMORY, "%s: out of memory", dir);
    *recipe = NULL;
    if (!code && ccq_path_exists(path)) {
        code = ccq_file_load(path, 1 << 20, CCQ_NO_INPUT, &text, &size, err);
        if (!code)
            code = ccq_config_parse(recipe, text, size, path, err);
    }
    free(text);
    free(path);
    return code;
}

static ccq_code compare_configs(ccq_diff_result *r, const char *a, const char *b, ccq_error *err)
{
    ccq_config *x = NULL, *y = NULL, *p = NULL, *q = NULL;
    ccq_code code = ccq_config_load(&x, a, err);
    if (!code)
        code = ccq_config_load(&y, b, err);
    if (!code)
        code = ccq_diff_config(r, x, y, "config.json", err);
    if (!code)
        code = load_recipe(&p, a, err);
    if (!code)
        code = load_recipe(&q, b, err);
    if (!code && p && q) /* it says how the tensors are to be read: the K order */
        code = ccq_diff_config(r, p, q, "ccq_recipe.json", err);
    ccq_config_free(x);
    ccq_config_free(y);
    ccq_config_free(p);
    ccq_config_free(q);
    return code;
}

static ccq_code compare_directories(sides *s, const char *a, const char *b, ccq_error *err)
{
    int m = 0, n = 0;
    char x[64], y[64];
    ccq_code code = compare_configs(s->out, a, b, err);
    if (!code)
        code = ccq_ranks_find(a, &m, err);
    if (!code)
        code = ccq_ranks_find(b, &n, err);
    if (code)
        return code;
    if (m != n) {
        snprintf(x, sizeof x, "cut for %d ranks", m);
        snprintf(y, sizeof y, "cut for %d ranks", n);
        ccq_diff_add(s->out, CCQ_DIFF_TENSOR, "", "rank directories", m ? x : "", n ? y : "",
                     &s->failed);
        return CCQ_OK;
    }
    if (!m)
        return compare_at(s, a, b, 0, err);
    for (int r = 0; r < m && !code; r++)
        code = compare_rank(s, a, b, r, err);
    return code;
}

ccq_code ccq_diff_make(ccq_diff_result *r, const char *a, const char *b, ccq_pool *pool,
                       ccq_error *err)
{
    sides s = {.out = r, .prefix = "", .pool = pool};
    int da = is_directory(a), db = is_directory(b);
    memset(r, 0, sizeof *r);
    for (int i = 0; i < 2; i++)
        if (!ccq_path_exists(i ? b : a))
            return ccq_fail(err, CCQ_NO_INPUT, "%s: no such file or directory", i ? b : a);
    if (da != db)
        return ccq_fail(err, CCQ_USAGE, "%s: a directory is compared with a directory, a file "
                                        "with a file", b);
    ccq_code code = da ? compare_directories(&s, a, b, err) : compare_at(&s, a, b, 1, err);
    if (!code && s.failed)
        code = ccq_fail(err, CCQ_NO_MEMORY, "out of memory to compare %s", b);
    if (code)
        ccq_diff_free(r);
    return code;
}
