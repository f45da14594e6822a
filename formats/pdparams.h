/* One .pdparams file (paddle.save of a state_dict) as tensors, for formats/ alone. */
#ifndef CCQ_FORMATS_PDPARAMS_H
#define CCQ_FORMATS_PDPARAMS_H

#include "formats/internal.h"

#include <stdatomic.h>

/* Decoded bytes between two remembered places of a latin1 payload. */
#define CCQ_LATIN1_STEP (UINT64_C(1) << 20)

/* A run of a tensor's bytes in the file. Protocol 2 has no bytes: there they are
 * a text with one character a byte, stored as UTF-8, so byte i is at no place
 * that can be computed. place[k] is where byte k * CCQ_LATIN1_STEP starts, 0 until
 * a read has come by; a read starts at the last known place before it. Reading a
 * tensor from front to back is linear, a first read in its middle scans from the
 * start. Any number of threads may read: a place only ever gets its one value. */
typedef struct ccq_payload {
    uint64_t offset, stored; /* in the file */
    uint64_t bytes;
    _Atomic uint64_t *place; /* NULL: stored as they are */
} ccq_payload;

/* A tensor that is more than one plain run at ccq_tensor.offset. */
typedef struct ccq_parts {
    struct ccq_parts *next;
    const char *name;
    size_t count;
    ccq_payload part[];
} ccq_parts;

/* The bytes must lie inside the tensor. PICKLE: no latin1 text, or one of another length. */
ccq_code ccq_parts_read(const ccq_parts *parts, const ccq_file *file, uint64_t offset, void *dst,
                        uint64_t size, ccq_error *err);

typedef struct ccq_pd {
    ccq_tensor *tensors; /* malloc'd, the caller's */
    size_t count;
    ccq_parts *parts; /* in the arena */
} ccq_pd;

/* Reads a whole pickle but for its payloads. Names, shapes and parts go into the
 * arena; offset is that of a tensor's first payload. */
ccq_code ccq_pd_read(ccq_pd *pd, const ccq_file *file, uint32_t shard, ccq_arena *arena,
                     ccq_error *err);
/* *yes: does the file start like a pickle, and not like the header of a .safetensors file? */
ccq_code ccq_pd_here(const ccq_file *file, int *yes, ccq_error *err);

#endif
