/* A file that one process holds at a time. The kernel gives it back when the process
 * ends, however it ends: there are no stale locks. */
#ifndef CCQ_FORMATS_LOCK_H
#define CCQ_FORMATS_LOCK_H

#include "formats/types.h"

typedef struct ccq_lock {
    int fd;    /* -1: not taken */
    int works; /* 0: this file system has no flock; nothing keeps others away */
} ccq_lock;

/* Creates the file where it is missing and writes "host pid" into it. CREATE when
 * somebody else holds it, and who; what: what they are doing ("writes to OUT"). */
ccq_code ccq_lock_take(ccq_lock *lock, const char *path, const char *what, ccq_error *err);
/* Is it held by somebody else? A lock of this process counts as such. */
int ccq_lock_held(const char *path);
/* The same with the words of ccq_lock_take: CREATE. */
ccq_code ccq_lock_look(const char *path, const char *what, ccq_error *err);
/* The file stays. Safe when not taken. */
void ccq_lock_drop(ccq_lock *lock);

#endif
