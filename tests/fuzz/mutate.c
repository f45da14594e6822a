/* Changes to inputs: of bytes, and of the values of a JSON text. */
#include "tests/fuzz/fuzz.h"

#include <string.h>

enum { SPANS = 1024 };

typedef struct span {
    size_t begin, end;
    int key; /* a string with a colon behind it */
} span;

uint64_t fuzz_next(uint64_t *seed)
{
    uint64_t z = *seed += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static size_t below(uint64_t *seed, size_t n)
{
    return n ? (size_t)(fuzz_next(seed) % n) : 0;
}

size_t fuzz_replace(uint8_t *data, size_t size, size_t at, size_t len, const void *text,
                    size_t text_size)
{
    if (size - len + text_size > FUZZ_MAX)
        return size;
    memmove(data + at + text_size, data + at + len, size - at - len);
    if (text_size)
        memcpy(data + at, text, text_size);
    return size - len + text_size;
}

/* ---- Values -------------------------------------------------------------------- */

static int is_blank(uint8_t c)
{
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

static size_t string_end(const uint8_t *data, size_t size, size_t i)
{
    for (i++; i < size && data[i] != '"'; i++)
        i += data[i] == '\\' && i + 1 < size;
    return i < size ? i + 1 : size;
}

static size_t word_end(const uint8_t *data, size_t size, size_t i)
{
    while (i < size && !is_blank(data[i]) && !memchr(",:{}[]\"", data[i], 7))
        i++;
    return i;
}

/* Where values, keys and whole objects lie, in what may be no JSON any more. */
static size_t find_spans(const uint8_t *data, size_t size, span *list)
{
    size_t count = 0, open[64], level = 0;
    const uint8_t *brace = memchr(data, '{', size);
    for (size_t i = brace ? (size_t)(brace - data) : 0; i < size && count < SPANS;) {
        size_t begin = i;
        uint8_t c = data[i];
        if ((c == '{' || c == '[') && level < 64)
            open[level++] = i;
        if ((c == '}' || c == ']') && level)
            list[count++] = (span){open[--level], i + 1, 0};
        if (is_blank(c) || memchr(",:{}[]", c, 6)) {
            i++;
            continue;
        }
        i = c == '"' ? string_end(data, size, i) : word_end(data, size, i);
        i += i == begin;
        size_t next = i;
        while (next < size && is_blank(data[next]))
            next++;
        list[count++] = (span){begin, i, next < size && data[next] == ':'};
    }
    return count;
}

static const char *const values[] = {
    "null", "true", "{}", "[]", "\"\"", "0", "1", "-1", "1.0", "1e3", "01", "1e999", "0.5", "-0",
    "255", "65536", "2147483647", "2147483648", "4294967296", "9007199254740993",
    "9223372036854775807", "9223372036854775808", "18446744073709551615", "18446744073709551616",
    "1844674407370955161600", "[[[[[]]]]]", "{\"a\":{\"a\":{\"a\":{\"a\":{}}}}}", "\"\\u0000\"",
    "\"\\ud800\"", "\"\\ud83d\\ude00\"", "\"../x\"", "\"/x\"", "\"a\\u0062\"", "NaN", "\xff",
    "\"\n\"",};

/* A member or an element again, behind a comma. */
static size_t repeat(uint8_t *data, size_t size, const span *s, const span *list, size_t count)
{
    uint8_t text[4096];
    size_t end = s->end, next = SIZE_MAX;
    for (size_t i = 0; s->key && i < count; i++)
        if (list[i].begin > s->end && list[i].begin < next) { /* its value */
            next = list[i].begin;
            end = list[i].end;
        }
    if (end - s->begin + 1 > sizeof text)
        return size;
    text[0] = ',';
    memcpy(text + 1, data + s->begin, end - s->begin);
    return fuzz_replace(data, size, end, 0, text, end - s->begin + 1);
}

/* A span takes the place of another one. */
static size_t copy_span(uint8_t *data, size_t size, const span *to, const span *from)
{
    uint8_t text[4096];
    size_t n = from->end - from->begin;
    if (n > sizeof text)
        return size;
    memcpy(text, data + from->begin, n);
    return fuzz_replace(data, size, to->begin, to->end - to->begin, text, n);
}

static size_t remove_span(uint8_t *data, size_t size, const span *s)
{
    size_t from = s->begin, to = s->end;
    while (to < size && is_blank(data[to]))
        to++;
    if (to < size && (data[to] == ',' || data[to] == ':'))
        to++;
    return fuzz_replace(data, size, from, to - from, "", 0);
}

/* A number a little or a lot away. */
static size_t other_number(uint8_t *data, size_t size, const span *s, uint64_t *seed)
{
    char text[24] = "";
    size_t n = s->end - s->begin;
    memcpy(text, data + s->begin, n < 20 ? n : 20);
    unsigned long long v = strtoull(text, NULL, 10);
    switch (below(seed, 4)) {
    case 0:
        v++;
        break;
    case 1:
        v--;
        break;
    case 2:
        v *= 2;
        break;
    default:
        v = (uint64_t)1 << below(seed, 64);
    }
    return fuzz_replace(data, size, s->begin, n, text, (size_t)sprintf(text, "%llu", v));
}

/* One byte of a string as \u00xx. */
static size_t escape(uint8_t *data, size_t size, const span *s, uint64_t *seed)
{
    char text[8];
    size_t at = s->begin + 1 + below(seed, s->end - s->begin - 2);
    if (data[at] == '\\' || data[at] >= 0x80)
        return size;
    sprintf(text, "\\u%04x", data[at]);
    return fuzz_replace(data, size, at, 1, text, 6);
}

size_t fuzz_mutate_json(uint8_t *data, size_t size, uint64_t *seed)
{
    static span list[SPANS];
    size_t count = find_spans(data, size, list);
    if (!count)
        return size;
    const span *s = &list[below(seed, count)], *t = &list[below(seed, count)];
    const char *value = values[below(seed, sizeof values / sizeof *values)];
    int digit = data[s->begin] >= '0' && data[s->begin] <= '9';
    switch (below(seed, 8)) {
    case 0:
        return remove_span(data, size, s);
    case 1:
        return repeat(data, size, s, list, count);
    case 2:
    case 3:
        if (s->key == t->key)
            return copy_span(data, size, s, t);
        return copy_span(data, size, t, t == list ? s : t - 1);
    case 4:
        if (data[s->begin] == '"' && s->end - s->begin > 2)
            return escape(data, size, s, seed);
        return size;
    case 5:
        return digit ? other_number(data, size, s, seed) : size;
    default:
        if (s->key && value[0] != '"')
            value = "\"x\"";
        return fuzz_replace(data, size, s->begin, s->end - s->begin, value, strlen(value));
    }
}

/* ---- Bytes --------------------------------------------------------------------- */

static size_t put_number(uint8_t *data, size_t size, uint64_t *seed)
{
    static const uint64_t numbers[] = {0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fffffff,
                                       0x80000000, 0xffffffff, UINT64_MAX / 2, UINT64_MAX};
    size_t width = (size_t)1 << below(seed, 4), at = below(seed, size);
    uint64_t v = numbers[below(seed, sizeof numbers / sizeof *numbers)] + below(seed, 3) - 1;
    for (size_t i = 0; i < width && at + i < size; i++)
        data[at + i] = (uint8_t)(v >> 8 * i);
    return size;
}

static size_t put_word(uint8_t *data, size_t size, uint64_t *seed)
{
    const char *const *words = fuzz_this.words;
    size_t count = 0, at = below(seed, size + 1);
    while (words && words[count])
        count++;
    if (!count)
        return size;
    const char *word = words[below(seed, count)];
    size_t n = strlen(word), over = below(seed, 2) ? 0 : n;
    if (over > size - at)
        over = size - at;
    return fuzz_replace(data, size, at, over, word, n);
}

size_t fuzz_mutate(uint8_t *data, size_t size, const uint8_t *other, size_t other_size,
                   uint64_t *seed)
{
    uint8_t part[64];
    size_t at = below(seed, size), n = 1 + below(seed, 40), from;
    if (fuzz_this.is_json && below(seed, 8) < 5)
        return fuzz_mutate_json(data, size, seed);
    if (!size)
        return put_word(data, size, seed);
    switch (below(seed, 9)) {
    case 0: /* cut the end */
        return below(seed, 4) ? size : at + 1;
    case 1: /* take some out */
        return fuzz_replace(data, size, at, n < size - at ? n : size - at, "", 0);
    case 2: /* say some again */
        n = n < size - at ? n : size - at;
        memcpy(part, data + at, n);
        return fuzz_replace(data, size, at, 0, part, n);
    case 3: /* a part of another one */
        from = below(seed, other_size);
        n = n < other_size - from ? n : other_size - from;
        memcpy(part, other + from, n); /* which may be data itself */
        return fuzz_replace(data, size, at, 0, part, n);
    case 4:
        data[at] = (uint8_t)fuzz_next(seed);
        return size;
    case 5:
    case 6:
        data[at] ^= (uint8_t)(1u << below(seed, 8));
        return size;
    case 7:
        return put_number(data, size, seed);
    default:
        return put_word(data, size, seed);
    }
}
