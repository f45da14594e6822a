/* The header of a .safetensors file: refused, or tensors that fill the data of the file
 * byte by byte. */
#include "formats/checkpoint.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/header.h"

#include <string.h>

static const char *const words[] = {
    "{", "}", "[", "]", ",", ":", "\"", "\\", "\"__metadata__\":", "\"dtype\":", "\"shape\":",
    "\"data_offsets\":", "\"U8\"", "\"F4\"", "\"F6_E2M3\"", "\"BF16\"", "\"F64\"", "\"BOOL\"",
    "[0,0]", "null", "\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}", "\xff",
    "\xed\xa0\x80", "\xc3\xa4", "  ", "\n", "4294967296", "9223372036854775808",
    "18446744073709551615", "18446744073709551616", "1e9", "00", NULL};

const fuzz_target fuzz_this = {"safetensors", words, 1, NULL, NULL, fuzz_repair_header};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ccq_checkpoint *ck;
    ccq_error err;
    const char *path = fuzz_file(data, size);
    ccq_code code = ccq_checkpoint_open_file(&ck, path, &err);
    fuzz_outcome(code, &err);
    if (code) {
        FUZZ_CHECK(strncmp(err.text, path, strlen(path)) == 0, "no file in: %s", err.text);
        return 0;
    }
    fuzz_look(ck);
    const ccq_shard *shard = ccq_checkpoint_shard(ck, 0);
    uint64_t sum = 8 + shard->header_size;
    for (size_t i = 0; i < ccq_checkpoint_count(ck); i++)
        sum += ccq_checkpoint_at(ck, i)->bytes;
    FUZZ_CHECK(shard->header_size == 0 /* a pickle */ || sum == size, "%zu bytes, not %llu", size,
               (unsigned long long)sum);
    ccq_checkpoint_close(ck);
    return 0;
}
