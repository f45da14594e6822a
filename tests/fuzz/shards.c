/* An index and its shards: "INDEX 0x1e FILE 0x1e FILE ...", the files being a.safetensors,
 * b.safetensors, c.safetensors and model.safetensors. An empty index: there is none. */
#include "formats/checkpoint.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/header.h"

#include <string.h>

static const char *const names[] = {"a.safetensors", "b.safetensors", "c.safetensors",
                                    "model.safetensors"};
enum { FILES = sizeof names / sizeof *names };

static const char *const words[] = {
    "\"a.safetensors\"", "\"b.safetensors\"", "\"c.safetensors\"", "\"model.safetensors\"",
    "\"weight_map\":", "\"metadata\":{\"total_size\":", "\"total_size\":", "\"a\":", "\"b\":",
    "\"..\"", "\"./a.safetensors\"", "{", "}", "[", "]", ",", ":", "\"", "\x1e", "\"dtype\":",
    "\"shape\":", "\"data_offsets\":", "null", "0", "18446744073709551616", NULL};

/* Every part but the index, in a buffer of its own. */
static size_t repair(uint8_t *data, size_t size, uint64_t *seed)
{
    static uint8_t copy[FUZZ_MAX + 64], file[FUZZ_MAX + 64];
    const uint8_t *rest = copy, *part;
    size_t left = size, n, used = 0;
    memcpy(copy, data, size);
    for (int i = 0; left && i <= FILES; i++) {
        part = fuzz_part(&rest, &left, &n);
        memcpy(file, part, n);
        if (i)
            n = fuzz_repair_header(file, n, seed);
        if (n + 1 > FUZZ_MAX - used)
            break;
        memcpy(data + used, file, n);
        used += n;
        data[used++] = 0x1e;
    }
    return used ? used - 1 : 0;
}

const fuzz_target fuzz_this = {"shards", words, 1, NULL, NULL, repair};

static void put_all(const uint8_t *data, size_t size)
{
    size_t n;
    const uint8_t *part = fuzz_part(&data, &size, &n);
    if (n)
        fuzz_put("model.safetensors.index.json", part, n);
    else
        fuzz_remove("model.safetensors.index.json");
    for (int i = 0; i < FILES; i++) {
        part = fuzz_part(&data, &size, &n);
        if (n)
            fuzz_put(names[i], part, n);
        else
            fuzz_remove(names[i]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ccq_checkpoint *ck;
    ccq_error err;
    uint64_t total;
    put_all(data, size);
    ccq_code code = ccq_checkpoint_open(&ck, fuzz_dir(), &err);
    fuzz_outcome(code, &err);
    if (code) {
        FUZZ_CHECK(strstr(err.text, fuzz_dir()), "no file in: %s", err.text);
        return 0;
    }
    fuzz_look(ck);
    FUZZ_CHECK(ccq_checkpoint_indexed(ck) || ccq_checkpoint_shards(ck) == 1, "shards");
    for (size_t i = 0; i < ccq_checkpoint_unlisted(ck); i++)
        FUZZ_CHECK(ccq_checkpoint_unlisted_name(ck, i), "unlisted");
    (void)ccq_checkpoint_total_size(ck, &total);
    ccq_checkpoint_close(ck);
    return 0;
}
