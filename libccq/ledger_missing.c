/* What a commit still waits for. */
#include "libccq/ledger_internal.h"

#include "formats/file.h"

#include <stdio.h>
#include <string.h>

/* Of how many processes the job is, where that was not said; 1: nothing tells. */
static int find_world(const ccq_ledger *l)
{
    char **names = NULL;
    size_t count = 0;
    int world = l->plan->options.world;
    if (world > 1 || ccq_dir_list(ccq_stage_work(l->stage), &names, &count, NULL))
        return world;
    for (size_t i = 0; i < count; i++) {
        int rank, of;
        if (sscanf(names[i], "journal.%d-of-%d", &rank, &of) == 2 && of > world)
            world = of;
    }
    ccq_names_free(names, count);
    return world;
}

typedef struct list {
    char text[330];
    size_t len, more;
} list;

static void add_to(list *l, const char *word)
{
    size_t n = strlen(word);
    if (l->more || l->len + n + 3 > sizeof l->text)
        l->more++;
    else
        l->len += (size_t)snprintf(l->text + l->len, sizeof l->text - l->len, "%s%s",
                                   l->len ? ", " : "", word);
}

/* Names that have no room in the error are in the lines before it. */
ccq_code ccq_ledger_missing(ccq_ledger *l, ccq_error *err)
{
    int world = find_world(l), last = -1;
    list files = {.len = 0}, ranks = {.len = 0};
    char word[64];
    size_t missing = 0;
    ccq_code code = ccq_ledger_assign(l->shard, l->shards, world, err);
    for (int r = 0; r < (world > 1 ? world : 1) && !code; r++)
        for (size_t i = 0; i < l->shards; i++) {
            if (!l->shard[i].left || l->shard[i].owner != r)
                continue;
            missing++;
            ccq_ledger_warn(l, "%s is not finished: --rank %d --world %d makes it",
                            l->shard[i].name, r, world);
            add_to(&files, l->shard[i].name);
            snprintf(word, sizeof word, "--rank %d --world %d", r, world);
            if (r != last)
                add_to(&ranks, word);
            last = r;
        }
    if (!missing)
        return code;
    snprintf(word, sizeof word, " and %zu more", files.more);
    return ccq_fail(err, CCQ_INTERRUPTED,
                    "%s: %zu of %zu files are not finished: %s%s; %s%s in place of --finalize, or "
                    "--world 1 --resume for all", l->plan->output, missing, l->shards, files.text,
                    files.more ? word : "", ranks.text, ranks.more ? ", ..." : "");
}
