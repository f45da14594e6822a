/* What the devices look at before a launch, and what comes after it: on the host alone. */
#ifndef CCQ_KERNELS_GPU_WINT2_CHECKS_H
#define CCQ_KERNELS_GPU_WINT2_CHECKS_H

#include "kernels/gpu/wint2_repack.h"
#include "kernels/gpu_device.h"

#include <inttypes.h>
#include <stdlib.h>

static inline int ccq_w2_check_weight(ccq_gpu *gpu, const ccq_weight *w, int swiglu)
{
    if (w->type != CCQ_W_WINT2 || !ccq_gpu_wint2_bytes(w->k, w->n) ||
        (swiglu && w->n % (2 * CCQ_W2_TILE)))
        return ccq_gpu_fail(gpu, CCQ_GPU_FAILED,
                            "wint2 matrix %" PRId64 " x %" PRId64
                            ": rows in multiples of 128, columns of %d wanted",
                            w->k, w->n, swiglu ? 2 * CCQ_W2_TILE : CCQ_W2_TILE);
    return CCQ_GPU_OK;
}

static inline ccq_w2_repack ccq_w2_repack_of(const ccq_weight *w, int swiglu, void *to)
{
    ccq_w2_repack r;

    r.k = w->k;
    r.n = w->n;
    r.swiglu = swiglu;
    r.codes = (const uint8_t *)w->data;
    r.local = w->local;
    r.super = w->super;
    r.code_scale = w->code_scale;
    r.code_zp = w->code_zp;
    ccq_w2_repack_to(&r, to);
    return r;
}

static inline ccq_gpu_matrix ccq_w2_matrix_of(const ccq_w2_repack *r)
{
    ccq_gpu_matrix m;

    m.k = r->k;
    m.n = r->n;
    m.codes = r->to_codes;
    m.locals = r->to_locals;
    m.line = r->to_line;
    m.super = r->to_super;
    m.plain = r->to_plain;
    m.exact = r->to_exact;
    return m;
}

/* From what the provers left to what a matrix holds, by way of the host. */
static inline int ccq_w2_count_found(ccq_gpu *gpu, const ccq_w2_repack *r,
                                     ccq_gpu_wint2_found *found)
{
    int64_t tiles = r->n / CCQ_W2_TILE, i;
    uint8_t *exact = (uint8_t *)malloc((size_t)tiles);
    int code;

    found->inexact = found->orders = 0;
    if (!exact)
        return ccq_gpu_fail(gpu, CCQ_GPU_NO_MEMORY, "no memory for %" PRId64 " bytes", tiles);
    code = gpu->device->download(gpu, exact, r->to_exact, (size_t)tiles);
    for (i = 0; i < tiles && !code; i++) {
        found->inexact += !(exact[i] & 1);
        found->orders += exact[i] >> 1;
        exact[i] &= 1;
    }
    if (!code)
        code = gpu->device->upload(gpu, r->to_exact, exact, (size_t)tiles);
    if (!code)
        code = gpu->device->wait(gpu, gpu->queue);
    free(exact);
    return code;
}

#endif
