#ifndef CCQ_KERNELS_X86_CLMUL_H
#define CCQ_KERNELS_X86_CLMUL_H

#include <stddef.h>
#include <stdint.h>

/* ccq_crc_fold for 64 bytes or more. */
size_t ccq_crc_fold_clmul(uint32_t crc, const void *data, size_t size, uint8_t rest[16]);

#endif
