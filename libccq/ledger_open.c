/* The ledger at the beginning: what earlier runs have done, and whose shard is whose. */
#include "libccq/ledger_internal.h"

#include "formats/file.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Whose shard ------------------------------------------------------------------- */

typedef struct by_size {
    size_t shard;
    uint64_t bytes;
} by_size;

static int larger_first(const void *a, const void *b)
{
    const by_size *x = a, *y = b;
    if (x->bytes != y->bytes)
        return x->bytes > y->bytes ? -1 : 1;
    return x->shard < y->shard ? -1 : x->shard > y->shard;
}

ccq_code ccq_ledger_assign(ccq_ledger_shard *shard, size_t count, int world, ccq_error *err)
{
    size_t ranks = world > 1 ? (size_t)world : 1;
    by_size *order = calloc(count + 1, sizeof *order);
    uint64_t *load = calloc(ranks, sizeof *load);
    ccq_code code = order && load ? CCQ_OK : ccq_ledger_no_memory(err);
    for (size_t i = 0; i < count && !code; i++)
        order[i] = (by_size){i, shard[i].bytes};
    if (!code && count)
        qsort(order, count, sizeof *order, larger_first);
    for (size_t i = 0; i < count && !code; i++) {
        size_t least = 0;
        for (size_t r = 1; r < ranks; r++)
            if (load[r] < load[least])
                least = r;
        shard[order[i].shard].owner = (int)least;
        load[least] += order[i].bytes;
    }
    free(load);
    free(order);
    return code;
}

/* ---- Journals ---------------------------------------------------------------------- */

/* A place in the output: tensors are found by it. */
typedef struct place {
    const ccq_ledger *l;
    const char *shard;
    uint64_t offset;
} place;

static int at_place(const void *key, const void *element)
{
    const place *p = key;
    size_t tensor = *(const size_t *)element;
    int order = strcmp(p->shard, ccq_ledger_shard_of(p->l, tensor)->name);
    uint64_t offset = ccq_ledger_tensor(p->l, tensor)->offset;
    return order ? order : p->offset < offset ? -1 : p->offset > offset;
}

static int by_place(const void *a, const void *b, void *ledger)
{
    const ccq_ledger *l = ledger;
    size_t tensor = *(const size_t *)a;
    place p = {l, ccq_ledger_shard_of(l, tensor)->name, ccq_ledger_tensor(l, tensor)->offset};
    return at_place(&p, b);
}

static int take_record(void *ctx, const ccq_record *r)
{
    ccq_ledger *l = ctx;
    place p = {l, r->shard, r->offset};
    const size_t *at = bsearch(&p, l->order, l->tensors, sizeof *l->order, at_place);
    if (!at || strcmp(ccq_ledger_tensor(l, *at)->name, r->tensor) != 0 ||
        ccq_ledger_tensor(l, *at)->bytes != r->length)
        return -1;
    l->state[*at] |= CCQ_TENSOR_KNOWN;
    l->crc[*at] = r->crc;
    l->source[*at] = r->source;
    return 0;
}

static ccq_code read_journal(ccq_ledger *l, const char *name, ccq_error *err)
{
    uint64_t good = 0, size = 0;
    char *path = ccq_path_join(ccq_stage_work(l->stage), name);
    ccq_code code = path ? ccq_journal_read(path, take_record, l, &good, &size, err)
                         : ccq_ledger_no_memory(err);
    if (!code && good < size)
        ccq_ledger_warn(l, "%s: broken off at byte %" PRIu64 ": what follows is done again", path,
                        good);
    if (!code && strcmp(name, ccq_stage_journal(l->stage)) == 0 &&
        !l->plan->options.finalize && !ccq_ledger_finished(l))
        code = ccq_journal_open(&l->journal, path, good, !l->plan->options.no_sync, err);
    free(path);
    return code;
}

ccq_code ccq_ledger_read_journals(ccq_ledger *l, ccq_error *err)
{
    char **names = NULL;
    size_t count = 0;
    for (size_t i = 0; i < l->tensors; i++)
        l->order[i] = i;
    qsort_r(l->order, l->tensors, sizeof *l->order, by_place, l);
    ccq_code code = ccq_own_list(ccq_stage_work(l->stage), &names, &count, CCQ_IO, err);
    for (size_t i = 0; i < count && !code; i++)
        if (strncmp(names[i], "journal.", 8) == 0)
            code = read_journal(l, names[i], err);
    ccq_names_free(names, count);
    return code;
}

/* ---- Opening ------------------------------------------------------------------------- */

static ccq_code make_shards(ccq_ledger *l, ccq_error *err)
{
    const ccq_layout *layout = l->plan->layout;
    size_t each = ccq_layout_shards(layout);
    for (size_t i = 0; i < l->shards; i++) {
        ccq_ledger_shard *s = &l->shard[i];
        const char *name = ccq_layout_shard_name(layout, i % each);
        s->rank = i / each;
        s->number = i % each;
        s->bytes = ccq_layout_shard_bytes(layout, s->number);
        if (l->plan->ranks == 1)
            s->name = strdup(name);
        else if (asprintf(&s->name, "rank%zu/%s", s->rank, name) < 0)
            s->name = NULL;
        if (!s->name)
            return ccq_ledger_no_memory(err);
    }
    for (size_t i = 0; i < l->tensors; i++)
        ccq_ledger_shard_of(l, i)->left++;
    return ccq_ledger_assign(l->shard, l->shards, l->plan->options.world, err);
}

static ccq_code make(ccq_ledger **ledger, const ccq_plan *plan,
                     const ccq_quantize_run_options *run, ccq_error *err)
{
    ccq_ledger *l = calloc(1, sizeof *l);
    if (!(*ledger = l))
        return ccq_ledger_no_memory(err);
    l->plan = plan;
    l->run = run;
    l->shards = (size_t)plan->ranks * ccq_layout_shards(plan->layout);
    l->tensors = (size_t)plan->ranks * ccq_layout_count(plan->layout);
    l->shard = calloc(l->shards + 1, sizeof *l->shard);
    l->state = calloc(l->tensors + 1, sizeof *l->state);
    l->crc = calloc(l->tensors + 1, sizeof *l->crc);
    l->source = calloc(l->tensors + 1, sizeof *l->source);
    l->order = calloc(l->tensors + 1, sizeof *l->order);
    l->fresh = calloc(l->tensors + 1, sizeof *l->fresh);
    if (!l->shard || !l->state || !l->crc || !l->source || !l->order || !l->fresh)
        return ccq_ledger_no_memory(err);
    return make_shards(l, err);
}

static ccq_code open_stage(ccq_ledger *l, ccq_error *err)
{
    ccq_stage_options o;
    size_t size = 0;
    char *text = ccq_plan_identity(l->plan, &size);
    ccq_stage_options_of(&l->plan->options, &o);
    o.plan = text;
    o.plan_size = size;
    o.warn = l->run->warn;
    o.ctx = l->run->ctx;
    ccq_code code = text ? ccq_stage_open(&l->stage, l->plan->output, &o, err)
                         : ccq_ledger_no_memory(err);
    free(text);
    return code;
}

/* Bytes of a tensor that a journal knows: as they were, or to be made again. Those of
 * other processes are looked at before the commit. */
static ccq_code settle(ccq_ledger *l, size_t tensor, ccq_error *err)
{
    ccq_ledger_shard *s = ccq_ledger_shard_of(l, tensor);
    int good = 1;
    ccq_code code = CCQ_OK;
    if (!(l->state[tensor] & CCQ_TENSOR_KNOWN))
        return CCQ_OK;
    if (ccq_ledger_mine(l, s))
        code = ccq_ledger_check(l, tensor, &good, err);
    if (!code && !good)
        ccq_ledger_warn(l, "%s: %s: staged bytes are not those of the journal: done again",
                        s->name, ccq_ledger_tensor(l, tensor)->name);
    if (code || !good)
        return code;
    l->state[tensor] |= CCQ_TENSOR_DONE | CCQ_TENSOR_SOURCE;
    s->left--;
    s->have += ccq_ledger_tensor(l, tensor)->bytes;
    return CCQ_OK;
}

/* The header once more, and the length, of a shard whose tensors are all there. */
static ccq_code repair(ccq_ledger *l, ccq_ledger_shard *s, const void *header, uint64_t size,
                       ccq_error *err)
{
    ccq_out *out = NULL;
    ccq_code code = ccq_stage_shard(l->stage, s->name, s->bytes, s->have, &out, err);
    if (!code && (code = ccq_out_write(out, 0, header, size, err)))
        ccq_out_drop(out);
    else if (!code)
        code = ccq_out_close(out, err);
    return code;
}

/* A shard that was finished before: its header too. */
static ccq_code settle_shard(ccq_ledger *l, ccq_ledger_shard *s, ccq_error *err)
{
    uint64_t size = 0;
    const void *header = ccq_layout_header(l->plan->layout, s->number, &size);
    if (s->left || !ccq_ledger_mine(l, s))
        return CCQ_OK;
    void *found = malloc((size_t)size);
    ccq_code code = found ? ccq_stage_read(l->stage, s->name, 0, found, size, err)
                          : ccq_ledger_no_memory(err);
    if (!code && memcmp(found, header, (size_t)size) != 0)
        code = CCQ_CHANGED;
    if (!code)
        code = ccq_stage_adopt(l->stage, s->name, s->bytes, err);
    if (code == CCQ_CHANGED)
        code = repair(l, s, header, size, err);
    free(found);
    s->adopted = !code;
    if (!code && l->plan->options.world > 1)
        code = ccq_stage_mark_done(l->stage, s->name, err);
    return code;
}

static ccq_code take_up(ccq_ledger *l, ccq_error *err)
{
    ccq_code code = ccq_ledger_read_journals(l, err);
    size_t done = 0;
    for (size_t i = 0; i < l->tensors && !code; i++) {
        code = settle(l, i, err);
        done += ccq_ledger_done(l, i) != 0;
    }
    if (!code && done && l->plan->options.resume)
        ccq_ledger_warn(l, "going on: %zu of %zu stored tensors are finished", done, l->tensors);
    for (size_t i = 0; i < l->shards && !code; i++)
        if (!(code = ccq_ledger_poll(l, err)))
            code = settle_shard(l, &l->shard[i], err);
    /* A shard is another's until it says so. */
    for (size_t i = 0; l->plan->options.finalize && i < l->shards && !code; i++)
        if (!l->shard[i].left && l->plan->options.world > 1 &&
            !ccq_stage_is_done(l->stage, l->shard[i].name))
            l->shard[i].left = 1;
    return code;
}

/* All is in place. Of an input that seems to be another, what it was made from. */
static ccq_code recall(ccq_ledger *l, ccq_error *err)
{
    ccq_code code = ccq_ledger_moved(l) ? ccq_ledger_read_journals(l, err) : CCQ_OK;
    for (size_t i = 0; i < l->tensors; i++)
        if (l->state[i] & CCQ_TENSOR_KNOWN)
            l->state[i] |= CCQ_TENSOR_DONE | CCQ_TENSOR_SOURCE;
    return code;
}

ccq_code ccq_ledger_open(ccq_ledger **ledger, const ccq_plan *plan,
                         const ccq_quantize_run_options *run, ccq_error *err)
{
    *ledger = NULL;
    if (!plan->fits && !plan->options.finalize)
        return ccq_fail(err, CCQ_NO_SPACE,
                        "%s: %" PRIu64 " bytes and 64 MiB to spare are needed, %" PRIu64
                        " are free", plan->output, plan->total_bytes, plan->free_bytes);
    ccq_ledger *l = NULL;
    ccq_code code = make(&l, plan, run, err);
    if (!code)
        code = open_stage(l, err);
    if (!code)
        code = ccq_ledger_finished(l) ? recall(l, err) : take_up(l, err);
    if (!code) {
        *ledger = l;
        return CCQ_OK;
    }
    ccq_ledger_close(l, code);
    return code;
}
