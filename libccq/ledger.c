#include "libccq/crc.h"
#include "libccq/ledger_internal.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

ccq_code ccq_ledger_no_memory(ccq_error *err)
{
    return ccq_fail(err, CCQ_NO_MEMORY, "job: out of memory");
}

const ccq_layout_tensor *ccq_ledger_tensor(const ccq_ledger *l, size_t tensor)
{
    return ccq_layout_at(l->plan->layout, tensor % ccq_layout_count(l->plan->layout));
}

ccq_ledger_shard *ccq_ledger_shard_of(const ccq_ledger *l, size_t tensor)
{
    size_t rank = tensor / ccq_layout_count(l->plan->layout);
    return &l->shard[rank * ccq_layout_shards(l->plan->layout) +
                     ccq_ledger_tensor(l, tensor)->shard];
}

int ccq_ledger_mine(const ccq_ledger *l, const ccq_ledger_shard *s)
{
    const ccq_quantize_options *o = &l->plan->options;
    return !o->finalize && (o->world <= 1 || s->owner == o->rank);
}

void ccq_ledger_warn(const ccq_ledger *l, const char *fmt, ...)
{
    char text[800];
    va_list args;
    if (!l->run->warn)
        return;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    l->run->warn(l->run->ctx, text);
}

ccq_code ccq_ledger_poll(const ccq_ledger *l, ccq_error *err)
{
    return l->run->cancelled && l->run->cancelled(l->run->ctx)
               ? ccq_fail(err, CCQ_INTERRUPTED, "interrupted") : CCQ_OK;
}

/* ---- Questions --------------------------------------------------------------------- */

int ccq_ledger_finished(const ccq_ledger *l)
{
    return ccq_stage_state(l->stage) == CCQ_STAGE_FINISHED;
}

int ccq_ledger_moved(const ccq_ledger *l)
{
    return ccq_stage_moved(l->stage);
}

int ccq_ledger_done(const ccq_ledger *l, size_t tensor)
{
    return (l->state[tensor] & CCQ_TENSOR_DONE) != 0;
}

int ccq_ledger_wants(const ccq_ledger *l, size_t tensor)
{
    return !ccq_ledger_done(l, tensor) && ccq_ledger_mine(l, ccq_ledger_shard_of(l, tensor));
}

int ccq_ledger_needs(const ccq_ledger *l, const ccq_action *a, int rank)
{
    size_t first = (size_t)rank * ccq_layout_count(l->plan->layout);
    for (int i = 0; i < a->tensors; i++)
        if (ccq_ledger_wants(l, first + a->tensor[i]))
            return 1;
    return 0;
}

ccq_code ccq_ledger_read(const ccq_ledger *l, size_t tensor, uint64_t offset, void *dst,
                         uint64_t size, ccq_error *err)
{
    const ccq_layout_tensor *t = ccq_ledger_tensor(l, tensor);
    if (offset > t->bytes || size > t->bytes - offset)
        return ccq_fail(err, CCQ_BUG, "%s: read past its end", t->name);
    return ccq_stage_read(l->stage, ccq_ledger_shard_of(l, tensor)->name, t->offset + offset, dst,
                          size, err);
}

uint32_t ccq_ledger_source(const ccq_ledger *l, size_t tensor)
{
    return l->source[tensor];
}

const uint32_t *ccq_ledger_crcs(const ccq_ledger *l)
{
    return l->crc;
}

ccq_stage *ccq_ledger_stage(ccq_ledger *l)
{
    return l->stage;
}

ccq_code ccq_ledger_check(const ccq_ledger *l, size_t tensor, int *good, ccq_error *err)
{
    enum { BLOCK = 1 << 18 }; /* stays in the processor's cache */
    uint64_t bytes = ccq_ledger_tensor(l, tensor)->bytes;
    unsigned char *block = malloc(BLOCK);
    uint32_t crc = 0;
    ccq_code code = block ? CCQ_OK : ccq_ledger_no_memory(err);
    for (uint64_t at = 0; at < bytes && !code; at += BLOCK) {
        uint64_t n = bytes - at < BLOCK ? bytes - at : BLOCK;
        if (!(code = ccq_ledger_poll(l, err)))
            code = ccq_ledger_read(l, tensor, at, block, n, err);
        crc = ccq_crc32(crc, block, (size_t)n);
    }
    free(block);
    *good = !code && crc == l->crc[tensor];
    return code == CCQ_CHANGED ? CCQ_OK : code; /* not there, or too short: not good */
}

/* ---- Writing ----------------------------------------------------------------------- */

static ccq_code open_shard(ccq_ledger *l, ccq_ledger_shard *s, ccq_error *err)
{
    uint64_t size = 0;
    const void *header = ccq_layout_header(l->plan->layout, s->number, &size);
    ccq_code code = ccq_stage_shard(l->stage, s->name, s->bytes, s->have, &s->out, err);
    if (!code)
        code = ccq_out_write(s->out, 0, header, size, err);
    s->have += size;
    return code;
}

void ccq_ledger_made_from(ccq_ledger *l, const ccq_action *a, int rank, uint32_t crc)
{
    size_t first = (size_t)rank * ccq_layout_count(l->plan->layout);
    for (int i = 0; i < a->tensors; i++) {
        size_t tensor = first + a->tensor[i];
        if (ccq_ledger_done(l, tensor))
            continue;
        l->source[tensor] = crc;
        l->state[tensor] |= CCQ_TENSOR_SOURCE;
    }
}

static ccq_code record(ccq_ledger *l, size_t tensor, ccq_error *err)
{
    const ccq_layout_tensor *t = ccq_ledger_tensor(l, tensor);
    ccq_record r = {.tensor = t->name,
                    .shard = ccq_ledger_shard_of(l, tensor)->name,
                    .offset = t->offset,
                    .length = t->bytes,
                    .crc = l->crc[tensor],
                    .source = l->source[tensor]};
    return ccq_journal_add(l->journal, &r, err);
}

ccq_code ccq_ledger_flush(ccq_ledger *l, ccq_error *err)
{
    ccq_code code = CCQ_OK;
    if (!l->fresh_count)
        return CCQ_OK;
    for (size_t i = 0; i < l->shards && !code; i++)
        if (l->shard[i].out)
            code = ccq_out_sync(l->shard[i].out, err);
    for (size_t i = 0; i < l->fresh_count && !code; i++)
        code = record(l, l->fresh[i], err);
    if (!code)
        code = ccq_journal_flush(l->journal, err);
    l->fresh_count = 0;
    l->fresh_bytes = 0;
    return code;
}

/* The last tensor of a shard is there. */
static ccq_code close_shard(ccq_ledger *l, ccq_ledger_shard *s, ccq_error *err)
{
    ccq_code code = ccq_ledger_flush(l, err);
    ccq_out *out = s->out;
    if (code)
        return code;
    s->out = NULL;
    s->adopted = 1;
    code = ccq_out_close(out, err);
    if (!code && l->plan->options.world > 1)
        code = ccq_stage_mark_done(l->stage, s->name, err);
    return code;
}

static ccq_code tensor_done(ccq_ledger *l, size_t tensor, ccq_error *err)
{
    ccq_ledger_shard *s = ccq_ledger_shard_of(l, tensor);
    uint64_t bytes = ccq_ledger_tensor(l, tensor)->bytes;
    if (!(l->state[tensor] & CCQ_TENSOR_SOURCE))
        l->source[tensor] = l->crc[tensor];
    l->state[tensor] |= CCQ_TENSOR_DONE;
    l->fresh[l->fresh_count++] = tensor;
    l->fresh_bytes += bytes;
    s->have += bytes;
    if (!--s->left)
        return close_shard(l, s, err);
    return l->fresh_bytes >= l->plan->options.sync_bytes ? ccq_ledger_flush(l, err) : CCQ_OK;
}

ccq_code ccq_ledger_put(void *ledger, size_t tensor, uint64_t offset, const void *data,
                        uint64_t size, int last, ccq_error *err)
{
    ccq_ledger *l = ledger;
    ccq_ledger_shard *s = ccq_ledger_shard_of(l, tensor);
    if (!ccq_ledger_wants(l, tensor))
        return CCQ_OK;
    ccq_code code = s->out ? CCQ_OK : open_shard(l, s, err);
    if (code)
        return code;
    if (!offset)
        l->crc[tensor] = 0;
    l->crc[tensor] = ccq_crc32(l->crc[tensor], data, (size_t)size);
    code = ccq_out_write(s->out, ccq_ledger_tensor(l, tensor)->offset + offset, data, size, err);
    return code || !last ? code : tensor_done(l, tensor, err);
}

/* ---- The end ------------------------------------------------------------------------ */

static ccq_code check_header(const ccq_ledger *l, const ccq_ledger_shard *s, ccq_error *err)
{
    uint64_t size = 0;
    const void *header = ccq_layout_header(l->plan->layout, s->number, &size);
    void *found = malloc((size_t)size);
    ccq_code code = found ? ccq_stage_read(l->stage, s->name, 0, found, size, err)
                          : ccq_ledger_no_memory(err);
    if (!code && memcmp(found, header, (size_t)size) != 0)
        code = ccq_fail(err, CCQ_IO, "%s: its header is not what was written", s->name);
    free(found);
    return code;
}

static ccq_code check_shard(ccq_ledger *l, ccq_ledger_shard *s, ccq_error *err)
{
    ccq_code code = s->adopted ? CCQ_OK : ccq_stage_adopt(l->stage, s->name, s->bytes, err);
    s->adopted = !code;
    if (!code)
        code = check_header(l, s, err);
    if (code == CCQ_CHANGED) { /* no input, but what we have written ourselves */
        code = CCQ_IO;
        if (err)
            err->code = code;
    }
    return code;
}

/* All tensors, read again by all threads. */
typedef struct recheck {
    const ccq_ledger *l;
    pthread_mutex_t lock;
    atomic_int failed;
    size_t first; /* of the tensors that failed; what it says */
    ccq_code code;
    ccq_error err;
} recheck;

static void check_tensor(void *ctx, size_t i, int worker)
{
    recheck *c = ctx;
    ccq_error err = {0};
    int good = 1;
    (void)worker;
    if (atomic_load(&c->failed))
        return;
    ccq_code code = ccq_ledger_check(c->l, i, &good, &err);
    if (!code && !good)
        code = ccq_fail(&err, CCQ_IO, "%s: %s: staged bytes are not what was written",
                        ccq_ledger_shard_of(c->l, i)->name, ccq_ledger_tensor(c->l, i)->name);
    if (!code)
        return;
    atomic_store(&c->failed, 1);
    pthread_mutex_lock(&c->lock);
    if (!c->code || i < c->first) {
        c->first = i;
        c->code = code;
        c->err = err;
    }
    pthread_mutex_unlock(&c->lock);
}

static ccq_code check_tensors(const ccq_ledger *l, ccq_error *err)
{
    recheck c = {.l = l, .lock = PTHREAD_MUTEX_INITIALIZER};
    ccq_pool_run(l->run->pool, l->tensors, check_tensor, &c);
    pthread_mutex_destroy(&c.lock);
    if (c.code && err)
        *err = c.err;
    return c.code;
}

ccq_code ccq_ledger_complete(ccq_ledger *l, ccq_error *err)
{
    ccq_code code = ccq_ledger_flush(l, err);
    if (!code)
        code = ccq_ledger_missing(l, err);
    for (size_t i = 0; i < l->shards && !code; i++)
        if (!(code = ccq_ledger_poll(l, err)))
            code = check_shard(l, &l->shard[i], err);
    return code ? code : check_tensors(l, err);
}

ccq_code ccq_ledger_commit(ccq_ledger *l, ccq_error *err)
{
    ccq_code code = ccq_stage_commit(l->stage, err);
    if (code)
        ccq_stage_leave(l->stage);
    l->stage = NULL;
    return code;
}

void ccq_ledger_close(ccq_ledger *l, ccq_code code)
{
    if (!l)
        return;
    for (size_t i = 0; l->shard && i < l->shards; i++) {
        ccq_out_drop(l->shard[i].out);
        free(l->shard[i].name);
    }
    ccq_journal_close(l->journal);
    if (!code || code == CCQ_IO || code == CCQ_NO_SPACE || code == CCQ_INTERRUPTED)
        ccq_stage_leave(l->stage);
    else
        ccq_stage_abandon(l->stage);
    free(l->fresh);
    free(l->order);
    free(l->source);
    free(l->crc);
    free(l->state);
    free(l->shard);
    free(l);
}
