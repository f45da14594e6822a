/* Lines of a table and of JSON; clocks of a device. */
#include "tests/bench_gpu.h"

#include <dlfcn.h>
#include <stdarg.h>

/* ---- Clocks ------------------------------------------------------------------- */

/* As nvml.h has them. */
enum { CLOCK_SM = 1, CLOCK_MEMORY = 2 };

struct bench_clocks {
    void *library, *device;
    int (*init)(void), (*shutdown)(void);
    int (*handle)(unsigned index, void **device);
    int (*name)(void *device, char *text, unsigned size);
    int (*clock)(void *device, int which, unsigned *mhz);
    int (*driver_version)(char *text, unsigned size);
    int (*cuda_version)(int *version);
    char driver[80], cuda[32];
};

static int find(void *library, const char *name, void *function)
{
    void *symbol = dlsym(library, name);
    memcpy(function, &symbol, sizeof symbol);
    return symbol != NULL;
}

static int find_all(bench_clocks *c)
{
    void *l = c->library;
    return find(l, "nvmlInit_v2", &c->init) && find(l, "nvmlShutdown", &c->shutdown) &&
           find(l, "nvmlDeviceGetHandleByIndex_v2", &c->handle) &&
           find(l, "nvmlDeviceGetName", &c->name) &&
           find(l, "nvmlDeviceGetClockInfo", &c->clock) &&
           find(l, "nvmlSystemGetDriverVersion", &c->driver_version) &&
           find(l, "nvmlSystemGetCudaDriverVersion", &c->cuda_version);
}

/* Between init and shutdown. */
static int right_device(bench_clocks *c, const char *device)
{
    char name[128] = "";
    int version = 0;
    if (c->driver_version(c->driver, sizeof c->driver))
        c->driver[0] = 0;
    if (!c->cuda_version(&version))
        snprintf(c->cuda, sizeof c->cuda, "%d.%d", version / 1000, version % 1000 / 10);
    return !c->handle(0, &c->device) && !c->name(c->device, name, sizeof name) &&
           !strcmp(name, device);
}

bench_clocks *clocks_open(const char *device)
{
    bench_clocks *c = calloc(1, sizeof *c);
    REQUIRE(c, "out of memory");
    c->library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (c->library && find_all(c) && !c->init()) {
        if (right_device(c, device))
            return c;
        c->shutdown();
    }
    if (c->library)
        dlclose(c->library);
    free(c);
    return NULL;
}

void clocks_close(bench_clocks *c)
{
    if (!c)
        return;
    c->shutdown();
    dlclose(c->library);
    free(c);
}

bench_clock clocks_now(const bench_clocks *c)
{
    bench_clock now = {0, 0};
    if (c && (c->clock(c->device, CLOCK_SM, &now.sm) ||
              c->clock(c->device, CLOCK_MEMORY, &now.memory)))
        now = (bench_clock){0, 0};
    return now;
}

const char *clocks_driver(const bench_clocks *c)
{
    return c ? c->driver : "";
}

const char *clocks_cuda(const bench_clocks *c)
{
    return c ? c->cuda : "";
}

/* ---- The table ------------------------------------------------------------------ */

void say(const bench *b, const char *fmt, ...)
{
    va_list ap;
    if (!b->table)
        return;
    va_start(ap, fmt);
    vfprintf(b->table, fmt, ap);
    va_end(ap);
    fflush(b->table);
}

void say_sample(const bench *b, const sample *s)
{
    say(b, " %10.4f ms (%.4f %.4f; %d)", (double)s->median, (double)s->p10, (double)s->p90,
        s->samples);
}

void say_clocks(const bench *b, bench_clock before, bench_clock after)
{
    if (before.sm && after.sm)
        say(b, "  clock %u MHz, memory %u before; %u, %u after\n", before.sm, before.memory,
            after.sm, after.memory);
    else
        say(b, "  clock unknown\n");
}

/* ---- JSON ------------------------------------------------------------------------- */

void json_begin(const bench *b, const char *what)
{
    if (b->json)
        fputs("{\"bench\":\"gpu\"", b->json);
    json_text(b, "what", what);
}

void json_text(const bench *b, const char *key, const char *text)
{
    if (!b->json)
        return;
    fprintf(b->json, ",\"%s\":\"", key);
    for (; *text; text++)
        if ((unsigned char)*text >= ' ' && (unsigned char)*text < 127)
            fprintf(b->json, "%s%c", *text == '"' || *text == '\\' ? "\\" : "", *text);
    fputc('"', b->json);
}

void json_number(const bench *b, const char *key, double value)
{
    if (!b->json)
        return;
    if (isfinite(value))
        fprintf(b->json, ",\"%s\":%.12g", key, value);
    else
        fprintf(b->json, ",\"%s\":null", key);
}

static void json_mhz(const bench *b, const char *key, unsigned mhz)
{
    json_number(b, key, mhz ? (double)mhz : (double)NAN);
}

void json_sample(const bench *b, const sample *s)
{
    json_number(b, "samples", s->samples);
    json_number(b, "ms", (double)s->median);
    json_number(b, "p10", (double)s->p10);
    json_number(b, "p90", (double)s->p90);
    json_mhz(b, "sm_mhz_before", s->before.sm);
    json_mhz(b, "sm_mhz_after", s->after.sm);
    json_mhz(b, "memory_mhz_before", s->before.memory);
    json_mhz(b, "memory_mhz_after", s->after.memory);
}

void json_end(const bench *b)
{
    if (!b->json)
        return;
    fputs("}\n", b->json);
    fflush(b->json);
}
