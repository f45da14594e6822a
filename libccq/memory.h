/* How much memory this process may take. */
#ifndef CCQ_LIBCCQ_MEMORY_H
#define CCQ_LIBCCQ_MEMORY_H

#include <stdint.h>

/* Bytes that can be had now without swapping: the smallest of what the machine has
 * available, the limit of the cgroup and RLIMIT_AS; UINT64_MAX: nothing says. */
uint64_t ccq_memory_available(void);

#endif
