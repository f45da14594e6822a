/* What the files of libccq share and nobody else sees. */
#ifndef CCQ_LIBCCQ_INTERNAL_H
#define CCQ_LIBCCQ_INTERNAL_H

#include "libccq/source.h"

/* ---- names.c -------------------------------------------------------------- */

typedef enum ccq_suffix {
    CCQ_SUFFIX_WEIGHT, /* .weight, .bias, or none */
    CCQ_SUFFIX_QUANT_WEIGHT,
    CCQ_SUFFIX_WEIGHT_SCALE,
    CCQ_SUFFIX_SUPER_SCALES,
    CCQ_SUFFIX_CODE_SCALE,
    CCQ_SUFFIX_CODE_ZP,
    CCQ_SUFFIXES
} ccq_suffix;

/* Which tensor of the model a stored name stands for. */
typedef struct ccq_slot {
    ccq_role role;
    ccq_block block;
    int layer, expert; /* -1 when none */
    int bias;
    int part;  /* 0 the joined tensor; 1, 2, 3: q, k, v or gate, up */
    int torch; /* prefix "model." */
    ccq_suffix suffix;
} ccq_slot;

typedef enum ccq_naming { CCQ_NAME_UNKNOWN, CCQ_NAME_KNOWN, CCQ_NAME_MTP } ccq_naming;

ccq_naming ccq_name_parse(const char *name, ccq_slot *slot);
/* The Paddle name of the tensor (as ccq_entry.name); size bytes at out. */
void ccq_name_write(const ccq_slot *slot, char *out, size_t size);
/* The torch name of an entry, or of a part of it (as ccq_slot.part). */
void ccq_name_torch(const ccq_entry *e, int part, char *out, size_t size);
/* Model order: <0, 0, >0. Parts and suffixes do not count. */
int ccq_slot_compare(const ccq_slot *a, const ccq_slot *b);

/* ---- arch.c --------------------------------------------------------------- */

/* Sizes that config.json must state or that have a default; those that tensors
 * tell stay 0 (absent) here. */
ccq_code ccq_arch_read(const ccq_config *config, ccq_arch *arch, ccq_error *err);
/* After the entries are known: takes from their widths what tensors tell,
 * checks config.json and every shape against it. */
ccq_code ccq_arch_settle(ccq_source *src, ccq_error *err);
/* Rows and columns that the sizes ask of an entry. */
void ccq_arch_shape(const ccq_arch *arch, const ccq_entry *e, int64_t *k, int64_t *n);

/* ---- entries.c ------------------------------------------------------------ */

/* Fills entry, skipped and memory from the checkpoint's names; shapes are those
 * of the tensors, not yet checked against config.json. */
ccq_code ccq_source_classify(ccq_source *src, ccq_error *err);

/* ---- source.c ------------------------------------------------------------- */

ccq_code ccq_source_note(ccq_source *src, const char *fmt, ...) CCQ_PRINTF(2, 3);

/* ---- source_read.c --------------------------------------------------------- */

/* The one message for NaN and Inf. at is the first such element of rows row0..; bad
 * counts them. */
ccq_code ccq_nonfinite(const char *name, int64_t bad, int64_t at, int64_t row0, int64_t n,
                       ccq_error *err);
/* count elements of a stored tensor from element first, as bf16. */
ccq_code ccq_read_elements(const ccq_source *src, const ccq_tensor *t, uint64_t first,
                           uint64_t count, uint16_t *dst, ccq_error *err);

/* ---- ranks.c -------------------------------------------------------------- */

/* How many rank directories make up the model in dir; 0: it is not cut. */
ccq_code ccq_ranks_find(const char *dir, int *ranks, ccq_error *err);
char *ccq_rank_dir(const char *dir, int rank); /* malloc'd; NULL: out of memory */
/* Sizes of the whole -> sizes of a rank. name is that of config.json, for the message. */
ccq_code ccq_arch_cut(ccq_arch *arch, int ranks, const char *name, ccq_error *err);
/* Opens every rank of src->dir and joins what they describe. */
ccq_code ccq_ranks_open(ccq_source *src, const ccq_source_options *options, ccq_error *err);
/* What rank r has of an entry of a joined source. */
const ccq_entry *ccq_rank_entry(const ccq_source *src, const ccq_entry *e, int r);
/* As the functions of source.h, for src->rank. Rows and fp32: of what is not cut. */
ccq_code ccq_ranks_read_rows(const ccq_source *src, const ccq_entry *e, int64_t k0, int64_t kc,
                             uint16_t *dst, ccq_error *err);
ccq_code ccq_ranks_read_bf16(const ccq_source *src, const ccq_entry *e, uint16_t *dst,
                             ccq_error *err);
ccq_code ccq_ranks_read_f32(const ccq_source *src, const ccq_entry *e, float *dst, ccq_error *err);
ccq_code ccq_ranks_decode(const ccq_source *src, const ccq_entry *e, int rounding,
                          const ccq_ops *ops, ccq_pool *pool, uint16_t *dst, ccq_error *err);
ccq_code ccq_ranks_load(const ccq_source *src, const ccq_entry *e, int rounding, ccq_weight *w,
                        void **memory, ccq_error *err);

#endif
