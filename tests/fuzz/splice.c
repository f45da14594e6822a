/* Edits of a config.json, "CONFIG 0x1e KEY 0x1e VALUE 0x1e KEY ...": each one changes its
 * own bytes and no others. An empty value removes the key. */
#include "formats/config.h"
#include "formats/json.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

static const char *const words[] = {
    "{", "}", "[", "]", ",", ":", "\"", "\n", "\r\n", "\t", "  ", "\"a\": ", "\"hidden_size\": ",
    "\"quantization_config\": ", "\x1e", "null", "true", "1e-05", "500000.0", "{\"x\": [1, {}]}",
    "{}", "[]", "\"\"", "\"\\u0061\"", "\"\xc3\xa4\"", "\x1e" "a\x1e" "1", "\x1e" "a\x1e", NULL};

const fuzz_target fuzz_this = {"splice", words, 1, NULL, NULL, NULL};

typedef struct range {
    size_t begin, end;
} range;

/* Bytes that both have in front, and behind that at the end. */
static void common(const char *a, size_t m, const char *b, size_t n, size_t *head, size_t *tail)
{
    size_t least = m < n ? m : n;
    for (*head = 0; *head < least && a[*head] == b[*head];)
        ++*head;
    for (*tail = 0; *tail < least - *head && a[m - 1 - *tail] == b[n - 1 - *tail];)
        ++*tail;
}

/* Do two texts have the same values, whatever their white space? */
static int same_values(const char *a, size_t m, const char *b, size_t n)
{
    ccq_json x, y;
    ccq_json_event e, f;
    int same;
    ccq_json_init(&x, a, m, &(ccq_json_limits){0, 1 << 20, 0});
    ccq_json_init(&y, b, n, &(ccq_json_limits){0, 1 << 20, 0});
    do {
        e = ccq_json_next(&x);
        f = ccq_json_next(&y);
        int text = e == CCQ_JSON_KEY || e == CCQ_JSON_STRING || e == CCQ_JSON_NUMBER;
        same = e == f && (!text || (x.len == y.len && !memcmp(x.text, y.text, x.len)));
    } while (same && e != CCQ_JSON_END && e != CCQ_JSON_ERROR);
    ccq_json_free(&x);
    ccq_json_free(&y);
    return same;
}

static range place_of(const ccq_config *c, const char *key)
{
    size_t size, len;
    const char *text = ccq_config_text(c, &size), *raw = ccq_config_raw(c, key, &len);
    return raw ? (range){(size_t)(raw - text), (size_t)(raw - text) + len} : (range){0, 0};
}

static void check_others(const ccq_config *was, const ccq_config *now, const char *key)
{
    size_t k = 0, m, n;
    for (size_t i = 0; i < ccq_config_keys(was); i++) {
        const char *name = ccq_config_key(was, i);
        if (strcmp(name, key) == 0) {
            k += k < ccq_config_keys(now) && strcmp(ccq_config_key(now, k), key) == 0;
            continue;
        }
        FUZZ_CHECK(k < ccq_config_keys(now) && strcmp(ccq_config_key(now, k), name) == 0,
                   "%s is not in its place", name);
        k++;
        if (strchr(name, '.'))
            continue; /* no path leads there */
        const char *a = ccq_config_raw(was, name, &m), *b = ccq_config_raw(now, name, &n);
        FUZZ_CHECK(a && b && m == n && memcmp(a, b, m) == 0, "%s has another value", name);
    }
}

static void check_edit(const ccq_config *was, const ccq_config *now, const ccq_config_edit *e)
{
    size_t m, n, head, tail, len;
    const char *a = ccq_config_text(was, &m), *b = ccq_config_text(now, &n);
    range old = place_of(was, e->key);
    const char *value = ccq_config_raw(now, e->key, &len);
    common(a, m, b, n, &head, &tail);
    check_others(was, now, e->key);
    if (strchr(e->key, '.'))
        return;
    if (!e->value) {
        FUZZ_CHECK(!value, "%s is still there", e->key);
        FUZZ_CHECK(head + tail == n, "bytes outside the member changed");
        FUZZ_CHECK(old.end || m == n, "nothing was to do");
        return;
    }
    FUZZ_CHECK(value && same_values(value, len, e->value, strlen(e->value)), "value of %s", e->key);
    if (old.end) /* the value was replaced where it stood */
        FUZZ_CHECK(n - len == m - (old.end - old.begin) && !memcmp(a, b, old.begin) &&
                       !memcmp(a + old.end, b + old.begin + len, m - old.end),
                   "bytes outside the value changed");
    else if (ccq_config_keys(was)) /* white space between { and } is nobody's */
        FUZZ_CHECK(head + tail == m, "bytes changed, not only new ones");
}


static ccq_code edit(ccq_config **c, const uint8_t **rest, size_t *left, ccq_error *err)
{
    char *key = fuzz_text(rest, left), *value = fuzz_text(rest, left);
    const ccq_config_edit e = {key, *value ? value : NULL};
    ccq_config *now = NULL;
    ccq_code code = CCQ_OK; /* keys are the caller's own: ASCII */
    if (ccq_utf8_valid(key, strlen(key)) == strlen(key))
        code = ccq_config_splice(*c, &e, 1, &now, err);
    if (!code && now) {
        check_edit(*c, now, &e);
        ccq_config_free(*c);
        *c = now;
    }
    free(key);
    free(value);
    return code;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ccq_config *c;
    ccq_error err;
    size_t n;
    const uint8_t *part = fuzz_part(&data, &size, &n);
    ccq_code code = ccq_config_parse(&c, (const char *)part, n, "config.json", &err);
    for (int i = 0; !code && size && i < 8; i++)
        code = edit(&c, &data, &size, &err);
    fuzz_outcome(code, &err);
    ccq_config_free(c);
    return 0;
}
