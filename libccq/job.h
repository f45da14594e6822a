/* What the files of the quantizer share: policy, plan, pack, quantize, job. */
#ifndef CCQ_LIBCCQ_JOB_H
#define CCQ_LIBCCQ_JOB_H

#include "formats/config.h"
#include "libccq/internal.h"
#include "libccq/manifest.h"
#include "libccq/quantize.h"

#define CCQ_RECIPE_NAME "ccq_recipe.json"
#define CCQ_INDEX_NAME "model.safetensors.index.json"
#define CCQ_WINT8_EXPERTS                                                                          \
    "FastDeploy does not load plain wint8 experts (its key map has no scale key for them); "      \
    "this output is for ccq's own tools"

/* ---- rules.c: REGEX=TYPE ---------------------------------------------------- */

typedef struct ccq_rules ccq_rules;

/* USAGE: no '=', an unknown type, no POSIX extended expression, a Perl escape. */
ccq_code ccq_rules_new(ccq_rules **rules, const ccq_quantize_options *options, ccq_error *err);
void ccq_rules_free(ccq_rules *rules); /* NULL is fine */
/* 1 and the last rule that matches: its type and text. Every match counts as use. */
int ccq_rules_match(ccq_rules *rules, const ccq_entry *e, ccq_type *type, const char **text);
/* USAGE, with near names, when a rule has matched no entry. */
ccq_code ccq_rules_check(const ccq_rules *rules, const ccq_source *src, ccq_error *err);

/* ---- policy.c: which tensor gets which type, and why ----------------------- */

/* Fills in the default layer and checks the options against the model. */
ccq_code ccq_policy_resolve(ccq_quantize_options *options, const ccq_source *src, ccq_error *err);
/* Sets to, why and chosen of an action with its entry; a tensor that must not be
 * quantized becomes a problem. -1: out of memory. */
int ccq_policy_choose(ccq_plan *plan, ccq_rules *rules, ccq_action *a);
/* Sizes that ranks cannot share, and what their slices must be beyond A1 to A6: a line
 * each in plan->problems. -1: out of memory. */
int ccq_policy_ranks(ccq_plan *plan);
/* Rules A1 to A4, A6 and A8 for each action, A9 over all, and mixes that no
 * loader reads: a line each in plan->problems. Sets w4_end. -1: out of memory. */
int ccq_policy_check(ccq_plan *plan);

/* ---- pack.c: planes and stored tensors (docs/format.md) --------------------- */

typedef struct ccq_stored {
    const char *suffix; /* behind the entry's name; NULL: the torch name of part */
    int part;           /* as ccq_slot.part */
    int transposed;     /* [n][k] */
    int64_t n0, n;      /* columns of the action's matrix (bf16 and f32) */
    ccq_dtype dtype;
    int rank;
    uint64_t shape[2];
    ccq_bytes_kind kind;
} ccq_stored;

/* The stored tensors of an action; returns how many. arch: for the widths of
 * torch's separate projections. */
int ccq_pack_describe(const ccq_action *a, const ccq_arch *arch, int names, ccq_stored out[5]);
/* Name of a stored tensor: LIMIT when size bytes are too few. */
ccq_code ccq_pack_name(const ccq_action *a, const ccq_stored *s, int names, char *out, size_t size,
                       ccq_error *err);
/* Bytes of one of them. -1 when the product passes 2^64. */
int ccq_stored_bytes(const ccq_stored *s, uint64_t *bytes);

/* A quantized matrix as it will be stored: plane i is stored tensor i. */
typedef struct ccq_planes {
    ccq_type type;
    int64_t k, n;
    int count;
    void *memory; /* all of them */
    void *plane[5];
    uint64_t bytes[5];
} ccq_planes;

/* Bytes of memory for the planes of a rank's slice, and those planes in it, zeroed. */
uint64_t ccq_planes_size(const ccq_action *a);
void ccq_planes_place(ccq_planes *p, const ccq_action *a, void *memory);
/* Columns n0..n0+count-1; bytes and local of column j start at j * their length.
 * Different columns may be placed at once. */
void ccq_planes_place_wint2(const ccq_ops *ops, ccq_planes *p, int64_t n0, int count,
                            const ccq_column *column);

/* ---- budget.c: memory --------------------------------------------------------- */

int ccq_is_quantized(ccq_type type);
/* 1 for what is not read ahead, and not in parts: quantized or joined inputs, what a
 * transform changes, and float tensors under torch names. */
int ccq_works_whole(const ccq_plan *plan, const ccq_action *a);

typedef struct ccq_budget {
    uint64_t in, out; /* the rings of what has been read, and of what is to be written */
    uint64_t whole;   /* for what is worked whole */
    uint64_t base;    /* the rest of the process */
    uint64_t total;   /* these four */
    uint64_t least;   /* the smallest limit that the job can keep */
    uint64_t columns; /* of the widest matrix that is quantized */
    int spill;        /* calibration's streams lie in a file */
} ccq_budget;

/* limit: bytes, 0 = none. A smaller one than least is treated as least. */
void ccq_budget_of(const ccq_plan *plan, int threads, uint64_t limit, ccq_budget *b);
/* Columns of a block, and rows of a window, that are read at once. */
int64_t ccq_block_columns(const ccq_budget *b, const ccq_action *a);
int64_t ccq_window_rows(const ccq_budget *b, const ccq_action *a);

/* ---- quantize.c: one tensor -------------------------------------------------- */

/* What lives as long as the job. */
typedef struct ccq_worker {
    void *memory; /* scratch of one tile, enough for the longest column of the plan */
    double encode_s;
} ccq_worker;

/* What a device did of the encoding. */
typedef struct ccq_device_figures {
    uint64_t weights, blocks;
    uint64_t cpu_blocks; /* that were for the device, and the CPU did */
    double seconds;      /* with something on the way there, there or on the way back */
    int gone;            /* it has failed under statistics: the CPU does the rest */
} ccq_device_figures;

typedef struct ccq_engine {
    const ccq_plan *plan;
    const ccq_quantize_run_options *run;
    ccq_budget budget;
    ccq_encoder encoder;
    ccq_worker *worker; /* one a pool thread */
    int workers;
    double *figures; /* by column: error, energy, largest error */
    uint8_t *status; /* CCQ_COLUMN_* */
    uint64_t encode_weights;
    ccq_device_figures device;
    ccq_progress done; /* finished tensors */
    const uint8_t *skip; /* by action and rank: not read; NULL: all are */
} ccq_engine;

/* USAGE when run->mem_limit is too small. */
ccq_code ccq_engine_init(ccq_engine *engine, const ccq_plan *plan,
                         const ccq_quantize_run_options *run, ccq_error *err);
void ccq_engine_free(ccq_engine *engine);
/* Scratch of a thread. */
uint64_t ccq_tile_memory(const ccq_plan *plan);
/* INTERRUPTED when the caller wants to stop. */
ccq_code ccq_engine_poll(const ccq_engine *engine, ccq_error *err);
/* The matrix of an action's entry, whole and transformed, in bf16; the caller frees it. */
ccq_code ccq_read_matrix(const ccq_engine *engine, const ccq_action *a, uint16_t **w,
                         ccq_error *err);
/* Columns n0..n0+nc-1 of a rank's slice. */
typedef struct ccq_columns {
    const ccq_action *a;
    int rank;
    int64_t n0, nc;
    int64_t strip;     /* columns that lie together, nc at most: [a->k][strip], one after the
                          other; a multiple of 32 or nc, under block_wise_fp8 of 128 */
    const uint16_t *w;
    const float *f;    /* not NULL: in its place */
} ccq_columns;
/* Figures by column. */
typedef struct ccq_figures {
    const double *error, *energy, *max_error;
    const uint8_t *status; /* CCQ_COLUMN_* */
} ccq_figures;
/* Adds those of columns to outcome, in order. NONFINITE: one is HUGE. */
ccq_code ccq_quantize_sum(const ccq_engine *engine, const ccq_columns *c, const ccq_figures *f,
                          ccq_outcome *outcome, ccq_error *err);
/* Encodes them over the pool into their place in the planes; adds to outcome. */
ccq_code ccq_quantize_columns(ccq_engine *engine, const ccq_columns *c, ccq_planes *planes,
                              ccq_outcome *outcome, ccq_error *err);

/* ---- copy.c: tensors that stay float ----------------------------------------- */

/* Where the bytes go: those of a tensor in ascending order, last with the last. Tensor i
 * of rank r has the number r * ccq_layout_count() + i. */
typedef ccq_code (*ccq_put)(void *ctx, size_t tensor, uint64_t offset, const void *data,
                            uint64_t size, int last, ccq_error *err);
ccq_code ccq_copy_tensor(const ccq_engine *engine, const ccq_action *a, ccq_put put, void *ctx,
                         ccq_error *err);
/* Bytes of memory that needs at most. */
uint64_t ccq_copy_memory(const ccq_plan *plan, const ccq_action *a);

/* ---- served.c: config.json of the output ------------------------------------- */

/* plan->config, with plan->changes and warnings. */
ccq_code ccq_served_config(ccq_plan *plan, ccq_error *err);

/* ---- recipe.c ------------------------------------------------------------------ */

/* The transform that a recipe asks of src; NULL: none. */
ccq_code ccq_recipe_transform(ccq_transform **t, const ccq_config *recipe, const ccq_source *src,
                              ccq_error *err);

/* ---- job.c -------------------------------------------------------------------- */

typedef struct ccq_sums {
    const uint32_t *tensor;  /* by number, rank after rank */
    const uint32_t *carried; /* by number in the plan */
    uint32_t index, recipe, config;
} ccq_sums;

/* The manifest of a plan. sums NULL: all zero, for its size is that of the real
 * one. NULL: out of memory. */
ccq_manifest *ccq_job_manifest(const ccq_plan *plan, size_t recipe_bytes, const ccq_sums *sums);

#endif
