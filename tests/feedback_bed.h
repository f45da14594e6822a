/* A metric, a panel and room to encode it, for the tests of encoding with feedback. */
#ifndef CCQ_TESTS_FEEDBACK_BED_H
#define CCQ_TESTS_FEEDBACK_BED_H

#include "kernels/feedback.h"
#include "tests/feedback_data.h"

enum { MOST = 512 };

/* Buffers end at an unmapped page. */
typedef struct bed {
    ccq_encoder enc;
    int k;
    double *h, *u;
    const ccq_metric *m;
    float *target, *original;
    uint8_t *bytes, *local;
    void *scratch;
} bed;

static inline void *room(size_t size)
{
    return check_guarded((size + 63) / 64 * 64);
}

/* kind: those of data_h; 5: strongly correlated; 6: diagonal. */
static inline void make_bed(bed *b, uint64_t *state, int k, int kind, double scale)
{
    size_t n = (size_t)k;
    source x;

    b->k = k;
    b->h = malloc(n * n * sizeof *b->h);
    b->u = malloc(n * n * sizeof *b->u);
    source_init(&x, check_next(state));
    if (kind <= 4)
        data_h(&x, kind, k, b->h);
    for (size_t i = 0; i < n * n; i++) {
        double at = (double)(i / n == i % n), size = 1.0 + (double)(i / n % 7);
        b->h[i] = scale * (kind <= 4 ? b->h[i] : kind == 5 ? 1.0 + 1e-3 * at : size * at);
    }
    data_factor(b->h, k, b->u);
    b->m = ccq_metric_fill(&b->enc, k, CCQ_BOOKS, 1, b->h, b->u,
                           room(ccq_metric_bytes(k, CCQ_BOOKS, 1)));
    b->target = room(n * CCQ_PANEL * sizeof(float));
    b->original = room(n * CCQ_PANEL * sizeof(float));
    b->scratch = room(ccq_feedback_scratch(k));
}

static inline void free_bed(bed *b)
{
    free(b->h);
    free(b->u);
}

static inline void draw_columns(bed *b, uint64_t *state, int count, int nasty)
{
    source x;

    source_init(&x, check_next(state));
    for (int i = 0; i < b->k; i++)
        for (int c = 0; c < CCQ_PANEL; c++) {
            float w = c < count ? 0.02f * (float)source_normal(&x) : 0.0f;
            if (nasty) {
                w = c % 8 == 1 ? 0.0f : c % 8 == 2 ? 0.5f : w;
                w = c % 8 == 3 && i != 17 ? 0.0f : w;
                w = ldexpf(w, c % 8 == 4 ? 128 : c % 8 == 5 ? -130 : c % 8 == 6 ? -60 : 0);
                w = c < count ? w : 0.0f;
            }
            b->original[i * CCQ_PANEL + c] = w;
            b->target[i * CCQ_PANEL + c] = w * (c & 1 ? 1.0f : 0.9375f);
        }
}

#endif
