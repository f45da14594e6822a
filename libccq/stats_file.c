#include "libccq/stats_file.h"

#include "formats/single.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { VERSION = 1, ROWS = 64 /* of a matrix at a time */ };

/* int64 numbers of the tensor "meta" */
enum { M_VERSION, M_HIDDEN, M_INTER, M_EXPERTS, M_LAYERS, M_KIND, M_TOKENS, M_WINDOW, M_WINDOWS,
       M_SHARED, M_DIGEST, M_COUNT };

/* Where things are: tensors 0, 1 and 2 are meta, tokens [layers][experts] and crc
 * [matrices]; the matrices follow, layer by layer. */
typedef struct shape {
    int64_t hidden, inter, experts, layers;
    int shared;
} shape;

enum { META, TOKENS, CRCS, MATRICES };

static int64_t per_layer(const shape *s)
{
    return s->shared ? 1 + s->experts : 2 * s->experts;
}

static int64_t matrix_number(const shape *s, int64_t layer, int64_t expert, int down)
{
    int64_t at = s->shared ? (down ? 1 + expert : 0) : 2 * expert + down;
    return layer * per_layer(s) + at;
}

static int64_t rows_of(const shape *s, int down)
{
    return down ? s->inter : s->hidden;
}

static void name_matrix(int64_t layer, int64_t expert, int down, int shared, char out[96])
{
    if (shared && !down)
        snprintf(out, 96, "layers.%" PRId64 ".up_gate", layer);
    else
        snprintf(out, 96, "layers.%" PRId64 ".experts.%" PRId64 ".%s", layer, expert,
                 down ? "down" : "up_gate");
}

static shape shape_of(const ccq_arch *a, int shared)
{
    return (shape){a->hidden, a->moe_inter, a->experts, a->layers, shared};
}

/* ---- Writing --------------------------------------------------------------------- */

struct ccq_stats_out {
    shape shape;
    ccq_layout *layout;
    ccq_single *file;
    int64_t meta[M_COUNT];
    int64_t *tokens, *crc;
    float *rows;
    size_t *tensor; /* by number of the matrix */
};

static size_t add(ccq_layout *l, const char *name, ccq_dtype dtype, int64_t rows, int64_t columns)
{
    uint64_t size[2] = {(uint64_t)rows, (uint64_t)columns};
    return ccq_layout_add(l, name, dtype, columns ? 2 : 1, size);
}

/* tensor (NULL allowed): numbers of the matrices. */
static int add_layer(ccq_layout *l, const ccq_arch *a, const shape *s, int64_t layer,
                     size_t *tensor)
{
    char name[96];
    for (int64_t e = 0; a->layer_moe[layer] && e < s->experts; e++)
        for (int down = 0; down < 2; down++) {
            int64_t k = rows_of(s, down);
            if (s->shared && !down && e)
                continue;
            name_matrix(layer, e, down, s->shared, name);
            size_t i = add(l, name, CCQ_DT_F32, k, k);
            if (i == SIZE_MAX)
                return -1;
            if (tensor)
                tensor[matrix_number(s, layer, e, down)] = i;
        }
    return 0;
}

static ccq_layout *make_layout(const ccq_arch *a, const shape *s, size_t *tensor)
{
    ccq_layout *l = ccq_layout_new("np", 0);
    int bad = !l || add(l, "meta", CCQ_DT_I64, M_COUNT, 0) == SIZE_MAX ||
              add(l, "tokens", CCQ_DT_I64, s->layers, s->experts) == SIZE_MAX ||
              add(l, "crc", CCQ_DT_I64, s->layers, per_layer(s)) == SIZE_MAX;
    for (int64_t i = 0; !bad && i < s->layers; i++)
        bad = add_layer(l, a, s, i, tensor);
    if (!bad && !ccq_layout_finish(l, NULL))
        return l;
    ccq_layout_free(l);
    return NULL;
}

uint64_t ccq_stats_bytes(const ccq_arch *arch, const ccq_calibration *c)
{
    shape s = shape_of(arch, c->shared);
    ccq_layout *l = make_layout(arch, &s, NULL);
    uint64_t bytes = l ? ccq_layout_shard_bytes(l, 0) : 0;
    ccq_layout_free(l);
    return bytes;
}

static void fill_meta(int64_t meta[M_COUNT], const shape *s, const ccq_calibration *c)
{
    meta[M_VERSION] = VERSION;
    meta[M_HIDDEN] = s->hidden;
    meta[M_INTER] = s->inter;
    meta[M_EXPERTS] = s->experts;
    meta[M_LAYERS] = s->layers;
    meta[M_KIND] = c->kind;
    meta[M_TOKENS] = c->tokens;
    meta[M_WINDOW] = c->window;
    meta[M_WINDOWS] = c->windows;
    meta[M_SHARED] = s->shared;
    meta[M_DIGEST] = c->digest;
}

ccq_code ccq_stats_create(ccq_stats_out **out, const char *path, const ccq_arch *arch,
                          const ccq_calibration *c, ccq_error *err)
{
    ccq_stats_out *o = calloc(1, sizeof *o);
    ccq_code code = CCQ_OK;
    *out = NULL;
    if (!o)
        return ccq_fail(err, CCQ_NO_MEMORY, "statistics: out of memory");
    o->shape = shape_of(arch, c->shared);
    size_t matrices = (size_t)(o->shape.layers * per_layer(&o->shape));
    o->tensor = calloc(matrices, sizeof *o->tensor);
    o->crc = calloc(matrices, sizeof *o->crc);
    o->tokens = calloc((size_t)(o->shape.layers * o->shape.experts), sizeof *o->tokens);
    o->rows = malloc(ROWS * (size_t)(arch->hidden + arch->moe_inter) * sizeof *o->rows);
    if (o->tensor && o->crc && o->tokens && o->rows)
        o->layout = make_layout(arch, &o->shape, o->tensor);
    if (!o->layout)
        code = ccq_fail(err, CCQ_NO_MEMORY, "statistics: out of memory");
    fill_meta(o->meta, &o->shape, c);
    if (!code)
        code = ccq_single_create(&o->file, o->layout, path, err);
    if (code) {
        ccq_stats_abandon(o);
        return code;
    }
    *out = o;
    return CCQ_OK;
}

ccq_code ccq_stats_put(ccq_stats_out *o, int64_t layer, int64_t expert, int down, const double *h,
                       ccq_error *err)
{
    int64_t k = rows_of(&o->shape, down);
    int64_t number = matrix_number(&o->shape, layer, expert, down);
    ccq_code code = CCQ_OK;
    uLong crc = 0;
    for (int64_t i = 0; i < k && !code; i += ROWS) {
        int64_t rows = k - i < ROWS ? k - i : ROWS;
        size_t size = (size_t)(rows * k) * sizeof *o->rows;
        for (int64_t j = 0; j < rows * k; j++)
            o->rows[j] = (float)h[i * k + j];
        crc = crc32_z(crc, (const Bytef *)o->rows, size);
        code = ccq_single_write(o->file, o->tensor[number], (uint64_t)(i * k) * sizeof *o->rows,
                                o->rows, size, err);
    }
    o->crc[number] = (int64_t)crc;
    return code;
}

void ccq_stats_tokens(ccq_stats_out *o, int64_t layer, int64_t expert, int64_t tokens)
{
    o->tokens[layer * o->shape.experts + expert] = tokens;
}

static ccq_code write_small(ccq_stats_out *o, size_t i, const int64_t *data, ccq_error *err)
{
    return ccq_single_write(o->file, i, 0, data, ccq_layout_at(o->layout, i)->bytes, err);
}

ccq_code ccq_stats_finish(ccq_stats_out *o, ccq_error *err)
{
    ccq_code code = write_small(o, META, o->meta, err);
    if (!code)
        code = write_small(o, TOKENS, o->tokens, err);
    if (!code)
        code = write_small(o, CRCS, o->crc, err);
    if (!code) {
        code = ccq_single_finish(o->file, err);
        o->file = NULL;
    }
    ccq_stats_abandon(o);
    return code;
}

void ccq_stats_abandon(ccq_stats_out *o)
{
    if (!o)
        return;
    ccq_single_abandon(o->file);
    ccq_layout_free(o->layout);
    free(o->tokens);
    free(o->crc);
    free(o->rows);
    free(o->tensor);
    free(o);
}

/* ---- Reading --------------------------------------------------------------------- */

struct ccq_stats_in {
    char *path; /* escaped, for messages */
    shape shape;
    ccq_checkpoint *file;
    int64_t meta[M_COUNT];
    int64_t *tokens, *crc;
    uint32_t digest;
};

static ccq_code bad(const ccq_stats_in *in, const char *what, ccq_error *err)
{
    return ccq_fail(err, CCQ_CONFIG, "%s: %s", in->path, what);
}

static const ccq_tensor *find(const ccq_stats_in *in, const char *name, ccq_dtype dtype,
                              uint64_t bytes)
{
    const ccq_tensor *t = ccq_checkpoint_find(in->file, name);
    return t && t->dtype == dtype && t->bytes == bytes ? t : NULL;
}

static ccq_code read_small(ccq_stats_in *in, const char *name, int64_t count, int64_t *to,
                           ccq_error *err)
{
    uint64_t size = (uint64_t)count * sizeof *to;
    const ccq_tensor *t = find(in, name, CCQ_DT_I64, size);
    ccq_code code = t ? ccq_checkpoint_read(in->file, t, 0, to, size, err)
                      : bad(in, "no file of statistics, or of another version", err);
    if (!code)
        in->digest = (uint32_t)crc32_z(in->digest, (const Bytef *)to, (size_t)size);
    return code;
}

static ccq_code check_meta(ccq_stats_in *in, const ccq_arch *a, ccq_error *err)
{
    const int64_t *m = in->meta;
    int fits = m[M_HIDDEN] == a->hidden && m[M_INTER] == a->moe_inter &&
               m[M_EXPERTS] == a->experts && m[M_LAYERS] == a->layers;
    if (m[M_VERSION] != VERSION)
        return bad(in, "statistics of another version", err);
    if (!fits)
        return bad(in, "statistics of a model of other sizes", err);
    if ((m[M_KIND] != CCQ_CALIBRATE_TOKENS && m[M_KIND] != CCQ_CALIBRATE_RANDOM) ||
        m[M_SHARED] < 0 || m[M_SHARED] > 1 || m[M_TOKENS] < 2 || m[M_TOKENS] > INT32_MAX ||
        m[M_WINDOW] < 2 || m[M_WINDOWS] < 1 || m[M_WINDOW] > m[M_TOKENS] / m[M_WINDOWS])
        return bad(in, "statistics that say nothing sensible of themselves", err);
    in->shape = shape_of(a, (int)m[M_SHARED]);
    return CCQ_OK;
}

ccq_code ccq_stats_open(ccq_stats_in **stats, const char *path, const ccq_arch *a, ccq_error *err)
{
    ccq_stats_in *in = calloc(1, sizeof *in);
    char shown[512];
    ccq_code code;
    *stats = NULL;
    ccq_escape(shown, sizeof shown, path, strlen(path));
    if (!in || !(in->path = strdup(shown))) {
        free(in);
        return ccq_fail(err, CCQ_NO_MEMORY, "statistics: out of memory");
    }
    code = ccq_checkpoint_open_file(&in->file, path, err);
    if (!code)
        code = read_small(in, "meta", M_COUNT, in->meta, err);
    if (!code)
        code = check_meta(in, a, err);
    if (!code) {
        int64_t seen = a->layers * a->experts, matrices = a->layers * per_layer(&in->shape);
        in->tokens = calloc((size_t)seen + 1, sizeof *in->tokens);
        in->crc = calloc((size_t)matrices + 1, sizeof *in->crc);
        code = in->tokens && in->crc ? read_small(in, "tokens", seen, in->tokens, err)
                                     : ccq_fail(err, CCQ_NO_MEMORY, "statistics: out of memory");
        if (!code)
            code = read_small(in, "crc", matrices, in->crc, err);
    }
    if (code) {
        ccq_stats_close(in);
        return code;
    }
    *stats = in;
    return CCQ_OK;
}

void ccq_stats_close(ccq_stats_in *in)
{
    if (!in)
        return;
    ccq_checkpoint_close(in->file);
    free(in->tokens);
    free(in->crc);
    free(in->path);
    free(in);
}

void ccq_stats_describe(const ccq_stats_in *in, ccq_calibration *c)
{
    c->tokens = in->meta[M_TOKENS];
    c->window = in->meta[M_WINDOW];
    c->windows = in->meta[M_WINDOWS];
    c->shared = in->shape.shared;
    c->random = in->meta[M_KIND] == CCQ_CALIBRATE_RANDOM;
    c->digest = in->digest;
}

int64_t ccq_stats_seen(const ccq_stats_in *in, int64_t layer, int64_t expert)
{
    return in->tokens[layer * in->shape.experts + expert];
}

static ccq_code widen(const ccq_stats_in *in, const char *name, const float *x, int64_t count,
                      double *h, ccq_error *err)
{
    for (int64_t i = 0; i < count; i++) {
        if (!isfinite(x[i]))
            return ccq_fail(err, CCQ_NONFINITE, "%s: \"%s\": not finite", in->path, name);
        h[i] = (double)x[i];
    }
    return CCQ_OK;
}

ccq_code ccq_stats_get(const ccq_stats_in *in, int64_t layer, int64_t expert, int down, double *h,
                       ccq_error *err)
{
    int64_t k = rows_of(&in->shape, down);
    size_t size = (size_t)(k * k) * sizeof(float);
    char name[96];
    name_matrix(layer, expert, down, in->shape.shared, name);
    const ccq_tensor *t = find(in, name, CCQ_DT_F32, size);
    if (!t)
        return ccq_fail(err, CCQ_CONFIG, "%s: \"%s\" is not there, or of another size", in->path,
                        name);
    float *x = malloc(size);
    if (!x)
        return ccq_fail(err, CCQ_NO_MEMORY, "statistics: out of memory");
    ccq_code code = ccq_checkpoint_read(in->file, t, 0, x, size, err);
    uint32_t crc = (uint32_t)crc32_z(0, (const Bytef *)x, size);
    if (!code && (int64_t)crc != in->crc[matrix_number(&in->shape, layer, expert, down)])
        code = ccq_fail(err, CCQ_CRC, "%s: \"%s\": its CRC-32 is %08lx", in->path, name,
                        (unsigned long)crc);
    if (!code)
        code = widen(in, name, x, k * k, h, err);
    free(x);
    return code;
}
