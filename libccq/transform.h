/* Transforms that leave what a model computes as it is (docs/design.md, "Transforms"):
 * a rotation of the residual stream, and another order of the neurons of each MLP. The
 * tensors of the transformed model, in fp32, straight from the source. */
#ifndef CCQ_LIBCCQ_TRANSFORM_H
#define CCQ_LIBCCQ_TRANSFORM_H

#include "libccq/source.h"

enum {
    CCQ_TRANSFORM_ROTATE = 1,
    CCQ_TRANSFORM_PERMUTE = 2
};

typedef struct ccq_transform ccq_transform;

/* which: CCQ_TRANSFORM_*, 0 = none. seed: of the rotation's signs. ranks: neurons stay in
 * the slice of their rank (1: not cut). src, which must outlive it, is BF16: UNSUPPORTED.
 * USAGE: no rotation has the model's hidden size. Read-only: any number of threads. */
ccq_code ccq_transform_open(ccq_transform **t, const ccq_source *src, unsigned which,
                            uint64_t seed, int ranks, ccq_error *err);
void ccq_transform_close(ccq_transform *t); /* NULL is fine */

/* The lm_head that a rotated model with tied embeddings has of its own, an entry as those
 * of src for this header alone (and what only looks at its sizes); NULL: none. */
const ccq_entry *ccq_transform_head(const ccq_transform *t);
/* 0: the entry is the source's own, bit for bit. */
int ccq_transform_touches(const ccq_transform *t, const ccq_entry *e);

/* The whole of an entry, norms and biases too, [k][n] in fp32: fp64 inside, rounded once.
 * The same bits for any number of threads. NONFINITE, and the codes of reading. */
ccq_code ccq_transform_matrix(const ccq_transform *t, const ccq_entry *e, ccq_pool *pool,
                              float *w, ccq_error *err);
/* The same, then rounded to bf16: what is stored where nothing is quantized. */
ccq_code ccq_transform_bf16(const ccq_transform *t, const ccq_entry *e, ccq_pool *pool,
                            uint16_t *w, ccq_error *err);
/* Bytes of memory that takes beside w, and, whatever the entry, for the threads. */
uint64_t ccq_transform_memory(const ccq_transform *t, const ccq_entry *e);
uint64_t ccq_transform_scratch(const ccq_transform *t, int threads);

/* The neurons of e's MLP (e is its up_gate or down) in their new order: new neuron j is
 * old neuron order[j]. Descending by the rms of their rows of down, ties by number;
 * order has room for the MLP's width. */
ccq_code ccq_transform_order(const ccq_transform *t, const ccq_entry *e, ccq_pool *pool,
                             int64_t *order, ccq_error *err);

#endif
