/* What to run: prompts from the command line and from files. */
#ifndef CCQ_TOOLS_PROMPTS_H
#define CCQ_TOOLS_PROMPTS_H

#include "libccq/run.h"
#include "tools/text.h"

/* A prompt with everything that a line of a file may set. */
typedef struct run_prompt {
    char *place; /* "prompts.jsonl, line 3", for messages */
    int from_file;
    char *id; /* JSON value, or NULL: its number */
    int32_t *ids;
    size_t count;
    ccq_sampling sampling;
    int has_seed;
    int64_t max_tokens;
    char **stop; /* strings */
    size_t stops;
    int32_t *stop_ids;
    size_t stop_count;
} run_prompt;

typedef struct prompt_list {
    run_prompt *at;
    size_t count, room;
    /* what new prompts start with */
    ccq_sampling sampling;
    int64_t max_tokens;
    const char *const *stop;
    size_t stops;
    int chat;
    /* the model's side */
    const text *text; /* NULL allowed */
    const char *dir;
    int32_t bos;
} prompt_list;

void prompts_free(prompt_list *p);
ccq_code prompts_add_text(prompt_list *p, const char *s, ccq_error *err);
/* "1,2,3" */
ccq_code prompts_add_ids(prompt_list *p, const char *list, ccq_error *err);
/* .npz: a reference file; anything else: one JSON object a line. */
ccq_code prompts_add_file(prompt_list *p, const char *path, ccq_error *err);
/* Copies of given ids; place is copied. */
ccq_code prompts_add_array(prompt_list *p, const char *place, const int32_t *ids, size_t count,
                           ccq_error *err);
/* Every prompt against vocabulary and context, before anything runs; then seeds
 * are numbered and end ids appended. An id is good below valid, and below vocab when it
 * is an added token. */
ccq_code prompts_check(prompt_list *p, int64_t valid, int64_t vocab, int64_t context,
                       const int32_t *end, size_t ends, ccq_error *err);

#endif
