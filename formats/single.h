/* A safetensors file of our own that is no checkpoint: whole or absent. One thread. */
#ifndef CCQ_FORMATS_SINGLE_H
#define CCQ_FORMATS_SINGLE_H

#include "formats/checkpoint.h"

typedef struct ccq_single ccq_single;

/* layout: finished, of one shard; it outlives the file. The file has a name of its own
 * until it is finished. Codes: CREATE, IO, NO_SPACE. */
ccq_code ccq_single_create(ccq_single **s, const ccq_layout *layout, const char *path,
                           ccq_error *err);
/* Bytes of tensor i from offset, in any order; what is never written is zero. */
ccq_code ccq_single_write(ccq_single *s, size_t i, uint64_t offset, const void *data,
                          uint64_t size, ccq_error *err);
/* Frees s in any case; the file is at path, or nowhere. */
ccq_code ccq_single_finish(ccq_single *s, ccq_error *err);
void ccq_single_abandon(ccq_single *s); /* NULL is fine */

#endif
