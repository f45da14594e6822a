/* Tensors past 2^32: sparse files of a 5 GiB tensor, of 2^32 + 1 elements, and of both kinds
 * behind one another, read by range at every place where 32 bits would wrap. */
#include "tests/check.h"

#include "formats/checkpoint.h"

#include <fcntl.h>

#define GIB (UINT64_C(1) << 30)

static char path[] = "/tmp/ccq-big-XXXXXX";

typedef struct row {
    const char *name, *dtype;
    uint64_t rows, columns, item;
} row;

/* What stands at a byte of the data: mostly nothing. */
static unsigned char mark(uint64_t at)
{
    return (unsigned char)(1 + at * 7 + (at >> 32) * 11);
}

static void put_marks(int fd, uint64_t from, uint64_t size)
{
    const uint64_t places[] = {0,           1,       2 * GIB - 1, 2 * GIB,
                               4 * GIB - 1, 4 * GIB, size / 2,    size - 1};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        unsigned char c = mark(places[i]);
        if (places[i] < size)
            REQUIRE(pwrite(fd, &c, 1, (off_t)(from + places[i])) == 1, "pwrite");
    }
}

static uint64_t write_file(const row *rows, size_t count)
{
    char text[1000] = "{", head[8];
    uint64_t end = 0, from, n;
    for (size_t i = 0; i < count; i++) {
        uint64_t bytes = rows[i].rows * rows[i].columns * rows[i].item;
        n = strlen(text);
        snprintf(text + n, sizeof text - n,
                 "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%" PRIu64 ",%" PRIu64
                 "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}",
                 i ? "," : "", rows[i].name, rows[i].dtype, rows[i].rows, rows[i].columns, end,
                 end + bytes);
        end += bytes;
    }
    strcat(text, "}");
    n = strlen(text);
    for (int i = 0; i < 8; i++)
        head[i] = (char)(n >> 8 * i & 255);
    int fd = open(path, O_RDWR | O_TRUNC);
    REQUIRE(fd >= 0 && write(fd, head, 8) == 8 && write(fd, text, n) == (ssize_t)n, "%s", path);
    from = 8 + n;
    if (ftruncate(fd, (off_t)(from + end)) != 0) {
        unlink(path);
        check_skip("no sparse file of that size here");
    }
    for (size_t i = 0; i < count; i++) {
        n = rows[i].rows * rows[i].columns * rows[i].item;
        put_marks(fd, from, n);
        from += n;
    }
    close(fd);
    return end;
}

/* The marks, each alone and in the middle of a range that crosses its place. */
static void read_marks(const ccq_checkpoint *ck, const ccq_tensor *t)
{
    const uint64_t places[] = {0, 2 * GIB, 4 * GIB - 1, 4 * GIB, t->bytes / 2, t->bytes - 1};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        unsigned char c[33];
        uint64_t at = places[i], from = at < 16 ? 0 : at - 16;
        uint64_t n = t->bytes - from < sizeof c ? t->bytes - from : sizeof c;
        ccq_error err;
        if (at >= t->bytes)
            continue;
        REQUIRE(!ccq_checkpoint_read(ck, t, from, c, n, &err), "%s", err.text);
        CHECK(c[at - from] == mark(at), "\"%s\" byte %" PRIu64, t->name, at);
        CHECK(ccq_checkpoint_read(ck, t, t->bytes - 1, c, 2, &err) == CCQ_BUG, "past the end");
    }
}

static void check(const row *rows, size_t count)
{
    ccq_checkpoint *ck;
    ccq_error err;
    uint64_t end = write_file(rows, count), sum = 0;
    REQUIRE(!ccq_checkpoint_open_file(&ck, path, &err), "%s", err.text);
    for (size_t i = 0; i < count; i++) {
        const ccq_tensor *t = ccq_checkpoint_find(ck, rows[i].name);
        REQUIRE(t, "%s", rows[i].name);
        CHECK(t->bytes == rows[i].rows * rows[i].columns * rows[i].item, "%s", t->name);
        CHECK(t->shape[0] == rows[i].rows && t->shape[1] == rows[i].columns, "%s", t->name);
        read_marks(ck, t);
        sum += t->bytes;
    }
    CHECK(sum == end, "%" PRIu64 " bytes", sum);
    ccq_checkpoint_close(ck);
    printf("%.2f GiB in %zu tensors\n", (double)end / (double)GIB, count);
}

int main(void)
{
    static const row five[] = {{"five", "BF16", 20 << 17, 1024, 2}, {"behind", "U8", 3, 5, 1}};
    static const row many[] = {{"many", "U8", 1, 4 * GIB + 1, 1}};
    static const row wide[] = {{"first", "F32", 1 << 15, 1 << 15, 4}, {"odd", "U8", 1, 7, 1},
                               {"wide", "BF16", 4 * GIB + 1, 1, 2}, {"last", "F64", 2, 2, 8}};
    int fd = mkstemp(path);
    REQUIRE(fd >= 0, "no temporary file");
    close(fd);
    check(five, 2);
    check(many, 1);
    check(wide, 4);
    unlink(path);
    return check_done();
}
