/* Arena and name table: what a header's names live in. */
#include "formats/internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

struct ccq_chunk {
    struct ccq_chunk *next;
    size_t size, used;
    char data[];
};

struct ccq_slot {
    uint32_t hash;   /* low half; enough to grow the table without reading the names again */
    uint32_t number; /* + 1; 0 = free */
};

/* A large block is filled at once, or read at random: in pages of 2 MiB that is faster
 * by a fifth. Only advice: what comes of it does not matter. */
static void *large(void *p, size_t size)
{
    const uintptr_t page = (uintptr_t)2 << 20;
    uintptr_t from = ((uintptr_t)p + page - 1) & ~(page - 1), to = (uintptr_t)p + size;
    if (p && from < to && to - from >= 2 * page)
        (void)madvise((char *)p + (from - (uintptr_t)p), (to - from) & ~(page - 1), MADV_HUGEPAGE);
    return p;
}

static char *take(ccq_arena *a, size_t size, size_t align)
{
    struct ccq_chunk *c = a->head;
    size_t at = c ? (c->used + align - 1) & ~(align - 1) : 0;
    if (!c || at > c->size || size > c->size - at) {
        size_t room = c ? c->size * 2 : 4096;
        if (room > 1 << 20)
            room = 1 << 20;
        if (room < size)
            room = size;
        if (room > SIZE_MAX - sizeof *c || !(c = malloc(sizeof *c + room)))
            return NULL;
        large(c, sizeof *c + room);
        c->next = a->head;
        c->size = room;
        a->head = c;
        at = 0;
    }
    c->used = at + size;
    return c->data + at;
}

void *ccq_arena_alloc(ccq_arena *a, size_t size)
{
    return take(a, size, 8);
}

char *ccq_arena_text(ccq_arena *a, const char *text, size_t len)
{
    char *p = take(a, len + 1, 1);
    if (p) {
        memcpy(p, text, len);
        p[len] = 0;
    }
    return p;
}

void ccq_arena_free(ccq_arena *a)
{
    while (a->head) {
        struct ccq_chunk *next = a->head->next;
        free(a->head);
        a->head = next;
    }
}

static uint64_t rotl(uint64_t x, int n)
{
    return x << n | x >> (64 - n);
}

static void sip_round(uint64_t v[4])
{
    v[0] += v[1], v[1] = rotl(v[1], 13) ^ v[0], v[0] = rotl(v[0], 32);
    v[2] += v[3], v[3] = rotl(v[3], 16) ^ v[2];
    v[0] += v[3], v[3] = rotl(v[3], 21) ^ v[0];
    v[2] += v[1], v[1] = rotl(v[1], 17) ^ v[2], v[2] = rotl(v[2], 32);
}

/* SipHash-1-3. */
static uint32_t hash(const ccq_names *t, const char *s, size_t len)
{
    uint64_t v[4] = {
        t->key[0] ^ UINT64_C(0x736f6d6570736575), t->key[1] ^ UINT64_C(0x646f72616e646f6d),
        t->key[0] ^ UINT64_C(0x6c7967656e657261), t->key[1] ^ UINT64_C(0x7465646279746573)};
    uint64_t m, last = (uint64_t)len << 56;
    size_t whole = len & ~(size_t)7;
    for (size_t i = 0; i < whole; i += 8) {
        memcpy(&m, s + i, 8);
        v[3] ^= m;
        sip_round(v);
        v[0] ^= m;
    }
    for (size_t i = whole; i < len; i++)
        last |= (uint64_t)(unsigned char)s[i] << 8 * (i - whole);
    v[3] ^= last;
    sip_round(v);
    v[0] ^= last;
    v[2] ^= 0xff;
    for (int i = 0; i < 3; i++)
        sip_round(v);
    m = v[0] ^ v[1] ^ v[2] ^ v[3];
    return (uint32_t)(m ^ m >> 32);
}

/* The slot of the name, or the free one where it would go. */
static uint32_t probe(const ccq_names *t, uint32_t h, const char *name, size_t len)
{
    uint32_t i = h & t->mask;
    for (; t->slot[i].number; i = (i + 1) & t->mask) {
        const char *have;
        if (t->slot[i].hash != h)
            continue;
        have = t->name[t->slot[i].number - 1];
        if (strncmp(have, name, len) == 0 && have[len] == 0)
            break;
    }
    return i;
}

static int resize(ccq_names *t, uint32_t slots)
{
    struct ccq_slot *slot = large(calloc(slots, sizeof *slot), slots * sizeof *slot);
    if (!slot)
        return -1;
    if (!t->mask && getrandom(t->key, sizeof t->key, GRND_NONBLOCK) != sizeof t->key)
        t->key[0] = (uintptr_t)slot, t->key[1] = (uintptr_t)&slot; /* early boot: addresses */
    for (uint32_t i = 0; t->mask && i <= t->mask; i++)
        if (t->slot[i].number) {
            uint32_t at = t->slot[i].hash & (slots - 1);
            while (slot[at].number)
                at = (at + 1) & (slots - 1);
            slot[at] = t->slot[i];
        }
    free(t->slot);
    t->slot = slot;
    t->mask = slots - 1;
    return 0;
}

static int grow(ccq_names *t)
{
    return resize(t, t->mask ? (t->mask + 1) * 2 : 64);
}

void ccq_names_reserve(ccq_names *t, size_t count)
{
    uint32_t slots = 64;
    while (slots / 4 * 3 < count && slots < UINT32_C(1) << 21)
        slots *= 2;
    if (!t->mask)
        (void)resize(t, slots);
}

uint32_t ccq_names_find(const ccq_names *t, const char *name, size_t len)
{
    if (!t->mask)
        return CCQ_NO_NAME;
    uint32_t number = t->slot[probe(t, hash(t, name, len), name, len)].number;
    return number ? number - 1 : CCQ_NO_NAME;
}

static int add(ccq_names *t, ccq_arena *a, const char *name, size_t len)
{
    if ((!t->mask || t->count >= t->mask / 4 * 3) && grow(t) != 0)
        return -1;
    if (t->count == t->cap) {
        uint32_t cap = t->cap ? t->cap + t->cap / 2 : 32;
        const char **list = cap > t->cap ? realloc(t->name, cap * sizeof *list) : NULL;
        if (!list)
            return -1;
        t->name = list;
        t->cap = cap;
    }
    uint32_t h = hash(t, name, len), i = probe(t, h, name, len);
    if (t->slot[i].number)
        return 0;
    if (a && !(name = ccq_arena_text(a, name, len)))
        return -1;
    t->name[t->count++] = name;
    t->slot[i].hash = h;
    t->slot[i].number = t->count;
    return 1;
}

int ccq_names_add(ccq_names *t, const char *name)
{
    return add(t, NULL, name, strlen(name));
}

int ccq_names_add_n(ccq_names *t, const char *name, size_t len)
{
    return add(t, NULL, name, len);
}

int ccq_names_intern(ccq_names *t, ccq_arena *a, const char *name, size_t len)
{
    return add(t, a, name, len);
}

int ccq_names_once(ccq_names *t, ccq_arena *a, uint64_t object, const char *key, size_t len)
{
    char small[256], *text = small;
    if (len > sizeof small - 24 && !(text = malloc(len + 24)))
        return -1;
    int n = snprintf(text, 24, "%llx:", (unsigned long long)object);
    memcpy(text + n, key, len);
    int added = ccq_names_intern(t, a, text, (size_t)n + len);
    if (text != small)
        free(text);
    return added;
}

static int by_name(const void *a, const void *b, void *names)
{
    const char *const *name = names;
    const uint32_t *x = a, *y = b;
    return strcmp(name[*x], name[*y]);
}

uint32_t *ccq_names_sorted(const ccq_names *t)
{
    size_t n = t->count;
    uint32_t *order = malloc(n * sizeof *order + 1);
    if (!order)
        return NULL;
    for (uint32_t i = 0; i < n; i++)
        order[i] = i;
    if (n > 1)
        qsort_r(order, n, sizeof *order, by_name, t->name);
    return order;
}

void ccq_names_free_table(ccq_names *t)
{
    free(t->name);
    free(t->slot);
    memset(t, 0, sizeof *t);
}
