/* Inside libccq: the weights and the working state of inference. */
#ifndef CCQ_LIBCCQ_MODEL_H
#define CCQ_LIBCCQ_MODEL_H

#include "libccq/run.h"

typedef struct ccq_device ccq_device; /* libccq/device.h */

typedef struct ccq_linear {
    ccq_weight w;
    void *memory; /* owns w's arrays; NULL when they belong to another */
    uint64_t bytes; /* of w's arrays */
} ccq_linear;

/* A plain struct: ccq_layer_load fills it from a source, a caller may from anywhere else. */
typedef struct ccq_layer {
    float *norm_in, *norm_post; /* [H] */
    ccq_linear qkv, o;
    int moe, shared;          /* shared: a shared expert beside the routed ones */
    ccq_linear up_gate, down; /* of the dense layer or of the shared expert */
    float *router;            /* [H][E] */
    float *bias;              /* [E], or NULL */
    ccq_linear *expert;       /* up_gate and down of each, 2 * E */
    uint64_t bytes;           /* that ccq_layer_load has added to the model's */
} ccq_layer;

struct ccq_model {
    const ccq_source *src;
    const ccq_arch *arch;
    ccq_model_options options;
    int bf16; /* activations are rounded */
    ccq_linear embed, head;
    float *norm;
    ccq_layer *layer; /* NULL: layered */
    int32_t *moe; /* numbers of the MoE layers */
    int64_t moe_layers;
    int64_t large_bias;
    uint64_t bytes, most; /* of weights in memory: now, and at any time */
    ccq_device *device;   /* NULL: the CPU runs it */
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
    struct ccq_device_session *device; /* NULL: the CPU's arrays below are in use */
    size_t slots;
    int64_t *capacity, *length; /* [slots] */
    uint64_t *base;             /* [slots] first element of the slot in cache */
    void *cache;                /* uint16 or float: per slot [held][k|v][position][nkv*d] */
    int64_t held;               /* layers in the cache: all, or one */
    int64_t routed;             /* MoE layers whose choices are kept: all, or one */
    uint64_t cache_bytes, work_bytes;
    int64_t max_rows, rows;
    const ccq_span *spans;
    size_t span_count;
    ccq_row *row;
    float *x; /* [rows][H]: own, or the caller's of a layer */
    /* [max_rows][...] */
    float *own, *h, *t, *qkv, *o, *gu, *a, *cos, *sin;
    /* MoE: gathered by expert, [max_rows * K][...] */
    float *xg, *yg;
    int32_t *place;        /* [max_rows][K]: where the row's k-th choice lies in xg */
    int32_t *start;        /* [E + 1]: first gathered row of each expert */
    int32_t *from;         /* [max_rows * K]: row of a gathered row */
    uint8_t *nan_row;      /* [max_rows] */
    ccq_product *products; /* [E] */
    /* router choices, [max_rows][routed][K] */
    int32_t *ids;
    float *weights, *margin;
    float **scratch, *arena; /* [threads], and what they point into */
    float *blas;             /* one decoded block of columns */
    /* the layer at work, its number for messages, and where it lies in the cache and
     * among the MoE layers */
    const ccq_layer *now;
    int64_t layer, held_at, moe_at;
    const int64_t *wanted; /* rows whose logits are being made */
    int parts; /* a device is waited for after each part of a step */
    ccq_spent spent;
    double lap; /* when the part at work began */
    /* everything allocated, for freeing */
    void *owned[64];
    size_t owned_count;
};

enum { CCQ_BLAS_COLUMNS = 256 };

/* INTERRUPTED when the caller wants to stop. */
ccq_code ccq_model_cancelled(const ccq_model *m, ccq_error *err);

/* layers.c: one tensor, counted in m->bytes; a vector or the router as fp32. */
ccq_code ccq_load_linear(ccq_model *m, ccq_role role, ccq_block block, int64_t layer,
                         int64_t expert, ccq_linear *l, ccq_error *err);
ccq_code ccq_load_entry(ccq_model *m, const ccq_entry *e, ccq_linear *l, ccq_error *err);
void ccq_unload_linear(ccq_model *m, ccq_linear *l); /* one of zeros is fine */
ccq_code ccq_load_floats(ccq_model *m, ccq_role role, int64_t layer, float **dst, ccq_error *err);
/* Bytes that an entry takes in memory, and beside that while it is read. */
uint64_t ccq_entry_need(const ccq_source *src, const ccq_entry *e);
uint64_t ccq_entry_transient(const ccq_source *src, const ccq_entry *e);

/* Bytes of the cache and the work space of a session; of the model its source, arch,
 * options, bf16 and moe_layers are looked at. NO_MEMORY: they pass the address space. */
ccq_code ccq_session_measure(const ccq_model *m, size_t slots, const int64_t *capacity,
                             int64_t max_rows, uint64_t *cache, uint64_t *work, ccq_error *err);

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
/* Element of the cache where the keys of a slot start in the layer that is the i-th of
 * those held; values follow after capacity positions. */
uint64_t ccq_cache_at(const ccq_session *s, size_t slot, int64_t i);

#endif
