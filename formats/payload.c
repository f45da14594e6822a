/* Reading tensor bytes that are cut into parts, or stored as a text. */
#include "formats/pdparams.h"

#define CHUNK 16384

static ccq_code broken(const ccq_file *file, uint64_t at, const char *what, ccq_error *err)
{
    return ccq_fail_file(err, CCQ_PICKLE, file->path, "byte %llu: %s", (unsigned long long)at,
                         what);
}

typedef struct decoder {
    const ccq_payload *part;
    uint64_t pos;  /* next byte of the file */
    uint64_t done; /* bytes decoded up to there */
    uint64_t begin, end; /* what is wanted */
    unsigned char *dst;
} decoder;

/* Decodes from buf (n bytes, those at pos); returns how many it used. 0: no character. */
static size_t decode(decoder *d, const unsigned char *buf, size_t n)
{
    size_t i = 0;
    while (i < n && d->done < d->end) {
        unsigned c = buf[i], wide = c >> 7;
        if (d->done % CCQ_LATIN1_STEP == 0)
            atomic_store_explicit(&d->part->place[d->done / CCQ_LATIN1_STEP], d->pos + i,
                                  memory_order_relaxed);
        if (wide) {
            if (i + 1 == n || (c & 0xfe) != 0xc2 || (buf[i + 1] & 0xc0) != 0x80)
                break;
            c = (c & 3) << 6 | (buf[i + 1] & 0x3f);
        }
        if (d->done >= d->begin)
            d->dst[d->done - d->begin] = (unsigned char)c;
        d->done++;
        i += 1 + wide;
    }
    return i;
}

static void start(decoder *d)
{
    uint64_t k = d->begin / CCQ_LATIN1_STEP, place = 0;
    while (k && !(place = atomic_load_explicit(&d->part->place[k], memory_order_relaxed)))
        k--;
    d->pos = k ? place : d->part->offset;
    d->done = k * CCQ_LATIN1_STEP;
}

static ccq_code read_latin1(const ccq_payload *part, const ccq_file *file, uint64_t offset,
                            unsigned char *dst, uint64_t size, ccq_error *err)
{
    unsigned char buf[CHUNK];
    uint64_t limit = part->offset + part->stored;
    decoder d = {.part = part, .begin = offset, .end = offset + size, .dst = dst};
    start(&d);
    while (d.done < d.end) {
        uint64_t left = limit - d.pos;
        size_t n = left < CHUNK ? (size_t)left : CHUNK;
        ccq_code code = ccq_file_read(file, d.pos, buf, n, err);
        if (code)
            return code;
        size_t used = decode(&d, buf, n);
        if (!n)
            return broken(file, d.pos, "the latin1 text has fewer characters than the array bytes",
                          err);
        if (!used)
            return broken(file, d.pos, "no latin1 character in the text of an array", err);
        d.pos += used;
    }
    if (d.end == part->bytes && d.pos != limit)
        return broken(file, d.pos, "the latin1 text has more characters than the array bytes", err);
    return CCQ_OK;
}

ccq_code ccq_parts_read(const ccq_parts *parts, const ccq_file *file, uint64_t offset, void *dst,
                        uint64_t size, ccq_error *err)
{
    unsigned char *to = dst;
    ccq_code code = CCQ_OK;
    for (size_t i = 0; i < parts->count && size && !code; i++) {
        const ccq_payload *part = &parts->part[i];
        if (offset >= part->bytes) {
            offset -= part->bytes;
            continue;
        }
        uint64_t n = part->bytes - offset < size ? part->bytes - offset : size;
        code = part->place ? read_latin1(part, file, offset, to, n, err)
                           : ccq_file_read(file, part->offset + offset, to, n, err);
        to += n;
        size -= n;
        offset = 0;
    }
    return code;
}
