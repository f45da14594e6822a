/* What is finished of a job, on disk: staged shards, and the journal that says which of
 * their tensors are whole. The job hands in bytes and asks what is left to be done.
 *
 * Tensor i of tensor-parallel rank r has the number r * ccq_layout_count() + i. */
#ifndef CCQ_LIBCCQ_LEDGER_H
#define CCQ_LIBCCQ_LEDGER_H

#include "formats/stage.h"
#include "libccq/job.h"

typedef struct ccq_ledger ccq_ledger;

/* Text of plan.json: what makes this job this one. NULL: out of memory. */
char *ccq_plan_identity(const ccq_plan *plan, size_t *size);
/* What the stage is to know of the options; out->plan stays NULL. */
void ccq_stage_options_of(const ccq_quantize_options *o, ccq_stage_options *out);

/* Opens OUT/.ccq as the plan's options say. What an earlier run has recorded is read back
 * and its bytes are checked; what does not fit is done again, with a warning. Codes: those
 * of ccq_stage_open, NO_SPACE. */
ccq_code ccq_ledger_open(ccq_ledger **ledger, const ccq_plan *plan,
                         const ccq_quantize_run_options *run, ccq_error *err);
/* The last call: leaves OUT/.ccq for --resume where code says so (IO, NO_SPACE,
 * INTERRUPTED), else removes what this run created. NULL is fine. */
void ccq_ledger_close(ccq_ledger *ledger, ccq_code code);

/* 1: the output was in place already, and only debris was left. */
int ccq_ledger_finished(const ccq_ledger *ledger);
/* 1: an input is younger than the finished tensors: their sources are to be compared. */
int ccq_ledger_moved(const ccq_ledger *ledger);
/* 1: written by this process, and not finished. */
int ccq_ledger_wants(const ccq_ledger *ledger, size_t tensor);
/* 1: some stored tensor of the action is wanted in this tensor-parallel rank. */
int ccq_ledger_needs(const ccq_ledger *ledger, const ccq_action *a, int rank);
/* 1: finished, by whatever process or run; its bytes can be read back. */
int ccq_ledger_done(const ccq_ledger *ledger, size_t tensor);
/* Bytes of a finished tensor from offset. */
ccq_code ccq_ledger_read(const ccq_ledger *ledger, size_t tensor, uint64_t offset, void *dst,
                         uint64_t size, ccq_error *err);
/* CRC-32 of what a finished tensor was made from, as it was given. */
uint32_t ccq_ledger_source(const ccq_ledger *ledger, size_t tensor);

/* A ccq_put: bytes of a tensor in ascending order; last: there are no more of them. What
 * is not wanted is dropped. Records follow in batches, after the data is on disk. From one
 * thread at a time. */
ccq_code ccq_ledger_put(void *ledger, size_t tensor, uint64_t offset, const void *data,
                        uint64_t size, int last, ccq_error *err);
/* CRC-32 of the values that an action's tensors of a rank are made from; before their
 * last put. Without it their own bytes count as their source. */
void ccq_ledger_made_from(ccq_ledger *ledger, const ccq_action *a, int rank, uint32_t crc);
/* Everything put so far is on disk and in the journal. */
ccq_code ccq_ledger_flush(ccq_ledger *ledger, ccq_error *err);

/* INTERRUPTED, naming what is missing and who makes it, unless every tensor is finished.
 * Then checks every staged shard against the journal; all are ready for the commit. */
ccq_code ccq_ledger_complete(ccq_ledger *ledger, ccq_error *err);
/* CRC-32 of the stored bytes, by tensor number. */
const uint32_t *ccq_ledger_crcs(const ccq_ledger *ledger);
/* For side files; the ledger's until its commit. */
ccq_stage *ccq_ledger_stage(ccq_ledger *ledger);
/* ccq_stage_commit. On failure the work is kept, whatever the code. */
ccq_code ccq_ledger_commit(ccq_ledger *ledger, ccq_error *err);

#endif
