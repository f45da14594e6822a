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
/* The ids of all windows, one after another; the caller frees them. NULL: out of memory. */
int32_t *ccq_calibration_ids(const ccq_calibration *c, const ccq_arch *arch);

/* ---- calibrate.c ----------------------------------------------------------------- */

/* All tensors of the plan, by put as ccq_copy_tensor. result: outcomes, and the experts
 * without statistics. */
ccq_code ccq_calibrate(ccq_engine *engine, ccq_put put, void *ctx, ccq_quantize_result *result,
                       ccq_error *err);
/* Bytes of memory that takes; *least: the smallest limit it can keep. */
uint64_t ccq_calibrate_memory(const ccq_plan *plan, int threads, uint64_t limit, uint64_t *least);

#endif
