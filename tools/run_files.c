/* Which files a run reads and writes. */
#include "tools/cli_files.h"
#include "tools/run.h"

#include <stdlib.h>

ccq_code run_check_files(const run *r, ccq_error *err)
{
    const run_options *o = r->o;
    const char *const models[] = {o->model, o->baseline};
    const cli_file fixed[] = {{"tokens", o->tokens},
                              {"reference", o->reference},
                              {"perplexity", o->perplexity},
                              {"gate", o->gate}};
    const cli_file out[] = {
        {"trace", o->trace}, {"junit", o->junit}, {"save-reference", o->save_reference}};
    size_t count = sizeof fixed / sizeof *fixed;
    cli_file *in = calloc(count + o->sources.count, sizeof *in);
    ccq_code code;

    if (!in)
        return ccq_fail(err, CCQ_NO_MEMORY, "out of memory");
    for (size_t i = 0; i < count; i++)
        in[i] = fixed[i];
    for (size_t i = 0; i < o->sources.count; i++)
        if (o->sources.kind[i] == 'f')
            in[count++] = (cli_file){"prompts", o->sources.at[i]};
    const cli_files files = {models, 2, in, out, count, sizeof out / sizeof *out};
    code = cli_files_check(&files, err);
    free(in);
    return code;
}
