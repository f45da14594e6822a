/* The encoder's kernels run thread by thread, block after block. */
#include "kernels/gpu/encode_figures.h"
#include "kernels/gpu_device.h"
#include "kernels/gpu_feedback.h"

#include <stdlib.h>

/* A block of the search. */
typedef struct block {
    const ccq_gpu_columns *p;
    const ccq_gpu_encode_work *w;
    const ccq_gpu_line *lines;
    int threads, rounds;
    ccq_search_shared *sh;
    ccq_search_thread *th; /* [threads] */
} block;

_Static_assert(CCQ_BOOKS * sizeof(ccq_gpu_line) <= sizeof(ccq_encoder), "tables do not fit");

static int tables(ccq_gpu *gpu, const ccq_encoder *enc, void *to)
{
    ccq_gpu_line *line = to;

    (void)gpu;
    for (int i = 0; i < CCQ_BOOKS; i++)
        ccq_gpu_line_of(&enc->book[i], &line[i]);
    return CCQ_GPU_OK;
}

static size_t work_size(const ccq_gpu *gpu, int64_t k, int64_t n)
{
    if (k < 1 || k % (2 * CCQ_GROUP) || n < 1 ||
        ccq_search_shared_bytes(k) > ccq_gpu_describe(gpu)->shared_bytes)
        return 0;
    return ccq_gpu_encode_carve(NULL, k, n, NULL);
}

/* ---- What warps do together ---------------------------------------------- */

static void warps_most(block *b)
{
    for (int t = 0; t < b->threads; t++) {
        uint32_t *most = &b->sh->most[t / 32];
        *most = t % 32 && *most > b->th[t].most ? *most : b->th[t].most;
    }
}

static void warps_sum(block *b)
{
    for (int t = 0; t < b->threads; t++)
        b->sh->sum[t / 32] = (t % 32 ? b->sh->sum[t / 32] : 0) + b->th[t].sum;
}

/* Every thread gets its own and that of the one whose number differs in bit `other`. */
static void quads_add_energies(block *b, int other)
{
    for (int t = 0; t < b->threads; t++)
        for (int r = 0; r < CCQ_SEARCH_BLOCKS && !(t & other); r++)
            b->th[t].q[r] = b->th[t | other].q[r] = b->th[t].q[r] + b->th[t | other].q[r];
}

static void quads_add_sums(block *b, int other, int locals)
{
    for (int t = 0; t < b->threads; t++)
        for (int i = 0; i < locals && !(t & other); i++)
            b->th[t].j[i] = b->th[t | other].j[i] = b->th[t].j[i] + b->th[t | other].j[i];
}

/* ---- A column ------------------------------------------------------------ */

static int64_t task_of(const block *b, int round, int t)
{
    int64_t task = (int64_t)round * b->threads + t;
    return task < b->p->k / CCQ_GROUP * CCQ_SEARCH_QUAD ? task : -1;
}

static void measure(block *b, const uint16_t *x)
{
    float *rms = ccq_search_rms(b->sh);

    for (int t = 0; t < b->threads; t++)
        b->th[t].most = 0;
    for (int round = 0; round < b->rounds; round++) {
        for (int t = 0; t < b->threads; t++)
            if (task_of(b, round, t) >= 0)
                ccq_search_energies(&b->th[t], x + 16 * task_of(b, round, t), b->sh);
        quads_add_energies(b, 2);
        quads_add_energies(b, 1);
        for (int t = 0; t < b->threads; t++) {
            int64_t task = task_of(b, round, t);
            if (task >= 0)
                ccq_search_rms_keep(&b->th[t], task, rms);
        }
    }
    warps_most(b);
    ccq_search_measured(b->sh, b->threads);
}

static void search_round(block *b, const uint16_t *x, int round, float s, float book_rms,
                         int locals)
{
    const float *rms = ccq_search_rms(b->sh);
    int half = ccq_search_half(b->sh);
    uint8_t *bytes = ccq_search_bytes(b->sh, b->p->k, half);
    uint8_t *local = ccq_search_local(b->sh, b->p->k, half);

    for (int t = 0; t < b->threads; t++) {
        int64_t task = task_of(b, round, t);
        if (task >= 0)
            ccq_search_blocks(&b->th[t], x + 16 * task, b->sh, s, book_rms,
                              rms[task / CCQ_SEARCH_QUAD], locals);
    }
    quads_add_sums(b, 2, locals);
    quads_add_sums(b, 1, locals);
    for (int t = 0; t < b->threads; t++) {
        int64_t task = task_of(b, round, t);
        if (task >= 0)
            ccq_search_pick(&b->th[t], locals, task % CCQ_SEARCH_QUAD == 0, bytes + 4 * task,
                            local + task / CCQ_SEARCH_QUAD);
    }
}

static void try_scale(block *b, const uint16_t *x, ccq_trial trial)
{
    const ccq_gpu_line *line = &b->lines[trial.book];
    float s = ccq_search_scale(b->sh, line, trial);

    for (int t = 0; t < b->threads; t++) {
        ccq_search_line(b->sh, line, t, b->threads);
        b->th[t].sum = 0;
    }
    for (int round = 0; round < b->rounds; round++)
        search_round(b, x, round, s, line->rms, 2 * trial.width + 1);
    warps_sum(b);
    ccq_search_decide(b->sh, b->threads, trial.book, s);
}

static void search(block *b, int effort, int64_t n)
{
    const uint16_t *x = b->w->x + n * b->p->k;

    for (int t = 0; t < b->threads; t++)
        b->th[t].most = ccq_search_amax(x, b->p->k, t, b->threads);
    warps_most(b);
    ccq_search_begin(b->sh, b->threads);
    if (b->sh->encoded)
        measure(b, x);
    for (int i = 0; b->sh->encoded && i < ccq_trials(effort); i++)
        try_scale(b, x, ccq_trial_at(effort, i));
    for (int t = 0; t < b->threads; t++)
        ccq_search_end(b->sh, b->w, b->p->k, n, t, b->threads);
}

/* ---- The kernels --------------------------------------------------------- */

static void turn_all(const ccq_gpu_columns *p, const ccq_gpu_encode_work *w, int order)
{
    ccq_turn_shared sh;

    for (int64_t b = 0; b < ccq_turn_blocks(p->k, p->n); b++) {
        memset(&sh, 0xff, sizeof sh);
        for (int t = 0; t < CCQ_TURN_THREADS; t++)
            ccq_turn_read(p, order, b, t, &sh);
        for (int t = 0; t < CCQ_TURN_THREADS; t++)
            ccq_turn_write(p, w, b, t, &sh);
    }
}

static int search_all(ccq_gpu *gpu, const ccq_gpu_columns *p, const ccq_gpu_encode_work *w,
                      const ccq_gpu_line *lines, int effort)
{
    size_t size = (size_t)ccq_search_shared_bytes(p->k);
    block b = {p, w, lines, ccq_search_threads(p->k), ccq_search_rounds(p->k), malloc(size),
               calloc(CCQ_SEARCH_THREADS, sizeof *b.th)};
    int good = b.sh && b.th;

    for (int64_t n = 0; good && n < p->n; n++) {
        memset(b.sh, 0xff, size);
        search(&b, effort, n);
    }
    free(b.sh);
    free(b.th);
    return good ? CCQ_GPU_OK : ccq_gpu_fail(gpu, CCQ_GPU_NO_MEMORY, "host device: out of memory");
}

static void place_all(const ccq_gpu_columns *p, const ccq_gpu_encode_work *w)
{
    ccq_place_shared sh;

    for (int64_t b = 0; b < ccq_place_blocks(p->k, p->n); b++) {
        memset(&sh, 0xff, sizeof sh);
        for (int t = 0; t < CCQ_PLACE_THREADS; t++)
            ccq_place_read(p, w, b, t, &sh);
        for (int t = 0; t < CCQ_PLACE_THREADS; t++)
            ccq_place_write(p, w, b, t, &sh);
    }
}

static int columns(ccq_gpu *gpu, const void *lines, const ccq_encode_params *params,
                   const ccq_gpu_columns *p)
{
    ccq_gpu_encode_work w;
    int code;

    if (!work_size(gpu, p->k, p->n) || p->strip < 1)
        return ccq_gpu_fail(gpu, CCQ_GPU_FAILED, "host device: encoding %lld x %lld: not served",
                            (long long)p->k, (long long)p->n);
    ccq_gpu_encode_carve(p->work, p->k, p->n, &w);
    turn_all(p, &w, params->order);
    code = search_all(gpu, p, &w, lines, params->effort);
    for (int64_t n = 0; !code && n < p->n; n++)
        ccq_figures_of(p, &w, lines, params->gain, n);
    if (!code)
        place_all(p, &w);
    return code;
}

const ccq_gpu_encode_ops ccq_gpu_encode_host = {
    tables, columns, work_size, ccq_gpu_feedback_host, ccq_gpu_feedback_work,
};
