#include "tools/cli.h"
#include "tools/cli_device.h"

#include "kernels/ops.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { COLOR_AUTO, COLOR_ALWAYS, COLOR_NEVER };
enum { HELP_COLUMN = 30, HELP_WIDTH = 79, MAX_THREADS = 1024, SHOWN = 120 };

static const char *const isa_names[] = {"c", "avx2", "avx512"}; /* bit i = 1 << i */
enum { ISA_NAMES = sizeof isa_names / sizeof *isa_names };

/* ---- Messages ------------------------------------------------------------ */

/* One line, whatever the names in it hold. */
static void say(const cli *c, const char *fmt, va_list ap)
{
    char text[6000], shown[7000];
    fflush(stdout); /* keeps the order when both go to one file */
    vsnprintf(text, sizeof text, fmt, ap);
    fprintf(stderr, "%s: %s\n", c->tool, ccq_escape_rest(shown, sizeof shown, text));
}

void cli_error(const cli *c, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    say(c, fmt, ap);
    va_end(ap);
}

void cli_note(const cli *c, const char *fmt, ...)
{
    va_list ap;
    if (c->quiet)
        return;
    va_start(ap, fmt);
    say(c, fmt, ap);
    va_end(ap);
}

int cli_exit_code(ccq_code code)
{
    switch (code) {
    case CCQ_OK: return CLI_OK;
    case CCQ_USAGE: return CLI_USAGE;
    case CCQ_NO_INPUT: return CLI_NO_INPUT;
    case CCQ_NO_MEMORY:
    case CCQ_UNAVAILABLE: return CLI_UNAVAILABLE;
    case CCQ_BUG: return CLI_BUG;
    case CCQ_EXISTS:
    case CCQ_CREATE: return CLI_CREATE;
    case CCQ_IO:
    case CCQ_NO_SPACE: return CLI_IO;
    case CCQ_INTERRUPTED: return CLI_INTERRUPTED;
    default: return CLI_DATA; /* everything else says what is wrong with a file */
    }
}

int cli_fail(const cli *c, const ccq_error *err)
{
    cli_error(c, "%s [%s]", err->text, ccq_code_name(err->code));
    return cli_exit_code(err->code);
}

/* A reader that has gone away is its own business; anything else is a failure. */
static int stdout_closed(void)
{
    struct pollfd p = {STDOUT_FILENO, POLLOUT, 0};
    return poll(&p, 1, 0) > 0 && (p.revents & POLLERR);
}

int cli_finish(const cli *c, int status)
{
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout))
        return status;
    int why = errno;
    if (why == EPIPE || stdout_closed())
        return status;
    cli_error(c, "standard output: %s", why ? strerror(why) : "write failed");
    return CLI_IO;
}

const char *cli_bytes(char *out, size_t size, uint64_t bytes)
{
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB"};
    if (bytes < 1024) {
        snprintf(out, size, "%d B", (int)bytes);
        return out;
    }
    double v = (double)bytes / 1024;
    int u = 0;
    while (v >= 1023.95 && u < 3) {
        v /= 1024;
        u++;
    }
    snprintf(out, size, u >= 2 ? "%.2f %s" : "%.1f %s", v, units[u]);
    return out;
}

/* ---- Help and version ---------------------------------------------------- */

static void print_left(const cli_option *o, char *out, size_t size)
{
    char letter[8] = "    ";
    if (o->letter)
        snprintf(letter, sizeof letter, "-%c, ", o->letter);
    if (!o->arg)
        snprintf(out, size, "  %s--%s", letter, o->name);
    else if (o->arg[0] == '[')
        snprintf(out, size, "  %s--%s[=%.*s", letter, o->name, (int)strlen(o->arg + 1), o->arg + 1);
    else
        snprintf(out, size, "  %s--%s %s", letter, o->name, o->arg);
}

/* help from column at on, broken at blanks and at \n. */
static void print_help(const char *help, int at)
{
    int column = at;
    for (const char *p = help; *p;) {
        if (*p == '\n') {
            printf("\n%*s", at, "");
            column = at;
            p++;
            continue;
        }
        const char *word = p + (*p == ' ');
        int len = (int)strcspn(word, " \n"), blank = (int)(word - p);
        if (column > at && column + blank + len > HELP_WIDTH) {
            printf("\n%*s", at, "");
            column = at;
            blank = 0;
        }
        printf("%*s%.*s", blank, "", len, word);
        column += blank + len;
        p = word + len;
    }
    putchar('\n');
}

static void help(const cli *c)
{
    char left[160];
    printf("Usage: %s %s\n%s\n", c->tool, c->usage, c->about);
    for (const cli_option *o = c->options; o->name; o++) {
        if (o->group)
            printf("\n%s\n", o->group);
        print_left(o, left, sizeof left);
        int used = (int)strlen(left);
        if (used + 2 > HELP_COLUMN)
            printf("%s\n%*s", left, HELP_COLUMN, "");
        else
            printf("%-*s", HELP_COLUMN, left);
        print_help(o->help, HELP_COLUMN);
    }
}

static void version(void)
{
    unsigned isa = ccq_cpu_isa();
    printf("ccq: %s\n", CCQ_VERSION);
    cli_device_print_build();
    printf("openblas: %s\nsentencepiece: %s\nisa:", CCQ_HAVE_OPENBLAS ? "built" : "not built",
           CCQ_HAVE_SENTENCEPIECE ? "built" : "not built");
    for (int i = 0; i < ISA_NAMES; i++)
        if (isa >> i & 1)
            printf(" %s", isa_names[i]);
    putchar('\n');
    cli_device_print();
}

/* ---- Unknown options ----------------------------------------------------- */

static int smaller(int a, int b)
{
    return a < b ? a : b;
}

/* Insertions, deletions, replacements between a (la bytes) and b. */
static int distance(const char *a, size_t la, const char *b)
{
    enum { LONGEST = 48 };
    int row[LONGEST + 1];
    size_t lb = strlen(b);
    if (la > LONGEST || lb > LONGEST)
        return LONGEST;
    for (size_t j = 0; j <= lb; j++)
        row[j] = (int)j;
    for (size_t i = 1; i <= la; i++) {
        int diagonal = row[0];
        row[0] = (int)i;
        for (size_t j = 1; j <= lb; j++) {
            int up = row[j];
            row[j] = smaller(smaller(up, row[j - 1]) + 1, diagonal + (a[i - 1] != b[j - 1]));
            diagonal = up;
        }
    }
    return row[lb];
}

static int is_near(const char *name, size_t len, const char *known)
{
    if (len >= 2 && strncmp(name, known, len) == 0)
        return 1;
    return distance(name, len, known) <= (len < 4 ? 1 : 2);
}

static int unknown(const cli *c, const char *name, size_t len)
{
    char shown[SHOWN], hint[400] = "";
    size_t used = 0;
    for (const cli_option *o = c->options; o->name; o++) {
        if (!is_near(name, len, o->name) || used + strlen(o->name) + 16 > sizeof hint)
            continue;
        used += (size_t)snprintf(hint + used, sizeof hint - used, "%s--%s",
                                 used ? " or " : "; did you mean ", o->name);
    }
    ccq_escape(shown, sizeof shown, name, len);
    cli_error(c, "unknown option '--%s'%s%s (see --help)", shown, hint, used ? "?" : "");
    return CLI_USAGE;
}

/* ---- Common options ------------------------------------------------------ */

static void resolve_color(cli *c)
{
    const char *no = getenv("NO_COLOR"), *term = getenv("TERM");
    c->color = c->color_mode == COLOR_ALWAYS;
    if (c->color_mode == COLOR_AUTO)
        c->color = !(no && *no) && !(term && strcmp(term, "dumb") == 0) && isatty(STDOUT_FILENO);
}

static int bad_value(const cli *c, const char *wanted)
{
    char shown[SHOWN];
    const char *v = c->value ? c->value : "";
    ccq_escape(shown, sizeof shown, v, strlen(v));
    cli_error(c, "--%s: '%s' is not %s", c->option->name, shown, wanted);
    return -1;
}

static int set_isa(cli *c)
{
    unsigned wanted = 0;
    const char *p = c->value;
    for (;;) {
        size_t len = strcspn(p, ",");
        int i = 0;
        while (i < ISA_NAMES && !(strlen(isa_names[i]) == len && memcmp(isa_names[i], p, len) == 0))
            i++;
        if (i == ISA_NAMES)
            return bad_value(c, "a comma list of c, avx2, avx512");
        wanted |= 1u << i;
        if (!p[len])
            break;
        p += len + 1;
    }
    c->isa = (wanted & ccq_cpu_isa()) | CCQ_ISA_C;
    c->isa_absent = wanted & ~ccq_cpu_isa();
    return 0;
}

/* Opened later, by whoever has use for it: a name that says nothing is told at once. */
static int set_device(cli *c, int *status)
{
    cli_device_kind kind;
    int index;
    if (cli_device_read(c->value, &kind, &index))
        return bad_value(c, "auto, cpu, cuda, cuda:N or host");
    c->device = c->value;
    int found = cli_device_check(c, c->value);
    *status = found ? found : *status;
    return found ? -1 : 0;
}

static int set_threads(cli *c)
{
    int64_t n = 0;
    int rc = cli_int(c, 1, MAX_THREADS, &n);
    c->threads = (int)n;
    return rc;
}

static int is_common(const cli *c)
{
    static const char *const names[] = {"json",    "quiet",  "verbose", "color",  "threads",
                                        "device",  "cpu-isa", "help",   "version"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (cli_is(c, names[i]))
            return 1;
    return 0;
}

/* 0, or CLI_STOP with *status set. */
static int take_common(cli *c, int *status)
{
    int rc = 0;
    *status = CLI_USAGE;
    if (cli_is(c, "json"))
        c->json = 1;
    else if (cli_is(c, "quiet"))
        c->quiet = 1;
    else if (cli_is(c, "verbose"))
        c->verbose++;
    else if (cli_is(c, "color"))
        rc = cli_choice(c, NULL, &c->color_mode);
    else if (cli_is(c, "threads"))
        rc = set_threads(c);
    else if (cli_is(c, "device"))
        rc = set_device(c, status);
    else if (cli_is(c, "cpu-isa"))
        rc = set_isa(c);
    else {
        if (cli_is(c, "help"))
            help(c);
        else
            version();
        *status = cli_finish(c, CLI_OK);
        return CLI_STOP;
    }
    resolve_color(c);
    return rc ? CLI_STOP : 0;
}

/* ---- Scanning ------------------------------------------------------------ */

void cli_init(cli *c, const char *tool, const char *usage, const char *about,
              const cli_option *options, int argc, char **argv)
{
    memset(c, 0, sizeof *c);
    c->tool = tool;
    c->usage = usage;
    c->about = about;
    c->options = options;
    c->argc = argc;
    c->argv = argv;
    c->at = 1;
    c->isa = ccq_cpu_isa();
    c->device = "auto";
    resolve_color(c);
    signal(SIGPIPE, SIG_IGN); /* cli_finish tells a closed pipe from a full disk */
#ifdef SIGXFSZ
    signal(SIGXFSZ, SIG_IGN); /* the write then says which file met the limit */
#endif
}

int cli_is(const cli *c, const char *name)
{
    return c->option && strcmp(c->option->name, name) == 0;
}

/* The value of an option that needs one: given (after = or the letter) or the
 * next word. */
static int take_value(cli *c, const char *given)
{
    c->value = given;
    if (!c->option->arg || c->option->arg[0] == '[' || given)
        return 0;
    if (c->at >= c->argc) {
        cli_error(c, "--%s needs a value: %s", c->option->name, c->option->arg);
        return -1;
    }
    c->value = c->argv[c->at++];
    return 0;
}

static int long_option(cli *c, const char *word)
{
    size_t len = strcspn(word, "=");
    for (const cli_option *o = c->options; o->name; o++)
        if (strlen(o->name) == len && memcmp(o->name, word, len) == 0)
            c->option = o;
    if (!c->option) {
        unknown(c, word, len);
        return -1;
    }
    if (word[len] && !c->option->arg) {
        cli_error(c, "--%s takes no value", c->option->name);
        return -1;
    }
    return take_value(c, word[len] ? word + len + 1 : NULL);
}

static int short_option(cli *c)
{
    const char *p = c->rest;
    for (const cli_option *o = c->options; o->name; o++)
        if (o->letter == *p)
            c->option = o;
    c->rest = NULL;
    if (!c->option) {
        char shown[SHOWN];
        ccq_escape(shown, sizeof shown, p, strlen(p));
        cli_error(c, "unknown option '-%s' (see --help)", shown);
        return -1;
    }
    if (!c->option->arg && p[1])
        c->rest = p + 1;
    return take_value(c, c->option->arg && p[1] ? p + 1 : NULL);
}

static int finish_options(cli *c)
{
    for (int i = 0; i < ISA_NAMES; i++)
        if (c->isa_absent >> i & 1)
            cli_note(c, "--cpu-isa: this processor has no %s; ignored", isa_names[i]);
    c->isa_absent = 0;
    return CLI_END;
}

int cli_next(cli *c, int *status)
{
    for (;;) {
        c->option = NULL;
        c->value = NULL;
        int rc;
        if (c->rest) {
            rc = short_option(c);
        } else if (c->at >= c->argc) {
            return finish_options(c);
        } else {
            const char *word = c->argv[c->at++];
            if (c->only_arguments || word[0] != '-' || !word[1]) {
                c->value = word;
                return CLI_ARGUMENT;
            }
            if (strcmp(word, "--") == 0) {
                c->only_arguments = 1;
                continue;
            }
            c->rest = word[1] == '-' ? NULL : word + 1;
            rc = c->rest ? short_option(c) : long_option(c, word + 2);
        }
        if (rc) {
            *status = CLI_USAGE;
            return CLI_STOP;
        }
        if (!is_common(c))
            return CLI_OPTION;
        if (take_common(c, status))
            return CLI_STOP;
    }
}

/* ---- Values -------------------------------------------------------------- */

int cli_int(cli *c, int64_t min, int64_t max, int64_t *value)
{
    char wanted[96], *end;
    const char *v = c->value ? c->value : "";
    size_t sign = *v == '-' || *v == '+';
    snprintf(wanted, sizeof wanted, "an integer from %lld to %lld", (long long)min, (long long)max);
    errno = 0;
    long long n = strtoll(v, &end, 10);
    if (!v[sign] || v[sign + strspn(v + sign, "0123456789")] || errno || n < min || n > max)
        return bad_value(c, wanted);
    *value = n;
    return 0;
}

int cli_double(cli *c, double min, double max, double *value)
{
    char wanted[96], *end;
    const char *v = c->value ? c->value : "";
    snprintf(wanted, sizeof wanted, "a number from %g to %g", min, max);
    double n = strtod(v, &end);
    if (!*v || *end || v[strspn(v, "+-.0123456789eE")] || !(n >= min && n <= max))
        return bad_value(c, wanted);
    *value = n;
    return 0;
}

int cli_choice(cli *c, const char *choices, int *value)
{
    char wanted[160];
    const char *list = choices ? choices : c->option->arg, *p = list + (*list == '[');
    size_t all = strcspn(p, "]");
    if (!c->value) {
        *value = 0;
        return 0;
    }
    for (int i = 0;; i++) {
        size_t len = strcspn(p, "|]");
        if (strlen(c->value) == len && memcmp(c->value, p, len) == 0) {
            *value = i;
            return 0;
        }
        if (p[len] != '|')
            break;
        p += len + 1;
    }
    list += *list == '[';
    snprintf(wanted, sizeof wanted, "%s%.*s", strchr(list, '|') ? "one of " : "", (int)all, list);
    return bad_value(c, wanted);
}

int cli_size(cli *c, uint64_t *value)
{
    static const char wanted[] = "a size in bytes such as 4096, 512M (10^6) or 4GiB";
    const char *v = c->value ? c->value : "", *end = v + strspn(v, "0123456789");
    uint64_t n = 0, unit = 1;
    for (const char *p = v; p < end; p++)
        if (__builtin_mul_overflow(n, 10u, &n) ||
            __builtin_add_overflow(n, (unsigned)(*p - '0'), &n))
            return bad_value(c, wanted);
    const char *units = "KMGT", *u = *end ? strchr(units, *end) : NULL;
    if (end == v || (*end && !u))
        return bad_value(c, wanted);
    if (u) {
        const char *tail = end + 1;
        int binary = strcmp(tail, "iB") == 0;
        if (*tail && !binary && strcmp(tail, "B") != 0)
            return bad_value(c, wanted);
        for (const char *p = units; p <= u; p++)
            unit *= binary ? 1024 : 1000;
    }
    if (__builtin_mul_overflow(n, unit, value))
        return bad_value(c, wanted);
    return 0;
}
