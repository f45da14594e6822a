/* Which process of how many this is, from what a launcher put into the environment. */
#ifndef CCQ_TOOLS_LAUNCHER_H
#define CCQ_TOOLS_LAUNCHER_H

#include <stddef.h>

typedef struct launcher {
    int rank, world;
    char source[64]; /* "SLURM_ARRAY_TASK_*" */
    char error[400]; /* why there is no answer */
} launcher;

/* world: how many as the user says, 0: the environment must say it. 0, or -1 with error
 * set: nothing is there, a value is no number, sources disagree, or rank >= world. */
int launcher_find(launcher *l, int world);

#endif
