/* Runs a target without libFuzzer: every file of its corpus, then mutations of them and
 * of those that had an outcome of their own.
 *
 *     TARGET [-n ROUNDS] CORPUS-DIRECTORY-OR-FILE...
 *
 * CCQ_SEED and CCQ_ROUNDS from the environment. An input that ends the program is left in
 * TARGET-failed.bin in the working directory. Under libFuzzer (CCQ_LIBFUZZER) only the
 * mutations are used. */
#include "tests/fuzz/fuzz.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { POOL = 4096, SIGNS = 1 << 16, HANG = 60 };

typedef struct input {
    uint8_t *data;
    size_t size;
} input;

static input pool[POOL];
static size_t pooled;
static uint8_t now[FUZZ_MAX + 64]; /* the input at work */
static size_t now_size;
static uint64_t counts[128];
static uint64_t signs[SIGNS]; /* outcomes seen; open addressing */
static size_t sign_count;
static int fresh; /* the last outcome was a new one */

/* The message without what differs from input to input: what is quoted, digits, and what
 * stands before its last colon. */
static uint64_t sign_of(ccq_code code, const char *text)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325) ^ (uint64_t)code;
    char words[sizeof((ccq_error *)0)->text];
    size_t n = 0;
    for (int quoted = 0; *text; text++) {
        if (*text == '\\' && text[1])
            text++;
        else if (*text == '"')
            quoted = !quoted;
        else if (!quoted && (*text < '0' || *text > '9'))
            words[n++] = *text;
    }
    const char *colon = memrchr(words, ':', n), *p = colon ? colon : words;
    for (const char *end = words + n; p < end; p++)
        h = (h ^ (uint8_t)*p) * UINT64_C(0x100000001b3);
    return h | 1;
}

static void note_sign(uint64_t sign)
{
    size_t i = sign % SIGNS;
    while (signs[i] && signs[i] != sign)
        i = (i + 1) % SIGNS;
    if (signs[i] || sign_count > SIGNS / 2)
        return;
    signs[i] = sign;
    sign_count++;
    fresh = 1;
}

void fuzz_outcome(ccq_code code, const ccq_error *err)
{
    const char *text = code ? err->text : "";
    counts[code]++;
    FUZZ_CHECK(code != CCQ_BUG && code != CCQ_NO_MEMORY, "%s: %s", ccq_code_name(code), text);
    FUZZ_CHECK(!code || (*text && err->code == code), "%s without a message", ccq_code_name(code));
    for (const char *p = text; *p; p++)
        FUZZ_CHECK((uint8_t)*p >= 0x20 && *p != 0x7f, "a control byte in: %s", text);
    note_sign(sign_of(code, text));
}

static void keep(void)
{
    uint8_t *copy = pooled < POOL ? malloc(now_size + 1) : NULL;
    if (!copy)
        return;
    memcpy(copy, now, now_size);
    pool[pooled++] = (input){copy, now_size};
}

void fuzz_add(const uint8_t *data, size_t size)
{
    memcpy(now, data, size);
    now_size = size;
    keep();
}

static size_t change(uint8_t *data, size_t size, uint64_t *seed)
{
    const input *other = pooled ? &pool[fuzz_next(seed) % pooled] : NULL;
    for (uint64_t k = 1 + fuzz_next(seed) % 4 % (1 + fuzz_next(seed) % 4); k; k--)
        size = fuzz_mutate(data, size, other ? other->data : data, other ? other->size : size,
                           seed);
    if (fuzz_this.repair && fuzz_next(seed) % 8)
        size = fuzz_this.repair(data, size, seed);
    return size;
}

#ifdef CCQ_LIBFUZZER

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned number);
int LLVMFuzzerInitialize(int *argc, char ***argv);

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned number)
{
    uint64_t seed = number;
    memcpy(now, data, size < FUZZ_MAX ? size : FUZZ_MAX);
    now_size = change(now, size < FUZZ_MAX ? size : FUZZ_MAX, &seed);
    now_size = now_size < max ? now_size : max;
    memcpy(data, now, now_size);
    return now_size;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    if (fuzz_this.start)
        fuzz_this.start();
    return 0;
}

#else

static uint64_t executions;

/* ---- When it fails ---------------------------------------------------------------- */

void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

static void save(void)
{
    char path[100];
    snprintf(path, sizeof path, "%s-failed.bin", fuzz_this.name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    if (fd >= 0 && write(fd, now, now_size) == (ssize_t)now_size)
        fprintf(stderr, "%s: input %" PRIu64 " is in %s\n", fuzz_this.name, executions, path);
    if (fd >= 0)
        close(fd);
}

static void fail(int sig)
{
    signal(sig, SIG_DFL);
    save();
    raise(sig);
}

static void look(int sig)
{
    static uint64_t before = UINT64_MAX;
    (void)sig;
    if (before == executions) {
        fprintf(stderr, "%s: one input takes more than %d s\n", fuzz_this.name, HANG);
        save();
        _exit(1);
    }
    before = executions;
}

static void watch(void)
{
    const struct itimerval step = {{HANG, 0}, {HANG, 0}};
    static char stack[1 << 16]; /* the other one may be what has run out */
    const stack_t other = {.ss_sp = stack, .ss_size = sizeof stack};
    const struct sigaction act = {.sa_handler = fail, .sa_flags = SA_ONSTACK};
    if (__sanitizer_set_death_callback)
        __sanitizer_set_death_callback(save);
    else if (sigaltstack(&other, NULL) == 0)
        sigaction(SIGSEGV, &act, NULL);
    signal(SIGABRT, fail);
    signal(SIGALRM, look);
    setitimer(ITIMER_REAL, &step, NULL);
}

/* ---- Corpus ----------------------------------------------------------------------- */

/* From a block of its own, so that a sanitizer sees a read behind its end. */
static void run_one(void)
{
    uint8_t *copy = malloc(now_size + !now_size);
    FUZZ_CHECK(copy, "out of memory");
    memcpy(copy, now, now_size);
    fresh = 0;
    LLVMFuzzerTestOneInput(copy, now_size);
    executions++;
    free(copy);
}

static void replay(const char *path)
{
    FILE *f = fopen(path, "rb");
    FUZZ_CHECK(f, "%s cannot be read", path);
    now_size = fread(now, 1, FUZZ_MAX, f);
    fclose(f);
    run_one();
    keep();
}

static int is_file(const struct dirent *e)
{
    return e->d_name[0] != '.';
}

static void replay_all(const char *path)
{
    struct stat st;
    struct dirent **list;
    char name[4096];
    FUZZ_CHECK(stat(path, &st) == 0, "no %s", path);
    if (!S_ISDIR(st.st_mode)) {
        replay(path);
        return;
    }
    int n = scandir(path, &list, is_file, alphasort);
    for (int i = 0; i < n; i++) {
        snprintf(name, sizeof name, "%s/%s", path, list[i]->d_name);
        free(list[i]);
        replay(name);
    }
    free(list);
}

/* ---- Rounds ------------------------------------------------------------------------ */

static void mutate_all(uint64_t rounds, uint64_t seed)
{
    for (uint64_t i = 0; i < rounds; i++) {
        const input *from = &pool[fuzz_next(&seed) % pooled];
        memcpy(now, from->data, from->size);
        now_size = change(now, from->size, &seed);
        run_one();
        if (fresh)
            keep();
    }
}

static void report(double seconds)
{
    printf("%s: %" PRIu64 " executions in %.1f s, %zu inputs kept, %zu outcomes:", fuzz_this.name,
           executions, seconds, pooled, sign_count);
    for (unsigned i = 0; i < sizeof counts / sizeof *counts; i++)
        if (counts[i])
            printf(" %s %" PRIu64, ccq_code_name((ccq_code)i), counts[i]);
    printf("\n");
}

static double clock_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int main(int argc, char **argv)
{
    const char *s = getenv("CCQ_SEED"), *n = getenv("CCQ_ROUNDS");
    uint64_t seed = s ? strtoull(s, NULL, 0) : 1, rounds = n ? strtoull(n, NULL, 0) : 2000;
    int i = 1;
    if (argc > 2 && strcmp(argv[1], "-n") == 0) {
        rounds = strtoull(argv[2], NULL, 0);
        i = 3;
    }
    printf("seed: CCQ_SEED=%" PRIu64 "\n", seed);
    watch();
    if (fuzz_this.start)
        fuzz_this.start();
    double begin = clock_now();
    for (size_t k = 0; k < pooled; k++) {
        memcpy(now, pool[k].data, now_size = pool[k].size);
        run_one();
    }
    for (; i < argc; i++)
        replay_all(argv[i]);
    FUZZ_CHECK(pooled, "no corpus");
    mutate_all(rounds, seed);
    report(clock_now() - begin);
    if (fuzz_this.end)
        fuzz_this.end();
    for (size_t k = 0; k < pooled; k++)
        free(pool[k].data);
    return 0;
}

#endif
