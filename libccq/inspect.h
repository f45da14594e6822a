/* Looking at a model: sizes by type and layer, one tensor in detail, errors
 * against the source it was made from, faults.
 *
 * Nothing here changes a source; results belong to the caller and are freed by
 * the function beside them (safe on a zeroed struct, and after a failure). */
#ifndef CCQ_LIBCCQ_INSPECT_H
#define CCQ_LIBCCQ_INSPECT_H

#include "libccq/pool.h"
#include "libccq/source.h"

/* ---- Summary -------------------------------------------------------------- */

typedef enum ccq_part {
    CCQ_PART_ATTENTION, /* qkv_proj, o_proj */
    CCQ_PART_MLP,       /* dense up_gate_proj, down_proj */
    CCQ_PART_SHARED,    /* shared_experts */
    CCQ_PART_EXPERTS,
    CCQ_PARTS
} ccq_part;

const char *ccq_part_name(int part); /* "attention", "mlp", "shared", "experts" */

/* What is counted together: entries, their elements, their stored bytes (all
 * tensors of a quantized linear). */
typedef struct ccq_total {
    uint64_t entries, parameters, bytes;
} ccq_total;

/* 8 * bytes / parameters; 0 when there are none. */
double ccq_total_bits(const ccq_total *t);

/* The linears of one part of one layer, biases left out. */
typedef struct ccq_layer_part {
    ccq_total total;
    unsigned types; /* bit 1 << CCQ_TYPE_* of each type in it; 0 = the layer has no such part */
} ccq_layer_part;

/* "wint2"; "bf16+wint8" where types are mixed. out holds 32 bytes. */
const char *ccq_part_type(const ccq_layer_part *part, char *out, size_t size);
/* "pp_acc" (wint2), "per_channel" (wint4, wint8), "block_wise" (block_wise_fp8), "none"
 * (not quantized), "mixed". */
const char *ccq_part_granularity(const ccq_layer_part *part);
/* Rows that share a scale: 64 (wint2), 128 (block_wise_fp8); 0 where one scale
 * serves a whole column, without scales, and where types are mixed. */
int ccq_part_group_size(const ccq_layer_part *part);

typedef struct ccq_layer_row {
    int layer;
    ccq_layer_part part[CCQ_PARTS];
} ccq_layer_row;

/* 1 when a and b differ in nothing but their number. */
int ccq_layer_same(const ccq_layer_row *a, const ccq_layer_row *b);

typedef struct ccq_summary {
    ccq_total all, quantized, type[CCQ_TYPES];
    uint64_t file_bytes; /* the shards, headers included */
    ccq_layer_row *layer;
    size_t layers;
    /* Top-level keys of config.json in file order; the texts belong to the source. */
    const char **used, **ignored;
    size_t useds, ignoreds;
} ccq_summary;

ccq_code ccq_summary_make(ccq_summary *summary, const ccq_source *src, ccq_error *err);
void ccq_summary_free(ccq_summary *summary);

/* ---- One tensor ----------------------------------------------------------- */

typedef struct ccq_values {
    uint64_t count, zeros, nonfinite;
    double min, max, mean, rms; /* over the finite ones; 0 when there are none */
} ccq_values;

/* One line (code_scale, code_zp) and how many columns use it. */
typedef struct ccq_line_use {
    float cs, zp;
    uint64_t columns;
} ccq_line_use;

enum { CCQ_DETAIL_TENSORS = 7 };

typedef struct ccq_detail {
    const ccq_entry *entry;
    const ccq_tensor *tensor[CCQ_DETAIL_TENSORS]; /* as stored: weight or pieces, then scales */
    int tensors;
    ccq_values values; /* weight_scale (wint8, wint4), super_scales (wint2), else the weights */
    uint64_t code[256]; /* wint2: bytes; wint8: q + 128; wint4: q + 8 (16 used);
                           block_wise_fp8: e4m3fn */
    uint64_t local[16]; /* wint2: local scales */
    int32_t v_min, v_max; /* wint2: over all 256 bytes of all lines */
    ccq_line_use *line;   /* wint2: distinct lines, the most used first */
    size_t lines;
} ccq_detail;

/* Reads the whole entry, a window at a time: of a model joined from rank
 * directories in every rank; tensor has those of rank 0. */
ccq_code ccq_detail_make(ccq_detail *detail, const ccq_source *src, const ccq_entry *e,
                         ccq_error *err);
void ccq_detail_free(ccq_detail *detail);

/* ---- Against the source --------------------------------------------------- */

/* Differences between a decoded weight q (model, fused rounding) and w (base),
 * sums in fp64, rows ascending inside a column, then columns ascending. */
typedef struct ccq_difference {
    double error, energy; /* sums of (w - q)^2 and w^2 */
    double dot, energy_q; /* sums of w q and q^2 */
    double max_abs;       /* largest |w - q| */
    uint64_t parameters;
    int equal; /* bit for bit */
} ccq_difference;

/* -10 log10(error / energy); infinite when error is 0, NaN when only energy is. */
double ccq_difference_sqnr(const ccq_difference *d);
double ccq_difference_rel_l2(const ccq_difference *d); /* sqrt(error / energy); NaN: no energy */
double ccq_difference_cosine(const ccq_difference *d); /* NaN: no energy on one side */
/* Sums of both. */
void ccq_difference_add(ccq_difference *total, const ccq_difference *d);

typedef struct ccq_against_options {
    ccq_pool *pool;
    const ccq_ops *ops;
    void *ctx;
    /* Entry i of count of the model, in model order, on the caller's thread. Return
     * not 0 to stop (INTERRUPTED). */
    int (*row)(void *ctx, size_t i, size_t count, const ccq_entry *e, const ccq_difference *d);
} ccq_against_options;

/* Every entry of model against the entry of base with its name. Names and shapes
 * are compared before anything is read: INCOMPLETE, SHAPE. base must not be
 * quantized: UNSUPPORTED. Holds one tensor of each side at a time. */
ccq_code ccq_against(const ccq_source *model, const ccq_source *base,
                     const ccq_against_options *options, ccq_error *err);

/* At most count wint2 matrices, spread over the model, with the K order that model was
 * opened with: sum of their differences, and how many (0: it has none). Which of two
 * orders fits is plain from the two sums. As ccq_against otherwise; row is not called. */
ccq_code ccq_against_sample(const ccq_source *model, const ccq_source *base,
                            const ccq_against_options *options, size_t *count,
                            ccq_difference *sum, ccq_error *err);

/* ---- Faults --------------------------------------------------------------- */

typedef struct ccq_finding {
    ccq_code code;
    char *file;    /* inside the directory: "config.json"; "" for the directory */
    char *tensor;  /* not escaped; "" when it is about none */
    char *message; /* one line, names escaped */
} ccq_finding;

typedef struct ccq_verify_result {
    ccq_finding *finding; /* in the order of checking; at most 1000 are kept */
    size_t findings;
    ccq_finding *warning; /* deep: tensors that are all zero; code OK; no fault; at most 1000 */
    size_t warnings;
    char **note; /* worth a line, no fault */
    size_t notes;
    uint64_t dropped; /* findings over the 1000 */
    uint64_t tensors; /* tensors looked at */
} ccq_verify_result;

/* Deep verification: the quick one (pool NULL), and everything below it. */
typedef struct ccq_verify_options {
    ccq_pool *pool; /* not NULL: deep. The manifest's checksum of every tensor, every value
                       finite, every weight decoded, what all ranks hold equal, tensors that
                       are all zero (a warning). Holds one linear as it is stored */
    const ccq_ops *ops; /* with pool */
} ccq_verify_options;

/* Quick verification: headers, index, names, shapes, dtypes, alignment, config
 * against tensors, what FastDeploy must find in config.json, scales and code
 * lines, and the manifest's checksums of headers and side files. Weights and codes are
 * not read. A malformed checkpoint is OK here and has findings; other codes
 * mean that nothing could be looked at: NO_INPUT, NO_MEMORY. */
ccq_code ccq_verify(ccq_verify_result *result, const char *dir, ccq_error *err);
ccq_code ccq_verify_with(ccq_verify_result *result, const char *dir,
                         const ccq_verify_options *options, ccq_error *err);
void ccq_verify_free(ccq_verify_result *result);

#endif
