/* A directory as a set of tensors: what the index says is what is listed, and a
 * file that changes while it is read is noticed. */
#include "tests/check.h"

#include "formats/checkpoint.h"
#include "formats/file.h"

#include <fcntl.h>
#include <sys/stat.h>

static char root[] = "/tmp/ccq-dir-XXXXXX";

static const char *at(const char *rest)
{
    static char path[4][512];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s", root, rest);
    return path[turn];
}

static void write_bytes(const char *path, const void *data, size_t size)
{
    FILE *f = fopen(path, "wb");
    REQUIRE(f && fwrite(data, 1, size, f) == size && fclose(f) == 0, "%s", path);
}

/* A shard with U8 tensors of four bytes, each filled with fill. */
static void write_shard(const char *path, const char *const *names, size_t count, int fill)
{
    ccq_layout *l = ccq_layout_new("pt", 0);
    const uint64_t four[] = {4};
    uint64_t size;
    for (size_t i = 0; i < count; i++)
        ccq_layout_add(l, names[i], CCQ_DT_U8, 1, four);
    REQUIRE(!ccq_layout_finish(l, NULL), "layout");
    char buf[4096];
    const void *header = ccq_layout_header(l, 0, &size);
    memcpy(buf, header, size);
    memset(buf + size, fill, 4 * count);
    write_bytes(path, buf, (size_t)size + 4 * count);
    ccq_layout_free(l);
}

static void make_dir(const char *name)
{
    static const char *const one[] = {"a", "shared", "x"}, *const two[] = {"b", "shared"};
    char path[100];
    mkdir(at(name), 0777);
    snprintf(path, sizeof path, "%s/s-2.safetensors", name);
    write_shard(at(path), one, 3, 2);
    snprintf(path, sizeof path, "%s/s-1.safetensors", name);
    write_shard(at(path), two, 2, 1);
    const char *index =
        "{\"metadata\": {\"total_size\": 13, \"note\": {\"total_size\": 1}}, \"weight_map\": {"
        "\"shared\": \"s-1.safetensors\", \"b\": \"s-1.safetensors\", \"a\": \"s-2.safetensors\"}}";
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", name);
    write_bytes(at(path), index, strlen(index));
}

static void test_index(void)
{
    ccq_checkpoint *ck;
    ccq_error err = {0};
    uint64_t total = 0;
    unsigned char data[4];
    make_dir("d");
    REQUIRE(!ccq_checkpoint_open(&ck, at("d"), &err), "%s", err.text);
    CHECK(ccq_checkpoint_count(ck) == 3 && ccq_checkpoint_shards(ck) == 2 &&
              ccq_checkpoint_indexed(ck),
          "counts");
    CHECK(strcmp(ccq_checkpoint_shard(ck, 0)->name, "s-1.safetensors") == 0, "shards by name");
    CHECK(ccq_checkpoint_unlisted(ck) == 2, "x, and the second shared: %zu",
          ccq_checkpoint_unlisted(ck));
    CHECK(strcmp(ccq_checkpoint_unlisted_name(ck, 0), "shared") == 0, "%s",
          ccq_checkpoint_unlisted_name(ck, 0));
    CHECK(!ccq_checkpoint_find(ck, "x"), "not listed, not found");
    CHECK(ccq_checkpoint_total_size(ck, &total) && total == 13, "total_size as stated: %" PRIu64,
          total);
    CHECK(strcmp(ccq_checkpoint_format(ck), "pt") == 0, "format");
    const ccq_tensor *t = ccq_checkpoint_find(ck, "shared");
    REQUIRE(t, "shared");
    CHECK(!ccq_checkpoint_read(ck, t, 1, data, 3, &err) && data[0] == 1 && data[2] == 1,
          "from the shard named");
    ccq_checkpoint_close(ck);
    CHECK(ccq_checkpoint_open(&ck, at("nowhere"), &err) == CCQ_NO_INPUT && !ck, "%s", err.text);
    CHECK(ccq_checkpoint_open(&ck, at("d/s-1.safetensors"), &err) == CCQ_NO_INPUT, "%s", err.text);
    ccq_checkpoint_close(NULL);
}

static ccq_checkpoint *open_changing(const char *name)
{
    ccq_checkpoint *ck;
    ccq_error err = {0};
    make_dir(name);
    REQUIRE(!ccq_checkpoint_open(&ck, at(name), &err), "%s", err.text);
    CHECK(!ccq_checkpoint_recheck(ck, &err), "not yet changed: %s", err.text);
    return ck;
}

static void test_changed(void)
{
    static const char *const one[] = {"a", "shared", "x"};
    unsigned char data[4];
    ccq_error err = {0};
    ccq_checkpoint *ck = open_changing("truncated");
    CHECK(truncate(at("truncated/s-2.safetensors"), 20) == 0, "truncate");
    CHECK(ccq_checkpoint_read(ck, ccq_checkpoint_find(ck, "a"), 0, data, 4, &err) == CCQ_CHANGED &&
              strstr(err.text, "s-2.safetensors") && strstr(err.text, "\"a\""),
          "%s", err.text);
    CHECK(ccq_checkpoint_recheck(ck, &err) == CCQ_CHANGED, "%s", err.text);
    ccq_checkpoint_close(ck);

    ck = open_changing("replaced");
    write_shard(at("replaced/new"), one, 3, 9);
    CHECK(rename(at("replaced/new"), at("replaced/s-2.safetensors")) == 0, "rename");
    CHECK(!ccq_checkpoint_read(ck, ccq_checkpoint_find(ck, "a"), 0, data, 4, &err) && data[0] == 2,
          "the old file is still read");
    CHECK(ccq_checkpoint_recheck(ck, &err) == CCQ_CHANGED && strstr(err.text, "replaced"), "%s",
          err.text);
    ccq_checkpoint_close(ck);

    ck = open_changing("rewritten");
    const struct timespec times[2] = {{1, 0}, {1, 0}};
    CHECK(utimensat(AT_FDCWD, at("rewritten/s-1.safetensors"), times, 0) == 0, "utimensat");
    CHECK(ccq_checkpoint_recheck(ck, &err) == CCQ_CHANGED, "%s", err.text);
    ccq_checkpoint_close(ck);
}

/* The bundled model by its known figures. */
static void test_bundled(void)
{
    ccq_checkpoint *ck;
    ccq_error err = {0};
    REQUIRE(!ccq_checkpoint_open(&ck, check_data("ernie-micro"), &err), "%s", err.text);
    const ccq_tensor *t = ccq_checkpoint_find(ck, "ernie.embed_tokens.weight");
    REQUIRE(t, "no embedding");
    CHECK(t->dtype == CCQ_DT_BF16 && t->rank == 2 && t->shape[0] == 512 && t->shape[1] == 128 &&
              t->bytes == 2 * 512 * 128,
          "embedding");
    ccq_checkpoint_close(ck);
}

static void test_escape(void)
{
    char out[64], small[8];
    const char name[] = "a\n\x1b\"\\\xff\xc3\xa4\0z\xe2\x80\xae\xc2\x9b";
    ccq_escape(out, sizeof out, name, sizeof name - 1);
    CHECK(strcmp(out, "a\\n\\x1b\\\"\\\\\\xff\xc3\xa4\\x00z\\xe2\\x80\\xae\\xc2\\x9b") == 0, "%s",
          out);
    CHECK(strcmp(ccq_escape(small, sizeof small, "abcdefghij", 10), "abcd...") == 0, "%s", small);
    CHECK(strcmp(ccq_escape(small, sizeof small, "abcdefg", 7), "abcdefg") == 0, "%s", small);
    ccq_error err;
    char long_text[3000];
    memset(long_text, 'x', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = 0;
    CHECK(ccq_fail(&err, CCQ_SIZE, "%s", long_text) == CCQ_SIZE &&
              strlen(err.text) == sizeof err.text - 1 &&
              strcmp(err.text + sizeof err.text - 4, "...") == 0,
          "cut with dots");
    CHECK(ccq_fail(NULL, CCQ_SIZE, "x") == CCQ_SIZE, "NULL is fine");
    for (int c = CCQ_OK; c <= CCQ_BUG; c++)
        CHECK(strcmp(ccq_code_name((ccq_code)c), "?") != 0, "code %d", c);
    CHECK(ccq_dtype_parse("F8_E4M3FNUZ", 11) == CCQ_DT_F8_E4M3FNUZ &&
              ccq_dtype_parse("F8_E4M3", 7) == CCQ_DT_F8_E4M3 &&
              ccq_dtype_parse("f32", 3) == CCQ_DT_COUNT && ccq_dtype_bits(CCQ_DT_F6_E3M2) == 6,
          "types");
}

int main(void)
{
    REQUIRE(mkdtemp(root), "mkdtemp");
    test_index();
    test_changed();
    test_bundled();
    test_escape();
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", root);
    CHECK(system(command) == 0, "rm");
    return check_done();
}
