/* config.json: values as they stand, and edits that change no other byte, in every
 * style a file may have. */
#include "tests/check.h"

#include "formats/config.h"

static ccq_config *parse(const char *text)
{
    ccq_config *c;
    ccq_error err = {0};
    ccq_code code = ccq_config_parse(&c, text, strlen(text), "config.json", &err);
    REQUIRE(!code, "%s: %s", ccq_code_name(code), err.text);
    return c;
}

static void test_values(void)
{
    ccq_config *c =
        parse("{\"i\":5,\"f\":5.0,\"h\":5.5,\"big\":5368709120,\"huge\":9007199254740993,"
              "\"neg\":-3,\"x\":0.30000001192092896,\"s\":\"a\\u00e4\",\"n\":null,\"b\":true,"
              "\"o\":{\"p\":{\"q\":7}},\"l\":[1,\"two\",3.5],\"Case\":1,\"e\":[]}");
    int64_t i = 0;
    double d = 0;
    int b = 0;
    size_t len = 0;
    CHECK(ccq_config_int(c, "i", &i) && i == 5 && ccq_config_int(c, "f", &i) && i == 5,
          "5 and 5.0");
    CHECK(ccq_config_int(c, "big", &i) && i == INT64_C(5368709120), "past 2^31: %" PRId64, i);
    CHECK(ccq_config_int(c, "neg", &i) && i == -3, "-3");
    CHECK(!ccq_config_int(c, "h", &i) && !ccq_config_int(c, "huge", &i) &&
              !ccq_config_int(c, "s", &i) && !ccq_config_int(c, "n", &i) &&
              !ccq_config_int(c, "none", &i),
          "no integers");
    CHECK(ccq_config_double(c, "x", &d) && d == 0.30000001192092896, "%.17g", d);
    CHECK(ccq_config_bool(c, "b", &b) && b == 1 && !ccq_config_bool(c, "i", &b), "bool");
    CHECK(strcmp(ccq_config_string(c, "s"), "a\xc3\xa4") == 0 && !ccq_config_string(c, "i"),
          "string");
    CHECK(ccq_config_int(c, "o.p.q", &i) && i == 7 && !ccq_config_int(c, "o.q", &i) &&
              !ccq_config_int(c, "i.x", &i),
          "path");
    CHECK(!ccq_config_int(c, "case", &i), "case-sensitive");
    CHECK(ccq_config_array_size(c, "l") == 3 && ccq_config_array_int(c, "l", 0, &i) && i == 1 &&
              !ccq_config_array_int(c, "l", 1, &i) && !ccq_config_array_int(c, "l", 3, &i),
          "list");
    CHECK(strcmp(ccq_config_array_string(c, "l", 1), "two") == 0, "string in a list");
    CHECK(ccq_config_kind(c, "n") == CCQ_KIND_NULL &&
              ccq_config_kind(c, "none") == CCQ_KIND_ABSENT &&
              ccq_config_kind(c, "e") == CCQ_KIND_ARRAY &&
              ccq_config_kind(c, "o.p") == CCQ_KIND_OBJECT,
          "kinds");
    const char *raw = ccq_config_raw(c, "o.p", &len);
    CHECK(raw && len == 7 && !memcmp(raw, "{\"q\":7}", 7), "raw");
    raw = ccq_config_raw(c, "x", &len);
    CHECK(raw && len == 19 && !memcmp(raw, "0.30000001192092896", 19), "a number as written");
    CHECK(!ccq_config_raw(c, "o.none", &len), "raw of nothing");
    CHECK(ccq_config_keys(c) == 14 && strcmp(ccq_config_key(c, 12), "Case") == 0, "keys in order");
    ccq_config_free(c);
    ccq_config_free(NULL);
}

static void check_splice(const char *text, const ccq_config_edit *edits, size_t n, const char *want)
{
    ccq_config *c = parse(text), *r;
    ccq_error err = {0};
    ccq_code code = ccq_config_splice(c, edits, n, &r, &err);
    CHECK(!code, "%s: %s", ccq_code_name(code), err.text);
    if (!code) {
        size_t size;
        const char *got = ccq_config_text(r, &size);
        CHECK(strcmp(got, want) == 0 && size == strlen(want), "got:\n%s\nwanted:\n%s", got, want);
        ccq_config_free(r);
    }
    ccq_config_free(c);
}

#define SPLICE(text, want, ...)                                        \
    do {                                                               \
        const ccq_config_edit edits[] = {__VA_ARGS__};                 \
        check_splice(text, edits, sizeof edits / sizeof *edits, want); \
    } while (0)

static void test_styles(void)
{
    SPLICE("{\n  \"a\": 1,\n  \"b\" : [ 1,2 ]\n}\n",
           "{\n  \"a\": 1,\n  \"b\" : [ 1,2 ],\n  \"q\": {\n    \"x\": [\n      1,\n      {}\n    "
           "],\n    \"y\": \"z\"\n  }\n}\n",
           {"q", "{\"x\":[1,{}],\"y\":\"z\"}"});
    SPLICE("{\r\n\t\"a\": 1\r\n}", "{\r\n\t\"a\": 1,\r\n\t\"q\": {\r\n\t\t\"x\": 1\r\n\t}\r\n}",
           {"q", "{ \"x\" : 1 }"});
    SPLICE("{\"a\": 1, \"b\": 2}", "{\"a\": 1, \"b\": 2, \"q\": {\"x\": 1, \"y\": []}}",
           {"q", "{\"x\":1,\"y\":[]}"});
    SPLICE("{\"a\":1,\"b\":2}", "{\"a\":1,\"b\":2,\"q\":[1,2]}", {"q", "[1, 2]"});
    SPLICE("{\n    \"a\":1\n}", "{\n    \"a\":1,\n    \"q\":{\n        \"x\":1\n    }\n}",
           {"q", "{\"x\":1}"});
    SPLICE("{}", "{\"q\": 1}", {"q", "1"});
    SPLICE(" {\n}\n", " {\n  \"q\": 1\n}\n", {"q", "1"});
}

static void test_replace(void)
{
    SPLICE("{\n  \"q\": {\"old\": [1, 2]},\n  \"z\": 500000.0\n}",
           "{\n  \"q\": {\n    \"x\": 1e-05\n  },\n  \"z\": 500000.0\n}", {"q", "{\"x\":1e-05}"});
    SPLICE("{\"a\" :  true ,\"b\":2}", "{\"a\" :  false ,\"b\":2}", {"a", "false"});
    SPLICE("{\"\\u0061\": 1}", "{\"\\u0061\": 2}",
           {"a", "2"}); /* the escaped key is the same key */
}

static void test_remove(void)
{
    SPLICE("{\n  \"a\": 1,\n  \"b\": 2,\n  \"c\": 3\n}\n", "{\n  \"b\": 2,\n  \"c\": 3\n}\n",
           {"a", NULL});
    SPLICE("{\n  \"a\": 1,\n  \"b\": 2,\n  \"c\": 3\n}\n", "{\n  \"a\": 1,\n  \"c\": 3\n}\n",
           {"b", NULL});
    SPLICE("{\n  \"a\": 1,\n  \"b\": 2,\n  \"c\": 3\n}\n", "{\n  \"a\": 1,\n  \"b\": 2\n}\n",
           {"c", NULL});
    SPLICE("{\"a\": 1}", "{}", {"a", NULL});
    SPLICE("{\"a\": 1}", "{\"a\": 1}", {"none", NULL});
    SPLICE("{\"a\": 1, \"b\": 2}", "{\"c\": 3}", {"a", NULL}, {"b", NULL}, {"c", "3"});
    SPLICE("{\"a\": 1, \"b\": 2}", "{\"b\": 3, \"a\": 4}", {"a", NULL}, {"b", "3"}, {"a", "4"});
}

static void test_bad_values(void)
{
    static const char *const bad[] = {"", "{", "1 2", "nul", "{\"a\":1,}", "01"};
    ccq_config *c = parse("{\"a\": 1}"), *r;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const ccq_config_edit e = {"q", bad[i]};
        CHECK(ccq_config_splice(c, &e, 1, &r, NULL) != CCQ_OK && !r, "%s", bad[i]);
    }
    const ccq_config_edit twice = {"q", "{\"k\":1,\"k\":2}"};
    CHECK(ccq_config_splice(c, &twice, 1, &r, NULL) == CCQ_DUPLICATE, "key twice in a block");
    ccq_config_free(c);
}

/* Random files of random white space, random edits: what is not named stays. */
static void test_random(uint64_t seed)
{
    static const char *const values[] = {"1",      "-2.50e3",       "\"s,}{\\\"\"", "null",
                                         "[1, 2]", "{\"k\" :[ ] }", "{ }"};
    static const char *const spaces[] = {"", " ", "\n", "\r\n  ", "\t", "\n\n    "};
    for (int round = 0; round < 3000; round++) {
        char text[2000] = "{";
        int n = (int)(check_next(&seed) % 6);
        for (int i = 0; i < n; i++)
            sprintf(text + strlen(text), "%s%s\"k%d\"%s:%s%s%s", i ? "," : "",
                    spaces[check_next(&seed) % 6], i, spaces[check_next(&seed) % 6],
                    spaces[check_next(&seed) % 6], values[check_next(&seed) % 7],
                    spaces[check_next(&seed) % 6]);
        strcat(text, "}");
        ccq_config *c = parse(text), *r;
        char key[16];
        snprintf(key, sizeof key, "k%d", (int)(check_next(&seed) % 7));
        const ccq_config_edit e = {key,
                                   check_next(&seed) % 3 ? values[check_next(&seed) % 7] : NULL};
        ccq_error err = {0};
        ccq_code code = ccq_config_splice(c, &e, 1, &r, &err);
        CHECK(!code, "%s\nedit %s = %s: %s", text, key, e.value ? e.value : "(removed)", err.text);
        for (int i = 0; i < n && !code; i++) {
            char name[16];
            size_t a, b;
            snprintf(name, sizeof name, "k%d", i);
            const char *x = ccq_config_raw(c, name, &a), *y = ccq_config_raw(r, name, &b);
            CHECK(strcmp(name, key) == 0 || (y && a == b && !memcmp(x, y, a)), "%s changed %s", key,
                  name);
        }
        ccq_config_free(c);
        ccq_config_free(r);
    }
}

int main(void)
{
    uint64_t seed = check_seed(3);
    test_values();
    test_styles();
    test_replace();
    test_remove();
    test_bad_values();
    test_random(seed);
    return check_done();
}
