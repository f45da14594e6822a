/* Calibrated quantization (docs/design.md, "Calibration"): layer after layer, the BF16
 * model and the part already quantized run over the same tokens side by side, and the
 * experts' codes are chosen for the inputs they will really see. */
#ifndef CCQ_LIBCCQ_CALIBRATE_H
#define CCQ_LIBCCQ_CALIBRATE_H

#include "libccq/job.h"

/* ---- calib_tokens.c ----------------------------------------------------------- */

/* Fills in tokens, window, windows and digest, and checks the rest against the scheme and
 * the model. */
ccq_code ccq_calibration_resolve(ccq_quantize_options *o, const ccq_source *src, ccq_error *err);
/* CHANGED: a recipe wants another digest. */
ccq_code ccq_calibration_check(const ccq_calibration *c, ccq_error *err);
/* The ids of all windows, one after another; the caller frees them. NULL: out of memory. */
int32_t *ccq_calibration_ids(const ccq_calibration *c, const ccq_arch *arch);

/* ---- calibrate.c ----------------------------------------------------------------- */

/* Where tensors go, and what of them an earlier run has finished. All take ctx. */
typedef struct ccq_calib_sink {
    ccq_put put;
    /* CRC-32 of the values that an action is made from, bf16, or fp32 where a transform
     * made them; before its last put. */
    void (*made_from)(void *ctx, const ccq_action *a, uint32_t crc);
    int (*done)(void *ctx, size_t tensor);
    /* 1: this process is to write it, and has not. */
    int (*wants)(void *ctx, size_t tensor);
    ccq_code (*read)(void *ctx, size_t tensor, void *dst, uint64_t size, ccq_error *err);
    int (*stopping)(void *ctx); /* 1: no tensor is to be begun any more */
    void *ctx;
} ccq_calib_sink;

/* All tensors of the plan; what is finished is read back in place of being encoded.
 * result: outcomes, what each layer was like, and what was without statistics. */
ccq_code ccq_calibrate(ccq_engine *engine, const ccq_calib_sink *sink, ccq_quantize_result *result,
                       ccq_error *err);
/* ---- calib_memory.c -------------------------------------------------------------- */

/* Bytes of memory beside those of a job without: what there must be, and for the streams,
 * which lie in a file where that is too much. */
void ccq_calibrate_memory(const ccq_plan *plan, int threads, uint64_t *least, uint64_t *streams);

#endif
