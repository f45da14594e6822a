/* Tensor parallel: which part of a tensor a rank holds (docs/format.md, "Tensor
 * parallel"). Columns of qkv and up_gate, rows of o and down, both ends along
 * the vocabulary; everything else is whole in every rank. */
#ifndef CCQ_LIBCCQ_SLICE_H
#define CCQ_LIBCCQ_SLICE_H

#include "libccq/source.h"

typedef enum ccq_cut { CCQ_CUT_NONE, CCQ_CUT_ROWS, CCQ_CUT_COLUMNS } ccq_cut;

ccq_cut ccq_cut_of(const ccq_entry *e);

/* The part of one rank: k rows from k0 on, and of each row the column ranges
 * whole[from .. from+count-1], which lie side by side in the part, n in all. */
typedef struct ccq_slice {
    int64_t whole_k, whole_n, k0, k, n;
    int ranges;
    struct {
        int64_t from, count;
    } range[3];
} ccq_slice;

/* arch and e are those of the whole model. The sizes must divide (ccq_arch_cut).
 * Rank 0 of 1 is the tensor itself. */
void ccq_slice_of(const ccq_arch *arch, const ccq_entry *e, int rank, int ranks, ccq_slice *s);
/* Between the matrix, [whole_k][whole_n], and the part, [k][n]. */
void ccq_slice_take(const ccq_slice *s, const uint16_t *whole, uint16_t *part);
void ccq_slice_take_f32(const ccq_slice *s, const float *whole, float *part);
void ccq_slice_put(const ccq_slice *s, const uint16_t *part, uint16_t *whole);

#endif
