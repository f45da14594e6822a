/* OUT/.ccq at the beginning: made or continued, locked, and of the same job. */
#include "formats/identity.h"
#include "formats/stage_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_PLAN = 64 << 20 };

/* Values of plan.json that are no part of what the job is. */
static const char *const loose[] = {"mtime", "overwrite", NULL};

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *where)
{
    (void)st, (void)kind, (void)where;
    remove(path);
    return 0;
}

void ccq_remove_tree(const char *path, const char *keep)
{
    char **names = NULL;
    size_t count = 0;
    if (!keep) {
        nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
        return;
    }
    if (ccq_real_list(path, &names, &count, NULL))
        return;
    for (size_t i = 0; i < count; i++) {
        char *inner = strcmp(names[i], keep) ? ccq_path_join(path, names[i]) : NULL;
        if (inner)
            ccq_remove_tree(inner, NULL);
        free(inner);
    }
    ccq_names_free(names, count);
}

char *ccq_stage_path(const ccq_stage *s, const char *name)
{
    return ccq_path_join(s->work, name);
}

ccq_code ccq_stage_sync_dir(const ccq_stage *s, const char *path, ccq_error *err)
{
    return s->sync ? ccq_sync_dir(path, err) : CCQ_OK;
}

ccq_code ccq_stage_touch(const ccq_stage *s, const char *name, ccq_error *err)
{
    char *path = ccq_stage_path(s, name);
    ccq_code code = path ? CCQ_OK : ccq_stage_no_memory(err);
    int fd = path ? open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666) : -1;
    if (path && (fd < 0 || (s->sync && fsync(fd) != 0)))
        code = ccq_fail_errno(err, CCQ_IO, path, "cannot create", errno);
    if (fd >= 0)
        close(fd);
    free(path);
    return code ? code : ccq_stage_sync_dir(s, s->work, err);
}

/* ---- Locks ------------------------------------------------------------------------- */

/* 1 for a lock that must be free while this process writes: those of ranks of another
 * number, and the commit. */
static int excludes(const ccq_stage *s, const char *name, const char *own)
{
    char end[24];
    size_t n = strlen(name), m = (size_t)snprintf(end, sizeof end, "-of-%d", s->world);
    if (strncmp(name, "lock.", 5) != 0 || strcmp(name, own) == 0)
        return 0;
    return n < m || strcmp(name + n - m, end) != 0;
}

static ccq_code check_others(const ccq_stage *s, const char *own, ccq_error *err)
{
    char **names = NULL;
    size_t count = 0;
    ccq_code code = ccq_own_list(s->work, &names, &count, CCQ_IO, err);
    for (size_t i = 0; i < count && !code; i++) {
        char *path = excludes(s, names[i], own) ? ccq_stage_path(s, names[i]) : NULL;
        if (path && ccq_lock_held(path))
            code = ccq_fail_file(err, CCQ_CREATE, s->out, "another ccq is at work in it (%s)",
                                 names[i]);
        free(path);
    }
    ccq_names_free(names, count);
    return code;
}

static void own_lock(const ccq_stage *s, char name[48])
{
    if (s->finalize)
        snprintf(name, 48, "lock.commit");
    else
        snprintf(name, 48, "lock.%d-of-%d", s->rank, s->world);
}

ccq_code ccq_stage_unlocked(const char *out, const ccq_stage_options *o, ccq_error *err)
{
    char name[48];
    ccq_stage s = {.out = strdup(out), .work = ccq_path_join(out, CCQ_WORK),
                   .world = o->world > 1 ? o->world : 1, .rank = o->world > 1 ? o->rank : 0,
                   .finalize = o->finalize};
    own_lock(&s, name);
    char *path = s.work ? ccq_stage_path(&s, name) : NULL;
    ccq_code code = s.out && path ? CCQ_OK : ccq_stage_no_memory(err);
    if (!code)
        code = ccq_lock_look(path, "is writing here", err);
    if (!code && !s.finalize)
        code = check_others(&s, name, err);
    free(path);
    free(s.work);
    free(s.out);
    return code;
}

static ccq_code take_lock(ccq_stage *s, const ccq_stage_options *o, ccq_error *err)
{
    char name[48];
    own_lock(s, name);
    char *path = ccq_stage_path(s, name);
    ccq_code code = path ? ccq_lock_take(&s->lock, path, "is writing here", err)
                         : ccq_stage_no_memory(err);
    if (!code && !s->finalize)
        code = check_others(s, name, err);
    if (!code && !s->lock.works && o->warn)
        o->warn(o->ctx, "files cannot be locked in the output's file system: nothing keeps a "
                        "second ccq away");
    free(path);
    return code;
}

/* ---- plan.json ----------------------------------------------------------------------- */

/* Compares the plan that is there with ours; takes overwrite over from it. */
static ccq_code compare_plan(ccq_stage *s, const char *path, const ccq_stage_options *o,
                             ccq_error *err)
{
    ccq_identity *was = NULL, *now = NULL;
    char *text = NULL;
    size_t size = 0;
    ccq_code code = ccq_file_load(path, MAX_PLAN, CCQ_CHANGED, &text, &size, err);
    if (!code)
        code = ccq_identity_new(&was, text, size, path, err);
    if (!code)
        code = ccq_identity_new(&now, o->plan, o->plan_size, path, err);
    if (!code)
        code = ccq_identity_compare(was, now, loose, path, &s->moved, err);
    const char *overwrite = was ? ccq_identity_value(was, "overwrite") : NULL;
    s->overwrite |= overwrite && strcmp(overwrite, "true") == 0;
    ccq_identity_free(was);
    ccq_identity_free(now);
    free(text);
    return code;
}

static ccq_code write_file(const ccq_stage *s, const char *path, const ccq_stage_options *o,
                           ccq_error *err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (fd < 0)
        return ccq_fail_errno(err, CCQ_CREATE, path, "cannot create", errno);
    ccq_code code = ccq_pwrite_all(fd, path, 0, o->plan, o->plan_size, err);
    if (!code && s->sync && fsync(fd) != 0)
        code = ccq_fail_errno(err, CCQ_IO, path, "fsync failed", errno);
    if (close(fd) != 0 && !code)
        code = ccq_fail_errno(err, CCQ_IO, path, "close failed", errno);
    return code;
}

/* Whole or absent, and only where there is none: two processes may begin at once. */
static ccq_code write_plan(ccq_stage *s, const char *path, const ccq_stage_options *o,
                           ccq_error *err)
{
    char name[48];
    snprintf(name, sizeof name, "plan.%d-of-%d", s->rank, s->world);
    char *tmp = ccq_stage_path(s, name);
    ccq_code code = tmp ? write_file(s, tmp, o, err) : ccq_stage_no_memory(err);
    if (!code && link(tmp, path) != 0 && errno != EEXIST && rename(tmp, path) != 0)
        code = ccq_fail_errno(err, CCQ_CREATE, path, "cannot create", errno);
    if (tmp)
        unlink(tmp);
    free(tmp);
    return code ? code : ccq_stage_sync_dir(s, s->work, err);
}

static ccq_code settle_plan(ccq_stage *s, const ccq_stage_options *o, ccq_error *err)
{
    char *path = ccq_stage_path(s, "plan.json");
    ccq_code code = path ? CCQ_OK : ccq_stage_no_memory(err);
    if (!code && !ccq_path_exists(path))
        code = write_plan(s, path, o, err);
    if (!code)
        code = compare_plan(s, path, o, err);
    free(path);
    return code;
}

/* ---- Opening --------------------------------------------------------------------------- */

static ccq_code make_out(ccq_stage *s, ccq_error *err)
{
    s->made_out = mkdir(s->out, 0777) == 0;
    if (!s->made_out && errno != EEXIST)
        return ccq_fail_errno(err, CCQ_CREATE, s->out, "cannot create", errno);
    return CCQ_OK;
}

/* In the order that a reader after a crash relies on: the journal is there before the
 * plan, and the plan before anything is staged. */
static ccq_code furnish(ccq_stage *s, const ccq_stage_options *o, ccq_error *err)
{
    ccq_code code = CCQ_OK;
    int made;
    s->fresh = !ccq_is_there(s->work, s->journal);
    if (!s->finalize)
        code = ccq_stage_touch(s, s->journal, err);
    if (!code && s->made_out)
        code = ccq_stage_touch(s, "made-out", err);
    if (!code)
        code = settle_plan(s, o, err);
    if (!code)
        code = ccq_stage_mkdir(s->stage, &made, err);
    if (!code)
        code = ccq_stage_sync_dir(s, s->work, err);
    if (!code)
        code = ccq_stage_sync_dir(s, s->out, err);
    char *parent = s->made_out && !code ? ccq_path_parent(s->out) : NULL;
    if (parent)
        code = ccq_stage_sync_dir(s, parent, err);
    free(parent);
    return code;
}

/* Everything that an unfinished job has left, its record first. */
static void begin_anew(ccq_stage *s)
{
    char own[48];
    snprintf(own, sizeof own, "lock.%d-of-%d", s->rank, s->world);
    char *plan = ccq_stage_path(s, "plan.json");
    if (plan)
        unlink(plan);
    ccq_remove_tree(s->work, own);
    s->made_work = 1; /* ours from here */
    free(plan);
}

/* What is in place is that of our plan, as far as there is one left, and nobody else is about
 * to clear up behind it. */
static ccq_code check_finished(ccq_stage *s, const ccq_stage_options *o, ccq_error *err)
{
    char *plan = ccq_stage_path(s, "plan.json"), *lock = ccq_stage_path(s, "lock.commit");
    ccq_code code = plan && lock ? CCQ_OK : ccq_stage_no_memory(err);
    if (!code && ccq_lock_held(lock))
        code = ccq_fail_file(err, CCQ_CREATE, s->out, "another ccq is committing here");
    s->planned = !code && ccq_path_exists(plan);
    if (s->planned)
        code = compare_plan(s, plan, o, err);
    free(lock);
    free(plan);
    return code;
}

static ccq_code begin(ccq_stage *s, const ccq_stage_options *o, ccq_error *err)
{
    ccq_found found;
    ccq_code code = ccq_stage_look(s->out, o, &found, err);
    if (code)
        return code;
    s->state = found == CCQ_FOUND_FINISHED ? CCQ_STAGE_FINISHED
               : found == CCQ_FOUND_CONTINUE || found == CCQ_FOUND_JOIN ? CCQ_STAGE_CONTINUED
                                                                        : CCQ_STAGE_NEW;
    if (found == CCQ_FOUND_FINISHED)
        return check_finished(s, o, err);
    if (found == CCQ_FOUND_ABSENT)
        code = make_out(s, err);
    if (!code)
        code = ccq_stage_mkdir(s->work, &s->made_work, err);
    if (!code)
        code = take_lock(s, o, err);
    if (!code && s->state == CCQ_STAGE_NEW) /* once more, now that we are alone */
        code = ccq_old_check(s->out, s->overwrite, 1, err);
    if (!code && s->state == CCQ_STAGE_NEW && s->world == 1)
        begin_anew(s);
    if (s->world > 1) /* others may have been quicker */
        s->state = CCQ_STAGE_CONTINUED;
    if (!code)
        code = furnish(s, o, err);
    s->committing = ccq_is_there(s->work, "commit");
    if (!code && found == CCQ_FOUND_CONTINUE && !s->committing)
        code = ccq_old_check(s->out, s->overwrite, 1, err);
    return code;
}

ccq_code ccq_stage_open(ccq_stage **stage, const char *out_dir, const ccq_stage_options *options,
                        ccq_error *err)
{
    ccq_stage_options o = options ? *options : (ccq_stage_options){0};
    *stage = NULL;
    ccq_stage *s = calloc(1, sizeof *s);
    if (!s)
        return ccq_stage_no_memory(err);
    if (!o.plan) {
        o.plan = "{}";
        o.plan_size = 2;
    }
    s->lock.fd = s->commit_lock.fd = -1;
    s->overwrite = o.overwrite;
    s->finalize = o.finalize;
    s->sync = !o.no_sync;
    s->warn = o.warn;
    s->ctx = o.ctx;
    s->world = o.world > 1 ? o.world : 1;
    s->rank = o.world > 1 ? o.rank : 0;
    snprintf(s->journal, sizeof s->journal, "journal.%d-of-%d", s->rank, s->world);
    s->out = strdup(out_dir);
    s->work = ccq_path_join(out_dir, CCQ_WORK);
    s->stage = s->work ? ccq_path_join(s->work, "stage") : NULL;
    ccq_code code = s->out && s->stage ? begin(s, &o, err) : ccq_stage_no_memory(err);
    if (code)
        ccq_stage_abandon(s);
    else
        *stage = s;
    return code;
}
