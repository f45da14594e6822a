/* How much memory a job holds: two rings of fixed size, for what has been read and for
 * what is to be written, the scratch of the threads, and room for the few kinds of
 * tensors that are worked whole. The size of the model has no part in it, that of its
 * largest matrix has. */
#include "libccq/calibrate.h"

#include <string.h>

enum { COLUMNS = 128 }; /* of a block, or a multiple: what every layout can be cut into */

static const uint64_t mebi = 1 << 20;
static const uint64_t in_most = (uint64_t)2 << 30, in_usual = 32 << 20;
static const uint64_t out_most = (uint64_t)1 << 30, out_usual = 8 << 20;
static const uint64_t window_most = 8 << 20;

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static uint64_t smaller(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

int ccq_is_quantized(ccq_type type)
{
    return type != CCQ_TYPE_BF16 && type != CCQ_TYPE_F32;
}

int ccq_works_whole(const ccq_plan *plan, const ccq_action *a)
{
    return plan->src->rank || a->entry->weight_scale ||
           (plan->transform && ccq_transform_touches(plan->transform, a->entry)) ||
           (plan->options.names == CCQ_NAMES_TORCH && !ccq_is_quantized(a->to));
}

/* Of what is worked whole: the matrix, a slice of it, its planes, what it was read from. */
static uint64_t whole_bytes(const ccq_plan *plan, const ccq_action *a)
{
    const ccq_entry *e = a->entry;
    uint64_t need = ccq_copy_memory(plan, a);
    uint64_t wide = plan->transform ? 4 : 2; /* bytes of a weight */
    if (ccq_is_quantized(a->to))
        need = ccq_planes_size(a) + wide * ccq_entry_parameters(e) +
               (plan->ranks > 1 ? wide * (uint64_t)a->k * (uint64_t)a->n : 0) +
               (plan->transform ? ccq_transform_memory(plan->transform, e) : 0);
    if (e->weight_scale || e->pieces > 1 || e->piece[0].transposed)
        need += larger(a->bytes_in, e->piece[0].tensor->bytes);
    return need;
}

/* The smallest sizes that the job can do with, and the ones that let reading, encoding
 * and writing go on beside each other. */
typedef struct needs {
    uint64_t in_least, in, out_least, out, whole, columns;
    uint64_t all_in, all_out; /* everything at once: a small model needs no more */
} needs;

static void add_action(const ccq_plan *plan, const ccq_action *a, needs *n)
{
    uint64_t k = (uint64_t)a->k, width = (uint64_t)a->n;
    if (ccq_works_whole(plan, a)) {
        n->whole = larger(n->whole, whole_bytes(plan, a));
    } else if (ccq_is_quantized(a->to)) {
        n->in_least = larger(n->in_least, 2 * k * smaller(width, COLUMNS) + 64);
        n->in = larger(n->in, 2 * (2 * k * width + 64));
        n->out_least = larger(n->out_least, ccq_planes_size(a));
        n->out = larger(n->out, 2 * ccq_planes_size(a));
        n->all_in += (uint64_t)plan->ranks * (2 * k * width + 64);
        n->all_out += (uint64_t)plan->ranks * ccq_planes_size(a);
    } else {
        uint64_t row = a->to == CCQ_TYPE_F32 ? 4 * k * width : 2 * width;
        n->in_least = larger(n->in_least, row + 64);
        n->in = larger(n->in, 2 * (row + 64));
        n->all_in += a->bytes_out + 64 * (uint64_t)plan->ranks;
    }
    if (ccq_is_quantized(a->to))
        n->columns = larger(n->columns, width);
}

/* Nothing is read ahead. */
static void budget_calibrated(const ccq_plan *plan, int threads, uint64_t limit, ccq_budget *b)
{
    uint64_t least, streams;
    ccq_calibrate_memory(plan, threads, &least, &streams);
    b->least = b->base + least;
    b->spill = limit && (limit < b->least || limit - b->least < streams);
    b->total = b->least + (b->spill ? 0 : streams);
}

void ccq_budget_of(const ccq_plan *plan, int threads, uint64_t limit, ccq_budget *b)
{
    needs n = {0};
    for (size_t i = 0; i < plan->count; i++)
        add_action(plan, &plan->action[i], &n);
    *b = (ccq_budget){.whole = n.whole, .columns = n.columns};
    uint64_t tensors = ccq_layout_count(plan->layout) * (uint64_t)plan->ranks + plan->count;
    b->base = 16 * mebi + 1536 * tensors + 27 * n.columns +
              (uint64_t)threads * (ccq_tile_memory(plan) + mebi / 8);
    if (plan->transform)
        b->base += ccq_transform_scratch(plan->transform, threads);
    if (plan->options.calibration.kind) {
        b->in = n.in_least; /* for looking at an input again */
        b->out = n.out_least;
        budget_calibrated(plan, threads, limit, b);
        return;
    }
    b->least = b->base + b->whole + n.in_least + n.out_least;
    b->out = larger(n.out_least,
                    smaller(n.all_out, smaller(larger(n.out, out_usual), out_most)));
    b->in = larger(n.in_least, smaller(n.all_in, smaller(larger(n.in, in_usual), in_most)));
    uint64_t rest = limit > b->least ? limit - b->base - b->whole : n.in_least + n.out_least;
    if (limit && b->in + b->out > rest) {
        uint64_t spare = rest - n.in_least - n.out_least;
        b->out = smaller(b->out, n.out_least + spare / 4);
        b->in = rest - b->out;
    }
    b->total = b->base + b->whole + b->in + b->out;
}

uint64_t ccq_plan_memory(const ccq_plan *plan, int threads, uint64_t limit, uint64_t *least)
{
    ccq_budget b;
    ccq_budget_of(plan, threads, limit, &b);
    if (least)
        *least = b.least;
    return b.total;
}

int64_t ccq_block_columns(const ccq_budget *b, const ccq_action *a)
{
    uint64_t column = 2 * (uint64_t)a->k, half = b->in / 2 - 64;
    int64_t most = (int64_t)(half / column / COLUMNS) * COLUMNS, blocks;
    if (most >= a->n)
        return a->n;
    if (most < COLUMNS)
        return a->n < COLUMNS ? a->n : COLUMNS;
    blocks = (a->n + most - 1) / most; /* as even as they can be */
    return (a->n / blocks + COLUMNS - 1) / COLUMNS * COLUMNS;
}

int64_t ccq_window_rows(const ccq_budget *b, const ccq_action *a)
{
    uint64_t row = 2 * (uint64_t)a->n, window = smaller(b->in / 4, window_most);
    if (a->entry->piece[0].transposed) /* rows come in short parts: as few as can be */
        window = b->in / 2 > 64 ? b->in / 2 - 64 : 0;
    int64_t rows = row && row < window ? (int64_t)(window / row) : 1;
    return rows < a->k ? rows : a->k;
}
