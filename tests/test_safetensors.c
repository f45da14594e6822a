/* What the layout plans is what the reader reads back; a damaged header is never
 * read past its end; many tensors open fast. */
#include "tests/check.h"

#include "formats/checkpoint.h"
#include "formats/file.h"
#include "formats/stage.h"

#include <time.h>

static char root[] = "/tmp/ccq-st-XXXXXX";

static const char *at(const char *name)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", root, name);
    return path;
}

/* Byte i of the tensor's data. */
static unsigned char content(size_t tensor, uint64_t i)
{
    return (unsigned char)(tensor * 31 + i * 7 + (i >> 8));
}

static void write_layout(const ccq_layout *l, const char *out)
{
    ccq_error err = {0};
    ccq_stage *s;
    REQUIRE(!ccq_stage_open(&s, out, NULL, &err), "%s", err.text);
    for (size_t k = 0; k < ccq_layout_shards(l); k++) {
        ccq_out *o;
        uint64_t size;
        const void *header = ccq_layout_header(l, k, &size);
        REQUIRE(!ccq_stage_create(s, ccq_layout_shard_name(l, k), ccq_layout_shard_bytes(l, k), &o,
                                  &err),
                "%s", err.text);
        CHECK(!ccq_out_write(o, 0, header, size, &err), "%s", err.text);
        for (size_t i = 0; i < ccq_layout_count(l); i++) {
            const ccq_layout_tensor *t = ccq_layout_at(l, i);
            for (uint64_t b = 0; t->shard == k && b < t->bytes; b++) {
                unsigned char c = content(i, b);
                CHECK(!ccq_out_write(o, t->offset + b, &c, 1, &err), "%s", err.text);
            }
        }
        CHECK(!ccq_out_close(o, &err), "%s", err.text);
    }
    size_t size;
    char *index = ccq_layout_index(l, &size);
    REQUIRE(index, "index");
    CHECK(index[size - 1] == '\n' &&
              strncmp(index, "{\n  \"metadata\": {\n    \"total_size\": ", 36) == 0,
          "%.60s", index);
    CHECK(!ccq_stage_put(s, "model.safetensors.index.json", index, size, &err), "%s", err.text);
    free(index);
    CHECK(!ccq_stage_commit(s, &err), "%s", err.text);
}

static void compare(const ccq_layout *l, const char *dir)
{
    ccq_error err = {0};
    ccq_checkpoint *ck;
    uint64_t total = 0;
    REQUIRE(!ccq_checkpoint_open(&ck, dir, &err), "%s", err.text);
    CHECK(ccq_checkpoint_count(ck) == ccq_layout_count(l) && ccq_checkpoint_unlisted(ck) == 0,
          "count");
    CHECK(ccq_checkpoint_shards(ck) == ccq_layout_shards(l) && ccq_checkpoint_indexed(ck),
          "shards");
    CHECK(ccq_checkpoint_total_size(ck, &total) && total == ccq_layout_tensor_bytes(l),
          "total_size");
    CHECK(strcmp(ccq_checkpoint_format(ck), "np") == 0, "format %s", ccq_checkpoint_format(ck));
    for (size_t i = 0; i < ccq_layout_count(l); i++) {
        const ccq_layout_tensor *p = ccq_layout_at(l, i);
        const ccq_tensor *t = ccq_checkpoint_find(ck, p->name);
        REQUIRE(t, "%s is missing", p->name);
        CHECK(t->dtype == p->dtype && t->rank == p->rank && t->bytes == p->bytes &&
                  t->offset == p->offset && !memcmp(t->shape, p->shape, t->rank * sizeof *t->shape),
              "%s", p->name);
        CHECK(strcmp(ccq_checkpoint_shard(ck, t->shard)->name,
                     ccq_layout_shard_name(l, p->shard)) == 0,
              "%s", p->name);
        unsigned bits = ccq_dtype_bits(p->dtype);
        CHECK(bits < 16 || t->offset % (bits / 8) == 0, "%s is not aligned", p->name);
        unsigned char *data = malloc(t->bytes + 1);
        CHECK(!ccq_checkpoint_read(ck, t, 0, data, t->bytes, &err), "%s", err.text);
        for (uint64_t b = 0; b < t->bytes; b++)
            CHECK(data[b] == content(i, b), "%s: byte %" PRIu64, p->name, b);
        free(data);
        char c;
        CHECK(ccq_checkpoint_read(ck, t, t->bytes, &c, 1, &err) == CCQ_BUG, "past the tensor");
    }
    for (size_t i = 1; i < ccq_checkpoint_count(ck); i++)
        CHECK(strcmp(ccq_checkpoint_at(ck, i - 1)->name, ccq_checkpoint_at(ck, i)->name) < 0,
              "order");
    CHECK(!ccq_checkpoint_find(ck, "not there") && !ccq_checkpoint_at(ck, ccq_layout_count(l)),
          "absent");
    CHECK(!ccq_checkpoint_recheck(ck, &err), "%s", err.text);
    ccq_checkpoint_close(ck);
}

static void test_round_trip(uint64_t seed, uint64_t max_shard, const char *out)
{
    ccq_layout *l = ccq_layout_new("np", max_shard);
    ccq_error err = {0};
    uint64_t shape[4];
    for (int i = 0; i < 60; i++) {
        char name[64];
        ccq_dtype dtype = (ccq_dtype)(check_next(&seed) % CCQ_DT_COUNT);
        int rank = (int)(check_next(&seed) % 5);
        for (int k = 0; k < 4; k++)
            shape[k] = check_next(&seed) % 5;
        if (ccq_dtype_bits(dtype) < 8) { /* whole bytes */
            rank = rank ? rank : 1;
            shape[0] = 4;
        }
        snprintf(name, sizeof name, "t\n\xc3\xa4.%d", (int)(check_next(&seed) % 1000) * 100 + i);
        CHECK(ccq_layout_add(l, name, dtype, rank, shape) == (size_t)i, "add");
    }
    REQUIRE(!ccq_layout_finish(l, &err), "%s", err.text);
    CHECK((max_shard == 0) == (ccq_layout_shards(l) == 1), "%zu shards", ccq_layout_shards(l));
    write_layout(l, at(out));
    compare(l, at(out));
    ccq_layout_free(l);
}

/* Example in full: order by item size, padding, offsets. */
static void test_bytes(void)
{
    ccq_layout *l = ccq_layout_new("np", 0);
    const uint64_t three[] = {3};
    uint64_t size;
    ccq_layout_add(l, "a", CCQ_DT_U8, 1, three);
    ccq_layout_add(l, "c", CCQ_DT_F32, 0, NULL);
    ccq_layout_add(l, "b", CCQ_DT_F32, 1, three);
    REQUIRE(!ccq_layout_finish(l, NULL), "finish");
    const char *want = "{\"__metadata__\":{\"format\":\"np\"},\"b\":{\"dtype\":\"F32\",\"shape\":["
                       "3],\"data_offsets\":[0,12]},"
                       "\"c\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[12,16]},"
                       "\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[16,19]}}";
    const unsigned char *h = ccq_layout_header(l, 0, &size);
    size_t n = strlen(want), whole = (n + 7) / 8 * 8;
    CHECK(size == 8 + whole && h[0] == (whole & 255) && h[1] == whole >> 8 &&
              !memcmp(h + 8, want, n),
          "%.*s", (int)size - 8, (const char *)h + 8);
    for (size_t i = 8 + n; i < size; i++)
        CHECK(h[i] == ' ', "padding");
    CHECK(ccq_layout_at(l, 1)->offset == size + 12 && ccq_layout_shard_bytes(l, 0) == size + 19,
          "offsets");
    ccq_layout_free(l);
}

static ccq_code finish_one(const char *a, const char *b, ccq_dtype dtype, uint64_t n)
{
    ccq_layout *l = ccq_layout_new("np", 0);
    const uint64_t shape[] = {n, 4};
    ccq_layout_add(l, a, dtype, 2, shape);
    ccq_layout_add(l, b, dtype, 2, shape);
    ccq_code code = ccq_layout_finish(l, NULL);
    ccq_layout_free(l);
    return code;
}

static void test_plan_refusals(void)
{
    CHECK(finish_one("a", "b", CCQ_DT_F4, 2) == CCQ_OK, "good plan");
    CHECK(finish_one("a", "a", CCQ_DT_U8, 2) == CCQ_DUPLICATE, "name twice");
    CHECK(finish_one("a", "__metadata__", CCQ_DT_U8, 2) == CCQ_NAME, "reserved name");
    CHECK(finish_one("a", "\xff", CCQ_DT_U8, 2) == CCQ_NAME, "not UTF-8");
    CHECK(finish_one("a", "b", CCQ_DT_F64, UINT64_C(1) << 60) == CCQ_OVERFLOW, "overflow");
    CHECK(finish_one("a", "b", CCQ_DT_F6_E2M3, 1) == CCQ_OK &&
              finish_one("a", "b", CCQ_DT_F6_E2M3, 0) == CCQ_OK,
          "24 bits");
}

/* Every single damaged byte of a header is refused or gives a checkpoint whose
 * tensors lie inside the file. */
static void test_damage(uint64_t seed)
{
    char *text;
    size_t size;
    char good[600];
    snprintf(good, sizeof good, "%s/one/model.safetensors", root);
    REQUIRE(!ccq_file_load(good, 1 << 20, CCQ_NO_INPUT, &text, &size, NULL), "%s", good);
    size_t header = 8 + (size_t)(unsigned char)text[0] + 256u * (unsigned char)text[1];
    for (int i = 0; i < 1500; i++) {
        size_t where = check_next(&seed) % header;
        char was = text[where];
        text[where] = (char)(was ^ (1 << check_next(&seed) % 8));
        FILE *f = fopen(at("damaged"), "wb");
        REQUIRE(f && fwrite(text, 1, size, f) == size && fclose(f) == 0, "write");
        text[where] = was;
        ccq_checkpoint *ck;
        if (ccq_checkpoint_open_file(&ck, at("damaged"), NULL))
            continue;
        for (size_t k = 0; k < ccq_checkpoint_count(ck); k++) {
            const ccq_tensor *t = ccq_checkpoint_at(ck, k);
            CHECK(t->offset <= size && t->bytes <= size - t->offset, "byte %zu", where);
        }
        ccq_checkpoint_close(ck);
    }
    free(text);
}

static void test_many(void)
{
    enum { MANY = 400000 };
    struct timespec a, b;
    FILE *f = fopen(at("many.safetensors"), "wb");
    REQUIRE(f, "create");
    fwrite("        {", 1, 9, f);
    for (int i = 0; i < MANY; i++)
        fprintf(f,
                "%s\"layers.%d.experts.%d.w\":{\"dtype\":\"BF16\",\"shape\":[0,8],\"data_offsets\":"
                "[0,0]}",
                i ? "," : "", i / 1000, i % 1000);
    fputc('}', f);
    uint64_t n = (uint64_t)ftell(f) - 8;
    rewind(f);
    fwrite(&n, 1, 8, f); /* tests run on little-endian machines */
    fclose(f);
    ccq_checkpoint *ck;
    ccq_error err = {0};
    clock_gettime(CLOCK_MONOTONIC, &a);
    REQUIRE(!ccq_checkpoint_open_file(&ck, at("many.safetensors"), &err), "%s", err.text);
    for (size_t i = 0; i < MANY; i++)
        CHECK(ccq_checkpoint_find(ck, ccq_checkpoint_at(ck, i)->name) == ccq_checkpoint_at(ck, i),
              "%zu", i);
    clock_gettime(CLOCK_MONOTONIC, &b);
    ccq_checkpoint_close(ck);
    printf("%d tensors opened and found in %.2f s\n", MANY,
           (double)(b.tv_sec - a.tv_sec) + 1e-9 * (double)(b.tv_nsec - a.tv_nsec));
}

int main(void)
{
    uint64_t seed = check_seed(2);
    REQUIRE(mkdtemp(root), "mkdtemp");
    test_bytes();
    test_plan_refusals();
    test_round_trip(seed, 0, "one");
    test_round_trip(seed + 1, 300, "many");
    test_damage(seed);
    test_many();
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", root);
    CHECK(system(command) == 0, "rm");
    return check_done();
}
