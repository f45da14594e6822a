/* What lies in OUT before a job begins, and whether it may begin there. */
#include "formats/stage_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int ccq_is_there(const char *dir, const char *name)
{
    char *path = ccq_path_join(dir, name);
    int is = path && ccq_path_exists(path);
    free(path);
    return is;
}

/* Journals in OUT/.ccq: how many, and how many of another number of processes. */
static ccq_code count_journals(const char *work, int world, size_t *found, size_t *foreign,
                               ccq_error *err)
{
    char **names = NULL, end[24];
    size_t count = 0;
    *found = *foreign = 0;
    ccq_code code = ccq_own_list(work, &names, &count, CCQ_IO, err);
    snprintf(end, sizeof end, "-of-%d", world);
    for (size_t i = 0; i < count; i++) {
        if (strncmp(names[i], "journal.", 8) != 0)
            continue;
        size_t n = strlen(names[i]), m = strlen(end);
        ++*found;
        *foreign += n < m || strcmp(names[i] + n - m, end) != 0;
    }
    ccq_names_free(names, count);
    return code;
}

static ccq_code check_absent(const char *out, const ccq_stage_options *o, ccq_error *err)
{
    struct stat st;
    char *parent = ccq_path_parent(out);
    ccq_code code = parent ? CCQ_OK : ccq_stage_no_memory(err);
    if (!code && (stat(parent, &st) != 0 || !S_ISDIR(st.st_mode)))
        code = ccq_fail_file(err, CCQ_CREATE, parent,
                             "no such directory (parents of the output are not created)");
    else if (!code && o->resume)
        code = ccq_fail_file(err, CCQ_EXISTS, out,
                             "there is no unfinished job to resume: start it without --resume");
    else if (!code && o->finalize)
        code = ccq_fail_file(err, CCQ_INTERRUPTED, out, "no process has begun: nothing to commit");
    free(parent);
    return code;
}

/* Of a directory without OUT/.ccq. */
static ccq_code check_without(const char *out, const ccq_stage_options *o, ccq_found *f,
                              ccq_error *err)
{
    const char *what = ccq_is_there(out, "config.json") ? "holds a checkpoint, no unfinished job"
                                                        : "there is no unfinished job";
    if (o->resume)
        return ccq_fail_file(err, CCQ_EXISTS, out,
                             "%s to resume: start it without --resume (--overwrite replaces what "
                             "is there)", what);
    if (o->finalize && !ccq_is_there(out, "config.json"))
        return ccq_fail_file(err, CCQ_INTERRUPTED, out, "no process has begun: nothing to commit");
    *f = o->finalize ? CCQ_FOUND_FINISHED : CCQ_FOUND_EMPTY;
    return o->finalize ? CCQ_OK : ccq_old_check(out, o->overwrite, 0, err);
}

/* Everything is in place, and .ccq was being removed: config.json comes after the marker,
 * and the marker goes last. */
static int is_finished(const char *out, const char *work, int overwrite)
{
    char **names = NULL;
    size_t count = 0;
    if (!ccq_is_there(out, "config.json") || ccq_dir_list(work, &names, &count, NULL))
        return 0;
    ccq_names_free(names, count);
    return ccq_is_there(work, "commit") || (!count && !overwrite);
}

static ccq_code leftover(const char *out, const char *what, ccq_error *err)
{
    return ccq_fail_file(err, CCQ_EXISTS, out,
                         "%s: --resume goes on with it, --overwrite begins anew", what);
}

static ccq_code without_journal(const char *out, ccq_error *err)
{
    return ccq_fail_file(err, CCQ_EXISTS, out,
                         "holds an unfinished job without its journal, which cannot go on: start "
                         "it with --overwrite, or remove the .ccq in it and start it anew");
}

/* Of one with it. */
static ccq_code check_with(const char *out, const char *work, const ccq_stage_options *o,
                           ccq_found *f, ccq_error *err)
{
    int world = o->world > 1 ? o->world : 1;
    size_t foreign, journals;
    int planned = ccq_is_there(work, "plan.json"), shared = world > 1 || o->finalize;
    ccq_code code = count_journals(work, world, &journals, &foreign, err);
    if (code)
        return code;
    *f = CCQ_FOUND_FINISHED;
    if ((o->resume || o->finalize) && is_finished(out, work, o->overwrite))
        return CCQ_OK;
    if (!planned && o->finalize)
        return ccq_fail_file(err, CCQ_INTERRUPTED, out, "no process has begun: nothing to commit");
    if (!o->resume && !o->finalize && !o->overwrite && ccq_is_there(out, "config.json"))
        return ccq_old_check(out, 0, 1, err); /* no process takes a checkpoint apart unasked */
    *f = CCQ_FOUND_CONTINUE;
    if (planned && (o->resume || o->finalize))
        return journals ? CCQ_OK : without_journal(out, err);
    *f = CCQ_FOUND_JOIN;
    if (shared && !foreign && (planned || !o->resume))
        return planned ? CCQ_OK : ccq_old_check(out, o->overwrite, 1, err);
    *f = CCQ_FOUND_ANEW;
    if (o->resume && !planned) /* it ended before anything was done */
        return ccq_old_check(out, o->overwrite, 1, err);
    if (shared)
        return leftover(out, "holds an unfinished job of another number of processes", err);
    return ccq_old_check(out, o->overwrite, 0, err);
}

ccq_code ccq_stage_look(const char *out, const ccq_stage_options *o, ccq_found *f,
                        ccq_error *err)
{
    struct stat st;
    *f = CCQ_FOUND_ABSENT;
    if (lstat(out, &st) != 0 && (errno == ENOENT || errno == ENOTDIR))
        return check_absent(out, o, err);
    if (stat(out, &st) != 0 || !S_ISDIR(st.st_mode))
        return ccq_fail_file(err, CCQ_EXISTS, out, "exists and is not a directory");
    char *work = ccq_path_join(out, CCQ_WORK), *inner = work ? ccq_path_join(work, "stage") : NULL;
    ccq_code code = inner ? ccq_stage_real(work, err) : ccq_stage_no_memory(err);
    if (!code)
        code = ccq_stage_real(inner, err);
    if (!code)
        code = ccq_path_exists(work) ? check_with(out, work, o, f, err)
                                     : check_without(out, o, f, err);
    free(inner);
    free(work);
    return code;
}

ccq_code ccq_stage_check(const char *out_dir, const ccq_stage_options *options, ccq_error *err)
{
    ccq_found f;
    ccq_code code = ccq_stage_look(out_dir, options, &f, err);
    int working = f == CCQ_FOUND_ANEW || f == CCQ_FOUND_CONTINUE || f == CCQ_FOUND_JOIN;
    return code || !working ? code : ccq_stage_unlocked(out_dir, options, err);
}

/* Bytes on disk of the files in a directory, and in the rank directories inside it. */
static uint64_t disk_bytes(const char *dir, int depth)
{
    char **names = NULL;
    size_t count = 0;
    uint64_t sum = 0;
    struct stat st;
    if (ccq_dir_list(dir, &names, &count, NULL))
        return 0;
    for (size_t i = 0; i < count; i++) {
        char *path = ccq_path_join(dir, names[i]);
        if (path && lstat(path, &st) == 0 && S_ISREG(st.st_mode))
            sum += (uint64_t)st.st_blocks * 512;
        else if (path && !depth && strncmp(names[i], "rank", 4) == 0)
            sum += disk_bytes(path, 1);
        free(path);
    }
    ccq_names_free(names, count);
    return sum;
}

uint64_t ccq_stage_held(const char *out_dir)
{
    char *work = ccq_path_join(out_dir, CCQ_WORK);
    char *stage = work ? ccq_path_join(work, "stage") : NULL;
    uint64_t held = stage ? disk_bytes(stage, 0) : 0;
    if (stage && ccq_is_there(work, "commit"))
        held += disk_bytes(out_dir, 0);
    free(stage);
    free(work);
    return held;
}
