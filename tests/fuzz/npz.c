/* .npz archives and .npy files: refused, or arrays whose bytes are those of type and
 * shape. */
#include "formats/npz.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>
#include <zlib.h>

static const char *const words[] = {
    "PK\3\4", "PK\1\2", "PK\5\6", "PK\6\6", "PK\6\7", "\x93NUMPY", "'descr'", "'fortran_order'",
    "'shape'", "'<f4'", "'<i4'", "'|u1'", "'<i8'", "'>i4'", "'|O'", "True", "False", "(", ")",
    "(3,)", "()", ", ", ": ", "{", "}", "L", "4294967296", "18446744073709551616", "a.npy", "../",
    NULL};

static uint32_t get(const uint8_t *p, int bytes)
{
    uint32_t v = 0;
    while (bytes--)
        v = v << 8 | p[bytes];
    return v;
}

static void set(uint8_t *p, int bytes, uint32_t v)
{
    for (int i = 0; i < bytes; i++)
        p[i] = (uint8_t)(v >> 8 * i);
}

/* Bytes and checksum of a member as it comes out; 0 when it does not. */
static int unpack(const uint8_t *packed, size_t n, int method, uint32_t *size, uint32_t *crc)
{
    static uint8_t out[1 << 18];
    *size = (uint32_t)n;
    if (method == 8) {
        z_stream z = {0};
        uint8_t *in = malloc(n + 1); /* the stream has no const */
        if (!in || inflateInit2(&z, -15) != Z_OK)
            abort();
        memcpy(in, packed, n);
        z.next_in = in;
        z.avail_in = (uInt)n;
        z.next_out = out;
        z.avail_out = sizeof out;
        int ended = inflate(&z, Z_FINISH) == Z_STREAM_END;
        *size = (uint32_t)z.total_out;
        inflateEnd(&z);
        free(in);
        packed = out;
        if (!ended)
            return 0;
    }
    *crc = (uint32_t)crc32(0, packed, *size);
    return method == 0 || method == 8;
}

/* Sizes and checksums of one row of the directory, and of the header it tells of. */
static void repair_member(uint8_t *data, size_t size, uint8_t *row, uint64_t *seed)
{
    size_t at = get(row + 42, 4), packed = get(row + 20, 4), begin;
    uint32_t whole, crc;
    if (at > size || size - at < 30 || memcmp(data + at, "PK\3\4", 4) != 0)
        return;
    begin = at + 30 + get(data + at + 26, 2) + get(data + at + 28, 2);
    if (begin > size || packed > size - begin ||
        !unpack(data + begin, packed, (int)get(row + 10, 2), &whole, &crc))
        return;
    set(row + 16, 4, crc);
    if (fuzz_next(seed) % 4)
        set(row + 24, 4, whole);
    memcpy(data + at + 14, row + 16, 12);
}

/* Members one behind the other, the directory, its end. */
static size_t repair(uint8_t *data, size_t size, uint64_t *seed)
{
    size_t local[64], locals = 0, rows = 0, first = 0;
    for (size_t i = 0; i + 46 <= size; i++) {
        if (memcmp(data + i, "PK\3\4", 4) == 0 && locals < 64 && !rows)
            local[locals++] = i;
        if (memcmp(data + i, "PK\1\2", 4) != 0)
            continue;
        first = rows ? first : i;
        if (rows < locals) {
            size_t end = rows + 1 < locals ? local[rows + 1] : first;
            size_t head = local[rows] + 30 + get(data + local[rows] + 26, 2) +
                          get(data + local[rows] + 28, 2);
            set(data + i + 42, 4, (uint32_t)local[rows]);
            if (head <= end && fuzz_next(seed) % 8)
                set(data + i + 20, 4, (uint32_t)(end - head));
        }
        rows++;
        repair_member(data, size, data + i, seed);
    }
    uint8_t *end = size >= 22 ? memmem(data + size - 22, 22, "PK\5\6", 4) : NULL;
    if (!end || end + 22 != data + size || (rows && fuzz_next(seed) % 8 == 0))
        return size;
    set(end + 8, 2, (uint32_t)rows);
    set(end + 10, 2, (uint32_t)rows);
    set(end + 12, 4, (uint32_t)((size_t)(end - data) - first));
    set(end + 16, 4, (uint32_t)first);
    return size;
}

const fuzz_target fuzz_this = {"npz", words, 0, NULL, NULL, repair};

/* Every byte is looked at. */
static void check_array(const ccq_array *a, const void *data)
{
    uint64_t count = 1, bytes = ccq_dtype_bits(a->dtype) / 8;
    volatile unsigned char sum = 0;
    FUZZ_CHECK(a->rank >= 0 && a->rank <= 8 && bytes && data, "rank %d", a->rank);
    for (int i = 0; i < a->rank; i++)
        count *= a->shape[i];
    FUZZ_CHECK(count == a->count, "count");
    for (uint64_t i = 0; i < count * bytes; i++)
        sum ^= ((const unsigned char *)data)[i];
    (void)sum;
}

static ccq_code read_all(const char *path, uint64_t want, ccq_error *err)
{
    ccq_npz *npz;
    ccq_code code = ccq_npz_open(&npz, path, err);
    if (code)
        return code;
    for (size_t i = 0; i < ccq_npz_count(npz) && !code; i++) {
        ccq_array a, b;
        void *data;
        const char *name = ccq_npz_name(npz, i);
        ccq_dtype type = want % 4 ? CCQ_DT_COUNT : CCQ_DT_I32;
        code = ccq_npz_read(npz, name, type, &a, &data, err);
        if (code)
            continue;
        check_array(&a, data);
        FUZZ_CHECK(ccq_npz_has(npz, name), "%s", name);
        FUZZ_CHECK(!ccq_npz_describe(npz, name, &b, NULL) && a.count == b.count, "%s", name);
        free(data);
    }
    ccq_npz_close(npz);
    return code;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *path = fuzz_file(data, size);
    ccq_error err;
    ccq_array a;
    void *values;
    ccq_code code;
    if (size && *data == 0x93) {
        code = ccq_npy_load(path, CCQ_DT_COUNT, &a, &values, &err);
        if (!code) {
            check_array(&a, values);
            free(values);
        }
    } else {
        code = read_all(path, size, &err);
    }
    fuzz_outcome(code, &err);
    FUZZ_CHECK(!code || strstr(err.text, path), "no file in: %s", err.text);
    return 0;
}
