/* The experts of a wint2 layer on the host device: the kernels' functions, thread by thread. */
#include "kernels/gpu/wint2_checks.h"
#include "kernels/gpu/wint2_device.h"

/* Also what other devices ask. */
size_t ccq_gpu_wint2_bytes(int64_t k, int64_t n)
{
    if (k <= 0 || n <= 0 || k % CCQ_W2_BLOCK || n % CCQ_W2_TILE || k > 1 << 24 || n > 1 << 24)
        return 0;
    return (size_t)(k * n / 4 + k * n / CCQ_W2_BLOCK + 20 * n + n / CCQ_W2_TILE);
}

/* ---- Layout -------------------------------------------------------------- */

/* The provers' block: every column, then every tile. */
static void prove(const ccq_w2_repack *r, int64_t block)
{
    uint8_t flags[CCQ_W2_PROVERS];
    int64_t first = block * CCQ_W2_PROVERS;
    int i;

    for (i = 0; i < CCQ_W2_PROVERS && first + i < r->n; i++)
        flags[i] = (uint8_t)ccq_w2_repack_column(r, first + i);
    for (i = 0; i < CCQ_W2_PROVERS && first + i < r->n; i += CCQ_W2_TILE)
        ccq_w2_repack_tile(r, (first + i) / CCQ_W2_TILE, flags + i);
}

static int repack(ccq_gpu *gpu, const ccq_weight *w, int swiglu, void *to, ccq_gpu_matrix *matrix,
                  ccq_gpu_wint2_found *found)
{
    int code = ccq_w2_check_weight(gpu, w, swiglu);
    ccq_w2_repack r;
    int64_t i;

    if (code)
        return code;
    r = ccq_w2_repack_of(w, swiglu, to);
    for (i = 0; i < r.k * r.n / 64; i++)
        ccq_w2_repack_lane(&r, i);
    for (i = 0; i < r.k * r.n / CCQ_W2_BLOCK; i++)
        ccq_w2_repack_local(&r, i);
    for (i = 0; i < (r.n + CCQ_W2_PROVERS - 1) / CCQ_W2_PROVERS; i++)
        prove(&r, i);
    *matrix = ccq_w2_matrix_of(&r);
    return ccq_w2_count_found(gpu, &r, found);
}

static int unpack(ccq_gpu *gpu, const ccq_gpu_matrix *matrix, int swiglu, int rounding, int order,
                  uint16_t *to)
{
    int64_t i;

    (void)gpu;
    for (i = 0; i < matrix->k * matrix->n / 4; i++)
        ccq_w2_unpack_byte(matrix, swiglu, rounding, order, i, to);
    return CCQ_GPU_OK;
}

static int decode(ccq_gpu *gpu, const ccq_gpu_codes *codes, int64_t count, uint32_t *to)
{
    (void)gpu;
    for (int64_t i = 0; i < count; i++)
        ccq_w2_decode_codes(codes + i, to + i * CCQ_GPU_DECODED);
    return CCQ_GPU_OK;
}

const ccq_gpu_wint2_ops ccq_gpu_wint2_host = {
    .repack = repack,
    .unpack = unpack,
    .experts = ccq_gpu_wint2_host_experts,
    .work = ccq_gpu_wint2_host_work,
    .way = ccq_gpu_wint2_host_way,
    .decode = decode,
};
