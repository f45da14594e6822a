/* ccq-inspect FILE: the tensors of one .safetensors, .pdparams, .npz or .npy file.
 * What kind it is shows in its first bytes. */
#include "tools/inspect.h"

#include "formats/checkpoint.h"
#include "formats/file.h"
#include "formats/npz.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_BYTES = 300 };

typedef struct row {
    const char *name, *dtype;
    uint64_t shape[CCQ_MAX_RANK];
    int rank;
    uint64_t bytes;
    char *fault; /* why the rest is not known; NULL = it is */
} row;

typedef struct listing {
    const char *format;
    ccq_checkpoint *files;
    ccq_npz *npz;
    row *row;
    size_t rows;
    uint64_t bytes;
} listing;

static ccq_code make_rows(listing *l, size_t count, ccq_error *err)
{
    l->row = calloc(count + 1, sizeof *l->row);
    l->rows = l->row ? count : 0;
    return l->row ? CCQ_OK : ccq_fail(err, CCQ_NO_MEMORY, "out of memory for %zu tensors", count);
}

/* ---- Reading -------------------------------------------------------------- */

static ccq_code read_checkpoint(listing *l, const char *path, ccq_error *err)
{
    ccq_code code = ccq_checkpoint_open_file(&l->files, path, err);
    if (!code)
        code = make_rows(l, ccq_checkpoint_count(l->files), err);
    if (code)
        return code;
    l->format = ccq_checkpoint_shard(l->files, 0)->header_size ? "safetensors" : "pdparams";
    for (size_t i = 0; i < l->rows; i++) {
        const ccq_tensor *t = ccq_checkpoint_at(l->files, i);
        row *r = &l->row[i];
        r->name = t->name;
        r->dtype = ccq_dtype_name((ccq_dtype)t->dtype);
        r->rank = t->rank;
        r->bytes = t->bytes;
        for (int j = 0; j < t->rank; j++)
            r->shape[j] = t->shape[j];
    }
    return CCQ_OK;
}

static void set_array(row *r, const ccq_array *a)
{
    r->dtype = ccq_dtype_name(a->dtype);
    r->rank = a->rank;
    r->bytes = a->count * (ccq_dtype_bits(a->dtype) / 8);
    memcpy(r->shape, a->shape, (size_t)a->rank * sizeof *a->shape);
}

/* A member of a type that is not read has a row with the reason. */
static ccq_code read_npz(listing *l, const char *path, ccq_error *err)
{
    ccq_code code = ccq_npz_open(&l->npz, path, err);
    if (!code)
        code = make_rows(l, ccq_npz_count(l->npz), err);
    l->format = "npz";
    for (size_t i = 0; i < l->rows && !code; i++) {
        ccq_array a;
        l->row[i].name = ccq_npz_name(l->npz, i);
        if (ccq_npz_describe(l->npz, l->row[i].name, &a, err) == CCQ_OK)
            set_array(&l->row[i], &a);
        else if (!(l->row[i].fault = strdup(err->text)))
            code = ccq_fail(err, CCQ_NO_MEMORY, "out of memory");
    }
    return code;
}

static ccq_code read_npy(listing *l, const char *path, ccq_error *err)
{
    ccq_array a;
    ccq_code code = ccq_npy_describe(path, &a, err);
    if (!code)
        code = make_rows(l, 1, err);
    l->format = "npy";
    if (code)
        return code;
    l->row[0].name = "array";
    set_array(&l->row[0], &a);
    return CCQ_OK;
}

static ccq_code read_any(listing *l, const char *path, ccq_error *err)
{
    unsigned char start[6] = {0};
    ccq_file file;
    ccq_code code = ccq_file_open(&file, path, CCQ_NO_INPUT, err);
    if (code)
        return code;
    if (file.size >= sizeof start)
        code = ccq_file_read(&file, 0, start, sizeof start, err);
    ccq_file_close(&file);
    if (code)
        return code;
    if (memcmp(start, "PK", 2) == 0)
        return read_npz(l, path, err);
    if (memcmp(start, "\x93NUMPY", 6) == 0)
        return read_npy(l, path, err);
    return read_checkpoint(l, path, err);
}

/* Leaves the rows whose names match. */
static void select_rows(listing *l, const inspect *in)
{
    size_t kept = 0;
    for (size_t i = 0; i < l->rows; i++) {
        if (in->pattern && regexec(&in->regex, l->row[i].name, 0, NULL, 0) != 0) {
            free(l->row[i].fault);
            continue;
        }
        l->bytes += l->row[i].bytes;
        l->row[kept++] = l->row[i];
    }
    l->rows = kept;
}

/* ---- Printing ------------------------------------------------------------- */

static void print_text(const listing *l, const inspect *in)
{
    char name[NAME_BYTES], shape[400], bytes[24];
    printf("%s: %s, %zu tensors, %s\n", ccq_escape(name, sizeof name, in->model, strlen(in->model)),
           l->format, l->rows, cli_bytes(bytes, sizeof bytes, l->bytes));
    for (size_t i = 0; i < l->rows; i++) {
        const row *r = &l->row[i];
        int used = snprintf(shape, sizeof shape, "[");
        for (int j = 0; j < r->rank; j++)
            used += snprintf(shape + used, sizeof shape - (size_t)used, "%s%" PRIu64,
                             j ? ", " : "", r->shape[j]);
        snprintf(shape + used, sizeof shape - (size_t)used, "]");
        ccq_escape(name, sizeof name, r->name, strlen(r->name));
        if (r->fault)
            printf("  %-56s %s\n", name, r->fault);
        else
            printf("  %-56s %-5s %-20s %" PRIu64 " bytes\n", name, r->dtype, shape, r->bytes);
    }
}

static void put_row(ccq_jw *w, const row *r)
{
    ccq_jw_object(w);
    ccq_jw_kstring(w, "name", r->name);
    if (r->fault) {
        ccq_jw_kstring(w, "fault", r->fault);
    } else {
        ccq_jw_kstring(w, "dtype", r->dtype);
        ccq_jw_key(w, "shape");
        ccq_jw_array(w);
        for (int j = 0; j < r->rank; j++)
            ccq_jw_u64(w, r->shape[j]);
        ccq_jw_end(w);
        ccq_jw_ku64(w, "bytes", r->bytes);
    }
    ccq_jw_end(w);
}

static int print_json(const listing *l, const inspect *in)
{
    ccq_jw w;
    ccq_jw_init(&w, 1);
    ccq_jw_object(&w);
    ccq_jw_kstring(&w, "schema", "ccq.inspect/1");
    ccq_jw_kstring(&w, "model", in->model);
    ccq_jw_kstring(&w, "format", l->format);
    ccq_jw_ku64(&w, "bytes", l->bytes);
    ccq_jw_key(&w, "tensors");
    ccq_jw_array(&w);
    for (size_t i = 0; i < l->rows; i++)
        put_row(&w, &l->row[i]);
    ccq_jw_end(&w);
    if (in->compare)
        inspect_diff_json(&w, in);
    ccq_jw_end(&w);
    char *text = ccq_jw_take(&w, NULL);
    if (!text) {
        cli_error(&in->c, "out of memory");
        return CLI_UNAVAILABLE;
    }
    fputs(text, stdout);
    free(text);
    return CLI_OK;
}

/* ---- All of it ------------------------------------------------------------ */

/* Listed, and compared with another file where that is asked for. */
int inspect_file(inspect *in)
{
    listing l = {0};
    ccq_error err;
    int status = CLI_OK;
    if (in->against || in->verify || in->values || in->tp_rank >= 0 || in->order >= 0) {
        cli_error(&in->c, "a single file can be listed and compared, nothing else");
        return CLI_USAGE;
    }
    if (read_any(&l, in->model, &err)) {
        status = cli_fail(&in->c, &err);
    } else {
        select_rows(&l, in);
        if (in->pattern && !l.rows) {
            cli_error(&in->c, "--tensor %s: no tensor matches", in->pattern);
            status = CLI_USAGE;
        } else if (in->compare && strncmp(l.format, "np", 2) == 0) {
            cli_error(&in->c, "%s: %s files are listed, not compared", in->model, l.format);
            status = CLI_USAGE;
        } else if (in->compare)
            status = inspect_compare(in);
        if (!status && in->c.json)
            status = print_json(&l, in);
        else if (!status && !in->compare)
            print_text(&l, in);
        if (!status && in->diff.diffs)
            status = CLI_FAILED;
    }
    for (size_t i = 0; i < l.rows; i++)
        free(l.row[i].fault);
    free(l.row);
    ccq_npz_close(l.npz);
    ccq_checkpoint_close(l.files);
    return status;
}
