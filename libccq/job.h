/* What the files of the quantizer share: policy, plan, pack, quantize, job. */
#ifndef CCQ_LIBCCQ_JOB_H
#define CCQ_LIBCCQ_JOB_H

#include "formats/config.h"
#include "libccq/manifest.h"
#include "libccq/quantize.h"

#define CCQ_RECIPE_NAME "ccq_recipe.json"
#define CCQ_INDEX_NAME "model.safetensors.index.json"
#define CCQ_WINT8_EXPERTS                                                                          \
    "FastDeploy does not load plain wint8 experts (its key map has no scale key for them); "      \
    "this output is for ccq's own tools"

/* Appends a formatted line. -1: out of memory. */
int ccq_text_add(ccq_text_list *list, const char *fmt, ...) CCQ_PRINTF(2, 3);
void ccq_text_free(ccq_text_list *list);

/* ---- policy.c: which tensor gets which type, and why ----------------------- */

/* Fills in the default layer and checks the options against the model. */
ccq_code ccq_policy_resolve(ccq_quantize_options *options, const ccq_source *src, ccq_error *err);
ccq_type ccq_policy_type(const ccq_quantize_options *options, const ccq_entry *e,
                         const char **why);
/* Rules A1 to A4 for one action, A8 and A9 over all: a line each in
 * plan->problems. -1: out of memory. */
int ccq_policy_check(ccq_plan *plan);

/* ---- pack.c: planes and stored tensors (docs/format.md) --------------------- */

typedef struct ccq_stored {
    const char *suffix; /* behind the entry's name */
    ccq_dtype dtype;
    int rank;
    uint64_t shape[2];
    ccq_bytes_kind kind;
} ccq_stored;

/* The stored tensors of an entry under a type; returns how many. */
int ccq_pack_describe(const ccq_entry *e, ccq_type to, ccq_stored out[5]);
/* Bytes of one of them. -1 when the product passes 2^64. */
int ccq_stored_bytes(const ccq_stored *s, uint64_t *bytes);

/* A quantized matrix as it will be stored: plane i is stored tensor i. */
typedef struct ccq_planes {
    ccq_type type;
    int64_t k, n;
    int count;
    void *plane[5];
    uint64_t bytes[5];
} ccq_planes;

ccq_code ccq_planes_new(ccq_planes *p, const ccq_entry *e, ccq_type to, ccq_error *err);
void ccq_planes_free(ccq_planes *p); /* safe on zeros */
/* Columns n0..n0+count-1; bytes and local of column j start at j * their length.
 * Different columns may be placed at once. */
void ccq_planes_place_wint2(ccq_planes *p, int64_t n0, int count, const ccq_column *column);
void ccq_planes_place_weight_only(ccq_planes *p, int64_t n, const int8_t *q, uint16_t scale);

/* ---- quantize.c: one tensor -------------------------------------------------- */

/* What lives as long as the job. */
typedef struct ccq_worker {
    void *memory; /* scratch of one tile, enough for the longest column of the plan */
    double encode_s;
} ccq_worker;

typedef struct ccq_engine {
    const ccq_plan *plan;
    const ccq_quantize_run_options *run;
    ccq_encoder encoder;
    ccq_worker *worker; /* one a pool thread */
    int workers;
    uint64_t encode_weights;
    ccq_progress done; /* finished tensors */
} ccq_engine;

ccq_code ccq_engine_init(ccq_engine *engine, const ccq_plan *plan,
                         const ccq_quantize_run_options *run, ccq_error *err);
void ccq_engine_free(ccq_engine *engine);
/* INTERRUPTED when the caller wants to stop. */
ccq_code ccq_engine_poll(const ccq_engine *engine, ccq_error *err);
/* Reads the matrix of an action and encodes its columns over the pool. */
ccq_code ccq_quantize_tensor(ccq_engine *engine, const ccq_action *a, ccq_planes *planes,
                             ccq_outcome *outcome, ccq_error *err);

/* ---- served.c: config.json of the output ------------------------------------- */

/* plan->config, with plan->changes and warnings. */
ccq_code ccq_served_config(ccq_plan *plan, ccq_error *err);

/* ---- job.c -------------------------------------------------------------------- */

/* Rows of a copied bf16 tensor that are held at once. */
int64_t ccq_copy_rows(const ccq_entry *e);

typedef struct ccq_sums {
    const uint32_t *tensor;  /* by number in the layout */
    const uint32_t *carried; /* by number in the plan */
    uint32_t index, recipe, config;
} ccq_sums;

/* The manifest of a plan. sums NULL: all zero, for its size is that of the real
 * one. NULL: out of memory. */
ccq_manifest *ccq_job_manifest(const ccq_plan *plan, size_t recipe_bytes, const ccq_sums *sums);

#endif
