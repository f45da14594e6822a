/* --device: what its text means, the device behind it, and what --version says. */
#ifndef CCQ_TOOLS_CLI_DEVICE_H
#define CCQ_TOOLS_CLI_DEVICE_H

#include "kernels/gpu.h"
#include "tools/cli.h"

typedef enum cli_device_kind {
    CLI_DEVICE_AUTO, /* CUDA's first, where there is one, else the CPU */
    CLI_DEVICE_CPU,
    CLI_DEVICE_HOST, /* a device's code on the CPU */
    CLI_DEVICE_CUDA
} cli_device_kind;

enum { CLI_DEVICE_NAME = 160 };

/* "auto", "cpu", "host", "cuda", "cuda:N". -1: none of these. */
int cli_device_read(const char *text, cli_device_kind *kind, int *index);
/* CLI_OK; or CLI_UNAVAILABLE with the message out: there is none of that name. Opens
 * nothing. */
int cli_device_check(const cli *c, const char *text);
/* The device of c->device; *gpu NULL: the CPU. name: "cpu", "host", "cuda:0 NVIDIA H200".
 * CLI_OK, or CLI_UNAVAILABLE with the message out. The caller closes it. */
int cli_device_open(const cli *c, ccq_gpu **gpu, char name[CLI_DEVICE_NAME]);
/* The lines "cuda:" and "device:" of --version. */
void cli_device_print_build(void);
void cli_device_print(void);

#endif
