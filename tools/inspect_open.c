/* ccq-inspect: opens the model, after verifying it and, where the K order is not
 * recorded, with the one that fits its source. */
#include "tools/inspect.h"

int inspect_start_threads(inspect *in)
{
    if (in->pool)
        return CLI_OK;
    ccq_ops_init(&in->ops, in->c.isa);
    in->pool = ccq_pool_new(in->c.threads);
    if (in->pool)
        return CLI_OK;
    cli_error(&in->c, "out of memory, or no thread could start");
    return CLI_UNAVAILABLE;
}

/* ---- K order -------------------------------------------------------------- */

enum { FIT_MATRICES = 8 };

/* Nothing in a checkpoint without a recipe tells the two orders apart; the source
 * does: in the wrong order rows are strangers and the error exceeds the weights. */
static ccq_code fit_order(inspect *in, const ccq_source_options *as_asked, ccq_error *err)
{
    const ccq_against_options how = {in->pool, &in->ops, in, NULL};
    ccq_source_options one = *as_asked;
    ccq_source *src[2] = {NULL, NULL};
    ccq_code code = CCQ_OK;
    for (int order = 0; order < 2 && !code; order++) {
        ccq_difference sum;
        in->fit.matrices = FIT_MATRICES;
        one.order = order;
        code = ccq_source_open(&src[order], in->model, &one, err);
        if (!code)
            code = ccq_against_sample(src[order], in->base, &how, &in->fit.matrices, &sum, err);
        in->fit.db[order] = code ? 0 : ccq_difference_sqnr(&sum);
    }
    int best = in->fit.db[CCQ_ORDER_PLAIN] > in->fit.db[CCQ_ORDER_FASTDEPLOY];
    if (!code && in->fit.db[best] > in->fit.db[!best] + 1) {
        ccq_source_close(in->src);
        in->src = src[best];
        src[best] = NULL;
        in->fit.clear = 1;
    }
    ccq_source_close(src[0]);
    ccq_source_close(src[1]);
    return code;
}

static int has_wint2(const ccq_source *src)
{
    for (size_t i = 0; i < src->count; i++)
        if (src->entry[i].type == CCQ_TYPE_WINT2)
            return 1;
    return 0;
}

/* Opens the source to compare with, and lets it decide what is not recorded. */
static int open_base(inspect *in, const ccq_source_options *how)
{
    ccq_error err;
    int status = inspect_start_threads(in);
    if (status)
        return status;
    if (ccq_source_open(&in->base, in->against, NULL, &err))
        return cli_fail(&in->c, &err);
    if (in->order >= 0 || in->src->arch.order_recorded || !has_wint2(in->src))
        return CLI_OK;
    if (fit_order(in, how, &err))
        return cli_fail(&in->c, &err);
    inspect_print_fit(in);
    return CLI_OK;
}

/* ---- Opening -------------------------------------------------------------- */

static int verify(inspect *in)
{
    ccq_verify_options how = {NULL, &in->ops};
    ccq_error err;
    if (in->verify > 1) {
        int status = inspect_start_threads(in);
        if (status)
            return status;
        how.pool = in->pool;
    }
    return ccq_verify_with(&in->verified, in->model, &how, &err) ? cli_fail(&in->c, &err) : CLI_OK;
}

int inspect_open(inspect *in)
{
    ccq_error err;
    ccq_source_options how = {in->order, NULL, 0, (int)in->tp_rank};
    int status = in->verify ? verify(in) : CLI_OK;
    if (status)
        return status;
    if (ccq_source_open(&in->src, in->model, &how, &err)) {
        in->src = NULL;
        if (in->verify && in->verified.findings && !in->pattern && !in->against)
            return CLI_OK;
        return cli_fail(&in->c, &err);
    }
    if (in->against && (status = open_base(in, &how)))
        return status;
    for (size_t i = 0; i < in->src->notes && !in->verify; i++)
        cli_note(&in->c, "note: %s", in->src->note[i]);
    if (ccq_summary_make(&in->summary, in->src, &err))
        return cli_fail(&in->c, &err);
    return CLI_OK;
}

