/* The kernels of encoding with feedback, block after block, thread by thread. */
#include "kernels/gpu_feedback.h"

#include "kernels/gpu/feedback_pass.h"
#include "kernels/gpu/feedback_sums.h"
#include "kernels/gpu_device.h"

#include <stdlib.h>
#include <string.h>

/* Shared memory of a block, whichever it is, and its threads. */
typedef struct block {
    union {
        ccq_fb_measure_shared measure;
        ccq_fb_gather_shared gather;
        ccq_fb_lines_shared lines;
        ccq_fb_chain chain;
        ccq_fb_pass_shared pass;
    } sh;
    ccq_fb_thread th[CCQ_FB_THREADS];
} block;

typedef void (*by_column)(const ccq_fb *p, int64_t column);

static void judge_first(const ccq_fb *p, int64_t column)
{
    ccq_fb_judge(p, column, 1);
}

static void judge(const ccq_fb *p, int64_t column)
{
    ccq_fb_judge(p, column, 0);
}

static void columns(const ccq_fb *p, int64_t x, by_column f, int64_t end)
{
    for (int64_t i = x * CCQ_FB_THREADS; i < (x + 1) * CCQ_FB_THREADS && i < end; i++)
        f(p, i);
}

static void times(const ccq_fb *p, int64_t x, int64_t y, int64_t z, block *b)
{
    const float *from = z == 0 ? p->d : z == 1 ? p->w : p->x;

    ccq_fb_times(p, x, y, from, z == 0 ? p->r : z == 1 ? p->hw : p->hx, &b->sh.chain, b->th);
}

static void one(ccq_fb_kernel kernel, const ccq_fb *p, int64_t x, int64_t y, int64_t z, block *b)
{
    const int64_t all = ccq_fb_columns(p);

    switch (kernel) {
    case CCQ_FB_MEASURE: ccq_fb_measure(p, x, &b->sh.measure); break;
    case CCQ_FB_GATHER: ccq_fb_gather(p, x, y, &b->sh.gather); break;
    case CCQ_FB_SCALES: columns(p, x, ccq_fb_scales, all); break;
    case CCQ_FB_LINES: ccq_fb_lines(p, x, (int)y, &b->sh.lines, b->th); break;
    case CCQ_FB_CHOOSE: ccq_fb_choose(p, x, y); break;
    case CCQ_FB_TIMES: times(p, x, y, z, b); break;
    case CCQ_FB_JUDGE_FIRST: columns(p, x, judge_first, all); break;
    case CCQ_FB_JUDGE: columns(p, x, judge, all); break;
    case CCQ_FB_REFIT: columns(p, x, ccq_fb_refit, all); break;
    case CCQ_FB_PASS: ccq_fb_pass(p, x, &b->sh.pass, b->th); break;
    case CCQ_FB_SETTLE: ccq_fb_settle(p, x, y, &b->sh.chain, b->th); break;
    case CCQ_FB_FINISH: columns(p, x, ccq_fb_finish, p->n); break;
    case CCQ_FB_PLACE: ccq_fb_place(p, x, y); break;
    }
}

/* Shared memory and registers begin as anything. */
static int run(ccq_gpu *gpu, ccq_fb_kernel kernel, const ccq_fb *p, int64_t x, int64_t y,
               int64_t z)
{
    block *b = aligned_alloc(64, (sizeof *b + 63) / 64 * 64);

    if (!b)
        return ccq_gpu_fail(gpu, CCQ_GPU_NO_MEMORY, "host device: out of memory");
    for (int64_t i = 0; i < x * y * z; i++) {
        memset(b, 0xff, sizeof *b);
        one(kernel, p, i % x, i / x % y, i / x / y, b);
    }
    free(b);
    return CCQ_GPU_OK;
}

int ccq_gpu_feedback_host(ccq_gpu *gpu, const ccq_encoder *enc, const ccq_feedback_params *params,
                          const ccq_gpu_feedback *p)
{
    return ccq_gpu_feedback_columns(gpu, run, enc, params, p);
}
