/* The options of ccq-quantize that are about calibration. */
#ifndef CCQ_TOOLS_QUANTIZE_CALIBRATION_H
#define CCQ_TOOLS_QUANTIZE_CALIBRATION_H

#include "formats/json.h"
#include "libccq/quantize.h"
#include "tools/cli.h"

#define CALIBRATION_OPTIONS                                                                        \
    {NULL, 0, "calibration", "FILE|random[:TOKENS]",                                               \
     "quantize experts by what the model does with these tokens (.npy, .npz, text), or with ids "  \
     "drawn at random"},                                                                           \
        {NULL, 0, "calibration-tokens", "N",                                                       \
         "tokens to take (default 65536, or 16 x hidden x experts / chosen where that is more)"},  \
        {NULL, 0, "calibration-window", "N",                                                       \
         "tokens that see each other (default 2048, at most the context): best the length that "  \
         "the model was trained with"},                                                            \
        {NULL, 0, "calibration-seed", "S", "of random ids (default 0)"},                           \
        {NULL, 0, "calibration-h", "expert|layer",                                                 \
         "statistics of up_gate by expert (default), or one for all experts of a layer"},          \
        {NULL, 0, "save-stats", "FILE",                                                            \
         "keep the statistics of --calibration; without OUTPUT that is all that is done"},         \
    {NULL, 0, "stats", "FILE", "take statistics that --save-stats kept, in place of --calibration"}

typedef struct calibration {
    const char *from, *save, *stats;
    int64_t tokens, window, seed;
    int shared, h_given;
    int given; /* some option was */
    int32_t *ids;
} calibration;

/* 1: the option is one of these and was taken; 0: it is none; -1: the message is out. */
int calibration_take(cli *c, calibration *k);
/* The file of --calibration; NULL: none is read. */
const char *calibration_file(const calibration *k);
/* Fills what the options say, and reads tokens. */
ccq_code calibration_load(calibration *k, const ccq_source *src, ccq_quantize_options *o,
                          ccq_error *err);
/* USAGE: a plan's calibration, which a file of statistics describes, is not what was asked
 * for. */
ccq_code calibration_agrees(const calibration *k, const ccq_calibration *resolved, ccq_error *err);
void calibration_free(calibration *k);
/* --save-stats without OUTPUT: the exit status. run: pool, ops and cancelled. */
int calibration_gather(const cli *c, const ccq_source *src, const ccq_quantize_options *o,
                       const ccq_quantize_run_options *run);

/* ---- calibration_report.c: after a job that was calibrated ------------------ */

void calibration_print(const ccq_quantize_result *result);
void calibration_json(ccq_jw *w, const ccq_quantize_result *result);

#endif
