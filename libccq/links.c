/* Input files that are links, for those who want none. */
#include "libccq/job.h"

#include "formats/file.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static ccq_code check(const char *dir, const char *name, ccq_error *err)
{
    struct stat st;
    char shown[600], *path = ccq_path_join(dir, name);
    ccq_code code = path ? CCQ_OK : ccq_fail(err, CCQ_NO_MEMORY, "out of memory");
    if (path && lstat(path, &st) == 0 && S_ISLNK(st.st_mode))
        code = ccq_fail(err, CCQ_NOT_A_FILE, "%s: is a link (--no-symlinks)",
                        ccq_escape(shown, sizeof shown, path, strlen(path)));
    free(path);
    return code;
}

static ccq_code check_source(const ccq_source *src, ccq_error *err)
{
    static const char *const names[] = {"config.json", CCQ_INDEX_NAME, CCQ_RECIPE_NAME};
    ccq_code code = CCQ_OK;
    for (int r = 0; src->rank && r < src->ranks && !code; r++)
        code = check_source(src->rank[r], err);
    for (size_t i = 0; i < sizeof names / sizeof *names && !code; i++)
        code = check(src->dir, names[i], err);
    for (size_t i = 0; !src->rank && i < ccq_checkpoint_shards(src->files) && !code; i++)
        code = check(src->dir, ccq_checkpoint_shard(src->files, i)->name, err);
    return code;
}

ccq_code ccq_plan_no_links(const ccq_plan *plan, ccq_error *err)
{
    ccq_code code = check_source(plan->src, err);
    for (size_t i = 0; i < plan->carries && !code; i++)
        code = check(plan->src->dir, plan->carried[i].name, err);
    return code;
}
