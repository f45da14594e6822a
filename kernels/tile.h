/* Where a weight lives in the stored tensors (docs/format.md): index maps only. */
#ifndef CCQ_KERNELS_TILE_H
#define CCQ_KERNELS_TILE_H

#include "kernels/code.h"

/* wint2: stored row of a logical row; byte = stored/4, window = stored%4. */
static inline CCQ_HD int64_t ccq_wint2_stored_row(int64_t k, int order)
{
    return k / CCQ_GROUP * CCQ_GROUP + ccq_logical_to_stored((int)(k % CCQ_GROUP), order);
}

/* wint8, wint4: Paddle's interleaved layout for compute capability 7.5 to 9.0
 * (Paddle, weight_quantize_kernel_impl.h), closed form. Byte of (k, n). */
static inline CCQ_HD int64_t ccq_wint8_byte(int64_t k, int64_t n, int64_t rows)
{
    int64_t r = k % 16;
    int64_t p = (r < 8 ? 2 * r : 2 * (r - 8) + 1) + 16 * (k / 16);
    return p % 64 + p / 64 * 128 + 64 * (n % 2) + 2 * rows * (n / 2);
}

/* Nibble of (k, n): byte i/2, low nibble when i is even. */
static inline CCQ_HD int64_t ccq_wint4_nibble(int64_t k, int64_t n, int64_t rows)
{
    int64_t r = k % 32;
    int64_t p = 32 * (k / 32) + 8 * (r % 8 / 2) + r / 8 + 4 * (r % 2);
    return p % 64 + p / 64 * 256 + 64 * (n % 4) + 4 * rows * (n / 4);
}

#endif
