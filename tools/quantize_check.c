/* --check-tensor: one tensor of a finished output, made once more. */
#include "formats/json.h"
#include "tools/quantize_job.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static int print_json(const ccq_tensor_check *t, const char *name)
{
    ccq_jw w;
    size_t size = 0;
    ccq_jw_init(&w, 2);
    ccq_jw_object(&w);
    ccq_jw_kstring(&w, "schema", "ccq.quantize/1");
    ccq_jw_kstring(&w, "check_tensor", name);
    ccq_jw_kbool(&w, "same", !*t->tensor);
    ccq_jw_ku64(&w, "bytes", t->bytes);
    if (*t->tensor) {
        ccq_jw_kstring(&w, "tensor", t->tensor);
        ccq_jw_kstring(&w, "file", t->file);
        ccq_jw_ku64(&w, "offset", t->at);
        ccq_jw_ku64(&w, "file_offset", t->file_at);
        ccq_jw_ku64(&w, "found", t->found);
        ccq_jw_ku64(&w, "wanted", t->wanted);
    }
    ccq_jw_end(&w);
    char *text = ccq_jw_take(&w, &size);
    if (!text)
        return -1;
    fputs(text, stdout);
    free(text);
    return 0;
}

static void print_text(const ccq_tensor_check *t, const char *name)
{
    char shown[300], bytes[32];
    if (!*t->tensor) {
        printf("%s: the same, %d stored tensors, %s\n",
               ccq_escape(shown, sizeof shown, name, strlen(name)), t->tensors,
               cli_bytes(bytes, sizeof bytes, t->bytes));
        return;
    }
    printf("%s: differs from byte %" PRIu64 " on (byte %" PRIu64 " of %s): 0x%02x, now 0x%02x\n",
           ccq_escape(shown, sizeof shown, t->tensor, strlen(t->tensor)), t->at, t->file_at,
           t->file, t->found, t->wanted);
}

int job_check_tensor(const cli *c, const ccq_plan *plan, const ccq_quantize_run_options *run,
                     const char *name)
{
    ccq_tensor_check *t = malloc(sizeof *t);
    ccq_error err;
    int status = CLI_UNAVAILABLE;
    if (!t) {
        cli_error(c, "out of memory");
        return status;
    }
    if (ccq_check_tensor(plan, run, name, t, &err)) {
        status = cli_fail(c, &err);
    } else if (!run) {
        status = CLI_OK;
    } else if (c->json && print_json(t, name)) {
        cli_error(c, "out of memory");
    } else {
        if (!c->json && (!c->quiet || *t->tensor))
            print_text(t, name);
        status = *t->tensor ? CLI_FAILED : CLI_OK;
    }
    free(t);
    return status;
}
