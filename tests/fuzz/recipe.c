/* A recipe, and behind a byte 0x1e each tensor types as on the command line: refused, or
 * options that a plan can be made from. */
#include "libccq/job.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

static const char *const words[] = {
    "{", "}", "[", "]", ",", ":", "\"", "\x1e", "\"schema\": \"ccq.recipe/1\"",
    "\"scheme\": \"wint2\"", "\"scheme\": \"bf16\"", "\"tensor_types\": [\"",
    "\"w4_end_layer\": ", "\"transform\": [\"rotate\"]", "\"effort\": \"best\"", "\"gain\": 8",
    "=wint2", "=wint4", "=bf16", "=block_wise_fp8", "=wint8", ".*", "experts", "(", ")", "|", "*",
    "+", "?", "{1,255}", "{2}", "[^a]", "[[:alpha:]]", "\\.", "\\d", "^", "$", "[z-a]", "[[.a.]]",
    "\\", "((((", "x{255}", NULL};

static ccq_source *source;

static void start(void)
{
    char path[4200];
    const char *dir = getenv("CCQ_DATA");
    ccq_error err;
    snprintf(path, sizeof path, "%s/ernie-micro", dir ? dir : "tests/data");
    FUZZ_CHECK(!ccq_source_open(&source, path, NULL, &err), "%s", err.text);
}

static void end(void)
{
    ccq_source_close(source);
}

const fuzz_target fuzz_this = {"recipe", words, 1, start, end, NULL};

static ccq_code match_all(ccq_quantize_options *o, ccq_error *err)
{
    ccq_rules *rules;
    ccq_type type;
    const char *text;
    ccq_code code = ccq_rules_new(&rules, o, err);
    for (size_t i = 0; !code && i < source->count; i++)
        if (ccq_rules_match(rules, &source->entry[i], &type, &text))
            FUZZ_CHECK(type < CCQ_TYPES && strchr(text, '='), "%s", text);
    if (!code)
        code = ccq_rules_check(rules, source, err);
    ccq_rules_free(rules);
    return code;
}

/* Values that the recipe may set are in their ranges. */
static void check_options(const ccq_quantize_options *o)
{
    FUZZ_CHECK(o->scheme >= 0 && o->scheme < CCQ_SCHEMES, "scheme");
    FUZZ_CHECK(o->gain >= 0 && o->gain <= 8, "gain");
    FUZZ_CHECK(o->effort >= 0 && o->effort < 3 && o->tensor_parallel >= 1, "options");
    FUZZ_CHECK(o->transform < 4 && o->calibration.kind >= 0 && o->calibration.kind < 4, "options");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ccq_quantize_options o;
    ccq_text_list types = {0};
    ccq_error err;
    size_t n;
    const uint8_t *part = fuzz_part(&data, &size, &n);
    ccq_code code = CCQ_OK;
    ccq_quantize_defaults(&o);
    if (n)
        code = ccq_recipe_read(&o, &types, fuzz_file(part, n), &err);
    while (!code && size && types.count < 20) {
        char *text = fuzz_text(&data, &size);
        FUZZ_CHECK(!ccq_text_add(&types, "%s", text), "memory");
        free(text);
    }
    if (!code) {
        check_options(&o);
        o.tensor_type = types.text;
        o.tensor_types = types.count;
        code = match_all(&o, &err);
    }
    fuzz_outcome(code, &err);
    ccq_text_free(&types);
    return 0;
}
