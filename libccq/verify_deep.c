/* Deep verification: every byte against the manifest, every weight decoded. One
 * checkpoint after the other, one tensor after the other: a linear is held in
 * memory as it is stored, anything else a chunk at a time. */
#include "libccq/manifest.h"
#include "libccq/scan.h"
#include "libccq/slice.h"
#include "libccq/verify.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One checkpoint: the model, or a rank of it. */
typedef struct deep {
    ccq_verifier *v;
    const ccq_manifest *manifest; /* NULL: none, or damaged, which is said elsewhere */
    const ccq_checkpoint *files;
    const ccq_source *src; /* NULL when it did not open */
} deep;

static const char *file_of(const deep *d, const ccq_tensor *t)
{
    return ccq_checkpoint_shard(d->files, t->shard)->name;
}

/* Is it said already? Tensors of one linear count as one. */
static int is_said(const deep *d, ccq_code code, const char *tensor)
{
    const ccq_verify_result *r = d->v->out;
    const char *dot = strrchr(tensor, '.');
    size_t stem = dot ? (size_t)(dot - tensor) : strlen(tensor), prefix = strlen(d->v->prefix);
    for (size_t i = 0; i < r->findings; i++)
        if (r->finding[i].code == code && strncmp(r->finding[i].tensor, tensor, stem) == 0 &&
            strncmp(r->finding[i].file, d->v->prefix, prefix) == 0)
            return 1;
    return 0;
}

/* ---- One tensor ----------------------------------------------------------- */

static void check_crc(const deep *d, const ccq_tensor *t, const ccq_data *data)
{
    char name[4200];
    if (!d->manifest)
        return;
    snprintf(name, sizeof name, "%s%s", d->v->prefix, t->name);
    const ccq_manifest_item *item = ccq_manifest_find(&d->manifest->tensors, name);
    if (item && item->crc != data->crc) /* one that it does not name is a finding of its own */
        ccq_verify_add(d->v, CCQ_MANIFEST, file_of(d, t), t->name,
                       "CRC-32 of the data is %08x, the manifest says %08x", (unsigned)data->crc,
                       (unsigned)item->crc);
}

static int is_bias(const ccq_slot *slot, ccq_naming naming)
{
    return naming == CCQ_NAME_KNOWN && (slot->bias || slot->role == CCQ_ROLE_ROUTER_BIAS);
}

static void check_nonfinite(const deep *d, const ccq_tensor *t, const ccq_data *data)
{
    if (data->nonfinite && !is_said(d, CCQ_NONFINITE, t->name))
        ccq_verify_add(d->v, CCQ_NONFINITE, file_of(d, t), t->name,
                       "%llu non-finite values, first at [%llu]",
                       (unsigned long long)data->nonfinite, (unsigned long long)data->first);
}

/* 1 when a warning was given. */
static int check_zero(const deep *d, const ccq_tensor *t, const ccq_data *data)
{
    ccq_slot slot;
    if (!data->zero || is_bias(&slot, ccq_name_parse(t->name, &slot)))
        return 0;
    ccq_verify_warn(d->v, file_of(d, t), t->name, "all %llu bytes are zero",
                    (unsigned long long)t->bytes);
    return 1;
}

static void check_decoded(const deep *d, const ccq_tensor *t, const ccq_entry *e, int warned)
{
    ccq_decoded x;
    ccq_error err;
    if (ccq_scan_decoded(&x, d->src, e, d->v->ops, d->v->pool, &err)) {
        ccq_verify_add_error(d->v, &err);
        return;
    }
    if (x.nonfinite && !is_said(d, CCQ_NONFINITE, t->name))
        ccq_verify_add(d->v, CCQ_NONFINITE, file_of(d, t), t->name,
                       "%llu decoded weights are not finite, first at [%lld, %lld]",
                       (unsigned long long)x.nonfinite, (long long)x.place[0][0],
                       (long long)x.place[0][1]);
    if (x.zero && !warned)
        ccq_verify_warn(d->v, file_of(d, t), t->name, "all decoded weights are zero");
}

static void check_tensor(const deep *d, const ccq_tensor *t)
{
    ccq_data data;
    ccq_error err;
    ccq_slot slot;
    if (ccq_scan_tensor(&data, d->files, t, d->v->pool, &err)) {
        ccq_verify_add_error(d->v, &err);
        return;
    }
    check_crc(d, t, &data);
    check_nonfinite(d, t, &data);
    int warned = check_zero(d, t, &data);
    if (!d->src || ccq_name_parse(t->name, &slot) != CCQ_NAME_KNOWN ||
        slot.suffix != CCQ_SUFFIX_QUANT_WEIGHT)
        return;
    const ccq_entry *e = ccq_source_find(d->src, slot.role, slot.block, slot.layer, slot.expert, 0);
    if (e && e->weight_scale) /* read a moment ago: still in the page cache */
        check_decoded(d, t, e, warned);
}

/* ---- All of them ---------------------------------------------------------- */

static void check_checkpoint(deep *d)
{
    size_t count = ccq_checkpoint_count(d->files);
    for (size_t i = 0; i < count && !d->v->failed; i++)
        check_tensor(d, ccq_checkpoint_at(d->files, i));
}

/* Ranks that opened alone when the model as a whole did not. */
static void check_alone(deep *d, const char *dir, int rank)
{
    char *path = ccq_rank_dir(dir, rank);
    ccq_checkpoint *files = NULL;
    ccq_error err;
    d->v->failed |= !path;
    if (path && ccq_checkpoint_open(&files, path, &err) == CCQ_OK) { /* else it has been said */
        d->v->dir = path;
        d->files = files;
        d->src = NULL;
        check_checkpoint(d);
        ccq_checkpoint_close(files);
    }
    d->v->dir = dir;
    free(path);
}

static void check_rank(deep *d, int rank)
{
    const ccq_source *whole = d->v->src;
    char prefix[32];
    snprintf(prefix, sizeof prefix, "rank%d/", rank);
    d->v->prefix = prefix;
    if (whole) {
        d->src = whole->rank[rank];
        d->files = d->src->files;
        check_checkpoint(d);
    } else {
        check_alone(d, d->v->dir, rank);
    }
    d->v->prefix = "";
}

/* What every rank holds whole is the same in all; reading it compares. */
static void check_replicas(ccq_verifier *v)
{
    ccq_error err;
    for (size_t i = 0; i < v->src->count && !v->failed; i++) {
        const ccq_entry *e = &v->src->entry[i];
        if (ccq_cut_of(e) != CCQ_CUT_NONE || e->weight_scale)
            continue;
        void *x = malloc(ccq_entry_parameters(e) * 4 + 1);
        v->failed |= !x;
        if (x && (e->type == CCQ_TYPE_F32 ? ccq_source_read_f32(v->src, e, x, &err)
                                          : ccq_source_read_bf16(v->src, e, x, &err)))
            ccq_verify_add_error(v, &err);
        free(x);
    }
}

void ccq_verify_data(ccq_verifier *v)
{
    ccq_manifest *manifest = NULL;
    deep d = {.v = v, .files = v->files, .src = v->src};
    if (ccq_manifest_load(&manifest, v->dir, NULL) == CCQ_OK)
        d.manifest = manifest;
    if (!v->ranks && v->files)
        check_checkpoint(&d);
    for (int r = 0; r < v->ranks; r++)
        check_rank(&d, r);
    if (v->src && v->src->rank)
        check_replicas(v);
    ccq_manifest_free(manifest);
}
