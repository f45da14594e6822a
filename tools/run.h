/* Inside ccq-run: the options, what is open, and what came out. */
#ifndef CCQ_TOOLS_RUN_H
#define CCQ_TOOLS_RUN_H

#include "formats/json.h"
#include "libccq/bench.h"
#include "libccq/compare.h"
#include "libccq/reference.h"
#include "libccq/run.h"
#include "tools/cli_device.h"
#include "tools/prompts.h"
#include "tools/text.h"

enum { RUN_MAX_LIST = 4096, RUN_MAX_LOGPROBS = 20, RUN_GREEDY_TOKENS = 24, RUN_MAX_BENCH = 16 };

/* An option that may be repeated. */
typedef struct run_list {
    const char *at[RUN_MAX_LIST];
    char kind[RUN_MAX_LIST]; /* prompts: 't' text, 'i' ids, 'f' file */
    size_t count;
} run_list;

typedef struct run_options {
    const char *model, *baseline, *tokens, *reference, *save_reference, *perplexity, *gate;
    const char *trace, *junit;
    run_list sources, stop, set;
    int numerics, rounding, order;                   /* order -1: as recorded */
    int blas, fp32_logits, chat, ignore_eos, greedy; /* greedy: --temperature 0 and the like */
    int64_t max_tokens;                              /* 0: not given */
    int64_t valid, prefill_rows, batch, window, logprobs;
    double temperature, top_p;
    int64_t top_k, seed;
    int bench;
    int64_t bench_batch[RUN_MAX_BENCH];
    size_t bench_batches;
    int64_t bench_context; /* 0: not given */
    uint64_t mem_limit;    /* bytes; 0: not given */
} run_options;

typedef struct run_sequence {
    const run_prompt *prompt;
    ccq_request request;
    char *text;    /* NULL: no tokenizer */
    int cut;       /* text ends at a stop string */
    int32_t *best; /* [max_tokens][logprobs] */
    double *logprob;
    float *gap; /* [max_tokens]: best minus second best logit */
} run_sequence;

/* How a greedy continuation compares with the reference's. */
typedef struct run_greedy {
    size_t length, same; /* same < length: the first difference is there */
    int32_t ours, theirs;
    float gap;
    int theirs_in_ours; /* among the 5 best; -1 unknown */
    int ours_in_theirs;
} run_greedy;

/* Tokens cut into runs that are evaluated alone. */
typedef struct run_window_list {
    int32_t *ids;
    size_t count;   /* tokens */
    int64_t length; /* of a window */
    size_t number;
    ccq_prompt *prompts;
    int32_t *seq, *pos, *target; /* [rows] */
    size_t rows;
} run_window_list;

/* A file that takes its name at the end. */
typedef struct run_output {
    FILE *f; /* NULL: none */
    char *tmp;
    const char *path, *what;
} run_output;

typedef struct run {
    cli *cli;
    run_options *o;
    ccq_pool *pool;
    ccq_gpu *gpu;                 /* NULL: the CPU */
    char device[CLI_DEVICE_NAME]; /* its name */
    ccq_source *src, *base_src;
    ccq_model *model, *base;
    text *text;
    prompt_list prompts;
    ccq_reference *ref;
    run_window_list windows;
    run_output trace, junit;
    int64_t vocab, valid; /* valid: what may be drawn */
    int64_t valid_prompt; /* what a prompt may hold, beside added tokens */
    int64_t valid_compare;
    int32_t end[16];
    size_t ends;
    run_sequence *sequence;
    size_t sequences;
    run_greedy *greedy; /* [ref->prompts] */
    ccq_stats stats;
    int has_stats;
    ccq_gate *gates;
    size_t gate_count, missed;
    ccq_timing timing;
    double load_s;
    uint64_t cache_bytes, work_bytes;
    int layered;            /* the models are read layer by layer */
    const char *spill_dir;  /* for rows that do not fit then */
    uint64_t memory, spilled; /* then: bytes in all, and in temporary files */
    uint64_t percent;
    double read_rate; /* bytes a second */
    ccq_bench bench_prefill, bench_decode[RUN_MAX_BENCH];
} run;

/* run_open.c: everything that can fail before a token runs. */
ccq_code run_open(run *r, ccq_error *err);
void run_close(run *r);
/* run_models.c: in memory; or for an evaluation, layer by layer where they do not fit. */
ccq_code run_open_resident(run *r, ccq_error *err);
ccq_code run_open_models(run *r, const ccq_eval *e, ccq_error *err);
/* ccq_evaluate on r's models, opened if they are not, timed. */
ccq_code run_evaluate(run *r, ccq_eval *e, ccq_error *err);
void run_note_bias(const run *r, const ccq_model *model); /* NULL is fine */
void run_hooks(run *r, ccq_run_hooks *hooks);
/* run_files.c: inputs that cannot be read as files, outputs that would hurt an input. */
ccq_code run_check_files(const run *r, ccq_error *err);
/* run_output.c: written beside its place, which it takes at the end. path NULL: nothing. */
ccq_code run_output_open(run_output *o, const char *path, const char *what, ccq_error *err);
ccq_code run_output_commit(run_output *o, ccq_error *err);
void run_output_abandon(run_output *o);
/* run_trace.c, run_junit.c */
void run_trace_row(void *ctx, size_t sequence, int64_t position, int32_t id,
                   const ccq_routes *one);
ccq_code run_junit(run *r, ccq_error *err);
/* run_stop.c: SIGINT and SIGTERM. */
void run_catch_signals(void);
int run_stopped(void *unused);
ccq_code run_check_stop(ccq_error *err); /* INTERRUPTED when one came */
/* run_generate.c: one sequence a prompt. greedy: argmax whatever they say. */
ccq_code run_generate(run *r, int greedy, ccq_error *err);
/* What can be refused before weights are read: the reference against the model, the
 * tokens, a place for the output. */
ccq_code run_check_reference(run *r, ccq_error *err);
ccq_code run_open_windows(run *r, ccq_error *err);
ccq_code run_check_save(run *r, ccq_error *err);
void run_free_windows(run_window_list *w);
/* run_compare.c, run_windows.c (--baseline, --perplexity), run_save.c */
ccq_code run_reference(run *r, ccq_error *err);
ccq_code run_windows(run *r, ccq_error *err);
ccq_code run_save(run *r, ccq_error *err);
/* run_bench.c: 0 when --bench-batch is good; defaults and limits; the runs; what they gave. */
int run_bench_batches(cli *c, run_options *o);
ccq_code run_check_bench(run *r, ccq_error *err);
ccq_code run_bench(run *r, ccq_error *err);
void run_write_bench(ccq_jw *w, const run *r);
void run_print_bench(const run *r);
/* run_report.c: an exit code; run_statistics.c */
int run_report(run *r);
/* Value and limit with as many digits as it takes to tell them apart. */
void run_gate_numbers(const ccq_gate *g, char value[32], char limit[32]);
void run_print_statistics(const run *r);

#endif
