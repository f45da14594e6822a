#include "libccq/slice.h"

#include <string.h>

ccq_cut ccq_cut_of(const ccq_entry *e)
{
    switch (e->role) {
    case CCQ_ROLE_QKV:
    case CCQ_ROLE_UP_GATE:
    case CCQ_ROLE_HEAD:
        return CCQ_CUT_COLUMNS;
    case CCQ_ROLE_EMBED:
        return CCQ_CUT_ROWS;
    case CCQ_ROLE_O:
    case CCQ_ROLE_DOWN: /* each rank adds its share of the sum: the bias is not a share */
        return e->bias ? CCQ_CUT_NONE : CCQ_CUT_ROWS;
    default:
        return CCQ_CUT_NONE;
    }
}

/* The rank's share of the next count columns from from on. */
static void add_range(ccq_slice *s, int64_t from, int64_t count, int rank, int ranks)
{
    int64_t share = count / ranks;
    s->range[s->ranges].from = from + rank * share;
    s->range[s->ranges++].count = share;
    s->n += share;
}

void ccq_slice_of(const ccq_arch *arch, const ccq_entry *e, int rank, int ranks, ccq_slice *s)
{
    int64_t q = arch->heads * arch->head_dim, kv = arch->kv_heads * arch->head_dim;
    *s = (ccq_slice){.whole_k = e->k, .whole_n = e->n, .k = e->k};
    if (ccq_cut_of(e) == CCQ_CUT_ROWS) {
        s->k = e->k / ranks;
        s->k0 = rank * s->k;
    }
    if (ccq_cut_of(e) != CCQ_CUT_COLUMNS) {
        add_range(s, 0, e->n, 0, 1);
    } else if (e->role == CCQ_ROLE_QKV) {
        add_range(s, 0, q, rank, ranks);
        add_range(s, q, kv, rank, ranks);
        add_range(s, q + kv, kv, rank, ranks);
    } else if (e->role == CCQ_ROLE_UP_GATE) {
        add_range(s, 0, e->n / 2, rank, ranks);
        add_range(s, e->n / 2, e->n / 2, rank, ranks);
    } else {
        add_range(s, 0, e->n, rank, ranks);
    }
}

static void take(const ccq_slice *s, const char *whole, char *part, size_t size)
{
    for (int64_t k = 0; k < s->k; k++)
        for (int i = 0; i < s->ranges; i++) {
            size_t bytes = (size_t)s->range[i].count * size;
            memcpy(part, whole + (size_t)((s->k0 + k) * s->whole_n + s->range[i].from) * size,
                   bytes);
            part += bytes;
        }
}

void ccq_slice_take(const ccq_slice *s, const uint16_t *whole, uint16_t *part)
{
    take(s, (const char *)whole, (char *)part, sizeof *part);
}

void ccq_slice_take_f32(const ccq_slice *s, const float *whole, float *part)
{
    take(s, (const char *)whole, (char *)part, sizeof *part);
}

void ccq_slice_put(const ccq_slice *s, const uint16_t *part, uint16_t *whole)
{
    for (int64_t k = 0; k < s->k; k++)
        for (int i = 0; i < s->ranges; i++) {
            memcpy(whole + (s->k0 + k) * s->whole_n + s->range[i].from, part,
                   (size_t)s->range[i].count * sizeof *part);
            part += s->range[i].count;
        }
}
