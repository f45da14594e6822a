/* Two checkpoints side by side: configs key by key, which tensors there are, their
 * types and shapes, and their bytes. Nothing is decoded: what is stored counts. */
#ifndef CCQ_LIBCCQ_DIFF_H
#define CCQ_LIBCCQ_DIFF_H

#include "libccq/pool.h"

typedef enum ccq_diff_kind {
    CCQ_DIFF_CONFIG, /* a key of config.json or ccq_recipe.json */
    CCQ_DIFF_TENSOR, /* only one has it */
    CCQ_DIFF_SHAPE,  /* dtype or shape */
    CCQ_DIFF_VALUES,
    CCQ_DIFF_KINDS
} ccq_diff_kind;

const char *ccq_diff_kind_name(int kind); /* "config", "tensor", "shape", "values" */

typedef struct ccq_diff {
    ccq_diff_kind kind;
    char *name;        /* "config.json: rope_theta", or the tensor, "rank1/" in front; raw */
    char *a, *b;       /* what each side has, escaped; "" when it lacks the thing */
    uint64_t elements; /* VALUES: of the tensor; how many differ; the first, and where */
    uint64_t differ, first;
    uint64_t index[16]; /* CCQ_MAX_RANK */
    int rank;
} ccq_diff;

typedef struct ccq_diff_result {
    ccq_diff *diff; /* in the order of comparing; at most 1000 are kept */
    size_t diffs;
    uint64_t count[CCQ_DIFF_KINDS]; /* of all */
    uint64_t tensors;               /* that both have */
    uint64_t elements;              /* that differ, in all tensors */
} ccq_diff_result;

/* a and b: directories, or single .safetensors or .pdparams files. Codes: those of
 * opening; a difference is none. Memory: two chunks a thread. */
ccq_code ccq_diff_make(ccq_diff_result *result, const char *a, const char *b, ccq_pool *pool,
                       ccq_error *err);
void ccq_diff_free(ccq_diff_result *result);

#endif
