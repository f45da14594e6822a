/* Inside the job: what its files share. */
#ifndef CCQ_LIBCCQ_JOB_INTERNAL_H
#define CCQ_LIBCCQ_JOB_INTERNAL_H

#include "libccq/device_encode.h"
#include "libccq/ledger.h"
#include "libccq/pipeline.h"

#include <stdatomic.h>

typedef struct ccq_job {
    const ccq_plan *plan;
    const ccq_quantize_run_options *caller;
    ccq_quantize_run_options run; /* the caller's, with some time between a signal and the end */
    atomic_llong stop_at;         /* nanoseconds; 0: nobody wants to stop */
    ccq_engine engine;
    ccq_ledger *ledger; /* NULL: nothing is kept */
    ccq_put put;        /* takes what is made */
    void *put_ctx;
    ccq_pipe *pipe;
    ccq_device_encoder *device; /* NULL: the CPU encodes */
    ccq_planes planes; /* of the slice at work */
    uint32_t source;   /* CRC-32 of its columns so far */
    uint8_t *skip;     /* by action and rank: not read */
    uint32_t *side;    /* CRC-32 by carried file */
} ccq_job;

/* Passes on the caller's callbacks; a signal counts after some time. */
void ccq_job_wrap(ccq_job *j, const ccq_quantize_run_options *run);
ccq_code ccq_job_no_memory(ccq_error *err);
uint32_t ccq_job_crc(uint32_t crc, const void *data, uint64_t size);
/* 1 as soon as the caller wants to stop. */
int ccq_job_stopping(const ccq_job *j);

/* ---- job_tensors.c ------------------------------------------------------------------ */

/* Everything that the ledger needs, or (skip is set) what is not skipped, to put. */
ccq_code ccq_job_tensors(ccq_job *j, ccq_quantize_result *result, ccq_error *err);

/* ---- job_compare.c ------------------------------------------------------------------ */

/* Reads what finished tensors were made from once more: CHANGED when it is not the same. */
ccq_code ccq_job_compare(ccq_job *j, ccq_error *err);

/* ---- job_matrix.c -------------------------------------------------------------------- */

/* Is called with each slice of a matrix that is worked whole: columns [k][n] in bf16, or
 * fp32 under a transform; source is the CRC-32 of their bytes. */
typedef ccq_code (*ccq_slice_fn)(ccq_job *j, const ccq_columns *c, uint32_t source, void *ctx,
                                 ccq_error *err);
ccq_code ccq_job_matrix(ccq_job *j, const ccq_action *a, ccq_slice_fn fn, void *ctx,
                        ccq_error *err);

/* ---- job_side.c ---------------------------------------------------------------------- */

/* Stages everything but the shards, in the order of the commit. */
ccq_code ccq_job_side_files(ccq_job *j, ccq_error *err);
/* Side files that the old output's manifest lists: they belong to its model. */
ccq_code ccq_job_forget_old(ccq_job *j, ccq_error *err);
/* CHANGED unless the output in place says that it was made by this plan. */
ccq_code ccq_job_same_output(const ccq_job *j, ccq_error *err);

#endif
