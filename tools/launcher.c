#include "tools/launcher.h"

#include "formats/types.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 1000000 };

/* Launchers that state both numbers, in the order in which they are asked. */
static const struct {
    const char *source, *rank, *world;
} pairs[] = {
    {"SLURM_PROCID", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"},
    {"OMPI_COMM_WORLD_*", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"},
    {"PMI_*", "PMI_RANK", "PMI_SIZE"},
    {"RANK and WORLD_SIZE", "RANK", "WORLD_SIZE"},
};

static int refuse(launcher *l, const char *fmt, ...) CCQ_PRINTF(2, 3);

static int refuse(launcher *l, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(l->error, sizeof l->error, fmt, args);
    va_end(args);
    return -1;
}

/* A variable that must be there, and a number of at most MOST. */
static int number(launcher *l, const char *name, int *value)
{
    char shown[80];
    const char *text = getenv(name);
    if (!text)
        return refuse(l, "%s is missing", name);
    size_t n = strlen(text);
    *value = atoi(text);
    if (!n || n > 7 || text[strspn(text, "0123456789")] || *value > MOST)
        return refuse(l, "%s is '%s', which is no number", name,
                      ccq_escape(shown, sizeof shown, text, n));
    return 0;
}

/* Adds an answer; two that differ are none. */
static int found(launcher *l, const char *source, int rank, int world)
{
    if (rank >= world)
        return refuse(l, "%s says rank %d of %d", source, rank, world);
    if (*l->source && (l->rank != rank || l->world != world))
        return refuse(l, "%s says rank %d of %d, %s says %d of %d: say --rank and --world",
                      l->source, l->rank, l->world, source, rank, world);
    if (!*l->source)
        snprintf(l->source, sizeof l->source, "%s", source);
    l->rank = rank;
    l->world = world;
    return 0;
}

static int from_array(launcher *l)
{
    int id, min, step, count;
    if (!getenv("SLURM_ARRAY_TASK_ID"))
        return 0;
    if (getenv("SLURM_STEP_NUM_TASKS"))
        return refuse(l, "a job array and srun together: say --rank and --world");
    if (number(l, "SLURM_ARRAY_TASK_ID", &id) || number(l, "SLURM_ARRAY_TASK_MIN", &min) ||
        number(l, "SLURM_ARRAY_TASK_STEP", &step) || number(l, "SLURM_ARRAY_TASK_COUNT", &count))
        return -1;
    if (id < min || step < 1 || (id - min) % step)
        return refuse(l, "SLURM_ARRAY_TASK_ID %d does not lie on MIN %d, STEP %d", id, min, step);
    return found(l, "SLURM_ARRAY_TASK_*", (id - min) / step, count);
}

/* SLURM_PROCID alone is 0 in every batch script, and in every task of an array. */
static int is_meant(size_t i)
{
    int rank = getenv(pairs[i].rank) != NULL, world = getenv(pairs[i].world) != NULL;
    return i == 0 ? world : rank || world;
}

static int from_pair(launcher *l, size_t i)
{
    int rank, world;
    if (!is_meant(i))
        return 0;
    if (number(l, pairs[i].rank, &rank) || number(l, pairs[i].world, &world))
        return -1;
    return found(l, pairs[i].source, rank, world);
}

static int from_index(launcher *l, int world)
{
    int rank;
    if (!getenv("JOB_COMPLETION_INDEX"))
        return 0;
    if (number(l, "JOB_COMPLETION_INDEX", &rank))
        return -1;
    if (!world && !*l->source)
        return refuse(l, "JOB_COMPLETION_INDEX says rank %d, and nothing says of how many: "
                         "--world N beside --world auto", rank);
    return found(l, "JOB_COMPLETION_INDEX", rank, world ? world : l->world);
}

int launcher_find(launcher *l, int world)
{
    *l = (launcher){0};
    if (from_array(l))
        return -1;
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        if (from_pair(l, i))
            return -1;
    if (from_index(l, world))
        return -1;
    if (!*l->source && getenv("SLURM_NTASKS"))
        return refuse(l, "SLURM_NTASKS without srun: this process would do its share and nobody "
                         "the others; start it with srun, or say --rank and --world");
    if (!*l->source)
        return refuse(l, "no launcher has set its variables: say --rank and --world");
    if (world && l->world != world)
        return refuse(l, "%s says %d processes, --world %d", l->source, l->world, world);
    return 0;
}
