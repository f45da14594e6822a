/* Between kernels/gpu.c and the devices. Not for callers outside kernels/. */
#ifndef CCQ_KERNELS_GPU_DEVICE_H
#define CCQ_KERNELS_GPU_DEVICE_H

#include "kernels/gpu.h"

#ifdef __cplusplus
extern "C" {
#endif

/* All return CCQ_GPU_*, having filled gpu->error on failure. */
typedef struct ccq_gpu_device {
    int kind;
    void (*close)(ccq_gpu *gpu);
    int (*room)(ccq_gpu *gpu, uint64_t *bytes);
    int (*alloc)(ccq_gpu *gpu, size_t size, void **memory);
    void (*free)(ccq_gpu *gpu, void *memory);
    int (*pin)(ccq_gpu *gpu, size_t size, void **memory);
    void (*unpin)(ccq_gpu *gpu, void *memory);
    int (*after)(ccq_gpu *gpu, int other);
    int (*wait)(ccq_gpu *gpu, int queue);
    int (*upload)(ccq_gpu *gpu, void *to, const void *from, size_t size);
    int (*download)(ccq_gpu *gpu, void *to, const void *from, size_t size);
    int (*copy)(ccq_gpu *gpu, void *to, const void *from, size_t size);
    int (*fill)(ccq_gpu *gpu, void *to, int byte, size_t size);
    int (*mark)(ccq_gpu *gpu, int mark);
    int (*between)(ccq_gpu *gpu, int first, int second, float *ms);
    int (*record)(ccq_gpu *gpu);
    int (*recorded)(ccq_gpu *gpu, ccq_gpu_graph **graph);
    int (*replay)(ccq_gpu *gpu, ccq_gpu_graph *graph);
    void (*graph_free)(ccq_gpu *gpu, ccq_gpu_graph *graph);
    const ccq_gpu_model_ops *model;
    const ccq_gpu_wint2_ops *wint2;
    const ccq_gpu_encode_ops *encode;
} ccq_gpu_device;

struct ccq_gpu {
    const ccq_gpu_device *device;
    ccq_gpu_info info;
    int queue;
    char error[CCQ_GPU_TEXT];
    void *state; /* the device's own */
};

extern const ccq_gpu_model_ops ccq_gpu_model_host, ccq_gpu_model_cuda;
extern const ccq_gpu_encode_ops ccq_gpu_encode_host, ccq_gpu_encode_cuda;

/* Fills gpu->error; returns code. */
__attribute__((format(printf, 3, 4))) int ccq_gpu_fail(ccq_gpu *gpu, int code, const char *fmt,
                                                       ...);

/* One of each pair is built. open fills device, info and state of *gpu, which is zeroed. */
int ccq_gpu_host_open(ccq_gpu *gpu, int index);
int ccq_gpu_cuda_count(char why[CCQ_GPU_TEXT]);
int ccq_gpu_cuda_open(ccq_gpu *gpu, int index);

#ifdef __cplusplus
}
#endif

#endif
