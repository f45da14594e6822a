/* Layer by layer: all tokens go through one layer before the next one is read, so that no
 * more than a layer of weights, the cache of a layer for one group of sequences and the
 * residual rows of all tokens (libccq/stream.h) are held. A row's bits do not depend on
 * what else is in its step, so they are those of ccq_session_step:
 *
 *     ccq_embed_load(m); ccq_session_embed(s, ids, rows, x) for all rows; ccq_embed_free(m)
 *     for each layer i
 *         ccq_layer_load(m, i, &l)
 *         for each group of sequences
 *             ccq_session_reset(s, slot) for each of its slots
 *             for each step of the group
 *                 ccq_session_attend(s, &l, i, spans, count, x)
 *                 ccq_session_mlp(s, &l, i, x)
 *         ccq_layer_free(m, &l)
 *     ccq_head_load(m); ccq_session_head(s, x, rows, logits); ccq_head_free(m)
 *
 * m is a model that was opened with options.layered: only its last norm is there. x is the
 * caller's, [rows][hidden] fp32, in and out; in fastdeploy numerics its values are bf16. A
 * ccq_layer is a plain struct: its weights may come from anywhere (memory NULL: owned by
 * another), as long as their shapes are those of the model. */
#ifndef CCQ_LIBCCQ_LAYERS_H
#define CCQ_LIBCCQ_LAYERS_H

#include "libccq/model.h"
#include "libccq/stream.h"

/* ---- Weights ---------------------------------------------------------------- */

/* Reads layer i. On failure nothing is held. Codes: those of ccq_model_open. */
ccq_code ccq_layer_load(ccq_model *m, int64_t i, ccq_layer *l, ccq_error *err);
/* Frees what l owns and zeroes it; one of zeros is fine. */
void ccq_layer_free(ccq_model *m, ccq_layer *l);
/* Bytes of memory that ccq_layer_load takes, buffers included, under t (NULL: none). */
uint64_t ccq_layer_need(const ccq_source *src, const ccq_transform *t, int64_t i);
/* Nothing is done where they are there already, or not there. With a tied head both are the
 * same matrix: ccq_head_load reads the embedding again unless it is still there. */
ccq_code ccq_embed_load(ccq_model *m, ccq_error *err);
void ccq_embed_free(ccq_model *m);
ccq_code ccq_head_load(ccq_model *m, ccq_error *err);
void ccq_head_free(ccq_model *m);

/* ---- A layer's part of a step ----------------------------------------------- */

/* x = embed[ids], at most max_rows of the session. BUG: an id outside the vocabulary. */
ccq_code ccq_session_embed(ccq_session *s, const int32_t *ids, int64_t rows, float *x,
                           ccq_error *err);
/* x += attention(norm_in(x)) for the rows of all spans, which follow what their slots hold
 * of this layer; the slots then hold them too. number: of the layer, for messages. */
ccq_code ccq_session_attend(ccq_session *s, const ccq_layer *l, int64_t number,
                            const ccq_span *spans, size_t count, float *x, ccq_error *err);
/* x += mlp(norm_post(x)), for the rows of the last ccq_session_attend. Then
 * ccq_session_routes has their choices in this one layer (of no meaning in a dense one).
 * NONFINITE as ccq_session_step. */
ccq_code ccq_session_mlp(ccq_session *s, const ccq_layer *l, int64_t number, float *x,
                         ccq_error *err);
/* The next ccq_session_mlp is for these rows instead, at most max_rows of any sequences;
 * first is the number of the first one, for messages. */
void ccq_session_rows(ccq_session *s, int64_t first, int64_t rows);
/* Logits of final residual rows; ccq_head_load came before. At most max_rows. */
ccq_code ccq_session_head(ccq_session *s, float *x, int64_t rows, float *logits, ccq_error *err);

/* ---- Its pieces, for rows of any origin ------------------------------------- */

/* At most max_rows of the session at a time, here and in ccq_products. */

/* h = norm_post(x): what the router and the experts see. */
void ccq_layer_norm_post(ccq_session *s, const ccq_layer *l, const float *x, int64_t rows,
                         float *h);
/* The router's choices: ids and weights (p, not normalized) [rows][k] in selection order,
 * margin [rows] (NULL allowed). NONFINITE names layer and row + first_row. */
ccq_code ccq_layer_route(ccq_session *s, const ccq_layer *l, int64_t number, const float *h,
                         int64_t rows, int64_t first_row, int32_t *ids, float *weights,
                         float *margin, ccq_error *err);
/* a [rows][n] = R(silu(g) u) of gu [rows][2n]: between an expert's two products. */
void ccq_layer_swiglu(ccq_session *s, const float *gu, int64_t rows, int64_t n, float *a);
/* y = x . w, rounded in fastdeploy numerics: ccq_products for one linear, no gaps. */
void ccq_layer_product(ccq_session *s, const ccq_linear *w, const float *x, int64_t rows,
                       float *y);
/* x = R(x + t) */
void ccq_layer_add(ccq_session *s, const float *t, int64_t rows, float *x);

#endif
