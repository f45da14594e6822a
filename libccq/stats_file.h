/* Statistics of calibration in a file: the H of every expert's linears in the BF16 model,
 * for encoding without a forward pass (docs/format.md, "Statistics"). */
#ifndef CCQ_LIBCCQ_STATS_FILE_H
#define CCQ_LIBCCQ_STATS_FILE_H

#include "libccq/quantize.h"

/* ---- Writing ---------------------------------------------------------------- */

typedef struct ccq_stats_out ccq_stats_out;

/* Bytes of the file for a model; calibration: resolved. */
uint64_t ccq_stats_bytes(const ccq_arch *arch, const ccq_calibration *c);
ccq_code ccq_stats_create(ccq_stats_out **out, const char *path, const ccq_arch *arch,
                          const ccq_calibration *c, ccq_error *err);
/* h [k][k], not damped: of down or up_gate, of an expert or (expert -1, up_gate) of all. */
ccq_code ccq_stats_put(ccq_stats_out *out, int64_t layer, int64_t expert, int down,
                       const double *h, ccq_error *err);
/* How many tokens an expert saw. */
void ccq_stats_tokens(ccq_stats_out *out, int64_t layer, int64_t expert, int64_t tokens);
/* Frees out in any case. */
ccq_code ccq_stats_finish(ccq_stats_out *out, ccq_error *err);
void ccq_stats_abandon(ccq_stats_out *out); /* NULL is fine */

/* ---- Reading ---------------------------------------------------------------- */

typedef struct ccq_stats_in ccq_stats_in;

/* CONFIG: of a model of other sizes. Codes of ccq_checkpoint_open_file. */
ccq_code ccq_stats_open(ccq_stats_in **in, const char *path, const ccq_arch *arch,
                        ccq_error *err);
void ccq_stats_close(ccq_stats_in *in); /* NULL is fine */
/* kind (TOKENS or RANDOM), tokens, window, windows, shared and digest as they were; digest
 * covers all of the file. */
void ccq_stats_describe(const ccq_stats_in *in, ccq_calibration *c);
int64_t ccq_stats_seen(const ccq_stats_in *in, int64_t layer, int64_t expert);
/* CRC, NONFINITE. */
ccq_code ccq_stats_get(const ccq_stats_in *in, int64_t layer, int64_t expert, int down, double *h,
                       ccq_error *err);

#endif
