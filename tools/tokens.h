/* Files of tokens, or of text where the model has a tokenizer. */
#ifndef CCQ_TOOLS_TOKENS_H
#define CCQ_TOOLS_TOKENS_H

#include "tools/text.h"

/* .npy, .npz (member "ids"), or UTF-8 text under any other name; dir is the model's, for
 * messages. The caller frees *ids. NO_INPUT, USAGE (text, and no tokenizer), REFERENCE (an
 * id outside the vocabulary) and those of the readers. */
ccq_code tokens_load(const text *t, const char *dir, const char *path, int64_t vocab,
                     int32_t **ids, size_t *count, ccq_error *err);

#endif
