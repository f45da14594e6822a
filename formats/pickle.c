/* The stack machine: bytes of the file, stack, objects. pickle_ops.c has the opcodes. */
#include "formats/pickle.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

ccq_code ccq_pickle_fail(ccq_pickle *p, ccq_code code, uint64_t at, const char *fmt, ...)
{
    char text[600];
    va_list list;
    va_start(list, fmt);
    vsnprintf(text, sizeof text, fmt, list);
    va_end(list);
    return ccq_fail_file(p->err, code, p->file->path, "byte %llu: %s", (unsigned long long)at,
                         text);
}

ccq_code ccq_pickle_no_memory(ccq_pickle *p)
{
    return ccq_pickle_fail(p, CCQ_NO_MEMORY, p->at, "out of memory");
}

void ccq_pickle_free(ccq_pickle *p)
{
    free(p->stack);
    free(p->memo);
    free(p->objects);
    ccq_arena_free(&p->arena);
}

/* ---- Bytes -------------------------------------------------------------------- */

ccq_code ccq_pickle_room(ccq_pickle *p, uint64_t n)
{
    uint64_t end = p->frame_end ? p->frame_end : p->file->size;
    if (n <= end - p->pos)
        return CCQ_OK;
    return ccq_pickle_fail(p, p->frame_end ? CCQ_PICKLE : CCQ_TRUNCATED, p->at,
                           "%s: %llu bytes from %llu run past the end of the %s (%llu)", p->opcode,
                           (unsigned long long)n, (unsigned long long)p->pos,
                           p->frame_end ? "frame" : "file", (unsigned long long)end);
}

ccq_code ccq_pickle_take(ccq_pickle *p, size_t n, const unsigned char **bytes)
{
    ccq_code code = ccq_pickle_room(p, n);
    if (code)
        return code;
    if (p->pos < p->window_at || p->pos + n > p->window_at + p->window_size) {
        uint64_t left = p->file->size - p->pos;
        p->window_at = p->pos;
        p->window_size = 0;
        size_t size = left < sizeof p->window ? (size_t)left : sizeof p->window;
        if ((code = ccq_file_read(p->file, p->pos, p->window, size, p->err)))
            return code;
        p->window_size = size;
    }
    *bytes = p->window + (p->pos - p->window_at);
    p->pos += n;
    return CCQ_OK;
}

ccq_code ccq_pickle_number(ccq_pickle *p, unsigned n, uint64_t *value)
{
    const unsigned char *b;
    ccq_code code = ccq_pickle_take(p, n, &b);
    *value = 0;
    for (unsigned i = n; !code && i--;)
        *value = *value << 8 | b[i];
    return code;
}

ccq_code ccq_pickle_text(ccq_pickle *p, ccq_pk_value v, char *buf, size_t size)
{
    if (v.n >= size)
        return ccq_pickle_fail(p, CCQ_BUG, v.a, "text of %llu bytes", (unsigned long long)v.n);
    buf[v.n] = 0;
    if (v.a >= p->window_at && v.a + v.n <= p->window_at + p->window_size) {
        memcpy(buf, p->window + (v.a - p->window_at), (size_t)v.n);
        return CCQ_OK;
    }
    return ccq_file_read(p->file, v.a, buf, v.n, p->err);
}

int ccq_pickle_is(ccq_pickle *p, ccq_pk_value v, const char *text)
{
    char have[64];
    size_t n = strlen(text);
    return ccq_pickle_is_text(v) && v.n == n && n < sizeof have &&
           ccq_pickle_text(p, v, have, sizeof have) == CCQ_OK && memcmp(have, text, n) == 0;
}

/* ---- Values ------------------------------------------------------------------- */

void *ccq_pickle_grow(void *list, size_t *cap, size_t count, size_t item)
{
    if (count < *cap)
        return list;
    size_t more = *cap ? *cap * 2 : 64;
    while (more <= count)
        more *= 2;
    void *p = realloc(list, more * item);
    if (p)
        *cap = more;
    return p;
}

ccq_code ccq_pickle_push(ccq_pickle *p, ccq_pk_kind kind, uint64_t a, uint64_t n)
{
    if (p->height == CCQ_PK_STACK)
        return ccq_pickle_fail(p, CCQ_LIMIT, p->at, "%s: more than %d values on the stack",
                               p->opcode, CCQ_PK_STACK);
    void *list = ccq_pickle_grow(p->stack, &p->stack_cap, p->height, sizeof *p->stack);
    if (!list)
        return ccq_pickle_no_memory(p);
    p->stack = list;
    p->stack[p->height++] = (ccq_pk_value){a, n, (uint8_t)kind};
    return CCQ_OK;
}

ccq_code ccq_pickle_need(ccq_pickle *p, size_t n)
{
    int short_of = p->height < n;
    for (size_t i = 1; i <= n && !short_of; i++)
        short_of = p->stack[p->height - i].kind == CCQ_PK_MARK;
    if (short_of)
        return ccq_pickle_fail(p, CCQ_PICKLE, p->at, "%s: wants %zu values on the stack",
                               p->opcode, n);
    return CCQ_OK;
}

static unsigned depth_of(const ccq_pickle *p, ccq_pk_value v)
{
    return v.kind >= CCQ_PK_TUPLE ? p->objects[v.a].depth : 0;
}

/* The old items of a list that grows stay in the arena: at most as much again. */
ccq_code ccq_pickle_append(ccq_pickle *p, ccq_pk_object *o, const ccq_pk_value *v, size_t count)
{
    if (count > CCQ_PK_ITEMS - p->items)
        return ccq_pickle_fail(p, CCQ_LIMIT, p->at, "%s: more than %d items in all", p->opcode,
                               CCQ_PK_ITEMS);
    p->items += count;
    if (count > o->cap - o->count) {
        size_t cap = o->count + (count > o->count ? count : o->count);
        ccq_pk_value *items = ccq_arena_alloc(&p->arena, cap * sizeof *items);
        if (!items)
            return ccq_pickle_no_memory(p);
        if (o->count)
            memcpy(items, o->items, o->count * sizeof *items);
        o->items = items;
        o->cap = (uint32_t)cap;
    }
    for (size_t i = 0; i < count; i++) {
        unsigned depth = depth_of(p, v[i]) + 1;
        if (depth > CCQ_PK_DEPTH)
            return ccq_pickle_fail(p, CCQ_LIMIT, p->at, "%s: nesting deeper than %d", p->opcode,
                                   CCQ_PK_DEPTH);
        if (depth > o->depth)
            o->depth = (uint8_t)depth;
        o->items[o->count++] = v[i];
    }
    return CCQ_OK;
}

ccq_code ccq_pickle_make(ccq_pickle *p, ccq_pk_kind kind, const ccq_pk_value *items, size_t count)
{
    if (p->object_count == CCQ_PK_OBJECTS)
        return ccq_pickle_fail(p, CCQ_LIMIT, p->at, "%s: more than %d tuples, lists and dicts",
                               p->opcode, CCQ_PK_OBJECTS);
    void *list = ccq_pickle_grow(p->objects, &p->object_cap, p->object_count, sizeof *p->objects);
    if (!list)
        return ccq_pickle_no_memory(p);
    p->objects = list;
    ccq_pk_object *o = &p->objects[p->object_count++];
    *o = (ccq_pk_object){.at = p->at, .depth = 1};
    ccq_code code = ccq_pickle_append(p, o, items, count);
    return code ? code : ccq_pickle_push(p, kind, p->object_count - 1, 0);
}

/* ---- Running ------------------------------------------------------------------- */

static ccq_code run_one(ccq_pickle *p)
{
    const unsigned char *b;
    p->at = p->pos;
    p->opcode = "opcode";
    if (p->frame_end && p->pos == p->frame_end)
        p->frame_end = 0;
    ccq_code code = ccq_pickle_take(p, 1, &b);
    if (code)
        return code;
    const ccq_pk_opcode *o = &ccq_pk_opcodes[*b];
    if (!o->name)
        return ccq_pickle_fail(p, CCQ_PICKLE, p->at, "0x%02x is no opcode", *b);
    p->opcode = o->name;
    if (!o->run)
        return ccq_pickle_fail(p, CCQ_UNSUPPORTED, p->at, "opcode %s is not read", o->name);
    return o->run(p, o->arg);
}

static ccq_code check_start(ccq_pickle *p)
{
    const unsigned char *b;
    p->opcode = "PROTO";
    ccq_code code = ccq_pickle_take(p, 2, &b);
    if (!code && b[0] != 0x80)
        return ccq_pickle_fail(p, CCQ_PICKLE, 0, "not a pickle of protocol 2 to 4");
    if (!code && (b[1] < 2 || b[1] > 4))
        return ccq_pickle_fail(p, CCQ_UNSUPPORTED, 0, "pickle protocol %u; 2, 3 and 4 are read",
                               b[1]);
    return code;
}

ccq_code ccq_pickle_run(ccq_pickle *p, const ccq_file *file, ccq_pk_value *top, ccq_error *err)
{
    memset(p, 0, sizeof *p);
    p->file = file;
    p->err = err;
    ccq_code code = check_start(p);
    while (!code && !p->stopped)
        code = run_one(p);
    if (!code)
        *top = p->stack[0];
    return code;
}
