/* What the two ways of evaluating share: which rows run together, and where they lie. */
#ifndef CCQ_LIBCCQ_EVALUATE_INTERNAL_H
#define CCQ_LIBCCQ_EVALUATE_INTERNAL_H

#include "libccq/layers.h"

enum { CCQ_EVAL_BLOCK = 256 }; /* rows of logits at a time */

typedef struct ccq_eval_work {
    const ccq_eval *e;
    int models;
    int64_t *need;   /* rows of each prompt up to its last wanted one */
    uint64_t *first; /* rows of all prompts before it */
    uint64_t total;  /* rows of all */
    /* by ccq_eval_groups */
    int64_t prefill_rows;
    size_t slots;      /* most prompts of a group */
    int64_t step_rows; /* most rows of a step */
    size_t *slot;      /* of each prompt, within its group */
    int64_t *capacity; /* [slots] */
    size_t *order;     /* [slots]: prompts of a group, longest first */
    ccq_span *span;    /* [slots] of a step */
    /* of a block of wanted rows, by ccq_eval_blocks: [block][vocab], [block][layers][k] */
    size_t block;
    float *logits[2];
    int32_t *ids[2];
    float *weights[2], *margin[2];
    size_t next; /* wanted rows done */
    double seconds; /* of model 0 */
} ccq_eval_work;

/* e is kept. Fills what comes before ccq_eval_groups. BUG: a wanted row that is not there. */
ccq_code ccq_eval_rows(ccq_eval_work *w, const ccq_eval *e, int models, ccq_error *err);
/* Cuts prompts in groups and steps of at most so many rows; may be called again. */
ccq_code ccq_eval_groups(ccq_eval_work *w, int64_t prefill_rows, ccq_error *err);
void ccq_eval_free(ccq_eval_work *w); /* safe when zeroed */

/* Prompts first..end-1 run together: as many as make prefill_rows rows. */
size_t ccq_eval_group_end(const ccq_eval_work *w, size_t first);
/* Spans of the next step of a group, in w->span: from row *done of prompt *at on. 0: none
 * is left. */
size_t ccq_eval_step(const ccq_eval_work *w, size_t end, size_t *at, int64_t *done);
int64_t ccq_eval_step_rows(const ccq_eval_work *w, size_t spans);
/* Position of a span's first row. */
int64_t ccq_eval_position(const ccq_eval_work *w, const ccq_span *p);
/* Wanted rows of the step, the first of which is number w->next; rows (NULL allowed) gets
 * their numbers in the step. */
size_t ccq_eval_pick(const ccq_eval_work *w, size_t spans, int64_t *rows);
/* Buffers of a block for each model; routes 0: without router choices. */
ccq_code ccq_eval_blocks(ccq_eval_work *w, size_t block, int routes, ccq_error *err);

/* ---- Layer by layer ----------------------------------------------------------- */

typedef struct ccq_eval_layers {
    ccq_eval_work *w;
    ccq_layers_plan plan;
    size_t block;
    int traced;            /* router choices of all rows of model 0 are kept */
    ccq_stream *x[2];      /* residual rows of all prompts */
    ccq_stream *routes[2]; /* [MoE layer][row]: k ids, k weights, margin */
    float *rows;           /* [step_rows][H]: where x is in a file */
    int64_t *wanted;       /* [step_rows]: wanted rows of a step */
    int32_t *record;       /* [step_rows or block] of routes */
    ccq_session *session[2];
    /* the pass at work */
    int i;
    ccq_layer layer;
    int64_t number, moe_at;
    uint64_t done;
} ccq_eval_layers;

const ccq_model *ccq_eval_model(const ccq_eval_layers *v, int i);
/* Are router choices of all rows kept? */
int ccq_eval_traced(const ccq_eval_layers *v, int i);
/* Bytes of the router choices of one row in one layer. */
size_t ccq_eval_record(const ccq_model *m);
/* evaluate_fit.c: plan, block, groups and streams within a limit (0: none). NO_MEMORY. */
ccq_code ccq_eval_fit(ccq_eval_layers *v, uint64_t limit, ccq_error *err);
/* evaluate_layers.c: with models that were opened with options.layered. */
ccq_code ccq_evaluate_layers(ccq_eval_work *w, ccq_error *err);

double ccq_eval_clock(void);

#endif
