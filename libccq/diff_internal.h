/* What the two halves of comparing share. */
#ifndef CCQ_LIBCCQ_DIFF_INTERNAL_H
#define CCQ_LIBCCQ_DIFF_INTERNAL_H

#include "formats/config.h"
#include "libccq/diff.h"

/* Adds a difference; texts are copied, a and b escaped already. NULL, and *failed: out of
 * memory. NULL also when enough are kept. */
ccq_diff *ccq_diff_add(ccq_diff_result *r, ccq_diff_kind kind, const char *prefix,
                       const char *name, const char *a, const char *b, int *failed);

/* diff_config.c: leaf by leaf, numbers by value. NO_MEMORY. */
ccq_code ccq_diff_config(ccq_diff_result *r, const ccq_config *a, const ccq_config *b,
                         const char *file, ccq_error *err);

#endif
