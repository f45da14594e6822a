/* .npz (zip of .npy, stored or deflate) and .npy. Member names are given
 * without ".npy". Types read: <f4 <i4 |u1 <i8, C order. */
#ifndef CCQ_FORMATS_NPZ_H
#define CCQ_FORMATS_NPZ_H

#include "formats/types.h"

typedef struct ccq_array {
    ccq_dtype dtype; /* F32, I32, U8 or I64 */
    int rank;
    uint64_t shape[8];
    uint64_t count; /* product of shape */
} ccq_array;

typedef struct ccq_npz ccq_npz;

ccq_code ccq_npz_open(ccq_npz **npz, const char *path, ccq_error *err);
void ccq_npz_close(ccq_npz *npz); /* NULL is fine */
size_t ccq_npz_count(const ccq_npz *npz);
const char *ccq_npz_name(const ccq_npz *npz, size_t i);
/* Reads and checks (CRC, size) one member. NPY when absent. The caller frees
 * *data (never NULL when OK). want: the type wanted; I64 data whose values all
 * fit is given as I32 where I32 is wanted; otherwise another type is NPY.
 * CCQ_DT_COUNT = as stored. */
ccq_code ccq_npz_read(ccq_npz *npz, const char *name, ccq_dtype want, ccq_array *array,
                      void **data, ccq_error *err);
/* Type and shape alone; the data is not looked at. */
ccq_code ccq_npz_describe(ccq_npz *npz, const char *name, ccq_array *array, ccq_error *err);
int ccq_npz_has(const ccq_npz *npz, const char *name);

/* A single .npy file; the same rules. */
ccq_code ccq_npy_load(const char *path, ccq_dtype want, ccq_array *array, void **data,
                      ccq_error *err);
ccq_code ccq_npy_describe(const char *path, ccq_array *array, ccq_error *err);

/* Writer: members in the order of adding, deflate level 6, DOS time 1980-01-01,
 * zip64 only where needed. path appears only by ccq_npz_finish (a temporary
 * name beside it before); on failure nothing is left. */
typedef struct ccq_npz_writer ccq_npz_writer;
ccq_code ccq_npz_create(ccq_npz_writer **w, const char *path, ccq_error *err);
ccq_code ccq_npz_add(ccq_npz_writer *w, const char *name, ccq_dtype dtype, int rank,
                     const uint64_t *shape, const void *data, ccq_error *err);
/* Frees w in any case. */
ccq_code ccq_npz_finish(ccq_npz_writer *w, ccq_error *err);
void ccq_npz_abandon(ccq_npz_writer *w); /* NULL is fine */

#endif
