/* A journal gives back what was flushed, up to the first line that is not whole: cut at
 * every byte, with every byte changed, and with lines that were made by somebody else. */
#include "tests/check.h"

#include "formats/file.h"
#include "formats/identity.h"
#include "formats/journal.h"

#include <sys/stat.h>
#include <zlib.h>

static char root[] = "/tmp/ccq-journal-XXXXXX";
static char path[64];

typedef struct seen {
    size_t count;
    char text[8][80];
    int refuse; /* from this record on */
} seen;

static const ccq_record records[] = {
    {"ernie.norm.weight", "model.safetensors", 128, 512, 0x01234567, 0x89abcdef},
    {"a \"name\"\nwith \\ and \x01", "rank3/model-00001-of-00002.safetensors",
     UINT64_C(1) << 40, UINT64_C(5) << 32, 0, 0xffffffff},
    {"\xc3\xa9", "x", 0, 0, 1, 2},
};
enum { COUNT = sizeof records / sizeof *records };

static int collect(void *ctx, const ccq_record *r)
{
    seen *s = ctx;
    if (s->refuse && (int)s->count >= s->refuse)
        return -1;
    REQUIRE(s->count < 8, "records");
    snprintf(s->text[s->count++], 80, "%.20s %.40s %llu", r->tensor, r->shard,
             (unsigned long long)r->offset);
    return 0;
}

static void write_text(const char *text, size_t size)
{
    FILE *f = fopen(path, "wb");
    REQUIRE(f && fwrite(text, 1, size, f) == size && !fclose(f), "%s", path);
}

static size_t read_all(seen *s, uint64_t *good)
{
    uint64_t size;
    ccq_error err;
    memset(s->text, 0, sizeof s->text);
    s->count = 0;
    REQUIRE(!ccq_journal_read(path, collect, s, good, &size, &err), "%s", err.text);
    return s->count;
}

static void append(size_t from, size_t to, uint64_t keep)
{
    ccq_journal *j;
    ccq_error err;
    REQUIRE(!ccq_journal_open(&j, path, keep, 1, &err), "%s", err.text);
    for (size_t i = from; i < to; i++)
        REQUIRE(!ccq_journal_add(j, &records[i], &err), "%s", err.text);
    REQUIRE(!ccq_journal_flush(j, &err), "%s", err.text);
    CHECK(!ccq_journal_add(j, &records[0], &err), "%s", err.text);
    ccq_journal_close(j); /* the last one was not flushed */
}

static void test_round_trip(char **text, size_t *size)
{
    seen s = {0};
    uint64_t good;
    unlink(path);
    CHECK(read_all(&s, &good) == 0 && good == 0, "absent is empty");
    append(0, 2, 0);
    CHECK(read_all(&s, &good) == 2, "%zu records", s.count);
    append(2, 3, good);
    CHECK(read_all(&s, &good) == 3, "%zu records", s.count);
    CHECK(strcmp(s.text[0], "ernie.norm.weight model.safetensors 128") == 0, "%s", s.text[0]);
    CHECK(strncmp(s.text[1], "a \"name\"\nwith \\ and \x01", 20) == 0, "%s", s.text[1]);
    CHECK(strcmp(s.text[2], "\xc3\xa9 x 0") == 0, "%s", s.text[2]);
    REQUIRE(!ccq_file_load(path, 100000, CCQ_IO, text, size, NULL), "load");
    CHECK(good == *size, "all of it is good");
    s.refuse = 1;
    CHECK(read_all(&s, &good) == 1 && good < *size, "the caller ends it too");
}

static size_t lines(const char *text, size_t size)
{
    size_t n = 0;
    for (size_t i = 0; i < size; i++)
        n += text[i] == '\n';
    return n;
}

/* What is left is the whole lines, and appending goes on behind them. */
static void test_cuts(const char *text, size_t size)
{
    seen s = {0};
    uint64_t good;
    for (size_t cut = 0; cut <= size; cut++) {
        write_text(text, cut);
        size_t want = lines(text, cut);
        CHECK(read_all(&s, &good) == want, "cut at %zu: %zu records, not %zu", cut, s.count, want);
        CHECK(lines(text, good) == want && (!good || text[good - 1] == '\n'), "cut at %zu", cut);
        append(0, 1, good);
        CHECK(read_all(&s, &good) == want + 1, "cut at %zu, then appended", cut);
    }
}

static void test_flips(const char *text, size_t size)
{
    seen s = {0};
    uint64_t good, rng = check_seed(14);
    char *bad = malloc(size);
    REQUIRE(bad, "memory");
    for (size_t i = 0; i < size; i++) {
        memcpy(bad, text, size);
        bad[i] = (char)(bad[i] ^ 1 << (check_next(&rng) & 7));
        write_text(bad, size);
        CHECK(read_all(&s, &good) == lines(text, i), "byte %zu changed: %zu records", i, s.count);
    }
    free(bad);
}

/* With a right CRC, and wrong all the same. */
static void test_strangers(void)
{
    static const char *const rests[] = {
        "", "x", "\"a\"", "\"a\" b 1 2 00000000", "\"a\" b 1 2 00000000 0000000",
        "\"a\" b 1 2 00000000 000000000", "\"a\" b 1 2 00000000 0000000G",
        "\"a\" b -1 2 00000000 00000000", "\"a\" b 1 18446744073709551616 00000000 00000000",
        "\"a\" b 01 2 00000000 00000000", "\"a\" b 1 2 00000000 00000000 ",
        "\"a\"  b 1 2 00000000 00000000", "a b 1 2 00000000 00000000",
        "\"a\\u0000\" b 1 2 00000000 00000000", "{} b 1 2 00000000 00000000",
        "\"a\"  1 2 00000000 00000000", "\"a b 1 2 00000000 00000000",
        "\"\xff\" b 1 2 00000000 00000000", "\"a\" b 1 2 0000000A 00000000",
    };
    for (size_t i = 0; i < sizeof rests / sizeof *rests; i++) {
        char line[200];
        seen s = {0};
        uint64_t good;
        snprintf(line, sizeof line, "%08lx %s\n",
                 crc32_z(0, (const Bytef *)rests[i], strlen(rests[i])), rests[i]);
        write_text(line, strlen(line));
        CHECK(read_all(&s, &good) == 0 && good == 0, "taken: %s", line);
    }
    seen s = {0};
    uint64_t good;
    static const char right[] = "\"a\" b 1 2 00000000 00000000";
    char line[200];
    snprintf(line, sizeof line, "%08lx %s\n", crc32_z(0, (const Bytef *)right, strlen(right)),
             right);
    write_text(line, strlen(line));
    CHECK(read_all(&s, &good) == 1, "the one without a fault is taken");
}

static ccq_code compare(const char *was, const char *now, int *moved, ccq_error *err)
{
    static const char *const loose[] = {"mtime", NULL};
    ccq_identity *a, *b;
    ccq_code code = ccq_identity_new(&a, was, strlen(was), "was", err);
    if (code)
        return code;
    REQUIRE(!ccq_identity_new(&b, now, strlen(now), "now", err), "%s", err->text);
    code = ccq_identity_compare(a, b, loose, "plan.json", moved, err);
    ccq_identity_free(a);
    ccq_identity_free(b);
    return code;
}

static void test_identity(void)
{
    static const char was[] =
        "{\"a\": 1, \"r\": {\"g\": \"x\"}, \"l\": [{\"m\": 2, \"mtime\": 5}]}";
    static const char later[] =
        "{\"a\":1,\"r\":{\"g\":\"x\"},\"l\":[{\"m\":2,\"mtime\":6}]}";
    static const struct {
        const char *now, *field;
    } other[] = {
        {"{\"a\": 2, \"r\": {\"g\": \"x\"}, \"l\": [{\"m\": 2, \"mtime\": 5}]}", " a is 2, "},
        {"{\"a\": 1, \"r\": {\"g\": \"y\"}, \"l\": [{\"m\": 2, \"mtime\": 5}]}", " r.g is y, "},
        {"{\"a\": 1, \"r\": {}, \"l\": [{\"m\": 2, \"mtime\": 5}]}", " r.g is absent, "},
        {"{\"a\": 1, \"r\": {\"g\": \"x\", \"h\": 0}, \"l\": [{\"m\": 2, \"mtime\": 5}]}",
         " r.h is 0, "},
        {"{\"a\": 1, \"r\": {\"g\": \"x\"}, \"l\": [{\"m\": 3, \"mtime\": 5}]}", " l[0].m is 3, "},
        {"{\"a\": 1, \"r\": {\"g\": \"x\"}, \"l\": []}", " l[0].m is absent, "},
    };
    int moved;
    ccq_error err = {0};
    CHECK(!compare(was, was, &moved, &err) && !moved, "%s", err.text);
    CHECK(!compare(was, later, &moved, &err) && moved == 1, "%s", err.text);
    for (size_t i = 0; i < sizeof other / sizeof *other; i++) {
        CHECK(compare(was, other[i].now, &moved, &err) == CCQ_CHANGED, "%s", other[i].now);
        CHECK(strstr(err.text, other[i].field) != NULL, "%s", err.text);
    }
    for (size_t cut = 0; cut + 1 < sizeof was; cut++) {
        ccq_identity *id;
        CHECK(ccq_identity_new(&id, was, cut, "plan.json", &err) == CCQ_CHANGED, "cut at %zu", cut);
    }
}

int main(void)
{
    char *text = NULL;
    size_t size = 0;
    REQUIRE(mkdtemp(root), "mkdtemp");
    snprintf(path, sizeof path, "%s/journal", root);
    test_round_trip(&text, &size);
    test_cuts(text, size);
    test_flips(text, size);
    test_strangers();
    test_identity();
    free(text);
    unlink(path);
    rmdir(root);
    return check_done();
}
