/* Inside the stage: what its files share. */
#ifndef CCQ_FORMATS_STAGE_INTERNAL_H
#define CCQ_FORMATS_STAGE_INTERNAL_H

#include "formats/internal.h"
#include "formats/lock.h"
#include "formats/stage.h"

#define CCQ_WORK ".ccq"

typedef struct ccq_staged {
    char *name;
    int shard;   /* kept for resume */
    int closed;  /* synced and whole */
    int renamed; /* in place */
} ccq_staged;

struct ccq_stage {
    char *out, *work, *stage; /* OUT, OUT/.ccq, OUT/.ccq/stage */
    char journal[48];
    int state, moved;
    int made_out, made_work; /* by this process */
    int fresh;               /* this process had no journal here yet */
    int overwrite, sync, rank, world, finalize;
    int unreserved; /* the file system has no fallocate: has been told */
    void (*warn)(void *ctx, const char *text);
    void *ctx;
    int planned;    /* of a finished one: its plan is still there, and has been compared */
    int committing; /* OUT/.ccq/commit is there: what lies in OUT under our names is ours */
    ccq_lock lock, commit_lock;
    ccq_staged *entries; /* in order of creation */
    size_t count, cap;
    char **forgotten; /* files of the old checkpoint that go with it */
    size_t forgets;
};

/* Of OUT: not there, may be written to, holds an unfinished job to begin anew, to go on
 * with, or to take part in; one whose commit is through. */
typedef enum ccq_found {
    CCQ_FOUND_ABSENT,
    CCQ_FOUND_EMPTY,
    CCQ_FOUND_ANEW,
    CCQ_FOUND_CONTINUE,
    CCQ_FOUND_JOIN,
    CCQ_FOUND_FINISHED
} ccq_found;

/* stage_look.c */
ccq_code ccq_stage_look(const char *out, const ccq_stage_options *o, ccq_found *f,
                        ccq_error *err);
int ccq_is_there(const char *dir, const char *name);
/* CREATE when ccq_stage_open would meet a lock in OUT/.ccq. */
ccq_code ccq_stage_unlocked(const char *out, const ccq_stage_options *o, ccq_error *err);

ccq_code ccq_stage_no_memory(ccq_error *err);
/* Length of the "rankN" in "rankN/NAME" when NAME is a plain file name; else 0. */
size_t ccq_stage_rank_part(const char *name);
/* The directory of a staged name inside base: base itself, or its rank directory. NULL:
 * out of memory. */
char *ccq_stage_directory(const char *base, const char *name);
/* CREATE when a link or a file lies where a directory of ours is to be. */
ccq_code ccq_stage_real(const char *path, ccq_error *err);
/* Makes such a directory (*made), or finds it. */
ccq_code ccq_stage_mkdir(const char *path, int *made, ccq_error *err);
/* Creates it where it is a rank directory. */
ccq_code ccq_stage_make_directory(const char *base, const char *name, ccq_error *err);
/* The path of a name in OUT/.ccq; NULL: out of memory. */
char *ccq_stage_path(const ccq_stage *s, const char *name);
/* An empty file in OUT/.ccq, synced. */
ccq_code ccq_stage_touch(const ccq_stage *s, const char *name, ccq_error *err);
ccq_code ccq_stage_sync_dir(const ccq_stage *s, const char *path, ccq_error *err);
void ccq_stage_free(ccq_stage *s);
/* Removes a directory and what is in it, except the file called keep (NULL: nothing). */
void ccq_remove_tree(const char *path, const char *keep);

#endif
