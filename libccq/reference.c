/* ccq.ref/1: a .npz of prompts, logits, greedy continuations, router choices. */
#include "libccq/reference.h"

#include "formats/config.h"
#include "formats/json.h"
#include "formats/npz.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- Members ------------------------------------------------------------------ */

typedef struct reader {
    ccq_npz *npz;
    const char *path; /* escaped */
    ccq_error *err;
} reader;

/* Reads one member and checks its shape: rank, and the axes that are already
 * known (shape[i] != 0 is wanted, 0 is filled in). */
static ccq_code member(reader *r, const char *name, ccq_dtype type, int rank, uint64_t shape[3],
                       void **data)
{
    ccq_array a;
    void *got = NULL;
    ccq_code code = ccq_npz_read(r->npz, name, type, &a, &got, r->err);

    if (code)
        return code;
    if (a.rank != rank) {
        free(got);
        return ccq_fail(r->err, CCQ_REFERENCE, "%s: %s has %d axes, %d wanted", r->path, name,
                        a.rank, rank);
    }
    for (int i = 0; i < rank; i++) {
        if (shape[i] && a.shape[i] != shape[i]) {
            free(got);
            return ccq_fail(r->err, CCQ_REFERENCE, "%s: %s: axis %d is %llu, %llu wanted", r->path,
                            name, i, (unsigned long long)a.shape[i], (unsigned long long)shape[i]);
        }
        shape[i] = a.shape[i];
    }
    *data = got;
    return CCQ_OK;
}

/* A vector; *count: wanted length when not 0, filled in. Empty ones are refused. */
static ccq_code vector(reader *r, const char *name, ccq_dtype type, size_t *count, void **data)
{
    uint64_t shape[3] = {*count, 0, 0};
    ccq_code code = member(r, name, type, 1, shape, data);

    if (code)
        return code;
    *count = (size_t)shape[0];
    if (*count == 0)
        return ccq_fail(r->err, CCQ_REFERENCE, "%s: %s is empty", r->path, name);
    return CCQ_OK;
}

/* lengths, each at least least, that add up to total. */
static ccq_code check_lengths(const reader *r, const char *name, const int32_t *lengths, size_t n,
                              int32_t least, size_t total)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < n; i++) {
        if (lengths[i] < least)
            return ccq_fail(r->err, CCQ_REFERENCE, "%s: %s[%zu] is %d", r->path, name, i,
                            (int)lengths[i]);
        sum += (uint64_t)lengths[i];
    }
    if (sum != total)
        return ccq_fail(r->err, CCQ_REFERENCE, "%s: %s add up to %llu, %zu ids are there", r->path,
                        name, (unsigned long long)sum, total);
    return CCQ_OK;
}

static ccq_code read_prompts(reader *r, int32_t **lengths, size_t *prompts, int32_t **ids,
                             size_t *count)
{
    void *p = NULL;
    ccq_code code;

    *prompts = *count = 0;
    code = vector(r, "lengths", CCQ_DT_I32, prompts, &p);
    *lengths = p;
    if (code)
        return code;
    p = NULL;
    code = vector(r, "ids", CCQ_DT_I32, count, &p);
    *ids = p;
    if (code)
        return code;
    return check_lengths(r, "lengths", *lengths, *prompts, 1, *count);
}

static ccq_code open_reader(reader *r, const char *path, char *escaped, size_t size, ccq_error *err)
{
    r->path = ccq_escape(escaped, size, path, strlen(path));
    r->err = err;
    return ccq_npz_open(&r->npz, path, err);
}

ccq_code ccq_reference_prompts(const char *path, int32_t **lengths, size_t *prompts, int32_t **ids,
                               size_t *id_count, ccq_error *err)
{
    char escaped[512];
    reader r;
    ccq_code code;

    *lengths = *ids = NULL;
    if ((code = open_reader(&r, path, escaped, sizeof escaped, err)))
        return code;
    code = read_prompts(&r, lengths, prompts, ids, id_count);
    ccq_npz_close(r.npz);
    if (code) {
        free(*lengths);
        free(*ids);
        *lengths = *ids = NULL;
    }
    return code;
}

/* ---- Reading -------------------------------------------------------------------- */

static char *copy_string(const ccq_config *c, const char *key)
{
    const char *s = ccq_config_string(c, key);

    return strdup(s ? s : "");
}

static ccq_code read_meta(reader *r, ccq_reference *f)
{
    ccq_config *c = NULL;
    const char *schema;
    size_t size = 0;
    void *text = NULL;
    int64_t crc = 0;
    ccq_code code = vector(r, "meta", CCQ_DT_U8, &size, &text);

    if (!code)
        code = ccq_config_parse(&c, text, size, "meta", r->err);
    free(text);
    if (code)
        return code;
    schema = ccq_config_string(c, "schema");
    f->producer = copy_string(c, "producer");
    f->numerics = copy_string(c, "numerics");
    f->weights = copy_string(c, "weights");
    f->generator = copy_string(c, "generator");
    if (ccq_config_int(c, "config_crc32", &crc))
        f->config_crc32 = (uint32_t)crc;
    if (!f->producer || !f->numerics || !f->weights || !f->generator)
        code = ccq_fail(r->err, CCQ_NO_MEMORY, "%s: out of memory", r->path);
    else if (!schema || strcmp(schema, "ccq.ref/1"))
        code = ccq_fail(r->err, CCQ_REFERENCE, "%s: meta: schema is not \"ccq.ref/1\"", r->path);
    else if (!ccq_config_int(c, "vocab_valid", &f->vocab_valid) || f->vocab_valid < 1)
        code = ccq_fail(r->err, CCQ_REFERENCE, "%s: meta: vocab_valid is not a positive integer",
                        r->path);
    ccq_config_free(c);
    return code;
}

static ccq_code check_rows(const reader *r, const ccq_reference *f)
{
    for (size_t i = 0; i < f->rows; i++) {
        int32_t s = f->row_seq[i], p = f->row_pos[i];
        if (s < 0 || (size_t)s >= f->prompts || p < 0 || p >= f->lengths[s])
            return ccq_fail(r->err, CCQ_REFERENCE, "%s: row %zu: sequence %d has no position %d",
                            r->path, i, (int)s, (int)p);
        if (i && (s < f->row_seq[i - 1] || (s == f->row_seq[i - 1] && p <= f->row_pos[i - 1])))
            return ccq_fail(r->err, CCQ_REFERENCE, "%s: row %zu: row_seq and row_pos do not ascend",
                            r->path, i);
    }
    return CCQ_OK;
}

static ccq_code check_logits(const reader *r, const ccq_reference *f)
{
    if (f->vocab_valid > f->vocab)
        return ccq_fail(r->err, CCQ_REFERENCE, "%s: vocab_valid %lld is more than %lld logits",
                        r->path, (long long)f->vocab_valid, (long long)f->vocab);
    for (size_t i = 0; i < f->rows; i++)
        for (int64_t j = 0; j < f->vocab_valid; j++)
            if (!isfinite(f->logits[(int64_t)i * f->vocab + j]))
                return ccq_fail(r->err, CCQ_REFERENCE, "%s: logits: row %zu, id %lld is not finite",
                                r->path, i, (long long)j);
    return CCQ_OK;
}

static ccq_code read_rows(reader *r, ccq_reference *f)
{
    uint64_t shape[3] = {0, 0, 0};
    void *p = NULL;
    ccq_code code = vector(r, "row_seq", CCQ_DT_I32, &f->rows, &p);

    f->row_seq = p;
    if (code)
        return code;
    p = NULL;
    code = vector(r, "row_pos", CCQ_DT_I32, &f->rows, &p);
    f->row_pos = p;
    if (code || (code = check_rows(r, f)))
        return code;
    p = NULL;
    shape[0] = f->rows;
    code = member(r, "logits", CCQ_DT_F32, 2, shape, &p);
    f->logits = p;
    if (code)
        return code;
    f->vocab = (int64_t)shape[1];
    return check_logits(r, f);
}

static ccq_code read_greedy(reader *r, ccq_reference *f)
{
    uint64_t shape[3] = {f->prompts, 0, 0};
    void *p = NULL;
    ccq_code code;

    if (!ccq_npz_has(r->npz, "greedy_ids"))
        return CCQ_OK;
    code = member(r, "greedy_lengths", CCQ_DT_I32, 1, shape, &p);
    f->greedy_lengths = p;
    if (code)
        return code;
    p = NULL;
    code = vector(r, "greedy_ids", CCQ_DT_I32, &f->greedy_count, &p);
    f->greedy_ids = p;
    if (code)
        return code;
    p = NULL;
    code = vector(r, "greedy_gap", CCQ_DT_F32, &f->greedy_count, &p);
    f->greedy_gap = p;
    if (code)
        return code;
    return check_lengths(r, "greedy_lengths", f->greedy_lengths, f->prompts, 0, f->greedy_count);
}

static ccq_code read_router(reader *r, ccq_reference *f)
{
    size_t layers = 0;
    uint64_t shape[3];
    void *p = NULL;
    ccq_code code;

    if (!ccq_npz_has(r->npz, "router_ids"))
        return CCQ_OK;
    code = vector(r, "router_layers", CCQ_DT_I32, &layers, &p);
    f->router_layers = p;
    if (code)
        return code;
    p = NULL;
    shape[0] = f->rows;
    shape[1] = layers;
    shape[2] = 0;
    code = member(r, "router_ids", CCQ_DT_I32, 3, shape, &p);
    f->router_ids = p;
    if (code)
        return code;
    f->layers = (int64_t)layers;
    f->k = (int64_t)shape[2];
    p = NULL;
    code = member(r, "router_margin", CCQ_DT_F32, 2, shape, &p);
    f->router_margin = p;
    return code;
}

static const char *const known[] = {"meta",       "lengths",    "ids",           "row_seq",
                                    "row_pos",    "logits",     "greedy_ids",    "greedy_lengths",
                                    "greedy_gap", "router_ids", "router_layers", "router_margin"};

static ccq_code list_unknown(reader *r, ccq_reference *f)
{
    size_t count = ccq_npz_count(r->npz);

    f->unknown = calloc(count + 1, sizeof *f->unknown);
    for (size_t i = 0; f->unknown && i < count; i++) {
        const char *name = ccq_npz_name(r->npz, i);
        size_t k = 0;
        while (k < sizeof known / sizeof *known && strcmp(known[k], name))
            k++;
        if (k < sizeof known / sizeof *known)
            continue;
        f->unknown[f->unknowns] = strdup(name);
        if (!f->unknown[f->unknowns++])
            break;
    }
    if (!f->unknown || (f->unknowns && !f->unknown[f->unknowns - 1]))
        return ccq_fail(r->err, CCQ_NO_MEMORY, "%s: out of memory", r->path);
    return CCQ_OK;
}

ccq_code ccq_reference_load(ccq_reference **ref, const char *path, ccq_error *err)
{
    char escaped[512];
    ccq_reference *f;
    reader r;
    ccq_code code;

    *ref = NULL;
    if ((code = open_reader(&r, path, escaped, sizeof escaped, err)))
        return code;
    f = calloc(1, sizeof *f);
    if (!f)
        code = ccq_fail(err, CCQ_NO_MEMORY, "%s: out of memory", r.path);
    else if (!(code = read_meta(&r, f)) &&
             !(code = read_prompts(&r, &f->lengths, &f->prompts, &f->ids, &f->id_count)) &&
             !(code = read_rows(&r, f)) && !(code = read_greedy(&r, f)) &&
             !(code = read_router(&r, f)))
        code = list_unknown(&r, f);
    ccq_npz_close(r.npz);
    if (code) {
        ccq_reference_free(f);
        return code;
    }
    *ref = f;
    return CCQ_OK;
}

void ccq_reference_free(ccq_reference *f)
{
    if (!f)
        return;
    void *all[] = {f->producer,   f->numerics,   f->weights,       f->generator,  f->lengths,
                   f->ids,        f->row_seq,    f->row_pos,       f->logits,     f->greedy_lengths,
                   f->greedy_ids, f->greedy_gap, f->router_layers, f->router_ids, f->router_margin};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    for (size_t i = 0; i < f->unknowns; i++)
        free(f->unknown[i]);
    free(f->unknown);
    free(f);
}
