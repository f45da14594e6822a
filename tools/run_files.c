/* The files that options name, looked at before any of them is opened: what is read must
 * be a file, and what is written may be neither in a model nor one of those read. */
#include "tools/run.h"

#include "formats/file.h"

#include <string.h>
#include <sys/stat.h>

typedef struct named {
    const char *option, *path;
} named;

static ccq_code fail(const named *n, ccq_code code, const char *what, ccq_error *err)
{
    char shown[512];

    return ccq_fail(err, code, "--%s %s: %s", n->option,
                    ccq_escape(shown, sizeof shown, n->path, strlen(n->path)), what);
}

/* What is not there is named by its reader. */
static ccq_code check_input(const named *in, ccq_error *err)
{
    struct stat st;

    if (!in->path || stat(in->path, &st) != 0 || S_ISREG(st.st_mode))
        return CCQ_OK;
    if (S_ISDIR(st.st_mode))
        return fail(in, CCQ_NO_INPUT, "a directory; a file is wanted", err);
    return fail(in, CCQ_NO_INPUT, "a pipe or a device; only a regular file can be read", err);
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

/* 1 when both name the same place, whether anything is there or not. */
static int same_place(const char *a, const char *b)
{
    if (ccq_path_exists(a) || ccq_path_exists(b))
        return ccq_path_inside(a, b); /* b is no directory, so: the same file */
    if (strcmp(base_name(a), base_name(b)))
        return 0;
    /* missing names: their directories, which ccq_path_inside looks through to, decide */
    size_t n = (size_t)(base_name(a) - a), m = (size_t)(base_name(b) - b);
    char da[4096] = "./", db[4096] = "./";
    if (n >= sizeof da || m >= sizeof db)
        return 0;
    memcpy(da, a, n);
    memcpy(db, b, m);
    return ccq_path_inside(da, db) && ccq_path_inside(db, da);
}

static ccq_code check_output(const run *r, const named *out, const named *in, size_t count,
                             ccq_error *err)
{
    const run_options *o = r->o;

    if (!out->path)
        return CCQ_OK;
    if (ccq_path_inside(out->path, o->model) ||
        (o->baseline && ccq_path_inside(out->path, o->baseline)))
        return fail(out, CCQ_USAGE, "inside a model; name another place", err);
    for (size_t i = 0; i < count; i++)
        if (in[i].path && same_place(out->path, in[i].path))
            return fail(out, CCQ_USAGE, "this file is also read; name another", err);
    for (size_t i = 0; i < o->sources.count; i++)
        if (o->sources.kind[i] == 'f' && same_place(out->path, o->sources.at[i]))
            return fail(out, CCQ_USAGE, "this file is also read; name another", err);
    return CCQ_OK;
}

ccq_code run_check_files(const run *r, ccq_error *err)
{
    const run_options *o = r->o;
    const named in[] = {{"tokens", o->tokens},
                        {"reference", o->reference},
                        {"perplexity", o->perplexity},
                        {"gate", o->gate}};
    const named out[] = {
        {"trace", o->trace}, {"junit", o->junit}, {"save-reference", o->save_reference}};
    size_t count = sizeof in / sizeof *in, outs = sizeof out / sizeof *out;
    ccq_code code;

    for (size_t i = 0; i < count; i++)
        if ((code = check_input(&in[i], err)))
            return code;
    for (size_t i = 0; i < o->sources.count; i++) {
        named prompts = {"prompts", o->sources.at[i]};
        if (o->sources.kind[i] == 'f' && (code = check_input(&prompts, err)))
            return code;
    }
    for (size_t i = 0; i < outs; i++)
        if ((code = check_output(r, &out[i], in, count, err)))
            return code;
    for (size_t i = 0; i < outs; i++)
        for (size_t j = i + 1; j < outs; j++)
            if (out[i].path && out[j].path && same_place(out[i].path, out[j].path)) {
                char what[64];
                snprintf(what, sizeof what, "--%s names it too", out[j].option);
                return fail(&out[i], CCQ_USAGE, what, err);
            }
    return CCQ_OK;
}
