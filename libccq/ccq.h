/* ccq: quantize ERNIE-4.5 checkpoints to WINT2, look at them, run them.
 *
 * One header a job. Nothing here prints, exits or keeps global state; every
 * failure is a ccq_code and a ccq_error that names file, tensor and values. */
#ifndef CCQ_LIBCCQ_CCQ_H
#define CCQ_LIBCCQ_CCQ_H

#include "formats/types.h"
#include "libccq/source.h"
#include "libccq/pool.h"
#include "libccq/quantize.h"
#include "libccq/inspect.h"
#include "libccq/run.h"

#endif
