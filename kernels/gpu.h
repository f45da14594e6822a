/* An optional device in plain C: memory, queues, and tables of kernels.
 *
 * Three implementations stand behind it. CUDA, where it was built; HOST, always: the same
 * kernels' functions run thread by thread on plain memory, slow, for tests; and for a build
 * without CUDA a stub that says so. Opening is the only thing that differs.
 *
 * Work is asynchronous. It runs in the order it was given to the current queue; queues run
 * beside each other. What fails meanwhile is told by the next call on the device that
 * returns a code. The thread that opens a device calls it; it has one open at a time.
 *
 * "device memory" is what ccq_gpu_alloc gave: not to be touched by the caller. */
#ifndef CCQ_KERNELS_GPU_H
#define CCQ_KERNELS_GPU_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    CCQ_GPU_OK = 0,
    CCQ_GPU_ABSENT = 1,    /* no such device, driver or library; not in this build */
    CCQ_GPU_NO_MEMORY = 2, /* on the device, or pinned */
    CCQ_GPU_FAILED = 3     /* anything else: the device is of no use any more */
};

enum { CCQ_GPU_HOST, CCQ_GPU_CUDA };
enum { CCQ_GPU_QUEUES = 3, CCQ_GPU_TEXT = 256 };

typedef struct ccq_gpu ccq_gpu;

typedef struct ccq_gpu_info {
    char name[128];
    int major, minor;      /* compute capability; 0.0: the host */
    int multiprocessors;
    int shared_bytes;      /* of a block, at most */
    uint64_t memory, l2;   /* bytes */
} ccq_gpu_info;

/* How many there are of a kind. 0: why says the reason. */
int ccq_gpu_count(int kind, char why[CCQ_GPU_TEXT]);
/* The index-th of them. On failure *gpu is NULL, why the reason. */
int ccq_gpu_open(int kind, int index, ccq_gpu **gpu, char why[CCQ_GPU_TEXT]);
/* Waits for its work and frees all its memory. NULL is fine. */
void ccq_gpu_close(ccq_gpu *gpu);

int ccq_gpu_kind(const ccq_gpu *gpu);
const ccq_gpu_info *ccq_gpu_describe(const ccq_gpu *gpu);
/* What the last call that failed says; "" when none did. */
const char *ccq_gpu_error(const ccq_gpu *gpu);
/* Device memory that is free now. */
int ccq_gpu_room(ccq_gpu *gpu, uint64_t *bytes);

/* Aligned to 256 bytes. size 0 gives a pointer as well. Memory of the host device is
 * filled with 0xff (NaN). */
int ccq_gpu_alloc(ccq_gpu *gpu, size_t size, void **memory);
void ccq_gpu_free(ccq_gpu *gpu, void *memory); /* waits; NULL is fine */
/* Host memory that upload and download use without a copy in between. */
int ccq_gpu_pin(ccq_gpu *gpu, size_t size, void **memory);
void ccq_gpu_unpin(ccq_gpu *gpu, void *memory);

/* Queue 0..CCQ_GPU_QUEUES-1 takes what follows; 0 at first. */
void ccq_gpu_queue(ccq_gpu *gpu, int queue);
/* What the current queue gets from now on waits for all that the other has got. */
int ccq_gpu_after(ccq_gpu *gpu, int other);
int ccq_gpu_wait(ccq_gpu *gpu);     /* until the current queue is empty */
int ccq_gpu_wait_all(ccq_gpu *gpu); /* until all are */

/* to: device memory. Pinned `from` must stay as it is until the queue is empty; other
 * memory may be used again at once. */
int ccq_gpu_upload(ccq_gpu *gpu, void *to, const void *from, size_t size);
/* from: device memory. Waits, but for pinned `to`, which is good when the queue is empty. */
int ccq_gpu_download(ccq_gpu *gpu, void *to, const void *from, size_t size);
int ccq_gpu_copy(ccq_gpu *gpu, void *to, const void *from, size_t size); /* on the device */
int ccq_gpu_fill(ccq_gpu *gpu, void *to, int byte, size_t size);

/* Milliseconds of the device between two marks of the current queue; for benchmarks. */
enum { CCQ_GPU_MARKS = 64 };
int ccq_gpu_mark(ccq_gpu *gpu, int mark);
int ccq_gpu_between(ccq_gpu *gpu, int first, int second, float *ms);

/* What the current queue is given between record and recorded is kept, not run; then
 * replayed as often as one likes, with whatever lies in device memory by then. The host
 * device cannot: ABSENT. */
typedef struct ccq_gpu_graph ccq_gpu_graph;
int ccq_gpu_record(ccq_gpu *gpu);
int ccq_gpu_recorded(ccq_gpu *gpu, ccq_gpu_graph **graph); /* NULL on failure */
int ccq_gpu_replay(ccq_gpu *gpu, ccq_gpu_graph *graph);
void ccq_gpu_graph_free(ccq_gpu *gpu, ccq_gpu_graph *graph);

/* Kernels of the device: kernels/gpu_model.h, gpu_wint2.h, gpu_encode.h. */
typedef struct ccq_gpu_model_ops ccq_gpu_model_ops;
typedef struct ccq_gpu_wint2_ops ccq_gpu_wint2_ops;
typedef struct ccq_gpu_encode_ops ccq_gpu_encode_ops;
const ccq_gpu_model_ops *ccq_gpu_model(const ccq_gpu *gpu);
/* NULL: a block of this device has too little shared memory for them (8.6, 8.9, 12.x). */
const ccq_gpu_wint2_ops *ccq_gpu_wint2(const ccq_gpu *gpu);
const ccq_gpu_encode_ops *ccq_gpu_encode(const ccq_gpu *gpu);

#ifdef __cplusplus
}
#endif

#endif
