/* Every flipped bit of an output is found and named: by the quick look in headers and side
 * files, by the deep one in the data, there with its tensor.
 *
 *     test_flips [all]
 *
 * A bit of every byte of the headers and side files, and some of each tensor; all: every
 * bit of the former, and a thousand of each tensor. CCQ_MAKE_CHECKPOINT and CCQ_QUANTIZE
 * name the programs that make the checkpoint. */
#include "tests/check.h"

#include "formats/checkpoint.h"
#include "formats/file.h"
#include "libccq/inspect.h"

#include <fcntl.h>

static char root[] = "/tmp/ccq-flips-XXXXXX";
static uint64_t flips;

static void make(char *dir, size_t size)
{
    const char *maker = getenv("CCQ_MAKE_CHECKPOINT"), *quantize = getenv("CCQ_QUANTIZE");
    char command[9000];
    if (!maker || !quantize)
        check_skip("CCQ_MAKE_CHECKPOINT and CCQ_QUANTIZE name no programs");
    REQUIRE(mkdtemp(root), "mkdtemp");
    snprintf(dir, size, "%s/out", root);
    snprintf(command, sizeof command,
             "'%s' --layers 2 --hidden 128 --inter 128 --experts 2 --vocab 64 %s/in && "
             "'%s' -q --w4-end-layer -1 --effort fast --shard-size 100K %s/in %s",
             maker, root, quantize, root, dir);
    REQUIRE(system(command) == 0, "%s", command);
}

/* Is the file named, and the tensor where there is one? */
static int found(const char *dir, const char *file, const char *tensor, ccq_pool *pool)
{
    ccq_ops ops;
    const ccq_verify_options options = {pool, &ops};
    ccq_verify_result r;
    ccq_error err;
    int named = 0;
    ccq_ops_init(&ops, 0);
    REQUIRE(!ccq_verify_with(&r, dir, &options, &err), "%s", err.text);
    for (size_t i = 0; i < r.findings; i++)
        named |= strcmp(r.finding[i].file, file) == 0 &&
                 (!tensor || strcmp(r.finding[i].tensor, tensor) == 0);
    ccq_verify_free(&r);
    return named;
}

static void flip(const char *dir, const char *file, const char *tensor, uint64_t at, int bit,
                 ccq_pool *pool)
{
    char path[300];
    unsigned char byte;
    snprintf(path, sizeof path, "%s/%s", dir, file);
    int fd = open(path, O_RDWR);
    REQUIRE(fd >= 0 && pread(fd, &byte, 1, (off_t)at) == 1, "%s", path);
    byte ^= (unsigned char)(1u << bit);
    REQUIRE(pwrite(fd, &byte, 1, (off_t)at) == 1, "%s", path);
    CHECK(found(dir, file, tensor, pool), "%s: byte %" PRIu64 " bit %d (%s) is not found", file, at,
          bit, tensor ? tensor : "no tensor");
    byte ^= (unsigned char)(1u << bit);
    REQUIRE(pwrite(fd, &byte, 1, (off_t)at) == 1 && !close(fd), "%s", path);
    flips++;
}

static void flip_span(const char *dir, const char *file, uint64_t bytes, int all, uint64_t *seed)
{
    for (uint64_t at = 0; at < bytes; at++)
        for (int bit = all ? 0 : (int)(check_next(seed) % 8), last = all ? 7 : bit; bit <= last;
             bit++)
            flip(dir, file, NULL, at, bit, NULL);
}

static void flip_files(const char *dir, const ccq_checkpoint *ck, int all, uint64_t *seed)
{
    char **names;
    size_t count, size;
    ccq_error err;
    REQUIRE(!ccq_dir_list(dir, &names, &count, &err), "%s", err.text);
    for (size_t i = 0; i < count; i++) {
        const ccq_shard *shard = NULL;
        char *path = ccq_path_join(dir, names[i]), *text;
        for (size_t k = 0; !shard && k < ccq_checkpoint_shards(ck); k++)
            if (strcmp(ccq_checkpoint_shard(ck, k)->name, names[i]) == 0)
                shard = ccq_checkpoint_shard(ck, k);
        REQUIRE(!ccq_file_load(path, 1 << 24, CCQ_IO, &text, &size, &err), "%s", err.text);
        flip_span(dir, names[i], shard ? 8 + shard->header_size : size, all, seed);
        free(text);
        free(path);
    }
    ccq_names_free(names, count);
}

static void flip_data(const char *dir, const ccq_checkpoint *ck, int each, uint64_t *seed)
{
    ccq_pool *pool = ccq_pool_new(1);
    REQUIRE(pool, "pool");
    for (size_t i = 0; i < ccq_checkpoint_count(ck); i++) {
        const ccq_tensor *t = ccq_checkpoint_at(ck, i);
        for (int k = 0; k < each; k++) {
            uint64_t at = k == 0 ? 0 : k == 1 ? t->bytes - 1 : check_next(seed) % t->bytes;
            flip(dir, ccq_checkpoint_shard(ck, t->shard)->name, t->name, t->offset + at,
                 (int)(check_next(seed) % 8), pool);
        }
    }
    ccq_pool_free(pool);
}

int main(int argc, char **argv)
{
    int all = argc > 1 && strcmp(argv[1], "all") == 0;
    uint64_t seed = check_seed(14);
    char dir[100], command[100];
    ccq_checkpoint *ck;
    ccq_error err;
    make(dir, sizeof dir);
    REQUIRE(!ccq_checkpoint_open(&ck, dir, &err), "%s", err.text);
    flip_files(dir, ck, all, &seed);
    printf("%" PRIu64 " bits of headers and side files\n", flips);
    flip_data(dir, ck, all ? 1000 : 4, &seed);
    printf("%" PRIu64 " bits in all, %zu tensors\n", flips, ccq_checkpoint_count(ck));
    ccq_checkpoint_close(ck);
    snprintf(command, sizeof command, "rm -r %s", root);
    CHECK(system(command) == 0, "%s", command);
    return check_done();
}
