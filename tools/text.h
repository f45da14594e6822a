/* The tokenizer of a model: text to ids and back. What needs only the bytes of
 * tokenizer.model (piece count, special pieces) works in every build. */
#ifndef CCQ_TOOLS_TEXT_H
#define CCQ_TOOLS_TEXT_H

#include "formats/types.h"

typedef struct text text;

/* tokenizer.model, spm.model or ernie_token_100k.model, and added_tokens.json. *t
 * is NULL when dir has none of the three. */
ccq_code text_open(text **t, const char *dir, ccq_error *err);
void text_close(text *t); /* NULL is fine */
/* Entries of tokenizer.model; 0 for NULL. */
int64_t text_pieces(const text *t);
/* The id of an added token or a piece, -1 when absent or t is NULL. */
int32_t text_id(const text *t, const char *name);
/* 1 when id is one of added_tokens.json. */
int text_is_added(const text *t, int32_t id);
/* OK, or why text cannot be used: no tokenizer (USAGE), not built in (UNAVAILABLE). */
ccq_code text_usable(const text *t, const char *dir, ccq_error *err);
/* Added tokens are cut out first, longest match; no BOS or EOS. The caller frees
 * *ids, never NULL when OK. */
ccq_code text_encode(const text *t, const char *s, size_t size, int32_t **ids, size_t *count,
                     ccq_error *err);
/* malloc'd; NULL when it cannot be done. Added tokens stand as they are written. */
char *text_decode(const text *t, const int32_t *ids, size_t count);
/* Text of what was generated behind a prompt: decoded with the last id of the
 * prompt, whose text is cut off again, so that a leading blank stays. */
char *text_continue(const text *t, int32_t before, const int32_t *ids, size_t count);
/* The chat template around one user message. bos: id to start with where the
 * tokenizer has no <|begin_of_sentence|>. */
ccq_code text_chat(const text *t, const char *user, size_t size, int32_t bos, int32_t **ids,
                   size_t *count, ccq_error *err);

#endif
