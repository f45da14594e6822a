/* Test helper: asserts, seeded random numbers, guard pages, skip = 77. One
 * program tests one risk. */
#ifndef CCQ_TESTS_CHECK_H
#define CCQ_TESTS_CHECK_H

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static int check_failures;

/* Counts a failure and goes on. */
#define CHECK(cond, ...)                                                                           \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            check_failures++;                                                                      \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #cond);                             \
            fprintf(stderr, __VA_ARGS__);                                                          \
            fputc('\n', stderr);                                                                   \
        }                                                                                          \
    } while (0)

/* Ends the program: nothing after it can be trusted. */
#define REQUIRE(cond, ...)                                                                         \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #cond);                             \
            fprintf(stderr, __VA_ARGS__);                                                          \
            fputc('\n', stderr);                                                                   \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static inline int check_done(void)
{
    if (check_failures)
        fprintf(stderr, "%d checks failed\n", check_failures);
    return check_failures ? 1 : 0;
}

static inline void check_skip(const char *why)
{
    printf("skipped: %s\n", why);
    exit(77);
}

/* CCQ_SHARED/rest, or skip when it is not there. The buffer is static. */
static inline const char *check_shared(const char *rest)
{
    static char path[4096];
    const char *dir = getenv("CCQ_SHARED");
    snprintf(path, sizeof path, "%s/%s", dir ? dir : "../shared", rest);
    if (access(path, R_OK) != 0) {
        printf("skipped: no %s (set CCQ_SHARED)\n", path);
        exit(77);
    }
    return path;
}

/* CCQ_DATA/rest: fixtures of the project itself. The buffer is static. */
static inline const char *check_data(const char *rest)
{
    static char path[4096];
    const char *dir = getenv("CCQ_DATA");
    snprintf(path, sizeof path, "%s/%s", dir ? dir : "tests/data", rest);
    REQUIRE(access(path, R_OK) == 0, "no %s (set CCQ_DATA)", path);
    return path;
}

/* splitmix64; the seed is printed by check_seed. */
static inline uint64_t check_next(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

/* CCQ_SEED from the environment, or fallback; printed so that a failure can be repeated. */
static inline uint64_t check_seed(uint64_t fallback)
{
    const char *s = getenv("CCQ_SEED");
    uint64_t seed = s ? strtoull(s, NULL, 0) : fallback;
    printf("seed: CCQ_SEED=%" PRIu64 "\n", seed);
    return seed;
}

/* Uniform in [0, 1). */
static inline double check_uniform(uint64_t *state)
{
    return (double)(check_next(state) >> 11) * 0x1p-53;
}

/* size bytes that end at an unmapped page (and start behind one), filled with
 * 0xFF: reading or writing past either end faults at once. */
static inline void *check_guarded(size_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), body = (size + page - 1) / page * page;
    char *p = mmap(NULL, body + 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                   0);
    REQUIRE(p != MAP_FAILED, "mmap");
    mprotect(p, page, PROT_NONE);
    mprotect(p + page + body, page, PROT_NONE);
    memset(p + page, 0xFF, body);
    return p + page + body - size;
}

#endif
