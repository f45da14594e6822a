/* npz: what is written reads back, the bytes do not depend on when; damage is
 * noticed; the given reference files open. */
#include "tests/check.h"

#include "formats/file.h"
#include "formats/npz.h"

static char root[] = "/tmp/ccq-npz-XXXXXX";

static const char *at(const char *rest)
{
    static char path[4][512];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s", root, rest);
    return path[turn];
}

enum { N = 200000 };

static void write_npz(const char *path, uint64_t seed)
{
    static float f[N];
    static const int64_t wide[3] = {1, -5, INT32_MAX}, far[2] = {0, INT64_C(1) << 31};
    const uint64_t shape[2] = {N / 100, 100}, three = 3, two = 2, none[3] = {2, 0, 4};
    ccq_error err = {0};
    ccq_npz_writer *w;
    for (int i = 0; i < N; i++)
        f[i] = (float)(check_next(&seed) % 1000) * 0.25f;
    REQUIRE(!ccq_npz_create(&w, path, &err), "%s", err.text);
    CHECK(!ccq_path_exists(path), "not visible before the end");
    CHECK(!ccq_npz_add(w, "logits", CCQ_DT_F32, 2, shape, f, &err), "%s", err.text);
    CHECK(!ccq_npz_add(w, "wide", CCQ_DT_I64, 1, &three, wide, &err), "%s", err.text);
    CHECK(!ccq_npz_add(w, "far", CCQ_DT_I64, 1, &two, far, &err), "%s", err.text);
    CHECK(!ccq_npz_add(w, "none", CCQ_DT_F32, 3, none, NULL, &err), "%s", err.text);
    CHECK(!ccq_npz_add(w, "meta", CCQ_DT_U8, 1, &three, "abc", &err), "%s", err.text);
    CHECK(!ccq_npz_add(w, "scalar", CCQ_DT_I32, 0, NULL, &wide[0], &err), "%s", err.text);
    CHECK(ccq_npz_add(w, "meta", CCQ_DT_U8, 1, &three, "abc", &err) == CCQ_DUPLICATE,
          "member twice");
    CHECK(ccq_npz_add(w, "../x", CCQ_DT_U8, 1, &three, "abc", &err) == CCQ_BUG, "path as a name");
    CHECK(!ccq_npz_finish(w, &err), "%s", err.text);
}

static void *read_one(ccq_npz *npz, const char *name, ccq_dtype want, ccq_array *a)
{
    void *data;
    ccq_error err = {0};
    ccq_code code = ccq_npz_read(npz, name, want, a, &data, &err);
    REQUIRE(!code, "%s", err.text);
    return data;
}

static void test_round_trip(uint64_t seed)
{
    ccq_npz *npz;
    ccq_error err = {0};
    ccq_array a;
    void *data;
    write_npz(at("a.npz"), seed);
    REQUIRE(!ccq_npz_open(&npz, at("a.npz"), &err), "%s", err.text);
    CHECK(ccq_npz_count(npz) == 6 && strcmp(ccq_npz_name(npz, 0), "logits") == 0 &&
              ccq_npz_has(npz, "meta") && !ccq_npz_has(npz, "meta.npy"),
          "names");
    float *f = read_one(npz, "logits", CCQ_DT_F32, &a);
    CHECK(a.rank == 2 && a.shape[0] == N / 100 && a.shape[1] == 100 && a.count == N, "shape");
    for (int i = 0; i < N; i++)
        CHECK(f[i] == (float)(check_next(&seed) % 1000) * 0.25f, "element %d", i);
    free(f);
    int32_t *narrow = read_one(npz, "wide", CCQ_DT_I32, &a);
    CHECK(a.dtype == CCQ_DT_I32 && narrow[0] == 1 && narrow[1] == -5 && narrow[2] == INT32_MAX,
          "int64 given as int32");
    free(narrow);
    int64_t *wide = read_one(npz, "wide", CCQ_DT_COUNT, &a);
    CHECK(a.dtype == CCQ_DT_I64 && wide[1] == -5, "as stored");
    free(wide);
    data = read_one(npz, "none", CCQ_DT_F32, &a);
    CHECK(data && a.count == 0 && a.rank == 3, "no elements");
    free(data);
    data = read_one(npz, "scalar", CCQ_DT_I32, &a);
    CHECK(a.count == 1 && a.rank == 0 && *(int32_t *)data == 1, "rank 0");
    free(data);
    CHECK(ccq_npz_read(npz, "far", CCQ_DT_I32, &a, &data, &err) == CCQ_NPY &&
              strstr(err.text, "element 1"),
          "%s", err.text);
    CHECK(ccq_npz_read(npz, "logits", CCQ_DT_I32, &a, &data, &err) == CCQ_NPY && !data, "%s",
          err.text);
    CHECK(ccq_npz_read(npz, "absent", CCQ_DT_I32, &a, &data, &err) == CCQ_NPY &&
              strstr(err.text, "absent"),
          "%s", err.text);
    ccq_npz_close(npz);
}

static char *load(const char *path, size_t *size)
{
    char *data;
    REQUIRE(!ccq_file_load(path, 1 << 24, CCQ_NO_INPUT, &data, size, NULL), "%s", path);
    return data;
}

static void test_same_bytes(uint64_t seed)
{
    size_t n, m;
    write_npz(at("b.npz"), seed);
    char *a = load(at("a.npz"), &n), *b = load(at("b.npz"), &m);
    CHECK(n == m && memcmp(a, b, n) == 0, "two runs differ");
    free(a);
    free(b);
}

static void test_abandon(void)
{
    ccq_npz_writer *w;
    ccq_error err;
    char **names;
    size_t n;
    const uint64_t three = 3;
    REQUIRE(!ccq_npz_create(&w, at("gone.npz"), &err), "%s", err.text);
    CHECK(!ccq_npz_add(w, "a", CCQ_DT_U8, 1, &three, "abc", &err), "%s", err.text);
    ccq_npz_abandon(w);
    ccq_npz_abandon(NULL);
    CHECK(ccq_npz_create(&w, at("no/dir.npz"), &err) == CCQ_CREATE, "%s", err.text);
    CHECK(ccq_npz_create(&w, "/dev/null", &err) == CCQ_CREATE, "a device is not replaced");
    REQUIRE(!ccq_dir_list(root, &names, &n, &err), "%s", err.text);
    for (size_t i = 0; i < n; i++)
        CHECK(!strstr(names[i], "gone") && !strstr(names[i], ".ccq-"), "left behind: %s", names[i]);
    ccq_names_free(names, n);
}

/* Any damaged byte: an error, or the content is what it was (names, dates and
 * attributes are not all ours to check). */
static void test_damage(uint64_t seed)
{
    static const int32_t ids[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    const uint64_t eight = 8;
    ccq_npz_writer *w;
    ccq_error err = {0};
    size_t size;
    REQUIRE(!ccq_npz_create(&w, at("small.npz"), &err), "%s", err.text);
    CHECK(!ccq_npz_add(w, "ids", CCQ_DT_I32, 1, &eight, ids, &err) && !ccq_npz_finish(w, &err),
          "%s", err.text);
    char *text = load(at("small.npz"), &size);
    int refused = 0;
    for (size_t i = 0; i < 8 * size; i++) {
        ccq_npz *npz;
        ccq_array a;
        void *data = NULL;
        text[i / 8] ^= (char)(1 << i % 8);
        FILE *f = fopen(at("bad.npz"), "wb");
        size_t n = check_next(&seed) % 50 ? size : size - 1 - check_next(&seed) % size;
        REQUIRE(f && fwrite(text, 1, n, f) == n && fclose(f) == 0, "write");
        text[i / 8] ^= (char)(1 << i % 8);
        if (ccq_npz_open(&npz, at("bad.npz"), &err)) {
            refused++;
            continue;
        }
        if (ccq_npz_read(npz, "ids", CCQ_DT_I32, &a, &data, &err))
            refused++;
        else
            CHECK(a.count == 8 && memcmp(data, ids, sizeof ids) == 0, "bit %zu changed the content",
                  i);
        free(data);
        ccq_npz_close(npz);
    }
    printf("%d of %zu damaged files refused\n", refused, 8 * size);
    free(text);
}

static void test_shared(void)
{
    ccq_npz *npz;
    ccq_error err = {0};
    ccq_array a;
    void *data;
    REQUIRE(!ccq_npz_open(&npz, check_data("ernie-micro/reference.npz"), &err), "%s", err.text);
    data = read_one(npz, "logits", CCQ_DT_F32, &a);
    CHECK(a.rank == 2 && a.shape[1] == 512, "logits");
    free(data);
    ccq_npz_close(npz);
    CHECK(!ccq_npy_load(check_data("ernie-micro/tokens_test.npy"), CCQ_DT_I32, &a, &data, &err),
          "%s", err.text);
    CHECK(a.rank == 1 && a.count > 0, "tokens");
    free(data);
}

int main(void)
{
    uint64_t seed = check_seed(4);
    REQUIRE(mkdtemp(root), "mkdtemp");
    test_round_trip(seed);
    test_same_bytes(seed);
    test_abandon();
    test_damage(seed);
    test_shared();
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", root);
    CHECK(system(command) == 0, "rm");
    return check_done();
}
