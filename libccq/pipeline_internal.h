/* Inside the pipeline: what its threads share. */
#ifndef CCQ_LIBCCQ_PIPELINE_INTERNAL_H
#define CCQ_LIBCCQ_PIPELINE_INTERNAL_H

#include "libccq/pipeline.h"
#include "libccq/ring.h"

#include <pthread.h>

enum {
    CCQ_PIPE_QUEUE = 64,
    CCQ_PIPE_STEP = 1 << 18 /* bytes read at a time: what the second cache holds */
};

/* What the writer is to do: planes, or (count 0) a window. */
typedef struct ccq_task {
    const ccq_action *a;
    int rank;
    ccq_planes planes;
    ccq_unit window;
} ccq_task;

struct ccq_pipe {
    const ccq_engine *engine;
    const ccq_budget *budget;
    ccq_put put;
    void *ctx;
    ccq_gpu *gpu; /* fetches what was read, or NULL */
    void *pinned; /* then the memory of in, if there was such memory */
    uint16_t *rows; /* the reader's own: a step, or a row of a block */
    pthread_t reader, writer;
    int reads, writes; /* the threads run */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* under the lock */
    ccq_ring in, out;
    ccq_unit unit[CCQ_PIPE_QUEUE]; /* read, oldest first, around */
    size_t unit_first, units;
    ccq_task task[CCQ_PIPE_QUEUE]; /* to be written; the oldest is being written */
    size_t task_first, tasks;
    int stop, end; /* leave at once; the reader is through */
    ccq_code read_code, write_code;
    ccq_error read_err, write_err;
};

/* pipe_reader.c; arg is the pipe. */
void *ccq_pipe_reader(void *arg);

#endif
