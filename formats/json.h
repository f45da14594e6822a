/* JSON: a strict, bounded pull scanner that keeps numbers as text, and a writer
 * that keeps the order of its calls. Neither builds a tree. */
#ifndef CCQ_FORMATS_JSON_H
#define CCQ_FORMATS_JSON_H

#include "formats/types.h"

/* ---- Scanner --------------------------------------------------------------
 * Reads one JSON value (RFC 8259, valid UTF-8, no BOM, no comments, no NUL, no
 * lone surrogates); white space around it is accepted. The text must outlive
 * the scanner. */
typedef enum ccq_json_event {
    CCQ_JSON_OBJECT,     /* { */
    CCQ_JSON_OBJECT_END, /* } */
    CCQ_JSON_ARRAY,      /* [ */
    CCQ_JSON_ARRAY_END,  /* ] */
    CCQ_JSON_KEY,        /* text = unescaped key */
    CCQ_JSON_STRING,     /* text = unescaped */
    CCQ_JSON_NUMBER,     /* text = as written, valid JSON number grammar */
    CCQ_JSON_TRUE,
    CCQ_JSON_FALSE,
    CCQ_JSON_NULL,
    CCQ_JSON_END,  /* the value is complete and nothing follows */
    CCQ_JSON_ERROR /* see code, message, at */
} ccq_json_event;

typedef struct ccq_json_limits {
    unsigned depth;   /* nesting of { and [ (default 64; at most 64) */
    size_t string;    /* bytes of one unescaped string (default 4096) */
    uint64_t numbers; /* default 4,000,000 */
} ccq_json_limits;

typedef struct ccq_json {
    const char *text; /* of the last KEY, STRING or NUMBER; valid until the next call */
    size_t len;
    size_t begin, end; /* byte range of the last token in the source, quotes included */
    ccq_code code;     /* after ERROR: JSON, NUMBER (01, 1., 0x10), UTF8, LIMIT, NO_MEMORY */
    const char *message;
    /* private */
    const char *src;
    size_t size, at;
    ccq_json_limits limits;
    unsigned level;
    uint64_t numbers;
    uint64_t in_object; /* one bit a level */
    int state;
    char *buf; /* unescaped strings */
    size_t cap;
} ccq_json;

/* limits NULL = defaults. Reading UTF-8 validity of the whole text first is the
 * caller's (ccq_utf8_valid), where the order of faults matters. */
void ccq_json_init(ccq_json *json, const char *text, size_t size, const ccq_json_limits *limits);
void ccq_json_free(ccq_json *json);
ccq_json_event ccq_json_next(ccq_json *json);
/* After KEY (or in place of a value event): skips one whole value. 0, or ERROR's code. */
ccq_code ccq_json_skip(ccq_json *json);
/* Digits only, no sign, point, exponent or leading zero, at most 2^64-1; 1 when so. */
int ccq_json_u64(const char *text, size_t len, uint64_t *value);
/* Offset of the first byte that is not UTF-8, or size. */
size_t ccq_utf8_valid(const char *text, size_t size);

/* ---- Writer ---------------------------------------------------------------
 * Out of memory is remembered and reported by ccq_jw_take. */
typedef struct ccq_jw {
    char *buf;
    size_t len, cap;
    int indent;  /* spaces a level; 0 = one line */
    int level;
    int first;   /* nothing written yet at this level */
    int keyed;   /* a key waits for its value */
    int failed;
    char stack[64];
} ccq_jw;

void ccq_jw_init(ccq_jw *w, int indent);
void ccq_jw_object(ccq_jw *w);
void ccq_jw_array(ccq_jw *w);
void ccq_jw_end(ccq_jw *w); /* closes the innermost { or [ */
void ccq_jw_key(ccq_jw *w, const char *key);
void ccq_jw_string(ccq_jw *w, const char *s);
void ccq_jw_string_n(ccq_jw *w, const char *s, size_t len); /* invalid UTF-8 becomes U+FFFD */
void ccq_jw_u64(ccq_jw *w, uint64_t v);
void ccq_jw_i64(ccq_jw *w, int64_t v);
/* Shortest text that reads back as the same double ("0.5", "1e-05"). v must be
 * finite: a figure that is not is left out by the caller. */
void ccq_jw_double(ccq_jw *w, double v);
void ccq_jw_bool(ccq_jw *w, int v);
/* Text that already is a JSON value, as it is. */
void ccq_jw_raw(ccq_jw *w, const char *s, size_t len);
/* key and value in one */
void ccq_jw_kstring(ccq_jw *w, const char *key, const char *s);
void ccq_jw_ku64(ccq_jw *w, const char *key, uint64_t v);
void ccq_jw_ki64(ccq_jw *w, const char *key, int64_t v);
void ccq_jw_kbool(ccq_jw *w, const char *key, int v);
/* Left out when v is not finite. */
void ccq_jw_kdouble(ccq_jw *w, const char *key, double v);
/* The text with a NUL and, when the writer indents, a final newline; the caller
 * frees it. NULL when out of memory. The writer is empty again. */
char *ccq_jw_take(ccq_jw *w, size_t *size);

#endif
