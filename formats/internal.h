/* Shared inside formats/: error lines with their place, an arena, a name table. */
#ifndef CCQ_FORMATS_INTERNAL_H
#define CCQ_FORMATS_INTERNAL_H

#include "formats/file.h"
#include "formats/types.h"

/* "path: text" and "path: "name": text", both names escaped; a long path loses its head. */
ccq_code ccq_fail_file(ccq_error *err, ccq_code code, const char *path, const char *fmt, ...)
    CCQ_PRINTF(4, 5);
ccq_code ccq_fail_name(ccq_error *err, ccq_code code, const char *path, const char *name,
                       const char *fmt, ...) CCQ_PRINTF(5, 6);
/* A full disk: so many bytes more are needed, and what is free. */
ccq_code ccq_fail_full(ccq_error *err, const char *path, uint64_t needed);
/* "path: what: reason of error" with the code that errno asks for: NO_SPACE (and what is
 * free), NO_MEMORY, IO (the disk, or no file descriptor is left), or code. */
ccq_code ccq_fail_errno(ccq_error *err, ccq_code code, const char *path, const char *what,
                        int error);

/* ---- Memory that is freed at once ----------------------------------------- */
typedef struct ccq_arena {
    struct ccq_chunk *head;
} ccq_arena;

/* Aligned to 8 bytes; NULL when out of memory. */
void *ccq_arena_alloc(ccq_arena *a, size_t size);
/* A copy with a NUL behind it, not aligned. */
char *ccq_arena_text(ccq_arena *a, const char *text, size_t len);
void ccq_arena_free(ccq_arena *a);

/* ---- Names -> numbers ------------------------------------------------------
 * Open addressing under a keyed hash: a file cannot choose names that collide.
 * The names stay the caller's and outlive the table; numbers run 0, 1, 2 ... */
typedef struct ccq_names {
    const char **name; /* by number */
    uint32_t count, cap;
    struct ccq_slot *slot;
    uint32_t mask; /* slots - 1; 0 = none yet */
    uint64_t key[2];
} ccq_names;

#define CCQ_NO_NAME UINT32_MAX

/* The number of a name, or CCQ_NO_NAME. */
uint32_t ccq_names_find(const ccq_names *t, const char *name, size_t len);
/* Room for about that many names, so that the table need not grow; a wrong guess
 * or no memory is no fault. */
void ccq_names_reserve(ccq_names *t, size_t count);
/* 1: added under number count - 1; 0: already there; -1: out of memory. */
int ccq_names_add(ccq_names *t, const char *name);
int ccq_names_add_n(ccq_names *t, const char *name, size_t len);
/* Copies into the arena when new. */
int ccq_names_intern(ccq_names *t, ccq_arena *a, const char *name, size_t len);
/* The numbers in the order of the names (bytes), malloc'd; NULL: out of memory. */
uint32_t *ccq_names_sorted(const ccq_names *t);
void ccq_names_free_table(ccq_names *t);

/* Has this object (numbered by the caller) this key already? 0 = yes, 1 = now it has, -1. */
int ccq_names_once(ccq_names *t, ccq_arena *a, uint64_t object, const char *key, size_t len);

/* ---- One .safetensors file -------------------------------------------------- */
typedef struct ccq_st {
    ccq_tensor *tensors; /* in the order of the header; malloc'd */
    size_t count;
    ccq_names names;      /* number = place in tensors */
    uint64_t header_size; /* N */
    uint32_t header_crc;  /* of the 8 + N bytes */
    const char *format;   /* __metadata__.format, or NULL; in the arena */
} ccq_st;

/* Reads and checks the header of an open file (docs/format.md has the order of
 * checks). Shapes and the header itself, whose names stay where they are, go into the
 * arena; shard is set in every tensor. After a failure there is nothing to free. */
ccq_code ccq_st_read(ccq_st *st, const ccq_file *file, uint32_t shard, ccq_arena *arena,
                     ccq_error *err);
/* What the caller did not take (and set to 0). */
void ccq_st_free(ccq_st *st);

/* Its second half: while the header is read, offset and bytes of a tensor hold
 * begin and end. Order, holes, overlaps and sizes are checked; then offset is
 * absolute and bytes a length. */
ccq_code ccq_st_check_layout(ccq_st *st, const ccq_file *file, ccq_error *err);

#define CCQ_MAX_HEADER UINT64_C(100000000)
#define CCQ_MAX_TENSORS 1000000
#define CCQ_MAX_NAME 4096
#define CCQ_MAX_NUMBERS 4000000

/* ---- model.safetensors.index.json -------------------------------------------- */
typedef struct ccq_index {
    ccq_names names;  /* tensors, in file order */
    ccq_names shards; /* file names, in order of first use */
    uint32_t *shard;  /* by tensor; malloc'd */
    uint64_t total_size;
    int has_total_size;
} ccq_index;

/* Grammar, limits, shard names that are plain file names. The text of names
 * goes into the arena. Free with ccq_index_free in any case. */
ccq_code ccq_index_read(ccq_index *index, const char *path, ccq_arena *arena, ccq_error *err);
void ccq_index_free(ccq_index *index);
/* Is this a plain file name: not empty, no '/', no NUL, not "." or ".."? */
int ccq_name_is_plain(const char *name, size_t len);

/* ---- config.json ---------------------------------------------------------------- */
#define CCQ_MAX_CONFIG ((size_t)1 << 20)

/* A top-level member: key text, and the byte ranges of key and value. */
typedef struct ccq_member {
    char *key; /* in the config's arena */
    size_t key_begin, key_end, begin, end;
} ccq_member;

struct cJSON;
struct ccq_config {
    ccq_arena arena;
    char *text; /* with a NUL behind size bytes */
    size_t size;
    char *name;
    struct cJSON *tree;
    ccq_member *members; /* in file order */
    size_t count, cap;
    size_t open, close; /* the outer { and } */
};

/* ---- Output helpers of stage.c ----------------------------------------------- */
/* Everything from offset, in loops; NO_SPACE, or IO. */
ccq_code ccq_pwrite_all(int fd, const char *path, uint64_t offset, const void *data, uint64_t size,
                        ccq_error *err);
ccq_code ccq_sync_dir(const char *path, ccq_error *err);
/* May what OUT holds be replaced? EXISTS when not: it is not empty and overwrite is 0, or
 * there is no checkpoint in it, or a rank directory with other files. working: our own
 * work directory in it does not count. */
ccq_code ccq_old_check(const char *out, int overwrite, int working, ccq_error *err);
/* Removes config.json first (from then on nothing opens the directory), then the other
 * files of the old checkpoint and its rank directories. */
ccq_code ccq_old_clear(const char *out, ccq_error *err);
/* One file; not being there is fine. */
ccq_code ccq_old_remove(const char *out, const char *name, ccq_error *err);

#endif
