/* The quantizer: a plan from headers alone, then the job that carries it out.
 *
 *     ccq_quantize_defaults(&options);
 *     ccq_source_open(&src, input, NULL, &err);
 *     ccq_plan_make(&plan, src, &options, output, &err);   what --dry-run shows
 *     ccq_quantize_run(plan, &run, &result, &err);         what is then written
 *
 * Output bytes are a function of the input and the options: threads, ISA and
 * the time of day have no part in them. */
#ifndef CCQ_LIBCCQ_QUANTIZE_H
#define CCQ_LIBCCQ_QUANTIZE_H

#include "formats/checkpoint.h"
#include "kernels/encode.h"
#include "kernels/gpu.h"
#include "libccq/pool.h"
#include "libccq/source.h"
#include "libccq/transform.h"

/* Raised whenever the same input and options may give other bytes. */
#define CCQ_OUTPUT_VERSION 1

typedef enum ccq_scheme {
    CCQ_SCHEME_WINT2, /* experts wint4 up to w4_end_layer, wint2 above; other linears wint8 */
    CCQ_SCHEME_WINT4, /* experts wint4, other linears wint8 */
    CCQ_SCHEME_WINT8, /* every linear wint8 */
    CCQ_SCHEME_FP8,   /* every linear block_wise_fp8 */
    CCQ_SCHEME_BF16,  /* nothing: names and layout are converted, a quantized input is decoded */
    CCQ_SCHEMES
} ccq_scheme;

/* "wint2", "wint4", "wint8", "block_wise_fp8", "bf16"; NULL past the end */
const char *ccq_scheme_name(int scheme);

enum {
    CCQ_NAMES_PADDLE,
    CCQ_NAMES_TORCH /* scheme bf16 only: separate projections, [out, in], torch config.json */
};

#define CCQ_W4_DEFAULT INT64_MIN

/* Which options the caller chose: a recipe fills in the others. */
enum {
    CCQ_SET_SCHEME = 1,
    CCQ_SET_W4_END = 2,
    CCQ_SET_ORDER = 4,
    CCQ_SET_RULE = 8,
    CCQ_SET_EFFORT = 16,
    CCQ_SET_GAIN = 32,
    CCQ_SET_SHARD = 64,
    CCQ_SET_NAMES = 128,
    CCQ_SET_FORCE = 256,
    CCQ_SET_TP = 512,
    CCQ_SET_TRANSFORM = 1024,
    CCQ_SET_TRANSFORM_SEED = 2048,
    CCQ_SET_CALIBRATION = 4096
};

/* ---- Calibration (docs/design.md, "Calibration") --------------------------- */

enum {
    CCQ_CALIBRATE_NONE,   /* weights alone */
    CCQ_CALIBRATE_TOKENS, /* statistics of given tokens */
    CCQ_CALIBRATE_RANDOM, /* of ids drawn uniformly */
    CCQ_CALIBRATE_STATS   /* from a file that save_stats made */
};

/* Steps left out, for benchmarks of what each is worth (0: none). */
enum {
    CCQ_LEAVE_TABLE = 1,     /* the default line alone */
    CCQ_LEAVE_PASSES = 2,    /* no coordinate descent */
    CCQ_LEAVE_JOINT = 4,     /* no joint move in it */
    CCQ_LEAVE_LOOP = 8,      /* local scales frozen before the loop */
    CCQ_LEAVE_CROSS = 16,    /* no cross-covariance targets */
    CCQ_LEAVE_RESIDUAL = 32, /* no residual target of down */
    CCQ_LEAVE_ALPHA = 64,    /* alpha 1 in place of the cross-fitted one */
    CCQ_LEAVE_SHRINK = 128,  /* kappa = 0 */
    CCQ_LEAVE_WEIGHTS = 256, /* tokens of down not weighted by r^2 */
    CCQ_LEAVE_SPREAD = 512   /* windows from the beginning of the file on */
};

typedef struct ccq_calibration {
    int kind;           /* CCQ_CALIBRATE_* */
    const int32_t *ids; /* TOKENS: all of the file, below the vocabulary; must outlive the plan */
    size_t count;
    int64_t tokens;         /* at most so many; 0: 65536, or 16 H E / k where that is more */
    int64_t window;         /* tokens that see each other (default 2048; resolved: at most the
                               context and what there is) */
    int64_t windows;        /* resolved */
    uint64_t seed;          /* RANDOM */
    int64_t valid;          /* RANDOM: ids below it; 0: the vocabulary */
    int random;             /* resolved: 1: of ids at random, now or when STATS was made */
    int shared;             /* 1: one H a layer, 0 (default): one an expert */
    const char *stats;      /* STATS: the file; must outlive the plan */
    const char *save_stats; /* NULL, or where to keep one-shot statistics */
    uint32_t digest;        /* resolved: CRC-32 of the ids in use, or of the statistics */
    int is_wanted;          /* 1: digest must be this one, a recipe's; else CHANGED */
    uint32_t wanted;
    unsigned leave;         /* CCQ_LEAVE_* */
} ccq_calibration;

typedef struct ccq_quantize_options {
    int scheme;           /* CCQ_SCHEME_* (default wint2) */
    int64_t w4_end_layer; /* last layer, over all layers, whose experts are wint4; -1: none
                             (default CCQ_W4_DEFAULT: first MoE layer + 3, at most the last) */
    int order;            /* CCQ_ORDER_* (default fastdeploy) */
    int rule;             /* CCQ_RULE_* (default gpu): integers of wint8 and wint4 */
    int effort;           /* CCQ_EFFORT_* (default normal) */
    int gain;             /* eighths, 0..8 (default 4) */
    int names;            /* CCQ_NAMES_* (default paddle) */
    uint64_t shard_bytes; /* tensor bytes of one shard (default 5,000,000,000; 0: one file) */
    /* "REGEX=TYPE" each: POSIX extended, searched in the Paddle name of every tensor
     * (with and without ".weight"); the last one that matches decides. The texts
     * must outlive the plan. */
    char *const *tensor_type;
    size_t tensor_types;
    int tensor_parallel; /* ranks, 1..1024 (default 1: not cut) */
    unsigned transform;  /* CCQ_TRANSFORM_* (default 0: none) */
    uint64_t transform_seed; /* signs of the rotation, at most 2^53 (default 1) */
    int force;     /* 1: tensor_type may quantize lm_head, which FastDeploy does not load */
    unsigned set;  /* CCQ_SET_* */
    int overwrite;        /* 1: a checkpoint in the output directory is replaced */
    int resume;           /* 1: the output directory holds an unfinished job, which goes on */
    int no_sync;          /* 1: no fsync (tests); the manifest says so */
    uint64_t sync_bytes;  /* written between two records in the journal (default 256 MiB) */
    int rank, world;      /* this process of so many (default 0 of 1): it does its shards */
    int finalize;         /* 1: only what is left when all processes are done */
    int look;             /* 1: the output is there, and is only looked at */
    ccq_calibration calibration;
} ccq_quantize_options;

void ccq_quantize_defaults(ccq_quantize_options *options);

typedef struct ccq_text_list {
    char **text;
    size_t count, cap;
} ccq_text_list;

void ccq_text_free(ccq_text_list *list);
/* -1: out of memory. */
int ccq_text_add(ccq_text_list *list, const char *fmt, ...) CCQ_PRINTF(2, 3);

/* Reads a ccq_recipe.json: fills what options->set does not name (w4_end_layer
 * and names only beside the recipe's own scheme) and appends its tensor types to
 * *types, which goes before the caller's own. CONFIG: an unknown key, or a value
 * that is none of the key's. */
ccq_code ccq_recipe_read(ccq_quantize_options *options, ccq_text_list *types, const char *path,
                         ccq_error *err);

/* ---- The plan ------------------------------------------------------------ */

/* The kinds that sizes are counted by; names as in "wint2 quant_weight". */
typedef enum ccq_bytes_kind {
    CCQ_BYTES_EMBED,
    CCQ_BYTES_HEAD,
    CCQ_BYTES_NORMS,
    CCQ_BYTES_WINT8_WEIGHT,
    CCQ_BYTES_WINT8_SCALE,
    CCQ_BYTES_ROUTER,
    CCQ_BYTES_ROUTER_BIAS,
    CCQ_BYTES_WINT4_WEIGHT,
    CCQ_BYTES_WINT4_SCALE,
    CCQ_BYTES_WINT2_WEIGHT,
    CCQ_BYTES_WINT2_SCALE,
    CCQ_BYTES_WINT2_SUPER,
    CCQ_BYTES_WINT2_CODE_SCALE,
    CCQ_BYTES_WINT2_CODE_ZP,
    CCQ_BYTES_FP8_WEIGHT,
    CCQ_BYTES_FP8_SCALE,
    CCQ_BYTES_LINEAR, /* left in bf16 */
    CCQ_BYTES_BIAS,
    CCQ_BYTES_VECTOR,
    CCQ_BYTES_KINDS
} ccq_bytes_kind;

const char *ccq_bytes_kind_name(int kind);

/* What happens to one entry of the source, or to the lm_head that a rotation adds: it is
 * read (and transformed), cut into one slice [k][n] a rank, and each slice becomes a type
 * and is stored. Not cut, the slice is the whole. */
typedef struct ccq_action {
    const ccq_entry *entry;
    ccq_type to;
    const char *why; /* the rule that chose it: "experts above w4-end-layer" */
    int chosen;      /* by a tensor_type */
    int64_t k, n;
    uint64_t bytes_in, bytes_out; /* of all ranks */
    int tensors;      /* stored tensors it becomes */
    size_t tensor[5]; /* their numbers in a rank's layout, in the order of docs/format.md */
} ccq_action;

/* A file carried over as it is. */
typedef struct ccq_carried {
    char *name;
    uint64_t bytes;
    ccq_stamp stamp; /* when it was planned */
} ccq_carried;

typedef struct ccq_plan {
    const ccq_source *src; /* must outlive the plan */
    char *output;
    ccq_quantize_options options; /* resolved: w4_end_layer is a layer or -1 */
    ccq_transform *transform;     /* NULL: none */
    ccq_action *action;           /* one an entry, in model order */
    size_t count;
    int ranks;          /* 1: not cut */
    ccq_layout *layout; /* of one rank; all ranks have the same */
    ccq_config *config; /* config.json of the output */
    ccq_carried *carried;
    size_t carries;
    uint64_t kind_bytes[CCQ_BYTES_KINDS];
    uint64_t bytes_in, tensor_bytes; /* tensor data read and written */
    uint64_t index_bytes;            /* of one rank; the sums below are over all */
    uint64_t header_bytes;           /* shard headers and indexes */
    uint64_t side_bytes;             /* config, recipe, manifest and carried files */
    uint64_t total_bytes;            /* the three together: every byte of the output */
    uint64_t parameters, quantized;  /* all, and those in no float type */
    int64_t w4_end;                  /* last layer with wint4 experts as the loader is told; -1 */
    double bits_per_weight;          /* tensor bits over parameters; 0 without parameters */
    uint64_t free_bytes;
    int fits; /* free_bytes covers total_bytes + 64 MiB */
    ccq_text_list problems; /* rules of docs/format.md that are broken, a line each */
    ccq_code problem;       /* of the first */
    ccq_text_list warnings;
    ccq_text_list changes; /* what config.json says differently, a line each */
} ccq_plan;

/* Reads headers only and creates nothing. With broken rules the code of the
 * first is returned, err has its text, and *plan is there all the same with all
 * of them in problems; after other failures *plan is NULL. Codes: USAGE (an
 * option, INPUT and OUTPUT in each other), SHAPE_RULE, CONFIG, UNSUPPORTED
 * (quantized input), EXISTS, CREATE and those of the readers. Too little space
 * is no failure here: see fits. */
ccq_code ccq_plan_make(ccq_plan **plan, const ccq_source *src,
                       const ccq_quantize_options *options, const char *output, ccq_error *err);
void ccq_plan_free(ccq_plan *plan); /* NULL is fine */
/* NOT_A_FILE when a file of the input is a link. */
ccq_code ccq_plan_no_links(const ccq_plan *plan, ccq_error *err);
/* Bytes of memory the process will hold at most during the job: as many as let it read,
 * encode and write at once, or limit (0 = none) where that is less. *least (NULL allowed):
 * the smallest limit that the job can keep. */
uint64_t ccq_plan_memory(const ccq_plan *plan, int threads, uint64_t limit, uint64_t *least);
/* Text of ccq_recipe.json: the options that repeat this output. The caller
 * frees it; NULL: out of memory. */
char *ccq_recipe_text(const ccq_plan *plan, size_t *size);

/* ---- The job ------------------------------------------------------------- */

/* What became of one tensor. */
typedef struct ccq_outcome {
    double error, energy; /* sums of (w - w^)^2 and w^2; both 0 where nothing is quantized */
    double max_error;
    uint64_t zero_columns; /* written as zeros: all zero, or too small for the format */
} ccq_outcome;

/* -10 log10(error / energy); NaN when copied, or when there is nothing to compare
 * (no energy); infinite when exact. */
double ccq_outcome_sqnr(const ccq_outcome *o);

typedef struct ccq_progress {
    size_t tensors;             /* finished */
    uint64_t bytes_in, bytes_out; /* of finished tensors and the part done of this one */
} ccq_progress;

/* Callbacks (NULL allowed). progress and tensor come from one thread at a time;
 * cancelled from any. */
typedef struct ccq_quantize_run_options {
    ccq_pool *pool;
    const ccq_ops *ops;
    void *ctx;
    int (*cancelled)(void *ctx); /* 1: finish the tensors at work, then INTERRUPTED */
    void (*progress)(void *ctx, const ccq_progress *p);
    void (*tensor)(void *ctx, size_t i, const ccq_outcome *o); /* action i is encoded */
    uint64_t mem_limit; /* bytes of memory for all of the process; 0: none */
    void (*warn)(void *ctx, const char *text); /* a line for a person; from one thread */
    ccq_gpu *gpu; /* encodes wint2 columns; NULL: the CPU does */
} ccq_quantize_run_options;

/* What calibration saw of a layer with experts. */
typedef struct ccq_calib_layer {
    int64_t layer;
    double per_row;        /* tokens of an expert, mean, over the rows of its up_gate */
    double alpha;          /* share of the residual taken back: sum over alpha_experts */
    int64_t alpha_experts;
    int64_t without;       /* linears without statistics */
} ccq_calib_layer;

typedef struct ccq_quantize_result {
    ccq_outcome *outcome; /* one an action; free with ccq_quantize_result_free */
    double type_sqnr[CCQ_TYPES]; /* over all tensors of a type; NaN when none */
    double encode_s; /* CPU seconds inside the encoding of wint2 columns, all workers */
    uint64_t encode_weights;
    /* On the device: these, in so many blocks of columns, and seconds with a block on its way
     * there, there or on its way back; blocks that the CPU did in its place. */
    uint64_t device_weights, device_blocks, device_cpu_blocks;
    double device_s;
    double wall_s;
    uint64_t zero_columns;
    ccq_text_list without_statistics; /* experts' linears that saw too few tokens */
    ccq_calib_layer *layer;           /* of calibration, in order */
    size_t layers;
} ccq_quantize_result;

/* Writes the plan's output whole; or, of several processes, this one's shards. After
 * INTERRUPTED, IO and NO_SPACE what is finished stays in OUT/.ccq for resume; after other
 * failures nothing stays that this run created (an old checkpoint under overwrite stays as
 * it was until the commit). Codes: those of the readers and of the stage, USAGE (mem_limit
 * is too small; nothing has been created), NO_SPACE, NONFINITE, CHANGED (resume: another
 * job, or another input), INTERRUPTED (finalize too: some processes are not done). */
ccq_code ccq_quantize_run(const ccq_plan *plan, const ccq_quantize_run_options *run,
                          ccq_quantize_result *result, ccq_error *err);
/* Gathers the statistics that options->calibration.save_stats names, and quantizes nothing.
 * run: pool, ops, cancelled, and progress, whose tensors are layers here. */
ccq_code ccq_stats_gather(const ccq_source *src, const ccq_quantize_options *options,
                          const ccq_quantize_run_options *run, ccq_error *err);
void ccq_quantize_result_free(ccq_quantize_result *result);

/* ---- One tensor once more --------------------------------------------------- */

typedef struct ccq_tensor_check {
    char tensor[4200];         /* stored tensor that differs, "" when none does */
    char file[300];            /* where it is */
    uint64_t at, file_at;      /* first byte that differs: in the tensor, and in the file */
    uint8_t found, wanted;     /* there, and as it is made now */
    uint64_t bytes;            /* compared */
    int tensors;               /* stored tensors compared, of all ranks */
} ccq_tensor_check;

/* Makes the tensor called name (of the model, with or without ".weight", or stored) as the plan
 * says and compares it with plan->output, which options.look left alone. run NULL: only looks
 * whether that has one of this kind. USAGE: there is no such tensor. UNSUPPORTED: it depends on
 * more than itself (calibration). SHAPE, DTYPE, INCOMPLETE: the output has another one, or none. */
ccq_code ccq_check_tensor(const ccq_plan *plan, const ccq_quantize_run_options *run,
                          const char *name, ccq_tensor_check *result, ccq_error *err);

#endif
