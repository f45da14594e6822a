/* Rows of fixed size that may be more than memory holds: the residual rows of all tokens
 * between two layers, and what else is kept of each of them. */
#ifndef CCQ_LIBCCQ_STREAM_H
#define CCQ_LIBCCQ_STREAM_H

#include "formats/types.h"

typedef struct ccq_stream ccq_stream;

/* rows of row_bytes each, zeros. dir NULL: in memory. Else in a file in that directory that
 * has no name any more: it is gone with the stream, or with the process. NO_MEMORY, CREATE,
 * NO_SPACE (the file system has no room for all rows). */
ccq_code ccq_stream_open(ccq_stream **stream, uint64_t rows, uint64_t row_bytes, const char *dir,
                         ccq_error *err);
void ccq_stream_close(ccq_stream *stream); /* NULL is fine */
/* Rows first..first+rows-1, side by side: a pointer into a stream in memory, good until it
 * is closed; from a file they are read to buffer, and that is returned. NULL: IO, BUG (rows
 * that are not there), in err, which is not NULL here. */
void *ccq_stream_get(ccq_stream *stream, uint64_t first, uint64_t rows, void *buffer,
                     ccq_error *err);
/* Stores rows; what came from ccq_stream_get of a stream in memory is there already. */
ccq_code ccq_stream_put(ccq_stream *stream, uint64_t first, uint64_t rows, const void *data,
                        ccq_error *err);
int ccq_stream_in_memory(const ccq_stream *stream);

#endif
