/* Names of codes and types, error lines, escaping. */
#include "formats/internal.h"
#include "formats/json.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *ccq_code_name(ccq_code code)
{
    static const char *const names[] = {
#define NAME(name) #name,
        CCQ_CODES(NAME)
#undef NAME
    };
    size_t i = (size_t)code;
    return i < sizeof names / sizeof *names ? names[i] : "?";
}

static const struct {
    const char *name;
    size_t len;
    unsigned bits;
} dtypes[] = {
#define ROW(name, bits) {#name, sizeof #name - 1, bits},
    CCQ_DTYPES(ROW)
#undef ROW
};

const char *ccq_dtype_name(ccq_dtype dtype)
{
    return (size_t)dtype < CCQ_DT_COUNT ? dtypes[dtype].name : "?";
}

unsigned ccq_dtype_bits(ccq_dtype dtype)
{
    return (size_t)dtype < CCQ_DT_COUNT ? dtypes[dtype].bits : 0;
}

ccq_dtype ccq_dtype_parse(const char *name, size_t len)
{
    for (int i = 0; i < CCQ_DT_COUNT; i++)
        if (dtypes[i].len == len && memcmp(dtypes[i].name, name, len) == 0)
            return (ccq_dtype)i;
    return CCQ_DT_COUNT;
}

/* Length of the UTF-8 sequence at s when a terminal may see it as it is, else 0:
 * C1 controls and the marks that turn the direction of text are not shown. */
static size_t printable(const char *s, size_t len)
{
    unsigned char c = (unsigned char)s[0];
    if (c < 0x80)
        return c >= 0x20 && c != 0x7f && c != '"' && c != '\\';
    size_t n = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;
    if (n > len || ccq_utf8_valid(s, n) != n)
        return 0;
    unsigned char d = (unsigned char)s[1], e = n > 2 ? (unsigned char)s[2] : 0;
    if (c == 0xc2 && d < 0xa0)
        return 0;
    if (c == 0xe2 && ((d == 0x80 && (e == 0x8e || e == 0x8f || (e >= 0xa8 && e <= 0xae))) ||
                      (d == 0x81 && e >= 0xa6 && e <= 0xa9)))
        return 0;
    return n;
}

/* One character of name in its escaped form; returns the bytes of name used. */
static size_t escape_one(char out[8], const char *name, size_t len)
{
    size_t n = printable(name, len);
    if (n) {
        memcpy(out, name, n);
        out[n] = 0;
        return n;
    }
    static const char from[] = "\"\\\n\r\t", to[] = "\"\\nrt";
    unsigned char c = (unsigned char)name[0];
    const char *p = c ? strchr(from, c) : NULL;
    if (p)
        snprintf(out, 8, "\\%c", to[p - from]);
    else
        snprintf(out, 8, "\\x%02x", c);
    return 1;
}

/* as_is: bytes that are no fault. */
static char *escape(char *out, size_t size, const char *name, size_t len, const char *as_is)
{
    size_t n = 0, keep = 0; /* keep: where "..." still fits */
    if (!size)
        return out;
    for (size_t i = 0; i < len;) {
        char one[8] = {name[i]};
        i += name[i] && strchr(as_is, name[i]) ? 1 : escape_one(one, name + i, len - i);
        size_t k = strlen(one);
        if (n + k >= size) {
            n = keep;
            for (int dots = 0; dots < 3 && n + 1 < size; dots++)
                out[n++] = '.';
            break;
        }
        memcpy(out + n, one, k);
        n += k;
        if (n + 3 < size)
            keep = n;
    }
    out[n] = 0;
    return out;
}

char *ccq_escape(char *out, size_t size, const char *name, size_t len)
{
    return escape(out, size, name, len, "");
}

char *ccq_escape_rest(char *out, size_t size, const char *text)
{
    return escape(out, size, text, strlen(text), "\"\\");
}

static void end_with_dots(char *text, size_t size, int wanted)
{
    if (wanted < 0)
        snprintf(text, size, "(no message)");
    else if ((size_t)wanted >= size) {
        size_t n = size - 4;
        while (n && ((unsigned char)text[n] & 0xc0) == 0x80)
            n--; /* not in the middle of a character */
        memcpy(text + n, "...", 4);
    }
}

static ccq_code fail_list(ccq_error *err, ccq_code code, const char *place, const char *fmt,
                          va_list list)
{
    if (!err)
        return code;
    err->code = code;
    size_t room = sizeof err->text, n = 0;
    if (place) {
        snprintf(err->text, room, "%s", place);
        n = strlen(err->text);
    }
    end_with_dots(err->text + n, room - n, vsnprintf(err->text + n, room - n, fmt, list));
    char text[sizeof err->text]; /* a name that nobody has escaped */
    memcpy(text, err->text, strlen(err->text) + 1);
    ccq_escape_rest(err->text, room, text);
    return code;
}

ccq_code ccq_fail(ccq_error *err, ccq_code code, const char *fmt, ...)
{
    va_list list;
    va_start(list, fmt);
    fail_list(err, code, NULL, fmt, list);
    va_end(list);
    return code;
}

/* A long path keeps its end, where the file is. */
static void show_path(char out[320], const char *path)
{
    size_t len = strlen(path), cut = 240;
    if (len <= cut) {
        ccq_escape(out, 320, path, len);
        return;
    }
    memcpy(out, "...", 4);
    ccq_escape(out + 3, 317, path + len - cut, cut);
}

ccq_code ccq_fail_file(ccq_error *err, ccq_code code, const char *path, const char *fmt, ...)
{
    char place[330];
    show_path(place, path);
    strcat(place, ": ");
    va_list list;
    va_start(list, fmt);
    fail_list(err, code, place, fmt, list);
    va_end(list);
    return code;
}

ccq_code ccq_fail_name(ccq_error *err, ccq_code code, const char *path, const char *name,
                       const char *fmt, ...)
{
    char shown[320], escaped[256], place[600];
    show_path(shown, path);
    ccq_escape(escaped, sizeof escaped, name, strlen(name));
    snprintf(place, sizeof place, "%s: \"%s\": ", shown, escaped);
    va_list list;
    va_start(list, fmt);
    fail_list(err, code, place, fmt, list);
    va_end(list);
    return code;
}

/* The machine's fault, whatever was being done with the file. */
static int is_machines(int error)
{
    return error == EIO || error == EMFILE || error == ENFILE || error == ESTALE;
}

ccq_code ccq_fail_errno(ccq_error *err, ccq_code code, const char *path, const char *what,
                        int error)
{
    uint64_t left = 0;
    if (error == ENOSPC || error == EDQUOT) {
        ccq_path_free_bytes(path, &left, NULL);
        return ccq_fail_file(err, CCQ_NO_SPACE, path, "%s: %s, %llu bytes are free", what,
                             strerror(error), (unsigned long long)left);
    }
    if (is_machines(error))
        code = CCQ_IO;
    return ccq_fail_file(err, error == ENOMEM ? CCQ_NO_MEMORY : code, path, "%s: %s", what,
                         strerror(error));
}

ccq_code ccq_fail_full(ccq_error *err, const char *path, uint64_t needed)
{
    uint64_t left = 0;
    ccq_path_free_bytes(path, &left, NULL);
    return ccq_fail_file(err, CCQ_NO_SPACE, path, "disk full: needs %llu bytes more, %llu are free",
                         (unsigned long long)needed, (unsigned long long)left);
}
