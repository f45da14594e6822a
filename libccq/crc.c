/* A CRC-32 is linear: that of A and B one after the other is
 * crc(A) x^(8 |B|) + crc(B) in polynomials over GF(2), modulo the CRC's own. So a part
 * counts by its own CRC and by how many bytes follow it, in whatever order parts come. */
#include "libccq/crc.h"

#include "kernels/crc.h"

#include <zlib.h>

uint32_t ccq_crc32(uint32_t crc, const void *data, size_t size)
{
    uint8_t rest[16];
    size_t folded = ccq_crc_fold(crc, data, size, rest);
    if (folded)
        crc = (uint32_t)crc32_z(0xffffffff, rest, sizeof rest);
    return (uint32_t)crc32_z(crc, (const Bytef *)data + folded, size - folded);
}

static const uint32_t poly = 0xedb88320; /* bit 31 is x^0 */

static uint32_t times_x(uint32_t a)
{
    return a & 1 ? a >> 1 ^ poly : a >> 1;
}

static uint32_t times(uint32_t a, uint32_t b)
{
    uint32_t sum = 0;
    for (uint32_t bit = 0x80000000; bit; bit >>= 1) {
        if (a & bit)
            sum ^= b;
        b = times_x(b);
    }
    return sum;
}

/* x^(8 bytes) */
static uint32_t power(uint64_t bytes)
{
    uint32_t square = 0x00800000, product = 0x80000000; /* x^8, 1 */
    for (; bytes; bytes >>= 1) {
        if (bytes & 1)
            product = times(product, square);
        square = times(square, square);
    }
    return product;
}

/* Products of one factor with every byte at each of four places. */
static void make_table(uint32_t factor, uint32_t table[4][256])
{
    uint32_t bit[32];
    bit[31] = factor; /* times x^0 */
    for (int i = 31; i > 0; i--)
        bit[i - 1] = times_x(bit[i]);
    for (int place = 0; place < 4; place++)
        for (int byte = 0; byte < 256; byte++) {
            uint32_t sum = 0;
            for (int i = 0; i < 8; i++)
                if (byte >> i & 1)
                    sum ^= bit[8 * place + i];
            table[place][byte] = sum;
        }
}

void ccq_crc_begin(ccq_crc_columns *c, int64_t n, int64_t n0, int64_t nc)
{
    *c = (ccq_crc_columns){.n = n, .n0 = n0, .nc = nc};
    if (nc != n)
        make_table(power(2 * (uint64_t)n), c->table);
}

void ccq_crc_rows(ccq_crc_columns *c, const uint16_t *x, int64_t rows)
{
    uint32_t(*table)[256] = c->table;
    uint32_t sum = c->sum;
    if (c->nc == c->n)
        sum = ccq_crc32(sum, x, (size_t)(2 * rows * c->n));
    else
        for (int64_t r = 0; r < rows; r++) {
            sum = table[0][sum & 255] ^ table[1][sum >> 8 & 255] ^ table[2][sum >> 16 & 255] ^
                  table[3][sum >> 24];
            sum ^= ccq_crc32(0, x + r * c->nc, (size_t)(2 * c->nc));
        }
    c->sum = sum;
}

uint32_t ccq_crc_end(const ccq_crc_columns *c)
{
    return c->nc == c->n ? c->sum : times(c->sum, power(2 * (uint64_t)(c->n - c->n0 - c->nc)));
}
