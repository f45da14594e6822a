/* Where the tensors of one file lie: from 0, without holes or overlaps, each as long
 * as its shape says, to the end of the file. */
#include "formats/internal.h"

#include <stdlib.h>
#include <string.h>

static int by_offset(const ccq_tensor *x, const ccq_tensor *y)
{
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    if (x->bytes != y->bytes) /* still the end */
        return x->bytes < y->bytes ? -1 : 1;
    if (x->offset == x->bytes) /* empty ones may share a place, in any order */
        return 0;
    return strcmp(x->name, y->name); /* a tie has its own fault; the message must not vary */
}

static int by_place(const void *a, const void *b, void *tensors)
{
    const uint32_t *x = a, *y = b;
    const ccq_tensor *t = tensors;
    return by_offset(&t[*x], &t[*y]);
}

/* *order: the places of the tensors by offset; NULL when they are in that order. */
static ccq_code sort_places(const ccq_st *st, uint32_t **order)
{
    size_t i = 1;
    *order = NULL;
    while (i < st->count && by_offset(&st->tensors[i - 1], &st->tensors[i]) <= 0)
        i++;
    if (i >= st->count)
        return CCQ_OK;
    if (!(*order = malloc(st->count * sizeof **order)))
        return CCQ_NO_MEMORY;
    for (i = 0; i < st->count; i++)
        (*order)[i] = (uint32_t)i;
    qsort_r(*order, st->count, sizeof **order, by_place, st->tensors);
    return CCQ_OK;
}

/* Bytes that the shape needs against those it has. */
static ccq_code check_size(const char *path, const ccq_tensor *t, ccq_error *err)
{
    uint64_t n = 1, have = t->bytes - t->offset;
    unsigned bits = ccq_dtype_bits((ccq_dtype)t->dtype);
    for (unsigned i = 0; i < t->rank; i++) /* left to right: [0, 2^63, 4] is fine */
        if (__builtin_mul_overflow(n, t->shape[i], &n))
            return ccq_fail_name(err, CCQ_OVERFLOW, path, t->name, "element count passes 2^64");
    if (__builtin_mul_overflow(n, bits, &n))
        return ccq_fail_name(err, CCQ_OVERFLOW, path, t->name, "bit count passes 2^64");
    if (n % 8)
        return ccq_fail_name(err, CCQ_SUBBYTE, path, t->name, "%s shape does not fill whole bytes",
                             ccq_dtype_name((ccq_dtype)t->dtype));
    if (n / 8 != have)
        return ccq_fail_name(err, CCQ_SIZE, path, t->name,
                             "shape needs %llu bytes, offsets give %llu",
                             (unsigned long long)(n / 8), (unsigned long long)have);
    return CCQ_OK;
}

static ccq_code gap(const char *path, const ccq_tensor *before, const ccq_tensor *t, uint64_t end,
                    ccq_error *err)
{
    char other[160] = "start of the data";
    if (before)
        ccq_escape(other, sizeof other, before->name, strlen(before->name));
    int hole = t->offset > end;
    return ccq_fail_name(err, hole ? CCQ_HOLE : CCQ_OVERLAP, path, t->name,
                         "begins at %llu, %s %s%s%s, which ends at %llu",
                         (unsigned long long)t->offset, hole ? "leaves a hole after" : "overlaps",
                         before ? "\"" : "", other, before ? "\"" : "", (unsigned long long)end);
}

/* Each one begins where the one before it ends; *last is the last of them. */
static ccq_code check_order(const ccq_st *st, const uint32_t *order, const char *path,
                            const ccq_tensor **last, ccq_error *err)
{
    uint64_t end = 0;
    for (size_t i = 0; i < st->count; i++) {
        const ccq_tensor *t = &st->tensors[order ? order[i] : i];
        ccq_code code = CCQ_OK;
        if (t->bytes < t->offset)
            code = ccq_fail_name(err, CCQ_OFFSETS, path, t->name, "data end %llu < begin %llu",
                                 (unsigned long long)t->bytes, (unsigned long long)t->offset);
        else if (t->offset != end)
            code = gap(path, *last, t, end, err);
        else
            code = check_size(path, t, err);
        if (code)
            return code;
        end = t->bytes;
        *last = t;
    }
    return CCQ_OK;
}

ccq_code ccq_st_check_layout(ccq_st *st, const ccq_file *file, ccq_error *err)
{
    uint64_t data = 8 + st->header_size, room = file->size - data;
    const char *path = file->path;
    const ccq_tensor *last = NULL;
    uint32_t *order;
    ccq_code code = sort_places(st, &order);
    if (code)
        return ccq_fail_file(err, code, path, "out of memory for the header");
    code = check_order(st, order, path, &last, err);
    free(order);
    if (code)
        return code;
    uint64_t end = last ? last->bytes : 0;
    if (end > room)
        return ccq_fail_name(err, CCQ_TRUNCATED, path, last->name,
                             "data end %llu > %llu bytes behind the header",
                             (unsigned long long)end, (unsigned long long)room);
    if (end < room)
        return ccq_fail_file(err, CCQ_TRAILING, path, "%llu bytes behind the last tensor",
                             (unsigned long long)(room - end));
    for (size_t i = 0; i < st->count; i++) {
        ccq_tensor *t = &st->tensors[i];
        t->bytes -= t->offset;
        t->offset += data;
    }
    return CCQ_OK;
}
