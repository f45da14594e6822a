/* The npy header: a Python dict literal of fixed keys, matched, never evaluated. */
#include "formats/npz_internal.h"

#include <string.h>

typedef struct cursor {
    const char *p, *end;
    const char *path, *name;
    ccq_error *err;
} cursor;

static ccq_code bad(const cursor *c, const char *what)
{
    return ccq_fail_name(c->err, CCQ_NPY, c->path, c->name, "npy header: %s", what);
}

static void space(cursor *c)
{
    while (c->p < c->end && (*c->p == ' ' || *c->p == '\n' || *c->p == '\t'))
        c->p++;
}

static int take(cursor *c, const char *word)
{
    size_t n = strlen(word);
    space(c);
    if ((size_t)(c->end - c->p) < n || memcmp(c->p, word, n) != 0)
        return 0;
    c->p += n;
    return 1;
}

/* A quoted string without escapes. */
static int quoted(cursor *c, const char **text, size_t *len)
{
    space(c);
    if (c->p == c->end || (*c->p != '\'' && *c->p != '"'))
        return 0;
    const char *close = memchr(c->p + 1, *c->p, (size_t)(c->end - c->p) - 1);
    if (!close || memchr(c->p + 1, '\\', (size_t)(close - c->p) - 1))
        return 0;
    *text = c->p + 1;
    *len = (size_t)(close - *text);
    c->p = close + 1;
    return 1;
}

static ccq_code read_descr(cursor *c, ccq_array *a)
{
    static const struct {
        const char *descr;
        ccq_dtype dtype;
    } known[] = {{"<f4", CCQ_DT_F32}, {"<i4", CCQ_DT_I32}, {"|u1", CCQ_DT_U8}, {"<i8", CCQ_DT_I64}};
    const char *text;
    size_t len;
    char shown[64];
    if (!quoted(c, &text, &len))
        return bad(c, "descr is not a string (structured types are not read)");
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (len == 3 && memcmp(text, known[i].descr, 3) == 0) {
            a->dtype = known[i].dtype;
            return CCQ_OK;
        }
    return ccq_fail_name(c->err, CCQ_NPY, c->path, c->name,
                         "type \"%s\" is not read (<f4 <i4 |u1 <i8 are)",
                         ccq_escape(shown, sizeof shown, text, len));
}

static int number(cursor *c, uint64_t *v)
{
    const char *from = c->p;
    *v = 0;
    for (; c->p < c->end && *c->p >= '0' && *c->p <= '9'; c->p++)
        if (__builtin_mul_overflow(*v, 10, v) ||
            __builtin_add_overflow(*v, (uint64_t)(*c->p - '0'), v))
            return 0;
    return c->p > from && (*from != '0' || c->p == from + 1);
}

/* (), (3,) or (2, 3): one element needs its comma. */
static ccq_code read_shape(cursor *c, ccq_array *a)
{
    if (!take(c, "("))
        return bad(c, "shape is not a tuple");
    a->rank = 0;
    while (!take(c, ")")) {
        uint64_t v;
        space(c);
        if (!number(c, &v))
            return bad(c, "shape is not a tuple of plain integers");
        if (a->rank == (int)(sizeof a->shape / sizeof *a->shape))
            return bad(c, "more than 8 axes");
        a->shape[a->rank++] = v;
        if (take(c, ","))
            continue;
        if (a->rank == 1 || !take(c, ")"))
            return bad(c, "shape is not a tuple");
        break;
    }
    return CCQ_OK;
}

static ccq_code read_dict(cursor *c, ccq_array *a, int *fortran)
{
    unsigned seen = 0;
    if (!take(c, "{"))
        return bad(c, "not a dict");
    while (!take(c, "}")) {
        static const char *const keys[] = {"descr", "fortran_order", "shape"};
        const char *text;
        size_t len;
        unsigned k = 0;
        if (!quoted(c, &text, &len) || !take(c, ":"))
            return bad(c, "a quoted key is wanted");
        while (k < 3 && (strlen(keys[k]) != len || memcmp(keys[k], text, len) != 0))
            k++;
        if (k == 3 || (seen >> k & 1))
            return bad(c, k == 3 ? "unknown key" : "key twice");
        seen |= 1u << k;
        ccq_code code = CCQ_OK;
        if (k == 0)
            code = read_descr(c, a);
        else if (k == 2)
            code = read_shape(c, a);
        else if (!(*fortran = take(c, "True")) && !take(c, "False"))
            code = bad(c, "fortran_order is neither True nor False");
        if (code)
            return code;
        if (!take(c, ",") && (space(c), c->p == c->end || *c->p != '}'))
            return bad(c, "a comma is wanted");
    }
    space(c);
    if (seen != 7 || c->p != c->end)
        return bad(c,
                   seen != 7 ? "descr, fortran_order or shape is missing" : "text after the dict");
    return CCQ_OK;
}

ccq_code ccq_npy_header(const char *text, size_t len, const char *path, const char *name,
                        ccq_array *a, ccq_error *err)
{
    cursor c = {text, text + len, path, name, err};
    int fortran = 0;
    memset(a, 0, sizeof *a);
    ccq_code code = read_dict(&c, a, &fortran);
    if (code)
        return code;
    if (fortran && a->rank > 1)
        return ccq_fail_name(err, CCQ_NPY, path, name, "Fortran order is not read");
    a->count = 1;
    for (int i = 0; i < a->rank; i++)
        if (__builtin_mul_overflow(a->count, a->shape[i], &a->count))
            return ccq_fail_name(err, CCQ_OVERFLOW, path, name, "element count passes 2^64");
    return CCQ_OK;
}
