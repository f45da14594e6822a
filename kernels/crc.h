/* The long part of a CRC-32 (the one of zlib and PNG), by carry-less multiplication. */
#ifndef CCQ_KERNELS_CRC_H
#define CCQ_KERNELS_CRC_H

#include <stddef.h>
#include <stdint.h>

/* Folds the first bytes of data, to which crc is the CRC-32 of what came before, into 16:
 * the CRC-32 of everything up to there is that of rest[16] begun with 0xffffffff in place
 * of the usual 0. Returns how many bytes: a multiple of 16, 0 for less than 64, and where
 * the processor has no instruction for it. */
size_t ccq_crc_fold(uint32_t crc, const void *data, size_t size, uint8_t rest[16]);

#endif
