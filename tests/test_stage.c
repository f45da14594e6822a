/* An output directory is whole or absent: what a stage creates, refuses, replaces
 * and leaves behind. */
#include "tests/check.h"

#include "formats/file.h"
#include "formats/stage.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

static char root[] = "/tmp/ccq-stage-XXXXXX";

static const char *at(const char *rest)
{
    static char path[4][512];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s", root, rest);
    return path[turn];
}

static void write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    REQUIRE(f, "%s", path);
    fputs(text, f);
    fclose(f);
}

/* The names in a directory, joined by blanks. */
static const char *list(const char *dir)
{
    static char out[1000];
    char **names;
    size_t n;
    out[0] = 0;
    if (ccq_dir_list(dir, &names, &n, NULL))
        return "(none)";
    for (size_t i = 0; i < n; i++)
        snprintf(out + strlen(out), sizeof out - strlen(out), "%s%s", i ? " " : "", names[i]);
    ccq_names_free(names, n);
    return out;
}

static int file_is(const char *path, const char *want)
{
    char *data;
    size_t size;
    if (ccq_file_load(path, 1000, CCQ_NO_INPUT, &data, &size, NULL))
        return 0;
    int same = strcmp(data, want) == 0;
    free(data);
    return same;
}

static ccq_code try_stage(ccq_stage **s, const char *out, int overwrite, ccq_error *err)
{
    ccq_stage_options o = {.overwrite = overwrite};
    return ccq_stage_open(s, out, &o, err);
}

static ccq_stage *open_stage(const char *out, int overwrite)
{
    ccq_stage *s;
    ccq_error err = {0};
    ccq_code code = try_stage(&s, out, overwrite, &err);
    REQUIRE(code == CCQ_OK, "%s: %s", ccq_code_name(code), err.text);
    return s;
}

static void put_all(ccq_stage *s)
{
    ccq_error err = {0};
    uint32_t crc = 0;
    ccq_out *o;
    CHECK(!ccq_stage_put(s, "config.json", "{}", 2, &err), "%s", err.text);
    CHECK(!ccq_stage_create(s, "model.safetensors", 6, &o, &err), "%s", err.text);
    CHECK(ccq_out_write(o, 4, "xyz", 3, &err) == CCQ_BUG, "past the end");
    CHECK(!ccq_out_write(o, 3, "def", 3, &err) && !ccq_out_write(o, 0, "abc", 3, &err), "%s",
          err.text);
    CHECK(!ccq_out_close(o, &err), "%s", err.text);
    write_file(at("source"), "123456789");
    CHECK(!ccq_stage_copy(s, at("source"), "tokenizer.model", &crc, &err), "%s", err.text);
    CHECK(crc == 0xcbf43926u, "CRC-32 %08x", crc);
}

static void test_commit(void)
{
    ccq_stage *s = open_stage(at("new"), 0);
    put_all(s);
    CHECK(strcmp(list(at("new")), ".ccq") == 0, "before: %s", list(at("new")));
    CHECK(!ccq_stage_commit(s, NULL), "commit");
    CHECK(strcmp(list(at("new")), "config.json model.safetensors tokenizer.model") == 0, "%s",
          list(at("new")));
    CHECK(file_is(at("new/model.safetensors"), "abcdef") &&
              file_is(at("new/tokenizer.model"), "123456789"),
          "content");
}

/* The rename of a shard fails: config.json was not yet in place, and nothing is lost. */
static void test_failed_commit(void)
{
    ccq_error err = {0};
    ccq_stage_options again = {.resume = 1};
    ccq_stage *s = open_stage(at("fail"), 0);
    put_all(s);
    mkdir(at("fail/tokenizer.model"), 0777);
    CHECK(ccq_stage_commit(s, &err) == CCQ_IO, "%s", err.text);
    CHECK(!ccq_path_exists(at("fail/config.json")), "config.json before the last rename");
    ccq_stage_leave(s);
    rmdir(at("fail/tokenizer.model"));
    REQUIRE(!ccq_stage_open(&s, at("fail"), &again, &err), "%s", err.text);
    CHECK(ccq_stage_state(s) == CCQ_STAGE_CONTINUED, "state");
    CHECK(!ccq_stage_adopt(s, "model.safetensors", 6, &err), "in place: %s", err.text);
    CHECK(!ccq_stage_put(s, "config.json", "{}", 2, &err), "%s", err.text);
    CHECK(!ccq_stage_put(s, "tokenizer.model", "12345678", 8, &err), "again: %s", err.text);
    REQUIRE(!ccq_stage_commit(s, &err), "%s", err.text);
    CHECK(strcmp(list(at("fail")), "config.json model.safetensors tokenizer.model") == 0, "%s",
          list(at("fail")));
}

static void test_abandon(void)
{
    ccq_stage *s = open_stage(at("gone"), 0);
    put_all(s);
    ccq_stage_abandon(s);
    CHECK(!ccq_path_exists(at("gone")), "OUT was made by the stage");
    mkdir(at("kept"), 0777);
    s = open_stage(at("kept"), 0);
    put_all(s);
    ccq_stage_abandon(s);
    CHECK(strcmp(list(at("kept")), "") == 0, "an OUT that was there stays, empty: %s",
          list(at("kept")));
    ccq_stage_abandon(NULL);
}

static void test_refusals(void)
{
    ccq_stage *s;
    ccq_error err;
    CHECK(try_stage(&s, at("no/such/out"), 0, &err) == CCQ_CREATE &&
              strstr(err.text, "no/such:"),
          "%s", err.text);
    write_file(at("file"), "x");
    CHECK(try_stage(&s, at("file"), 1, &err) == CCQ_EXISTS, "%s", err.text);
    CHECK(try_stage(&s, at("new"), 0, &err) == CCQ_EXISTS && strstr(err.text, "--overwrite"),
          "%s", err.text);
    CHECK(file_is(at("new/config.json"), "{}"), "touched nothing");
    mkdir(at("home"), 0777);
    write_file(at("home/letter.txt"), "dear");
    CHECK(try_stage(&s, at("home"), 1, &err) == CCQ_EXISTS, "not a checkpoint: %s", err.text);
    CHECK(strcmp(list(at("home")), "letter.txt") == 0, "%s", list(at("home")));
}

static void test_overwrite(void)
{
    static const char *const old[] = {"model-00001-of-00002.safetensors",
                                      "model.safetensors.index.json",
                                      "ccq_manifest.json",
                                      "ccq_recipe.json",
                                      "SHA256SUMS",
                                      "model.pdparams",
                                      "notes.txt"};
    ccq_error err = {0};
    for (size_t i = 0; i < sizeof old / sizeof *old; i++) {
        char name[100];
        snprintf(name, sizeof name, "new/%s", old[i]);
        write_file(at(name), "old");
    }
    ccq_stage *s = open_stage(at("new"), 1);
    put_all(s);
    CHECK(file_is(at("new/ccq_recipe.json"), "old"), "nothing is removed before the commit");
    CHECK(!ccq_stage_commit(s, &err), "%s", err.text);
    CHECK(strcmp(list(at("new")), "config.json model.safetensors notes.txt tokenizer.model") == 0,
          "%s", list(at("new")));
}

/* Killed while it wrote: refused without overwrite, cleaned with it. */
static void put_ranks(ccq_stage *s)
{
    ccq_error err = {0};
    CHECK(!ccq_stage_put(s, "rank0/model.safetensors", "zero", 4, &err), "%s", err.text);
    CHECK(!ccq_stage_put(s, "rank1/model.safetensors", "one", 3, &err), "%s", err.text);
    CHECK(!ccq_stage_put(s, "config.json", "{}", 2, &err), "%s", err.text);
}

/* Directories of ranks come and go with the checkpoint; other files in them keep it. */
static void test_ranks(void)
{
    ccq_error err = {0};
    char out[512]; /* at() turns through four buffers */
    snprintf(out, sizeof out, "%s", at("ranks"));
    ccq_stage *s = open_stage(out, 0);
    ccq_out *o = NULL;
    put_ranks(s);
    CHECK(ccq_stage_create(s, "rank/x", 1, &o, &err) == CCQ_BUG, "no number");
    CHECK(ccq_stage_create(s, "rank1/../x", 1, &o, &err) == CCQ_BUG, "a path");
    CHECK(ccq_stage_create(s, "other1/x", 1, &o, &err) == CCQ_BUG, "another directory");
    CHECK(strcmp(list(out), ".ccq") == 0, "before the commit: %s", list(out));
    REQUIRE(!ccq_stage_commit(s, &err), "%s", err.text);
    CHECK(strcmp(list(out), "config.json rank0 rank1") == 0, "%s", list(out));
    CHECK(file_is(at("ranks/rank1/model.safetensors"), "one"), "content");

    write_file(at("ranks/rank1/mine.txt"), "mine");
    CHECK(try_stage(&s, out, 1, &err) == CCQ_EXISTS, "a file that is not ours: %s", err.text);
    CHECK(strcmp(list(at("ranks/rank1")), "mine.txt model.safetensors") == 0, "nothing is gone");
    unlink(at("ranks/rank1/mine.txt"));
    CHECK(!symlink(at("ranks/rank0"), at("ranks/rank2")), "symlink");
    CHECK(try_stage(&s, out, 1, &err) == CCQ_EXISTS, "a link: %s", err.text);
    unlink(at("ranks/rank2"));

    s = open_stage(out, 1);
    CHECK(!ccq_stage_put(s, "config.json", "{1}", 3, &err), "%s", err.text);
    REQUIRE(!ccq_stage_commit(s, &err), "%s", err.text);
    CHECK(strcmp(list(out), "config.json") == 0, "old ranks stay: %s", list(out));

    s = open_stage(at("ranks2"), 0);
    put_ranks(s);
    ccq_stage_abandon(s);
    CHECK(access(at("ranks2"), F_OK) != 0, "abandoned");
}

/* A commit that fails half way takes nothing back, abandoned or not, and can go on. */
static void test_failed_ranks(void)
{
    ccq_error err = {0};
    ccq_stage *s = open_stage(at("ranks3"), 0);
    put_ranks(s);
    REQUIRE(!mkdir(at("ranks3/rank1"), 0777) && !mkdir(at("ranks3/rank1/model.safetensors"), 0777),
            "mkdir");
    CHECK(ccq_stage_commit(s, &err) == CCQ_IO, "%s", err.text);
    CHECK(err.code == CCQ_IO, "the same code in both");
    ccq_stage_abandon(s);
    CHECK(strcmp(list(at("ranks3")), ".ccq rank0 rank1") == 0, "left: %s", list(at("ranks3")));
    CHECK(access(at("ranks3/rank0/model.safetensors"), F_OK) == 0, "what has been moved stays");
}

static void test_killed(void)
{
    ccq_stage *s;
    ccq_error err;
    pid_t child = fork();
    if (child == 0) {
        put_all(open_stage(at("killed"), 0));
        raise(SIGKILL);
    }
    waitpid(child, NULL, 0);
    CHECK(strcmp(list(at("killed")), ".ccq") == 0, "%s", list(at("killed")));
    CHECK(try_stage(&s, at("killed"), 0, &err) == CCQ_EXISTS && strstr(err.text, "unfinished"),
          "%s", err.text);
    s = open_stage(at("killed"), 1);
    put_all(s);
    CHECK(!ccq_stage_commit(s, &err), "%s", err.text);
    CHECK(strcmp(list(at("killed")), "config.json model.safetensors tokenizer.model") == 0, "%s",
          list(at("killed")));
}

static void test_lock(void)
{
    ccq_stage *s = open_stage(at("locked"), 0), *other;
    ccq_error err;
    CHECK(try_stage(&other, at("locked"), 1, &err) == CCQ_CREATE, "two at once: %s", err.text);
    put_all(s);
    CHECK(!ccq_stage_commit(s, &err), "the first one is not disturbed: %s", err.text);
}

static void test_misuse(void)
{
    ccq_stage *s = open_stage(at("misuse"), 0);
    ccq_out *o, *again;
    ccq_error err;
    CHECK(ccq_stage_put(s, "../x", "", 0, &err) == CCQ_BUG, "a path as a name");
    CHECK(!ccq_stage_create(s, "a", 4, &o, &err), "%s", err.text);
    CHECK(ccq_stage_create(s, "a", 4, &again, &err) == CCQ_BUG, "staged twice");
    CHECK(!ccq_out_write(o, 0, "ab", 2, &err), "%s", err.text);
    CHECK(ccq_out_close(o, &err) == CCQ_BUG, "a file with a hole is not closed as whole");
    CHECK(ccq_stage_commit(s, &err) == CCQ_BUG, "nor committed");
    ccq_stage_abandon(s);
    CHECK(!ccq_path_exists(at("misuse")), "abandoned");
}

/* A file-size limit makes a real call fail, as a full disk does. */
static void test_full(void)
{
    struct rlimit was, small;
    ccq_error err = {0};
    ccq_out *o;
    ccq_stage *s = open_stage(at("full"), 0);
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &was);
    small = was;
    small.rlim_cur = 1000;
    setrlimit(RLIMIT_FSIZE, &small);
    ccq_code code = ccq_stage_create(s, "model.safetensors", 4000, &o, &err);
    setrlimit(RLIMIT_FSIZE, &was);
    CHECK((code == CCQ_IO || code == CCQ_NO_SPACE) && strstr(err.text, "model.safetensors"), "%s",
          err.text);
    ccq_stage_abandon(s);
    CHECK(!ccq_path_exists(at("full")), "nothing is left");
}

static void test_paths(void)
{
    uint64_t bytes;
    mkdir(at("in"), 0777);
    mkdir(at("in/sub"), 0777);
    CHECK(symlink("in/sub", at("link")) == 0, "symlink");
    CHECK(ccq_path_inside(at("in"), at("in")) && ccq_path_inside(at("in/sub"), at("in")), "inside");
    CHECK(ccq_path_inside(at("link"), at("in")) && ccq_path_inside(at("link/new/x"), at("in")),
          "through a link");
    CHECK(ccq_path_inside(at("in/not/there"), at("in")), "missing parts");
    CHECK(!ccq_path_inside(at("in"), at("in/sub")) && !ccq_path_inside(at("inn"), at("in")),
          "not inside");
    CHECK(!ccq_path_free_bytes(at("in/not/there"), &bytes, NULL) && bytes > 0, "free bytes");
}

int main(void)
{
    REQUIRE(mkdtemp(root), "mkdtemp");
    test_commit();
    test_failed_commit();
    test_abandon();
    test_refusals();
    test_overwrite();
    test_ranks();
    test_failed_ranks();
    test_killed();
    test_lock();
    test_misuse();
    test_full();
    test_paths();
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", root);
    CHECK(system(command) == 0, "rm");
    return check_done();
}
