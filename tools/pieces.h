/* Pieces of a SentencePiece model, from its bytes: works without the library. */
#ifndef CCQ_TOOLS_PIECES_H
#define CCQ_TOOLS_PIECES_H

#include <stddef.h>
#include <stdint.h>

/* How many; -1: not such a file. */
int64_t pieces_count(const void *model, size_t size);
/* The id of a piece: its place in the file; -1 when absent. */
int64_t pieces_find(const void *model, size_t size, const char *name);

#endif
