#include "tests/fuzz/header.h"

#include "formats/checkpoint.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

/* "data_offsets":[a,b] from at on: where a starts and how long "a,b" is; 0: no more. */
static size_t next_pair(const uint8_t *data, size_t size, size_t *at, unsigned long long pair[2])
{
    static const char key[] = "\"data_offsets\":[";
    const uint8_t *p = memmem(data + *at, size - *at, key, sizeof key - 1);
    char text[48] = "";
    int n = 0;
    if (!p)
        return 0;
    *at = (size_t)(p - data) + sizeof key - 1;
    memcpy(text, data + *at, size - *at < 47 ? size - *at : 47);
    if (sscanf(text, "%20llu,%20llu%n", &pair[0], &pair[1], &n) < 2 || n <= 0)
        return next_pair(data, size, at, pair);
    return (size_t)n;
}

/* Tensors one behind the other, each as long as before; the new size of the header. */
static size_t move_together(uint8_t *data, size_t size)
{
    unsigned long long pair[2], end = 0;
    char text[48];
    for (size_t at = 0, n; (n = next_pair(data, size, &at, pair)) && end < FUZZ_MAX;) {
        if (pair[1] < pair[0])
            continue;
        size_t len = (size_t)sprintf(text, "%llu,%llu", end, end + (pair[1] - pair[0]));
        end += pair[1] - pair[0];
        size = fuzz_replace(data, size, at, n, text, len);
    }
    return size;
}

static unsigned long long data_end(const uint8_t *data, size_t size)
{
    unsigned long long pair[2], end = 0;
    for (size_t at = 0; next_pair(data, size, &at, pair);)
        end = pair[1] > end ? pair[1] : end;
    return end;
}

size_t fuzz_repair_header(uint8_t *data, size_t size, uint64_t *seed)
{
    uint8_t *brace = size > 8 ? memrchr(data + 8, '}', size - 8) : NULL;
    uint64_t kinds = fuzz_next(seed);
    if (!brace)
        return size;
    size_t header = (size_t)(brace - data) + 1, rest = size - header;
    if (kinds % 4 < 2) {
        header = move_together(data, header); /* the data behind it is of no interest */
        rest = size > header ? size - header : 0;
    }
    if (kinds / 4 % 8)
        rest = (size_t)(data_end(data, header) & (FUZZ_MAX - 1));
    if (rest > FUZZ_MAX - header)
        rest = FUZZ_MAX - header;
    if (header + rest > size)
        memset(data + size, 0x5a, header + rest - size);
    for (int i = 0; i < 8; i++)
        data[i] = (uint8_t)((header - 8) >> 8 * i);
    return header + rest;
}

static void look_at(const ccq_checkpoint *ck, const ccq_tensor *t)
{
    const ccq_shard *shard = ccq_checkpoint_shard(ck, t->shard);
    uint64_t bits = ccq_dtype_bits((ccq_dtype)t->dtype);
    ccq_error err;
    char byte[2];
    FUZZ_CHECK(shard && t->offset <= shard->size && t->bytes <= shard->size - t->offset,
               "\"%s\" lies outside its file", t->name);
    for (unsigned i = 0; i < t->rank; i++)
        FUZZ_CHECK(!__builtin_mul_overflow(bits, t->shape[i], &bits) || t->bytes == 0,
                   "\"%s\": the shape wraps", t->name);
    FUZZ_CHECK(t->bytes == 0 || bits / 8 == t->bytes, "\"%s\": shape and bytes", t->name);
    if (t->bytes) {
        FUZZ_CHECK(!ccq_checkpoint_read(ck, t, 0, byte, 1, &err), "%s", err.text);
        FUZZ_CHECK(!ccq_checkpoint_read(ck, t, t->bytes - 1, byte, 1, &err), "%s", err.text);
    }
    FUZZ_CHECK(ccq_checkpoint_read(ck, t, t->bytes, byte, 1, &err) == CCQ_BUG, "past its end");
}

void fuzz_look(const ccq_checkpoint *ck)
{
    size_t count = ccq_checkpoint_count(ck);
    for (size_t i = 0; i < count; i++) {
        const ccq_tensor *t = ccq_checkpoint_at(ck, i);
        look_at(ck, t);
        FUZZ_CHECK(ccq_checkpoint_find(ck, t->name) == t, "\"%s\" is not found", t->name);
        FUZZ_CHECK(!i || strcmp(ccq_checkpoint_at(ck, i - 1)->name, t->name) < 0, "order");
    }
    FUZZ_CHECK(!ccq_checkpoint_at(ck, count), "one tensor too many");
}
