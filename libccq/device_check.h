/* Whether a device encodes as the CPU does, looked at while it works. */
#ifndef CCQ_LIBCCQ_DEVICE_CHECK_H
#define CCQ_LIBCCQ_DEVICE_CHECK_H

#include "libccq/device_columns.h"

typedef struct ccq_device_check ccq_device_check;

/* longest: rows of the longest column. NULL: out of memory. */
ccq_device_check *ccq_device_check_new(ccq_engine *engine, int64_t longest);
void ccq_device_check_free(ccq_device_check *check); /* NULL is fine */
/* One column of the block, another one each time. BUG: it is not the CPU's. */
ccq_code ccq_device_check_block(ccq_device_check *check, const ccq_columns *c,
                                const ccq_columns_got *got, ccq_error *err);

#endif
