/* Errors of a model's decoded weights against the source they were made from. */
#include "libccq/inspect.h"

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

/* ---- A quantized linear --------------------------------------------------- */

typedef struct job {
    const ccq_ops *ops;
    const ccq_weight *w;
    const uint16_t *base; /* bf16 [k][n] */
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
            for (int64_t n = n0; n < n1; n++)
                add_pair(&j->column[n],
                         (double)ccq_bf16_to_f32(j->base[(k0 + k) * j->w->n + n]),
                         (double)panel[k * CCQ_PANEL + n - n0]);
    }
}

static ccq_code no_memory(const ccq_entry *e, ccq_error *err)
{
    return ccq_fail(err, CCQ_NO_MEMORY, "\"%s\": out of memory to compare [%lld, %lld]", e->name,
                    (long long)e->k, (long long)e->n);
}

static ccq_code compare_linear(const ccq_source *model, const ccq_source *base,
                               const ccq_entry *e, const ccq_entry *b,
                               const ccq_against_options *options, ccq_difference *d,
                               ccq_error *err)
{
    size_t n = (size_t)e->n, workers = (size_t)ccq_pool_threads(options->pool);
    ccq_weight w;
    void *memory = NULL;
    uint16_t *x = malloc((size_t)ccq_entry_parameters(e) * sizeof *x);
    float *panels = malloc(workers * BLOCK * CCQ_PANEL * sizeof *panels);
    ccq_difference *column = calloc(n, sizeof *column);
    ccq_code code = CCQ_OK;
    if (!x || !panels || !column)
        code = no_memory(e, err);
    if (!code)
        code = ccq_source_read_bf16(base, b, x, err);
    if (!code)
        code = ccq_source_load(model, e, CCQ_ROUND_FUSED, &w, &memory, err);
    if (code)
        goto done;
    job j = {options->ops, &w, x, panels, column};
    ccq_pool_run(options->pool, (n + CCQ_PANEL - 1) / CCQ_PANEL, compare_panel, &j);
    for (size_t i = 0; i < n; i++)
        ccq_difference_add(d, &column[i]);
    d->equal = d->error == 0;
done:
    free(memory);
    free(column);
    free(panels);
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

static ccq_code check_pair(const ccq_source *model, const ccq_source *base, const ccq_entry *e,
                           ccq_error *err)
{
    const ccq_entry *b = counterpart(base, e);
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

static ccq_code check_pairs(const ccq_source *model, const ccq_source *base, ccq_error *err)
{
    ccq_code code = CCQ_OK;
    if (base->arch.quantized)
        return ccq_fail(err, CCQ_UNSUPPORTED, "%s: is quantized itself, wanted the BF16 source",
                        base->dir);
    for (size_t i = 0; i < model->count && !code; i++)
        code = check_pair(model, base, &model->entry[i], err);
    for (size_t i = 0; i < base->count && !code; i++)
        if (!counterpart(model, &base->entry[i]))
            code = check_pair(base, model, &base->entry[i], err);
    return code;
}

ccq_code ccq_against(const ccq_source *model, const ccq_source *base,
                     const ccq_against_options *options, ccq_error *err)
{
    ccq_code code = check_pairs(model, base, err);
    for (size_t i = 0; i < model->count && !code; i++) {
        const ccq_entry *e = &model->entry[i], *b = counterpart(base, e);
        ccq_difference d = {0};
        code = e->weight_scale ? compare_linear(model, base, e, b, options, &d, err)
                               : compare_copy(model, base, e, b, &d, err);
        d.parameters = ccq_entry_parameters(e);
        if (!code && options->row && options->row(options->ctx, i, model->count, e, &d))
            code = ccq_fail(err, CCQ_INTERRUPTED, "stopped after %zu of %zu tensors", i + 1,
                            model->count);
    }
    return code;
}

ccq_code ccq_against_sample(const ccq_source *model, const ccq_source *base,
                            const ccq_against_options *options, size_t *count,
                            ccq_difference *sum, ccq_error *err)
{
    ccq_code code = check_pairs(model, base, err);
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
        code = compare_linear(model, base, e, counterpart(base, e), options, &d, err);
        d.parameters = ccq_entry_parameters(e);
        ccq_difference_add(sum, &d);
    }
    *count = taken;
    return code;
}
