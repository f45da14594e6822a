/* A journal: the good part ends behind a whole line, reads the same alone, and can be gone
 * on with. Texts that begin with a brace are identities: the same as themselves. */
#include "formats/journal.h"

#include "formats/identity.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>
#include <zlib.h>

static const char *const words[] = {
    " ", "\n", "\"", "\\", "\\u0000", "\\n", "0", "1", "-", "00000000", "ffffffff",
    "18446744073709551615", "18446744073709551616", "\"a\"", "model.safetensors", "rank0/", "../",
    "\xff", "{", "}", "[", "]", ":", ",", NULL};

/* Checksums of the lines. */
static size_t repair(uint8_t *data, size_t size, uint64_t *seed)
{
    for (size_t at = 0; at < size && *data != '{';) {
        const uint8_t *end = memchr(data + at, '\n', size - at);
        size_t n = end ? (size_t)(end - data) - at : size - at;
        char crc[12];
        if (n > 9 && fuzz_next(seed) % 16) {
            sprintf(crc, "%08lx", crc32(0, data + at + 9, (uInt)(n - 9)));
            memcpy(data + at, crc, 8);
        }
        at += n + 1;
    }
    return size;
}

const fuzz_target fuzz_this = {"journal", words, 0, NULL, NULL, repair};

typedef struct seen {
    size_t count;
    uint32_t sum; /* of all fields */
} seen;

static int collect(void *ctx, const ccq_record *r)
{
    seen *s = ctx;
    uint64_t numbers[4] = {r->offset, r->length, r->crc, r->source};
    s->count++;
    s->sum = (uint32_t)crc32(s->sum, (const Bytef *)r->tensor, (uInt)strlen(r->tensor) + 1);
    s->sum = (uint32_t)crc32(s->sum, (const Bytef *)r->shard, (uInt)strlen(r->shard) + 1);
    s->sum = (uint32_t)crc32(s->sum, (const Bytef *)numbers, sizeof numbers);
    return 0;
}

static void check_journal(const uint8_t *data, size_t size)
{
    static const ccq_record more = {"a \"name\"\n", "x", 1, 2, 3, 4};
    seen all = {0}, again = {0};
    uint64_t good, bytes;
    ccq_error err;
    ccq_journal *j;
    const char *path = fuzz_put("journal", data, size);
    FUZZ_CHECK(!ccq_journal_read(path, collect, &all, &good, &bytes, &err), "%s", err.text);
    FUZZ_CHECK(bytes == size && good <= size && (!good || data[good - 1] == '\n'), "good part");
    err.code = CCQ_OK;
    fuzz_outcome(CCQ_OK, &err);
    FUZZ_CHECK(!ccq_journal_open(&j, path, good, 0, &err), "%s", err.text);
    FUZZ_CHECK(!ccq_journal_add(j, &more, &err) && !ccq_journal_flush(j, &err), "%s", err.text);
    ccq_journal_close(j);
    FUZZ_CHECK(!ccq_journal_read(path, collect, &again, &good, &bytes, &err), "%s", err.text);
    FUZZ_CHECK(again.count == all.count + 1 && good == bytes, "%zu records, then %zu", all.count,
               again.count);
    collect(&all, &more);
    FUZZ_CHECK(again.sum == all.sum, "other records");
}

static void check_identity(const char *text, size_t size)
{
    static const char *const loose[] = {"mtime", NULL};
    ccq_identity *a, *b;
    ccq_error err;
    int moved;
    ccq_code code = ccq_identity_new(&a, text, size, "plan.json", &err);
    fuzz_outcome(code, &err);
    if (code)
        return;
    FUZZ_CHECK(!ccq_identity_new(&b, text, size, "plan.json", &err), "%s", err.text);
    FUZZ_CHECK(!ccq_identity_compare(a, b, loose, "plan.json", &moved, &err) && !moved, "%s",
               err.text);
    ccq_identity_free(a);
    ccq_identity_free(b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size || *data != '{') {
        check_journal(data, size);
        return 0;
    }
    char *text = malloc(size + 1); /* a NUL behind it, as from a file */
    FUZZ_CHECK(text, "out of memory");
    memcpy(text, data, size);
    text[size] = 0;
    check_identity(text, size);
    free(text);
    return 0;
}
