/* Thresholds on statistics: {"max": {NAME: LIMIT}, "min": {NAME: LIMIT}}. */
#include "libccq/compare.h"

#include "formats/file.h"
#include "formats/json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_GATES = 2 * CCQ_FIGURE_COUNT, MAX_FILE = 1 << 20 };

typedef struct reader {
    ccq_json json;
    const char *path;
    ccq_gate *gate;
    size_t count;
    ccq_error *err;
} reader;

static ccq_code bad(reader *r, const char *what)
{
    return ccq_fail(r->err, CCQ_JSON, "%s: byte %zu: %s", r->path, r->json.begin, what);
}

static ccq_code read_one(reader *r, int min)
{
    char name[64], shown[80];
    size_t n = r->json.len < sizeof name - 1 ? r->json.len : sizeof name - 1;
    ccq_figure figure;
    double limit;

    memcpy(name, r->json.text, n);
    name[n] = 0;
    figure = ccq_figure_find(name);
    if (figure == CCQ_FIGURE_COUNT)
        return ccq_fail(r->err, CCQ_USAGE, "%s: no statistic is called \"%s\"", r->path,
                        ccq_escape(shown, sizeof shown, name, n));
    for (size_t i = 0; i < r->count; i++)
        if (r->gate[i].figure == figure && r->gate[i].min == min)
            return ccq_fail(r->err, CCQ_JSON, "%s: \"%s\" has two limits in \"%s\"", r->path, name,
                            min ? "min" : "max");
    if (ccq_json_next(&r->json) != CCQ_JSON_NUMBER)
        return bad(r, "a limit must be a number");
    limit = strtod(r->json.text, NULL);
    if (!isfinite(limit))
        return bad(r, "a limit must be finite");
    ccq_gate gate = {figure, min, limit, 0, 0};
    r->gate[r->count++] = gate;
    return CCQ_OK;
}

static ccq_code read_side(reader *r, int min)
{
    ccq_json_event e;
    ccq_code code;

    if (ccq_json_next(&r->json) != CCQ_JSON_OBJECT)
        return bad(r, "an object of limits is wanted");
    while ((e = ccq_json_next(&r->json)) == CCQ_JSON_KEY)
        if ((code = read_one(r, min)))
            return code;
    return e == CCQ_JSON_OBJECT_END ? CCQ_OK : bad(r, r->json.message ? r->json.message : "?");
}

static int is(const reader *r, const char *key)
{
    return r->json.len == strlen(key) && !memcmp(r->json.text, key, r->json.len);
}

static ccq_code read_all(reader *r)
{
    ccq_json_event e = ccq_json_next(&r->json);
    int seen[2] = {0, 0};
    ccq_code code;

    if (e != CCQ_JSON_OBJECT)
        return bad(r, "{\"max\": {...}, \"min\": {...}} is wanted");
    while ((e = ccq_json_next(&r->json)) == CCQ_JSON_KEY) {
        int min = is(r, "min");
        if (!min && !is(r, "max"))
            return bad(r, "only \"max\" and \"min\" are known");
        if (seen[min]++)
            return bad(r, "\"max\" and \"min\" may each stand there once");
        if ((code = read_side(r, min)))
            return code;
    }
    if (e != CCQ_JSON_OBJECT_END || ccq_json_next(&r->json) != CCQ_JSON_END)
        return bad(r, r->json.message ? r->json.message : "more than one value");
    return CCQ_OK;
}

ccq_code ccq_gates_load(ccq_gate **gates, size_t *count, const char *path, ccq_error *err)
{
    char escaped[512], *text = NULL;
    size_t size = 0;
    reader r = {.path = ccq_escape(escaped, sizeof escaped, path, strlen(path)), .err = err};
    ccq_code code = ccq_file_load(path, MAX_FILE, CCQ_NO_INPUT, &text, &size, err);

    *gates = NULL;
    *count = 0;
    if (code)
        return code;
    r.gate = calloc(MAX_GATES, sizeof *r.gate);
    if (!r.gate) {
        free(text);
        return ccq_fail(err, CCQ_NO_MEMORY, "%s: out of memory", r.path);
    }
    ccq_json_init(&r.json, text, size, NULL);
    code = read_all(&r);
    ccq_json_free(&r.json);
    free(text);
    if (code) {
        free(r.gate);
        return code;
    }
    *gates = r.gate;
    *count = r.count;
    return CCQ_OK;
}

ccq_code ccq_gates_check(ccq_gate *gates, size_t count, const ccq_stats *stats, size_t *missed,
                         ccq_error *err)
{
    *missed = 0;
    for (size_t i = 0; i < count; i++) {
        ccq_gate *g = &gates[i];
        if (!stats->has[g->figure])
            return ccq_fail(err, CCQ_USAGE, "gate on %s: this run has no such figure",
                            ccq_figure_name(g->figure));
        g->value = stats->value[g->figure];
        g->ok = g->min ? g->value >= g->limit : g->value <= g->limit;
        *missed += !g->ok;
    }
    return CCQ_OK;
}
