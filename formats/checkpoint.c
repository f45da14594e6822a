/* A directory (index and shards, one file, or .pdparams files) as one table of tensors. */
#include "formats/checkpoint.h"

#include "formats/internal.h"
#include "formats/pdparams.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct ccq_checkpoint {
    ccq_arena arena; /* names, shapes */
    ccq_file *files; /* by shard */
    ccq_shard *shards;
    size_t shard_count, opened;
    ccq_tensor *tensors; /* in the order of the files, or of the index */
    size_t count;
    ccq_names names;   /* number = place in tensors */
    uint32_t *by_name; /* places */
    int pickled;     /* .pdparams shards */
    ccq_parts *part_list;
    const ccq_parts **parts; /* by place; NULL: no tensor here is in parts */
    ccq_index index;
    int indexed;
    const char **unlisted;
    size_t unlisted_count, unlisted_cap;
    const char *format;
};

static ccq_code no_memory(ccq_error *err)
{
    return ccq_fail(err, CCQ_NO_MEMORY, "out of memory for the tensor table");
}

void ccq_checkpoint_close(ccq_checkpoint *ck)
{
    if (!ck)
        return;
    for (size_t i = 0; i < ck->opened; i++)
        ccq_file_close(&ck->files[i]);
    free(ck->files);
    free(ck->shards);
    free(ck->tensors);
    free(ck->by_name);
    free(ck->unlisted);
    free(ck->parts);
    ccq_names_free_table(&ck->names);
    ccq_index_free(&ck->index);
    ccq_arena_free(&ck->arena);
    free(ck);
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static ccq_code alloc_shards(ccq_checkpoint *ck, size_t n, ccq_error *err)
{
    ck->files = calloc(n, sizeof *ck->files);
    ck->shards = calloc(n, sizeof *ck->shards);
    if (!ck->files || !ck->shards)
        return no_memory(err);
    ck->shard_count = n;
    return CCQ_OK;
}

/* Shards in the order of their names; the index's numbers follow. */
static ccq_code take_index_shards(ccq_checkpoint *ck, ccq_error *err)
{
    size_t n = ck->index.shards.count;
    const char **sorted = malloc(n * sizeof *sorted);
    uint32_t *place = malloc(n * sizeof *place); /* by old number */
    ccq_code code = sorted && place ? alloc_shards(ck, n, err) : no_memory(err);
    if (!code) {
        memcpy(sorted, ck->index.shards.name, n * sizeof *sorted);
        qsort(sorted, n, sizeof *sorted, by_text);
        for (size_t i = 0; i < n; i++) {
            ck->shards[i].name = sorted[i];
            place[ccq_names_find(&ck->index.shards, sorted[i], strlen(sorted[i]))] = (uint32_t)i;
        }
        for (size_t i = 0; i < ck->index.names.count; i++)
            ck->index.shard[i] = place[ck->index.shard[i]];
    }
    free(sorted);
    free(place);
    return code;
}

/* Every shard is there before the first one is read. */
static ccq_code open_shards(ccq_checkpoint *ck, const char *dir, ccq_error *err)
{
    for (size_t i = 0; i < ck->shard_count; i++) {
        char *path = ccq_path_join(dir, ck->shards[i].name);
        if (!path)
            return no_memory(err);
        ccq_code code = ccq_file_open(&ck->files[i], path, CCQ_NO_SHARD, err);
        free(path);
        if (code)
            return code;
        ck->opened++;
    }
    return CCQ_OK;
}

static ccq_code add_unlisted(ccq_checkpoint *ck, const char *name, ccq_error *err)
{
    if (ck->unlisted_count == ck->unlisted_cap) {
        size_t cap = ck->unlisted_cap ? ck->unlisted_cap * 2 : 16;
        const char **list = realloc(ck->unlisted, cap * sizeof *list);
        if (!list)
            return no_memory(err);
        ck->unlisted = list;
        ck->unlisted_cap = cap;
    }
    ck->unlisted[ck->unlisted_count++] = name;
    return CCQ_OK;
}

/* The tensors of a shard that the index names, each to its number there; found ones
 * get shard UINT32_MAX in the index. */
static ccq_code take_listed(ccq_checkpoint *ck, const ccq_st *st, uint32_t shard, ccq_error *err)
{
    if (!ck->tensors && !(ck->tensors = malloc(ck->index.names.count * sizeof *ck->tensors)))
        return no_memory(err);
    for (size_t i = 0; i < st->count; i++) {
        const ccq_tensor *t = &st->tensors[i];
        uint32_t k = ccq_names_find(&ck->index.names, t->name, strlen(t->name));
        if (k != CCQ_NO_NAME && ck->index.shard[k] == shard) {
            ck->index.shard[k] = UINT32_MAX;
            ck->tensors[k] = *t;
            ck->count++;
        } else {
            ccq_code code = add_unlisted(ck, t->name, err);
            if (code)
                return code;
        }
    }
    return CCQ_OK;
}

/* Appends the tensors of a .pdparams file; the same name in two files is found later. */
static ccq_code read_pickle(ccq_checkpoint *ck, uint32_t shard, ccq_error *err)
{
    ccq_pd pd;
    ccq_code code = ccq_pd_read(&pd, &ck->files[shard], shard, &ck->arena, err);
    if (code)
        return code;
    ck->shards[shard].size = ck->files[shard].size;
    ccq_tensor *all = realloc(ck->tensors, (ck->count + pd.count) * sizeof *all + 1);
    if (all) {
        ck->tensors = all;
        if (pd.count)
            memcpy(all + ck->count, pd.tensors, pd.count * sizeof *all);
        ck->count += pd.count;
    }
    free(pd.tensors);
    ccq_parts **end = &ck->part_list;
    while (*end)
        end = &(*end)->next;
    *end = pd.parts;
    return all ? CCQ_OK : no_memory(err);
}

static ccq_code read_shard(ccq_checkpoint *ck, uint32_t shard, ccq_error *err)
{
    if (ck->pickled)
        return read_pickle(ck, shard, err);
    ccq_st st;
    ccq_code code = ccq_st_read(&st, &ck->files[shard], shard, &ck->arena, err);
    if (code)
        return code;
    ck->shards[shard].size = ck->files[shard].size;
    ck->shards[shard].header_size = st.header_size;
    ck->shards[shard].header_crc = st.header_crc;
    if (shard == 0)
        ck->format = st.format;
    if (!ck->indexed) {
        ck->tensors = st.tensors;
        ck->count = st.count;
        ck->names = st.names;
        return CCQ_OK;
    }
    code = take_listed(ck, &st, shard, err);
    ccq_st_free(&st);
    return code;
}

static ccq_code check_found(const ccq_checkpoint *ck, const char *index_path, ccq_error *err)
{
    char shard[256];
    for (size_t i = 0; i < ck->index.names.count; i++) {
        if (ck->index.shard[i] == UINT32_MAX)
            continue;
        const char *name = ck->shards[ck->index.shard[i]].name;
        return ccq_fail_name(err, CCQ_INDEX, index_path, ck->index.names.name[i],
                             "is not in its shard %s",
                             ccq_escape(shard, sizeof shard, name, strlen(name)));
    }
    return CCQ_OK;
}

/* The parts by place, once the names have their numbers. */
static ccq_code find_parts(ccq_checkpoint *ck, ccq_error *err)
{
    if (!ck->part_list)
        return CCQ_OK;
    if (!(ck->parts = calloc(ck->count, sizeof *ck->parts)))
        return no_memory(err);
    for (const ccq_parts *p = ck->part_list; p; p = p->next)
        ck->parts[ccq_names_find(&ck->names, p->name, strlen(p->name))] = p;
    return CCQ_OK;
}

/* The files bring no table of their own. */
static ccq_code number_pickled(ccq_checkpoint *ck, ccq_error *err)
{
    ccq_names_reserve(&ck->names, ck->count);
    for (size_t i = 0; i < ck->count; i++) {
        const ccq_tensor *t = &ck->tensors[i];
        int added = ccq_names_add(&ck->names, t->name);
        if (added < 0)
            return no_memory(err);
        if (!added)
            return ccq_fail_name(err, CCQ_DUPLICATE, ck->files[t->shard].path, t->name,
                                 "is in another file too");
    }
    return find_parts(ck, err);
}

/* Reads all shards, then numbers and sorts the names. */
static ccq_code read_shards(ccq_checkpoint *ck, const char *index_path, ccq_error *err)
{
    ccq_code code = CCQ_OK;
    for (size_t i = 0; i < ck->shard_count && !code; i++)
        code = read_shard(ck, (uint32_t)i, err);
    if (!code && ck->indexed)
        code = check_found(ck, index_path, err);
    if (!code && ck->indexed) { /* all of them are found: the numbers are places */
        ck->names = ck->index.names;
        memset(&ck->index.names, 0, sizeof ck->index.names);
    }
    if (!code && ck->pickled)
        code = number_pickled(ck, err);
    if (!code && !(ck->by_name = ccq_names_sorted(&ck->names)))
        code = no_memory(err);
    return code;
}

static ccq_code open_indexed(ccq_checkpoint *ck, const char *dir, const char *index_path,
                             int single, ccq_error *err)
{
    const char *name = "model.safetensors";
    ck->indexed = 1;
    ccq_code code = ccq_index_read(&ck->index, index_path, &ck->arena, err);
    /* Loaders differ in which of the two they take. */
    if (!code && single && ccq_names_find(&ck->index.shards, name, strlen(name)) == CCQ_NO_NAME)
        code = ccq_fail_file(err, CCQ_INDEX, index_path,
                             "does not name model.safetensors, which is there too: "
                             "two checkpoints in one directory");
    if (!code)
        code = take_index_shards(ck, err);
    if (!code)
        code = open_shards(ck, dir, err);
    return code ? code : read_shards(ck, index_path, err);
}

static ccq_code check_dir(const char *dir, ccq_error *err)
{
    struct stat st;
    if (stat(dir, &st) != 0)
        return ccq_fail_errno(err, CCQ_NO_INPUT, dir, "cannot open", errno);
    if (!S_ISDIR(st.st_mode))
        return ccq_fail_file(err, CCQ_NO_INPUT, dir, "not a directory");
    return CCQ_OK;
}

/* These files inside dir, without an index. */
static ccq_code open_named(ccq_checkpoint *ck, const char *dir, char *const *names, size_t count,
                           ccq_error *err)
{
    ccq_code code = alloc_shards(ck, count, err);
    for (size_t i = 0; i < count && !code; i++)
        if (!(ck->shards[i].name = ccq_arena_text(&ck->arena, names[i], strlen(names[i]))))
            code = no_memory(err);
    if (!code)
        code = open_shards(ck, dir, err);
    return code ? code : read_shards(ck, NULL, err);
}

static int is_pdparams(const char *name)
{
    const char *suffix = ".pdparams";
    size_t n = strlen(name), m = strlen(suffix);
    return n > m && strcmp(name + n - m, suffix) == 0;
}

/* All .pdparams files of a directory that has no safetensors. */
static ccq_code open_pdparams(ccq_checkpoint *ck, const char *dir, ccq_error *err)
{
    char **names;
    size_t count, kept = 0;
    ccq_code code = ccq_dir_list(dir, &names, &count, err);
    if (code)
        return code;
    for (size_t i = 0; i < count; i++)
        if (is_pdparams(names[i])) {
            char *name = names[i]; /* swapped, not moved: the list is freed as a whole */
            names[i] = names[kept];
            names[kept++] = name;
        }
    ck->pickled = 1;
    code = kept ? open_named(ck, dir, names, kept, err)
                : ccq_fail_file(err, CCQ_NO_SHARD, dir,
                                "no model.safetensors.index.json, model.safetensors or .pdparams "
                                "file in it");
    ccq_names_free(names, count);
    return code;
}

ccq_code ccq_checkpoint_open(ccq_checkpoint **out, const char *dir, ccq_error *err)
{
    *out = NULL;
    ccq_code code = check_dir(dir, err);
    if (code)
        return code;
    ccq_checkpoint *ck = calloc(1, sizeof *ck);
    char name[] = "model.safetensors", *const names[] = {name};
    char *index = ccq_path_join(dir, "model.safetensors.index.json");
    char *single = ccq_path_join(dir, "model.safetensors");
    if (!ck || !index || !single)
        code = no_memory(err);
    else if (ccq_path_exists(index))
        code = open_indexed(ck, dir, index, ccq_path_exists(single), err);
    else if (ccq_path_exists(single))
        code = open_named(ck, dir, names, 1, err);
    else
        code = open_pdparams(ck, dir, err);
    free(index);
    free(single);
    if (code)
        ccq_checkpoint_close(ck);
    else
        *out = ck;
    return code;
}

ccq_code ccq_checkpoint_open_file(ccq_checkpoint **out, const char *path, ccq_error *err)
{
    *out = NULL;
    ccq_checkpoint *ck = calloc(1, sizeof *ck);
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    ccq_code code = ck ? alloc_shards(ck, 1, err) : no_memory(err);
    if (!code && !(ck->shards[0].name = ccq_arena_text(&ck->arena, name, strlen(name))))
        code = no_memory(err);
    if (!code && !(code = ccq_file_open(&ck->files[0], path, CCQ_NO_INPUT, err))) {
        ck->opened = 1;
        code = ccq_pd_here(&ck->files[0], &ck->pickled, err);
        if (!code)
            code = read_shards(ck, NULL, err);
    }
    if (code)
        ccq_checkpoint_close(ck);
    else
        *out = ck;
    return code;
}

size_t ccq_checkpoint_count(const ccq_checkpoint *ck)
{
    return ck->count;
}

const ccq_tensor *ccq_checkpoint_at(const ccq_checkpoint *ck, size_t i)
{
    return i < ck->count ? &ck->tensors[ck->by_name[i]] : NULL;
}

const ccq_tensor *ccq_checkpoint_find(const ccq_checkpoint *ck, const char *name)
{
    uint32_t i = ccq_names_find(&ck->names, name, strlen(name));
    return i == CCQ_NO_NAME ? NULL : &ck->tensors[i];
}

size_t ccq_checkpoint_shards(const ccq_checkpoint *ck)
{
    return ck->shard_count;
}

const ccq_shard *ccq_checkpoint_shard(const ccq_checkpoint *ck, size_t i)
{
    return i < ck->shard_count ? &ck->shards[i] : NULL;
}

int ccq_checkpoint_indexed(const ccq_checkpoint *ck)
{
    return ck->indexed;
}

size_t ccq_checkpoint_unlisted(const ccq_checkpoint *ck)
{
    return ck->unlisted_count;
}

const char *ccq_checkpoint_unlisted_name(const ccq_checkpoint *ck, size_t i)
{
    return i < ck->unlisted_count ? ck->unlisted[i] : NULL;
}

int ccq_checkpoint_total_size(const ccq_checkpoint *ck, uint64_t *value)
{
    if (ck->index.has_total_size)
        *value = ck->index.total_size;
    return ck->index.has_total_size;
}

const char *ccq_checkpoint_format(const ccq_checkpoint *ck)
{
    return ck->format ? ck->format : "";
}

ccq_code ccq_checkpoint_read(const ccq_checkpoint *ck, const ccq_tensor *t, uint64_t offset,
                             void *dst, uint64_t size, ccq_error *err)
{
    ccq_error inner;
    if (offset > t->bytes || size > t->bytes - offset)
        return ccq_fail_name(err, CCQ_BUG, ck->files[t->shard].path, t->name,
                             "read of %llu bytes from %llu in a tensor of %llu",
                             (unsigned long long)size, (unsigned long long)offset,
                             (unsigned long long)t->bytes);
    const ccq_file *file = &ck->files[t->shard];
    const ccq_parts *parts = NULL;
    if (ck->parts) {
        uint32_t place = ccq_names_find(&ck->names, t->name, strlen(t->name));
        parts = place == CCQ_NO_NAME ? NULL : ck->parts[place];
    }
    ccq_code code = parts ? ccq_parts_read(parts, file, offset, dst, size, &inner)
                          : ccq_file_read(file, t->offset + offset, dst, size, &inner);
    if (code) {
        char name[256];
        ccq_fail(err, code, "%.700s (while reading \"%s\")", inner.text,
                 ccq_escape(name, sizeof name, t->name, strlen(t->name)));
    }
    return code;
}

ccq_code ccq_checkpoint_recheck(const ccq_checkpoint *ck, ccq_error *err)
{
    for (size_t i = 0; i < ck->shard_count; i++) {
        ccq_code code = ccq_file_recheck(&ck->files[i], err);
        if (code)
            return code;
    }
    return CCQ_OK;
}
