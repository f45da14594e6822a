/* ccq-inspect: what its text and JSON sides share. */
#ifndef CCQ_TOOLS_INSPECT_H
#define CCQ_TOOLS_INSPECT_H

#include "formats/json.h"
#include "libccq/diff.h"
#include "libccq/inspect.h"
#include "libccq/scan.h"
#include "tools/cli.h"

#include <regex.h>

typedef struct inspect_row {
    const ccq_entry *entry;
    ccq_difference difference;
} inspect_row;

/* Which K order fits the source: SQNR of some wint2 matrices in both. */
typedef struct inspect_fit {
    size_t matrices; /* 0: not asked */
    double db[2];    /* by CCQ_ORDER_* */
    int clear;       /* 1: one fits, and is taken */
} inspect_fit;

/* What was asked for and found; parts not asked for are empty. */
typedef struct inspect {
    cli c;
    const char *model;             /* a directory, or one file */
    const char *against, *compare; /* the same, or NULL */
    const char *pattern;           /* --tensor */
    int values;                    /* --values */
    int verify;                    /* 1 quick, 2 deep */
    int order;                     /* --k-order: CCQ_ORDER_*, or -1 */
    int64_t tp_rank; /* -1: all, joined */
    regex_t regex;
    int regex_ready;
    ccq_source *src, *base; /* NULL when not opened */
    ccq_summary summary;
    ccq_pool *pool; /* NULL until something needs threads */
    ccq_ops ops;
    ccq_detail *detail; /* one a match */
    size_t details;
    ccq_decoded *decoded; /* one a detail, with --values; else NULL */
    inspect_row *row; /* one an entry of src */
    size_t rows;
    inspect_fit fit;
    ccq_verify_result verified;
    ccq_diff_result diff;
} inspect;

const char *inspect_family(const ccq_source *src);
const char *inspect_order(const ccq_source *src); /* "fastdeploy", "plain" */
/* Where that is known from: "recorded in ccq_recipe.json", "given", ... */
const char *inspect_order_origin(const inspect *in);
int inspect_has_wint2(const ccq_summary *s);

/* ccq_inspect.c: --compare, printed unless there is JSON to come. An exit status. */
int inspect_compare(inspect *in);

/* inspect_open.c. Exit statuses; what went wrong has been printed. */
int inspect_start_threads(inspect *in); /* in->pool, in->ops */
/* Verifies if asked to, then opens in->src and in->base. A model that does not open
 * is a finding under --verify (CLI_OK, in->src NULL), an error otherwise. */
int inspect_open(inspect *in);

/* inspect_text.c, on stdout */
void inspect_print_summary(const inspect *in);
void inspect_print_details(const inspect *in);
void inspect_print_row(const inspect *in, const inspect_row *row);
void inspect_print_against_head(const inspect *in);
void inspect_print_totals(const inspect *in);
void inspect_print_fit(const inspect *in);
void inspect_print_verify(const inspect *in);

/* inspect_side.c: --compare, on stdout or into the document */
void inspect_print_diff(const inspect *in);
void inspect_diff_json(ccq_jw *w, const inspect *in);

/* inspect_file.c: MODEL is one file. An exit status; everything is printed. */
int inspect_file(inspect *in);

/* inspect_json.c: the whole document; NULL when out of memory. The caller frees it. */
char *inspect_json(const inspect *in);

#endif
