/* wint2 columns as a device gives them back. */
#ifndef CCQ_LIBCCQ_DEVICE_COLUMNS_H
#define CCQ_LIBCCQ_DEVICE_COLUMNS_H

#include "libccq/job.h"

/* Of nc columns: weight [k/4][nc], scale [k/128][nc], the rest [nc]. */
typedef struct ccq_columns_got {
    uint8_t *weight, *scale;
    uint16_t *super;
    float *code_scale, *code_zp;
    uint8_t *status;
    double *error, *energy, *max_error;
} ccq_columns_got;

/* Bytes of a piece of device memory, a whole number of 256. */
uint64_t ccq_device_piece(uint64_t size);
/* Results of n columns of k rows from base on, there and, as they are fetched, in memory;
 * returns their bytes. base NULL: those alone. */
uint64_t ccq_device_results(char *base, int64_t k, int64_t n, ccq_columns_got *r);
/* Columns n0..n0+nc-1 to their place in the planes. */
void ccq_device_place_columns(const ccq_columns_got *r, int64_t n0, int64_t nc, ccq_planes *planes);

#endif
