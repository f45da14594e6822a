#include "tools/prompts.h"

#include "libccq/reference.h"
#include "tools/jsonl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ccq_code no_memory(ccq_error *err)
{
    return ccq_fail(err, CCQ_NO_MEMORY, "prompts: out of memory");
}

static void free_prompt(run_prompt *q)
{
    for (size_t i = 0; i < q->stops; i++)
        free(q->stop[i]);
    free(q->stop);
    free(q->stop_ids);
    free(q->ids);
    free(q->id);
    free(q->place);
}

void prompts_free(prompt_list *p)
{
    for (size_t i = 0; i < p->count; i++)
        free_prompt(&p->at[i]);
    free(p->at);
    p->at = NULL;
    p->count = p->room = 0;
}

/* A new prompt with the defaults; NULL when out of memory. */
static run_prompt *add(prompt_list *p, const char *place, int from_file)
{
    run_prompt *q;

    if (p->count == p->room) {
        size_t room = 2 * p->room + 8;
        run_prompt *at = realloc(p->at, room * sizeof *at);
        if (!at)
            return NULL;
        p->at = at;
        p->room = room;
    }
    q = &p->at[p->count];
    memset(q, 0, sizeof *q);
    q->from_file = from_file;
    q->sampling = p->sampling;
    q->max_tokens = p->max_tokens;
    p->count++;
    q->place = strdup(place);
    q->stop = calloc(p->stops + 1, sizeof *q->stop);
    for (size_t i = 0; q->stop && i < p->stops; i++) {
        q->stop[i] = strdup(p->stop[i]);
        if (!q->stop[i])
            return NULL;
        q->stops++;
    }
    return q->place && q->stop ? q : NULL;
}

/* ---- The command line -------------------------------------------------------------- */

static ccq_code encode(const prompt_list *p, run_prompt *q, const char *s, size_t size,
                       ccq_error *err)
{
    ccq_code code = text_usable(p->text, p->dir, err);

    if (code)
        return code;
    if (p->chat)
        return text_chat(p->text, s, size, p->bos, &q->ids, &q->count, err);
    return text_encode(p->text, s, size, &q->ids, &q->count, err);
}

ccq_code prompts_add_text(prompt_list *p, const char *s, ccq_error *err)
{
    run_prompt *q = add(p, "--prompt", 0);

    return q ? encode(p, q, s, strlen(s), err) : no_memory(err);
}

ccq_code prompts_add_ids(prompt_list *p, const char *list, ccq_error *err)
{
    run_prompt *q = add(p, "--prompt-ids", 0);
    const char *s = list;
    char *end;

    if (!q)
        return no_memory(err);
    q->ids = calloc(strlen(list) / 2 + 1, sizeof *q->ids);
    if (!q->ids)
        return no_memory(err);
    while (*s) {
        long long id = strtoll(s, &end, 10);
        if (*s < '0' || *s > '9' || id > INT32_MAX || (*end && (*end != ',' || !end[1])))
            return ccq_fail(err, CCQ_USAGE, "--prompt-ids: ids are numbers with commas: 1,2,3");
        q->ids[q->count++] = (int32_t)id;
        s = *end ? end + 1 : end;
    }
    return CCQ_OK;
}

ccq_code prompts_add_array(prompt_list *p, const char *place, const int32_t *ids, size_t count,
                           ccq_error *err)
{
    run_prompt *q = add(p, place, 1);

    if (!q)
        return no_memory(err);
    q->ids = calloc(count + 1, sizeof *q->ids);
    if (!q->ids)
        return no_memory(err);
    memcpy(q->ids, ids, count * sizeof *ids);
    q->count = count;
    return CCQ_OK;
}

/* ---- Files ------------------------------------------------------------------------------ */

static ccq_code add_reference(prompt_list *p, const char *path, ccq_error *err)
{
    int32_t *lengths, *ids;
    size_t count, total, at = 0;
    char place[300];
    ccq_code code = ccq_reference_prompts(path, &lengths, &count, &ids, &total, err);

    for (size_t i = 0; !code && i < count; i++) {
        snprintf(place, sizeof place, "%.200s, prompt %zu", path, i);
        code = prompts_add_array(p, place, ids + at, (size_t)lengths[i], err);
        at += (size_t)lengths[i];
    }
    free(lengths);
    free(ids);
    return code;
}

static ccq_code add_line(void *ctx, const char *place, const char *line, size_t size,
                         ccq_error *err)
{
    prompt_list *p = ctx;
    run_prompt *q = add(p, place, 1);
    char *words = NULL;
    size_t length = 0;
    ccq_code code;

    if (!q)
        return no_memory(err);
    code = jsonl_prompt(q, line, size, &words, &length, err);
    if (!code && words)
        code = encode(p, q, words, length, err);
    free(words);
    return code;
}

ccq_code prompts_add_file(prompt_list *p, const char *path, ccq_error *err)
{
    size_t n = strlen(path);

    if (n > 4 && !strcmp(path + n - 4, ".npz"))
        return add_reference(p, path, err);
    return jsonl_lines(path, add_line, p, err);
}

/* ---- Checks ------------------------------------------------------------------------------- */

static int is_good(const prompt_list *p, int32_t id, int64_t valid, int64_t vocab)
{
    return id >= 0 && (id < valid || (id < vocab && text_is_added(p->text, id)));
}

static ccq_code check(const prompt_list *p, const run_prompt *q, int64_t valid, int64_t vocab,
                      int64_t context, ccq_error *err)
{
    ccq_code wrong = q->from_file ? CCQ_REFERENCE : CCQ_USAGE;

    if (!q->count)
        return ccq_fail(err, wrong, "%s: the prompt is empty", q->place);
    for (size_t i = 0; i < q->count; i++)
        if (!is_good(p, q->ids[i], valid, vocab))
            return ccq_fail(err, wrong,
                            "%s: id %d (number %zu) is outside [0, %lld) and no added token",
                            q->place, (int)q->ids[i], i, (long long)valid);
    for (size_t i = 0; i < q->stop_count; i++)
        if (q->stop_ids[i] < 0)
            return ccq_fail(err, wrong, "%s: stop id %d", q->place, (int)q->stop_ids[i]);
    if ((uint64_t)q->count > (uint64_t)context || q->max_tokens > context - (int64_t)q->count)
        return ccq_fail(err, wrong,
                        "%s: %zu tokens and %lld more (max_tokens) pass the context of %lld",
                        q->place, q->count, (long long)q->max_tokens, (long long)context);
    return q->stops ? text_usable(p->text, p->dir, err) : CCQ_OK;
}

static ccq_code append_ends(run_prompt *q, const int32_t *end, size_t ends, ccq_error *err)
{
    int32_t *all = realloc(q->stop_ids, (q->stop_count + ends + 1) * sizeof *all);

    if (!all)
        return no_memory(err);
    q->stop_ids = all;
    for (size_t i = 0; i < ends; i++)
        all[q->stop_count++] = end[i];
    return CCQ_OK;
}

ccq_code prompts_check(prompt_list *p, int64_t valid, int64_t vocab, int64_t context,
                       const int32_t *end, size_t ends, ccq_error *err)
{
    ccq_code code;

    for (size_t i = 0; i < p->count; i++) {
        run_prompt *q = &p->at[i];
        if ((code = check(p, q, valid, vocab, context, err)) ||
            (code = append_ends(q, end, ends, err)))
            return code;
        if (!q->has_seed)
            q->sampling.seed += i;
    }
    return CCQ_OK;
}
