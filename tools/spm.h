/* SentencePiece behind six C functions: spm_shim.cc with the library, spm_stub.c
 * without it. */
#ifndef CCQ_TOOLS_SPM_H
#define CCQ_TOOLS_SPM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct spm spm;

/* From the bytes of a model file; NULL when the library is not built in or does
 * not take them. */
spm *spm_load(const void *data, size_t size);
void spm_free(spm *s); /* NULL is fine */
/* The caller frees *ids and *text (with a NUL behind it); 0 when done, -1 when not. */
int spm_encode(const spm *s, const char *text, size_t size, int32_t **ids, size_t *count);
int spm_decode(const spm *s, const int32_t *ids, size_t count, char **text);
/* The id of a piece; that of <unk> when there is none. */
int32_t spm_piece_to_id(const spm *s, const char *piece);
int32_t spm_piece_count(const spm *s);

#ifdef __cplusplus
}
#endif

#endif
