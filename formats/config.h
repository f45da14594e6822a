/* config.json: read with cJSON, edited by byte splice (every byte outside the
 * spliced values stays). At most 1 MiB, valid UTF-8, no key twice. */
#ifndef CCQ_FORMATS_CONFIG_H
#define CCQ_FORMATS_CONFIG_H

#include "formats/types.h"

typedef struct ccq_config ccq_config;

/* name is for messages. The text is copied. */
ccq_code ccq_config_parse(ccq_config **config, const char *text, size_t size, const char *name,
                          ccq_error *err);
/* dir/config.json; NO_CONFIG when absent. */
ccq_code ccq_config_load(ccq_config **config, const char *dir, ccq_error *err);
/* NULL is fine. */
void ccq_config_free(ccq_config *config);
const char *ccq_config_text(const ccq_config *config, size_t *size);
const char *ccq_config_name(const ccq_config *config);

/* Top-level keys in file order: count, i-th. */
size_t ccq_config_keys(const ccq_config *config);
const char *ccq_config_key(const ccq_config *config, size_t i);

typedef enum ccq_kind {
    CCQ_KIND_ABSENT,
    CCQ_KIND_NULL,
    CCQ_KIND_BOOL,
    CCQ_KIND_NUMBER,
    CCQ_KIND_STRING,
    CCQ_KIND_ARRAY,
    CCQ_KIND_OBJECT
} ccq_kind;

/* path: keys joined with '.' ("rope_parameters.rope_theta"), case-sensitive. */
ccq_kind ccq_config_kind(const ccq_config *config, const char *path);
/* 1 and *value, or 0 when absent, null or of another kind. An integer must be
 * one exactly (5, 5.0), within 2^53. */
int ccq_config_int(const ccq_config *config, const char *path, int64_t *value);
int ccq_config_double(const ccq_config *config, const char *path, double *value);
int ccq_config_bool(const ccq_config *config, const char *path, int *value);
/* Owned by the config; NULL when absent or no string. */
const char *ccq_config_string(const ccq_config *config, const char *path);
size_t ccq_config_array_size(const ccq_config *config, const char *path);
int ccq_config_array_int(const ccq_config *config, const char *path, size_t i, int64_t *value);
const char *ccq_config_array_string(const ccq_config *config, const char *path, size_t i);
/* The value's bytes in the source text. NULL when absent. */
const char *ccq_config_raw(const ccq_config *config, const char *path, size_t *len);

/* One change of a top-level key: value = JSON text (any white space; a block is
 * re-indented in the file's own style), or NULL to remove the key. */
typedef struct ccq_config_edit {
    const char *key;
    const char *value;
} ccq_config_edit;

/* Applies the edits in order: an existing value is replaced in place, a new key
 * goes behind the last one. Re-parses the result and checks every edit and
 * that all other bytes are the input's (else BUG). */
ccq_code ccq_config_splice(const ccq_config *config, const ccq_config_edit *edits, size_t count,
                           ccq_config **result, ccq_error *err);

#endif
