/* A pickle read as data, for formats/ alone.
 *
 * A stack machine over the opcodes that paddle.save writes. Nothing is called:
 * REDUCE and BUILD must match one of the patterns of pickle_match.c, and any
 * other opcode or global is refused by name and offset. Texts and bytes stay in
 * the file; a value holds their place. There is no recursion. */
#ifndef CCQ_FORMATS_PICKLE_H
#define CCQ_FORMATS_PICKLE_H

#include "formats/internal.h"

#define CCQ_PK_STACK 100000
#define CCQ_PK_MEMO 10000000
#define CCQ_PK_OBJECTS 10000000 /* tuples, lists, dicts, dtypes and arrays */
#define CCQ_PK_ITEMS 10000000   /* values inside them */
#define CCQ_PK_DEPTH 64
#define CCQ_PK_NAME_ROOM 128 /* bytes of a module or a name, with the NUL */

typedef enum ccq_pk_kind {
    CCQ_PK_UNSET, /* a memo entry that nothing was put into */
    CCQ_PK_MARK,
    CCQ_PK_NONE,
    CCQ_PK_BOOL,
    CCQ_PK_INT,
    CCQ_PK_TEXT,   /* UTF-8 */
    CCQ_PK_STRING, /* of Python 2: ASCII text, or bytes */
    CCQ_PK_BYTES,
    CCQ_PK_LATIN1, /* bytes, stored as UTF-8 of a text with one character a byte */
    CCQ_PK_GLOBAL,
    CCQ_PK_TUPLE,
    CCQ_PK_LIST,
    CCQ_PK_DICT,
    CCQ_PK_DTYPE,
    CCQ_PK_ARRAY
} ccq_pk_kind;

typedef struct ccq_pk_value {
    uint64_t a; /* the number; the first byte in the file; the object; the global */
    uint64_t n; /* texts and bytes: length in the file */
    uint8_t kind;
} ccq_pk_value;

/* items: a tuple's and a list's values; a dict's key, value, key, value ...; an
 * array's shape (a tuple) and payload once it is built. */
typedef struct ccq_pk_object {
    ccq_pk_value *items;
    uint32_t count, cap;
    uint64_t at;   /* offset of the opcode that made it */
    uint8_t depth; /* 1 + that of the deepest item */
    uint8_t built; /* arrays and dtypes: BUILD was seen */
    uint8_t dtype; /* ccq_dtype */
} ccq_pk_object;

typedef struct ccq_pickle {
    const ccq_file *file;
    ccq_error *err;
    uint64_t at;        /* of the opcode at hand */
    uint64_t pos;       /* next byte */
    uint64_t frame_end; /* 0 = in no frame */
    const char *opcode; /* its name */
    int stopped;
    ccq_pk_value *stack, *memo;
    ccq_pk_object *objects;
    size_t height, stack_cap;
    size_t memo_count, memo_size, memo_cap; /* entries set; entries there; room */
    size_t object_count, object_cap;
    size_t items;
    ccq_arena arena; /* items */
    uint64_t window_at;
    size_t window_size;
    unsigned char window[4096]; /* small: between two payloads stand a few hundred bytes */
} ccq_pickle;

/* Runs the whole file; on success *top is the one value it stands for. p holds
 * all objects until ccq_pickle_free, which is due in any case. */
ccq_code ccq_pickle_run(ccq_pickle *p, const ccq_file *file, ccq_pk_value *top, ccq_error *err);
void ccq_pickle_free(ccq_pickle *p);

/* The text of a TEXT, STRING or BYTES value into buf, with a NUL; its length must
 * be below size (else BUG). */
ccq_code ccq_pickle_text(ccq_pickle *p, ccq_pk_value v, char *buf, size_t size);
/* Is v this text? 0 also when the file cannot be read. */
int ccq_pickle_is(ccq_pickle *p, ccq_pk_value v, const char *text);
static inline int ccq_pickle_is_text(ccq_pk_value v)
{
    return v.kind == CCQ_PK_TEXT || v.kind == CCQ_PK_STRING;
}

/* "FILE: byte N: text". */
ccq_code ccq_pickle_fail(ccq_pickle *p, ccq_code code, uint64_t at, const char *fmt, ...)
    CCQ_PRINTF(4, 5);

/* ---- Between pickle.c, pickle_ops.c and pickle_match.c ------------------------- */
typedef struct ccq_pk_opcode {
    const char *name; /* NULL: no opcode */
    ccq_code (*run)(ccq_pickle *p, unsigned arg); /* NULL: refused */
    unsigned arg;
} ccq_pk_opcode;

extern const ccq_pk_opcode ccq_pk_opcodes[256];

/* The opcode's next n bytes are inside the file, and inside its frame when it has one. */
ccq_code ccq_pickle_room(ccq_pickle *p, uint64_t n);
/* The next n (at most 16) bytes, valid until the next call. */
ccq_code ccq_pickle_take(ccq_pickle *p, size_t n, const unsigned char **bytes);
/* A little-endian number of n <= 8 bytes. */
ccq_code ccq_pickle_number(ccq_pickle *p, unsigned n, uint64_t *value);
/* list with room for one more than count; NULL when out of memory. New memory is not cleared. */
void *ccq_pickle_grow(void *list, size_t *cap, size_t count, size_t item);
ccq_code ccq_pickle_no_memory(ccq_pickle *p);
ccq_code ccq_pickle_push(ccq_pickle *p, ccq_pk_kind kind, uint64_t a, uint64_t n);
/* A new object of the kind with these items, pushed. */
ccq_code ccq_pickle_make(ccq_pickle *p, ccq_pk_kind kind, const ccq_pk_value *items, size_t count);
ccq_code ccq_pickle_append(ccq_pickle *p, ccq_pk_object *o, const ccq_pk_value *v, size_t count);
/* The top n values are there and none is a MARK. */
ccq_code ccq_pickle_need(ccq_pickle *p, size_t n);
ccq_code ccq_pickle_global(ccq_pickle *p, const char *module, const char *name);
ccq_code ccq_pickle_reduce(ccq_pickle *p);
ccq_code ccq_pickle_build(ccq_pickle *p);

#endif
