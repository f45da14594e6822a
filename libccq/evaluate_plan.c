/* Which rows of an evaluation run together, and what memory that takes. */
#include "libccq/evaluate_internal.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

double ccq_eval_clock(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* ---- Rows ------------------------------------------------------------------ */

ccq_code ccq_eval_rows(ccq_eval_work *w, const ccq_eval *e, int models, ccq_error *err)
{
    w->e = e;
    w->models = models;
    w->need = calloc(e->prompt_count + 1, sizeof *w->need);
    w->first = calloc(e->prompt_count + 1, sizeof *w->first);
    w->slot = calloc(e->prompt_count + 1, sizeof *w->slot);
    if (!w->need || !w->first || !w->slot)
        return ccq_fail(err, CCQ_NO_MEMORY, "evaluation: out of memory");
    for (size_t i = 0; i < e->row_count; i++) {
        int32_t seq = e->row_seq[i], pos = e->row_pos[i];
        if (seq < 0 || (size_t)seq >= e->prompt_count || pos < 0 || pos >= e->prompts[seq].length)
            return ccq_fail(err, CCQ_BUG, "row %zu: sequence %d, position %d is not there", i,
                            (int)seq, (int)pos);
        w->need[seq] = (int64_t)pos + 1;
    }
    for (size_t i = 0; i < e->prompt_count; i++) {
        w->first[i] = w->total;
        w->total += (uint64_t)w->need[i];
    }
    return CCQ_OK;
}

/* ---- Groups ---------------------------------------------------------------- */

size_t ccq_eval_group_end(const ccq_eval_work *w, size_t first)
{
    int64_t rows = 0;
    size_t end = first;

    while (end < w->e->prompt_count && (end == first || rows + w->need[end] <= w->prefill_rows))
        rows += w->need[end++];
    return end;
}

/* Most prompts of one group, and most rows of a step. */
static void measure_groups(ccq_eval_work *w)
{
    int64_t most = 1;
    size_t end;

    w->slots = 1;
    for (size_t at = 0; at < w->e->prompt_count; at = end) {
        int64_t rows = 0;
        end = ccq_eval_group_end(w, at);
        w->slots = end - at > w->slots ? end - at : w->slots;
        for (size_t i = at; i < end; i++)
            rows += w->need[i];
        most = rows > most ? rows : most;
    }
    w->step_rows = min64(most, w->prefill_rows);
}

static int longest_first(const void *pa, const void *pb, void *ctx)
{
    const size_t *a = pa, *b = pb;
    const int64_t *need = ctx;

    if (need[*a] != need[*b])
        return (need[*a] < need[*b]) - (need[*a] > need[*b]);
    return (*a > *b) - (*a < *b);
}

/* The longest of a group gets slot 0, the next slot 1: since a group of several has at
 * most prefill_rows rows, slot j holds at most prefill_rows / (j + 1) positions, and one
 * long prompt among many short ones costs its own length and not that of every slot. */
static void assign_slots(ccq_eval_work *w)
{
    size_t end;

    for (size_t at = 0; at < w->e->prompt_count; at = end) {
        end = ccq_eval_group_end(w, at);
        for (size_t i = at; i < end; i++)
            w->order[i - at] = i;
        qsort_r(w->order, end - at, sizeof *w->order, longest_first, w->need);
        for (size_t j = 0; j < end - at; j++) {
            int64_t need = w->need[w->order[j]];
            w->slot[w->order[j]] = j;
            w->capacity[j] = need > w->capacity[j] ? need : w->capacity[j];
        }
    }
}

static void free_groups(ccq_eval_work *w)
{
    free(w->capacity);
    free(w->order);
    free(w->span);
    w->capacity = NULL;
    w->order = NULL;
    w->span = NULL;
}

ccq_code ccq_eval_groups(ccq_eval_work *w, int64_t prefill_rows, ccq_error *err)
{
    free_groups(w);
    w->prefill_rows = prefill_rows;
    measure_groups(w);
    w->capacity = calloc(w->slots, sizeof *w->capacity);
    w->order = calloc(w->slots, sizeof *w->order);
    w->span = calloc(w->slots, sizeof *w->span);
    if (!w->capacity || !w->order || !w->span)
        return ccq_fail(err, CCQ_NO_MEMORY, "%zu sequences: out of memory", w->slots);
    assign_slots(w);
    return CCQ_OK;
}

/* ---- Steps ----------------------------------------------------------------- */

size_t ccq_eval_step(const ccq_eval_work *w, size_t end, size_t *at, int64_t *done)
{
    size_t spans = 0;

    for (int64_t rows = 0; *at < end && rows < w->prefill_rows;) {
        int64_t n = min64(w->need[*at] - *done, w->prefill_rows - rows);
        ccq_span p = {w->slot[*at], *at, n, w->e->prompts[*at].ids + *done};
        if (n > 0)
            w->span[spans++] = p;
        rows += n;
        *done += n;
        if (*done == w->need[*at]) {
            ++*at;
            *done = 0;
        }
    }
    return spans;
}

int64_t ccq_eval_step_rows(const ccq_eval_work *w, size_t spans)
{
    int64_t rows = 0;

    for (size_t i = 0; i < spans; i++)
        rows += w->span[i].rows;
    return rows;
}

int64_t ccq_eval_position(const ccq_eval_work *w, const ccq_span *p)
{
    return p->ids - w->e->prompts[p->sequence].ids;
}

size_t ccq_eval_pick(const ccq_eval_work *w, size_t spans, int64_t *rows)
{
    const ccq_eval *e = w->e;
    size_t count = 0, next = w->next;
    int64_t row = 0;

    for (size_t i = 0; i < spans; i++) {
        const ccq_span *p = &w->span[i];
        int64_t at = ccq_eval_position(w, p);
        for (; next < e->row_count && (size_t)e->row_seq[next] == p->sequence &&
               e->row_pos[next] < at + p->rows; next++, count++)
            if (rows)
                rows[count] = row + e->row_pos[next] - at;
        row += p->rows;
    }
    return count;
}

/* ---- Memory ---------------------------------------------------------------- */

ccq_code ccq_eval_blocks(ccq_eval_work *w, size_t block, int routes, ccq_error *err)
{
    w->block = block;
    for (int i = 0; i < w->models; i++) {
        const ccq_model *m = w->e->model[i];
        size_t layers = routes ? (size_t)m->moe_layers : 0, k = (size_t)m->arch->moe_k;
        w->logits[i] = calloc(block * (size_t)m->arch->vocab, sizeof **w->logits);
        w->ids[i] = calloc(block * layers * k + 1, sizeof **w->ids);
        w->weights[i] = calloc(block * layers * k + 1, sizeof **w->weights);
        w->margin[i] = calloc(block * layers + 1, sizeof **w->margin);
        if (!w->logits[i] || !w->ids[i] || !w->weights[i] || !w->margin[i])
            return ccq_fail(err, CCQ_NO_MEMORY, "evaluation: out of memory");
    }
    return CCQ_OK;
}

void ccq_eval_free(ccq_eval_work *w)
{
    for (int i = 0; i < 2; i++) {
        free(w->logits[i]);
        free(w->ids[i]);
        free(w->weights[i]);
        free(w->margin[i]);
    }
    free_groups(w);
    free(w->need);
    free(w->first);
    free(w->slot);
}

static ccq_code need_of(const ccq_eval_work *w, const ccq_source *src,
                        const ccq_model_options *options, uint64_t *need, ccq_error *err)
{
    ccq_model m = {.src = src, .arch = &src->arch, .options = *options};
    uint64_t cache, work;
    ccq_code code;

    m.options.layered = 0;
    m.bf16 = options->numerics == CCQ_FASTDEPLOY;
    for (int64_t i = 0; i < m.arch->layers; i++)
        m.moe_layers += m.arch->layer_moe[i];
    code = ccq_session_measure(&m, w->slots, w->capacity, w->step_rows, &cache, &work, err);
    *need = ccq_model_need(src) + cache + work;
    return code;
}

ccq_code ccq_evaluate_need(const ccq_eval *e, const ccq_source *const src[2],
                           const ccq_model_options *options, uint64_t need[2], ccq_error *err)
{
    ccq_eval_work w = {0};
    int models = src[1] ? 2 : 1;
    ccq_code code = ccq_eval_rows(&w, e, models, err);

    need[0] = need[1] = 0;
    if (!code)
        code = ccq_eval_groups(&w, e->prefill_rows > 0 ? e->prefill_rows : CCQ_PREFILL_ROWS, err);
    for (int i = 0; !code && i < models; i++)
        code = need_of(&w, src[i], options, &need[i], err);
    ccq_eval_free(&w);
    return code;
}
