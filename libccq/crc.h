/* CRC-32, as zlib has it, faster; and that of a matrix whose columns come in blocks. */
#ifndef CCQ_LIBCCQ_CRC_H
#define CCQ_LIBCCQ_CRC_H

#include <stddef.h>
#include <stdint.h>

/* crc: of what came before, 0 at the beginning. */
uint32_t ccq_crc32(uint32_t crc, const void *data, size_t size);

/* Columns n0..n0+nc-1 of a bf16 matrix with n of them, rows in order and as many at a time
 * as one likes. The CRC-32 of the whole matrix, row after row, is the xor of the ends of
 * blocks that hold each of its columns once. */
typedef struct ccq_crc_columns {
    int64_t n, n0, nc;
    uint32_t sum, table[4][256];
} ccq_crc_columns;

void ccq_crc_begin(ccq_crc_columns *c, int64_t n, int64_t n0, int64_t nc);
void ccq_crc_rows(ccq_crc_columns *c, const uint16_t *x, int64_t rows); /* x: [rows][nc] */
uint32_t ccq_crc_end(const ccq_crc_columns *c);

#endif
