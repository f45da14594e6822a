/* The options of ccq-quantize about how the job is cut up, broken off and gone on with. */
#ifndef CCQ_TOOLS_QUANTIZE_JOB_H
#define CCQ_TOOLS_QUANTIZE_JOB_H

#include "libccq/inspect.h"
#include "libccq/quantize.h"
#include "tools/cli.h"

#define JOB_OPTIONS                                                                                \
    {NULL, 0, "resume", NULL, "go on with the unfinished job in OUTPUT"},                          \
        {NULL, 0, "rank", "R", "do only the files of process R of --world, 0 .. W-1"},             \
        {NULL, 0, "world", "W|auto",                                                               \
         "how many processes share the job (default 1); auto: rank and number as Slurm, Open MPI, "\
         "MPICH or torchrun say (an indexed job says --world N too)"},                             \
        {NULL, 0, "finalize", NULL, "put OUTPUT into place when all processes are done"},          \
        {NULL, 0, "check-tensor", "NAME",                                                          \
         "encode one tensor of a finished OUTPUT again, and report the first byte that differs"},  \
        {NULL, 0, "no-symlinks", NULL, "refuse input files that are links"},                       \
        {NULL, 0, "no-sync", NULL, "no fsync: faster, and not safe (for tests)"},                  \
    {NULL, 0, "sync-mib", "N", "MiB written between two records of what is done (default 256)"}

typedef struct job_options {
    int rank, world, automatic; /* rank -1, world 0: not given */
    const char *check_tensor;
    int no_symlinks;
} job_options;

void job_defaults(job_options *j);
/* 1: the option is one of these and was taken; 0: it is none; -1: the message is out. */
int job_take(cli *c, job_options *j, ccq_quantize_options *o);
/* Fills rank and world. -1: the message is out. */
int job_resolve(const cli *c, const job_options *j, ccq_quantize_options *o);
/* After a failure that leaves the work: how to go on with it. */
void job_tell_resume(const cli *c, const ccq_quantize_options *o, const char *output,
                     ccq_code code);

/* Looks at a finished output as ccq-inspect --verify does: CLI_FAILED where that finds faults.
 * A look that fails, or work that could not be removed, is no fault of the output: the message
 * says so. */
int job_verify(const cli *c, const ccq_quantize_options *o, const char *output,
               ccq_verify_result *found);

/* --check-tensor: its exit status; the answer is on stdout. run NULL: could it be done? */
int job_check_tensor(const cli *c, const ccq_plan *plan, const ccq_quantize_run_options *run,
                     const char *name);

#endif
