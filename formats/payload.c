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

/* Decodes at most count characters of buf[*at..n), stops before one that is cut off or
 * wrong. dst takes them, or with step 0 is a byte that is written over. No branch depends on
 * a good character: weights are noise, and half the guesses would be wrong. */
static uint64_t run(const unsigned char *buf, size_t n, size_t *at, unsigned char *dst, int step,
                    uint64_t count)
{
    size_t i = *at;
    uint64_t k = 0;
    for (; k < count && i < n; k++) {
        unsigned c = buf[i], next = i + 1 < n ? buf[i + 1] : 0, wide = c >> 7;
        if (wide & (((c & 0xfe) != 0xc2) | ((next & 0xc0) != 0x80)))
            break;
        unsigned mask = 0u - wide;
        *dst = (unsigned char)((c & ~mask) | (((c & 3) << 6 | (next & 0x3f)) & mask));
        dst += step;
        i += 1 + wide;
    }
    *at = i;
    return k;
}

/* Decodes from buf (n bytes, those at pos); returns how many it used. 0: no character. */
static size_t decode(decoder *d, const unsigned char *buf, size_t n)
{
    size_t i = 0;
    while (i < n && d->done < d->end) {
        unsigned char skipped;
        int wanted = d->done >= d->begin;
        uint64_t stop = (d->done / CCQ_LATIN1_STEP + 1) * CCQ_LATIN1_STEP, got;
        if (d->done % CCQ_LATIN1_STEP == 0)
            atomic_store_explicit(&d->part->place[d->done / CCQ_LATIN1_STEP], d->pos + i,
                                  memory_order_relaxed);
        if (stop > (wanted ? d->end : d->begin))
            stop = wanted ? d->end : d->begin;
        got = run(buf, n, &i, wanted ? d->dst + (d->done - d->begin) : &skipped, wanted,
                  stop - d->done);
        d->done += got;
        if (!got)
            break;
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
