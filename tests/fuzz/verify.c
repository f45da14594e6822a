/* A good checkpoint with something changed: every change is found, by the quick look in
 * headers and side files, by the deep one anywhere.
 *
 * An input is a letter and what it is about. a to d: the bytes that config.json, the
 * index, the manifest and the recipe have instead; h: the header of the shard; x: place
 * (4 bytes) and a byte to xor with, again and again. CCQ_MAKE_CHECKPOINT and CCQ_QUANTIZE
 * name the programs that make the checkpoint. */
#include "formats/file.h"
#include "libccq/inspect.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

enum { FILES = 5, SHARD = 4, MAX_FILE = 1 << 20 };

static const char *const names[FILES] = {"config.json", "model.safetensors.index.json",
                                         "ccq_manifest.json", "ccq_recipe.json",
                                         "model.safetensors"};
static const char *const words[] = {
    "{", "}", "[", "]", ",", ":", "\"", " ", "\n", "\"crc32\": ", "0", "\"tensors\": ",
    "\"files\": ", "\"quantization_config\": ", "\"weight_map\": ", "\"../x\"", "ernie.",
    ".quant_weight", "null", NULL};
static char *good[FILES];
static size_t sizes[FILES], header; /* of the shard, with its length */
static ccq_pool *pool;
static ccq_ops ops;

static const char *path_in(const char *name)
{
    static char path[400];
    snprintf(path, sizeof path, "%s/out%s%s", fuzz_dir(), *name ? "/" : "", name);
    return path;
}

static void make(void)
{
    const char *maker = getenv("CCQ_MAKE_CHECKPOINT"), *quantize = getenv("CCQ_QUANTIZE");
    char command[9000];
    FUZZ_CHECK(maker && quantize, "CCQ_MAKE_CHECKPOINT and CCQ_QUANTIZE name programs");
    snprintf(command, sizeof command,
             "'%s' --layers 2 --hidden 128 --inter 128 --experts 2 --vocab 64 %s/in >&2 && "
             "'%s' -q --w4-end-layer -1 --effort fast %s/in %s",
             maker, fuzz_dir(), quantize, fuzz_dir(), path_in(""));
    FUZZ_CHECK(system(command) == 0, "%s", command);
}

/* What is mutated: the files as they are. */
static void seed_inputs(void)
{
    static uint8_t input[FUZZ_MAX];
    for (int i = 0; i < FILES; i++) {
        size_t n = i == SHARD ? header - 8 : sizes[i];
        FUZZ_CHECK(n < FUZZ_MAX, "%s", names[i]);
        input[0] = i == SHARD ? 'h' : (uint8_t)('a' + i);
        memcpy(input + 1, good[i] + (i == SHARD ? 8 : 0), n);
        fuzz_add(input, n + 1);
    }
}

static void start(void)
{
    ccq_error err;
    make();
    for (int i = 0; i < FILES; i++)
        FUZZ_CHECK(!ccq_file_load(path_in(names[i]), MAX_FILE, CCQ_IO, &good[i], &sizes[i], &err),
                   "%s", err.text);
    for (int i = 7; i >= 0; i--)
        header = header << 8 | (uint8_t)good[SHARD][i];
    header += 8;
    ccq_ops_init(&ops, ccq_cpu_isa());
    pool = ccq_pool_new(1);
    FUZZ_CHECK(pool && header < sizes[SHARD], "start");
    seed_inputs();
}

static void end(void)
{
    ccq_pool_free(pool);
    for (int i = 0; i < FILES; i++)
        free(good[i]);
}

const fuzz_target fuzz_this = {"verify", words, 1, start, end, NULL};

static void put(int file, const void *data, size_t size)
{
    char name[80];
    snprintf(name, sizeof name, "out/%s", names[file]);
    fuzz_put(name, data, size);
}

/* The finding must name the file, unless one of another file already ended it. */
static void verify(int deep, int changed, int file, const char *what)
{
    const ccq_verify_options options = {deep ? pool : NULL, &ops};
    ccq_verify_result r;
    ccq_error err;
    int named = 0;
    ccq_code code = ccq_verify_with(&r, path_in(""), &options, &err);
    FUZZ_CHECK(!code, "%s: %s", what, err.text);
    FUZZ_CHECK(!changed || r.findings, "%s: a change is not found", what);
    FUZZ_CHECK(changed || !r.findings, "%s: %s", what, r.finding[0].message);
    for (size_t i = 0; i < r.findings; i++) {
        const ccq_finding *f = &r.finding[i];
        FUZZ_CHECK(f->code != CCQ_BUG && f->code != CCQ_NO_MEMORY, "%s: %s", what, f->message);
        named |= strcmp(f->file, names[file]) == 0;
    }
    FUZZ_CHECK(!changed || named, "%s: %s is not named, but %s: %s", what, names[file],
               r.finding[0].file, r.finding[0].message);
    err.code = r.findings ? r.finding[0].code : CCQ_OK;
    snprintf(err.text, sizeof err.text, "%s", r.findings ? r.finding[0].message : "");
    fuzz_outcome(err.code, &err);
    ccq_verify_free(&r);
}

static void replace(int file, const uint8_t *data, size_t size)
{
    int changed = size != sizes[file] || memcmp(data, good[file], size) != 0;
    put(file, data, size);
    verify(size % 256 == 0, changed, file, names[file]);
    put(file, good[file], sizes[file]);
}

static void replace_header(const uint8_t *data, size_t size)
{
    size_t rest = sizes[SHARD] - header;
    uint8_t *shard = malloc(8 + size + rest);
    FUZZ_CHECK(shard, "out of memory");
    for (int i = 0; i < 8; i++)
        shard[i] = (uint8_t)((uint64_t)size >> 8 * i);
    memcpy(shard + 8, data, size);
    memcpy(shard + 8 + size, good[SHARD] + header, rest);
    int changed = size + 8 != header || memcmp(data, good[SHARD] + 8, size) != 0;
    put(SHARD, shard, 8 + size + rest);
    verify(size % 256 == 0, changed, SHARD, "header");
    put(SHARD, good[SHARD], sizes[SHARD]);
    free(shard);
}

static void flip(const uint8_t *data, size_t size)
{
    uint8_t *shard = malloc(sizes[SHARD]);
    FUZZ_CHECK(shard, "out of memory");
    memcpy(shard, good[SHARD], sizes[SHARD]);
    for (; size >= 5; data += 5, size -= 5) {
        size_t at = data[0] | (size_t)data[1] << 8 | (size_t)data[2] << 16;
        shard[at % sizes[SHARD]] ^= data[4];
    }
    int head = memcmp(shard, good[SHARD], header) != 0;
    int any = memcmp(shard, good[SHARD], sizes[SHARD]) != 0;
    put(SHARD, shard, sizes[SHARD]);
    verify(!head, any, SHARD, "flip"); /* what the quick look finds needs no deep one */
    put(SHARD, good[SHARD], sizes[SHARD]);
    free(shard);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size)
        return 0;
    if (*data >= 'a' && *data < 'a' + SHARD)
        replace(*data - 'a', data + 1, size - 1);
    else if (*data == 'h')
        replace_header(data + 1, size - 1);
    else
        flip(data + 1, size - 1);
    return 0;
}
