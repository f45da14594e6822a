#include "libccq/device_columns.h"

#include <string.h>

enum { ALIGN = 256 };

uint64_t ccq_device_piece(uint64_t size)
{
    return (size + ALIGN - 1) / ALIGN * ALIGN;
}

static uint64_t take(uint64_t *at, uint64_t size)
{
    uint64_t from = *at;
    *at += ccq_device_piece(size);
    return from;
}

uint64_t ccq_device_results(char *base, int64_t k, int64_t n, ccq_columns_got *r)
{
    uint64_t rows = (uint64_t)k, c = (uint64_t)n, at = 0;
    uint64_t weight = take(&at, rows / CCQ_WINDOWS * c), scale = take(&at, rows / 128 * c);
    uint64_t super = take(&at, 2 * c), cs = take(&at, 4 * c), zp = take(&at, 4 * c);
    uint64_t status = take(&at, c), error = take(&at, 8 * c), energy = take(&at, 8 * c);
    uint64_t max_error = take(&at, 8 * c);
    if (base)
        *r = (ccq_columns_got){(uint8_t *)base + weight, (uint8_t *)base + scale,
                               (uint16_t *)(void *)(base + super), (float *)(void *)(base + cs),
                               (float *)(void *)(base + zp), (uint8_t *)base + status,
                               (double *)(void *)(base + error),
                               (double *)(void *)(base + energy),
                               (double *)(void *)(base + max_error)};
    return at;
}

/* Columns [rows][nc] to their place. */
static void place_rows(const uint8_t *from, int64_t rows, int64_t n0, int64_t nc, int64_t n,
                       void *plane)
{
    uint8_t *to = (uint8_t *)plane + n0;
    for (int64_t r = 0; r < rows; r++)
        memcpy(to + r * n, from + r * nc, (size_t)nc);
}

void ccq_device_place_columns(const ccq_columns_got *r, int64_t n0, int64_t nc, ccq_planes *p)
{
    size_t n = (size_t)nc;
    place_rows(r->weight, p->k / CCQ_WINDOWS, n0, nc, p->n, p->plane[0]);
    place_rows(r->scale, p->k / (2 * CCQ_GROUP), n0, nc, p->n, p->plane[1]);
    memcpy((uint16_t *)p->plane[2] + n0, r->super, n * sizeof *r->super);
    memcpy((float *)p->plane[3] + n0, r->code_scale, n * sizeof *r->code_scale);
    memcpy((float *)p->plane[4] + n0, r->code_zp, n * sizeof *r->code_zp);
}
