/* Stored outputs of a model (ccq.ref/1) and files of tokens. */
#ifndef CCQ_LIBCCQ_REFERENCE_H
#define CCQ_LIBCCQ_REFERENCE_H

#include "formats/types.h"

typedef struct ccq_reference {
    /* meta: text owned by the struct */
    char *producer, *numerics, *weights, *generator;
    uint32_t config_crc32;
    int64_t vocab_valid;
    int32_t *lengths, *ids; /* prompts, one after another */
    size_t prompts, id_count;
    int32_t *row_seq, *row_pos; /* ascending pairs */
    size_t rows;
    float *logits; /* [rows][vocab] */
    int64_t vocab;
    /* NULL when absent */
    int32_t *greedy_lengths, *greedy_ids; /* [prompts], [sum] */
    float *greedy_gap;
    size_t greedy_count;
    int32_t *router_layers; /* [layers] */
    int32_t *router_ids;    /* [rows][layers][k], ascending */
    float *router_margin;   /* [rows][layers] */
    int64_t layers, k;
    /* members that are not of the schema */
    char **unknown;
    size_t unknowns;
} ccq_reference;

/* Everything that can be checked without a model is checked: REFERENCE names the
 * member. */
ccq_code ccq_reference_load(ccq_reference **ref, const char *path, ccq_error *err);
/* Codes of ccq_npz_create and friends; nothing is left on failure. */
ccq_code ccq_reference_save(const ccq_reference *ref, const char *path, ccq_error *err);
/* All arrays came from malloc. NULL is fine. */
void ccq_reference_free(ccq_reference *ref);

/* Only the prompts of a reference file: lengths and ids. The caller frees both. */
ccq_code ccq_reference_prompts(const char *path, int32_t **lengths, size_t *prompts, int32_t **ids,
                               size_t *id_count, ccq_error *err);

/* Tokens: a .npy of rank 1, or the member "ids" of a .npz (chosen by suffix). An
 * id outside [0, vocab) is REFERENCE with its index. The caller frees *ids. */
ccq_code ccq_tokens_load(const char *path, int64_t vocab, int32_t **ids, size_t *count,
                         ccq_error *err);
/* 1 when path ends in .npy or .npz. */
int ccq_tokens_binary(const char *path);

#endif
