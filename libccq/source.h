/* A model as it lies on disk: config.json and checkpoint together, every tensor
 * classified and checked against the other side, whatever names it uses. This
 * is the one place that knows names; quantize, inspect and run start here.
 *
 * Opening reads headers only. An open source is read-only: any number of
 * threads may look and read. */
#ifndef CCQ_LIBCCQ_SOURCE_H
#define CCQ_LIBCCQ_SOURCE_H

#include "formats/checkpoint.h"
#include "formats/config.h"
#include "formats/file.h"
#include "formats/types.h"
#include "kernels/ops.h"
#include "libccq/pool.h"

/* How a tensor of the model is stored. */
typedef enum ccq_type {
    CCQ_TYPE_BF16, /* F16, F32 and U16 inputs count as this and are rounded once on reading */
    CCQ_TYPE_F32,  /* router and correction bias */
    CCQ_TYPE_WINT8,
    CCQ_TYPE_WINT4,
    CCQ_TYPE_WINT2,
    CCQ_TYPE_FP8, /* e4m3fn with a scale for 128 x 128 weights */
    CCQ_TYPES
} ccq_type;

const char *ccq_type_name(ccq_type type); /* "bf16", "f32", "wint8", "wint4", "wint2",
                                           "block_wise_fp8" */

/* What a tensor is for. */
typedef enum ccq_role {
    CCQ_ROLE_EMBED,
    CCQ_ROLE_NORM_IN,   /* input_layernorm */
    CCQ_ROLE_QKV,       /* joined: q | k | v columns */
    CCQ_ROLE_O,
    CCQ_ROLE_NORM_POST, /* post_attention_layernorm */
    CCQ_ROLE_ROUTER,    /* mlp.gate.weight, [H, E] */
    CCQ_ROLE_ROUTER_BIAS, /* mlp.moe_statics.e_score_correction_bias, [1, E] */
    CCQ_ROLE_UP_GATE,   /* joined: gate | up columns */
    CCQ_ROLE_DOWN,
    CCQ_ROLE_VECTOR,    /* an unknown 1-D tensor: carried along and listed */
    CCQ_ROLE_NORM,      /* the last norm */
    CCQ_ROLE_HEAD
} ccq_role;

/* Where a linear stands. */
typedef enum ccq_block {
    CCQ_BLOCK_NONE,
    CCQ_BLOCK_ATTENTION,
    CCQ_BLOCK_DENSE,
    CCQ_BLOCK_SHARED,
    CCQ_BLOCK_EXPERT
} ccq_block;

/* One stored tensor that is a range of columns of an entry. */
typedef struct ccq_piece {
    const ccq_tensor *tensor;
    int transposed; /* stored [n][k] */
    int64_t n0, n;  /* columns n0..n0+n-1 of the entry */
} ccq_piece;

/* One tensor of the model, in Paddle's terms. */
typedef struct ccq_entry {
    /* Without ".weight" for what can be quantized:
     * "ernie.layers.3.mlp.experts.2.up_gate_proj"; whole otherwise:
     * "ernie.norm.weight", "lm_head.weight", "...o_proj.bias". */
    const char *name;
    ccq_role role;
    ccq_block block;
    int layer;  /* -1 outside layers */
    int expert; /* -1 outside experts */
    int bias;   /* the .bias of that role: k = 1 */
    ccq_type type;
    int64_t k, n; /* [k, n] in Paddle order; a vector has k = 1 */
    int pieces;
    ccq_piece piece[3]; /* the weight, or quant_weight alone */
    /* the other tensors of a quantized linear; NULL otherwise */
    const ccq_tensor *weight_scale, *super_scales, *code_scale, *code_zp;
    /* Of a model joined from rank directories: stored bytes of all ranks. k and n are
     * those of the whole, the tensors above those of ranks 0 and 1. 0 elsewhere. */
    uint64_t rank_bytes;
} ccq_entry;

/* 1 for what a scheme may quantize: qkv, o, up_gate, down (not their bias). */
int ccq_entry_linear(const ccq_entry *e);
/* Elements; and bytes as stored, all tensors of the entry. */
uint64_t ccq_entry_parameters(const ccq_entry *e);
uint64_t ccq_entry_bytes(const ccq_entry *e);

/* Sizes and constants of the model, config and tensors agreeing. */
typedef struct ccq_arch {
    int64_t layers, hidden, heads, kv_heads, head_dim, vocab;
    int64_t inter; /* width of dense layers; 0 when there are none */
    /* 0 in a model without experts; shared: how many, fused into one */
    int64_t experts, moe_inter, moe_k, shared;
    int64_t max_position;
    int64_t moe_start, moe_end; /* first and last MoE layer; moe_end < moe_start: none */
    double rope_theta, eps;
    int tied;        /* no lm_head.weight */
    int use_bias;    /* linears carry .bias */
    int correction_bias; /* e_score_correction_bias tensors exist */
    int aux_free;    /* and are to be used (0 only with an explicit moe_use_aux_free: false) */
    int torch_names;
    int64_t bos, pad;
    int64_t eos[8];
    int eos_count;
    uint8_t layer_moe[1024]; /* 1 = MoE */
    /* quantization */
    int quantized;        /* some linear is not BF16 */
    int order;            /* CCQ_ORDER_* of its wint2 tensors */
    int order_recorded;   /* 1: ccq_recipe.json says so; 0: assumed, or given by the caller */
} ccq_arch;

typedef struct ccq_source_options {
    int order;               /* CCQ_ORDER_*, or -1 (default): as recorded, else fastdeploy.
                                USAGE when it contradicts the record */
    /* "KEY=VALUE", each fills a gap of config.json (USAGE when KEY is there) */
    const char *const *set;
    size_t sets;
    int tp_rank;             /* of rank directories: that one alone, with the sizes of its
                                slices; -1 (default): all, joined */
} ccq_source_options;

enum { CCQ_MAX_RANKS = 1024 }; /* of tensor parallel */

typedef struct ccq_source {
    char *dir;
    ccq_checkpoint *files;
    ccq_config *config; /* with --set applied */
    ccq_stamp config_stamp; /* of its file, from before it was read */
    ccq_config *recipe; /* ccq_recipe.json, or NULL */
    ccq_arch arch;
    ccq_entry *entry; /* in model order: embedding, layers ascending, norm, head */
    size_t count;
    uint64_t parameters; /* elements of all entries */
    /* Tensors left out: multi-token prediction. Sorted. */
    const char **skipped;
    size_t skips;
    /* Things worth a line to a person: unknown vectors carried along, keys that
     * disagree without harm, an assumed K order. */
    char **note;
    size_t notes;
    char *memory; /* names */
    /* A model cut for tensor parallel (docs/format.md): how many ranks there are, 0 = not
     * cut; the one that was opened alone, -1 = joined. Joined, rank has each of them by
     * itself, and files, config and recipe are those of rank 0. */
    int ranks, tp_rank;
    struct ccq_source **rank;
} ccq_source;

/* options NULL = defaults. Codes: NO_INPUT, NO_CONFIG, CONFIG, UNKNOWN,
 * INCOMPLETE, SHAPE, DTYPE, UNSUPPORTED, USAGE and those of the readers. */
ccq_code ccq_source_open(ccq_source **src, const char *dir, const ccq_source_options *options,
                         ccq_error *err);
void ccq_source_close(ccq_source *src); /* NULL is fine */
/* Shards of all ranks; bytes (NULL allowed): their file sizes together. */
size_t ccq_source_shards(const ccq_source *src, uint64_t *bytes);
/* Path of the shard that holds a tensor of an entry, from src->dir: "rank0/model.safetensors". */
const char *ccq_source_shard_name(const ccq_source *src, const ccq_tensor *t, char *out,
                                  size_t size);
/* Every shard and config.json still as they were at opening, else CHANGED. */
ccq_code ccq_source_recheck(const ccq_source *src, ccq_error *err);

/* NULL when absent. bias: the .bias instead of the weight. */
const ccq_entry *ccq_source_find(const ccq_source *src, ccq_role role, ccq_block block, int layer,
                                 int expert, int bias);

/* The whole of an unquantized entry as bf16 [k][n], Paddle order; NONFINITE
 * names tensor and index. */
ccq_code ccq_source_read_bf16(const ccq_source *src, const ccq_entry *e, uint16_t *dst,
                              ccq_error *err);
/* Rows k0..k0+kc-1 of it; entries with transposed or several pieces are BUG here. */
ccq_code ccq_source_read_rows(const ccq_source *src, const ccq_entry *e, int64_t k0, int64_t kc,
                              uint16_t *dst, ccq_error *err);
/* Rows k0..k0+kc-1, columns n0..n0+nc-1 of an entry that is neither quantized nor joined
 * from ranks, to dst with row stride ld >= nc; values are not looked at. Quick for whole
 * rows (of a transposed tensor: whole columns), and good where a row's part is long. */
ccq_code ccq_source_read_block(const ccq_source *src, const ccq_entry *e, int64_t k0, int64_t kc,
                               int64_t n0, int64_t nc, uint16_t *dst, int64_t ld, ccq_error *err);
/* For who found NaN or Inf in a block: NONFINITE, naming tensor, number and first index. */
ccq_code ccq_source_blame(const ccq_source *src, const ccq_entry *e, ccq_error *err);
/* The whole as fp32; router and correction bias are not rounded, whatever they come in. */
ccq_code ccq_source_read_f32(const ccq_source *src, const ccq_entry *e, float *dst,
                             ccq_error *err);
/* A linear (or embedding, or head) as it is stored, for the kernels. *memory
 * owns all arrays: free it. Scales are checked to be finite. A linear joined from
 * ranks is decoded and comes as BF16 (wint2 with CCQ_ROUND_NONE: UNSUPPORTED). */
ccq_code ccq_source_load(const ccq_source *src, const ccq_entry *e, int rounding, ccq_weight *w,
                         void **memory, ccq_error *err);
/* The whole of an entry as bf16 [k][n], quantized or not: decoded with the
 * rounding (CCQ_ROUND_FUSED or UNZIP) over the pool. */
ccq_code ccq_source_decode(const ccq_source *src, const ccq_entry *e, int rounding,
                           const ccq_ops *ops, ccq_pool *pool, uint16_t *dst, ccq_error *err);

#endif
