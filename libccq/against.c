/* Errors of a model's decoded weights against the source they were made from. */
#include "libccq/inspect.h"
#include "libccq/job.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 512 };             /* rows decoded at a time; a multiple of 64 */
enum { COPY_VALUES = 1 << 20 };   /* values of a copied tensor compared at a time */

double ccq_difference_sqnr(const ccq_difference *d)
{
    if (!(d->energy > 0))
        return NAN;
    return d->error > 0 ? -10 * log10(d->error / d->energy) : INFINITY;
}

double ccq_difference_rel_l2(const ccq_difference *d)
{
    return d->energy > 0 ? sqrt(d->error / d->energy) : NAN;
}

double ccq_difference_cosine(const ccq_difference *d)
{
    double scale = sqrt(d->energy) * sqrt(d->energy_q);
    if (!(scale > 0))
        return NAN;
    return d->error == 0 ? 1 : fmin(1, fmax(-1, d->dot / scale)); /* not 1 + one rounding */
}

void ccq_difference_add(ccq_difference *total, const ccq_difference *d)
{
    total->equal = (total->parameters == 0 || total->equal) && d->equal;
    total->error += d->error;
    total->energy += d->energy;
    total->dot += d->dot;
    total->energy_q += d->energy_q;
    total->max_abs = d->max_abs > total->max_abs ? d->max_abs : total->max_abs;
    total->parameters += d->parameters;
}

static void add_pair(ccq_difference *d, double w, double q)
{
    double e = w - q, a = fabs(e);
    d->error += e * e;
    d->energy += w * w;
    d->dot += w * q;
    d->energy_q += q * q;
    if (a > d->max_abs)
        d->max_abs = a;
}

/* What is compared: model entries with those of base, which the transform of the model's
 * recipe turns first. */
typedef struct sides {
    const ccq_source *model, *base;
    ccq_transform *transform; /* NULL: none */
} sides;

/* ---- A quantized linear --------------------------------------------------- */

typedef struct job {
    const ccq_ops *ops;
    const ccq_weight *w;
    const uint16_t *base; /* bf16 [k][n], or: */
    const float *wide;    /* as transformed */
    float *panels;        /* BLOCK x 16 a worker */
    ccq_difference *column;
} job;

/* Columns 16 i .. 16 i + 15, rows ascending. */
static void compare_panel(void *ctx, size_t i, int worker)
{
    const job *j = ctx;
    float *panel = j->panels + (size_t)worker * BLOCK * CCQ_PANEL;
    int64_t n0 = (int64_t)i * CCQ_PANEL;
    int64_t n1 = n0 + CCQ_PANEL < j->w->n ? n0 + CCQ_PANEL : j->w->n;
    for (int64_t k0 = 0; k0 < j->w->k; k0 += BLOCK) {
        int64_t kc = j->w->k - k0 < BLOCK ? j->w->k - k0 : BLOCK;
        j->ops->unpack(j->w, k0, kc, n0, panel);
        for (int64_t k = 0; k < kc; k++)
            for (int64_t n = n0; n < n1; n++) {
                int64_t at = (k0 + k) * j->w->n + n;
                float w = j->wide ? j->wide[at] : ccq_bf16_to_f32(j->base[at]);
                add_pair(&j->column[n], (double)w, (double)panel[k * CCQ_PANEL + n - n0]);
            }
    }
}

static ccq_code no_memory(const ccq_entry *e, ccq_error *err)
{
    return ccq_fail(err, CCQ_NO_MEMORY, "\"%s\": out of memory to compare [%lld, %lld]", e->name,
                    (long long)e->k, (long long)e->n);
}

static ccq_code compare_linear(const sides *s, const ccq_entry *e, const ccq_entry *b,
                               const ccq_against_options *options, ccq_difference *d,
                               ccq_error *err)
{
    size_t n = (size_t)e->n, workers = (size_t)ccq_pool_threads(options->pool);
    ccq_weight w;
    void *memory = NULL;
    size_t count = (size_t)ccq_entry_parameters(e);
    uint16_t *x = s->transform ? NULL : malloc(count * sizeof *x);
    float *wide = s->transform ? malloc(count * sizeof *wide) : NULL;
    float *panels = malloc(workers * BLOCK * CCQ_PANEL * sizeof *panels);
    ccq_difference *column = calloc(n, sizeof *column);
    ccq_code code = CCQ_OK;
    if ((!x && !wide) || !panels || !column)
        code = no_memory(e, err);
    if (!code)
        code = wide ? ccq_transform_matrix(s->transform, b, options->pool, wide, err)
                    : ccq_source_read_bf16(s->base, b, x, err);
    if (!code)
        code = ccq_source_load(s->model, e, CCQ_ROUND_FUSED, &w, &memory, err);
    if (code)
        goto done;
    job j = {options->ops, &w, x, wide, panels, column};
    ccq_pool_run(options->pool, (n + CCQ_PANEL - 1) / CCQ_PANEL, compare_panel, &j);
    for (size_t i = 0; i < n; i++)
        ccq_difference_add(d, &column[i]);
    d->equal = d->error == 0;
done:
    free(memory);
    free(column);
    free(panels);
    free(wide);
    free(x);
    return code;
}

/* ---- A tensor that was copied --------------------------------------------- */

/* Rows k0.. of an entry in whatever precision it has; whole when it lies transposed. */
static ccq_code read_part(const ccq_source *src, const ccq_entry *e, int wide, int64_t k0,
                          int64_t kc, void *dst, ccq_error *err)
{
    if (wide)
        return ccq_source_read_f32(src, e, dst, err);
    if (e->pieces == 1 && !e->piece[0].transposed)
        return ccq_source_read_rows(src, e, k0, kc, dst, err);
    return ccq_source_read_bf16(src, e, dst, err);
}

/* An entry that is not quantized, cut for ranks or not, widened. */
static ccq_code read_wide(const ccq_source *src, const ccq_entry *e, float *dst, ccq_error *err)
{
    size_t count = (size_t)ccq_entry_parameters(e);
    if (e->type == CCQ_TYPE_F32)
        return ccq_source_read_f32(src, e, dst, err);
    uint16_t *x = malloc(count * sizeof *x + 1);
    ccq_code code = x ? ccq_source_read_bf16(src, e, x, err) : no_memory(e, err);
    for (size_t i = 0; i < count && !code; i++)
        dst[i] = ccq_bf16_to_f32(x[i]);
    free(x);
    return code;
}

static void compare_part(ccq_difference *d, int wide, const void *base, const void *model,
                         size_t count)
{
    const float *bf = base, *mf = model;
    const uint16_t *bh = base, *mh = model;
    if (memcmp(base, model, count * (wide ? 4 : 2)) != 0)
        d->equal = 0;
    for (size_t i = 0; i < count; i++)
        if (wide)
            add_pair(d, (double)bf[i], (double)mf[i]);
        else
            add_pair(d, (double)ccq_bf16_to_f32(bh[i]), (double)ccq_bf16_to_f32(mh[i]));
}

/* What was transformed: the model has it rounded to bf16. */
static ccq_code compare_transformed(const sides *s, const ccq_entry *e, const ccq_entry *b,
                                    ccq_pool *pool, ccq_difference *d, ccq_error *err)
{
    size_t count = (size_t)ccq_entry_parameters(e);
    float *x = malloc(count * sizeof *x + 1), *y = malloc(count * sizeof *y + 1);
    ccq_code code = x && y ? ccq_transform_matrix(s->transform, b, pool, x, err)
                           : no_memory(e, err);
    if (!code)
        code = read_wide(s->model, e, y, err);
    d->equal = 1;
    if (!code)
        compare_part(d, 1, x, y, count);
    free(x);
    free(y);
    return code;
}

static ccq_code compare_copy(const ccq_source *model, const ccq_source *base, const ccq_entry *e,
                             const ccq_entry *b, ccq_difference *d, ccq_error *err)
{
    int wide = e->type == CCQ_TYPE_F32 || b->type == CCQ_TYPE_F32;
    int whole = wide || b->pieces != 1 || b->piece[0].transposed || e->pieces != 1 ||
                e->piece[0].transposed;
    int64_t step = whole || e->n > COPY_VALUES ? e->k : COPY_VALUES / (e->n ? e->n : 1);
    size_t size = (size_t)step * (size_t)e->n * (wide ? 4 : 2);
    void *x = malloc(size + 1), *y = malloc(size + 1);
    ccq_code code = x && y ? CCQ_OK : no_memory(e, err);
    d->equal = 1;
    for (int64_t k0 = 0; k0 < e->k && !code; k0 += step) {
        int64_t kc = e->k - k0 < step ? e->k - k0 : step;
        code = read_part(base, b, wide, k0, kc, x, err);
        if (!code)
            code = read_part(model, e, wide, k0, kc, y, err);
        if (!code)
            compare_part(d, wide, x, y, (size_t)(kc * e->n));
    }
    free(x);
    free(y);
    return code;
}

/* ---- All of them ---------------------------------------------------------- */

/* Unknown vectors stand at the end, sorted by name. */
static const ccq_entry *find_vector(const ccq_source *src, const char *name)
{
    size_t lo = 0, hi = src->count;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        const ccq_entry *e = &src->entry[mid];
        int c = e->role == CCQ_ROLE_VECTOR ? strcmp(name, e->name) : 1;
        if (c == 0)
            return e;
        if (c < 0)
            hi = mid;
        else
            lo = mid + 1;
    }
    return NULL;
}

static const ccq_entry *counterpart(const ccq_source *base, const ccq_entry *e)
{
    if (e->role == CCQ_ROLE_VECTOR)
        return find_vector(base, e->name);
    return ccq_source_find(base, e->role, e->block, e->layer, e->expert, e->bias);
}

/* Of an entry of the model: that of the base, or what its transform adds. */
static const ccq_entry *base_entry(const sides *s, const ccq_entry *e)
{
    const ccq_entry *b = counterpart(s->base, e);
    return b || !s->transform || e->role != CCQ_ROLE_HEAD ? b : ccq_transform_head(s->transform);
}

static ccq_code check_pair(const ccq_source *model, const ccq_source *base, const ccq_entry *e,
                           const ccq_entry *b, ccq_error *err)
{
    char name[256];
    ccq_escape(name, sizeof name, e->name, strlen(e->name));
    if (!b)
        return ccq_fail(err, CCQ_INCOMPLETE, "%s: \"%s\" of %s is missing", base->dir, name,
                        model->dir);
    if (b->k != e->k || b->n != e->n)
        return ccq_fail(err, CCQ_SHAPE, "%s: \"%s\": [%lld, %lld], %s has [%lld, %lld]", base->dir,
                        name, (long long)b->k, (long long)b->n, model->dir, (long long)e->k,
                        (long long)e->n);
    return CCQ_OK;
}

static ccq_code check_pairs(const sides *s, ccq_error *err)
{
    const ccq_source *model = s->model, *base = s->base;
    ccq_code code = CCQ_OK;
    if (base->arch.quantized)
        return ccq_fail(err, CCQ_UNSUPPORTED, "%s: is quantized itself, wanted the BF16 source",
                        base->dir);
    for (size_t i = 0; i < model->count && !code; i++)
        code = check_pair(model, base, &model->entry[i], base_entry(s, &model->entry[i]), err);
    for (size_t i = 0; i < base->count && !code; i++)
        if (!counterpart(model, &base->entry[i]))
            code = check_pair(base, model, &base->entry[i], NULL, err);
    return code;
}

/* s->transform is the caller's to close, whatever comes back. */
static ccq_code open_sides(sides *s, const ccq_source *model, const ccq_source *base,
                           ccq_error *err)
{
    *s = (sides){model, base, NULL};
    ccq_code code = base->arch.quantized
                        ? CCQ_OK /* said below */
                        : ccq_recipe_transform(&s->transform, model->recipe, base, err);
    return code ? code : check_pairs(s, err);
}

static ccq_code compare(const sides *s, const ccq_entry *e, const ccq_against_options *options,
                        ccq_difference *d, ccq_error *err)
{
    const ccq_entry *b = base_entry(s, e);
    d->parameters = ccq_entry_parameters(e);
    if (e->weight_scale)
        return compare_linear(s, e, b, options, d, err);
    if (s->transform && ccq_transform_touches(s->transform, b))
        return compare_transformed(s, e, b, options->pool, d, err);
    return compare_copy(s->model, s->base, e, b, d, err);
}

ccq_code ccq_against(const ccq_source *model, const ccq_source *base,
                     const ccq_against_options *options, ccq_error *err)
{
    sides s;
    ccq_code code = open_sides(&s, model, base, err);
    for (size_t i = 0; i < model->count && !code; i++) {
        const ccq_entry *e = &model->entry[i];
        ccq_difference d = {0};
        code = compare(&s, e, options, &d, err);
        if (!code && options->row && options->row(options->ctx, i, model->count, e, &d))
            code = ccq_fail(err, CCQ_INTERRUPTED, "stopped after %zu of %zu tensors", i + 1,
                            model->count);
    }
    ccq_transform_close(s.transform);
    return code;
}

ccq_code ccq_against_sample(const ccq_source *model, const ccq_source *base,
                            const ccq_against_options *options, size_t *count,
                            ccq_difference *sum, ccq_error *err)
{
    sides s;
    ccq_code code = open_sides(&s, model, base, err);
    size_t all = 0, seen = 0, taken = 0;
    memset(sum, 0, sizeof *sum);
    for (size_t i = 0; i < model->count; i++)
        all += model->entry[i].type == CCQ_TYPE_WINT2;
    for (size_t i = 0; i < model->count && taken < *count && !code; i++) {
        const ccq_entry *e = &model->entry[i];
        ccq_difference d = {0};
        if (e->type != CCQ_TYPE_WINT2 || seen++ * *count / all < taken)
            continue; /* matrix j of all is taken when j * count / all reaches a new number */
        taken++;
        code = compare(&s, e, options, &d, err);
        ccq_difference_add(sum, &d);
    }
    ccq_transform_close(s.transform);
    *count = taken;
    return code;
}
