/* Inside libccq: inference on a device (kernels/gpu.h). A model keeps its weights in host
 * memory; the first session brings to the device what there is room for, and the other layers
 * pass through it with every step, one being uploaded while the one before is at work. The
 * steps are those of libccq/forward.c; a logit differs from the CPU's by the order of sums. */
#ifndef CCQ_LIBCCQ_DEVICE_H
#define CCQ_LIBCCQ_DEVICE_H

#include "kernels/gpu_model.h"
#include "kernels/gpu_wint2.h"
#include "libccq/layers.h"

/* A layer's weights in one piece of device memory. */
typedef struct ccq_device_layer {
    void *memory; /* NULL: not there */
    uint64_t size;
    float *norm_in, *norm_post, *router, *bias;
    ccq_weight qkv, o, up_gate, down; /* device arrays */
    int moe, shared;
    /* up_gate and down of all experts: matrices, or weights as they are stored; and the same
     * structures in device memory */
    int wint2;
    ccq_gpu_matrix *matrix[2], *matrix_table[2];
    ccq_weight *expert[2], *expert_table[2];
    ccq_gpu_wint2_found found;
} ccq_device_layer;

enum { CCQ_DEVICE_PASSING = 2 }; /* layers on their way through the device */

/* The weights of a model on a device. */
struct ccq_device {
    ccq_gpu *gpu;
    const ccq_model *m;
    int placed;
    ccq_device_layer *layer;  /* [layers]; those without memory pass through: */
    ccq_device_layer passing[CCQ_DEVICE_PASSING];
    const ccq_layer *passed[CCQ_DEVICE_PASSING]; /* what they hold; NULL: nothing */
    int64_t number[CCQ_DEVICE_PASSING];
    int next;
    void *disk; /* a wint2 matrix as it is stored, before it is laid out anew */
    uint64_t disk_size;
    void *ends; /* embedding, last norm, head */
    const void *ends_of; /* the head that is in it */
    ccq_weight embed, head;
    float *norm;
    int64_t resident; /* layers */
};

typedef struct ccq_device_session ccq_device_session;

/* Of an array in a piece of device memory: the next one begins where the first would. */
static inline uint64_t ccq_device_rounded(uint64_t bytes)
{
    return (bytes + 255) / 256 * 256;
}

ccq_code ccq_device_open(ccq_device **device, const ccq_model *m, ccq_error *err);
void ccq_device_close(ccq_device *device); /* NULL is fine */
/* The error of a device's call. */
ccq_code ccq_device_error(const ccq_device *d, int code, ccq_error *err);
/* Once: uploads the ends, and the layers that fit, leaving room for the others to pass. */
ccq_code ccq_device_place(ccq_device *d, ccq_error *err);
/* Embedding, last norm and head as the model has them now. */
ccq_code ccq_device_ends(ccq_device *d, ccq_error *err);
/* Layer l, the number-th of the model, in device memory by the time that queue 0 gets to what
 * it is given next. */
ccq_code ccq_device_bring(ccq_device *d, const ccq_layer *l, int64_t number,
                          const ccq_device_layer **layer, ccq_error *err);
/* After the work on it was given to queue 0: the next one is uploaded meanwhile. */
ccq_code ccq_device_ahead(ccq_device *d, const ccq_layer *next, int64_t number, ccq_error *err);

/* ---- device_session.c ------------------------------------------------------------ */

ccq_code ccq_device_session_open(ccq_session *s, ccq_error *err);
void ccq_device_session_close(ccq_device_session *session); /* NULL is fine */
void ccq_device_session_measure(const ccq_session *s, uint64_t *cache, uint64_t *work);

/* ---- device_step.c: what libccq/forward.c does, of rows that have their places ------ */

ccq_code ccq_device_step(ccq_session *s, ccq_error *err);
ccq_code ccq_device_attend(ccq_session *s, const ccq_layer *l, float *x, ccq_error *err);
ccq_code ccq_device_mlp(ccq_session *s, const ccq_layer *l, float *x, ccq_error *err);
/* Logits of s->wanted (NULL: the first) n rows of the last step, or of host rows x. */
ccq_code ccq_device_logits(ccq_session *s, const float *x, int64_t n, float *logits,
                           ccq_error *err);

#endif
