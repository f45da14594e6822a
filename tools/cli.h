/* What the three tools share: option tables (help comes from them), messages,
 * exit codes. */
#ifndef CCQ_TOOLS_CLI_H
#define CCQ_TOOLS_CLI_H

#include "formats/types.h"

#include <stdint.h>
#include <stdio.h>

/* Exit codes (man page, EXIT STATUS). */
enum {
    CLI_OK = 0,
    CLI_FAILED = 1, /* verify, gate or comparison */
    CLI_USAGE = 64,
    CLI_DATA = 65,
    CLI_NO_INPUT = 66,
    CLI_UNAVAILABLE = 69,
    CLI_BUG = 70,
    CLI_CREATE = 73,
    CLI_IO = 74,
    CLI_INTERRUPTED = 75
};

typedef struct cli_option {
    const char *group; /* heading; starts a group when not NULL */
    char letter;       /* -j, or 0 */
    const char *name;  /* "threads"; NULL ends the table */
    const char *arg;   /* "N", "fast|normal"; "[quick]" = optional, only as --name=value;
                          NULL = none */
    const char *help;  /* what it does, unit and default; \n starts a new line */
} cli_option;

/* Rows for --json --quiet --verbose --color --threads --device --cpu-isa --help
 * --version: put CLI_COMMON at the end of every table. */
#define CLI_COMMON                                                                                 \
    {"Common", 0, "json", NULL, "print one JSON document on stdout"},                              \
        {NULL, 'q', "quiet", NULL, "errors only"},                                                 \
        {NULL, 'v', "verbose", NULL, "more detail; may be repeated"},                              \
        {NULL, 0, "color", "auto|always|never", "colour on a terminal (default auto; NO_COLOR)"},  \
        {NULL, 'j', "threads", "N", "default: the CPUs this process may use"},                     \
        {NULL, 0, "device", "auto|cpu|cuda|cuda:N|host",                                           \
         "what computes: the CPU or a CUDA device (default auto: the first one, where there is "   \
         "one)\nhost: a device's code run on the CPU, slow, for tests"},                           \
        {NULL, 0, "cpu-isa", "LIST", "instruction sets allowed, of c,avx2,avx512 (for tests)"},    \
        {NULL, 'h', "help", NULL, "this text"},                                                    \
        {NULL, 0, "version", NULL, "version and what was built in, one fact a line"},              \
    {NULL, 0, NULL, NULL, NULL}

typedef struct cli {
    const char *tool;  /* "ccq-quantize" */
    const char *usage; /* "[OPTION]... INPUT OUTPUT" */
    const char *about; /* one line */
    const cli_option *options;
    int argc;
    char **argv;
    int at;
    int only_arguments; /* after -- */
    const char *rest;   /* further letters of -qv */
    /* of the option or argument just returned */
    const cli_option *option;
    const char *value; /* its value, the argument, or NULL */
    /* the common options, handled by cli_next itself */
    int json, quiet, verbose, color /* 0 or 1, resolved */;
    int color_mode;
    int threads;  /* 0 = default */
    unsigned isa; /* CCQ_ISA_* allowed */
    unsigned isa_absent; /* asked for and not here: noted at CLI_END */
    const char *device; /* tools/cli_device.h */
} cli;

enum {
    CLI_OPTION = 1,   /* option (not a common one) and value are set */
    CLI_ARGUMENT = 2, /* value is set */
    CLI_END = 0,
    CLI_STOP = -1 /* --help, --version, or an error: return *status from main */
};

void cli_init(cli *c, const char *tool, const char *usage, const char *about,
              const cli_option *options, int argc, char **argv);
/* The next option or argument. An unknown option names near ones; abbreviations
 * are not accepted. */
int cli_next(cli *c, int *status);
/* 1 when the option just returned is name. */
int cli_is(const cli *c, const char *name);

/* Values of the option just returned; 0 when good, else the message has been
 * printed and the tool returns CLI_USAGE. */
int cli_int(cli *c, int64_t min, int64_t max, int64_t *value);
int cli_double(cli *c, double min, double max, double *value);
/* *value = position in "a|b|c" (default: the option's own arg text). */
int cli_choice(cli *c, const char *choices, int *value);
/* "512M" (10^6), "4GiB", "4096": bytes. */
int cli_size(cli *c, uint64_t *value);

/* "tool: message" on stderr; cli_note is silent with --quiet. */
void cli_error(const cli *c, const char *fmt, ...) CCQ_PRINTF(2, 3);
void cli_note(const cli *c, const char *fmt, ...) CCQ_PRINTF(2, 3);
/* Prints err and returns its exit code. */
int cli_fail(const cli *c, const ccq_error *err);
int cli_exit_code(ccq_code code);

/* Flushes stdout and checks it: status, or CLI_IO when the answer did not get
 * out (a closed pipe after the work is done counts as 0). */
int cli_finish(const cli *c, int status);

/* "87.38 GiB", "14.5 MiB", "812 B". out holds 16 bytes at least. */
const char *cli_bytes(char *out, size_t size, uint64_t bytes);

#endif
