/* Every byte of a stored tensor, chunks over the pool, results in order. */
#include "libccq/scan.h"

#include "kernels/convert.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { CHUNK = 4 << 20 }; /* bytes; a multiple of every item size */

/* One chunk, or what all chunks before it gave. */
typedef struct part {
    uint32_t crc;
    int any; /* a byte that is not 0 */
    uint64_t bad, first;
} part;

typedef struct job {
    const ccq_checkpoint *files, *other;
    const ccq_tensor *t, *u; /* u: of other; NULL when there is one tensor only */
    unsigned char *memory;   /* one chunk a worker, two with other */
    size_t chunk;            /* bytes of one */
    part *parts;
    ccq_error *errors; /* one a worker, of its first chunk that failed */
    size_t *failed;    /* that chunk + 1, 0 = none */
} job;

static unsigned item_size(const ccq_tensor *t)
{
    unsigned size = ccq_dtype_bits((ccq_dtype)t->dtype) / 8;
    return size ? size : 1;
}

/* ---- One chunk ------------------------------------------------------------ */

/* First value that is NaN or Inf; count when there is none. */
static int64_t find_bad(const ccq_tensor *t, const unsigned char *p, int64_t from, int64_t count)
{
    const void *at = p + (size_t)from * item_size(t); /* chunks are aligned by malloc */
    switch (t->dtype) {
    case CCQ_DT_BF16:
    case CCQ_DT_U16:
        return from + ccq_bf16_find_nonfinite(at, count - from);
    case CCQ_DT_F16:
        return from + ccq_f16_find_nonfinite(at, count - from);
    case CCQ_DT_F32:
        return from + ccq_f32_find_nonfinite(at, count - from);
    default:
        return count;
    }
}

static void look(const job *j, part *p, const unsigned char *data, size_t size, uint64_t at)
{
    int64_t count = (int64_t)(size / item_size(j->t));
    p->crc = (uint32_t)crc32(0, data, (uInt)size);
    p->any = data[0] != 0 || memcmp(data, data + 1, size - 1) != 0;
    for (int64_t i = find_bad(j->t, data, 0, count); i < count;
         i = find_bad(j->t, data, i + 1, count))
        if (p->bad++ == 0)
            p->first = at / item_size(j->t) + (uint64_t)i;
}

static void look_at_both(const job *j, part *p, const unsigned char *x, const unsigned char *y,
                         size_t size, uint64_t at)
{
    size_t step = item_size(j->t);
    if (memcmp(x, y, size) == 0)
        return;
    for (size_t i = 0; i + step <= size; i += step)
        if (memcmp(x + i, y + i, step) != 0 && p->bad++ == 0)
            p->first = (at + i) / step;
}

static void run_chunk(void *ctx, size_t i, int worker)
{
    job *j = ctx;
    unsigned char *x = j->memory + (size_t)worker * j->chunk * (j->u ? 2 : 1), *y = x + j->chunk;
    uint64_t at = (uint64_t)i * CHUNK, left = j->t->bytes - at;
    size_t size = left < CHUNK ? (size_t)left : CHUNK;
    ccq_error err;
    ccq_code code = ccq_checkpoint_read(j->files, j->t, at, x, size, &err);
    if (!code && j->u)
        code = ccq_checkpoint_read(j->other, j->u, at, y, size, &err);
    if (code) {
        if (!j->failed[worker] || j->failed[worker] > i + 1) {
            j->errors[worker] = err;
            j->failed[worker] = i + 1;
        }
    } else if (j->u) {
        look_at_both(j, &j->parts[i], x, y, size, at);
    } else {
        look(j, &j->parts[i], x, size, at);
    }
}

/* ---- All of them ---------------------------------------------------------- */

/* Chunk i onto those before it. */
static void add_part(part *sum, const part *p, size_t size)
{
    sum->crc = (uint32_t)crc32_combine(sum->crc, p->crc, (z_off_t)size);
    sum->any |= p->any;
    sum->first = sum->bad ? sum->first : p->first;
    sum->bad += p->bad;
}

/* The error of the first chunk that has one. */
static ccq_code first_error(const job *j, int workers, ccq_error *err)
{
    int first = -1;
    for (int i = 0; i < workers; i++)
        if (j->failed[i] && (first < 0 || j->failed[i] < j->failed[first]))
            first = i;
    if (first < 0)
        return CCQ_OK;
    if (err)
        *err = j->errors[first];
    return j->errors[first].code;
}

static ccq_code run(job *j, ccq_pool *pool, part *sum, ccq_error *err)
{
    uint64_t bytes = j->t->bytes;
    size_t chunks = (size_t)((bytes + CHUNK - 1) / CHUNK), i;
    int workers = chunks > 1 ? ccq_pool_threads(pool) : 1;
    ccq_code code;
    j->chunk = bytes < CHUNK ? (size_t)bytes : CHUNK;
    j->chunk = (j->chunk + 63) / 64 * 64;
    j->memory = malloc((size_t)workers * j->chunk * (j->u ? 2 : 1) + 1);
    j->parts = calloc(chunks + 1, sizeof *j->parts);
    j->errors = calloc((size_t)workers, sizeof *j->errors);
    j->failed = calloc((size_t)workers, sizeof *j->failed);
    memset(sum, 0, sizeof *sum);
    if (j->memory && j->parts && j->errors && j->failed) {
        if (chunks > 1)
            ccq_pool_run(pool, chunks, run_chunk, j);
        else if (chunks)
            run_chunk(j, 0, 0);
        code = first_error(j, workers, err);
        for (i = 0; i < chunks && !code; i++)
            add_part(sum, &j->parts[i], (size_t)(i + 1 < chunks ? CHUNK : bytes - i * CHUNK));
    } else {
        code = ccq_fail(err, CCQ_NO_MEMORY, "out of memory to read %zu chunks", chunks);
    }
    free(j->memory);
    free(j->parts);
    free(j->errors);
    free(j->failed);
    return code;
}

ccq_code ccq_scan_tensor(ccq_data *data, const ccq_checkpoint *files, const ccq_tensor *t,
                         ccq_pool *pool, ccq_error *err)
{
    job j = {.files = files, .t = t};
    part sum;
    ccq_code code = run(&j, pool, &sum, err);
    *data = (ccq_data){sum.crc, t->bytes > 0 && !sum.any, sum.bad, sum.first};
    return code;
}

ccq_code ccq_scan_pair(ccq_unlike *unlike, const ccq_checkpoint *a, const ccq_tensor *x,
                       const ccq_checkpoint *b, const ccq_tensor *y, ccq_pool *pool,
                       ccq_error *err)
{
    job j = {.files = a, .other = b, .t = x, .u = y};
    part sum;
    if (x->dtype != y->dtype || x->bytes != y->bytes)
        return ccq_fail(err, CCQ_BUG, "tensors of %llu and %llu bytes compared",
                        (unsigned long long)x->bytes, (unsigned long long)y->bytes);
    ccq_code code = run(&j, pool, &sum, err);
    *unlike = (ccq_unlike){x->bytes / item_size(x), sum.bad, sum.first};
    return code;
}
