/* A journal of finished tensors: lines that are only ever appended, each with its own
 * CRC, so that a reader knows where the good part ends.
 *
 *   crc32 tensor shard offset length payload_crc32 source_crc32\n
 *
 * crc32 covers the rest of the line without the newline; tensor is a JSON string, shard
 * a path without blanks, offset (in the shard file) and length are decimal, CRCs are
 * eight small hex digits. A record is written after the bytes it tells of are on disk. */
#ifndef CCQ_FORMATS_JOURNAL_H
#define CCQ_FORMATS_JOURNAL_H

#include "formats/types.h"

typedef struct ccq_record {
    const char *tensor, *shard;
    uint64_t offset, length;
    uint32_t crc, source; /* of the stored bytes, and of what they were made from */
} ccq_record;

/* Calls fn with each record up to the first line that is not good (also one that fn
 * answers with something else than 0), and says where that is. Not being there is
 * an empty journal. Texts of a record are valid during the call. */
typedef int (*ccq_record_fn)(void *ctx, const ccq_record *record);
ccq_code ccq_journal_read(const char *path, ccq_record_fn fn, void *ctx, uint64_t *good,
                          uint64_t *size, ccq_error *err);

/* Appending, from one thread at a time. */
typedef struct ccq_journal ccq_journal;
/* Opens or creates; everything from byte keep on is cut off. sync 0: no fdatasync. */
ccq_code ccq_journal_open(ccq_journal **journal, const char *path, uint64_t keep, int sync,
                          ccq_error *err);
/* Remembered until the next flush. */
ccq_code ccq_journal_add(ccq_journal *journal, const ccq_record *record, ccq_error *err);
/* Written and synced. After a failure no flush succeeds. */
ccq_code ccq_journal_flush(ccq_journal *journal, ccq_error *err);
/* What was not flushed is dropped. NULL is fine. */
void ccq_journal_close(ccq_journal *journal);

#endif
