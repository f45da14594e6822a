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
 * NO_CONFIG ...; CHANGED or IO for one that ccq itself has made); other failures are
 * NOT_A_FILE, NO_INPUT (IO for one that ccq has made), NO_MEMORY, and IO where the file is
 * not to blame (the disk; too many open files). */
ccq_code ccq_file_open(ccq_file *file, const char *path, ccq_code missing, ccq_error *err);
/* Safe on a zeroed struct. */
void ccq_file_close(ccq_file *file);
/* Exactly size bytes from offset. A short read is CHANGED, a failing one IO. */
ccq_code ccq_file_read(const ccq_file *file, uint64_t offset, void *dst, uint64_t size,
                       ccq_error *err);
/* CHANGED when size or mtime are no longer those of open. */
ccq_code ccq_file_recheck(const ccq_file *file, ccq_error *err);

/* A file's length and time, to ask later whether it is still that; links are followed. */
typedef struct ccq_stamp {
    uint64_t size;
    int64_t mtime_s;
    long mtime_ns;
} ccq_stamp;

/* 0: it is there. */
int ccq_stamp_take(ccq_stamp *stamp, const char *path);
/* CHANGED, with what has, unless it is still that. */
ccq_code ccq_stamp_check(const ccq_stamp *stamp, const char *path, ccq_error *err);

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
/* The same, and a link to a directory is not followed. */
ccq_code ccq_real_list(const char *dir, char ***names, size_t *count, ccq_error *err);
/* The same of a directory of the output: failing with code where that says NO_INPUT. */
ccq_code ccq_own_list(const char *dir, char ***names, size_t *count, ccq_code code,
                      ccq_error *err);
/* dir + "/" + name, malloc'd; NULL when out of memory. */
char *ccq_path_join(const char *dir, const char *name);
/* The directory part of a path ("." when it has none), malloc'd; NULL when out of memory. */
char *ccq_path_parent(const char *path);
/* Free bytes of the file system that holds path or its nearest existing parent. */
ccq_code ccq_path_free_bytes(const char *path, uint64_t *bytes, ccq_error *err);

/* One file that appears whole: a new file under a name of its own beside path; *tmp is
 * malloc'd. path must be absent or a regular file (CREATE). */
ccq_code ccq_temp_open(const char *path, char **tmp, int *fd, ccq_error *err);
/* fsync, close (fd is gone in any case), rename to path, sync its directory. On failure
 * the caller removes tmp. */
ccq_code ccq_temp_commit(const char *path, const char *tmp, int fd, ccq_error *err);

#endif
