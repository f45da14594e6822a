/* ccq_manifest.json: the CRC-32 of everything in a finished checkpoint, so that
 * any changed byte is found and named. Written by the quantizer, read by verify.
 *
 *   { "schema": "ccq.manifest/1",
 *     "shards":  { FILE: { "bytes": N, "header_crc32": "HEX8" }, ... },
 *     "files":   { FILE: { "bytes": N, "crc32": "HEX8" }, ... },
 *     "tensors": { NAME: "HEX8", ... },
 *     "crc32": "HEX8" }
 *
 * The last member is the CRC-32 of all bytes before its own line. */
#ifndef CCQ_LIBCCQ_MANIFEST_H
#define CCQ_LIBCCQ_MANIFEST_H

#include "formats/types.h"

#define CCQ_MANIFEST_NAME "ccq_manifest.json"

typedef struct ccq_manifest_item {
    char *name;
    uint64_t bytes; /* of the whole file; 0 for tensors */
    uint32_t crc;   /* shards: the 8 + N header bytes; files: all of it; tensors: the data */
} ccq_manifest_item;

typedef struct ccq_manifest_list {
    ccq_manifest_item *item;
    size_t count, cap;
} ccq_manifest_list;

typedef struct ccq_manifest {
    ccq_manifest_list shards, files, tensors;
    int unsynced; /* written with --no-sync: says "synced": false, before the lists */
} ccq_manifest;

/* OK with *m == NULL when dir has none; MANIFEST when it is damaged. */
ccq_code ccq_manifest_load(ccq_manifest **m, const char *dir, ccq_error *err);
void ccq_manifest_free(ccq_manifest *m); /* NULL is fine */
/* NULL when absent. The list is sorted: loaded, or past ccq_manifest_text. */
const ccq_manifest_item *ccq_manifest_find(const ccq_manifest_list *list, const char *name);

/* Building: ccq_manifest_new, then add in any order. NULL, -1: out of memory. */
ccq_manifest *ccq_manifest_new(void);
int ccq_manifest_add(ccq_manifest_list *list, const char *name, uint64_t bytes, uint32_t crc);
/* Sorts the lists by name and gives the text with its own CRC; the caller
 * frees it. The length does not depend on the CRCs. NULL: out of memory. */
char *ccq_manifest_text(ccq_manifest *m, size_t *size);

#endif
