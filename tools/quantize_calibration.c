#include "tools/quantize_calibration.h"

#include "formats/file.h"
#include "libccq/stats_file.h"
#include "tools/tokens.h"

#include <stdlib.h>
#include <string.h>

#define RANDOM "random"

/* "random:TOKENS" */
static int take_from(cli *c, calibration *k)
{
    const char *colon = c->value + strlen(RANDOM);
    cli part = *c;

    k->from = c->value;
    if (strncmp(c->value, RANDOM, strlen(RANDOM)) || *colon != ':')
        return 0;
    part.value = colon + 1;
    k->from = RANDOM;
    return cli_int(&part, 2, INT32_MAX, &k->tokens);
}

int calibration_take(cli *c, calibration *k)
{
    int rc;

    if (cli_is(c, "calibration"))
        rc = take_from(c, k);
    else if (cli_is(c, "calibration-tokens"))
        rc = cli_int(c, 2, INT32_MAX, &k->tokens);
    else if (cli_is(c, "calibration-window"))
        rc = cli_int(c, 2, INT32_MAX, &k->window);
    else if (cli_is(c, "calibration-seed"))
        rc = cli_int(c, 0, INT64_MAX, &k->seed);
    else if (cli_is(c, "calibration-h"))
        rc = cli_choice(c, NULL, &k->shared), k->h_given = 1;
    else if (cli_is(c, "save-stats"))
        rc = (k->save = c->value, 0);
    else if (cli_is(c, "stats"))
        rc = (k->stats = c->value, 0);
    else
        return 0;
    k->given = 1;
    return rc ? -1 : 1;
}

const char *calibration_file(const calibration *k)
{
    return k->from && strcmp(k->from, RANDOM) ? k->from : NULL;
}

static ccq_code read_tokens(calibration *k, const ccq_source *src, ccq_calibration *to,
                            ccq_error *err)
{
    text *t = NULL;
    ccq_code code = text_open(&t, src->dir, err);
    int64_t pieces = text_pieces(t);

    if (!code && to->kind == CCQ_CALIBRATE_TOKENS)
        code = tokens_load(t, src->dir, k->from, src->arch.vocab, &k->ids, &to->count, err);
    else if (!code)
        to->valid = pieces > 0 && pieces < src->arch.vocab ? pieces : 0;
    to->ids = k->ids;
    text_close(t);
    return code;
}

/* What no option says stays: it may be a recipe's. */
ccq_code calibration_load(calibration *k, const ccq_source *src, ccq_quantize_options *o,
                          ccq_error *err)
{
    ccq_calibration *to = &o->calibration;

    if (k->stats && k->from)
        return ccq_fail(err, CCQ_USAGE, "--stats and --calibration: one or the other");
    if (k->stats && (k->tokens || k->window || k->seed))
        return ccq_fail(err, CCQ_USAGE,
                        "--calibration-tokens, -window and -seed are not for --stats, where they "
                        "are what they were when that file was made");
    if (k->from)
        to->kind = strcmp(k->from, RANDOM) ? CCQ_CALIBRATE_TOKENS : CCQ_CALIBRATE_RANDOM;
    if (k->stats)
        to->kind = CCQ_CALIBRATE_STATS;
    if (o->effort == CCQ_EFFORT_BEST && !to->kind)
        to->kind = CCQ_CALIBRATE_RANDOM;
    if (!to->kind && k->given)
        return ccq_fail(err, CCQ_USAGE,
                        "--calibration-tokens, -window, -seed, -h and --save-stats are about "
                        "--calibration, and that is not given");
    if (k->tokens || k->window || k->seed || k->shared)
        to->is_wanted = 0; /* it is not to be the recipe's */
    to->tokens = k->tokens ? k->tokens : to->tokens;
    to->window = k->window ? k->window : to->window;
    to->seed = k->seed ? (uint64_t)k->seed : to->seed;
    to->shared = k->shared ? 1 : to->shared;
    to->save_stats = k->save;
    to->stats = k->stats;
    if (to->kind == CCQ_CALIBRATE_TOKENS && !k->from)
        return ccq_fail(err, CCQ_USAGE,
                        "the recipe was calibrated on tokens: give the same with --calibration");
    return to->kind == CCQ_CALIBRATE_TOKENS || to->kind == CCQ_CALIBRATE_RANDOM
               ? read_tokens(k, src, to, err)
               : CCQ_OK;
}

ccq_code calibration_agrees(const calibration *k, const ccq_calibration *resolved, ccq_error *err)
{
    char shown[300];

    if (!k->stats || !k->h_given || k->shared == resolved->shared)
        return CCQ_OK;
    return ccq_fail(err, CCQ_USAGE, "--calibration-h %s: %s holds statistics by %s",
                    k->shared ? "layer" : "expert",
                    ccq_escape(shown, sizeof shown, k->stats, strlen(k->stats)),
                    resolved->shared ? "layer" : "expert");
}

void calibration_free(calibration *k)
{
    free(k->ids);
    k->ids = NULL;
}

/* ---- Statistics alone -------------------------------------------------------------- */

typedef struct gathering {
    const cli *c;
    int64_t layers;
} gathering;

static void tell_layer(void *ctx, const ccq_progress *p)
{
    const gathering *g = ctx;

    if (g->c->verbose)
        cli_note(g->c, "layer %zu of %lld", p->tensors + 1, (long long)g->layers);
}

int calibration_gather(const cli *c, const ccq_source *src, const ccq_quantize_options *o,
                       const ccq_quantize_run_options *run)
{
    const char *path = o->calibration.save_stats;
    gathering g = {c, src->arch.layers};
    ccq_quantize_run_options mine = *run;
    uint64_t bytes = ccq_stats_bytes(&src->arch, &o->calibration), room = 0;
    char size[16], shown[512];
    ccq_error err = {0};

    ccq_escape(shown, sizeof shown, path, strlen(path));
    cli_note(c, "%s: statistics of %s", shown, cli_bytes(size, sizeof size, bytes));
    if (!ccq_path_free_bytes(path, &room, NULL) && room < bytes) {
        cli_error(c, "%s: %llu bytes are needed, %llu are free", shown,
                  (unsigned long long)bytes, (unsigned long long)room);
        return CLI_IO;
    }
    mine.ctx = &g;
    mine.progress = tell_layer;
    return ccq_stats_gather(src, o, &mine, &err) ? cli_fail(c, &err) : CLI_OK;
}
