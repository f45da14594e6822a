/* .pdparams files: what paddle.save wrote opens with the right values, whatever its
 * protocol and however it is cut; everything else is refused with its place. */
#include "tests/check.h"

#include "formats/checkpoint.h"
#include "formats/file.h"

#include <pthread.h>
#include <sys/resource.h>
#include <time.h>
#include <zlib.h>

static char root[] = "/tmp/ccq-pd-XXXXXX";

static const char *at(const char *rest)
{
    static char path[4][512];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s", root, rest);
    return path[turn];
}

static void shell(const char *fmt, const char *a, const char *b)
{
    char command[2048];
    snprintf(command, sizeof command, fmt, a, b);
    REQUIRE(system(command) == 0, "%s", command);
}

static ccq_checkpoint *open_good(const char *path)
{
    ccq_error err = {CCQ_OK, ""};
    ccq_checkpoint *ck;
    ccq_code code = ccq_checkpoint_open_file(&ck, path, &err);
    REQUIRE(!code, "%s: %s", path, err.text);
    return ck;
}

/* All of a tensor's bytes; they end at an unmapped page. */
static unsigned char *read_all(const ccq_checkpoint *ck, const ccq_tensor *t, ccq_error *err,
                               ccq_code *code)
{
    unsigned char *data = check_guarded((size_t)t->bytes);
    *code = ccq_checkpoint_read(ck, t, 0, data, t->bytes, err);
    return data;
}

/* ---- Files by list --------------------------------------------------------------- */

/* The lines of FILE.want. */
static char *describe(const ccq_checkpoint *ck)
{
    char *text;
    size_t size;
    FILE *f = open_memstream(&text, &size);
    for (size_t i = 0; i < ccq_checkpoint_count(ck); i++) {
        const ccq_tensor *t = ccq_checkpoint_at(ck, i);
        ccq_error err = {CCQ_OK, ""};
        ccq_code code;
        unsigned char *data = read_all(ck, t, &err, &code);
        CHECK(!code, "%s", err.text);
        CHECK(ccq_checkpoint_find(ck, t->name) == t, "%s", t->name);
        fprintf(f, "%08lx %s[", crc32(0, data, (uInt)t->bytes), ccq_dtype_name(t->dtype));
        for (unsigned k = 0; k < t->rank; k++)
            fprintf(f, "%s%" PRIu64, k ? "," : "", t->shape[k]);
        fprintf(f, "] %s\n", t->name);
    }
    fclose(f);
    return text;
}

static void check_good(const char *path)
{
    char want_path[600], *want;
    size_t size;
    ccq_error err;
    snprintf(want_path, sizeof want_path, "%s.want", path);
    REQUIRE(!ccq_file_load(want_path, 1 << 20, CCQ_NO_INPUT, &want, &size, &err), "%s", err.text);
    ccq_checkpoint *ck = open_good(path);
    char *have = describe(ck);
    CHECK(strcmp(have, want) == 0, "%s: have\n%.600swant\n%.600s", path, have, want);
    CHECK(!ccq_checkpoint_recheck(ck, &err), "%s", err.text);
    ccq_checkpoint_close(ck);
    free(have);
    free(want);
}

static ccq_code read_first(const char *path, ccq_error *err)
{
    ccq_code code;
    ccq_checkpoint *ck = open_good(path);
    read_all(ck, ccq_checkpoint_at(ck, 0), err, &code);
    ccq_checkpoint_close(ck);
    return code;
}

static ccq_code open_alone(const char *path, ccq_error *err)
{
    ccq_checkpoint *ck = NULL;
    shell("rm -rf %s/one; mkdir %s/one", root, root);
    shell("cp %s %s/one/", path, root);
    ccq_code code = ccq_checkpoint_open(&ck, at("one"), err);
    ccq_checkpoint_close(ck);
    return code;
}

static ccq_code open_kind(const char *kind, const char *path, ccq_error *err)
{
    ccq_checkpoint *ck = NULL;
    if (strcmp(kind, "late") == 0)
        return read_first(path, err);
    if (strcmp(kind, "dir") == 0)
        return open_alone(path, err);
    ccq_code code = ccq_checkpoint_open_file(&ck, path, err);
    ccq_checkpoint_close(ck);
    return code;
}

static void check_bad(const char *kind, const char *wanted, const char *path, const char *place,
                      const char *reason)
{
    ccq_error err = {CCQ_OK, ""};
    ccq_code code = open_kind(kind, path, &err);
    const char *text = err.text, *base = strrchr(path, '/') + 1;
    char byte[64];
    snprintf(byte, sizeof byte, "byte %s: ", place);
    int named = strstr(text, base) && (strcmp(place, "-") == 0 || strstr(text, byte));
    CHECK(strcmp(ccq_code_name(code), wanted) == 0 && named, "%s: wanted %s at %s, got %s: %s",
          reason, wanted, place, ccq_code_name(code), text);
    for (const char *c = text; *c; c++)
        CHECK((unsigned char)*c >= 0x20, "%s: not printable", reason);
    if (getenv("V"))
        printf("%-12s %s\n", ccq_code_name(code), text);
}

static void check_list(void)
{
    char line[1024], *field[5];
    int rows = 0;
    FILE *f = fopen(at("list"), "r");
    REQUIRE(f, "no list");
    for (; fgets(line, sizeof line, f); rows++) {
        char *rest = line;
        for (int i = 0; i < 5; i++)
            REQUIRE((field[i] = strsep(&rest, "\t\n")), "%s", line);
        const char *path = at(field[2]);
        if (strcmp(field[0], "model") == 0)
            continue;
        if (strcmp(field[1], "OK") == 0)
            check_good(path);
        else
            check_bad(field[0], field[1], path, field[3], field[4]);
    }
    fclose(f);
    CHECK(rows >= 140, "%d files: make_pdparams.py is broken", rows);
}

/* ---- What paddle.save wrote ------------------------------------------------------- */

/* bf16 values of the model against the same ones as U16 or widened to F32. */
static int same_values(const ccq_tensor *t, const unsigned char *a, const ccq_tensor *m,
                       const unsigned char *b)
{
    if (m->dtype != CCQ_DT_BF16 || t->dtype == CCQ_DT_U16)
        return t->bytes == m->bytes && memcmp(a, b, (size_t)t->bytes) == 0;
    int same = t->dtype == CCQ_DT_F32 && t->bytes == 2 * m->bytes;
    for (uint64_t i = 0; same && i < m->bytes / 2; i++)
        same = !a[4 * i] && !a[4 * i + 1] && memcmp(a + 4 * i + 2, b + 2 * i, 2) == 0;
    return same;
}

static void check_same(const ccq_checkpoint *model, const char *path, size_t count)
{
    ccq_checkpoint *ck = open_good(path);
    CHECK(ccq_checkpoint_count(ck) == count, "%s: %zu tensors", path, ccq_checkpoint_count(ck));
    for (size_t i = 0; i < ccq_checkpoint_count(ck); i++) {
        const ccq_tensor *t = ccq_checkpoint_at(ck, i), *m = ccq_checkpoint_find(model, t->name);
        ccq_error err = {CCQ_OK, ""};
        ccq_code code, model_code;
        REQUIRE(m, "%s: %s is not in the model", path, t->name);
        CHECK(t->rank == m->rank && memcmp(t->shape, m->shape, m->rank * sizeof *m->shape) == 0,
              "%s: %s: shape", path, t->name);
        unsigned char *a = read_all(ck, t, &err, &code), *b = read_all(model, m, &err, &model_code);
        CHECK(!code && !model_code, "%s", err.text);
        CHECK(same_values(t, a, m, b), "%s: %s: other values", path, t->name);
    }
    ccq_checkpoint_close(ck);
}

static void check_samples(const char *dir)
{
    static const struct {
        const char *name;
        size_t count;
    } samples[] = {{"layer1_protocol2", 19}, {"layer1_protocol4", 19}, {"numpy_f32_protocol4", 6},
                   {"sliced_protocol2", 5}, {"sliced_protocol3", 5}};
    char path[4200];
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    ccq_checkpoint *model = open_good(path);
    for (size_t i = 0; i < sizeof samples / sizeof *samples; i++) {
        snprintf(path, sizeof path, "%s/pdparams/%s.pdparams", dir, samples[i].name);
        check_same(model, path, samples[i].count);
    }
    for (int protocol = 2; protocol <= 4; protocol++) {
        snprintf(path, sizeof path, "%s/model/protocol%d.pdparams", root, protocol);
        check_same(model, path, ccq_checkpoint_count(model));
    }
    ccq_checkpoint_close(model);
    snprintf(path, sizeof path, "%s/pdparams/linear_state_dict.pdparams", dir);
    ccq_checkpoint *ck = open_good(path);
    const ccq_tensor *w = ccq_checkpoint_find(ck, "weight"), *b = ccq_checkpoint_find(ck, "bias");
    CHECK(ccq_checkpoint_count(ck) == 2 && w && b && w->rank == 2 && w->shape[0] == 8 &&
              w->shape[1] == 4 && b->rank == 1 && b->shape[0] == 4 && b->dtype == CCQ_DT_F32,
          "linear_state_dict");
    ccq_checkpoint_close(ck);
}

/* ---- Ranges ------------------------------------------------------------------------ */

static void check_ranges(const char *file, const char *name, uint64_t *seed)
{
    ccq_error err = {CCQ_OK, ""};
    ccq_code code;
    ccq_checkpoint *ck = open_good(at(file));
    const ccq_tensor *t = ccq_checkpoint_find(ck, name);
    REQUIRE(t, "%s: no %s", file, name);
    unsigned char *all = read_all(ck, t, &err, &code);
    REQUIRE(!code, "%s", err.text);
    ccq_checkpoint_close(ck);
    ck = open_good(at(file)); /* again, so that nothing is known of its places */
    t = ccq_checkpoint_find(ck, name);
    for (int i = 0; i < 200; i++) {
        uint64_t from = check_next(seed) % (t->bytes + 1);
        uint64_t size = check_next(seed) % (t->bytes - from + 1);
        size = i % 2 ? size : size % 20;
        unsigned char *part = check_guarded((size_t)size);
        code = ccq_checkpoint_read(ck, t, from, part, size, &err);
        CHECK(!code && memcmp(part, all + from, (size_t)size) == 0,
              "%s: %" PRIu64 " bytes from %" PRIu64 " differ", file, size, from);
        munmap((void *)((uintptr_t)part & ~(uintptr_t)4095), (size_t)size + 4095);
    }
    unsigned char one;
    CHECK(ccq_checkpoint_read(ck, t, t->bytes, &one, 1, &err) == CCQ_BUG, "past the end");
    ccq_checkpoint_close(ck);
}

struct job {
    const ccq_checkpoint *ck;
    uint64_t seed;
    uint32_t crc;
    int bad;
};

static void *read_often(void *arg)
{
    struct job *job = arg;
    const ccq_tensor *t = ccq_checkpoint_at(job->ck, 0);
    unsigned char *data = malloc((size_t)t->bytes);
    for (int i = 0; i < 8; i++) {
        uint64_t cut = check_next(&job->seed) % t->bytes;
        job->bad |= ccq_checkpoint_read(job->ck, t, cut, data + cut, t->bytes - cut, NULL) ||
                    ccq_checkpoint_read(job->ck, t, 0, data, cut, NULL) ||
                    crc32(0, data, (uInt)t->bytes) != job->crc;
    }
    free(data);
    return NULL;
}

/* Threads share the places that they find. */
static void check_threads(uint64_t *seed)
{
    enum { N = 4 };
    pthread_t thread[N];
    struct job job[N];
    ccq_error err;
    ccq_code code;
    ccq_checkpoint *ck = open_good(at("good/latin1-2.pdparams"));
    unsigned char *all = read_all(ck, ccq_checkpoint_at(ck, 0), &err, &code);
    uint32_t crc = (uint32_t)crc32(0, all, (uInt)ccq_checkpoint_at(ck, 0)->bytes);
    ccq_checkpoint_close(ck);
    ck = open_good(at("good/latin1-2.pdparams"));
    for (int i = 0; i < N; i++) {
        job[i] = (struct job){ck, check_next(seed), crc, 0};
        REQUIRE(pthread_create(&thread[i], NULL, read_often, &job[i]) == 0, "thread");
    }
    for (int i = 0; i < N; i++) {
        pthread_join(thread[i], NULL);
        CHECK(!job[i].bad, "thread %d read other bytes", i);
    }
    ccq_checkpoint_close(ck);
}

/* ---- Directories and content -------------------------------------------------------- */

static void check_directory(void)
{
    ccq_checkpoint *ck = NULL;
    ccq_error err = {CCQ_OK, ""};
    shell("mkdir %s/d %s/e", root, root);
    shell("cp %s/good/sliced-2.pdparams %s/d/b.pdparams", root, root);
    shell("cp %s/good/tensor-4.pdparams %s/d/a.pdparams", root, root);
    REQUIRE(!ccq_checkpoint_open(&ck, at("d"), &err), "%s", err.text);
    CHECK(ccq_checkpoint_shards(ck) == 2 && ccq_checkpoint_count(ck) == 3, "two files, a, v, w");
    CHECK(strcmp(ccq_checkpoint_shard(ck, 0)->name, "a.pdparams") == 0, "shards by name");
    char *have = describe(ck);
    CHECK(strstr(have, "515360a3 U16[4,6] w\n"), "%s", have);
    free(have);
    ccq_checkpoint_close(ck);
    shell("cp %s/good/tensor-2.pdparams %s/d/c.pdparams", root, root);
    ccq_code code = ccq_checkpoint_open(&ck, at("d"), &err);
    CHECK(code == CCQ_DUPLICATE && strstr(err.text, "c.pdparams"), "a name in two files: %s",
          err.text);
    CHECK(ccq_checkpoint_open(&ck, at("e"), &err) == CCQ_NO_SHARD, "empty directory");
    shell("cp %s/bad/text.pdparams %s/e/", root, root);
    CHECK(ccq_checkpoint_open(&ck, at("e"), &err) == CCQ_PICKLE, "no pickle: %s", err.text);
}

/* A safetensors file with one U8 tensor x and a header of 0x280 bytes: its first bytes are
 * those of a pickle of protocol 2. */
static void check_content(void)
{
    char file[8 + 0x280 + 4] = {(char)0x80, 2};
    memset(file + 8, ' ', 0x280);
    const char *head = "{\"x\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}";
    memcpy(file + 8, head, strlen(head));
    FILE *f = fopen(at("d/model.safetensors"), "wb");
    REQUIRE(f && fwrite(file, sizeof file, 1, f) == 1 && fclose(f) == 0, "write");
    ccq_checkpoint *ck;
    ccq_error err;
    REQUIRE(!ccq_checkpoint_open(&ck, at("d"), &err), "%s", err.text);
    CHECK(ccq_checkpoint_count(ck) == 1, "safetensors go before .pdparams");
    ccq_checkpoint_close(ck);
    shell("mv %s/d/model.safetensors %s/x.pdparams", root, root);
    ck = open_good(at("x.pdparams"));
    CHECK(ccq_checkpoint_find(ck, "x"), "content, not suffix");
    ccq_checkpoint_close(ck);
    shell("mv %s/good/tensor-3.pdparams %s/x.safetensors", root, root);
    ck = open_good(at("x.safetensors"));
    CHECK(ccq_checkpoint_find(ck, "a"), "content, not suffix");
    ccq_checkpoint_close(ck);
}

/* ---- A file of 100 GB ---------------------------------------------------------------- */

/* One tensor "a" of uint8, protocol 4; its payload is a hole. */
static void check_huge(void)
{
    static const uint64_t n = UINT64_C(100) << 30;
    static const char dt[] = "\x8c\x05numpy\x8c\x05" "dtype\x93\x8c\x02u1K\0K\x01\x87R"
                             "(K\x03\x8c\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb";
    static const char start[] = "\x80\x04}\x8c\x01" "a\x8c\x15numpy.core.multiarray\x8c\x0c"
                                "_reconstruct\x93\x8c\x05numpy\x8c\x07ndarray\x93K\0\x85" "C\x01"
                                "b\x87R(K\x01\x8a\x08";
    FILE *f = fopen(at("huge.pdparams"), "wb");
    REQUIRE(f, "huge.pdparams");
    fwrite(start, sizeof start - 1, 1, f);
    fwrite(&n, 8, 1, f);
    fwrite("\x85", 1, 1, f);
    fwrite(dt, sizeof dt - 1, 1, f);
    fwrite("\x89\x8e", 2, 1, f);
    fwrite(&n, 8, 1, f);
    int sparse = fseeko(f, (off_t)n, SEEK_CUR) == 0;
    fwrite("tbs.", 4, 1, f);
    sparse = fclose(f) == 0 && sparse;
    if (!sparse) {
        printf("no file of 100 GB here\n");
        return;
    }
    struct rusage before, after;
    struct timespec a, b;
    getrusage(RUSAGE_SELF, &before);
    clock_gettime(CLOCK_MONOTONIC, &a);
    ccq_checkpoint *ck = open_good(at("huge.pdparams"));
    clock_gettime(CLOCK_MONOTONIC, &b);
    getrusage(RUSAGE_SELF, &after);
    CHECK(ccq_checkpoint_at(ck, 0)->bytes == n, "size");
    CHECK((double)(b.tv_sec - a.tv_sec) + 1e-9 * (double)(b.tv_nsec - a.tv_nsec) < 0.5,
          "the payload was read");
    CHECK(after.ru_maxrss - before.ru_maxrss < 8 << 10, "%ld KiB more", after.ru_maxrss);
    char last[3];
    CHECK(!ccq_checkpoint_read(ck, ccq_checkpoint_at(ck, 0), n - 3, last, 3, NULL), "its end");
    ccq_checkpoint_close(ck);
}

int main(void)
{
    uint64_t seed = check_seed(20);
    const char *shared = getenv("CCQ_SHARED");
    char dir[3000], model[3100];
    snprintf(dir, sizeof dir, "%s/models/ernie-micro", shared ? shared : "../shared");
    snprintf(model, sizeof model, "%s/model.safetensors", dir);
    int have = access(model, R_OK) == 0;
    REQUIRE(mkdtemp(root), "mkdtemp");
    char command[8400];
    snprintf(command, sizeof command, "python3 '%s' %s %s%s%s > %s/list",
             check_data("make_pdparams.py"), root, have ? "'" : "", have ? model : "",
             have ? "'" : "", root);
    REQUIRE(system(command) == 0, "%s", command);
    check_list();
    if (have)
        check_samples(dir);
    check_ranges("good/latin1-2.pdparams", "a", &seed);
    check_ranges("good/sliced-2.pdparams", "w", &seed);
    check_ranges("good/sliced-4.pdparams", "w", &seed);
    check_threads(&seed);
    check_directory();
    check_content();
    check_huge();
    shell("rm -r %s%s", root, "");
    if (!have && !check_failures)
        check_skip("the files of paddle.save are not here; all else was checked");
    return check_done();
}
