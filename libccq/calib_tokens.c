/* Which tokens calibrate: windows spread evenly over the file, or ids drawn at random. */
#include "libccq/calibrate.h"
#include "libccq/run.h"
#include "libccq/stats_file.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { LEAST_TOKENS = 65536, PER_ROW = 16 };

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Where tokens begin to be enough: 16 for each row of an up_gate, or 65536. */
static int64_t usual_tokens(const ccq_arch *a)
{
    int64_t need = PER_ROW * a->hidden * a->experts / (a->moe_k > 0 ? a->moe_k : 1);
    return need > LEAST_TOKENS ? need : LEAST_TOKENS;
}

static int64_t total(const ccq_calibration *c)
{
    return c->kind == CCQ_CALIBRATE_TOKENS ? (int64_t)c->count : c->tokens;
}

static int64_t window_start(const ccq_calibration *c, int64_t i)
{
    int64_t all = total(c) / c->window;
    if (c->windows < 2 || (c->leave & CCQ_LEAVE_SPREAD))
        return c->window * i;
    return c->window * (i * (all - 1) / (c->windows - 1)); /* both below 2^31 */
}

int32_t *ccq_calibration_ids(const ccq_calibration *c, const ccq_arch *arch)
{
    int64_t valid = c->valid ? c->valid : arch->vocab;
    int32_t *ids = malloc((size_t)(c->windows * c->window) * sizeof *ids);
    for (int64_t i = 0; ids && i < c->windows; i++) {
        int32_t *to = ids + i * c->window;
        int64_t from = window_start(c, i);
        if (c->kind == CCQ_CALIBRATE_TOKENS)
            memcpy(to, c->ids + from, (size_t)c->window * sizeof *to);
        for (int64_t j = 0; c->kind == CCQ_CALIBRATE_RANDOM && j < c->window; j++)
            to[j] = (int32_t)(ccq_sample_uniform(c->seed, (uint64_t)(from + j)) * (double)valid);
    }
    return ids;
}

/* Something must be left for statistics to act on. */
static ccq_code check_scheme(const ccq_quantize_options *o, ccq_error *err)
{
    if (o->scheme != CCQ_SCHEME_WINT2 && o->scheme != CCQ_SCHEME_WINT4)
        return ccq_fail(err, CCQ_USAGE,
                        "calibration is about wint2 and wint4 experts: scheme %s has none",
                        ccq_scheme_name(o->scheme));
    if (o->tensor_parallel > 1)
        return ccq_fail(err, CCQ_USAGE,
                        "calibration with tensor-parallel %d: quantize without, since a slice of "
                        "down has other inputs than the whole",
                        o->tensor_parallel);
    if (o->transform && (o->calibration.kind == CCQ_CALIBRATE_STATS || o->calibration.save_stats))
        return ccq_fail(err, CCQ_USAGE,
                        "statistics in a file are those of the model without a transform: "
                        "--calibration alone goes with --transform");
    return CCQ_OK;
}

static ccq_code check_model(const ccq_source *src, ccq_error *err)
{
    if (src->arch.use_bias)
        return ccq_fail(err, CCQ_UNSUPPORTED,
                        "%s: linear layers with a bias do not run, so calibration cannot either",
                        src->dir);
    if (src->rank)
        return ccq_fail(err, CCQ_UNSUPPORTED,
                        "%s: calibration from rank directories is not supported; join them first "
                        "(--scheme bf16)",
                        src->dir);
    return CCQ_OK;
}

static ccq_code describe_file(ccq_calibration *c, const ccq_arch *a, ccq_error *err)
{
    ccq_stats_in *in = NULL;
    ccq_code code = ccq_stats_open(&in, c->stats, a, err);
    if (code)
        return code;
    ccq_stats_describe(in, c);
    ccq_stats_close(in);
    return ccq_calibration_check(c, err);
}

static ccq_code set_digest(ccq_calibration *c, const ccq_arch *arch, ccq_error *err)
{
    int32_t *ids = ccq_calibration_ids(c, arch);
    if (!ids)
        return ccq_fail(err, CCQ_NO_MEMORY, "calibration: out of memory");
    c->digest = (uint32_t)crc32_z(0, (const Bytef *)ids,
                                  (size_t)(c->windows * c->window) * sizeof *ids);
    free(ids);
    return ccq_calibration_check(c, err);
}

ccq_code ccq_calibration_check(const ccq_calibration *c, ccq_error *err)
{
    if (!c->is_wanted || c->digest == c->wanted)
        return CCQ_OK;
    return ccq_fail(err, CCQ_CHANGED,
                    "calibration: not what the recipe was made with: CRC-32 %08lx, and %08lx is "
                    "wanted",
                    (unsigned long)c->digest, (unsigned long)c->wanted);
}

ccq_code ccq_calibration_resolve(ccq_quantize_options *o, const ccq_source *src, ccq_error *err)
{
    ccq_calibration *c = &o->calibration;
    const ccq_arch *a = &src->arch;
    ccq_code code;
    if (c->kind == CCQ_CALIBRATE_NONE)
        return CCQ_OK;
    if ((code = check_scheme(o, err)) || (code = check_model(src, err)))
        return code;
    if (c->kind == CCQ_CALIBRATE_STATS)
        return describe_file(c, a, err);
    c->random = c->kind == CCQ_CALIBRATE_RANDOM;
    if (c->tokens < 0 || c->tokens > INT32_MAX || c->count > INT32_MAX || c->window < 2 ||
        c->valid < 0 || c->valid > a->vocab)
        return ccq_fail(err, CCQ_USAGE, "calibration: tokens, window or vocabulary out of range");
    if (!c->tokens)
        c->tokens = usual_tokens(a);
    if (c->kind == CCQ_CALIBRATE_TOKENS)
        c->tokens = smaller(c->tokens, (int64_t)c->count);
    c->window = smaller(c->window, c->tokens);
    if (a->max_position > 0)
        c->window = smaller(c->window, a->max_position);
    if (c->window < 2)
        return ccq_fail(err, CCQ_USAGE, "calibration: %" PRId64 " tokens are too few", c->tokens);
    c->windows = c->tokens / c->window;
    return set_digest(c, a, err);
}
