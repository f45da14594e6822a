/* Prompts as one JSON object a line. */
#ifndef CCQ_TOOLS_JSONL_H
#define CCQ_TOOLS_JSONL_H

#include "tools/prompts.h"

/* Calls fn for every line that is not blank; place names file and line. */
typedef ccq_code (*jsonl_fn)(void *ctx, const char *place, const char *line, size_t size,
                             ccq_error *err);
ccq_code jsonl_lines(const char *path, jsonl_fn fn, void *ctx, ccq_error *err);
/* Fills q from a line; *words (malloc'd, *length bytes) is the prompt when it is
 * given as text. Unknown and doubled fields, and lines with both or neither of ids
 * and prompt, are JSON. */
ccq_code jsonl_prompt(run_prompt *q, const char *line, size_t size, char **words, size_t *length,
                      ccq_error *err);

#endif
