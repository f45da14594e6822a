#include "tools/cli_files.h"

#include "formats/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static ccq_code fail(const cli_file *n, ccq_code code, const char *what, ccq_error *err)
{
    char shown[512];

    return ccq_fail(err, code, "--%s %s: %s", n->option,
                    ccq_escape(shown, sizeof shown, n->path, strlen(n->path)), what);
}

/* What is not there is named by its reader. */
static ccq_code check_read(const cli_file *in, ccq_error *err)
{
    struct stat st;

    if (!in->path || stat(in->path, &st) != 0 || S_ISREG(st.st_mode))
        return CCQ_OK;
    if (S_ISDIR(st.st_mode))
        return fail(in, CCQ_NO_INPUT, "a directory; a file is wanted", err);
    return fail(in, CCQ_NO_INPUT, "a pipe or a device; only a regular file can be read", err);
}

/* ---- Places ------------------------------------------------------------------------- */

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

static int same_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* 1 when both name the same place, whether anything is there or not. */
static int same_place(const char *a, const char *b)
{
    struct stat sa, sb;
    char *da, *db;
    int same;

    if (stat(a, &sa) == 0 && stat(b, &sb) == 0 && same_file(&sa, &sb))
        return 1;
    if (strcmp(base_name(a), base_name(b)))
        return 0;
    /* missing names: their directories, which ccq_path_inside looks through to, decide */
    da = ccq_path_parent(a);
    db = ccq_path_parent(b);
    same = da && db && ccq_path_inside(da, db) && ccq_path_inside(db, da);
    free(da);
    free(db);
    return same;
}

static int ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);

    return n >= m && strcmp(s + n - m, end) == 0;
}

/* 1 when a name in dir, or in a rank directory inside it, leads to the file st. */
static int leads_to(const char *dir, const struct stat *st, int depth)
{
    char **names = NULL;
    size_t count = 0;
    struct stat found;
    int leads = 0;

    if (ccq_dir_list(dir, &names, &count, NULL))
        return 0;
    for (size_t i = 0; i < count && !leads; i++) {
        char *path = ccq_path_join(dir, names[i]);
        if (path && stat(path, &found) == 0)
            leads = same_file(&found, st) || (depth == 0 && S_ISDIR(found.st_mode) &&
                                              strncmp(names[i], "rank", 4) == 0 &&
                                              leads_to(path, st, 1));
        free(path);
    }
    ccq_names_free(names, count);
    return leads;
}

/* 1 for a directory with config.json and weights. */
static int is_model(const char *dir)
{
    char **names = NULL;
    size_t count = 0;
    int config = 0, weights = 0;

    if (ccq_dir_list(dir, &names, &count, NULL))
        return 0;
    for (size_t i = 0; i < count; i++) {
        config |= strcmp(names[i], "config.json") == 0;
        weights |= ends_with(names[i], ".safetensors") || ends_with(names[i], ".pdparams") ||
                   ends_with(names[i], ".safetensors.index.json") ||
                   strcmp(names[i], "rank0") == 0;
    }
    ccq_names_free(names, count);
    return config && weights;
}

/* The name itself counts, for it is replaced, and so does what it links to. */
static int is_in(const char *path, const char *parent, const char *dir)
{
    struct stat st;

    return ccq_path_inside(path, dir) || ccq_path_inside(parent, dir) ||
           (stat(path, &st) == 0 && S_ISREG(st.st_mode) && leads_to(dir, &st, 0));
}

/* Of a directory that was not named: a model, or a rank directory of one. */
static int is_of_model(const char *dir)
{
    char *real = realpath(dir, NULL), *up = NULL;
    int is = 0;

    if (real && !(is = is_model(real)) && strncmp(base_name(real), "rank", 4) == 0)
        is = (up = ccq_path_parent(real)) && is_model(up);
    free(up);
    free(real);
    return is;
}

static int in_models(const cli_files *f, const char *path)
{
    char *parent = ccq_path_parent(path), *real = realpath(path, NULL);
    char *target = real ? ccq_path_parent(real) : NULL;
    int in = parent && (is_of_model(parent) || (target && is_of_model(target)));

    for (size_t i = 0; parent && !in && i < f->models; i++)
        in = f->model[i] && is_in(path, parent, f->model[i]);
    free(target);
    free(real);
    free(parent);
    return in;
}

static ccq_code check_written(const cli_files *f, const cli_file *out, ccq_error *err)
{
    if (!out->path)
        return CCQ_OK;
    for (size_t i = 0; i < f->reads; i++)
        if (f->read[i].path && same_place(out->path, f->read[i].path))
            return fail(out, CCQ_USAGE, "this file is also read; name another", err);
    if (in_models(f, out->path))
        return fail(out, CCQ_USAGE, "inside a model; name another place", err);
    return CCQ_OK;
}

static ccq_code check_twice(const cli_file *a, const cli_file *b, ccq_error *err)
{
    char what[64];

    if (!a->path || !b->path || !same_place(a->path, b->path))
        return CCQ_OK;
    snprintf(what, sizeof what, "--%s names it too", b->option);
    return fail(a, CCQ_USAGE, what, err);
}

ccq_code cli_files_check(const cli_files *f, ccq_error *err)
{
    ccq_code code = CCQ_OK;

    for (size_t i = 0; i < f->reads && !code; i++)
        code = check_read(&f->read[i], err);
    for (size_t i = 0; i < f->writes && !code; i++)
        code = check_written(f, &f->written[i], err);
    for (size_t i = 0; i < f->writes; i++)
        for (size_t j = i + 1; j < f->writes && !code; j++)
            code = check_twice(&f->written[i], &f->written[j], err);
    return code;
}
