#include "tools/jsonl.h"

#include "formats/file.h"
#include "formats/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_FILE = 1 << 30 };

ccq_code jsonl_lines(const char *path, jsonl_fn fn, void *ctx, ccq_error *err)
{
    char *data = NULL, name[200], place[240];
    size_t size, at = 0, number = 0;
    ccq_code code = ccq_file_load(path, MAX_FILE, CCQ_NO_INPUT, &data, &size, err);

    ccq_escape(name, sizeof name, path, strlen(path));
    while (!code && at < size) {
        const char *line = data + at, *end = memchr(line, '\n', size - at);
        size_t n = end ? (size_t)(end - line) : size - at;
        size_t blank = 0;
        at += n + 1;
        number++;
        while (blank < n && strchr(" \t\r", line[blank]))
            blank++;
        if (blank == n)
            continue;
        snprintf(place, sizeof place, "%s, line %zu", name, number);
        code = fn(ctx, place, line, n, err);
    }
    free(data);
    return code;
}

/* ---- One line ------------------------------------------------------------------ */

typedef struct reader {
    ccq_json json;
    const char *line;
    run_prompt *q;
    char **words;
    size_t *length;
    ccq_error *err;
} reader;

static ccq_code bad(const reader *r, const char *field, const char *wanted)
{
    return ccq_fail(r->err, CCQ_JSON, "%s: %s: %s", r->q->place, field, wanted);
}

static int next_number(reader *r, double low, double high, double *v)
{
    if (ccq_json_next(&r->json) != CCQ_JSON_NUMBER)
        return 0;
    *v = strtod(r->json.text, NULL); /* the line goes on with , or }, or a NUL */
    return isfinite(*v) && *v >= low && *v <= high;
}

static int is_integer(double v)
{
    return v == floor(v);
}

static ccq_code read_ids(reader *r, const char *field, int32_t **ids, size_t *count)
{
    ccq_json_event e;
    size_t room = 0;

    if (ccq_json_next(&r->json) != CCQ_JSON_ARRAY)
        return bad(r, field, "an array of ids is wanted");
    while ((e = ccq_json_next(&r->json)) == CCQ_JSON_NUMBER) {
        uint64_t id;
        if (!ccq_json_u64(r->json.text, r->json.len, &id) || id > INT32_MAX)
            return bad(r, field, "an id is not a whole number from 0 on");
        if (*count == room) {
            int32_t *more = realloc(*ids, (room = 2 * room + 16) * sizeof *more);
            if (!more)
                return ccq_fail(r->err, CCQ_NO_MEMORY, "%s: out of memory", r->q->place);
            *ids = more;
        }
        (*ids)[(*count)++] = (int32_t)id;
    }
    return e == CCQ_JSON_ARRAY_END ? CCQ_OK : bad(r, field, "an array of ids is wanted");
}

static ccq_code add_stop(reader *r)
{
    char **more = realloc(r->q->stop, (r->q->stops + 1) * sizeof *more);

    if (!more)
        return ccq_fail(r->err, CCQ_NO_MEMORY, "%s: out of memory", r->q->place);
    r->q->stop = more;
    more[r->q->stops] = strndup(r->json.text, r->json.len);
    if (!more[r->q->stops])
        return ccq_fail(r->err, CCQ_NO_MEMORY, "%s: out of memory", r->q->place);
    r->q->stops++;
    if (strlen(more[r->q->stops - 1]) != r->json.len)
        return bad(r, "stop", "a NUL inside");
    return r->json.len ? CCQ_OK : bad(r, "stop", "a string to stop at may not be empty");
}

/* A string or an array of them, in place of the command line's. */
static ccq_code read_stop(reader *r)
{
    ccq_json_event e = ccq_json_next(&r->json);
    ccq_code code;

    while (r->q->stops)
        free(r->q->stop[--r->q->stops]);
    if (e == CCQ_JSON_STRING)
        return add_stop(r);
    if (e != CCQ_JSON_ARRAY)
        return bad(r, "stop", "a string or an array of strings is wanted");
    while ((e = ccq_json_next(&r->json)) == CCQ_JSON_STRING)
        if ((code = add_stop(r)))
            return code;
    return e == CCQ_JSON_ARRAY_END ? CCQ_OK : bad(r, "stop", "only strings may stand in it");
}

static ccq_code read_words(reader *r)
{
    if (ccq_json_next(&r->json) != CCQ_JSON_STRING)
        return bad(r, "prompt", "a string is wanted");
    *r->length = r->json.len;
    *r->words = strndup(r->json.text, r->json.len);
    if (!*r->words)
        return ccq_fail(r->err, CCQ_NO_MEMORY, "%s: out of memory", r->q->place);
    return strlen(*r->words) == r->json.len ? CCQ_OK : bad(r, "prompt", "a NUL inside");
}

static ccq_code read_id(reader *r)
{
    ccq_json_event e = ccq_json_next(&r->json);

    if (e != CCQ_JSON_STRING && e != CCQ_JSON_NUMBER)
        return bad(r, "id", "a string or a number is wanted");
    r->q->id = strndup(r->line + r->json.begin, r->json.end - r->json.begin);
    return r->q->id ? CCQ_OK : ccq_fail(r->err, CCQ_NO_MEMORY, "out of memory");
}

static ccq_code read_sampling(reader *r, int which)
{
    ccq_sampling *s = &r->q->sampling;
    double v;

    if (which == 0) {
        if (!next_number(r, 0, 1e30, &v))
            return bad(r, "temperature", "a number from 0 on is wanted");
        s->temperature = (float)v;
    } else if (which == 1) {
        if (!next_number(r, 0, 1, &v))
            return bad(r, "top_p", "a number from 0 to 1 is wanted");
        s->top_p = v;
    } else {
        if (!next_number(r, -1, INT32_MAX, &v) || !is_integer(v))
            return bad(r, "top_k", "a whole number from -1 on is wanted");
        s->top_k = (int64_t)v;
    }
    return CCQ_OK;
}

static ccq_code read_seed(reader *r)
{
    uint64_t v;

    if (ccq_json_next(&r->json) != CCQ_JSON_NUMBER ||
        !ccq_json_u64(r->json.text, r->json.len, &v) || v > INT64_MAX)
        return bad(r, "seed", "a whole number from 0 to 2^63-1 is wanted");
    r->q->sampling.seed = v;
    r->q->has_seed = 1;
    return CCQ_OK;
}

static ccq_code read_max_tokens(reader *r)
{
    double v;

    if (!next_number(r, 1, INT32_MAX, &v) || !is_integer(v))
        return bad(r, "max_tokens", "a whole number from 1 on is wanted");
    r->q->max_tokens = (int64_t)v;
    return CCQ_OK;
}

static const char *const fields[] = {
    "temperature", "top_p", "top_k", "ids",        "prompt",
    "id",          "seed",  "stop",  "max_tokens", "stop_token_ids"};
enum { FIELDS = sizeof fields / sizeof *fields };

static ccq_code read_field(reader *r, int i)
{
    switch (i) {
    case 3:
        return read_ids(r, "ids", &r->q->ids, &r->q->count);
    case 4:
        return read_words(r);
    case 5:
        return read_id(r);
    case 6:
        return read_seed(r);
    case 7:
        return read_stop(r);
    case 8:
        return read_max_tokens(r);
    case 9:
        return read_ids(r, "stop_token_ids", &r->q->stop_ids, &r->q->stop_count);
    default:
        return read_sampling(r, i);
    }
}

static ccq_code read_object(reader *r)
{
    unsigned seen = 0;
    ccq_json_event e = ccq_json_next(&r->json);
    char shown[80];
    ccq_code code;

    if (e != CCQ_JSON_OBJECT)
        return bad(r, "line", "a JSON object is wanted");
    while ((e = ccq_json_next(&r->json)) == CCQ_JSON_KEY) {
        int i = 0;
        while (i < FIELDS &&
               (strlen(fields[i]) != r->json.len || memcmp(fields[i], r->json.text, r->json.len)))
            i++;
        ccq_escape(shown, sizeof shown, r->json.text, r->json.len);
        if (i == FIELDS)
            return bad(r, shown, "not a field that is known");
        if (seen >> i & 1)
            return bad(r, shown, "stands there twice");
        seen |= 1u << i;
        if ((code = read_field(r, i)))
            return code;
    }
    if (e != CCQ_JSON_OBJECT_END || ccq_json_next(&r->json) != CCQ_JSON_END)
        return bad(r, "line", r->json.message ? r->json.message : "one JSON object is wanted");
    if (!(seen >> 3 & 1) == !(seen >> 4 & 1))
        return bad(r, "line", "one of \"ids\" and \"prompt\" is wanted");
    return CCQ_OK;
}

ccq_code jsonl_prompt(run_prompt *q, const char *line, size_t size, char **words, size_t *length,
                      ccq_error *err)
{
    ccq_json_limits limits = {4, 16 << 20, 16 << 20};
    reader r = {.line = line, .q = q, .words = words, .length = length, .err = err};
    ccq_code code;

    ccq_json_init(&r.json, line, size, &limits);
    code = read_object(&r);
    ccq_json_free(&r.json);
    return code;
}
