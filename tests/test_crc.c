/* ccq_crc32 is zlib's, whatever the length, the place and the beginning; and blocks of
 * columns, in any order, give that of the whole matrix. */
#include "tests/check.h"

#include "libccq/crc.h"

#include <zlib.h>

enum { MOST = 700 };

static void test_lengths(uint64_t *rng)
{
    uint8_t *data = check_guarded(MOST);
    for (size_t i = 0; i < MOST; i++)
        data[i] = (uint8_t)check_next(rng);
    for (size_t size = 0; size <= MOST; size++) { /* ends where the memory ends */
        const uint8_t *x = data + MOST - size;
        uint32_t begin = (uint32_t)check_next(rng);
        CHECK(ccq_crc32(0, x, size) == (uint32_t)crc32_z(0, x, size), "%zu bytes", size);
        CHECK(ccq_crc32(begin, x, size) == (uint32_t)crc32_z(begin, x, size), "%zu, begun", size);
    }
}

static void test_columns(uint64_t *rng)
{
    for (int round = 0; round < 200; round++) {
        int64_t k = 1 + (int64_t)(check_next(rng) % 20), n = 1 + (int64_t)(check_next(rng) % 300);
        uint16_t *x = malloc((size_t)(2 * k * n)), *block = malloc((size_t)(2 * k * n));
        REQUIRE(x && block, "memory");
        for (int64_t i = 0; i < k * n; i++)
            x[i] = (uint16_t)check_next(rng);
        uint32_t sum = 0;
        for (int64_t n0 = 0, nc; n0 < n; n0 += nc) {
            nc = 1 + (int64_t)(check_next(rng) % (uint64_t)(n - n0));
            for (int64_t r = 0; r < k; r++)
                memcpy(block + r * nc, x + r * n + n0, (size_t)(2 * nc));
            ccq_crc_columns c;
            int64_t first = (int64_t)(check_next(rng) % (uint64_t)(k + 1));
            ccq_crc_begin(&c, n, n0, nc);
            ccq_crc_rows(&c, block, first);
            ccq_crc_rows(&c, block + first * nc, k - first);
            sum ^= ccq_crc_end(&c);
        }
        CHECK(sum == (uint32_t)crc32_z(0, (Bytef *)x, (size_t)(2 * k * n)), "[%lld][%lld]",
              (long long)k, (long long)n);
        free(block);
        free(x);
    }
}

int main(void)
{
    uint64_t rng = check_seed(15);
    test_lengths(&rng);
    test_columns(&rng);
    return check_done();
}
