/* A model in memory: forward pass, batch decode, sampling, comparison with
 * stored or second-model logits (docs/design.md, "Inference").
 *
 * On the CPU a logit is the same bits whatever the threads, the batch, the
 * chunk of prefill rows, the instruction set and the layout of the weights;
 * only the option blas gives that up.
 *
 * A model is read-only once open: several sessions may use it, one step at a
 * time, because they share its pool. */
#ifndef CCQ_LIBCCQ_RUN_H
#define CCQ_LIBCCQ_RUN_H

#include "kernels/gpu.h"
#include "kernels/ops.h"
#include "libccq/pool.h"
#include "libccq/transform.h"

/* ---- Model --------------------------------------------------------------- */

enum { CCQ_FASTDEPLOY, CCQ_EXACT }; /* activations and cache: bf16 values, or fp32 */

/* y [rows][n] = x [rows][k] w [k][n], row strides in floats, on so many threads. */
typedef void (*ccq_sgemm)(int threads, int64_t rows, int64_t n, int64_t k, const float *x,
                          int64_t ldx, const float *w, int64_t ldw, float *y, int64_t ldy);

typedef struct ccq_model_options {
    int numerics;    /* CCQ_FASTDEPLOY (default), CCQ_EXACT */
    int rounding;    /* CCQ_ROUND_* of wint2 weights (default fused) */
    int fp32_logits; /* 1: logits are not rounded to bf16 in fastdeploy numerics */
    ccq_sgemm blas;  /* NULL, or what multiplies in place of our kernels (libccq/blas.h) */
    ccq_ops ops;     /* from ccq_ops_init */
    ccq_pool *pool;  /* outlives the model */
    ccq_gpu *gpu;    /* NULL, or the device that runs it; outlives the model */
    int gpu_models;  /* models that share the device's memory; 0 is 1 */
    /* NULL, or 1 when the caller wants to stop: asked between tensors while the model
     * is read and between layers of a step, which then give INTERRUPTED. */
    int (*cancelled)(void *ctx);
    void *cancel_ctx;
    uint64_t mem_limit; /* bytes for weights, cache and work space, else NO_MEMORY; 0: none */
    /* 1: for ccq_evaluate alone (BUG in a step): weights are read when their layer's turn
     * comes, and no more than one layer is in memory. mem_limit is then that of all models
     * and streams of an evaluation. */
    int layered;
    /* NULL, or what the weights are changed by as they are read, to fp32: only with layered,
     * and not for ccq_evaluate. */
    const ccq_transform *transform;
} ccq_model_options;

typedef struct ccq_model ccq_model;

/* Bytes of memory that the weights will take. */
uint64_t ccq_model_need(const ccq_source *src);
/* Reads all weights, as they are stored. src outlives the model. Codes: those of
 * the readers, UNSUPPORTED (linears with a bias), NO_MEMORY, UNAVAILABLE, INTERRUPTED. */
ccq_code ccq_model_open(ccq_model **model, const ccq_source *src, const ccq_model_options *options,
                        ccq_error *err);
void ccq_model_close(ccq_model *model); /* NULL is fine */
const ccq_source *ccq_model_source(const ccq_model *model);
const ccq_model_options *ccq_model_settings(const ccq_model *model);
uint64_t ccq_model_bytes(const ccq_model *model); /* weights in memory: the most there were */
/* MoE layers: count, and the layer number of the i-th. */
int64_t ccq_model_moe_layers(const ccq_model *model);
int32_t ccq_model_moe_layer(const ccq_model *model, int64_t i);
/* The first layer with a correction bias of 1 or more in size, where FastDeploy
 * itself may choose otherwise; -1: none. */
int64_t ccq_model_large_bias(const ccq_model *model);

/* ---- Session: the KV cache of some sequences ------------------------------ */

typedef struct ccq_session ccq_session;

/* Rows of one sequence in a step: they follow what its slot already holds. */
typedef struct ccq_span {
    size_t slot;
    size_t sequence; /* for messages and traces only */
    int64_t rows;    /* at least 1 */
    const int32_t *ids;
} ccq_span;

/* Router choices of the rows of the last step. ids in selection order. */
typedef struct ccq_routes {
    int64_t rows, layers, k; /* layers: MoE layers only */
    const int32_t *ids;      /* [rows][layers][k] */
    const float *weights;    /* [rows][layers][k] */
    const float *margin;     /* [rows][layers], infinite when every expert is chosen */
} ccq_routes;

/* capacity: positions of each slot. max_rows: most rows of one step. NO_MEMORY
 * when cache and work space do not fit in what there is (libccq/memory.h) or the limit. */
ccq_code ccq_session_open(ccq_session **session, const ccq_model *model, size_t slots,
                          const int64_t *capacity, int64_t max_rows, ccq_error *err);
void ccq_session_close(ccq_session *session); /* NULL is fine */
uint64_t ccq_session_cache_bytes(const ccq_session *session);
uint64_t ccq_session_work_bytes(const ccq_session *session);
void ccq_session_reset(ccq_session *session, size_t slot); /* forgets the slot's positions */
int64_t ccq_session_length(const ccq_session *session, size_t slot);
/* Runs the rows of all spans through every layer. A slot appears once. NONFINITE:
 * a router logit is NaN (layer, position and sequence are named). INTERRUPTED. */
ccq_code ccq_session_step(ccq_session *session, const ccq_span *spans, size_t count,
                          ccq_error *err);
/* Logits [count][vocab] of rows of the last step, numbered through its spans. */
ccq_code ccq_session_logits(ccq_session *session, const int64_t *rows, size_t count, float *logits,
                            ccq_error *err);
void ccq_session_routes(const ccq_session *session, ccq_routes *routes);

/* Where the time of steps and logits goes. */
typedef enum ccq_step_part {
    CCQ_STEP_ATTENTION, /* qkv, rope, scores, o */
    CCQ_STEP_DENSE,     /* dense layers and shared experts */
    CCQ_STEP_ROUTER,
    CCQ_STEP_EXPERTS, /* routed: gathering, products, weighted sums */
    CCQ_STEP_HEAD,
    CCQ_STEP_PARTS
} ccq_step_part;

const char *ccq_step_part_name(ccq_step_part part); /* "attention" ... */

typedef struct ccq_spent {
    double seconds[CCQ_STEP_PARTS];
    uint64_t bytes[CCQ_STEP_PARTS]; /* weights read, once a step: of experts those with rows */
} ccq_spent;

/* Since the session was opened. On a device only of steps while parts are timed, and steps are
 * then slower: each part is waited for. */
void ccq_session_spent(const ccq_session *session, ccq_spent *spent);
void ccq_session_time_parts(ccq_session *session, int on);
/* Sets how many positions a slot holds, at most its capacity; new ones are zeros, or on a
 * device whatever was there. For benchmarks: what the cache holds does not change how long a
 * step takes. */
void ccq_session_seek(ccq_session *session, size_t slot, int64_t length);

/* ---- What evaluate and generate share ------------------------------------- */

/* An evaluation layer by layer, as it was planned. Bytes. */
typedef struct ccq_layers_plan {
    uint64_t weights; /* of the largest layer, embedding or heads, with what reading takes */
    uint64_t cache, work;
    uint64_t rows;         /* of all sequences; each model keeps its own */
    int64_t step_rows;     /* at most, through a layer at a time */
    uint64_t kept, spilled; /* of rows and router choices: in memory, in temporary files */
    uint64_t total;        /* in memory, the most at any time */
} ccq_layers_plan;

typedef struct ccq_run_hooks {
    void *ctx;
    /* Once, before the first token: bytes of KV cache and of work space. */
    void (*memory)(void *ctx, uint64_t cache, uint64_t work);
    /* Every row that was run: layers x k choices of that row. */
    void (*trace)(void *ctx, size_t sequence, int64_t position, int32_t id,
                  const ccq_routes *one_row);
    /* Rows done of all; layer by layer: times layers and models. */
    void (*progress)(void *ctx, uint64_t done, uint64_t total);
    /* Before that of memory, in an evaluation layer by layer. */
    void (*layers)(void *ctx, const ccq_layers_plan *plan);
} ccq_run_hooks;

enum { CCQ_PREFILL_ROWS = 2048 }; /* default of prefill_rows */

/* ---- Evaluate: logits of given tokens -------------------------------------- */

typedef struct ccq_prompt {
    const int32_t *ids;
    int64_t length; /* at least 1 */
} ccq_prompt;

/* Logits of rows first..first+rows-1 of the wanted list. */
typedef struct ccq_eval_block {
    size_t first, rows;
    const float *logits[2]; /* [rows][vocab], of each model */
    /* Router choices of those rows, of each model; rows = 0 without MoE layers. */
    ccq_routes routes[2];
} ccq_eval_block;

typedef struct ccq_eval {
    ccq_model *model[2]; /* the second may be NULL */
    const ccq_prompt *prompts;
    size_t prompt_count;
    /* Wanted rows, ascending by (sequence, position). */
    const int32_t *row_seq, *row_pos;
    size_t row_count;
    int64_t prefill_rows; /* 0 = CCQ_PREFILL_ROWS */
    int no_routes; /* 1: blocks need no router choices, and may come without */
    /* Layer by layer: a directory for temporary files, where rows go that mem_limit leaves
     * no room for; NULL: then NO_MEMORY. */
    const char *spill_dir;
    ccq_run_hooks hooks;
    ccq_code (*block)(void *ctx, const ccq_eval_block *block, ccq_error *err);
    void *ctx; /* of block */
} ccq_eval;

/* Both models run over the same rows, group after group of sequences; or, when they were
 * opened with options.layered, one after the other with all rows through one layer after
 * another: the same bits, each weight read once (the embedding of a tied head twice), and
 * mem_limit of model[0] is that of everything: NO_MEMORY when one layer and one window do
 * not fit. A trace then comes at the end. *seconds (NULL allowed): time inside steps and
 * logits of model[0]; layer by layer reading its weights is part of that. */
ccq_code ccq_evaluate(const ccq_eval *eval, double *seconds, ccq_error *err);
/* Bytes of memory for weights, cache and work space of each model when they are resident;
 * eval->model is not looked at. src[1] may be NULL. */
ccq_code ccq_evaluate_need(const ccq_eval *eval, const ccq_source *const src[2],
                           const ccq_model_options *options, uint64_t need[2], ccq_error *err);

/* ---- Sampling --------------------------------------------------------------- */

typedef struct ccq_sampling {
    float temperature; /* default 1; 0 = argmax */
    double top_p;      /* default 1; 0 = argmax */
    int64_t top_k;     /* default 0 and -1: off; 1 = argmax */
    uint64_t seed;     /* default 0 */
} ccq_sampling;

void ccq_sampling_default(ccq_sampling *s);
/* Lowest id among the largest of the first valid logits. */
int32_t ccq_argmax(const float *logits, int64_t valid);
/* u in [0, 1) of (seed, step). */
double ccq_sample_uniform(uint64_t seed, uint64_t step);
/* The id drawn for this step among the first valid. scratch: valid items. */
typedef struct ccq_candidate {
    float z;
    int32_t id;
} ccq_candidate;
int32_t ccq_sample(const float *logits, int64_t valid, const ccq_sampling *s, uint64_t step,
                   ccq_candidate *scratch);
/* The n best of the first valid logits with their log softmax; returns how many. */
int ccq_top_logprobs(const float *logits, int64_t valid, int n, int32_t *ids, double *logprobs);

/* ---- Generate: batch decode --------------------------------------------------- */

enum { CCQ_FINISH_NONE, CCQ_FINISH_STOP, CCQ_FINISH_LENGTH };

typedef struct ccq_request {
    ccq_prompt prompt;
    ccq_sampling sampling;
    int64_t max_tokens;      /* at least 1 */
    const int32_t *stop_ids; /* end ids included; they are part of the output */
    size_t stop_count;
    /* results: out has room for max_tokens */
    int32_t *out;
    int64_t count;
    int finish; /* CCQ_FINISH_* */
} ccq_request;

typedef struct ccq_generate_options {
    int64_t valid;        /* ids below this may be drawn; 0 = vocabulary */
    size_t batch;         /* sequences at a time; 0 = all */
    int64_t prefill_rows; /* 0 = CCQ_PREFILL_ROWS */
    ccq_run_hooks hooks;
    /* Each token as it is drawn: its request, its number (0, 1, ...) and the
     * logits it came from. Returns 1 to end the sequence with "stop". */
    int (*token)(void *ctx, size_t request, int64_t number, int32_t id, const float *logits);
    void *ctx; /* of token */
} ccq_generate_options;

typedef struct ccq_timing {
    uint64_t prefill_rows, decode_rows;
    double prefill_s, decode_s;
} ccq_timing;

/* NONFINITE also when a logit is NaN. */
ccq_code ccq_generate(ccq_model *model, ccq_request *requests, size_t count,
                      const ccq_generate_options *options, ccq_timing *timing, ccq_error *err);

#endif
