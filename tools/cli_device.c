#include "tools/cli_device.h"

#include <stdlib.h>
#include <string.h>

enum { MOST = 1024 }; /* of cuda:N; larger ones are no number of a device */

int cli_device_read(const char *text, cli_device_kind *kind, int *index)
{
    static const char *const names[] = {"auto", "cpu", "host", "cuda"}; /* by kind */
    size_t length = strcspn(text, ":");
    int i = 0;

    while (i < 4 && !(strlen(names[i]) == length && memcmp(names[i], text, length) == 0))
        i++;
    *index = 0;
    *kind = (cli_device_kind)i;
    if (i < 4 && !text[length])
        return 0;
    const char *digits = text + length + 1;
    size_t count = i == CLI_DEVICE_CUDA ? strspn(digits, "0123456789") : 0;
    if (!count || digits[count])
        return -1;
    *index = count > 4 || atoi(digits) > MOST ? MOST : atoi(digits);
    return 0;
}

static int unavailable(const cli *c, const char *text, const char *why)
{
    cli_error(c, "--device %s: %s", text, why);
    return CLI_UNAVAILABLE;
}

int cli_device_check(const cli *c, const char *text)
{
    char why[CCQ_GPU_TEXT];
    cli_device_kind kind;
    int index;

    if (cli_device_read(text, &kind, &index) || kind != CLI_DEVICE_CUDA)
        return CLI_OK;
    int count = ccq_gpu_count(CCQ_GPU_CUDA, why);
    if (!count)
        return unavailable(c, text, why);
    snprintf(why, sizeof why, "the last CUDA device is cuda:%d", count - 1);
    return index < count ? CLI_OK : unavailable(c, text, why);
}

static void name_it(const ccq_gpu *gpu, int index, char name[CLI_DEVICE_NAME])
{
    if (!gpu || ccq_gpu_kind(gpu) == CCQ_GPU_HOST)
        snprintf(name, CLI_DEVICE_NAME, "%s", gpu ? "host" : "cpu");
    else
        snprintf(name, CLI_DEVICE_NAME, "cuda:%d %s", index, ccq_gpu_describe(gpu)->name);
}

int cli_device_open(const cli *c, ccq_gpu **gpu, char name[CLI_DEVICE_NAME])
{
    char why[CCQ_GPU_TEXT] = "";
    cli_device_kind kind = CLI_DEVICE_CPU;
    int index = 0, code = CCQ_GPU_OK;

    *gpu = NULL;
    cli_device_read(c->device, &kind, &index);
    if (kind != CLI_DEVICE_CPU)
        code = ccq_gpu_open(kind == CLI_DEVICE_HOST ? CCQ_GPU_HOST : CCQ_GPU_CUDA, index, gpu, why);
    if (code && kind != CLI_DEVICE_AUTO)
        return unavailable(c, c->device, why);
    if (code && code != CCQ_GPU_ABSENT) /* it is there, and of no use */
        cli_note(c, "%s; the CPU does the work", why);
    else if (code && c->verbose)
        cli_note(c, "device: %s", why);
    name_it(*gpu, index, name);
    return CLI_OK;
}

void cli_device_print_build(void)
{
    printf("cuda: %s\n", CCQ_CUDA);
}

static void print_one(int index)
{
    char why[CCQ_GPU_TEXT], memory[16];
    ccq_gpu *gpu = NULL;

    if (ccq_gpu_open(CCQ_GPU_CUDA, index, &gpu, why)) {
        printf("device: cuda:%d, of no use: %s\n", index, why);
        return;
    }
    const ccq_gpu_info *info = ccq_gpu_describe(gpu);
    printf("device: cuda:%d %s, compute capability %d.%d, %s\n", index, info->name, info->major,
           info->minor, cli_bytes(memory, sizeof memory, info->memory));
    ccq_gpu_close(gpu);
}

void cli_device_print(void)
{
    char why[CCQ_GPU_TEXT];
    int count = ccq_gpu_count(CCQ_GPU_CUDA, why);

    if (!count)
        printf("device: none\n");
    for (int i = 0; i < count; i++)
        print_one(i);
}
