/* What fuzz targets share. A target is a function of some bytes that must end, touch
 * nothing that is not its own, and keep what its CHECKs say. It is built twice: with
 * driver.c as a plain program that replays a corpus and then mutates it, and, with
 * -Dfuzz=enabled and clang, for libFuzzer. */
#ifndef CCQ_TESTS_FUZZ_FUZZ_H
#define CCQ_TESTS_FUZZ_FUZZ_H

#include "formats/types.h"

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { FUZZ_MAX = 1 << 16 }; /* bytes of an input */

typedef struct fuzz_target {
    const char *name;         /* and that of its corpus */
    const char *const *words; /* what its inputs are made of, NULL at the end; NULL: nothing */
    int is_json;              /* 1: JSON is somewhere in it */
    void (*start)(void);      /* once, before the first input; NULL: nothing to do */
    void (*end)(void);
    /* Lengths and checksums that a mutation broke, so that it is not over at the first
     * check. At most FUZZ_MAX bytes; returns the new size. NULL: nothing to do. */
    size_t (*repair)(uint8_t *data, size_t size, uint64_t *seed);
} fuzz_target;

extern const fuzz_target fuzz_this;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Ends the program. */
#define FUZZ_CHECK(cond, ...)                                                                      \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #cond);                             \
            fprintf(stderr, __VA_ARGS__);                                                          \
            fputc('\n', stderr);                                                                   \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* What came of an input: code, and the words of its message. Counted; an input with a
 * new one is mutated further. A failure has a message of one line without control bytes,
 * and is nobody's bug. */
void fuzz_outcome(ccq_code code, const ccq_error *err);

/* From start: a further input to begin with. */
void fuzz_add(const uint8_t *data, size_t size);

/* driver.c, mutate.c */
uint64_t fuzz_next(uint64_t *seed);
/* One change; returns the new size, at most FUZZ_MAX. other: something to take parts of. */
size_t fuzz_mutate(uint8_t *data, size_t size, const uint8_t *other, size_t other_size,
                   uint64_t *seed);
size_t fuzz_mutate_json(uint8_t *data, size_t size, uint64_t *seed);
/* size bytes at p become those of text; returns the new size of data, the old one when
 * that is too much. */
size_t fuzz_replace(uint8_t *data, size_t size, size_t at, size_t len, const void *text,
                    size_t text_size);

/* ---- Files that are not on a disk ------------------------------------------------ */

/* The path of a file with these bytes, the same one every time. */
const char *fuzz_file(const uint8_t *data, size_t size);
/* A directory that is gone at the end, and a file in it (its path). */
const char *fuzz_dir(void);
const char *fuzz_put(const char *name, const uint8_t *data, size_t size);
void fuzz_remove(const char *name);
/* Inputs of several parts, each but the last ended by a byte 0x1e: *rest moves on. */
const uint8_t *fuzz_part(const uint8_t **rest, size_t *left, size_t *size);
/* The same with a NUL behind it, malloc'd. */
char *fuzz_text(const uint8_t **rest, size_t *left);

#endif
