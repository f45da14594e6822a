/* Making a mutated .safetensors file whole again. */
#ifndef CCQ_TESTS_FUZZ_HEADER_H
#define CCQ_TESTS_FUZZ_HEADER_H

#include <stddef.h>
#include <stdint.h>

/* Length, often the offsets one behind the other, often as much data as they want. */
size_t fuzz_repair_header(uint8_t *data, size_t size, uint64_t *seed);
/* Every tensor lies in its file and is as long as its shape says; its ends are read. */
struct ccq_checkpoint;
void fuzz_look(const struct ccq_checkpoint *ck);

#endif
