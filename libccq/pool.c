/* A fixed set of threads that share one counter of work pieces. */
#include "libccq/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct worker {
    ccq_pool *pool;
    pthread_t thread;
    int number;
} worker;

struct ccq_pool {
    pthread_mutex_t lock;
    pthread_cond_t start, done;
    ccq_pool_fn fn;
    void *ctx;
    size_t n, next;
    unsigned long round; /* raised for every run, so that a worker never joins one twice */
    int busy;            /* workers still inside the current run */
    int stop;
    int threads; /* the caller included */
    worker *workers;
};

/* Quota over period of the cgroup, rounded up; 0 when there is no limit. */
static int cgroup_quota(void)
{
    long quota = 0, period = 0;
    FILE *f = fopen("/sys/fs/cgroup/cpu.max", "re");
    if (f) {
        if (fscanf(f, "%ld %ld", &quota, &period) != 2)
            quota = 0; /* "max" */
        fclose(f);
    } else {
        FILE *q = fopen("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "re");
        FILE *p = fopen("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "re");
        if (!q || !p || fscanf(q, "%ld", &quota) != 1 || fscanf(p, "%ld", &period) != 1)
            quota = 0;
        if (q)
            fclose(q);
        if (p)
            fclose(p);
    }
    return quota > 0 && period > 0 ? (int)((quota + period - 1) / period) : 0;
}

int ccq_cpu_count(void)
{
    cpu_set_t set;
    int n = 1, quota = cgroup_quota();
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        n = CPU_COUNT(&set);
    if (quota > 0 && quota < n)
        n = quota;
    return n < 1 ? 1 : n;
}

/* Takes pieces until none is left. Called and returns with the lock held. */
static void work(ccq_pool *pool, int number)
{
    while (pool->next < pool->n) {
        size_t i = pool->next++;
        ccq_pool_fn fn = pool->fn;
        void *ctx = pool->ctx;
        pthread_mutex_unlock(&pool->lock);
        fn(ctx, i, number);
        pthread_mutex_lock(&pool->lock);
    }
}

static void *thread_main(void *arg)
{
    worker *w = arg;
    ccq_pool *pool = w->pool;
    unsigned long seen = 0;
    pthread_mutex_lock(&pool->lock);
    for (;;) {
        while (!pool->stop && pool->round == seen)
            pthread_cond_wait(&pool->start, &pool->lock);
        if (pool->stop)
            break;
        seen = pool->round;
        work(pool, w->number);
        if (--pool->busy == 0)
            pthread_cond_signal(&pool->done);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

ccq_pool *ccq_pool_new(int threads)
{
    ccq_pool *pool = calloc(1, sizeof *pool);
    int i;
    if (!pool)
        return NULL;
    if (threads < 1)
        threads = ccq_cpu_count();
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->start, NULL);
    pthread_cond_init(&pool->done, NULL);
    pool->threads = 1;
    pool->workers = calloc((size_t)threads, sizeof *pool->workers);
    if (!pool->workers)
        goto fail;
    for (i = 1; i < threads; i++) {
        worker *w = &pool->workers[i];
        w->pool = pool;
        w->number = i;
        if (pthread_create(&w->thread, NULL, thread_main, w) != 0)
            goto fail;
        pool->threads = i + 1;
    }
    return pool;
fail:
    ccq_pool_free(pool);
    return NULL;
}

void ccq_pool_free(ccq_pool *pool)
{
    int i;
    if (!pool)
        return;
    pthread_mutex_lock(&pool->lock);
    pool->stop = 1;
    pthread_cond_broadcast(&pool->start);
    pthread_mutex_unlock(&pool->lock);
    for (i = 1; i < pool->threads; i++)
        pthread_join(pool->workers[i].thread, NULL);
    pthread_cond_destroy(&pool->done);
    pthread_cond_destroy(&pool->start);
    pthread_mutex_destroy(&pool->lock);
    free(pool->workers);
    free(pool);
}

int ccq_pool_threads(const ccq_pool *pool)
{
    return pool ? pool->threads : 1;
}

void ccq_pool_run(ccq_pool *pool, size_t n, ccq_pool_fn fn, void *ctx)
{
    if (n == 0)
        return;
    pthread_mutex_lock(&pool->lock);
    pool->fn = fn;
    pool->ctx = ctx;
    pool->n = n;
    pool->next = 0;
    pool->round++;
    pool->busy = pool->threads - 1;
    if (pool->busy > 0)
        pthread_cond_broadcast(&pool->start);
    work(pool, 0);
    while (pool->busy > 0)
        pthread_cond_wait(&pool->done, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
}
