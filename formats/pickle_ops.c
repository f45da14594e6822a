/* What each opcode does to the stack. */
#include "formats/pickle.h"

/* *first: the place above the topmost MARK. */
static ccq_code to_mark(ccq_pickle *p, size_t *first)
{
    for (*first = p->height; *first; --*first)
        if (p->stack[*first - 1].kind == CCQ_PK_MARK)
            return CCQ_OK;
    return ccq_pickle_fail(p, CCQ_PICKLE, p->at, "%s: no MARK on the stack", p->opcode);
}

static ccq_code op_proto(ccq_pickle *p, unsigned arg)
{
    (void)arg;
    return ccq_pickle_fail(p, CCQ_PICKLE, p->at, "PROTO in the middle of the file");
}

static ccq_code op_frame(ccq_pickle *p, unsigned arg)
{
    uint64_t size;
    (void)arg;
    if (p->frame_end)
        return ccq_pickle_fail(p, CCQ_PICKLE, p->at, "FRAME inside a frame");
    ccq_code code = ccq_pickle_number(p, 8, &size);
    if (!code && !(code = ccq_pickle_room(p, size)))
        p->frame_end = p->pos + size;
    return code;
}

static ccq_code op_stop(ccq_pickle *p, unsigned arg)
{
    (void)arg;
    ccq_code code = ccq_pickle_need(p, 1);
    if (!code && p->height != 1)
        code = ccq_pickle_fail(p, CCQ_PICKLE, p->at, "STOP: %zu values on the stack", p->height);
    if (!code && p->pos != p->file->size)
        code = ccq_pickle_fail(p, CCQ_TRAILING, p->pos, "bytes behind STOP (file: %llu)",
                               (unsigned long long)p->file->size);
    p->stopped = 1;
    return code;
}

/* The kind alone: MARK, NONE. */
static ccq_code op_constant(ccq_pickle *p, unsigned arg)
{
    return ccq_pickle_push(p, (ccq_pk_kind)arg, 0, 0);
}

static ccq_code op_bool(ccq_pickle *p, unsigned arg)
{
    return ccq_pickle_push(p, CCQ_PK_BOOL, arg, 0);
}

/* arg: bytes of the number; 4 is signed, 0 is LONG1 (its length first, signed). */
static ccq_code op_int(ccq_pickle *p, unsigned arg)
{
    uint64_t n = arg, v;
    ccq_code code = arg ? CCQ_OK : ccq_pickle_number(p, 1, &n);
    if (!code && n > 8)
        code = ccq_pickle_fail(p, CCQ_UNSUPPORTED, p->at, "LONG1: a number of %llu bytes",
                               (unsigned long long)n);
    if (code || (code = ccq_pickle_number(p, (unsigned)n, &v)))
        return code;
    if ((arg == 0 || arg == 4) && n && n < 8 && v >> (8 * n - 1))
        v |= UINT64_MAX << 8 * n;
    return ccq_pickle_push(p, CCQ_PK_INT, v, 0);
}

/* arg: kind, and the bytes of the length in the second byte. The content is skipped. */
static ccq_code op_text(ccq_pickle *p, unsigned arg)
{
    uint64_t n;
    ccq_code code = ccq_pickle_number(p, arg >> 8, &n);
    if (code || (code = ccq_pickle_room(p, n)))
        return code;
    if ((arg & 255) == CCQ_PK_STRING && n > INT32_MAX)
        return ccq_pickle_fail(p, CCQ_PICKLE, p->at, "BINSTRING: negative length");
    p->pos += n;
    return ccq_pickle_push(p, (ccq_pk_kind)(arg & 255), p->pos - n, n);
}

static ccq_code memo_put(ccq_pickle *p, uint64_t i)
{
    ccq_code code = ccq_pickle_need(p, 1);
    if (code)
        return code;
    if (i >= CCQ_PK_MEMO)
        return ccq_pickle_fail(p, CCQ_LIMIT, p->at, "%s: memo entry %llu, at most %d", p->opcode,
                               (unsigned long long)i, CCQ_PK_MEMO);
    /* Setting one takes two bytes or more: a short file cannot ask for a large memo. */
    if (i > p->pos || (i < p->memo_size && p->memo[i].kind))
        return ccq_pickle_fail(p, CCQ_PICKLE, p->at, "%s: memo entry %llu %s", p->opcode,
                               (unsigned long long)i,
                               i > p->pos ? "out of order" : "is set already");
    void *list = ccq_pickle_grow(p->memo, &p->memo_cap, (size_t)i, sizeof *p->memo);
    if (!list)
        return ccq_pickle_no_memory(p);
    p->memo = list;
    for (; p->memo_size <= i; p->memo_size++)
        p->memo[p->memo_size].kind = CCQ_PK_UNSET;
    p->memo[i] = p->stack[p->height - 1];
    p->memo_count++;
    return CCQ_OK;
}

/* arg: bytes of the entry's number; 0 = the next one. */
static ccq_code op_put(ccq_pickle *p, unsigned arg)
{
    uint64_t i = p->memo_count;
    ccq_code code = arg ? ccq_pickle_number(p, arg, &i) : CCQ_OK;
    return code ? code : memo_put(p, i);
}

static ccq_code op_get(ccq_pickle *p, unsigned arg)
{
    uint64_t i;
    ccq_code code = ccq_pickle_number(p, arg, &i);
    if (code)
        return code;
    if (i >= p->memo_size || p->memo[i].kind == CCQ_PK_UNSET)
        return ccq_pickle_fail(p, CCQ_PICKLE, p->at, "%s: memo entry %llu is not set", p->opcode,
                               (unsigned long long)i);
    return ccq_pickle_push(p, (ccq_pk_kind)p->memo[i].kind, p->memo[i].a, p->memo[i].n);
}

/* arg: the kind; EMPTY_DICT, EMPTY_LIST, EMPTY_TUPLE. */
static ccq_code op_empty(ccq_pickle *p, unsigned arg)
{
    return ccq_pickle_make(p, (ccq_pk_kind)arg, NULL, 0);
}

/* arg: number of items, 0 = down to the MARK. */
static ccq_code op_tuple(ccq_pickle *p, unsigned arg)
{
    size_t first, keep;
    ccq_code code = arg ? ccq_pickle_need(p, arg) : to_mark(p, &first);
    if (code)
        return code;
    if (arg)
        first = p->height - arg;
    keep = arg ? first : first - 1;
    ccq_pk_value *items = p->stack + first;
    size_t count = p->height - first;
    p->height = keep; /* items are copied before the push writes over them */
    return ccq_pickle_make(p, CCQ_PK_TUPLE, items, count);
}

static ccq_code check_keys(ccq_pickle *p, const ccq_pk_value *items, size_t count)
{
    if (count % 2)
        return ccq_pickle_fail(p, CCQ_PICKLE, p->at, "%s: a key without a value", p->opcode);
    for (size_t i = 0; i < count; i += 2)
        if (!ccq_pickle_is_text(items[i]))
            return ccq_pickle_fail(p, CCQ_UNSUPPORTED, p->at, "%s: a key that is no text",
                                   p->opcode);
    return CCQ_OK;
}

static ccq_code op_dict(ccq_pickle *p, unsigned arg)
{
    size_t first;
    (void)arg;
    ccq_code code = to_mark(p, &first);
    if (code || (code = check_keys(p, p->stack + first, p->height - first)))
        return code;
    ccq_pk_value *items = p->stack + first;
    size_t count = p->height - first;
    p->height = first - 1;
    return ccq_pickle_make(p, CCQ_PK_DICT, items, count);
}

/* arg: the kind of the container, and the number of items in the second byte (0 = to MARK). */
static ccq_code op_add(ccq_pickle *p, unsigned arg)
{
    size_t first, below, count = arg >> 8;
    ccq_code code = count ? ccq_pickle_need(p, count + 1) : to_mark(p, &first);
    if (code)
        return code;
    if (count)
        first = p->height - count;
    count = p->height - first;
    below = arg >> 8 ? first : first - 1; /* without the MARK */
    if (!below || p->stack[below - 1].kind != (arg & 255))
        return ccq_pickle_fail(p, CCQ_PICKLE, p->at, "%s: no %s below the items", p->opcode,
                               (arg & 255) == CCQ_PK_DICT ? "dict" : "list");
    if ((arg & 255) == CCQ_PK_DICT)
        code = check_keys(p, p->stack + first, count);
    if (!code)
        code = ccq_pickle_append(p, &p->objects[p->stack[below - 1].a], p->stack + first, count);
    p->height = below;
    return code;
}

static ccq_code take_line(ccq_pickle *p, char line[CCQ_PK_NAME_ROOM])
{
    for (size_t n = 0; n < CCQ_PK_NAME_ROOM; n++) {
        const unsigned char *b;
        ccq_code code = ccq_pickle_take(p, 1, &b);
        if (code)
            return code;
        line[n] = (char)*b;
        if (*b == '\n') {
            line[n] = 0;
            return CCQ_OK;
        }
    }
    return ccq_pickle_fail(p, CCQ_LIMIT, p->at, "GLOBAL: a name of %d bytes or more",
                           CCQ_PK_NAME_ROOM);
}

static ccq_code op_global(ccq_pickle *p, unsigned arg)
{
    char module[CCQ_PK_NAME_ROOM], name[CCQ_PK_NAME_ROOM];
    (void)arg;
    ccq_code code = take_line(p, module);
    if (!code)
        code = take_line(p, name);
    return code ? code : ccq_pickle_global(p, module, name);
}

static ccq_code op_stack_global(ccq_pickle *p, unsigned arg)
{
    char module[CCQ_PK_NAME_ROOM], name[CCQ_PK_NAME_ROOM];
    (void)arg;
    ccq_code code = ccq_pickle_need(p, 2);
    if (code)
        return code;
    const ccq_pk_value *v = p->stack + p->height - 2;
    if (!ccq_pickle_is_text(v[0]) || !ccq_pickle_is_text(v[1]))
        return ccq_pickle_fail(p, CCQ_PICKLE, p->at, "STACK_GLOBAL: wants two texts");
    if (v[0].n >= sizeof module || v[1].n >= sizeof name)
        return ccq_pickle_fail(p, CCQ_LIMIT, p->at, "STACK_GLOBAL: a name of %d bytes or more",
                               CCQ_PK_NAME_ROOM);
    if ((code = ccq_pickle_text(p, v[0], module, sizeof module)) ||
        (code = ccq_pickle_text(p, v[1], name, sizeof name)))
        return code;
    p->height -= 2;
    return ccq_pickle_global(p, module, name);
}

static ccq_code op_reduce(ccq_pickle *p, unsigned arg)
{
    (void)arg;
    return ccq_pickle_reduce(p);
}

static ccq_code op_build(ccq_pickle *p, unsigned arg)
{
    (void)arg;
    return ccq_pickle_build(p);
}

#define SIZED(kind, bytes) ((unsigned)(kind) | (unsigned)(bytes) << 8)

/* Every opcode that Python knows; without a function it is refused by its name. */
const ccq_pk_opcode ccq_pk_opcodes[256] = {
    [0x80] = {"PROTO", op_proto, 0},
    [0x95] = {"FRAME", op_frame, 0},
    ['.'] = {"STOP", op_stop, 0},
    ['('] = {"MARK", op_constant, CCQ_PK_MARK},
    ['N'] = {"NONE", op_constant, CCQ_PK_NONE},
    [0x88] = {"NEWTRUE", op_bool, 1},
    [0x89] = {"NEWFALSE", op_bool, 0},
    ['J'] = {"BININT", op_int, 4},
    ['K'] = {"BININT1", op_int, 1},
    ['M'] = {"BININT2", op_int, 2},
    [0x8a] = {"LONG1", op_int, 0},
    [0x8c] = {"SHORT_BINUNICODE", op_text, SIZED(CCQ_PK_TEXT, 1)},
    ['X'] = {"BINUNICODE", op_text, SIZED(CCQ_PK_TEXT, 4)},
    [0x8d] = {"BINUNICODE8", op_text, SIZED(CCQ_PK_TEXT, 8)},
    ['C'] = {"SHORT_BINBYTES", op_text, SIZED(CCQ_PK_BYTES, 1)},
    ['B'] = {"BINBYTES", op_text, SIZED(CCQ_PK_BYTES, 4)},
    [0x8e] = {"BINBYTES8", op_text, SIZED(CCQ_PK_BYTES, 8)},
    ['U'] = {"SHORT_BINSTRING", op_text, SIZED(CCQ_PK_STRING, 1)},
    ['T'] = {"BINSTRING", op_text, SIZED(CCQ_PK_STRING, 4)},
    [0x94] = {"MEMOIZE", op_put, 0},
    ['q'] = {"BINPUT", op_put, 1},
    ['r'] = {"LONG_BINPUT", op_put, 4},
    ['h'] = {"BINGET", op_get, 1},
    ['j'] = {"LONG_BINGET", op_get, 4},
    ['}'] = {"EMPTY_DICT", op_empty, CCQ_PK_DICT},
    [']'] = {"EMPTY_LIST", op_empty, CCQ_PK_LIST},
    [')'] = {"EMPTY_TUPLE", op_empty, CCQ_PK_TUPLE},
    ['t'] = {"TUPLE", op_tuple, 0},
    [0x85] = {"TUPLE1", op_tuple, 1},
    [0x86] = {"TUPLE2", op_tuple, 2},
    [0x87] = {"TUPLE3", op_tuple, 3},
    ['d'] = {"DICT", op_dict, 0},
    ['s'] = {"SETITEM", op_add, SIZED(CCQ_PK_DICT, 2)},
    ['u'] = {"SETITEMS", op_add, SIZED(CCQ_PK_DICT, 0)},
    ['a'] = {"APPEND", op_add, SIZED(CCQ_PK_LIST, 1)},
    ['e'] = {"APPENDS", op_add, SIZED(CCQ_PK_LIST, 0)},
    ['c'] = {"GLOBAL", op_global, 0},
    [0x93] = {"STACK_GLOBAL", op_stack_global, 0},
    ['R'] = {"REDUCE", op_reduce, 0},
    ['b'] = {"BUILD", op_build, 0},
    ['I'] = {"INT", NULL, 0},
    ['L'] = {"LONG", NULL, 0},
    [0x8b] = {"LONG4", NULL, 0},
    ['F'] = {"FLOAT", NULL, 0},
    ['G'] = {"BINFLOAT", NULL, 0},
    ['S'] = {"STRING", NULL, 0},
    ['V'] = {"UNICODE", NULL, 0},
    ['l'] = {"LIST", NULL, 0},
    [0x8f] = {"EMPTY_SET", NULL, 0},
    [0x90] = {"ADDITEMS", NULL, 0},
    [0x91] = {"FROZENSET", NULL, 0},
    ['0'] = {"POP", NULL, 0},
    ['1'] = {"POP_MARK", NULL, 0},
    ['2'] = {"DUP", NULL, 0},
    ['g'] = {"GET", NULL, 0},
    ['p'] = {"PUT", NULL, 0},
    [0x82] = {"EXT1", NULL, 0},
    [0x83] = {"EXT2", NULL, 0},
    [0x84] = {"EXT4", NULL, 0},
    ['i'] = {"INST", NULL, 0},
    ['o'] = {"OBJ", NULL, 0},
    [0x81] = {"NEWOBJ", NULL, 0},
    [0x92] = {"NEWOBJ_EX", NULL, 0},
    ['P'] = {"PERSID", NULL, 0},
    ['Q'] = {"BINPERSID", NULL, 0},
    [0x96] = {"BYTEARRAY8", NULL, 0},
    [0x97] = {"NEXT_BUFFER", NULL, 0},
    [0x98] = {"READONLY_BUFFER", NULL, 0},
};
