/* What a directory held before: may it be replaced, and how it is cleared. Files
 * that are no part of a checkpoint stay. */
#include "formats/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static ccq_code no_memory(ccq_error *err)
{
    return ccq_fail(err, CCQ_NO_MEMORY, "out of memory");
}

static int ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

/* Files of a checkpoint that a new one must not leave beside itself. */
static int is_checkpoint_file(const char *name)
{
    return ends_with(name, ".safetensors") || ends_with(name, ".safetensors.index.json") ||
           ends_with(name, ".pdparams") || strcmp(name, "ccq_manifest.json") == 0 ||
           strcmp(name, "ccq_recipe.json") == 0 || strcmp(name, "SHA256SUMS") == 0;
}

/* Calls fn for the names in OUT/name, where that is a rank directory of an old checkpoint. */
typedef ccq_code (*rank_fn)(const char *dir, const char *name, ccq_error *err);
static ccq_code each_in_rank(const char *out, const char *name, rank_fn fn, ccq_error *err)
{
    struct stat st;
    char **names = NULL, *dir = NULL;
    size_t count = 0;
    if (strncmp(name, "rank", 4) != 0)
        return CCQ_OK;
    if (!(dir = ccq_path_join(out, name)))
        return no_memory(err);
    int found = lstat(dir, &st) == 0;
    ccq_code code = CCQ_OK;
    if (found && S_ISLNK(st.st_mode))
        code = ccq_fail_file(err, CCQ_EXISTS, dir, "a link: nothing behind it is replaced");
    else if (found && S_ISDIR(st.st_mode))
        code = ccq_own_list(dir, &names, &count, CCQ_CREATE, err);
    for (size_t i = 0; i < count && !code; i++)
        code = fn(dir, names[i], err);
    ccq_names_free(names, count);
    free(dir);
    return code;
}

static ccq_code check_rank_file(const char *dir, const char *name, ccq_error *err)
{
    return is_checkpoint_file(name)
               ? CCQ_OK
               : ccq_fail_name(err, CCQ_EXISTS, dir, name,
                               "is no file of a checkpoint: nothing here is replaced");
}

ccq_code ccq_old_check(const char *out, int overwrite, int working, ccq_error *err)
{
    char **names;
    size_t count, others = 0;
    int checkpoint = 0, unfinished = 0;
    ccq_code code = ccq_own_list(out, &names, &count, CCQ_CREATE, err);
    if (code)
        return code;
    for (size_t i = 0; i < count; i++) {
        int work = strncmp(names[i], ".ccq", 4) == 0;
        others += !(work && working);
        checkpoint |= strcmp(names[i], "config.json") == 0;
        unfinished |= work || ends_with(names[i], ".safetensors");
        if (overwrite && !code)
            code = each_in_rank(out, names[i], check_rank_file, err);
    }
    ccq_names_free(names, count);
    if (code)
        return code;
    if (!others || (overwrite && (checkpoint || unfinished)))
        return CCQ_OK;
    if (overwrite)
        return ccq_fail_file(err, CCQ_EXISTS, out,
                             "not empty and holds no checkpoint: nothing in it is replaced");
    if (unfinished && !checkpoint)
        return ccq_fail_file(err, CCQ_EXISTS, out,
                             "holds an unfinished checkpoint (--resume goes on with it, "
                             "--overwrite begins anew)");
    return ccq_fail_file(err, CCQ_EXISTS, out, "%s (--overwrite replaces it)",
                         checkpoint ? "holds a checkpoint" : "exists and is not empty");
}

ccq_code ccq_old_remove(const char *out, const char *name, ccq_error *err)
{
    char *path = ccq_path_join(out, name);
    ccq_code code = path ? CCQ_OK : no_memory(err);
    if (path && unlink(path) != 0 && errno != ENOENT)
        code = ccq_fail_errno(err, CCQ_IO, path, "cannot remove the old file", errno);
    free(path);
    return code;
}

/* A rank directory of the old checkpoint: FastDeploy would count it. */
static ccq_code remove_rank(const char *out, const char *name, ccq_error *err)
{
    ccq_code code = each_in_rank(out, name, ccq_old_remove, err);
    char *path = code || strncmp(name, "rank", 4) != 0 ? NULL : ccq_path_join(out, name);
    if (path && rmdir(path) != 0 && errno != ENOTDIR && errno != ENOENT)
        code = ccq_fail_errno(err, CCQ_IO, path, "cannot remove", errno);
    free(path);
    return code;
}

ccq_code ccq_old_clear(const char *out, ccq_error *err)
{
    char **names;
    size_t count;
    ccq_code code = ccq_old_remove(out, "config.json", err);
    if (code || (code = ccq_sync_dir(out, err)))
        return code;
    if ((code = ccq_own_list(out, &names, &count, CCQ_IO, err)))
        return code;
    for (size_t i = 0; i < count && !code; i++)
        if (is_checkpoint_file(names[i]))
            code = ccq_old_remove(out, names[i], err);
        else
            code = remove_rank(out, names[i], err);
    ccq_names_free(names, count);
    return code;
}
