/* Inside the ledger. */
#ifndef CCQ_LIBCCQ_LEDGER_INTERNAL_H
#define CCQ_LIBCCQ_LEDGER_INTERNAL_H

#include "formats/journal.h"
#include "libccq/ledger.h"

/* Of a stored tensor. */
enum {
    CCQ_TENSOR_DONE = 1,   /* whole, in a staged shard */
    CCQ_TENSOR_SOURCE = 2, /* source is set */
    CCQ_TENSOR_KNOWN = 4   /* a journal has it; its bytes have not been checked */
};

/* A staged file, of whatever rank. */
typedef struct ccq_ledger_shard {
    char *name;      /* "model.safetensors", "rank0/model.safetensors" */
    uint64_t bytes;
    size_t rank, number; /* of tensor parallel; in the layout */
    int owner;       /* the process that writes it */
    size_t left;     /* tensors that are not done */
    uint64_t have;   /* bytes of those that are, and of the header once it is written */
    ccq_out *out;    /* NULL before its first and after its last tensor */
    int adopted;     /* takes part in the commit */
} ccq_ledger_shard;

struct ccq_ledger {
    const ccq_plan *plan;
    const ccq_quantize_run_options *run;
    ccq_stage *stage;
    ccq_journal *journal;
    ccq_ledger_shard *shard; /* rank after rank */
    size_t shards, tensors;  /* of all ranks */
    uint8_t *state;          /* CCQ_TENSOR_*, by tensor */
    uint32_t *crc, *source;
    size_t *order;           /* tensor numbers by shard and offset */
    size_t *fresh;           /* put whole, and not yet in the journal */
    size_t fresh_count;
    uint64_t fresh_bytes;
};

ccq_code ccq_ledger_no_memory(ccq_error *err);
const ccq_layout_tensor *ccq_ledger_tensor(const ccq_ledger *l, size_t tensor);
ccq_ledger_shard *ccq_ledger_shard_of(const ccq_ledger *l, size_t tensor);
int ccq_ledger_mine(const ccq_ledger *l, const ccq_ledger_shard *s);
/* INTERRUPTED as soon as the caller wants to stop. */
ccq_code ccq_ledger_poll(const ccq_ledger *l, ccq_error *err);
/* For people: a line about the job. */
void ccq_ledger_warn(const ccq_ledger *l, const char *fmt, ...) CCQ_PRINTF(2, 3);
/* Does the staged tensor have the CRC of its record? */
ccq_code ccq_ledger_check(const ccq_ledger *l, size_t tensor, int *good, ccq_error *err);
/* Reads every journal in OUT/.ccq and opens this process's own at the end of its good
 * part. Tensors become KNOWN. */
ccq_code ccq_ledger_read_journals(ccq_ledger *l, ccq_error *err);
/* INTERRUPTED, with the files that are not finished and who makes them, unless all are. */
ccq_code ccq_ledger_missing(ccq_ledger *l, ccq_error *err);
/* Which process writes which shard: the largest first, to the one that has least. */
ccq_code ccq_ledger_assign(ccq_ledger_shard *shard, size_t count, int world, ccq_error *err);

#endif
