/* Passes over the data of a model: every byte of a stored tensor, every weight of
 * a decoded one. What they see is reported, not judged. */
#ifndef CCQ_LIBCCQ_SCAN_H
#define CCQ_LIBCCQ_SCAN_H

#include "libccq/pool.h"
#include "libccq/source.h"

/* ---- One stored tensor ---------------------------------------------------- */

typedef struct ccq_data {
    uint32_t crc;              /* CRC-32 of all bytes */
    int zero;                  /* 1: there are bytes, and all are 0 */
    uint64_t nonfinite, first; /* NaN and Inf in BF16, F16, F32 (U16 holds bf16 bits) */
} ccq_data;

/* Reads the whole tensor in chunks over the pool. Memory: one chunk (4 MiB) a thread. */
ccq_code ccq_scan_tensor(ccq_data *data, const ccq_checkpoint *files, const ccq_tensor *t,
                         ccq_pool *pool, ccq_error *err);

/* The same tensor twice, byte for byte; same dtype and size (else BUG). */
typedef struct ccq_unlike {
    uint64_t count, differ, first; /* elements (bytes of types smaller than one) */
} ccq_unlike;

ccq_code ccq_scan_pair(ccq_unlike *unlike, const ccq_checkpoint *a, const ccq_tensor *x,
                       const ccq_checkpoint *b, const ccq_tensor *y, ccq_pool *pool,
                       ccq_error *err);

/* ---- One decoded entry ---------------------------------------------------- */

enum { CCQ_CORNER = 8, CCQ_PLACES = 8 };

typedef struct ccq_decoded {
    int corner_k, corner_n; /* rows and columns of it, at most CCQ_CORNER */
    float corner[CCQ_CORNER][CCQ_CORNER];
    uint64_t nonfinite;
    int64_t place[CCQ_PLACES][2]; /* [row, column] of the first ones, row by row */
    int places;
    int zero; /* every weight is 0 */
} ccq_decoded;

/* Decodes all of e, with the rounding fused, scales that are not finite
 * included. A quantized entry is held in memory as it is stored, another one a
 * chunk at a time. Of a joined model: places and corner are those of the whole. */
ccq_code ccq_scan_decoded(ccq_decoded *out, const ccq_source *src, const ccq_entry *e,
                          const ccq_ops *ops, ccq_pool *pool, ccq_error *err);

#endif
