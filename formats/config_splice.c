/* Edits of config.json by byte splice: the text is never written anew, so every
 * byte that no edit names stays as it was. */
#include "formats/config.h"

#include "formats/internal.h"
#include "formats/json.h"

#include <stdlib.h>
#include <string.h>

/* How the file lays out its members. */
typedef struct style {
    const char *newline; /* "\n", "\r\n", or "" for a file of one line */
    char unit[32];       /* indentation of one level */
    const char *comma, *colon;
} style;

typedef struct text {
    char *data;
    size_t len, cap;
    int failed;
} text;

static void put(text *t, const char *s, size_t n)
{
    if (t->failed)
        return;
    if (n >= t->cap - t->len) {
        size_t cap = t->cap ? t->cap * 2 : 1024;
        while (cap - t->len <= n)
            cap *= 2;
        char *data = realloc(t->data, cap);
        if (!data) {
            t->failed = 1;
            return;
        }
        t->data = data;
        t->cap = cap;
    }
    memcpy(t->data + t->len, s, n);
    t->len += n;
    t->data[t->len] = 0;
}

static void puts_(text *t, const char *s)
{
    put(t, s, strlen(s));
}

static void new_line(text *t, const style *s, unsigned level)
{
    if (!*s->newline)
        return;
    puts_(t, s->newline);
    for (unsigned i = 0; i < level; i++)
        puts_(t, s->unit);
}

/* What stands before the first key decides, and the first comma and colon. */
static style style_of(const ccq_config *c)
{
    style s = {"", "", ", ", ": "};
    size_t from = c->open + 1, to = c->count ? c->members[0].key_begin : c->close;
    const char *nl = memchr(c->text + from, '\n', to - from);
    if (nl) {
        while ((from = (size_t)(nl - c->text) + 1) < to && memchr(c->text + from, '\n', to - from))
            nl = memchr(c->text + from, '\n', to - from);
        s.newline = nl > c->text && nl[-1] == '\r' ? "\r\n" : "\n";
        s.comma = ",";
        size_t n = c->count ? to - from : 2;
        if (n >= sizeof s.unit)
            n = sizeof s.unit - 1;
        memcpy(s.unit, c->count ? c->text + from : "  ", n);
        s.unit[n] = 0;
    } else if (c->count > 1) {
        s.comma = c->members[1].key_begin == c->members[0].end + 1 ? "," : ", ";
    }
    if (c->count && c->members[0].begin == c->members[0].key_end + 1)
        s.colon = ":";
    return s;
}

/* The value's tokens laid out in the file's style, as a member of level 1; the
 * tokens themselves are copied. Returns 0 when value is no JSON. */
static int put_value(text *t, const style *s, const char *value)
{
    ccq_json j;
    unsigned level = 1;
    int first = 1, keyed = 1;
    ccq_json_init(&j, value, strlen(value), NULL);
    for (;;) {
        ccq_json_event e = ccq_json_next(&j);
        if (e == CCQ_JSON_END || e == CCQ_JSON_ERROR) {
            ccq_json_free(&j);
            return e == CCQ_JSON_END;
        }
        int opens = e == CCQ_JSON_OBJECT || e == CCQ_JSON_ARRAY;
        int closes = e == CCQ_JSON_OBJECT_END || e == CCQ_JSON_ARRAY_END;
        if (closes) {
            level--;
            if (!first)
                new_line(t, s, level);
        } else if (!keyed) {
            if (!first)
                puts_(t, s->comma);
            new_line(t, s, level);
        }
        put(t, value + j.begin, j.end - j.begin);
        if (e == CCQ_JSON_KEY)
            puts_(t, s->colon);
        keyed = e == CCQ_JSON_KEY;
        first = opens;
        level += (unsigned)opens;
    }
}

static const ccq_member *member(const ccq_config *c, const char *key)
{
    for (size_t i = 0; i < c->count; i++)
        if (strcmp(c->members[i].key, key) == 0)
            return &c->members[i];
    return NULL;
}

static void put_key(text *t, const style *s, const char *key)
{
    ccq_jw w;
    size_t n = 0;
    ccq_jw_init(&w, 0);
    ccq_jw_string(&w, key);
    char *quoted = ccq_jw_take(&w, &n);
    if (quoted)
        put(t, quoted, n);
    else
        t->failed = 1;
    free(quoted);
    puts_(t, s->colon);
}

/* The bytes [from, to) of the input that an edit replaces with new. */
typedef struct cut {
    size_t from, to;
    text new;
} cut;

static void cut_removal(const ccq_config *c, const ccq_member *m, cut *k)
{
    size_t i = (size_t)(m - c->members);
    k->from = m->key_begin;
    k->to = m->end;
    if (i + 1 < c->count)
        k->to = c->members[i + 1].key_begin; /* comma and white space go along */
    else if (i)
        k->from = c->members[i - 1].end;
}

static int cut_insertion(const ccq_config *c, const style *s, const ccq_config_edit *e, cut *k)
{
    if (c->count) {
        k->from = k->to = c->members[c->count - 1].end;
        puts_(&k->new, s->comma);
    } else {
        k->from = c->open + 1;
        k->to = c->close;
    }
    if (c->count || *s->newline)
        new_line(&k->new, s, 1);
    put_key(&k->new, s, e->key);
    if (!put_value(&k->new, s, e->value))
        return 0;
    if (!c->count)
        new_line(&k->new, s, 0);
    return 1;
}

/* The member's bytes as its tokens say, white space apart. */
static int same_tokens(const char *a, size_t alen, const char *b, size_t blen)
{
    ccq_json x, y;
    ccq_json_event e, f;
    const ccq_json_limits limits = {64, CCQ_MAX_CONFIG, 0};
    ccq_json_init(&x, a, alen, &limits);
    ccq_json_init(&y, b, blen, &limits);
    do {
        e = ccq_json_next(&x);
        f = ccq_json_next(&y);
        if (e != f || e == CCQ_JSON_ERROR || x.end - x.begin != y.end - y.begin ||
            memcmp(a + x.begin, b + y.begin, x.end - x.begin) != 0)
            f = CCQ_JSON_ERROR;
    } while (f != CCQ_JSON_END && f != CCQ_JSON_ERROR);
    ccq_json_free(&x);
    ccq_json_free(&y);
    return f == CCQ_JSON_END;
}

/* The edit is in the result, all other members are the input's byte for byte and
 * in its order, and so is all around the cut. */
static int check_edit(const ccq_config *was, const ccq_config *now, const ccq_config_edit *e,
                      const cut *k)
{
    const ccq_member *m = member(now, e->key);
    size_t tail = was->size - k->to, at = 0;
    if (now->size < k->from + tail || memcmp(was->text, now->text, k->from) != 0 ||
        memcmp(was->text + k->to, now->text + now->size - tail, tail) != 0)
        return 0;
    if (!m != !e->value ||
        (m && !same_tokens(now->text + m->begin, m->end - m->begin, e->value, strlen(e->value))))
        return 0;
    for (size_t i = 0; i < was->count; i++) {
        const ccq_member *x = &was->members[i], *y;
        if (strcmp(x->key, e->key) == 0) {
            at += m != NULL;
            continue;
        }
        if (at >= now->count)
            return 0;
        y = &now->members[at++];
        if (strcmp(x->key, y->key) != 0 || x->end - x->begin != y->end - y->begin ||
            memcmp(was->text + x->begin, now->text + y->begin, x->end - x->begin) != 0)
            return 0;
    }
    return at + (m && !member(was, e->key)) == now->count;
}

static ccq_code apply(const ccq_config *c, const ccq_config_edit *e, cut *k, ccq_config **result,
                      ccq_error *err)
{
    style s = style_of(c);
    const ccq_member *m = member(c, e->key);
    int good = 1;
    if (!e->value && m) {
        cut_removal(c, m, k);
    } else if (e->value && m) {
        k->from = m->begin;
        k->to = m->end;
        good = put_value(&k->new, &s, e->value);
    } else if (e->value) {
        good = cut_insertion(c, &s, e, k);
    }
    if (!good)
        return ccq_fail_name(err, CCQ_USAGE, c->name, e->key, "the new value is not JSON");
    text out = {0};
    put(&out, c->text, k->from);
    put(&out, k->new.data ? k->new.data : "", k->new.len);
    put(&out, c->text + k->to, c->size - k->to);
    ccq_code code = CCQ_OK;
    if (out.failed || k->new.failed)
        code = ccq_fail(err, CCQ_NO_MEMORY, "out of memory for config.json");
    else if (!(code = ccq_config_parse(result, out.data, out.len, c->name, err)) &&
             !check_edit(c, *result, e, k))
        code = ccq_fail_name(err, CCQ_BUG, c->name, e->key, "the edit changed other bytes");
    free(out.data);
    return code;
}

ccq_code ccq_config_splice(const ccq_config *config, const ccq_config_edit *edits, size_t count,
                           ccq_config **result, ccq_error *err)
{
    ccq_config *now = NULL;
    *result = NULL;
    ccq_code code = ccq_config_parse(&now, config->text, config->size, config->name, err);
    for (size_t i = 0; i < count && !code; i++) {
        ccq_config *next = NULL;
        cut k = {0};
        code = apply(now, &edits[i], &k, &next, err);
        free(k.new.data);
        if (code) {
            ccq_config_free(next);
        } else {
            ccq_config_free(now);
            now = next;
        }
    }
    if (code)
        ccq_config_free(now);
    else
        *result = now;
    return code;
}
