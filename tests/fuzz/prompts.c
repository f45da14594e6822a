/* Prompts, one JSON object a line: refused with the line's number, or values that a run
 * can start from. */
#include "tests/fuzz/fuzz.h"
#include "tools/jsonl.h"

#include <string.h>

static const char *const words[] = {
    "{", "}", "[", "]", ",", ":", "\"", "\n", "\r", " ", "\"ids\":", "\"prompt\":", "\"id\":",
    "\"seed\":", "\"stop\":", "\"max_tokens\":", "\"stop_token_ids\":", "\"temperature\":",
    "\"top_p\":", "\"top_k\":", "[1,2,3]", "2147483647", "2147483648", "9223372036854775807",
    "1e400", "-1", "0.5", "1e-400", "\\u0000", "\\ud83d\\ude00", "\xff", "null",
    "{\"ids\":[1]}\n", NULL};

const fuzz_target fuzz_this = {"prompts", words, 1, NULL, NULL, NULL};

static void check_prompt(const run_prompt *q, const char *words_, size_t length)
{
    const ccq_sampling *s = &q->sampling;
    FUZZ_CHECK(s->temperature >= 0 && s->top_p >= 0 && s->top_p <= 1 && s->top_k >= -1, "sampling");
    FUZZ_CHECK(q->max_tokens >= 1 && s->seed <= INT64_MAX, "max_tokens, seed");
    for (size_t i = 0; i < q->count; i++)
        FUZZ_CHECK(q->ids[i] >= 0, "id");
    for (size_t i = 0; i < q->stop_count; i++)
        FUZZ_CHECK(q->stop_ids[i] >= 0, "stop id");
    for (size_t i = 0; i < q->stops; i++)
        FUZZ_CHECK(*q->stop[i], "an empty text to stop at");
    FUZZ_CHECK(!words_ || strlen(words_) == length, "prompt");
}

static ccq_code one_line(void *ctx, const char *place, const char *line, size_t size,
                         ccq_error *err)
{
    char *here = strdup(place), *said = NULL;
    size_t length = 0;
    run_prompt q = {.place = here, .max_tokens = 16, .stop = calloc(1, sizeof *q.stop),
                    .sampling = {.temperature = 1, .top_p = 1, .top_k = -1}};
    ccq_code code = jsonl_prompt(&q, line, size, &said, &length, err);
    if (!code)
        check_prompt(&q, said, length);
    ++*(size_t *)ctx;
    for (size_t i = 0; i < q.stops; i++)
        free(q.stop[i]);
    free(q.stop);
    free(q.stop_ids);
    free(q.ids);
    free(q.id);
    free(said);
    free(here);
    return code;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t lines = 0;
    ccq_error err;
    ccq_code code = jsonl_lines(fuzz_file(data, size), one_line, &lines, &err);
    fuzz_outcome(code, &err);
    FUZZ_CHECK(!code || strstr(err.text, ", line "), "no line in: %s", err.text);
    return 0;
}
