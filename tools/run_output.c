/* Files that a run fills as it goes: new ones beside the place that is named, which they
 * take at the end, so a run that fails leaves what is there as it was. */
#include "tools/run.h"

#include "formats/file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static ccq_code fail(const run_output *o, ccq_code code, int why, ccq_error *err)
{
    char shown[512];

    return ccq_fail(err, code, "%s: the %s cannot be written: %s",
                    ccq_escape(shown, sizeof shown, o->path, strlen(o->path)), o->what,
                    strerror(why));
}

ccq_code run_output_open(run_output *o, const char *path, const char *what, ccq_error *err)
{
    int fd, why;
    ccq_code code;

    if (!path)
        return CCQ_OK;
    o->path = path;
    o->what = what;
    if ((code = ccq_temp_open(path, &o->tmp, &fd, err)))
        return code;
    o->f = fdopen(fd, "w");
    if (o->f)
        return CCQ_OK;
    why = errno;
    close(fd);
    return fail(o, CCQ_CREATE, why, err);
}

ccq_code run_output_commit(run_output *o, ccq_error *err)
{
    int fd;
    ccq_code code;

    if (!o->f)
        return CCQ_OK;
    errno = EIO; /* of a write that failed earlier, whose reason is gone */
    if (ferror(o->f) || fflush(o->f) || (fd = dup(fileno(o->f))) < 0)
        return fail(o, errno == ENOSPC ? CCQ_NO_SPACE : CCQ_IO, errno, err);
    fclose(o->f);
    o->f = NULL;
    if ((code = ccq_temp_commit(o->path, o->tmp, fd, err)))
        return code;
    free(o->tmp);
    o->tmp = NULL;
    return CCQ_OK;
}

void run_output_abandon(run_output *o)
{
    if (o->f)
        fclose(o->f);
    o->f = NULL;
    if (o->tmp)
        unlink(o->tmp);
    free(o->tmp);
    o->tmp = NULL;
}
