/* The ring of buffers: parts never overlap, whatever the order they come back in, and
 * an empty ring takes whatever is not larger than itself. */
#include "libccq/ring.h"
#include "tests/check.h"

enum { SIZE = 10000, OUT = 300 };

typedef struct part {
    unsigned char *data;
    size_t size;
    unsigned char mark;
} part;

static void give(ccq_ring *ring, part *parts, size_t *count, size_t i)
{
    for (size_t j = 0; j < parts[i].size; j++)
        if (parts[i].data[j] != parts[i].mark) {
            CHECK(0, "byte %zu of a part of %zu was written by another", j, parts[i].size);
            break;
        }
    ccq_ring_give(ring, parts[i].data);
    memmove(parts + i, parts + i + 1, (--*count - i) * sizeof *parts);
}

int main(void)
{
    uint64_t state = check_seed(5);
    ccq_ring ring;
    part parts[OUT];
    size_t count = 0, taken = 0, full = 0;
    REQUIRE(!ccq_ring_init(&ring, SIZE), "out of memory");
    for (int i = 0; i < 200000; i++) {
        size_t size = (size_t)(check_next(&state) % (i % 3 ? 900 : SIZE + 1));
        part p = {ccq_ring_take(&ring, size), size, (unsigned char)i};
        CHECK(p.data || count, "an empty ring of %d has no room for %zu", SIZE, size);
        if (p.data) {
            CHECK(p.data >= (unsigned char *)ring.base &&
                      p.data + size <= (unsigned char *)ring.base + ring.size &&
                      (size_t)(p.data - (unsigned char *)ring.base) % 64 == 0, "place");
            memset(p.data, p.mark, size);
            parts[count++] = p;
            taken++;
        } else {
            full++;
        }
        while (count && (!p.data || check_next(&state) % 3 == 0)) {
            give(&ring, parts, &count, (size_t)(check_next(&state) % (i % 2 ? count : 1)));
            if (check_next(&state) % 4 == 0)
                break;
        }
    }
    CHECK(taken > 50000 && full > 1000, "%zu taken, %zu times full", taken, full);
    while (count)
        give(&ring, parts, &count, 0);
    CHECK(!ccq_ring_take(&ring, SIZE + 64), "more than there is");
    CHECK(ccq_ring_take(&ring, ring.size) != NULL, "all of it");
    ccq_ring_free(&ring);
    REQUIRE(!ccq_ring_init(&ring, 0) && !ccq_ring_take(&ring, 1), "a ring of nothing");
    return check_done();
}
