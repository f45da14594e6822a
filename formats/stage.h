/* Output directories: whole, resumable, or absent.
 *
 * All work happens in OUT/.ccq: plan.json (what makes this job this one), stage/ (files
 * under their final names), journal.R-of-W and lock.R-of-W a process, done.SHARD. Commit
 * renames into place, config.json last, so a loader sees the old directory, an unfinished
 * one that it cannot open, or the whole new one. A process may end anywhere: what lies in
 * OUT and OUT/.ccq afterwards can be continued, and ends in the same bytes.
 *
 * One thread drives a stage; ccq_out_write may be called from many. */
#ifndef CCQ_FORMATS_STAGE_H
#define CCQ_FORMATS_STAGE_H

#include "formats/types.h"

typedef struct ccq_stage ccq_stage;
typedef struct ccq_out ccq_out;

typedef struct ccq_stage_options {
    int overwrite;     /* 1: what OUT holds may be a checkpoint or an unfinished job: it goes */
    int resume;        /* 1: OUT holds an unfinished job, which goes on */
    int finalize;      /* 1: only its commit is left */
    int no_sync;       /* 1: no fsync anywhere (tests) */
    int rank, world;   /* this process of so many; 0 of 0 is 0 of 1 */
    const char *plan;  /* text of plan.json; NULL: "{}" */
    size_t plan_size;
    void (*warn)(void *ctx, const char *text); /* NULL: silence */
    void *ctx;
} ccq_stage_options;

enum {
    CCQ_STAGE_NEW,       /* nothing has been done */
    CCQ_STAGE_CONTINUED, /* there may be journals and staged files */
    CCQ_STAGE_FINISHED   /* resume or finalize of what is in place: only debris is left */
};

/* Would ccq_stage_open take it? The same codes, without creating anything. */
ccq_code ccq_stage_check(const char *out_dir, const ccq_stage_options *options, ccq_error *err);
/* options NULL: all zero. Creates OUT (not its parents: CREATE names the missing one) and
 * OUT/.ccq with an own lock, journal and the plan, or joins what is there. EXISTS: an OUT
 * that is not empty, unless overwrite and it holds a checkpoint or an unfinished one;
 * resume without a journal. CREATE: another process is at work. CHANGED: the plan of the
 * unfinished job differs, naming the first field ("overwrite" and "mtime" may).
 * INTERRUPTED: finalize, and there is nothing. */
ccq_code ccq_stage_open(ccq_stage **stage, const char *out_dir, const ccq_stage_options *options,
                        ccq_error *err);
int ccq_stage_state(const ccq_stage *stage); /* CCQ_STAGE_* */
/* 1: "mtime" somewhere in the plan is not what the unfinished job had. */
int ccq_stage_moved(const ccq_stage *stage);
/* 1 of a FINISHED one: its plan.json was still there, and was compared. */
int ccq_stage_planned(const ccq_stage *stage);
const char *ccq_stage_work(const ccq_stage *stage); /* OUT/.ccq */
/* Name of this process's journal in it. */
const char *ccq_stage_journal(const ccq_stage *stage);
/* Bytes on disk of what an unfinished job in OUT has staged so far. */
uint64_t ccq_stage_held(const char *out_dir);

/* ---- Files ------------------------------------------------------------------------ */

/* A staged file of exactly size bytes (fallocate where the file system can). name is a
 * plain file name, or "rankN/" and one: the directory is made and committed with it. */
ccq_code ccq_stage_create(ccq_stage *stage, const char *name, uint64_t size, ccq_out **out,
                          ccq_error *err);
/* The same, but one that is there is opened with what it holds; have bytes of it need not
 * be written again. */
ccq_code ccq_stage_shard(ccq_stage *stage, const char *name, uint64_t size, uint64_t have,
                         ccq_out **out, ccq_error *err);
/* A file of size bytes that an earlier run has finished, staged or already in place, takes
 * part in the commit. CHANGED when it is not there or not so long. */
ccq_code ccq_stage_adopt(ccq_stage *stage, const char *name, uint64_t size, ccq_error *err);
/* Bytes of a staged file, or of one that a broken commit has put into place. */
ccq_code ccq_stage_read(const ccq_stage *stage, const char *name, uint64_t offset, void *dst,
                        uint64_t size, ccq_error *err);
ccq_code ccq_out_write(ccq_out *out, uint64_t offset, const void *data, uint64_t size,
                       ccq_error *err);
/* What has been written is on disk. */
ccq_code ccq_out_sync(ccq_out *out, ccq_error *err);
/* fsync and close, both checked; BUG when fewer than size bytes were written. Frees
 * out in any case. Every out is closed before its stage is committed or abandoned. */
ccq_code ccq_out_close(ccq_out *out, ccq_error *err);
/* Closes one that is not finished. NULL is fine. */
void ccq_out_drop(ccq_out *out);
/* A whole small file: create, write, fsync, close. */
ccq_code ccq_stage_put(ccq_stage *stage, const char *name, const void *data, size_t size,
                       ccq_error *err);
/* The same from an existing file; crc (NULL allowed) gets the CRC-32 of its bytes. */
ccq_code ccq_stage_copy(ccq_stage *stage, const char *from_path, const char *name, uint32_t *crc,
                        ccq_error *err);

/* ---- Shards of several processes ---------------------------------------------------- */

/* OUT/.ccq/done.NAME, after the file is on disk; and: is it there? */
ccq_code ccq_stage_mark_done(ccq_stage *stage, const char *name, ccq_error *err);
int ccq_stage_is_done(const ccq_stage *stage, const char *name);

/* ---- The end ------------------------------------------------------------------------ */

/* With overwrite: commit also removes this file of the old checkpoint (a plain
 * file name; one that is not there is fine, one that is staged is replaced). */
ccq_code ccq_stage_forget(ccq_stage *stage, const char *name, ccq_error *err);
/* Under lock.commit. With overwrite: removes the old config.json first, then the other
 * files of the old checkpoint, its rank directories included. Then renames everything
 * staged in the order it was created, config.json last, syncs the directory and removes
 * .ccq. Frees the stage when OK; on failure, which is IO or NO_SPACE (CREATE: another one
 * commits), ccq_stage_leave is called. */
ccq_code ccq_stage_commit(ccq_stage *stage, ccq_error *err);
/* Leaves OUT/.ccq for resume. Frees the stage. NULL is fine. */
void ccq_stage_leave(ccq_stage *stage);
/* Removes what this process created, OUT too if it made it; what an earlier one left, or
 * another one needs, stays; so does all of it once a commit has begun. Frees the stage. NULL
 * is fine. */
void ccq_stage_abandon(ccq_stage *stage);

#endif
