/* wint2 columns on a device: blocks of them go out and come back in order, one being brought
 * and fetched while the other is encoded. The bytes are the CPU's, so whatever the device
 * cannot take, or fails at, the CPU does. */
#ifndef CCQ_LIBCCQ_DEVICE_ENCODE_H
#define CCQ_LIBCCQ_DEVICE_ENCODE_H

#include "libccq/pipeline.h"

enum { CCQ_DEVICE_FLIGHTS = 2 };

typedef struct ccq_device_encoder ccq_device_encoder;

/* On engine->run->gpu, for the blocks of the plan. *d NULL, and no error: there is no device,
 * or nothing for it, or too little memory on it (which run->warn is told). */
ccq_code ccq_device_encoder_open(ccq_device_encoder **d, ccq_engine *engine, ccq_error *err);
/* What is in flight is waited for and forgotten; engine gets the figures. NULL is fine. */
void ccq_device_encoder_close(ccq_device_encoder *d);

/* Whether a unit goes to the device; one that would, but has no room, is counted. */
int ccq_device_takes(ccq_device_encoder *d, const ccq_unit *u);
int ccq_device_flights(const ccq_device_encoder *d); /* NULL: 0 */
/* Fewer than CCQ_DEVICE_FLIGHTS are in flight. The unit's data stay as they are until it has
 * landed. */
void ccq_device_start(ccq_device_encoder *d, const ccq_unit *u);
/* The oldest one in flight; its columns. */
const ccq_unit *ccq_device_oldest(const ccq_device_encoder *d);
/* Waits for it and places its columns; adds to outcome. */
ccq_code ccq_device_land(ccq_device_encoder *d, const ccq_columns *c, ccq_planes *planes,
                         ccq_outcome *outcome, ccq_error *err);

#endif
