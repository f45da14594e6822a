/* What ccq-quantize prints: progress on stderr, the answer on stdout. */
#ifndef CCQ_TOOLS_QUANTIZE_REPORT_H
#define CCQ_TOOLS_QUANTIZE_REPORT_H

#include "libccq/inspect.h"
#include "libccq/quantize.h"
#include "tools/cli.h"

typedef struct report {
    const cli *c;
    const char *input, *output;
    const ccq_plan *plan;
    int threads;
    uint64_t mem_limit; /* bytes; 0: none */
    const char *isa; /* name of the kernels used */
    const char *device; /* that encodes wint2 columns: "cpu", "cuda:0 ..."; NULL: not opened */
    const ccq_verify_result *verify; /* of the finished output; NULL: not looked at */
    /* progress */
    int terminal; /* stderr is one: redraw a line */
    int shown;    /* a line is on the screen */
    double begin, drawn;
    size_t done; /* tensors */
} report;

uint64_t report_rss(void);      /* now; 0 when unknown */
uint64_t report_peak_rss(void);
double report_now(void);

/* Input, output, model, types; notes, changes of config.json and warnings. */
void report_header(const report *r);
/* Callbacks of the job; ctx is a report. */
void report_progress(void *ctx, const ccq_progress *p);
void report_tensor(void *ctx, size_t i, const ccq_outcome *o);
/* Takes the live line off the screen. */
void report_clear(report *r);

/* The answer on stdout; result NULL for a dry run. */
void report_text(const report *r, const ccq_quantize_result *result);
/* 0, or -1: out of memory. */
int report_json(const report *r, const ccq_quantize_result *result);

#endif
