/* What makes two runs one: two JSON texts compared value by value. */
#ifndef CCQ_FORMATS_IDENTITY_H
#define CCQ_FORMATS_IDENTITY_H

#include "formats/types.h"

typedef struct ccq_identity ccq_identity;

/* The values of a JSON text under their paths: "recipe.gain", "input[2].bytes". CHANGED
 * when it is not JSON, naming path. */
ccq_code ccq_identity_new(ccq_identity **id, const char *text, size_t size, const char *path,
                          ccq_error *err);
void ccq_identity_free(ccq_identity *id); /* NULL is fine */
/* The text of a value, strings without their quotes; NULL when absent. */
const char *ccq_identity_value(const ccq_identity *id, const char *path);
/* CHANGED names the first value that differs. Values whose last name is in the list loose
 * (NULL at its end) may; *moved: some did. */
ccq_code ccq_identity_compare(const ccq_identity *was, const ccq_identity *now,
                              const char *const *loose, const char *path, int *moved,
                              ccq_error *err);

#endif
