/* The manifest against the files: sizes, headers of shards, whole side files,
 * and the set of tensors. Tensor data is left to a deep check. */
#include "libccq/manifest.h"
#include "libccq/verify.h"

#include "formats/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { WINDOW = 1 << 16 };

static ccq_code crc_of(const ccq_file *file, uint64_t size, uint32_t *crc, ccq_error *err)
{
    unsigned char window[WINDOW];
    uLong sum = crc32(0, NULL, 0);
    ccq_code code = CCQ_OK;
    for (uint64_t at = 0; at < size && !code; at += WINDOW) {
        uint64_t n = size - at < WINDOW ? size - at : WINDOW;
        code = ccq_file_read(file, at, window, n, err);
        if (!code)
            sum = crc32(sum, window, (uInt)n);
    }
    *crc = (uint32_t)sum;
    return code;
}

/* Bytes of a shard that its checksum covers: what its own length field says,
 * as far as the file goes. A damaged field changes the sum, which is the point. */
static ccq_code header_span(const ccq_file *file, uint64_t *size, ccq_error *err)
{
    unsigned char b[8];
    uint64_t n = 0;
    *size = file->size;
    if (file->size < 8)
        return CCQ_OK;
    ccq_code code = ccq_file_read(file, 0, b, 8, err);
    for (int i = 7; i >= 0; i--)
        n = n << 8 | b[i];
    if (!code && n <= file->size - 8)
        *size = 8 + n;
    return code;
}

/* A plain name, or one in a rank directory of the model. */
static int is_inside(const ccq_verifier *v, const char *name)
{
    const char *slash = strchr(name, '/');
    char rank[32];
    if (!slash)
        return 1;
    for (int r = 0; r < v->ranks; r++) {
        snprintf(rank, sizeof rank, "rank%d/", r);
        if (strncmp(name, rank, strlen(rank)) == 0 && !strchr(slash + 1, '/'))
            return 1;
    }
    return 0;
}

static void check_file(ccq_verifier *v, const ccq_manifest_item *item, int shard)
{
    char *path = ccq_path_join(v->dir, item->name);
    ccq_file file = {.fd = -1};
    ccq_error err;
    uint64_t size;
    uint32_t crc = 0;
    if (!path) {
        v->failed = 1;
        return;
    }
    if (!is_inside(v, item->name)) {
        ccq_verify_add(v, CCQ_MANIFEST, CCQ_MANIFEST_NAME, NULL, "names a file outside");
        goto done;
    }
    ccq_code code = ccq_file_open(&file, path, CCQ_MANIFEST, &err);
    if (code)
        goto failed;
    size = file.size;
    if (file.size != item->bytes)
        ccq_verify_add(v, CCQ_MANIFEST, item->name, NULL, "%llu bytes, the manifest says %llu",
                       (unsigned long long)file.size, (unsigned long long)item->bytes);
    if (shard)
        code = header_span(&file, &size, &err);
    if (!code)
        code = crc_of(&file, size, &crc, &err);
    if (!code && crc != item->crc)
        ccq_verify_add(v, CCQ_MANIFEST, item->name, NULL,
                       "CRC-32 of %s is %08x, the manifest says %08x",
                       shard ? "the header" : "the file", (unsigned)crc, (unsigned)item->crc);
failed:
    if (code)
        ccq_verify_add_error(v, &err);
    ccq_file_close(&file);
done:
    free(path);
}

/* The checkpoint that holds a name of the manifest, and the name inside it. */
static const ccq_checkpoint *files_of(const ccq_verifier *v, const char *name, const char **rest)
{
    char rank[32];
    *rest = name;
    for (int r = 0; v->src && r < v->ranks; r++) {
        size_t len = (size_t)snprintf(rank, sizeof rank, "rank%d/", r);
        if (strncmp(name, rank, len) != 0)
            continue;
        *rest = name + len;
        return v->src->rank[r]->files;
    }
    return v->files;
}

/* Shards and tensors of one checkpoint, named in the manifest behind prefix. */
static void check_listed(ccq_verifier *v, const ccq_manifest *m, const ccq_checkpoint *files,
                         const char *prefix)
{
    char name[4200];
    for (size_t i = 0; i < ccq_checkpoint_shards(files); i++) {
        snprintf(name, sizeof name, "%s%s", prefix, ccq_checkpoint_shard(files, i)->name);
        if (!ccq_manifest_find(&m->shards, name))
            ccq_verify_add(v, CCQ_MANIFEST, name, NULL, "is not in the manifest");
    }
    for (size_t i = 0; i < ccq_checkpoint_count(files); i++) {
        const ccq_tensor *t = ccq_checkpoint_at(files, i);
        snprintf(name, sizeof name, "%s%s", prefix, t->name);
        if (ccq_manifest_find(&m->tensors, name))
            continue;
        snprintf(name, sizeof name, "%s%s", prefix, ccq_checkpoint_shard(files, t->shard)->name);
        ccq_verify_add(v, CCQ_MANIFEST, name, t->name, "is not in the manifest");
    }
}

static void check_sets(ccq_verifier *v, const ccq_manifest *m)
{
    char prefix[32];
    for (size_t i = 0; i < m->tensors.count; i++) {
        const char *name;
        const ccq_checkpoint *files = files_of(v, m->tensors.item[i].name, &name);
        if (!files || !ccq_checkpoint_find(files, name))
            ccq_verify_add(v, CCQ_MANIFEST, "", m->tensors.item[i].name,
                           "is in the manifest and in no shard");
    }
    if (v->files)
        check_listed(v, m, v->files, "");
    for (int r = 0; v->src && r < v->ranks; r++) {
        snprintf(prefix, sizeof prefix, "rank%d/", r);
        check_listed(v, m, v->src->rank[r]->files, prefix);
    }
}

void ccq_verify_manifest(ccq_verifier *v)
{
    ccq_manifest *m = NULL;
    ccq_error err;
    if (ccq_manifest_load(&m, v->dir, &err)) {
        if (err.code == CCQ_NO_MEMORY)
            v->failed = 1;
        else
            ccq_verify_add(v, err.code, CCQ_MANIFEST_NAME, NULL, "%s", err.text);
        return;
    }
    if (!m) {
        ccq_verify_note(v, "no %s: checksums are not checked", CCQ_MANIFEST_NAME);
        return;
    }
    for (size_t i = 0; i < m->shards.count; i++)
        check_file(v, &m->shards.item[i], 1);
    for (size_t i = 0; i < m->files.count; i++)
        check_file(v, &m->files.item[i], 0);
    if (v->files || (v->ranks && v->src))
        check_sets(v, m);
    ccq_manifest_free(m);
}
