/* Verification: opens what can be opened, asks each part for faults. */
#include "libccq/verify.h"

#include "formats/file.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_FINDINGS = 1000, MAX_NOTES = 200 };

/* ---- Collecting ----------------------------------------------------------- */

static void free_finding(ccq_finding *f)
{
    free(f->file);
    free(f->tensor);
    free(f->message);
}

/* Onto a list of findings or warnings. */
static void append(ccq_verifier *v, ccq_finding **list, size_t *count, ccq_code code,
                   const char *file, const char *tensor, const char *message)
{
    char path[400];
    snprintf(path, sizeof path, "%s%s", v->prefix, file ? file : "");
    ccq_finding *grown = realloc(*list, (*count + 1) * sizeof *grown);
    if (!grown) {
        v->failed = 1;
        return;
    }
    *list = grown;
    ccq_finding f = {code, strdup(path), strdup(tensor ? tensor : ""), strdup(message)};
    if (!f.file || !f.tensor || !f.message) {
        free_finding(&f);
        v->failed = 1;
        return;
    }
    grown[(*count)++] = f;
}

static void keep(ccq_verifier *v, ccq_code code, const char *file, const char *tensor,
                 const char *message)
{
    ccq_verify_result *r = v->out;
    if (r->findings == MAX_FINDINGS)
        r->dropped++;
    else
        append(v, &r->finding, &r->findings, code, file, tensor, message);
}

void ccq_verify_add(ccq_verifier *v, ccq_code code, const char *file, const char *tensor,
                    const char *fmt, ...)
{
    char text[600];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    keep(v, code, file, tensor, text);
}

void ccq_verify_warn(ccq_verifier *v, const char *file, const char *tensor, const char *fmt, ...)
{
    ccq_verify_result *r = v->out;
    char text[600];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (r->warnings < MAX_FINDINGS)
        append(v, &r->warning, &r->warnings, CCQ_OK, file, tensor, text);
}

void ccq_verify_note(ccq_verifier *v, const char *fmt, ...)
{
    ccq_verify_result *r = v->out;
    char text[600];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (r->notes == MAX_NOTES)
        return;
    for (size_t i = 0; i < r->notes; i++)
        if (strcmp(r->note[i], text) == 0)
            return; /* of another rank */
    char **grown = realloc(r->note, (r->notes + 1) * sizeof *grown), *copy = strdup(text);
    if (grown)
        r->note = grown;
    if (!grown || !copy) {
        free(copy);
        v->failed = 1;
        return;
    }
    grown[r->notes++] = copy;
}

/* The first quoted name in text that can be a tensor's; 0 when there is none. */
static int quoted_tensor(const char *text, char *out, size_t size)
{
    for (const char *p = strchr(text, '"'); p; p = strchr(p, '"')) {
        const char *name = p + 1, *end = name;
        while (*end && *end != '"')
            end += *end == '\\' && end[1] ? 2 : 1;
        if (!*end)
            return 0;
        if (strncmp(name, "ernie.", 6) == 0 || strncmp(name, "model.", 6) == 0 ||
            strncmp(name, "lm_head", 7) == 0 || (p == text && end[1] == ':')) {
            snprintf(out, size, "%.*s", (int)(end - name), name);
            return 1;
        }
        p = end + 1;
    }
    return 0;
}

/* A name as it was, of what ccq_escape made of it: findings hold names, not their looks. */
static void unescape(char *text)
{
    static const char from[] = "\"\\nrt", to[] = "\"\\\n\r\t";
    char *out = text;
    for (const char *p = text; *p; p++) {
        const char *found = *p == '\\' && p[1] ? strchr(from, p[1]) : NULL;
        unsigned byte = 0;
        int used = 0;
        if (found) {
            *out++ = to[found - from];
            p++;
        } else if (sscanf(p, "\\x%2x%n", &byte, &used) == 1 && used == 4 && byte) {
            *out++ = (char)byte;
            p += 3;
        } else {
            *out++ = *p;
        }
    }
    *out = 0;
}

/* Behind "DIR/" or before the ":" of "DIR:", where text begins so. */
static const char *behind_dir(const char *text, const char *dir)
{
    size_t n = strlen(dir);
    if (strncmp(text, dir, n) != 0 || (text[n] != '/' && text[n] != ':'))
        return NULL;
    return text + n + (text[n] == '/');
}

/* The file a text begins with ("DIR/FILE: ...", "FILE: ..."); what follows it. */
static const char *split_file(const ccq_verifier *v, const char *text, char *file, size_t size)
{
    size_t len;
    char shown[1000];
    const char *rest = behind_dir(text, v->dir);
    *file = 0;
    if (!rest)
        rest = behind_dir(text, ccq_escape(shown, sizeof shown, v->dir, strlen(v->dir)));
    text = rest ? rest : text;
    if (strncmp(text, ": ", 2) == 0)
        return text + 2;
    const char *colon = strstr(text, ": ");
    len = colon ? (size_t)(colon - text) : 0;
    if (!len || len >= size || memchr(text, '"', len) || memchr(text, ' ', len))
        return text;
    memcpy(file, text, len);
    file[len] = 0;
    unescape(file);
    return colon + 2;
}

/* Tensors of one linear differ in their suffix only. */
static int same_linear(const char *a, const char *b)
{
    size_t n = strlen(a) < strlen(b) ? strlen(a) : strlen(b);
    return n > 0 && strncmp(a, b, n) == 0;
}

void ccq_verify_add_error(ccq_verifier *v, const ccq_error *err)
{
    char file[256], tensor[300] = "", lead[310];
    if (err->code == CCQ_NO_MEMORY) {
        v->failed = 1; /* nobody's fault, and nothing can be said about the rest */
        return;
    }
    const char *rest = split_file(v, err->text, file, sizeof file);
    if (quoted_tensor(rest, tensor, sizeof tensor)) {
        int n = snprintf(lead, sizeof lead, "\"%s\"", tensor);
        if (strncmp(rest, lead, (size_t)n) == 0)
            rest += n + (rest[n] == ':');
        rest += *rest == ' ';
        unescape(tensor);
    }
    if (!*file && strstr(rest, "config.json"))
        snprintf(file, sizeof file, "config.json"); /* what the tensors contradict */
    for (size_t i = 0; i < v->out->findings; i++) {
        const ccq_finding *f = &v->out->finding[i];
        if (f->code == err->code && same_linear(f->tensor, tensor))
            return; /* found already, and said with more detail */
    }
    keep(v, err->code, file, tensor, rest);
}

/* ---- The directory -------------------------------------------------------- */

static int ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

static int is_shard(const ccq_verifier *v, const char *name)
{
    for (size_t i = 0; i < ccq_checkpoint_shards(v->files); i++)
        if (strcmp(ccq_checkpoint_shard(v->files, i)->name, name) == 0)
            return 1;
    return 0;
}

static void check_name(ccq_verifier *v, const char *name)
{
    char shown[200];
    if (v->files && ends_with(name, ".pdparams") && is_shard(v, name))
        return; /* there is nothing else */
    if (ends_with(name, ".pdparams"))
        ccq_verify_add(v, CCQ_UNSUPPORTED, name, NULL,
                       "FastDeploy would read this file instead of the safetensors");
    else if (strcmp(name, ".ccq") == 0)
        ccq_verify_add(v, CCQ_INCOMPLETE, name, NULL, "left by a run that did not finish");
    else if (v->files && ends_with(name, ".safetensors") && !is_shard(v, name))
        ccq_verify_note(v, "%s is not part of the checkpoint",
                        ccq_escape(shown, sizeof shown, name, strlen(name)));
}

static void check_names(ccq_verifier *v)
{
    char **names = NULL;
    size_t count = 0;
    if (ccq_dir_list(v->dir, &names, &count, NULL))
        return; /* said by opening it */
    for (size_t i = 0; i < count; i++)
        check_name(v, names[i]);
    ccq_names_free(names, count);
}

static void check_index(ccq_verifier *v)
{
    static const char file[] = "model.safetensors.index.json";
    uint64_t stated, sum = 0;
    size_t unlisted = ccq_checkpoint_unlisted(v->files), i;
    if (!ccq_checkpoint_indexed(v->files)) {
        ccq_verify_note(v, "no %s", file);
        return;
    }
    for (i = 0; i < unlisted; i++)
        ccq_verify_add(v, CCQ_INDEX, file, ccq_checkpoint_unlisted_name(v->files, i),
                       "is in a shard and not in the index");
    for (i = 0; i < ccq_checkpoint_count(v->files); i++)
        sum += ccq_checkpoint_at(v->files, i)->bytes;
    if (!unlisted && ccq_checkpoint_total_size(v->files, &stated) && stated != sum)
        ccq_verify_note(v, "%s: total_size is %llu, the tensors hold %llu bytes", file,
                        (unsigned long long)stated, (unsigned long long)sum);
}

/* ---- All of it ------------------------------------------------------------ */

static void open_config(ccq_verifier *v)
{
    ccq_error err;
    if (ccq_config_load(&v->config, v->dir, &err)) {
        v->config = NULL;
        ccq_verify_add_error(v, &err);
    }
}

static void check_shards(ccq_verifier *v)
{
    ccq_error err;
    if (ccq_checkpoint_open(&v->files, v->dir, &err)) {
        v->files = NULL;
        ccq_verify_add_error(v, &err);
        return;
    }
    v->opened++;
    check_index(v);
    ccq_verify_tensors(v);
}

/* Every rank as a checkpoint of its own. */
static void check_ranks(ccq_verifier *v)
{
    const char *dir = v->dir;
    for (int r = 0; r < v->ranks && !v->failed; r++) {
        char prefix[32], *path = ccq_rank_dir(dir, r);
        snprintf(prefix, sizeof prefix, "rank%d/", r);
        if (path) {
            v->dir = path;
            v->prefix = prefix;
            check_shards(v);
            check_names(v);
            ccq_checkpoint_close(v->files);
            v->files = NULL;
        }
        v->failed |= !path;
        free(path);
        v->dir = dir;
        v->prefix = "";
    }
}

static void check_model(ccq_verifier *v)
{
    ccq_error err;
    if (v->opened < (v->ranks ? v->ranks : 1) || !v->config)
        return;
    if (ccq_source_open(&v->src, v->dir, NULL, &err)) {
        v->src = NULL;
        ccq_verify_add_error(v, &err);
        return;
    }
    for (size_t i = 0; i < v->src->notes; i++)
        ccq_verify_note(v, "%s", v->src->note[i]);
    if (!v->src->recipe)
        ccq_verify_note(v, "no ccq_recipe.json");
}

ccq_code ccq_verify(ccq_verify_result *result, const char *dir, ccq_error *err)
{
    return ccq_verify_with(result, dir, &(ccq_verify_options){0}, err);
}

ccq_code ccq_verify_with(ccq_verify_result *result, const char *dir,
                         const ccq_verify_options *options, ccq_error *err)
{
    ccq_verifier v = {.dir = dir, .prefix = "", .out = result,
                      .pool = options->pool, .ops = options->ops};
    ccq_error counting;
    memset(result, 0, sizeof *result);
    ccq_code code = ccq_ranks_find(dir, &v.ranks, &counting);
    if (code && code != CCQ_INCOMPLETE && code != CCQ_LIMIT)
        return ccq_fail(err, code, "%s", counting.text);
    open_config(&v);
    if (code)
        ccq_verify_add_error(&v, &counting);
    else if (v.ranks)
        check_ranks(&v);
    else
        check_shards(&v);
    check_model(&v);
    if (v.pool && !v.failed)
        ccq_verify_data(&v);
    if (v.config)
        ccq_verify_config(&v);
    ccq_verify_manifest(&v);
    check_names(&v);
    ccq_source_close(v.src);
    ccq_checkpoint_close(v.files);
    ccq_config_free(v.config);
    if (!v.failed)
        return CCQ_OK;
    ccq_verify_free(result);
    return ccq_fail(err, CCQ_NO_MEMORY, "%s: out of memory", dir);
}

void ccq_verify_free(ccq_verify_result *r)
{
    for (size_t i = 0; i < r->findings; i++)
        free_finding(&r->finding[i]);
    for (size_t i = 0; i < r->warnings; i++)
        free_finding(&r->warning[i]);
    for (size_t i = 0; i < r->notes; i++)
        free(r->note[i]);
    free(r->finding);
    free(r->warning);
    free(r->note);
    memset(r, 0, sizeof *r);
}
