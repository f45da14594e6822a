/* .pdparams files with a few bytes changed: each one opens and reads, or is refused
 * with a code and a place. For the sanitizers; seeded.
 *
 * usage: fuzz_pdparams [ROUNDS] */
#include "tests/check.h"

#include "formats/checkpoint.h"
#include "formats/file.h"

#include <fcntl.h>

#define MAX_SIZE (1 << 20)

static char root[] = "/tmp/ccq-pdfuzz-XXXXXX";
static unsigned outcomes[128];

/* Opcodes, borders of numbers, and what stands at the ends of lengths. */
static unsigned char nasty(uint64_t *seed)
{
    static const unsigned char bytes[] =
        "\x80\x95.(NKMJ\x8aX\x8c\x8d" "CB\x8eUT\x94qrhj}])t\x85\x86\x87" "dsuaec\x93Rb\0\1\x7f\xff";
    return bytes[check_next(seed) % (sizeof bytes - 1)];
}

/* A place near the start or the end, where the opcodes are dense, or anywhere. */
static size_t place(uint64_t *seed, size_t size)
{
    size_t near = size < 1500 ? size : 1500, kind = check_next(seed) % 8;
    size_t i = check_next(seed) % (kind ? near : size);
    return kind < 5 ? i : size - 1 - i;
}

static void mutate(unsigned char *data, size_t *size, uint64_t *seed)
{
    size_t i = place(seed, *size), n = check_next(seed) % 40 + 1;
    switch (check_next(seed) % 8) {
    case 0: /* cut the end */
        *size = i + 1;
        break;
    case 1: /* take some out */
        n = n < *size - i ? n : *size - i - 1;
        memmove(data + i, data + i + n, *size - i - n);
        *size -= n;
        break;
    case 2: /* say some again */
        n = n < *size - i ? n : *size - i;
        memmove(data + i + n, data + i, *size - i);
        *size += n;
        break;
    case 3:
        data[i] = (unsigned char)check_next(seed);
        break;
    case 4:
        data[i] ^= (unsigned char)(1u << check_next(seed) % 8);
        break;
    default:
        data[i] = nasty(seed);
    }
}

/* Every byte of every tensor, as long as that is not much. */
static void read_tensors(const ccq_checkpoint *ck, const char *what)
{
    static unsigned char data[MAX_SIZE * 8];
    for (size_t i = 0; i < ccq_checkpoint_count(ck); i++) {
        const ccq_tensor *t = ccq_checkpoint_at(ck, i);
        uint64_t bytes = ccq_dtype_bits((ccq_dtype)t->dtype) / 8;
        for (unsigned k = 0; k < t->rank; k++)
            bytes *= t->shape[k];
        CHECK(bytes == t->bytes, "%s: shape and bytes of \"%s\"", what, t->name);
        if (bytes > sizeof data)
            continue;
        ccq_error err = {CCQ_OK, ""};
        ccq_code code = ccq_checkpoint_read(ck, t, 0, data, bytes, &err);
        CHECK(code == CCQ_OK || (code == CCQ_PICKLE && strstr(err.text, "byte ")), "%s: %s", what,
              err.text);
    }
}

static void one(const unsigned char *data, size_t size, const char *what)
{
    char path[600];
    ccq_checkpoint *ck;
    ccq_error err = {CCQ_OK, ""};
    snprintf(path, sizeof path, "%s/f/x.pdparams", root);
    /* in place: a file that is cut to nothing and written again is flushed by some systems */
    int fd = open(path, O_RDWR | O_CREAT, 0666);
    REQUIRE(fd >= 0 && pwrite(fd, data, size, 0) == (ssize_t)size &&
                ftruncate(fd, (off_t)size) == 0 && close(fd) == 0, "%s", path);
    snprintf(path, sizeof path, "%s/f", root);
    ccq_code code = ccq_checkpoint_open(&ck, path, &err); /* as .pdparams, whatever it is */
    outcomes[code]++;
    if (code)
        CHECK(strstr(err.text, "x.pdparams: ") && code != CCQ_BUG && code != CCQ_NO_MEMORY,
              "%s: %s", what, err.text);
    else
        read_tensors(ck, what);
    ccq_checkpoint_close(ck);
}

static void fuzz_file(const char *path, unsigned rounds, uint64_t *seed)
{
    static unsigned char data[MAX_SIZE * 2];
    char *file, what[600];
    size_t size;
    ccq_error err;
    REQUIRE(!ccq_file_load(path, MAX_SIZE, CCQ_NO_INPUT, &file, &size, &err), "%s", err.text);
    for (unsigned i = 0; i < rounds; i++) {
        size_t now = size;
        memcpy(data, file, size);
        snprintf(what, sizeof what, "%s round %u", strrchr(path, '/') + 1, i);
        for (uint64_t k = check_next(seed) % 3 + 1; k--;)
            mutate(data, &now, seed);
        one(data, now, what);
    }
    free(file);
}

int main(int argc, char **argv)
{
    static const char *const files[] = {
        "good/dtypes-2", "good/dtypes-4", "good/sliced-2", "good/sliced-3", "good/sliced-4",
        "good/tensor-2", "good/tensor-4", "good/table-3", "good/tied-2", "good/old-2",
    };
    static const char *const samples[] = {"linear_state_dict", "sliced_protocol2",
                                          "sliced_protocol3"};
    unsigned rounds = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 400;
    const char *shared = getenv("CCQ_SHARED");
    uint64_t seed = check_seed(4);
    char path[5000];
    REQUIRE(mkdtemp(root), "mkdtemp");
    snprintf(path, sizeof path, "python3 '%s' %s > %s/list && mkdir %s/f",
             check_data("make_pdparams.py"), root, root, root);
    REQUIRE(system(path) == 0, "%s", path);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(path, sizeof path, "%s/%s.pdparams", root, files[i]);
        fuzz_file(path, rounds, &seed);
    }
    for (size_t i = 0; i < sizeof samples / sizeof *samples; i++) {
        snprintf(path, sizeof path, "%s/models/ernie-micro/pdparams/%s.pdparams",
                 shared ? shared : "../shared", samples[i]);
        if (access(path, R_OK) == 0)
            fuzz_file(path, rounds, &seed);
    }
    snprintf(path, sizeof path, "rm -r %s", root);
    REQUIRE(system(path) == 0, "%s", path);
    for (unsigned i = 0; i < sizeof outcomes / sizeof *outcomes; i++)
        if (outcomes[i])
            printf("%7u %s\n", outcomes[i], ccq_code_name((ccq_code)i));
    CHECK(outcomes[CCQ_OK] && outcomes[CCQ_PICKLE] && outcomes[CCQ_UNSUPPORTED],
          "the mutations reach too little");
    return check_done();
}
