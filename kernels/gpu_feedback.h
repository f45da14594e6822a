/* Encoding with feedback as a sequence of kernels, which all devices share; a device only runs
 * one over so many blocks. Not for callers outside kernels/. */
#ifndef CCQ_KERNELS_GPU_FEEDBACK_H
#define CCQ_KERNELS_GPU_FEEDBACK_H

#include "kernels/gpu_encode.h"

#ifdef __cplusplus
extern "C" {
#endif

/* By strip; strip and group; strip and line; column (a thread each); strip and group for d, w
 * and x; strip and pair of groups. */
typedef enum ccq_fb_kernel {
    CCQ_FB_MEASURE, CCQ_FB_GATHER, CCQ_FB_SCALES, CCQ_FB_LINES, CCQ_FB_CHOOSE, CCQ_FB_TIMES,
    CCQ_FB_JUDGE_FIRST, CCQ_FB_JUDGE, CCQ_FB_REFIT, CCQ_FB_PASS, CCQ_FB_SETTLE, CCQ_FB_FINISH,
    CCQ_FB_PLACE
} ccq_fb_kernel;

struct ccq_fb;

/* x by y by z blocks. Fills gpu->error on failure. */
typedef int (*ccq_fb_run)(ccq_gpu *gpu, ccq_fb_kernel kernel, const struct ccq_fb *p, int64_t x,
                          int64_t y, int64_t z);

int ccq_gpu_feedback_columns(ccq_gpu *gpu, ccq_fb_run run, const ccq_encoder *enc,
                             const ccq_feedback_params *params, const ccq_gpu_feedback *p);
/* The devices'. */
int ccq_gpu_feedback_host(ccq_gpu *gpu, const ccq_encoder *enc, const ccq_feedback_params *params,
                          const ccq_gpu_feedback *p);
int ccq_gpu_feedback_cuda(ccq_gpu *gpu, const ccq_encoder *enc, const ccq_feedback_params *params,
                          const ccq_gpu_feedback *p);
size_t ccq_gpu_feedback_work(const ccq_gpu *gpu, int64_t k, int64_t n, int entries);

#ifdef __cplusplus
}
#endif

#endif
