/* Strict JSON pull scanner. Strings without escapes are returned in place; only
 * escaped ones are copied. */
#include "formats/json.h"

#include <stdlib.h>
#include <string.h>

enum {
    ST_VALUE,       /* a value must come */
    ST_FIRST_VALUE, /* after [: a value or ] */
    ST_FIRST_KEY,   /* after {: a key or } */
    ST_KEY,         /* after a comma in an object */
    ST_AFTER,       /* after a value */
    ST_DONE,
    ST_ERROR
};

void ccq_json_init(ccq_json *j, const char *text, size_t size, const ccq_json_limits *limits)
{
    memset(j, 0, sizeof *j);
    j->src = text;
    j->size = size;
    j->limits.depth = limits && limits->depth ? limits->depth : 64;
    j->limits.string = limits && limits->string ? limits->string : 4096;
    j->limits.numbers = limits && limits->numbers ? limits->numbers : 4000000;
    if (j->limits.depth > 64)
        j->limits.depth = 64;
    j->state = ST_VALUE;
}

void ccq_json_free(ccq_json *j)
{
    free(j->buf);
    j->buf = NULL;
}

static ccq_json_event fail(ccq_json *j, ccq_code code, const char *message)
{
    j->state = ST_ERROR;
    j->code = code;
    j->message = message;
    j->text = "";
    j->len = 0;
    j->begin = j->end = j->at;
    return CCQ_JSON_ERROR;
}

static void skip_space(ccq_json *j)
{
    while (j->at < j->size) {
        char c = j->src[j->at];
        if (c != ' ' && c != '\n' && c != '\t' && c != '\r')
            break;
        j->at++;
    }
}

/* Length of the UTF-8 sequence at s (first byte >= 0x80), 0 when it is none. */
static size_t utf8_length(const unsigned char *s, size_t size)
{
    unsigned char c = s[0];
    if (c < 0xc2 || c > 0xf4)
        return 0;
    size_t n = c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
    if (n > size)
        return 0;
    /* The second byte keeps out overlong forms, surrogates and what is past U+10FFFF. */
    unsigned char low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
    unsigned char high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
    if (s[1] < low || s[1] > high)
        return 0;
    for (size_t i = 2; i < n; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    return n;
}

size_t ccq_utf8_valid(const char *text, size_t size)
{
    const unsigned char *s = (const unsigned char *)text;
    size_t i = 0;
    while (i < size) {
        uint64_t eight;
        if (size - i >= 8 && (memcpy(&eight, s + i, 8), !(eight & UINT64_C(0x8080808080808080)))) {
            i += 8;
            continue;
        }
        size_t n = s[i] < 0x80 ? 1 : utf8_length(s + i, size - i);
        if (!n)
            return i;
        i += n;
    }
    return size;
}

int ccq_json_u64(const char *text, size_t len, uint64_t *value)
{
    uint64_t v = 0;
    if (len < 1 || len > 20 || (text[0] == '0' && len > 1))
        return 0;
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9' || __builtin_mul_overflow(v, 10, &v) ||
            __builtin_add_overflow(v, (uint64_t)(text[i] - '0'), &v))
            return 0;
    }
    *value = v;
    return 1;
}

/* Four hex digits at s, or -1. */
static int hex4(const char *s)
{
    int v = 0;
    for (int i = 0; i < 4; i++) {
        int c = (unsigned char)s[i], d;
        if (c >= '0' && c <= '9')
            d = c - '0';
        else if ((c | 32) >= 'a' && (c | 32) <= 'f')
            d = (c | 32) - 'a' + 10;
        else
            return -1;
        v = v << 4 | d;
    }
    return v;
}

static int put(ccq_json *j, const char *s, size_t n)
{
    if (!n)
        return 1;
    if (n >= j->cap - j->len) { /* one byte stays free for a NUL */
        size_t cap = j->cap ? j->cap * 2 : 256;
        while (cap - j->len <= n)
            cap *= 2;
        char *buf = realloc(j->buf, cap);
        if (!buf)
            return 0;
        j->buf = buf;
        j->cap = cap;
    }
    memcpy(j->buf + j->len, s, n);
    j->len += n;
    return 1;
}

static size_t encode_utf8(char out[4], unsigned cp)
{
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    size_t n = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i; i--, cp >>= 6)
        out[i] = (char)(0x80 | (cp & 0x3f));
    out[0] = (char)((0xf00 >> n & 0xff) | cp);
    return n;
}

/* The escape behind a backslash at j->at - 1; 0 when it is none. */
static size_t unescape(ccq_json *j, char out[4])
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char *s = j->src + j->at, *p;
    size_t left = j->size - j->at;
    if (left && s[0] && (p = strchr(from, s[0]))) {
        j->at++;
        out[0] = to[p - from];
        return 1;
    }
    int high = left >= 5 && s[0] == 'u' ? hex4(s + 1) : -1, low;
    if (high < 0 || (high >= 0xdc00 && high < 0xe000))
        return 0;
    j->at += 5;
    if (high < 0xd800 || high >= 0xe000)
        return encode_utf8(out, (unsigned)high);
    if (left < 11 || s[5] != '\\' || s[6] != 'u' || (low = hex4(s + 7)) < 0xdc00 || low >= 0xe000)
        return 0;
    j->at += 6;
    return encode_utf8(out,
                       0x10000u + ((unsigned)(high - 0xd800) << 10) + (unsigned)(low - 0xdc00));
}

/* From the first backslash on: what came before is copied, then the rest. */
static ccq_json_event escaped_string(ccq_json *j, size_t from, ccq_json_event event)
{
    size_t run = from; /* bytes since here are plain and not yet copied */
    j->len = 0;
    for (;;) {
        unsigned char c = j->at < j->size ? (unsigned char)j->src[j->at] : 0;
        size_t n = 1;
        if (c == '"' || c == '\\') {
            if (!put(j, j->src + run, j->at - run))
                return fail(j, CCQ_NO_MEMORY, "out of memory");
            j->at++;
            if (c == '"')
                break;
            char out[4];
            if (!(n = unescape(j, out)))
                return fail(j, CCQ_JSON, "bad escape in a string");
            if (!put(j, out, n))
                return fail(j, CCQ_NO_MEMORY, "out of memory");
            run = j->at;
        } else if (c < 0x20) {
            return fail(j, CCQ_JSON,
                        j->at < j->size ? "control byte in a string" : "string without end");
        } else {
            if (c >= 0x80 &&
                !(n = utf8_length((const unsigned char *)j->src + j->at, j->size - j->at)))
                return fail(j, CCQ_UTF8, "invalid UTF-8 in a string");
            j->at += n;
        }
        if (j->len + (j->at - run) > j->limits.string)
            return fail(j, CCQ_LIMIT, "string too long");
    }
    if (j->buf)
        j->buf[j->len] = 0;
    j->text = j->buf ? j->buf : "";
    j->end = j->at;
    return event;
}

#define EACH UINT64_C(0x0101010101010101)

/* Passes bytes eight at a time while none of them is a quote, a backslash, a control
 * byte or past ASCII. */
static size_t plain_run(const ccq_json *j, size_t i)
{
    for (uint64_t x, quote, slash; j->size - i >= 8; i += 8) {
        memcpy(&x, j->src + i, 8);
        quote = x ^ EACH * '"';
        slash = x ^ EACH * '\\';
        if ((x | (x - EACH * 0x20) | (quote - EACH) | (slash - EACH)) & EACH * 0x80)
            break;
    }
    return i;
}

static ccq_json_event string(ccq_json *j, ccq_json_event event)
{
    size_t from = j->begin = j->at, i = plain_run(j, from + 1);
    for (; i < j->size; i++) {
        unsigned char c = (unsigned char)j->src[i];
        if (c == '"' || c == '\\' || c < 0x20)
            break;
        if (c >= 0x80) {
            size_t n = utf8_length((const unsigned char *)j->src + i, j->size - i);
            if (!n) {
                j->at = i;
                return fail(j, CCQ_UTF8, "invalid UTF-8 in a string");
            }
            i += n - 1;
        }
    }
    j->at = i;
    if (i - from - 1 > j->limits.string)
        return fail(j, CCQ_LIMIT, "string too long");
    if (i < j->size && j->src[i] == '\\')
        return escaped_string(j, from + 1, event);
    if (i >= j->size || j->src[i] != '"')
        return fail(j, CCQ_JSON, i < j->size ? "control byte in a string" : "string without end");
    j->text = j->src + from + 1;
    j->len = i - from - 1;
    j->end = j->at = i + 1;
    return event;
}

static size_t digits(const ccq_json *j, size_t i)
{
    while (i < j->size && j->src[i] >= '0' && j->src[i] <= '9')
        i++;
    return i;
}

/* The token by the grammar, and a delimiter behind it: 01, 1. and 0x10 are refused. */
static ccq_json_event number(ccq_json *j)
{
    size_t i = j->begin = j->at, from;
    if (j->src[i] == '-')
        i++;
    from = i;
    i = digits(j, i);
    int good = i > from && (j->src[from] != '0' || i == from + 1);
    if (good && i < j->size && j->src[i] == '.') {
        from = i + 1;
        i = digits(j, from);
        good = i > from;
    }
    if (good && i < j->size && (j->src[i] | 32) == 'e') {
        from = i + 1;
        if (from < j->size && (j->src[from] == '+' || j->src[from] == '-'))
            from++;
        i = digits(j, from);
        good = i > from;
    }
    if (!good || (i < j->size && !memchr(" \n\t\r,]}", j->src[i], 7)))
        return fail(j, CCQ_NUMBER, "not a JSON number");
    if (++j->numbers > j->limits.numbers)
        return fail(j, CCQ_LIMIT, "too many numbers");
    j->text = j->src + j->begin;
    j->len = i - j->begin;
    j->end = j->at = i;
    return CCQ_JSON_NUMBER;
}

static ccq_json_event word(ccq_json *j, const char *name, ccq_json_event event)
{
    size_t n = strlen(name);
    if (j->size - j->at < n || memcmp(j->src + j->at, name, n) != 0)
        return fail(j, CCQ_JSON, "not a JSON value");
    j->begin = j->at;
    j->end = j->at += n;
    return event;
}

static ccq_json_event open_level(ccq_json *j, int object)
{
    if (j->level >= j->limits.depth)
        return fail(j, CCQ_LIMIT, "nested too deep");
    uint64_t bit = UINT64_C(1) << j->level++;
    j->in_object = object ? j->in_object | bit : j->in_object & ~bit;
    j->begin = j->at++;
    j->end = j->at;
    j->state = object ? ST_FIRST_KEY : ST_FIRST_VALUE;
    return object ? CCQ_JSON_OBJECT : CCQ_JSON_ARRAY;
}

static int inside_object(const ccq_json *j)
{
    return j->level && (j->in_object >> (j->level - 1) & 1);
}

static ccq_json_event close_level(ccq_json *j)
{
    int object = inside_object(j);
    j->begin = j->at++;
    j->end = j->at;
    j->level--;
    j->state = ST_AFTER;
    return object ? CCQ_JSON_OBJECT_END : CCQ_JSON_ARRAY_END;
}

static ccq_json_event value(ccq_json *j)
{
    if (j->at >= j->size)
        return fail(j, CCQ_JSON, "text ends where a value is wanted");
    char c = j->src[j->at];
    if (c == '{' || c == '[')
        return open_level(j, c == '{');
    j->state = ST_AFTER;
    if (c == '"')
        return string(j, CCQ_JSON_STRING);
    if (c == '-' || (c >= '0' && c <= '9'))
        return number(j);
    if (c == 't')
        return word(j, "true", CCQ_JSON_TRUE);
    if (c == 'f')
        return word(j, "false", CCQ_JSON_FALSE);
    return word(j, "null", CCQ_JSON_NULL);
}

/* A key and its colon. */
static ccq_json_event key(ccq_json *j)
{
    if (j->at >= j->size || j->src[j->at] != '"')
        return fail(j, CCQ_JSON, "a key is wanted");
    if (string(j, CCQ_JSON_KEY) == CCQ_JSON_ERROR)
        return CCQ_JSON_ERROR;
    skip_space(j);
    if (j->at >= j->size || j->src[j->at] != ':')
        return fail(j, CCQ_JSON, "a colon is wanted after a key");
    j->at++;
    j->state = ST_VALUE;
    return CCQ_JSON_KEY;
}

static ccq_json_event after(ccq_json *j, int c)
{
    if (!j->level) {
        if (j->at < j->size)
            return fail(j, CCQ_JSON, "text after the value");
        j->state = ST_DONE;
        j->begin = j->end = j->at;
        return CCQ_JSON_END;
    }
    int object = inside_object(j);
    if (c == (object ? '}' : ']'))
        return close_level(j);
    if (c != ',')
        return fail(j, CCQ_JSON, "a comma or a closing bracket is wanted");
    j->at++;
    skip_space(j);
    return object ? key(j) : value(j);
}

ccq_json_event ccq_json_next(ccq_json *j)
{
    if (j->state == ST_ERROR)
        return CCQ_JSON_ERROR;
    if (j->state == ST_DONE)
        return CCQ_JSON_END;
    skip_space(j);
    int c = j->at < j->size ? (unsigned char)j->src[j->at] : -1;
    switch (j->state) {
    case ST_FIRST_VALUE:
        return c == ']' ? close_level(j) : value(j);
    case ST_FIRST_KEY:
        return c == '}' ? close_level(j) : key(j);
    case ST_AFTER:
        return after(j, c);
    default:
        return value(j);
    }
}

ccq_code ccq_json_skip(ccq_json *j)
{
    unsigned level = j->level;
    do {
        ccq_json_event e = ccq_json_next(j);
        if (e == CCQ_JSON_ERROR)
            return j->code;
        if (e == CCQ_JSON_END)
            break;
    } while (j->level > level);
    return CCQ_OK;
}
