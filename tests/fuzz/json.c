/* The JSON scanner: what it takes, it gives back through the writer, and cJSON takes it
 * too; it reads nothing behind the end of its text. The first byte chooses limits. */
#include "formats/json.h"
#include "tests/fuzz/fuzz.h"

#include <cjson/cJSON.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static const char *const words[] = {
    "{", "}", "[", "]", ",", ":", "\"", "\\u0000", "\\ud83d\\ude00", "\\n", "\\/", "true",
    "false", "null", "-", "0", "1.5e-7", "E+", "\xc3\xa4", "\xf0\x9f\x98\x80", "\xf4\x90",
    "\xe0\x80", " ", "\t", "\x7f", "\x1f", "\xef\xbb\xbf", "{\"a\":", "[[[[", "]]]]", NULL};

static char *end_of_page;

/* FUZZ_MAX bytes and a page that faults. */
static void start(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *p = mmap(NULL, FUZZ_MAX + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                   0);
    FUZZ_CHECK(p != MAP_FAILED && !mprotect(p + FUZZ_MAX, page, PROT_NONE), "mmap");
    end_of_page = p + FUZZ_MAX;
}

const fuzz_target fuzz_this = {"json", words, 1, start, NULL, NULL};

/* One event as the writer has it; 0 at the end. */
static int copy_event(ccq_jw *w, const ccq_json *j, ccq_json_event e)
{
    switch (e) {
    case CCQ_JSON_OBJECT:
        ccq_jw_object(w);
        break;
    case CCQ_JSON_ARRAY:
        ccq_jw_array(w);
        break;
    case CCQ_JSON_OBJECT_END:
    case CCQ_JSON_ARRAY_END:
        ccq_jw_end(w);
        break;
    case CCQ_JSON_KEY: { /* a NUL in it would end it */
        char *key = calloc(1, j->len + 1);
        FUZZ_CHECK(key, "out of memory");
        memcpy(key, j->text, j->len);
        ccq_jw_key(w, key);
        free(key);
        break;
    }
    case CCQ_JSON_STRING:
        ccq_jw_string_n(w, j->text, j->len);
        break;
    case CCQ_JSON_END:
    case CCQ_JSON_ERROR:
        return 0;
    default:
        ccq_jw_raw(w, j->src + j->begin, j->end - j->begin);
    }
    return 1;
}

static ccq_code scan(const char *text, size_t size, const ccq_json_limits *limits, char **copy,
                     size_t *copied, ccq_error *err)
{
    ccq_json j;
    ccq_jw w;
    ccq_json_event e;
    size_t before = 0;
    ccq_json_init(&j, text, size, limits);
    ccq_jw_init(&w, 0);
    do {
        e = ccq_json_next(&j);
        FUZZ_CHECK(j.begin <= j.end && j.end <= size && j.end >= before, "ranges");
        before = e == CCQ_JSON_ERROR ? 0 : j.end;
    } while (copy_event(&w, &j, e));
    FUZZ_CHECK(ccq_json_next(&j) == e, "the last event stays");
    ccq_code code = CCQ_OK;
    if (e == CCQ_JSON_ERROR)
        code = ccq_fail(err, j.code, "%s", j.message);
    *copy = ccq_jw_take(&w, copied);
    ccq_json_free(&j);
    return code;
}

/* Sequence by sequence, from the table of the standard. */
static size_t valid_utf8(const uint8_t *s, size_t size)
{
    static const struct {
        uint8_t first, last, low, high, more;
    } rows[] = {
        {0, 0x7f, 0, 0, 0},          {0xc2, 0xdf, 0x80, 0xbf, 1}, {0xe0, 0xe0, 0xa0, 0xbf, 2},
        {0xe1, 0xec, 0x80, 0xbf, 2}, {0xed, 0xed, 0x80, 0x9f, 2}, {0xee, 0xef, 0x80, 0xbf, 2},
        {0xf0, 0xf0, 0x90, 0xbf, 3}, {0xf1, 0xf3, 0x80, 0xbf, 3}, {0xf4, 0xf4, 0x80, 0x8f, 3}};
    size_t i = 0, r, k;
    while (i < size) {
        for (r = 0; r < 9 && (s[i] < rows[r].first || s[i] > rows[r].last); r++)
            ;
        if (r == 9 || rows[r].more >= size - i)
            return i;
        for (k = 1; k <= rows[r].more; k++)
            if (s[i + k] < (k == 1 ? rows[r].low : 0x80) ||
                s[i + k] > (k == 1 ? rows[r].high : 0xbf))
                return i;
        i += k;
    }
    return size;
}

/* The copy is as good as the text, and a fixed point. */
static void check_copy(const char *text, size_t size, const char *copy, size_t copied)
{
    char *again;
    size_t length;
    ccq_error err;
    FUZZ_CHECK(copy, "out of memory");
    ccq_code code = scan(copy, copied, NULL, &again, &length, &err);
    FUZZ_CHECK(!code, "the copy: %s\n%s", err.text, copy);
    FUZZ_CHECK(length == copied && memcmp(again, copy, length) == 0, "%s\n%s", copy, again);
    free(again);
    char *whole = malloc(size + 1);
    FUZZ_CHECK(whole, "out of memory");
    memcpy(whole, text, size);
    whole[size] = 0;
    cJSON *tree = cJSON_ParseWithLengthOpts(whole, size, NULL, 0);
    FUZZ_CHECK(tree, "cJSON refuses %s", whole);
    cJSON_Delete(tree);
    free(whole);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size || size > FUZZ_MAX)
        return 0;
    uint8_t choice = *data & 0xf;
    const ccq_json_limits limits = {choice & 1 ? 4 : 0, choice & 2 ? 8 : 0, choice & 4 ? 3 : 0};
    char *text = end_of_page - (size - 1), *copy;
    size_t copied;
    ccq_error err;
    memcpy(text, data + 1, --size);
    FUZZ_CHECK(ccq_utf8_valid(text, size) == valid_utf8(data + 1, size), "UTF-8");
    ccq_code code = scan(text, size, &limits, &copy, &copied, &err);
    fuzz_outcome(code, &err);
    if (!code)
        check_copy(text, size, copy, copied);
    free(copy);
    return 0;
}
