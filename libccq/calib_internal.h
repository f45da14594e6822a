/* Inside calibration. */
#ifndef CCQ_LIBCCQ_CALIB_INTERNAL_H
#define CCQ_LIBCCQ_CALIB_INTERNAL_H

#include "kernels/feedback.h"
#include "libccq/calibrate.h"
#include "libccq/layers.h"
#include "libccq/stats_file.h"
#include "libccq/targets.h"

/* ---- calib_encode.c: one matrix under its H -------------------------------------- */

/* What the panels of a matrix share. */
typedef struct ccq_calib_metric {
    ccq_type type;       /* WINT2 or WINT4 */
    int64_t k;
    int entries;         /* lines that it is for */
    int32_t *rows;       /* logical row at each place */
    void *memory;
    ccq_metric *metric;
} ccq_calib_metric;

/* h: [k][k] damped, logical order. NONFINITE when it has no factor. */
ccq_code ccq_calib_metric_make(ccq_calib_metric *m, const ccq_engine *engine,
                               const ccq_solver *solver, ccq_type type, const double *h, int64_t k,
                               const char *name, ccq_error *err);
void ccq_calib_metric_free(ccq_calib_metric *m);
/* w, target: [k][n] fp32 in logical order. Adds to outcome. wint2 by way of the device, where
 * there is one; BUG when a panel of what it did is not the CPU's. */
ccq_code ccq_calib_encode(ccq_engine *engine, const ccq_action *a, const ccq_calib_metric *m,
                          const float *w, const float *target, ccq_planes *planes,
                          ccq_outcome *outcome, ccq_error *err);
/* The same without statistics, of bf16 or fp32. */
ccq_code ccq_calib_plain(ccq_engine *engine, const ccq_action *a, const ccq_weight *w,
                         ccq_planes *planes, ccq_outcome *outcome, ccq_error *err);

/* ---- The state ------------------------------------------------------------------- */

enum { CCQ_CALIB_TOKENS = 32 }; /* fewer, and an expert is quantized without statistics */
enum { CCQ_SOURCE_STREAM, CCQ_CODED_STREAM, CCQ_STREAMS };

/* Tokens of an expert: ascending, with their normalized routing weights. NULL, NULL: all. */
typedef struct ccq_calib_tokens {
    const int32_t *token;
    const float *r;
    int64_t count;
} ccq_calib_tokens;

typedef struct ccq_calib {
    ccq_engine *engine;
    const ccq_calibration *o;
    const ccq_calib_sink *sink;
    ccq_quantize_result *result;
    ccq_model *model;     /* the source, layer by layer, exact numerics */
    ccq_session *session; /* serves both streams in turns */
    ccq_solver solver;
    int64_t chunk;        /* rows at a time: the session's, a multiple of 256 */
    int32_t *ids;
    int64_t tokens;
    int64_t windows; /* of a group */
    int streams;     /* 1: the source's alone */
    const char *spill; /* directory of files for the streams; NULL: they lie in memory */
    ccq_stream *x[CCQ_STREAMS]; /* [tokens][hidden] residual rows */
    /* The layer at work: as the source has it, and as quantized (owns only what differs). */
    int64_t number;
    ccq_layer layer[CCQ_STREAMS];
    /* Router of the quantized stream, [tokens][k], and each expert's share of it */
    int32_t *choice;
    float *weight;
    int32_t *token; /* [tokens * k], sorted by expert */
    float *r;
    int64_t *start; /* [experts + 1] */
    /* Work rows, [chunk][...] */
    float *rows[CCQ_STREAMS], *missing, *group, *gu, *a, *b;
    ccq_span *span; /* of a group of windows */
    /* up_gate under the layer's statistics: sums, and the metric when all experts share it */
    double *layer_h, *layer_c, damped;
    ccq_calib_metric shared;
    ccq_stats_out *out; /* NULL, or where one-shot statistics are kept */
} ccq_calib;

/* ---- calib_open.c ---------------------------------------------------------------- */

/* engine, o, sink and result are set. Both streams then hold the embedded tokens. */
ccq_code ccq_calib_open(ccq_calib *c, int streams, ccq_error *err);
void ccq_calib_close(ccq_calib *c);

/* ---- calib_streams.c -------------------------------------------------------------- */

ccq_code ccq_calib_embed(ccq_calib *c, int stream, ccq_error *err);
/* The stream through a part of its layer at work. */
ccq_code ccq_calib_attend(ccq_calib *c, int stream, ccq_error *err);
ccq_code ccq_calib_mlp(ccq_calib *c, int stream, ccq_error *err);
/* Tokens by expert of one stream of the layer at work: c->token, c->r, c->start. */
ccq_code ccq_calib_route(ccq_calib *c, int stream, ccq_error *err);

/* ---- calib_stats.c --------------------------------------------------------------- */

/* Routes the source's stream and puts the layer's statistics to c->out. */
ccq_code ccq_calib_keep(ccq_calib *c, ccq_error *err);
/* All tensors of the plan, with the statistics of c->o->stats. */
ccq_code ccq_calib_from_stats(ccq_calib *c, ccq_error *err);
/* Towards the layer's: (n mine + 256 layer) / (n + 256). */
void ccq_calib_shrink(double *mine, const double *layer, int64_t count, int64_t tokens);

/* ---- calibrate.c ---------------------------------------------------------------------- */

/* The action of a linear of the layer at work; NULL: none. */
const ccq_action *ccq_calib_action(const ccq_calib *c, ccq_role role, ccq_block block,
                                   int64_t expert);
/* Planes with memory of their own. */
ccq_code ccq_calib_planes(const ccq_action *a, ccq_planes *planes, ccq_error *err);
/* Writes the planes that were made from a bf16 or fp32 matrix; their memory goes to q. */
ccq_code ccq_calib_write(ccq_calib *c, const ccq_action *a, const ccq_linear *from,
                         ccq_planes *planes, const ccq_outcome *outcome, ccq_linear *q,
                         ccq_error *err);
/* 1 and q, when an earlier run has finished it. */
ccq_code ccq_calib_resume(ccq_calib *c, const ccq_action *a, ccq_linear *q, int *done,
                          ccq_error *err);
/* 1: some stored tensor of it is for this process to write. */
int ccq_calib_wanted(const ccq_calib *c, const ccq_action *a);
/* Everything outside layers. */
ccq_code ccq_calib_outside(ccq_calib *c, ccq_error *err);
/* INTERRUPTED when no further tensor is to be begun. */
ccq_code ccq_calib_poll(ccq_calib *c, ccq_error *err);
/* A tensor that stays as it is; q (NULL allowed) borrows what from has. */
ccq_code ccq_calib_copy(ccq_calib *c, const ccq_action *a, const ccq_linear *from, ccq_linear *q,
                        ccq_error *err);

/* ---- calib_sums.c: what an expert's inputs are like ---------------------------------- */

/* h = mean of y' y of that stream, cross (NULL allowed) = mean of y' x with the source's,
 * over the tokens, [hidden][hidden]. */
ccq_code ccq_calib_up_sums(ccq_calib *c, const ccq_calib_tokens *t, int stream, double *h,
                           double *cross, ccq_error *err);
/* h = mean of a' a, weighted by r^2, of what up makes of the source's rows. */
ccq_code ccq_calib_hidden_sums(ccq_calib *c, const ccq_calib_tokens *t, const ccq_linear *up,
                               double *h, ccq_error *err);
/* The sums behind the target of down. up: up_gate as quantized. */
ccq_code ccq_calib_down_sums(ccq_calib *c, const ccq_calib_tokens *t, const ccq_linear *source_up,
                             const ccq_linear *up, ccq_down_sums *sums, ccq_error *err);

/* ---- calib_expert.c ------------------------------------------------------------------- */

/* The layer's own sums, for all experts. */
ccq_code ccq_calib_layer_sums(ccq_calib *c, ccq_error *err);
/* Quantizes expert e of the layer at work; its linears are then in c->layer[CODED]. */
ccq_code ccq_calib_expert(ccq_calib *c, int64_t e, ccq_error *err);
/* Quantizes without statistics, or copies, as the plan says. */
ccq_code ccq_calib_linear(ccq_calib *c, const ccq_action *a, const ccq_linear *from,
                          ccq_linear *to, ccq_error *err);
/* Tokens per row of an up_gate, mean of the layer's experts. */
double ccq_calib_per_row(const ccq_calib *c);
/* Share of the mean diagonal of H that is added to it: for down or up_gate. */
double ccq_calib_damping(const ccq_calib *c, int down);
/* 1 for the types that statistics are for. */
int ccq_calib_has_feedback(ccq_type type);

#endif
