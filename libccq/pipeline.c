#include "libccq/pipeline_internal.h"

#include <stdlib.h>
#include <time.h>

/* ---- Writer -------------------------------------------------------------------- */

static ccq_code write_task(const ccq_pipe *p, const ccq_task *t, ccq_error *err)
{
    size_t first = (size_t)t->rank * ccq_layout_count(p->engine->plan->layout);
    ccq_code code = CCQ_OK;
    if (!t->planes.count)
        return p->put(p->ctx, first + t->a->tensor[0], t->window.offset, t->window.data,
                      t->window.size, t->window.last, err);
    for (int i = 0; i < t->planes.count && !code; i++)
        code = p->put(p->ctx, first + t->a->tensor[i], 0, t->planes.plane[i], t->planes.bytes[i], 1,
                      err);
    return code;
}

static void *writer_main(void *arg)
{
    ccq_pipe *p = arg;
    pthread_mutex_lock(&p->lock);
    for (;;) {
        while (!p->stop && !p->tasks)
            pthread_cond_wait(&p->changed, &p->lock);
        if (p->stop)
            break;
        ccq_task *t = &p->task[p->task_first]; /* stays in its place until it is done */
        ccq_error err = {0};
        pthread_mutex_unlock(&p->lock);
        ccq_code code = write_task(p, t, &err);
        pthread_mutex_lock(&p->lock);
        if (t->planes.count)
            ccq_ring_give(&p->out, t->planes.memory);
        else
            ccq_ring_give(&p->in, t->window.data);
        p->task_first = (p->task_first + 1) % CCQ_PIPE_QUEUE;
        p->tasks--;
        if (code) {
            p->write_code = code;
            p->write_err = err;
        }
        pthread_cond_broadcast(&p->changed);
        if (code)
            break;
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* ---- The thread between ------------------------------------------------------------ */

/* A moment with the lock given up; an error when there is no use in waiting on. */
static ccq_code wait_for(ccq_pipe *p, ccq_error *err)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_nsec += 100000000;
    if (t.tv_nsec >= 1000000000) {
        t.tv_nsec -= 1000000000;
        t.tv_sec++;
    }
    if (!p->write_code)
        pthread_cond_timedwait(&p->changed, &p->lock, &t);
    if (p->write_code) {
        if (err)
            *err = p->write_err;
        return p->write_code;
    }
    return ccq_engine_poll(p->engine, err);
}

int ccq_pipe_ready(ccq_pipe *p)
{
    pthread_mutex_lock(&p->lock);
    int ready = p->units || p->end || p->write_code;
    pthread_mutex_unlock(&p->lock);
    return ready;
}

ccq_code ccq_pipe_next(ccq_pipe *p, ccq_unit *unit, int *more, ccq_error *err)
{
    ccq_code code = CCQ_OK;
    *more = 0;
    pthread_mutex_lock(&p->lock);
    while (!p->units && !p->end && !code)
        code = wait_for(p, err);
    if (!code && p->units) {
        *unit = p->unit[p->unit_first];
        p->unit_first = (p->unit_first + 1) % CCQ_PIPE_QUEUE;
        p->units--;
        *more = 1;
        pthread_cond_broadcast(&p->changed);
    } else if (!code && p->read_code) {
        code = p->read_code;
        if (err)
            *err = p->read_err;
    }
    pthread_mutex_unlock(&p->lock);
    return code;
}

void ccq_pipe_done(ccq_pipe *p, const ccq_unit *unit)
{
    pthread_mutex_lock(&p->lock);
    ccq_ring_give(&p->in, unit->data);
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
}

ccq_code ccq_pipe_planes(ccq_pipe *p, const ccq_action *a, ccq_planes *planes, ccq_error *err)
{
    void *memory = NULL;
    ccq_code code = CCQ_OK;
    pthread_mutex_lock(&p->lock);
    while (!code && !(memory = ccq_ring_take(&p->out, (size_t)ccq_planes_size(a))))
        code = wait_for(p, err);
    pthread_mutex_unlock(&p->lock);
    if (!code)
        ccq_planes_place(planes, a, memory);
    return code;
}

static ccq_code push_task(ccq_pipe *p, const ccq_task *t, ccq_error *err)
{
    ccq_code code = CCQ_OK;
    pthread_mutex_lock(&p->lock);
    while (!code && p->tasks == CCQ_PIPE_QUEUE)
        code = wait_for(p, err);
    if (!code) {
        p->task[(p->task_first + p->tasks++) % CCQ_PIPE_QUEUE] = *t;
        pthread_cond_broadcast(&p->changed);
    }
    pthread_mutex_unlock(&p->lock);
    return code;
}

ccq_code ccq_pipe_write(ccq_pipe *p, const ccq_action *a, int rank, const ccq_planes *planes,
                        ccq_error *err)
{
    ccq_task t = {.a = a, .rank = rank, .planes = *planes};
    return push_task(p, &t, err);
}

ccq_code ccq_pipe_pass(ccq_pipe *p, const ccq_unit *unit, ccq_error *err)
{
    ccq_task t = {.a = &p->engine->plan->action[unit->action], .rank = unit->rank, .window = *unit};
    return push_task(p, &t, err);
}

ccq_code ccq_pipe_drain(ccq_pipe *p, ccq_error *err)
{
    ccq_code code = CCQ_OK;
    pthread_mutex_lock(&p->lock);
    while (!code && p->tasks)
        code = wait_for(p, err);
    if (!code && p->write_code) { /* the last task's */
        code = p->write_code;
        if (err)
            *err = p->write_err;
    }
    pthread_mutex_unlock(&p->lock);
    return code;
}

/* ---- Both ends ------------------------------------------------------------------------ */

static void init_lock(ccq_pipe *p)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&p->changed, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&p->lock, NULL);
}

/* Memory that a device fetches from without a copy in between, where it has any. */
static int init_in(ccq_pipe *p, size_t size)
{
    if (!p->gpu || ccq_gpu_pin(p->gpu, size, &p->pinned))
        return ccq_ring_init(&p->in, size);
    ccq_ring_init_at(&p->in, p->pinned, size);
    return 0;
}

ccq_code ccq_pipe_open(ccq_pipe **pipe, const ccq_engine *engine, ccq_gpu *gpu, ccq_put put,
                       void *ctx, ccq_error *err)
{
    const ccq_budget *budget = &engine->budget;
    ccq_pipe *p = calloc(1, sizeof *p);
    *pipe = NULL;
    if (!p)
        return ccq_fail(err, CCQ_NO_MEMORY, "job: out of memory");
    p->engine = engine;
    p->budget = budget;
    p->gpu = gpu;
    p->put = put;
    p->ctx = ctx;
    init_lock(p);
    size_t row = 2 * (size_t)budget->columns;
    p->rows = malloc(row > CCQ_PIPE_STEP ? row : CCQ_PIPE_STEP);
    if (!p->rows || init_in(p, (size_t)(budget->in + 63) / 64 * 64) ||
        ccq_ring_init(&p->out, (size_t)budget->out)) {
        ccq_pipe_close(p);
        return ccq_fail(err, CCQ_NO_MEMORY, "job: no memory for windows of %llu and %llu bytes",
                        (unsigned long long)budget->in, (unsigned long long)budget->out);
    }
    p->reads = !pthread_create(&p->reader, NULL, ccq_pipe_reader, p);
    p->writes = p->reads && !pthread_create(&p->writer, NULL, writer_main, p);
    if (!p->writes) {
        ccq_pipe_close(p);
        return ccq_fail(err, CCQ_NO_MEMORY, "job: no thread could be started");
    }
    *pipe = p;
    return CCQ_OK;
}

void ccq_pipe_close(ccq_pipe *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->stop = 1;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
    if (p->reads)
        pthread_join(p->reader, NULL);
    if (p->writes)
        pthread_join(p->writer, NULL);
    pthread_cond_destroy(&p->changed);
    pthread_mutex_destroy(&p->lock);
    ccq_ring_free(&p->in);
    if (p->gpu)
        ccq_gpu_unpin(p->gpu, p->pinned);
    ccq_ring_free(&p->out);
    free(p->rows);
    free(p);
}
