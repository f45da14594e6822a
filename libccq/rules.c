/* Tensor types by name: "REGEX=TYPE", POSIX extended, the last match wins. */
#include "libccq/job.h"

#include <ctype.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NEAR = 3, LONGEST = 1000, MOST_REPEATS = 1 << 14 };

typedef struct rule {
    const char *text;
    regex_t regex;
    int compiled, used;
    ccq_type type;
} rule;

struct ccq_rules {
    rule *rule;
    size_t count;
};

static const ccq_type types[] = {CCQ_TYPE_WINT2, CCQ_TYPE_WINT4, CCQ_TYPE_WINT8, CCQ_TYPE_FP8,
                                 CCQ_TYPE_BF16};

static int find_type(const char *name, ccq_type *type)
{
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcmp(name, ccq_type_name(types[i])) == 0) {
            *type = types[i];
            return 1;
        }
    return 0;
}

static ccq_code bad(const rule *r, const char *what, ccq_error *err)
{
    char shown[300];
    return ccq_fail(err, CCQ_USAGE, "tensor-type %s: %s",
                    ccq_escape(shown, sizeof shown, r->text, strlen(r->text)), what);
}

/* A letter or digit behind a backslash has no meaning in a POSIX expression; some
 * systems give it one of their own. */
static const char *escape(const char *regex)
{
    for (const char *p = regex; *p; p++) {
        if (*p != '\\')
            continue;
        p++;
        if (isalnum((unsigned char)*p))
            return p;
        if (!*p)
            break;
    }
    return NULL;
}

/* An interval is written out by regcomp as often as it repeats, and what is empty is then
 * followed by recursion: nested ones are a way to fill the memory, or the stack. All of
 * them multiplied, wherever they stand, for every byte of the expression. */
static int repeats_much(const char *regex)
{
    unsigned long all = 1, length = strlen(regex);
    for (const char *p = strchr(regex, '{'); p && all <= MOST_REPEATS; p = strchr(p + 1, '{')) {
        char *end;
        unsigned long n = strtoul(p + 1, &end, 10);
        unsigned long high = *end == ',' ? strtoul(end + 1, NULL, 10) : n;
        n = high > n ? high : n;
        all *= n > MOST_REPEATS ? MOST_REPEATS + 1 : n > 1 ? n : 1;
    }
    return all > 1 && all * length > MOST_REPEATS;
}

static ccq_code compile(rule *r, ccq_error *err)
{
    char regex[LONGEST], what[200];
    const char *equals = strrchr(r->text, '='), *letter;
    if (!equals || equals == r->text)
        return bad(r, "wanted REGEX=TYPE", err);
    if ((size_t)(equals - r->text) >= sizeof regex)
        return bad(r, "the expression is longer than 999 bytes", err);
    if (!find_type(equals + 1, &r->type))
        return bad(r, "the type is one of wint2, wint4, wint8, block_wise_fp8, bf16", err);
    memcpy(regex, r->text, (size_t)(equals - r->text));
    regex[equals - r->text] = 0;
    letter = escape(regex);
    if (letter) {
        snprintf(what, sizeof what,
                 "\\%c is no POSIX extended expression; write [0-9] for a digit", *letter);
        return bad(r, what, err);
    }
    if (repeats_much(regex))
        return bad(r, "its intervals repeat too much of it", err);
    int rc = regcomp(&r->regex, regex, REG_EXTENDED | REG_NOSUB);
    if (rc) {
        regerror(rc, &r->regex, what, sizeof what);
        return bad(r, what, err);
    }
    r->compiled = 1;
    return CCQ_OK;
}

ccq_code ccq_rules_new(ccq_rules **result, const ccq_quantize_options *options, ccq_error *err)
{
    ccq_code code = CCQ_OK;
    ccq_rules *rules = calloc(1, sizeof *rules);
    *result = rules;
    if (rules)
        rules->rule = calloc(options->tensor_types + 1, sizeof *rules->rule);
    if (!rules || !rules->rule)
        return ccq_fail(err, CCQ_NO_MEMORY, "tensor-type: out of memory");
    rules->count = options->tensor_types;
    for (size_t i = 0; !code && i < rules->count; i++) {
        rules->rule[i].text = options->tensor_type[i];
        code = compile(&rules->rule[i], err);
    }
    return code;
}

void ccq_rules_free(ccq_rules *rules)
{
    if (!rules)
        return;
    for (size_t i = 0; rules->rule && i < rules->count; i++)
        if (rules->rule[i].compiled)
            regfree(&rules->rule[i].regex);
    free(rules->rule);
    free(rules);
}

/* Linears go by two names, as in the plan and as in a file. */
static void both_names(const ccq_entry *e, char whole[5000])
{
    snprintf(whole, 5000, "%s%s", e->name, ccq_entry_linear(e) ? ".weight" : "");
}

int ccq_rules_match(ccq_rules *rules, const ccq_entry *e, ccq_type *type, const char **text)
{
    int found = 0;
    char whole[5000];
    both_names(e, whole);
    for (size_t i = 0; i < rules->count; i++) {
        rule *r = &rules->rule[i];
        if (regexec(&r->regex, e->name, 0, NULL, 0) && regexec(&r->regex, whole, 0, NULL, 0))
            continue;
        r->used = found = 1;
        *type = r->type;
        *text = r->text;
    }
    return found;
}

/* ---- Near names ------------------------------------------------------------------- */

/* Length of the longest text that is in both, or least when none is longer. */
static size_t common(const char *a, const char *b, size_t least)
{
    size_t best = least, na = strlen(a), nb = strlen(b);
    for (size_t p = 0; p + best < na; p++)
        for (size_t q = 0; q + best < nb; q++) {
            size_t n = 0;
            if (a[p + best] != b[q + best]) /* it cannot be longer */
                continue;
            while (p + n < na && a[p + n] == b[q + n])
                n++;
            best = n > best ? n : best;
        }
    return best;
}

/* What is left of an expression without its signs. */
static void plain_text(const char *rule_text, char *out, size_t size)
{
    size_t n = 0;
    const char *end = strrchr(rule_text, '=');
    for (const char *p = rule_text; p < end && n + 1 < size; p++)
        if (!strchr("\\^$*+?()[]{}|", *p))
            out[n++] = *p;
    out[n] = 0;
}

static void near_names(const char *rule_text, const ccq_source *src, char *out, size_t size)
{
    const ccq_entry *best[NEAR] = {NULL};
    size_t score[NEAR] = {0}, used = 0;
    char text[200], name[160];
    plain_text(rule_text, text, sizeof text);
    for (size_t i = 0; i < src->count; i++) {
        size_t s = common(text, src->entry[i].name, score[NEAR - 1]), at = NEAR;
        while (at > 0 && s > score[at - 1])
            at--;
        if (at == NEAR)
            continue;
        memmove(best + at + 1, best + at, (NEAR - 1 - at) * sizeof *best);
        memmove(score + at + 1, score + at, (NEAR - 1 - at) * sizeof *score);
        best[at] = &src->entry[i];
        score[at] = s;
    }
    for (int i = 0; i < NEAR && best[i]; i++) {
        ccq_escape(name, sizeof name, best[i]->name, strlen(best[i]->name));
        int n = snprintf(out + used, size - used, "%s%s", i ? ", " : "", name);
        used = n < 0 || (size_t)n >= size - used ? size - 1 : used + (size_t)n;
    }
}

ccq_code ccq_rules_check(const ccq_rules *rules, const ccq_source *src, ccq_error *err)
{
    char near[600] = "", what[700];
    for (size_t i = 0; i < rules->count; i++) {
        if (rules->rule[i].used)
            continue;
        near_names(rules->rule[i].text, src, near, sizeof near);
        snprintf(what, sizeof what, "matches no tensor; near: %s", near);
        return bad(&rules->rule[i], what, err);
    }
    return CCQ_OK;
}
