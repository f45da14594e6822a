/* Columns with error feedback on a device. The bytes are the CPU's, so whatever the device
 * cannot take, or fails at, the CPU does. */
#ifndef CCQ_LIBCCQ_DEVICE_FEEDBACK_H
#define CCQ_LIBCCQ_DEVICE_FEEDBACK_H

#include "kernels/feedback.h"
#include "libccq/job.h"

/* A wint2 matrix, and where what is made of it goes. */
typedef struct ccq_feedback_job {
    const ccq_action *a;
    const ccq_metric *metric;
    int entries;             /* lines of the metric */
    const int32_t *rows;     /* logical row at each place of it */
    const float *w, *target; /* [k][n]; may be the same */
    ccq_feedback_params params;
    ccq_planes *planes;
    double *error, *energy, *max_error; /* by column */
    uint8_t *status;
} ccq_feedback_job;

/* On engine->run->gpu. How many of the first columns are done: all, unless the device has
 * failed (which run->warn is told), is none or has no room. */
int64_t ccq_device_feedback(ccq_engine *engine, const ccq_feedback_job *job);

#endif
