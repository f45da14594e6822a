/* Shared by the zip directory, the npy header and the two public readers. */
#ifndef CCQ_FORMATS_NPZ_INTERNAL_H
#define CCQ_FORMATS_NPZ_INTERNAL_H

#include "formats/internal.h"
#include "formats/npz.h"

/* One member, from the central directory: that alone is believed. */
typedef struct ccq_zip_member {
    const char *name;  /* in the arena, with its suffix */
    uint64_t offset;   /* of the local header */
    uint64_t packed;   /* bytes in the file */
    uint64_t unpacked; /* bytes of the content */
    uint32_t crc;
    uint16_t method; /* 0 or 8 */
} ccq_zip_member;

typedef struct ccq_zip {
    ccq_file file;
    ccq_arena arena;
    ccq_zip_member *members;
    size_t count;
    ccq_names names;    /* number = place in members */
    uint64_t directory; /* offset of the central directory: data ends before it */
} ccq_zip;

/* Opens path and checks end record and directory. ccq_zip_close in any case. */
ccq_code ccq_zip_open(ccq_zip *zip, const char *path, ccq_error *err);
void ccq_zip_close(ccq_zip *zip);
/* Offset of a member's data, after its local header was compared with the directory. */
ccq_code ccq_zip_data(const ccq_zip *zip, const ccq_zip_member *m, uint64_t *offset,
                      ccq_error *err);

/* The dict of an npy header (len bytes). path, name: for messages. */
ccq_code ccq_npy_header(const char *text, size_t len, const char *path, const char *name,
                        ccq_array *array, ccq_error *err);

#endif
