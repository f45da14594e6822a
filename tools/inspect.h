/* ccq-inspect: what its text and JSON sides share. */
#ifndef CCQ_TOOLS_INSPECT_H
#define CCQ_TOOLS_INSPECT_H

#include "formats/json.h"
#include "libccq/inspect.h"
#include "tools/cli.h"

#include <regex.h>

typedef struct inspect_row {
    const ccq_entry *entry;
    ccq_difference difference;
} inspect_row;

/* What was asked for and found; parts not asked for are empty. */
typedef struct inspect {
    cli c;
    const char *model, *against; /* directories */
    const char *pattern;         /* --tensor */
    int verify;
    regex_t regex;
    int regex_ready;
    ccq_source *src, *base; /* NULL when not opened */
    ccq_summary summary;
    ccq_detail *detail; /* one a match */
    size_t details;
    inspect_row *row; /* one an entry of src */
    size_t rows;
    ccq_verify_result verified;
} inspect;

const char *inspect_family(const ccq_source *src);
const char *inspect_order(const ccq_source *src); /* "fastdeploy", "plain" */
int inspect_has_wint2(const ccq_summary *s);

/* inspect_text.c, on stdout */
void inspect_print_summary(const inspect *in);
void inspect_print_details(const inspect *in);
void inspect_print_row(const inspect *in, const inspect_row *row);
void inspect_print_against_head(const inspect *in);
void inspect_print_totals(const inspect *in);
void inspect_print_verify(const inspect *in);

/* inspect_json.c: the whole document; NULL when out of memory. The caller frees it. */
char *inspect_json(const inspect *in);

#endif
