/* The end of an output directory: put into place, left for later, or taken away. */
#include "formats/stage_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void ccq_stage_free(ccq_stage *s)
{
    ccq_lock_drop(&s->commit_lock);
    ccq_lock_drop(&s->lock);
    for (size_t i = 0; i < s->count; i++)
        free(s->entries[i].name);
    free(s->entries);
    ccq_names_free(s->forgotten, s->forgets);
    free(s->out);
    free(s->work);
    free(s->stage);
    free(s);
}

void ccq_stage_leave(ccq_stage *s)
{
    if (s)
        ccq_stage_free(s);
}

/* ---- Done markers --------------------------------------------------------------------- */

/* "done.NAME", with the rank of "rankN/NAME" in front of a dot; malloc'd. */
static char *done_name(const char *name)
{
    char *out = NULL;
    if (asprintf(&out, "done.%s", name) < 0)
        return NULL;
    char *slash = strchr(out, '/');
    if (slash)
        *slash = '.';
    return out;
}

ccq_code ccq_stage_mark_done(ccq_stage *s, const char *name, ccq_error *err)
{
    char *done = done_name(name);
    ccq_code code = done ? ccq_stage_touch(s, done, err) : ccq_stage_no_memory(err);
    free(done);
    return code;
}

int ccq_stage_is_done(const ccq_stage *s, const char *name)
{
    char *done = done_name(name);
    int is = done && ccq_is_there(s->work, done);
    free(done);
    return is;
}

/* ---- Taking away ---------------------------------------------------------------------- */

static void take_away(const ccq_stage *s, const ccq_staged *e)
{
    char *path = ccq_path_join(s->stage, e->name);
    char *dir = path && ccq_stage_rank_part(e->name) ? ccq_stage_directory(s->stage, e->name)
                                                     : NULL;
    if (path)
        unlink(path);
    if (dir)
        rmdir(dir); /* with the last of its files */
    free(dir);
    free(path);
}

static void remove_named(const ccq_stage *s, const char *name)
{
    char *path = ccq_stage_path(s, name);
    if (path)
        unlink(path);
    free(path);
}

/* Does another process write here, or has one left a journal? */
static int is_needed(const ccq_stage *s)
{
    char **names = NULL;
    size_t count = 0;
    int needed = 0;
    if (ccq_dir_list(s->work, &names, &count, NULL))
        return 1;
    for (size_t i = 0; i < count && !needed; i++) {
        char *path = strncmp(names[i], "lock.", 5) == 0 ? ccq_stage_path(s, names[i]) : NULL;
        needed = strncmp(names[i], "journal.", 8) == 0 || (path && ccq_lock_held(path));
        free(path);
    }
    ccq_names_free(names, count);
    return needed;
}

/* One of several processes: its own files, and the rest when it is the last. */
static void withdraw(ccq_stage *s)
{
    char own[48];
    snprintf(own, sizeof own, "lock.%d-of-%d", s->rank, s->world);
    for (size_t i = 0; i < s->count; i++) {
        char *done = done_name(s->entries[i].name);
        if (done)
            remove_named(s, done);
        free(done);
        take_away(s, &s->entries[i]);
    }
    remove_named(s, s->journal);
    remove_named(s, own);
    s->made_out |= ccq_is_there(s->work, "made-out");
    if (is_needed(s))
        return;
    ccq_remove_tree(s->work, NULL);
    if (s->made_out)
        rmdir(s->out);
}

void ccq_stage_abandon(ccq_stage *s)
{
    if (!s)
        return;
    int ours = s->lock.fd >= 0 && !s->finalize && !s->committing;
    if (ours && s->world > 1 && s->fresh) {
        withdraw(s);
    } else if (ours && s->world == 1 && s->made_work) {
        ccq_remove_tree(s->work, NULL);
    } else if (s->made_work && s->lock.fd < 0) {
        rmdir(s->work); /* not when somebody else was quicker */
    }
    if (s->made_out && s->world == 1)
        rmdir(s->out);
    ccq_stage_free(s);
}

/* ---- Putting into place ---------------------------------------------------------------- */

static ccq_code move_entry(const ccq_stage *s, ccq_staged *e, ccq_error *err)
{
    char *from = ccq_path_join(s->stage, e->name), *to = ccq_path_join(s->out, e->name);
    ccq_code code = from && to ? ccq_stage_make_directory(s->out, e->name, err)
                               : ccq_stage_no_memory(err);
    if (!code && rename(from, to) != 0)
        code = ccq_fail_errno(err, CCQ_IO, to, "cannot rename into place", errno);
    e->renamed = !code;
    free(from);
    free(to);
    return code;
}

/* The rank directory of an entry, at the first of its files that follow each other. */
static ccq_code sync_rank(const ccq_stage *s, size_t i, ccq_error *err)
{
    const char *name = s->entries[i].name;
    size_t n = ccq_stage_rank_part(name);
    if (!n || (i && strncmp(s->entries[i - 1].name, name, n + 1) == 0))
        return CCQ_OK;
    char *dir = ccq_stage_directory(s->out, name);
    ccq_code code = dir ? ccq_stage_sync_dir(s, dir, err) : ccq_stage_no_memory(err);
    free(dir);
    return code;
}

/* All but config.json (last = 0), or config.json alone; then the directories are synced. */
static ccq_code move_entries(ccq_stage *s, int last, ccq_error *err)
{
    for (size_t i = 0; i < s->count; i++) {
        ccq_staged *e = &s->entries[i];
        if (e->renamed || (strcmp(e->name, "config.json") == 0) != last)
            continue;
        ccq_code code = move_entry(s, e, err);
        if (code)
            return code;
    }
    for (size_t i = 0; !last && i < s->count; i++) {
        ccq_code code = sync_rank(s, i, err);
        if (code)
            return code;
    }
    return ccq_stage_sync_dir(s, s->out, err);
}

static ccq_code sync_parent(const ccq_stage *s, ccq_error *err)
{
    char *parent = ccq_path_parent(s->out);
    ccq_code code = parent ? ccq_stage_sync_dir(s, parent, err) : ccq_stage_no_memory(err);
    free(parent);
    return code;
}

ccq_code ccq_stage_forget(ccq_stage *s, const char *name, ccq_error *err)
{
    char **grown = realloc(s->forgotten, (s->forgets + 1) * sizeof *grown);
    if (!grown)
        return ccq_stage_no_memory(err);
    s->forgotten = grown;
    if (!ccq_name_is_plain(name, strlen(name)))
        return ccq_fail_name(err, CCQ_PATH, s->out, name, "is not a plain file name");
    if (!(grown[s->forgets] = strdup(name)))
        return ccq_stage_no_memory(err);
    s->forgets++;
    return CCQ_OK;
}

/* What the old checkpoint leaves is gone before the marker says that files under our
 * names are ours: after a crash on either side of it the same may be done again. */
static ccq_code clear_old(ccq_stage *s, ccq_error *err)
{
    ccq_code code = CCQ_OK;
    if (s->committing)
        return CCQ_OK;
    if (s->overwrite)
        code = ccq_old_clear(s->out, err);
    for (size_t i = 0; s->overwrite && i < s->forgets && !code; i++)
        code = ccq_old_remove(s->out, s->forgotten[i], err);
    if (!code && s->overwrite)
        code = ccq_stage_sync_dir(s, s->out, err);
    if (!code)
        code = ccq_stage_touch(s, "commit", err);
    s->committing = !code;
    return code;
}

static ccq_code lock_commit(ccq_stage *s, ccq_error *err)
{
    if (s->finalize)
        return CCQ_OK; /* has it */
    char *path = ccq_stage_path(s, "lock.commit");
    ccq_code code = path ? ccq_lock_take(&s->commit_lock, path, "is committing here", err)
                         : ccq_stage_no_memory(err);
    free(path);
    return code;
}

/* When a name of .ccq goes. The marker is the last, for without it a half removed .ccq would
 * look like a job that has done nothing; before it what tells of which input all was made. */
static int turn_of(const char *name)
{
    return strcmp(name, "commit") == 0        ? 3
           : strcmp(name, "plan.json") == 0   ? 2
           : strncmp(name, "journal.", 8) == 0 ? 1 : 0;
}

/* The result is whole and synced: what stays of .ccq hides nothing. */
static void remove_work(const ccq_stage *s)
{
    char **names = NULL;
    size_t count = 0, left = 0;
    if (ccq_real_list(s->work, &names, &count, NULL))
        return;
    for (int turn = 0; turn < 4 && !left; turn++)
        for (size_t i = 0; i < count; i++) {
            char *path = turn_of(names[i]) == turn ? ccq_stage_path(s, names[i]) : NULL;
            if (path)
                ccq_remove_tree(path, NULL);
            left += turn_of(names[i]) == turn && (!path || ccq_path_exists(path));
            free(path);
        }
    ccq_names_free(names, count);
    if (!left)
        rmdir(s->work);
}

/* From here nothing is taken away: whatever the reason, the job is one to go on with. */
static ccq_code broken_off(const ccq_stage *s, ccq_code code, ccq_error *err)
{
    if (code == CCQ_IO || code == CCQ_NO_SPACE || !err)
        return code == CCQ_NO_SPACE ? code : CCQ_IO;
    ccq_error why = *err;
    return ccq_fail_file(err, CCQ_IO, s->out, "the commit was broken off: %s", why.text);
}

ccq_code ccq_stage_commit(ccq_stage *s, ccq_error *err)
{
    if (s->state == CCQ_STAGE_FINISHED) {
        remove_work(s);
        ccq_stage_free(s);
        return CCQ_OK;
    }
    for (size_t i = 0; i < s->count; i++)
        if (!s->entries[i].closed)
            return ccq_fail_name(err, CCQ_BUG, s->out, s->entries[i].name,
                                 "committed before it was closed");
    ccq_code code = lock_commit(s, err);
    if (code == CCQ_CREATE)
        return code; /* another one is at it */
    if (!code)
        code = clear_old(s, err);
    if (!code)
        code = move_entries(s, 0, err);
    if (!code && s->made_out)
        code = sync_parent(s, err);
    if (!code)
        code = move_entries(s, 1, err);
    if (code)
        return broken_off(s, code, err);
    remove_work(s);
    ccq_stage_free(s);
    return CCQ_OK;
}
