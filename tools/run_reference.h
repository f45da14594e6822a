/* Inside ccq-run: comparison with stored outputs. */
#ifndef CCQ_TOOLS_RUN_REFERENCE_H
#define CCQ_TOOLS_RUN_REFERENCE_H

#include "tools/run.h"

/* What a block of logits is compared with. */
typedef struct run_reference_job {
    run *r;
    ccq_compare *compare;
    const int32_t *target; /* [rows] */
} run_reference_job;

typedef struct run_greedy_job {
    run *r;
    const int32_t **theirs; /* [requests] */
    size_t *prompt;         /* of a request: prompts without a continuation are left out */
} run_greedy_job;

/* ccq_eval.block for rows of the reference; ctx: a run_reference_job. */
ccq_code run_reference_block(void *ctx, const ccq_eval_block *b, ccq_error *err);
/* ccq_generate_options.token: notes the first difference; ctx: a run_greedy_job. */
int run_on_greedy(void *ctx, size_t request, int64_t number, int32_t id, const float *logits);
/* Requests for the stored continuations, in q, j and out; how many. */
size_t run_greedy_requests(const run *r, const ccq_prompt *prompts, ccq_request *q,
                           run_greedy_job *j, int32_t *out);
/* run_forced.c: rows and continuations layer by layer; prompts are changed. */
ccq_code run_forced(const run_reference_job *j, ccq_prompt *prompts, ccq_error *err);

#endif
