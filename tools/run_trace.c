/* --trace: the router's choices, one JSON line a token and MoE layer. They go to a new
 * file beside the one that is named, so a run that fails leaves that one as it was. */
#include "tools/run.h"

#include "formats/file.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static ccq_code fail(const run *r, ccq_code code, int why, ccq_error *err)
{
    const char *path = r->o->trace;
    char shown[512];

    return ccq_fail(err, code, "%s: the trace cannot be written: %s",
                    ccq_escape(shown, sizeof shown, path, strlen(path)), strerror(why));
}

ccq_code run_trace_open(run *r, ccq_error *err)
{
    int fd, why;
    ccq_code code;

    if (!r->o->trace)
        return CCQ_OK;
    if ((code = ccq_temp_open(r->o->trace, &r->trace_tmp, &fd, err)))
        return code;
    r->trace = fdopen(fd, "w");
    if (r->trace)
        return CCQ_OK;
    why = errno;
    close(fd);
    return fail(r, CCQ_CREATE, why, err);
}

void run_trace_row(void *ctx, size_t sequence, int64_t position, int32_t id, const ccq_routes *one)
{
    run *r = ctx;

    for (int64_t i = 0; i < one->layers; i++) {
        fprintf(r->trace,
                "{\"sequence\":%zu,\"position\":%" PRId64 ",\"id\":%d,\"layer\":%d,\"experts\":[",
                sequence, position, (int)id, (int)ccq_model_moe_layer(r->model, i));
        for (int64_t k = 0; k < one->k; k++)
            fprintf(r->trace, "%s%d", k ? "," : "", (int)one->ids[i * one->k + k]);
        fputs("],\"weights\":[", r->trace);
        for (int64_t k = 0; k < one->k; k++)
            fprintf(r->trace, "%s%.9g", k ? "," : "", (double)one->weights[i * one->k + k]);
        fputc(']', r->trace);
        if (one->margin[i] <= 3e38f)
            fprintf(r->trace, ",\"margin\":%.9g", (double)one->margin[i]);
        fputs("}\n", r->trace);
    }
}

ccq_code run_trace_commit(run *r, ccq_error *err)
{
    int fd;
    ccq_code code;

    if (!r->trace)
        return CCQ_OK;
    errno = EIO; /* of a write that failed earlier, whose reason is gone */
    if (ferror(r->trace) || fflush(r->trace) || (fd = dup(fileno(r->trace))) < 0)
        return fail(r, errno == ENOSPC ? CCQ_NO_SPACE : CCQ_IO, errno, err);
    fclose(r->trace);
    r->trace = NULL;
    if ((code = ccq_temp_commit(r->o->trace, r->trace_tmp, fd, err)))
        return code;
    free(r->trace_tmp);
    r->trace_tmp = NULL;
    return CCQ_OK;
}

void run_trace_abandon(run *r)
{
    if (r->trace)
        fclose(r->trace);
    r->trace = NULL;
    if (r->trace_tmp)
        unlink(r->trace_tmp);
    free(r->trace_tmp);
    r->trace_tmp = NULL;
}
