#include "tools/quantize_job.h"

#include "formats/file.h"
#include "tools/launcher.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

void job_defaults(job_options *j)
{
    *j = (job_options){.rank = -1};
}

static int take_world(cli *c, job_options *j)
{
    int64_t n = 0;
    if (c->value && strcmp(c->value, "auto") == 0) {
        j->automatic = 1;
        return 0;
    }
    int rc = cli_int(c, 1, 1000000, &n);
    j->world = (int)n;
    return rc;
}

int job_take(cli *c, job_options *j, ccq_quantize_options *o)
{
    int64_t n = 0;
    int rc = 0;
    if (cli_is(c, "resume")) {
        o->resume = 1;
    } else if (cli_is(c, "finalize")) {
        o->finalize = 1;
    } else if (cli_is(c, "no-sync")) {
        o->no_sync = 1;
    } else if (cli_is(c, "no-symlinks")) {
        j->no_symlinks = 1;
    } else if (cli_is(c, "check-tensor")) {
        j->check_tensor = c->value;
    } else if (cli_is(c, "world")) {
        rc = take_world(c, j);
    } else if (cli_is(c, "rank")) {
        rc = cli_int(c, 0, 999999, &n);
        j->rank = (int)n;
    } else if (cli_is(c, "sync-mib")) {
        rc = cli_int(c, 1, 1 << 20, &n);
        o->sync_bytes = (uint64_t)n << 20;
    } else {
        return 0;
    }
    return rc ? -1 : 1;
}

static int refuse(const cli *c, const char *text)
{
    cli_error(c, "%s", text);
    return -1;
}

static int from_launcher(const cli *c, const job_options *j, ccq_quantize_options *o)
{
    launcher l;
    if (j->rank >= 0)
        return refuse(c, "--rank and --world auto: one of them says which process this is");
    if (launcher_find(&l, j->world)) {
        cli_error(c, "--world auto: %s", l.error);
        return -1;
    }
    o->rank = l.rank;
    o->world = l.world;
    cli_note(c, "rank %d of %d from %s", l.rank, l.world, l.source);
    return 0;
}

int job_resolve(const cli *c, const job_options *j, ccq_quantize_options *o)
{
    if (o->finalize && (j->rank >= 0 || j->automatic))
        return refuse(c, "--finalize is for one process, after all ranks: no --rank with it");
    if (o->finalize && (o->resume || o->overwrite))
        return refuse(c, "--finalize goes on with what is there: no --resume or --overwrite");
    if (j->check_tensor && (o->resume || o->finalize || j->automatic || j->world || j->rank >= 0))
        return refuse(c, "--check-tensor looks at a finished output: no option of a job with it");
    if (j->automatic)
        return from_launcher(c, j, o);
    o->world = j->world ? j->world : 1;
    o->rank = j->rank >= 0 ? j->rank : 0;
    if (j->rank >= 0 && !j->world)
        return refuse(c, "--rank without --world");
    if (j->world > 1 && j->rank < 0 && !o->finalize)
        return refuse(c, "--world without --rank: which process is this? (or --world auto)");
    if (o->rank < o->world)
        return 0;
    cli_error(c, "--rank %d: of %d processes they are 0 .. %d", o->rank, o->world, o->world - 1);
    return -1;
}

/* ---- Going on --------------------------------------------------------------------- */

/* A word as a shell reads it; control bytes are shown, not sent. */
static void print_word(const char *word)
{
    char shown[1100];
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                "-_=+,./:@%";
    if (*word && !word[strspn(word, plain)]) {
        fprintf(stderr, " %s", word);
        return;
    }
    fputs(" '", stderr);
    for (const char *p = word; *p; p++)
        if (*p == '\'')
            fputs("'\\''", stderr);
        else if (*p == '"' || *p == '\\')
            fputc(*p, stderr);
        else
            fputs(ccq_escape(shown, sizeof shown, p, 1), stderr);
    fputc('\'', stderr);
}

/* OUT/.ccq; also when there is no memory. */
static int is_left(const char *output)
{
    char work[PATH_MAX];
    return snprintf(work, sizeof work, "%s/.ccq", output) < (int)sizeof work &&
           ccq_path_exists(work);
}

/* Not what another run of the same command would say again. */
static int is_worth_it(ccq_code code)
{
    return code == CCQ_INTERRUPTED || code == CCQ_IO || code == CCQ_NO_SPACE ||
           code == CCQ_NO_MEMORY || code == CCQ_UNAVAILABLE || code == CCQ_NO_INPUT;
}

static int is_world(const char *word)
{
    return strcmp(word, "--world") == 0 || strncmp(word, "--world=", 8) == 0;
}

void job_tell_resume(const cli *c, const ccq_quantize_options *o, const char *output,
                     ccq_code code)
{
    int all = o->finalize && code == CCQ_INTERRUPTED; /* what is missing, too */
    if (!is_left(output) || !is_worth_it(code))
        return;
    fprintf(stderr, "%s: go on with:", c->tool);
    for (int i = 0; i < c->argc; i++) {
        if (all && (strcmp(c->argv[i], "--finalize") == 0 || is_world(c->argv[i]))) {
            i += strcmp(c->argv[i], "--world") == 0;
            continue;
        }
        print_word(c->argv[i]);
        if (i == 0 && !o->resume && (all || !o->finalize))
            fputs(" --resume", stderr);
    }
    fputc('\n', stderr);
}

/* ---- Looking back ------------------------------------------------------------------ */

/* The job is done, whatever becomes of the look. */
static int not_looked(const cli *c, const char *output, ccq_code code, const char *why)
{
    char shown[300];
    cli_error(c, "%s [%s]", why, ccq_code_name(code));
    cli_error(c, "%s is complete and in place, but could not be looked at again; that is what "
              "ccq-inspect --verify does", ccq_escape(shown, sizeof shown, output, strlen(output)));
    return cli_exit_code(code);
}

static int not_removed(const cli *c, const ccq_quantize_options *o, const char *output)
{
    char shown[300];
    cli_error(c, "%s is complete and in place, but its .ccq could not be removed",
              ccq_escape(shown, sizeof shown, output, strlen(output)));
    job_tell_resume(c, o, output, CCQ_IO);
    return CLI_IO;
}

/* How many findings are faults of the output; *unread: why something could not be read. */
static size_t count_faults(const ccq_verify_result *found, const char **unread)
{
    size_t faults = 0;
    for (size_t i = 0; i < found->findings; i++) {
        const ccq_finding *f = &found->finding[i];
        if (f->code == CCQ_IO)
            *unread = f->message;
        else
            faults += strcmp(f->file, ".ccq") != 0;
    }
    return faults;
}

int job_verify(const cli *c, const ccq_quantize_options *o, const char *output,
               ccq_verify_result *found)
{
    ccq_error err = {0};
    const char *unread = NULL;
    int left = is_left(output), status = CLI_OK;
    ccq_code code = ccq_verify(found, output, &err);
    size_t faults = code ? 0 : count_faults(found, &unread);
    for (size_t i = 0; faults && i < found->findings; i++)
        cli_error(c, "verify: %s: %s [%s]", found->finding[i].file, found->finding[i].message,
                  ccq_code_name(found->finding[i].code));
    if (faults)
        return CLI_FAILED;
    if (code || unread)
        status = not_looked(c, output, code == CCQ_NO_MEMORY ? code : CCQ_IO,
                            code ? err.text : unread);
    return left ? not_removed(c, o, output) : status;
}
