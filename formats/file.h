/* Files: checked reads, and output that is whole or absent. The only file of
 * formats/ that opens anything.
 *
 * Reads: any number of threads may call ccq_file_read on one file. */
#ifndef CCQ_FORMATS_FILE_H
#define CCQ_FORMATS_FILE_H

#include "formats/types.h"

typedef struct ccq_file {
    int fd;
    char *path;      /* as given, for messages */
    uint64_t size;   /* bytes, at open */
    int64_t mtime_s; /* at open */
    long mtime_ns;
} ccq_file;

/* Opens for reading; symlinks are followed when they end at a regular file.
 * missing is the code for a file that does not exist (NO_INPUT, NO_SHARD,
 * NO_CONFIG ...); other failures are NOT_A_FILE or NO_INPUT. */
ccq_code ccq_file_open(ccq_file *file, const char *path, ccq_code missing, ccq_error *err);
/* Safe on a zeroed struct. */
void ccq_file_close(ccq_file *file);
/* Exactly size bytes from offset. A short read is CHANGED, a failing one IO. */
ccq_code ccq_file_read(const ccq_file *file, uint64_t offset, void *dst, uint64_t size,
                       ccq_error *err);
/* CHANGED when size or mtime are no longer those of open. */
ccq_code ccq_file_recheck(const ccq_file *file, ccq_error *err);

/* A whole small file, with a NUL added behind its size bytes. The caller frees
 * *data. LIMIT when larger than max. */
ccq_code ccq_file_load(const char *path, uint64_t max, ccq_code missing, char **data,
                       size_t *size, ccq_error *err);

/* Is path there at all (any kind)? */
int ccq_path_exists(const char *path);
/* 1 when a is b or lies inside it (by device and inode, so links do not hide
 * it); missing parts of a are looked through to the nearest parent. */
int ccq_path_inside(const char *a, const char *b);
/* Names in a directory, sorted by bytes, "." and ".." left out. Free with
 * ccq_names_free. */
ccq_code ccq_dir_list(const char *dir, char ***names, size_t *count, ccq_error *err);
void ccq_names_free(char **names, size_t count);
/* dir + "/" + name, malloc'd; NULL when out of memory. */
char *ccq_path_join(const char *dir, const char *name);
/* Free bytes of the file system that holds path or its nearest existing parent. */
ccq_code ccq_path_free_bytes(const char *path, uint64_t *bytes, ccq_error *err);

/* One file that appears whole: a new file under a name of its own beside path; *tmp is
 * malloc'd. path must be absent or a regular file (CREATE). */
ccq_code ccq_temp_open(const char *path, char **tmp, int *fd, ccq_error *err);
/* fsync, close (fd is gone in any case), rename to path, sync its directory. On failure
 * the caller removes tmp. */
ccq_code ccq_temp_commit(const char *path, const char *tmp, int fd, ccq_error *err);

/* ---- Output ---------------------------------------------------------------
 * All work happens in OUT/.ccq/stage. Commit renames into place, config.json
 * last, so a loader sees the old directory, an unfinished one that it cannot
 * open, or the whole new one. One thread drives a stage; ccq_out_write may be
 * called from many threads. */
typedef struct ccq_stage ccq_stage;
typedef struct ccq_out ccq_out;

/* Creates OUT (not its parents: CREATE names the missing one) and OUT/.ccq.
 * An OUT that is not empty is EXISTS, unless overwrite and it holds a
 * checkpoint (a config.json) or an unfinished one (.ccq or safetensors). */
ccq_code ccq_stage_open(ccq_stage **stage, const char *out_dir, int overwrite, ccq_error *err);
/* A staged file of exactly size bytes (fallocate where the file system can). name is a
 * plain file name, or "rankN/" and one: the directory is made and committed with it. */
ccq_code ccq_stage_create(ccq_stage *stage, const char *name, uint64_t size, ccq_out **out,
                          ccq_error *err);
ccq_code ccq_out_write(ccq_out *out, uint64_t offset, const void *data, uint64_t size,
                       ccq_error *err);
/* fsync and close, both checked; BUG when fewer than size bytes were written. Frees
 * out in any case. Every out is closed before its stage is committed or abandoned. */
ccq_code ccq_out_close(ccq_out *out, ccq_error *err);
/* A whole small file: create, write, fsync, close. */
ccq_code ccq_stage_put(ccq_stage *stage, const char *name, const void *data, size_t size,
                       ccq_error *err);
/* The same from an existing file; crc (NULL allowed) gets the CRC-32 of its bytes. */
ccq_code ccq_stage_copy(ccq_stage *stage, const char *from_path, const char *name, uint32_t *crc,
                        ccq_error *err);
/* With overwrite: commit also removes this file of the old checkpoint (a plain
 * file name; one that is not there is fine, one that is staged is replaced). */
ccq_code ccq_stage_forget(ccq_stage *stage, const char *name, ccq_error *err);
/* With overwrite: removes the old config.json first, then the other files of
 * the old checkpoint, its rank directories included. Then renames everything
 * staged in the order it was created, config.json last, syncs the directory and
 * removes .ccq. Frees the stage when OK; on failure call ccq_stage_abandon. */
ccq_code ccq_stage_commit(ccq_stage *stage, ccq_error *err);
/* Removes what the stage created, OUT too if it made it. Frees the stage. NULL is fine. */
void ccq_stage_abandon(ccq_stage *stage);

#endif
