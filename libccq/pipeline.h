/* Reading ahead and writing behind, while one thread works on what lies between. */
#ifndef CCQ_LIBCCQ_PIPELINE_H
#define CCQ_LIBCCQ_PIPELINE_H

#include "libccq/job.h"

typedef enum ccq_unit_kind {
    CCQ_UNIT_BLOCK,  /* columns n0..n0+nc-1 of a rank's slice, to be quantized */
    CCQ_UNIT_WINDOW, /* rows of a copied tensor as they will be written */
    CCQ_UNIT_WHOLE   /* nothing was read: the action is for the caller alone */
} ccq_unit_kind;

typedef struct ccq_unit {
    ccq_unit_kind kind;
    size_t action;
    int rank;
    int64_t n0, nc, strip; /* BLOCK: as in ccq_columns */
    uint64_t offset, size; /* WINDOW: bytes of the tensor */
    int last;              /* of its action and rank */
    uint32_t crc;          /* BLOCK: those of a slice, xored, are the CRC-32 of its bytes */
    void *data;
} ccq_unit;

typedef struct ccq_pipe ccq_pipe;

/* Starts a thread that reads the units of the plan's actions in order and one that hands
 * what is to be written to put(ctx, ...). gpu: fetches what was read; NULL: none does. */
ccq_code ccq_pipe_open(ccq_pipe **pipe, const ccq_engine *engine, ccq_gpu *gpu, ccq_put put,
                       void *ctx, ccq_error *err);
/* Stops both wherever they are. NULL is fine. */
void ccq_pipe_close(ccq_pipe *pipe);

/* One thread calls these. All return the first error of the writer once there is one, and
 * INTERRUPTED while they wait. */
/* 1: ccq_pipe_next will not wait. */
int ccq_pipe_ready(ccq_pipe *pipe);
/* The next unit; *more = 0: there is none. Errors of the reader come in their place. */
ccq_code ccq_pipe_next(ccq_pipe *pipe, ccq_unit *unit, int *more, ccq_error *err);
/* A BLOCK has been used. */
void ccq_pipe_done(ccq_pipe *pipe, const ccq_unit *unit);
/* Planes for a rank's slice, zeroed; to be written and freed by ccq_pipe_write. */
ccq_code ccq_pipe_planes(ccq_pipe *pipe, const ccq_action *a, ccq_planes *planes, ccq_error *err);
ccq_code ccq_pipe_write(ccq_pipe *pipe, const ccq_action *a, int rank, const ccq_planes *planes,
                        ccq_error *err);
/* A WINDOW goes on to the writer. */
ccq_code ccq_pipe_pass(ccq_pipe *pipe, const ccq_unit *unit, ccq_error *err);
/* Waits until everything is written: then put may be called by the caller itself. */
ccq_code ccq_pipe_drain(ccq_pipe *pipe, ccq_error *err);

#endif
