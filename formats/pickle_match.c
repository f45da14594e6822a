/* The patterns that stand for calls: which globals there are, what REDUCE and
 * BUILD may be applied to. Nothing here does what Python would do; a numpy array
 * is recognised by the shape of its pickle:
 *
 *   dtype    REDUCE dtype (CODE, false, true)
 *            BUILD  (3, ORDER, None, None, None, -1, -1, 0)
 *   array    REDUCE _reconstruct (ndarray, (0,), one byte)
 *            BUILD  (1, SHAPE, dtype, false, BYTES)
 *   bytes    REDUCE _codecs.encode (TEXT, "latin1")        protocol 2
 *   tensor   REDUCE tuple ((NAME, array),)                 a bare Paddle tensor */
#include "formats/pickle.h"

#include <string.h>

enum { RECONSTRUCT, NDARRAY, DTYPE, ENCODE, TUPLE };

static const struct {
    const char *module, *name;
    int global;
} globals[] = {
    {"numpy.core.multiarray", "_reconstruct", RECONSTRUCT},
    {"numpy._core.multiarray", "_reconstruct", RECONSTRUCT},
    {"numpy", "ndarray", NDARRAY},
    {"numpy", "dtype", DTYPE},
    {"_codecs", "encode", ENCODE},
    {"builtins", "tuple", TUPLE},
    {"__builtin__", "tuple", TUPLE}, /* its name in protocol 2 */
};

ccq_code ccq_pickle_global(ccq_pickle *p, const char *module, const char *name)
{
    char m[160], n[160];
    for (size_t i = 0; i < sizeof globals / sizeof *globals; i++)
        if (strcmp(globals[i].module, module) == 0 && strcmp(globals[i].name, name) == 0)
            return ccq_pickle_push(p, CCQ_PK_GLOBAL, (uint64_t)globals[i].global, 0);
    ccq_escape(m, sizeof m, module, strlen(module));
    ccq_escape(n, sizeof n, name, strlen(name));
    if (strcmp(name, "eval") == 0 && strstr(module, "builtin"))
        return ccq_pickle_fail(p, CCQ_UNSUPPORTED, p->at,
                               "%s: %s.eval: Paddle writes it for a LoDTensor, but it would run "
                               "code from the file, and no file may do that: save the "
                               "state_dict() instead", p->opcode, m);
    return ccq_pickle_fail(p, CCQ_UNSUPPORTED, p->at,
                           "%s: global %s.%s: only those of numpy arrays are read", p->opcode, m,
                           n);
}

static ccq_code mismatch(ccq_pickle *p, const char *what)
{
    return ccq_pickle_fail(p, CCQ_UNSUPPORTED, p->at, "%s: not the pattern of %s", p->opcode, what);
}

static int is_int(ccq_pk_value v, int64_t want)
{
    return v.kind == CCQ_PK_INT && v.a == (uint64_t)want;
}

/* Older numpy writes 0 and 1 for false and true. */
static int is_flag(ccq_pk_value v, int want)
{
    return (v.kind == CCQ_PK_BOOL || v.kind == CCQ_PK_INT) && v.a == (uint64_t)want;
}

static int is_global(ccq_pk_value v, int want)
{
    return v.kind == CCQ_PK_GLOBAL && v.a == (uint64_t)want;
}

static int is_bytes(ccq_pk_value v)
{
    return v.kind == CCQ_PK_BYTES || v.kind == CCQ_PK_LATIN1 || v.kind == CCQ_PK_STRING;
}

/* v is a tuple of count items. */
static int is_tuple(const ccq_pickle *p, ccq_pk_value v, size_t count)
{
    return v.kind == CCQ_PK_TUPLE && p->objects[v.a].count == count;
}

/* ---- REDUCE -------------------------------------------------------------------- */

static ccq_code reduce_array(ccq_pickle *p, const ccq_pk_value *arg, size_t count)
{
    if (count != 3 || !is_global(arg[0], NDARRAY) || !is_tuple(p, arg[1], 1) ||
        !is_int(p->objects[arg[1].a].items[0], 0) || !is_bytes(arg[2]) || arg[2].n != 1)
        return mismatch(p, "a numpy array");
    return ccq_pickle_make(p, CCQ_PK_ARRAY, NULL, 0);
}

static ccq_dtype dtype_of(const char *code)
{
    static const struct {
        const char *code;
        ccq_dtype dtype;
    } known[] = {{"u2", CCQ_DT_U16}, {"f2", CCQ_DT_F16}, {"f4", CCQ_DT_F32}, {"i1", CCQ_DT_I8},
                 {"u1", CCQ_DT_U8},  {"i4", CCQ_DT_I32}, {"i8", CCQ_DT_I64}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(known[i].code, code) == 0)
            return known[i].dtype;
    return CCQ_DT_COUNT;
}

static ccq_code reduce_dtype(ccq_pickle *p, const ccq_pk_value *arg, size_t count)
{
    char text[16], shown[64];
    if (count != 3 || !ccq_pickle_is_text(arg[0]) || arg[0].n >= sizeof text ||
        !is_flag(arg[1], 0) || !is_flag(arg[2], 1))
        return mismatch(p, "a numpy dtype");
    ccq_code code = ccq_pickle_text(p, arg[0], text, sizeof text);
    if (code)
        return code;
    ccq_dtype dtype = dtype_of(text);
    if (dtype == CCQ_DT_COUNT)
        return ccq_pickle_fail(p, CCQ_DTYPE, p->at, "numpy dtype \"%s\"; u2 f2 f4 i1 u1 i4 i8 "
                               "are read",
                               ccq_escape(shown, sizeof shown, text, (size_t)arg[0].n));
    code = ccq_pickle_make(p, CCQ_PK_DTYPE, NULL, 0);
    if (!code)
        p->objects[p->object_count - 1].dtype = (uint8_t)dtype;
    return code;
}

static ccq_code reduce_encode(ccq_pickle *p, const ccq_pk_value *arg, size_t count)
{
    if (count != 2 || arg[0].kind != CCQ_PK_TEXT || !ccq_pickle_is(p, arg[1], "latin1"))
        return mismatch(p, "bytes as latin1 text");
    return ccq_pickle_push(p, CCQ_PK_LATIN1, arg[0].a, arg[0].n);
}

static ccq_code reduce_tuple(ccq_pickle *p, const ccq_pk_value *arg, size_t count)
{
    const ccq_pk_value *pair = count == 1 && is_tuple(p, arg[0], 2) ? p->objects[arg[0].a].items
                                                                   : NULL;
    if (!pair || !ccq_pickle_is_text(pair[0]) || pair[1].kind != CCQ_PK_ARRAY)
        return mismatch(p, "a Paddle tensor");
    return ccq_pickle_push(p, CCQ_PK_TUPLE, arg[0].a, 0);
}

ccq_code ccq_pickle_reduce(ccq_pickle *p)
{
    ccq_code code = ccq_pickle_need(p, 2);
    if (code)
        return code;
    ccq_pk_value callable = p->stack[p->height - 2], args = p->stack[p->height - 1];
    if (callable.kind != CCQ_PK_GLOBAL || args.kind != CCQ_PK_TUPLE)
        return ccq_pickle_fail(p, CCQ_PICKLE, p->at, "REDUCE: wants a global and a tuple");
    const ccq_pk_value *arg = p->objects[args.a].items;
    size_t count = p->objects[args.a].count;
    p->height -= 2;
    switch (callable.a) {
    case RECONSTRUCT:
        return reduce_array(p, arg, count);
    case DTYPE:
        return reduce_dtype(p, arg, count);
    case ENCODE:
        return reduce_encode(p, arg, count);
    case TUPLE:
        return reduce_tuple(p, arg, count);
    default:
        return mismatch(p, "anything that is read");
    }
}

/* ---- BUILD --------------------------------------------------------------------- */

static ccq_code build_dtype(ccq_pickle *p, ccq_pk_object *o, const ccq_pk_value *s, size_t count)
{
    int wide = ccq_dtype_bits((ccq_dtype)o->dtype) > 8;
    if (count != 8 || !is_int(s[0], 3) || !ccq_pickle_is_text(s[1]) ||
        s[2].kind != CCQ_PK_NONE || s[3].kind != CCQ_PK_NONE || s[4].kind != CCQ_PK_NONE ||
        !is_int(s[5], -1) || !is_int(s[6], -1) || !is_int(s[7], 0))
        return mismatch(p, "a plain numpy dtype");
    if (!ccq_pickle_is(p, s[1], wide ? "<" : "|"))
        return ccq_pickle_fail(p, CCQ_DTYPE, p->at, "BUILD: byte order of %s is not \"%s\"",
                               ccq_dtype_name((ccq_dtype)o->dtype), wide ? "<" : "|");
    return CCQ_OK;
}

/* The bytes that the shape asks for. */
static ccq_code shape_bytes(ccq_pickle *p, const ccq_pk_object *shape, ccq_dtype dtype,
                            uint64_t *bytes)
{
    if (shape->count > CCQ_MAX_RANK)
        return ccq_pickle_fail(p, CCQ_LIMIT, p->at, "BUILD: %u axes, at most %d", shape->count,
                               CCQ_MAX_RANK);
    *bytes = ccq_dtype_bits(dtype) / 8;
    for (size_t i = 0; i < shape->count; i++) {
        if (shape->items[i].kind != CCQ_PK_INT || (int64_t)shape->items[i].a < 0)
            return ccq_pickle_fail(p, CCQ_SHAPE, p->at, "BUILD: axis %zu is no size", i);
        if (__builtin_mul_overflow(*bytes, shape->items[i].a, bytes))
            return ccq_pickle_fail(p, CCQ_OVERFLOW, p->at, "BUILD: the shape passes 2^64 bytes");
    }
    return CCQ_OK;
}

/* A byte is one or two in UTF-8; how many it is in all is seen when it is read. */
static ccq_code check_size(ccq_pickle *p, ccq_pk_value payload, uint64_t bytes)
{
    int latin1 = payload.kind == CCQ_PK_LATIN1;
    if (latin1 ? payload.n < bytes || payload.n - bytes > bytes : payload.n != bytes)
        return ccq_pickle_fail(p, CCQ_SIZE, p->at,
                               "BUILD: the shape asks for %llu bytes, %llu are at byte %llu%s",
                               (unsigned long long)bytes, (unsigned long long)payload.n,
                               (unsigned long long)payload.a, latin1 ? " (as UTF-8)" : "");
    return CCQ_OK;
}

static ccq_code build_array(ccq_pickle *p, ccq_pk_object *o, const ccq_pk_value *s, size_t count)
{
    uint64_t bytes = 0;
    if (count != 5 || !is_int(s[0], 1) || s[1].kind != CCQ_PK_TUPLE ||
        s[2].kind != CCQ_PK_DTYPE || (s[3].kind != CCQ_PK_BOOL && s[3].kind != CCQ_PK_INT))
        return mismatch(p, "a numpy array's state");
    if (s[3].a)
        return ccq_pickle_fail(p, CCQ_UNSUPPORTED, p->at, "BUILD: an array in Fortran order");
    if (!is_bytes(s[4]))
        return ccq_pickle_fail(p, CCQ_UNSUPPORTED, p->at, "BUILD: an array of objects");
    const ccq_pk_object *dtype = &p->objects[s[2].a];
    if (!dtype->built)
        return ccq_pickle_fail(p, CCQ_DTYPE, p->at, "BUILD: a dtype without a byte order");
    ccq_code code = shape_bytes(p, &p->objects[s[1].a], (ccq_dtype)dtype->dtype, &bytes);
    if (!code)
        code = check_size(p, s[4], bytes);
    if (code)
        return code;
    o->dtype = dtype->dtype;
    const ccq_pk_value items[2] = {s[1], s[4]};
    return ccq_pickle_append(p, o, items, 2);
}

ccq_code ccq_pickle_build(ccq_pickle *p)
{
    ccq_code code = ccq_pickle_need(p, 2);
    if (code)
        return code;
    ccq_pk_value what = p->stack[p->height - 2], state = p->stack[p->height - 1];
    if ((what.kind != CCQ_PK_ARRAY && what.kind != CCQ_PK_DTYPE) || state.kind != CCQ_PK_TUPLE)
        return mismatch(p, "a numpy array or dtype");
    ccq_pk_object *o = &p->objects[what.a], *s = &p->objects[state.a];
    if (o->built)
        return ccq_pickle_fail(p, CCQ_PICKLE, p->at, "BUILD: twice on the same object");
    p->height--;
    o->built = 1;
    return what.kind == CCQ_PK_ARRAY ? build_array(p, o, s->items, s->count)
                                     : build_dtype(p, o, s->items, s->count);
}
