/* CRC-32, as zlib has it, faster; and that of a matrix whose columns come in blocks. */
#ifndef CCQ_LIBCCQ_CRC_H
#define CCQ_LIBCCQ_CRC_H

#include <stddef.h>
#include <stdint.h>

/* crc: of what came before, 0 at the beginning. */
uint32_t ccq_crc32(uint32_t crc, const void *data, size_t size);

/* x: [k][nc], columns n0..n0+nc-1 of a bf16 matrix [k][n]. The CRC-32 of the whole matrix,
 * row after row, is the xor of this over blocks that hold each of its columns once. */
uint32_t ccq_crc_columns(const uint16_t *x, int64_t k, int64_t n, int64_t n0, int64_t nc);

#endif
