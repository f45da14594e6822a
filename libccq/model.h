/* Inside libccq: the weights and the working state of inference. */
#ifndef CCQ_LIBCCQ_MODEL_H
#define CCQ_LIBCCQ_MODEL_H

#include "libccq/run.h"

typedef struct ccq_linear {
    ccq_weight w;
    void *memory; /* owns w's arrays; NULL when they belong to another */
    uint64_t bytes; /* of w's arrays */
} ccq_linear;

typedef struct ccq_layer {
    float *norm_in, *norm_post; /* [H] */
    ccq_linear qkv, o;
    int moe, shared;          /* shared: a shared expert beside the routed ones */
    ccq_linear up_gate, down; /* of the dense layer or of the shared expert */
    float *router;            /* [H][E] */
    float *bias;              /* [E], or NULL */
    ccq_linear *expert;       /* up_gate and down of each, 2 * E */
} ccq_layer;

struct ccq_model {
    const ccq_source *src;
    const ccq_arch *arch;
    ccq_model_options options;
    int bf16; /* activations are rounded */
    ccq_linear embed, head;
    float *norm;
    ccq_layer *layer;
    int32_t *moe; /* numbers of the MoE layers */
    int64_t moe_layers;
    int64_t large_bias;
    uint64_t bytes;
};

/* One row of a step. */
typedef struct ccq_row {
    size_t slot, sequence;
    int64_t position;
    int32_t id;
} ccq_row;

/* y[r][:] = x[r][:] . w for rows of its own x: one product of several. */
typedef struct ccq_product {
    const ccq_weight *w;
    const float *x;
    int64_t ldx, rows;
    float *y;
    int64_t ldy;
} ccq_product;

struct ccq_session {
    const ccq_model *m;
    size_t slots;
    int64_t *capacity, *length; /* [slots] */
    uint64_t *base;             /* [slots] first element of the slot in cache */
    void *cache;                /* uint16 or float: per slot [layer][k|v][position][nkv*d] */
    uint64_t cache_bytes, work_bytes;
    int64_t max_rows, rows;
    const ccq_span *spans;
    size_t span_count;
    ccq_row *row;
    /* [max_rows][...] */
    float *x, *h, *t, *qkv, *o, *gu, *a, *cos, *sin;
    /* MoE: gathered by expert, [max_rows * K][...] */
    float *xg, *yg;
    int32_t *place;        /* [max_rows][K]: where the row's k-th choice lies in xg */
    int32_t *start;        /* [E + 1]: first gathered row of each expert */
    int32_t *from;         /* [max_rows * K]: row of a gathered row */
    uint8_t *nan_row;      /* [max_rows] */
    ccq_product *products; /* [E] */
    /* router choices, [max_rows][moe_layers][K] */
    int32_t *ids;
    float *weights, *margin;
    float **scratch, *arena; /* [threads], and what they point into */
    float *blas;             /* one decoded block of columns */
    /* the layer at work, and its number among the MoE layers */
    const ccq_layer *now;
    int64_t layer, moe_at;
    const int64_t *wanted; /* rows whose logits are being made */
    ccq_spent spent;
    double lap; /* when the part at work began */
    /* everything allocated, for freeing */
    void *owned[64];
    size_t owned_count;
};

enum { CCQ_BLAS_COLUMNS = 256 };

/* INTERRUPTED when the caller wants to stop. */
ccq_code ccq_model_cancelled(const ccq_model *m, ccq_error *err);

/* All products on the pool, columns and rows split over threads; bf16 rounds. */
void ccq_products(ccq_session *s, const ccq_product *p, size_t count, int bf16);
/* Calls fn(s, r0, r1) for blocks of the step's rows on the pool. */
typedef void (*ccq_rows_fn)(ccq_session *s, int64_t r0, int64_t r1, int worker);
void ccq_on_rows(ccq_session *s, int64_t rows, ccq_rows_fn fn);
/* Tasks of so many multiply-adds together: on the pool when that is worth it. */
void ccq_tasks(const ccq_session *s, int64_t tasks, int64_t work, ccq_pool_fn fn, void *ctx);
/* t = experts(h) + shared(h) of the layer at work. NONFINITE as ccq_session_step. */
ccq_code ccq_moe(ccq_session *s, ccq_error *err);
/* Since the last call (part = CCQ_STEP_PARTS: of nothing) the step was at that part, and
 * read so many bytes of weights. */
void ccq_spend(ccq_session *s, ccq_step_part part, uint64_t bytes);
/* t = dense(h), or the shared expert of a MoE layer. */
void ccq_dense(ccq_session *s, float *t);
/* Element of the cache where the layer's keys of a slot start; values follow after
 * capacity positions. */
uint64_t ccq_cache_at(const ccq_session *s, size_t slot, int64_t layer);

#endif
