/* A SentencePiece model is a protobuf message whose field 1, repeated, is one piece
 * each; the field 1 of a piece is its text. Nothing else is looked at. */
#include "tools/pieces.h"

#include <string.h>

typedef struct bytes {
    const unsigned char *at, *end;
} bytes;

static int varint(bytes *b, uint64_t *v)
{
    *v = 0;
    for (int shift = 0; shift < 64 && b->at < b->end; shift += 7) {
        *v |= (uint64_t)(*b->at & 0x7f) << shift;
        if (!(*b->at++ & 0x80))
            return 1;
    }
    return 0;
}

/* The next field: its number and, when it has a length, its body. */
static int field(bytes *b, uint64_t *number, bytes *body)
{
    static const int fixed[8] = {0, 8, 0, 0, 0, 4, 0, 0};
    uint64_t key, n;
    int wire;

    if (!varint(b, &key))
        return 0;
    wire = (int)(key & 7);
    *number = key >> 3;
    body->at = body->end = b->at;
    if (wire == 0)
        return varint(b, &n);
    if (wire == 2) {
        if (!varint(b, &n))
            return 0;
        body->at = b->at;
    } else if (fixed[wire]) {
        n = (uint64_t)fixed[wire];
    } else {
        return 0;
    }
    if (n > (uint64_t)(b->end - b->at))
        return 0;
    b->at += n;
    body->end = wire == 2 ? b->at : body->at;
    return 1;
}

static int piece_is(bytes piece, const char *name)
{
    size_t n = strlen(name);
    uint64_t number;
    bytes body;

    while (piece.at < piece.end && field(&piece, &number, &body))
        if (number == 1)
            return (size_t)(body.end - body.at) == n && !memcmp(body.at, name, n);
    return 0;
}

static int64_t scan(const void *model, size_t size, const char *name)
{
    const unsigned char *at = model;
    bytes b = {at, at + size}, body;
    uint64_t number;
    int64_t count = 0;

    while (b.at < b.end) {
        if (!field(&b, &number, &body))
            return -1;
        if (number != 1)
            continue;
        if (name && piece_is(body, name))
            return count;
        count++;
    }
    return name ? -1 : count;
}

int64_t pieces_count(const void *model, size_t size)
{
    return scan(model, size, NULL);
}

int64_t pieces_find(const void *model, size_t size, const char *name)
{
    return scan(model, size, name);
}
