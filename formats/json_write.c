/* JSON writer. */
#include "formats/json.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void ccq_jw_init(ccq_jw *w, int indent)
{
    memset(w, 0, sizeof *w);
    w->indent = indent;
    w->first = 1;
}

static void put(ccq_jw *w, const char *s, size_t n)
{
    if (w->failed)
        return;
    if (n >= w->cap - w->len) { /* one byte stays free for the NUL */
        size_t cap = w->cap ? w->cap : 256;
        while (cap - w->len <= n)
            cap *= 2;
        char *buf = realloc(w->buf, cap);
        if (!buf) {
            w->failed = 1;
            return;
        }
        w->buf = buf;
        w->cap = cap;
    }
    memcpy(w->buf + w->len, s, n);
    w->len += n;
}

static void line(ccq_jw *w)
{
    if (!w->indent)
        return;
    put(w, "\n", 1);
    for (int i = 0; i < w->level * w->indent; i++)
        put(w, " ", 1);
}

/* What must stand before a value or a key. */
static void before(ccq_jw *w)
{
    if (w->keyed) {
        w->keyed = 0;
        return;
    }
    if (!w->first)
        put(w, ",", 1);
    if (w->level)
        line(w);
    w->first = 0;
}

static void open_level(ccq_jw *w, char c)
{
    before(w);
    put(w, &c, 1);
    if (w->level >= (int)sizeof w->stack) {
        w->failed = 1;
        return;
    }
    w->stack[w->level++] = c;
    w->first = 1;
}

void ccq_jw_object(ccq_jw *w)
{
    open_level(w, '{');
}

void ccq_jw_array(ccq_jw *w)
{
    open_level(w, '[');
}

void ccq_jw_end(ccq_jw *w)
{
    if (!w->level) {
        w->failed = 1;
        return;
    }
    char c = w->stack[--w->level];
    if (!w->first)
        line(w);
    put(w, c == '{' ? "}" : "]", 1);
    w->first = 0;
}

/* The escaped form of a byte that may not stand in a string as it is. */
static size_t escape(char out[8], unsigned char c)
{
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
    const char *p = c ? strchr(from, c) : NULL;
    if (p)
        return (size_t)snprintf(out, 8, "\\%c", to[p - from]);
    return (size_t)snprintf(out, 8, "\\u%04x", c);
}

static void quoted(ccq_jw *w, const char *s, size_t len)
{
    put(w, "\"", 1);
    for (size_t i = 0, run = 0; i <= len;) {
        unsigned char c = i < len ? (unsigned char)s[i] : 0;
        size_t n = 1;
        if (i < len && c >= 0x80) { /* at most four bytes decide */
            size_t left = len - i < 4 ? len - i : 4;
            n = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;
            if (n > left || ccq_utf8_valid(s + i, n) != n)
                n = 0;
        }
        if (i < len && n && c >= 0x20 && c != '"' && c != '\\' && c != 0x7f) {
            i += n;
            continue;
        }
        put(w, s + run, i - run);
        if (i < len) {
            char out[8];
            if (n)
                put(w, out, escape(out, c));
            else
                put(w, "\xef\xbf\xbd", 3);
        }
        run = ++i;
    }
    put(w, "\"", 1);
}

void ccq_jw_key(ccq_jw *w, const char *key)
{
    before(w);
    quoted(w, key, strlen(key));
    put(w, ": ", w->indent ? 2 : 1);
    w->keyed = 1;
}

void ccq_jw_string_n(ccq_jw *w, const char *s, size_t len)
{
    before(w);
    quoted(w, s, len);
}

void ccq_jw_string(ccq_jw *w, const char *s)
{
    ccq_jw_string_n(w, s, strlen(s));
}

void ccq_jw_raw(ccq_jw *w, const char *s, size_t len)
{
    before(w);
    put(w, s, len);
}

void ccq_jw_u64(ccq_jw *w, uint64_t v)
{
    char text[24];
    ccq_jw_raw(w, text, (size_t)snprintf(text, sizeof text, "%" PRIu64, v));
}

void ccq_jw_i64(ccq_jw *w, int64_t v)
{
    char text[24];
    ccq_jw_raw(w, text, (size_t)snprintf(text, sizeof text, "%" PRId64, v));
}

void ccq_jw_double(ccq_jw *w, double v)
{
    char text[40] = "null";
    if (isfinite(v)) {
        for (int digits = 1; digits <= 17; digits++) {
            snprintf(text, sizeof text, "%.*g", digits, v);
            if (strtod(text, NULL) == v)
                break;
        }
    } else {
        w->failed = 1;
    }
    ccq_jw_raw(w, text, strlen(text));
}

void ccq_jw_bool(ccq_jw *w, int v)
{
    ccq_jw_raw(w, v ? "true" : "false", v ? 4 : 5);
}

void ccq_jw_kstring(ccq_jw *w, const char *key, const char *s)
{
    ccq_jw_key(w, key);
    ccq_jw_string(w, s);
}

void ccq_jw_ku64(ccq_jw *w, const char *key, uint64_t v)
{
    ccq_jw_key(w, key);
    ccq_jw_u64(w, v);
}

void ccq_jw_ki64(ccq_jw *w, const char *key, int64_t v)
{
    ccq_jw_key(w, key);
    ccq_jw_i64(w, v);
}

void ccq_jw_kbool(ccq_jw *w, const char *key, int v)
{
    ccq_jw_key(w, key);
    ccq_jw_bool(w, v);
}

void ccq_jw_kdouble(ccq_jw *w, const char *key, double v)
{
    if (!isfinite(v))
        return;
    ccq_jw_key(w, key);
    ccq_jw_double(w, v);
}

char *ccq_jw_take(ccq_jw *w, size_t *size)
{
    if (w->level || w->keyed)
        w->failed = 1;
    if (w->indent)
        put(w, "\n", 1);
    else
        put(w, "", 0); /* room for the NUL even when nothing was written */
    char *text = w->failed ? NULL : w->buf;
    if (text) {
        text[w->len] = 0;
        if (size)
            *size = w->len;
    } else {
        free(w->buf);
    }
    ccq_jw_init(w, w->indent);
    return text;
}
