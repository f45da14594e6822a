#include "kernels/gpu_feedback.h"

#include "kernels/gpu/feedback_pass.h"
#include "kernels/gpu/feedback_sums.h"
#include "kernels/gpu_device.h"

enum { PASSES = 4, ALIGN = 256 };

/* ---- Work memory --------------------------------------------------------- */

static void *take(char *base, size_t *at, int64_t count, size_t size)
{
    void *piece = base ? base + *at : NULL;

    *at += ((size_t)count * size + ALIGN - 1) / ALIGN * ALIGN;
    return piece;
}

/* Bytes of it; carved from base unless that is NULL. */
static size_t carve(ccq_fb *p, char *base)
{
    const size_t f = sizeof(float);
    int64_t n = ccq_fb_columns(p), all = n * p->k, lines = p->entries;
    int64_t arrays = lines > CCQ_FB_ARRAYS ? lines : CCQ_FB_ARRAYS;
    size_t at = 0;

    p->scale = take(base, &at, n, f);
    p->s = take(base, &at, n, f);
    p->by = take(base, &at, n, f);
    p->line_s = take(base, &at, lines * n, f);
    p->line_loss = take(base, &at, lines * n, sizeof(double));
    p->before = take(base, &at, n, sizeof(double));
    p->e = take(base, &at, n, sizeof *p->e);
    p->encoded = take(base, &at, n, 1);
    p->active = take(base, &at, n, 1);
    p->entry = take(base, &at, n, 1);
    p->rms = take(base, &at, all / CCQ_GROUP, f);
    p->w = take(base, &at, all, f);
    p->line_e = take(base, &at, arrays * all, f);
    p->line_bytes = take(base, &at, lines * all / CCQ_WINDOWS, 1);
    p->line_local = take(base, &at, lines * all / CCQ_GROUP, 1);
    p->bytes = take(base, &at, all / CCQ_WINDOWS, 1);
    p->local = take(base, &at, all / CCQ_GROUP, 1);
    p->changed = take(base, &at, p->strips * p->groups, 1);
    if (base) {
        p->d = p->line_e;
        p->x = p->d + all;
        p->r = p->x + all;
        p->hw = p->r + all;
        p->hx = p->hw + all;
    }
    return at;
}

static ccq_fb shape_of(int64_t k, int64_t n, int entries)
{
    return (ccq_fb){.k = k, .n = n, .groups = k / CCQ_GROUP,
                    .strips = (n + CCQ_FB_COLUMNS - 1) / CCQ_FB_COLUMNS, .entries = entries};
}

size_t ccq_gpu_feedback_work(const ccq_gpu *gpu, int64_t k, int64_t n, int entries)
{
    const size_t room = (size_t)ccq_gpu_describe(gpu)->shared_bytes;
    ccq_fb p = shape_of(k, n, entries);

    if (k < 1 || k % (2 * CCQ_GROUP) || n < 1 || n > INT32_MAX || k > 65535 * CCQ_GROUP ||
        entries < 1 || entries > CCQ_BOOKS || sizeof(ccq_fb_lines_shared) > room ||
        sizeof(ccq_fb_pass_shared) > room)
        return 0;
    return carve(&p, NULL);
}

/* ---- The sequence -------------------------------------------------------- */

/* Where the device has what lies at `host` in the metric. */
static const float *there(const ccq_gpu_feedback *in, const float *host)
{
    return (const float *)(const void *)((const char *)in->on_device +
                                         ((const char *)host - (const char *)in->metric));
}

static ccq_fb make(const ccq_encoder *enc, const ccq_feedback_params *params,
                   const ccq_gpu_feedback *in)
{
    const ccq_metric *m = in->metric;
    const int entries = params->leave & CCQ_FEEDBACK_NO_TABLE ? 1 : m->entries;
    ccq_fb p = shape_of(m->k, in->out.n, entries);

    p.width = params->leave & CCQ_FEEDBACK_FROZEN ? 0 : CCQ_FB_MIDDLE;
    p.joint = !(params->leave & CCQ_FEEDBACK_NO_JOINT);
    p.gain = params->gain;
    for (int i = 0; i < CCQ_BOOKS; i++)
        p.line[i] = (ccq_fb_line){enc->book[i].cs, enc->book[i].zp, enc->book[i].rms};
    p.norms = m->entries;
    p.u = there(in, m->u);
    p.h = there(in, m->h);
    p.metric = there(in, m->metric);
    p.norm = there(in, m->norm);
    p.turned_norm = there(in, m->turned_norm);
    p.value = there(in, m->value);
    p.target = in->target;
    p.original = in->original;
    p.rows = in->rows;
    p.out = in->out;
    carve(&p, in->out.work);
    if (p.original == p.target) {
        p.x = p.w;
        p.hx = p.hw;
    }
    return p;
}

static int passes(ccq_gpu *gpu, ccq_fb_run run, const ccq_fb *p, int64_t columns, int count)
{
    int code = run(gpu, CCQ_FB_JUDGE_FIRST, p, columns, 1, 1);

    for (int i = 0; i < count && !code; i++) {
        code = run(gpu, CCQ_FB_REFIT, p, columns, 1, 1);
        if (!code)
            code = run(gpu, CCQ_FB_PASS, p, p->strips, 1, 1);
        if (!code)
            code = run(gpu, CCQ_FB_SETTLE, p, p->strips, p->groups, 1);
        if (!code)
            code = run(gpu, CCQ_FB_JUDGE, p, columns, 1, 1);
    }
    return code;
}

int ccq_gpu_feedback_columns(ccq_gpu *gpu, ccq_fb_run run, const ccq_encoder *enc,
                             const ccq_feedback_params *params, const ccq_gpu_feedback *in)
{
    const int64_t k = in->metric->k, n = in->out.n;
    const int64_t columns = (n + CCQ_FB_THREADS - 1) / CCQ_FB_THREADS;
    int count = params->leave & CCQ_FEEDBACK_NO_PASSES ? 0
                                                       : params->passes ? params->passes : PASSES;
    int code;

    if (!in->metric->codes || in->out.k != k || !ccq_gpu_feedback_work(gpu, k, n, CCQ_BOOKS))
        return ccq_gpu_fail(gpu, CCQ_GPU_FAILED, "feedback over %lld x %lld: not served",
                            (long long)k, (long long)n);
    const ccq_fb p = make(enc, params, in);
    const struct {
        ccq_fb_kernel kernel;
        int64_t x, y, z;
    } first[] = {
        {CCQ_FB_MEASURE, p.strips, 1, 1},
        {CCQ_FB_GATHER, p.strips, p.groups, 1},
        {CCQ_FB_SCALES, columns, 1, 1},
        {CCQ_FB_LINES, p.strips, p.entries, 1},
        {CCQ_FB_CHOOSE, p.strips, p.groups, 1},
        {CCQ_FB_TIMES, p.strips, p.groups, p.original == p.target ? 2 : 3},
    };
    code = CCQ_GPU_OK;
    for (size_t i = 0; i < sizeof first / sizeof *first && !code; i++)
        code = run(gpu, first[i].kernel, &p, first[i].x, first[i].y, first[i].z);
    if (!code && count)
        code = passes(gpu, run, &p, columns, count);
    if (!code)
        code = run(gpu, CCQ_FB_FINISH, &p, columns, 1, 1);
    return code ? code : run(gpu, CCQ_FB_PLACE, &p, p.strips, p.groups / 2, 1);
}
