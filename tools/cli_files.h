/* The files that options name, looked at before any of them is opened: what is read must
 * be a file, and what is written may be neither in a model nor one of those read. */
#ifndef CCQ_TOOLS_CLI_FILES_H
#define CCQ_TOOLS_CLI_FILES_H

#include "formats/types.h"

#include <stddef.h>

typedef struct cli_file {
    const char *option; /* without the dashes */
    const char *path;   /* NULL: not given */
} cli_file;

typedef struct cli_files {
    const char *const *model; /* directories, the output too; NULL: not given */
    size_t models;
    const cli_file *read, *written;
    size_t reads, writes;
} cli_files;

/* NO_INPUT: what is to be read is there and no regular file (what is missing is named by
 * its reader). USAGE: a file to be written, or what it links to, lies in one of the models
 * or in the directory of another, is read, or is named twice. */
ccq_code cli_files_check(const cli_files *f, ccq_error *err);

#endif
