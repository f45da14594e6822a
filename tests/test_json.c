/* The scanner takes JSON and nothing else, within its limits; the writer's text
 * reads back as what was written. */
#include "tests/check.h"

#include "formats/json.h"

#include <math.h>

/* The code of scanning a text to its end. */
static ccq_code scan(const char *text, size_t size, const ccq_json_limits *limits)
{
    /* No byte behind the text may be read. */
    char *copy = memcpy(check_guarded(size ? size : 1), text, size);
    ccq_json j;
    ccq_json_event e;
    ccq_json_init(&j, size ? copy : copy + 1, size, limits);
    do
        e = ccq_json_next(&j);
    while (e != CCQ_JSON_END && e != CCQ_JSON_ERROR);
    ccq_code code = j.code;
    CHECK(ccq_json_next(&j) == e, "the last event stays");
    ccq_json_free(&j);
    return code;
}

static void test_grammar(void)
{
    static const struct {
        const char *text;
        ccq_code code;
    } cases[] = {
        {"0", CCQ_OK},
        {" -0.5e+10 ", CCQ_OK},
        {"[]", CCQ_OK},
        {"{}", CCQ_OK},
        {"\"\"", CCQ_OK},
        {"[1,2,[3,{}]]", CCQ_OK},
        {"{\"a\":{\"b\":[null,true,false]}}", CCQ_OK},
        {"\"\\ud83d\\ude00\\u0000\\/\"", CCQ_OK},
        {"\"\x7f\"", CCQ_OK},
        {"", CCQ_JSON},
        {" ", CCQ_JSON},
        {"[", CCQ_JSON},
        {"]", CCQ_JSON},
        {"{]", CCQ_JSON},
        {"[}", CCQ_JSON},
        {"[1,]", CCQ_JSON},
        {"[,1]", CCQ_JSON},
        {"[1 2]", CCQ_JSON},
        {"{\"a\"}", CCQ_JSON},
        {"{\"a\":}", CCQ_JSON},
        {"{\"a\":1,}", CCQ_JSON},
        {"{1:2}", CCQ_JSON},
        {"1 1", CCQ_JSON},
        {"{}{}", CCQ_JSON},
        {"nul", CCQ_JSON},
        {"nullx", CCQ_JSON},
        {"True", CCQ_JSON},
        {"NaN", CCQ_JSON},
        {"Infinity", CCQ_JSON},
        {"'a'", CCQ_JSON},
        {"\"a", CCQ_JSON},
        {"\"\\", CCQ_JSON},
        {"\"\\u", CCQ_JSON},
        {"\"\\u12\"", CCQ_JSON},
        {"\"\\u12g4\"", CCQ_JSON},
        {"\"\\ud800\"", CCQ_JSON},
        {"\"\\ud800\\u0041\"", CCQ_JSON},
        {"\"\\udfff\"", CCQ_JSON},
        {"\"\t\"", CCQ_JSON},
        {"\"a\\n\t\"", CCQ_JSON},
        {"\"\\x\"", CCQ_JSON},
        {"01", CCQ_NUMBER},
        {"-", CCQ_NUMBER},
        {"1.", CCQ_NUMBER},
        {".5", CCQ_JSON},
        {"1e", CCQ_NUMBER},
        {"1e+", CCQ_NUMBER},
        {"0x1", CCQ_NUMBER},
        {"--1", CCQ_NUMBER},
        {"+1", CCQ_JSON},
        {"1a", CCQ_NUMBER},
        {"\"\xff\"", CCQ_UTF8},
        {"\"\xc3\"", CCQ_UTF8},
        {"\"\\n\xed\xa0\x80\"", CCQ_UTF8},
        {"\"\xf0\x80\x80\x80\"", CCQ_UTF8},
        {"\xc3\xa4", CCQ_JSON},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ccq_code code = scan(cases[i].text, strlen(cases[i].text), NULL);
        CHECK(code == cases[i].code, "%s: %s, wanted %s", cases[i].text, ccq_code_name(code),
              ccq_code_name(cases[i].code));
    }
    CHECK(scan("1\0", 2, NULL) != CCQ_OK, "NUL behind the value");
}

static void test_limits(void)
{
    const ccq_json_limits small = {3, 4, 5};
    static const struct {
        const char *text;
        ccq_code code;
    } cases[] = {
        {"[[[]]]", CCQ_OK},
        {"[[[[]]]]", CCQ_LIMIT},
        {"[{\"a\":[]}]", CCQ_OK},
        {"\"abcd\"", CCQ_OK},
        {"\"abcde\"", CCQ_LIMIT},
        {"\"abc\\n\"", CCQ_OK},
        {"\"abcd\\n\"", CCQ_LIMIT},
        {"{\"abcde\":1}", CCQ_LIMIT},
        {"\"a\\ud83d\\ude00\"", CCQ_LIMIT},
        {"[1,2,3,4,5]", CCQ_OK},
        {"[1,2,3,4,5,6]", CCQ_LIMIT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ccq_code code = scan(cases[i].text, strlen(cases[i].text), &small);
        CHECK(code == cases[i].code, "%s: %s", cases[i].text, ccq_code_name(code));
    }
}

static void test_tokens(void)
{
    const char *text = " {\"k\\u00e9\\ud83d\\ude00\" : [ -1.50e2 , \"a\\tb\" ] }";
    ccq_json j;
    ccq_json_init(&j, text, strlen(text), NULL);
    CHECK(ccq_json_next(&j) == CCQ_JSON_OBJECT && j.begin == 1 && j.end == 2, "object");
    CHECK(ccq_json_next(&j) == CCQ_JSON_KEY && j.len == 7 &&
              !memcmp(j.text, "k\xc3\xa9\xf0\x9f\x98\x80", 7),
          "key");
    CHECK(text[j.begin] == '"' && text[j.end - 1] == '"' && text[j.end] == ' ', "range of a key");
    CHECK(ccq_json_next(&j) == CCQ_JSON_ARRAY, "array");
    CHECK(ccq_json_next(&j) == CCQ_JSON_NUMBER && j.len == 7 && !memcmp(j.text, "-1.50e2", 7),
          "number");
    CHECK(ccq_json_next(&j) == CCQ_JSON_STRING && j.len == 3 && !memcmp(j.text, "a\tb", 3),
          "string");
    CHECK(ccq_json_next(&j) == CCQ_JSON_ARRAY_END && ccq_json_next(&j) == CCQ_JSON_OBJECT_END &&
              ccq_json_next(&j) == CCQ_JSON_END,
          "ends");
    ccq_json_free(&j);
    text = "{\"a\":[1,{\"b\":[2]}],\"c\":3}";
    ccq_json_init(&j, text, strlen(text), NULL);
    ccq_json_next(&j);
    ccq_json_next(&j);
    CHECK(ccq_json_skip(&j) == CCQ_OK && ccq_json_next(&j) == CCQ_JSON_KEY && j.text[0] == 'c',
          "skip a list");
    CHECK(ccq_json_skip(&j) == CCQ_OK && ccq_json_next(&j) == CCQ_JSON_OBJECT_END, "skip a number");
    ccq_json_free(&j);
}

static void test_integers(void)
{
    uint64_t v;
    CHECK(ccq_json_u64("18446744073709551615", 20, &v) && v == UINT64_MAX, "2^64 - 1");
    CHECK(ccq_json_u64("0", 1, &v) && v == 0, "0");
    static const char *const bad[] = {"18446744073709551616", "-1", "1.0", "1e3", "01", "",
                                      "99999999999999999999", "1 "};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK(!ccq_json_u64(bad[i], strlen(bad[i]), &v), "%s", bad[i]);
}

static double write_double(double v)
{
    ccq_jw w;
    ccq_jw_init(&w, 0);
    ccq_jw_double(&w, v);
    char *text = ccq_jw_take(&w, NULL);
    REQUIRE(text, "no text");
    CHECK(scan(text, strlen(text), NULL) == CCQ_OK, "%s is no JSON", text);
    double back = strtod(text, NULL);
    free(text);
    return back;
}

static void test_writer(uint64_t seed)
{
    ccq_jw w;
    ccq_jw_init(&w, 2);
    ccq_jw_object(&w);
    ccq_jw_kstring(&w, "a\"\n", "\x1b<\xff\xc3\xa4");
    ccq_jw_key(&w, "list");
    ccq_jw_array(&w);
    ccq_jw_u64(&w, UINT64_MAX);
    ccq_jw_i64(&w, INT64_MIN);
    ccq_jw_object(&w);
    ccq_jw_end(&w);
    ccq_jw_end(&w);
    ccq_jw_kdouble(&w, "x", 0.1);
    ccq_jw_kdouble(&w, "nan", NAN);
    ccq_jw_kbool(&w, "b", 1);
    ccq_jw_end(&w);
    const char *want = "{\n  \"a\\\"\\n\": \"\\u001b<\xef\xbf\xbd\xc3\xa4\",\n  \"list\": [\n"
                       "    18446744073709551615,\n    -9223372036854775808,\n    {}\n  ],\n"
                       "  \"x\": 0.1,\n  \"b\": true\n}\n";
    size_t size;
    char *text = ccq_jw_take(&w, &size);
    CHECK(text && strcmp(text, want) == 0 && size == strlen(want), "%s", text ? text : "(none)");
    free(text);
    ccq_jw_object(&w);
    CHECK(!ccq_jw_take(&w, NULL), "an open object is no text");
    static const double nasty[] = {
        0.0, -0.0, 0.5, 1e-5, 5e-324, 1.7976931348623157e308, 0.30000001192092896, 1e22};
    for (size_t i = 0; i < sizeof nasty / sizeof *nasty; i++)
        CHECK(write_double(nasty[i]) == nasty[i], "%.17g", nasty[i]);
    for (int i = 0; i < 2000; i++) {
        uint64_t bits = check_next(&seed);
        double v;
        memcpy(&v, &bits, 8);
        CHECK(!isfinite(v) || write_double(v) == v, "%.17g", v);
    }
}

/* Random mutations of a valid text: no crash, and what is accepted is UTF-8. */
static void test_mutations(uint64_t seed)
{
    const char *good =
        "{\"a\":[1,-2.5e3,\"x\\u00e4\\n\xc3\xa4\",{\"b\":null}],\"c\":{\"d\":true,\"e\":\"\"}}";
    size_t n = strlen(good);
    char text[128];
    for (int i = 0; i < 20000; i++) {
        memcpy(text, good, n);
        for (uint64_t k = check_next(&seed) % 4; k < 5; k++)
            text[check_next(&seed) % n] =
                k & 1 ? (char)check_next(&seed) : good[check_next(&seed) % n];
        ccq_json j;
        ccq_json_event e;
        size_t size = n - check_next(&seed) % 3;
        ccq_json_init(&j, text, size, NULL);
        do
            e = ccq_json_next(&j);
        while (e != CCQ_JSON_END && e != CCQ_JSON_ERROR);
        CHECK(e == CCQ_JSON_ERROR || ccq_utf8_valid(text, size) == size, "accepted: %.*s",
              (int)size, text);
        ccq_json_free(&j);
    }
}

int main(void)
{
    uint64_t seed = check_seed(1);
    test_grammar();
    test_limits();
    test_tokens();
    test_integers();
    test_writer(seed);
    test_mutations(seed);
    return check_done();
}
