/* ccq_recipe.json: the options that repeat an output, written beside it and read
 * by --recipe (docs/format.md, "ccq's own files"). */
#include "libccq/job.h"

#include "formats/file.h"
#include "formats/json.h"

#include <stdlib.h>
#include <string.h>

#define SCHEMA "ccq.recipe/1"

enum { MAX_RULES = 10000 };

static const char *const orders[] = {"fastdeploy", "plain"};
static const char *const rules[] = {"gpu", "cpu"};
static const char *const efforts[] = {"fast", "normal", "best"};
static const char *const kinds[] = {"none", "tokens", "random", "stats"};
static const char *const shares[] = {"expert", "layer"};
static const char *const namings[] = {"paddle", "torch"};
static const char *const transforms[] = {"rotate", "permute"}; /* bits of CCQ_TRANSFORM_* */

/* ---- Writing --------------------------------------------------------------------- */

static int has_wint2(const ccq_source *src)
{
    for (size_t i = 0; i < src->count; i++)
        if (src->entry[i].type == CCQ_TYPE_WINT2)
            return 1;
    return 0;
}

/* What statistics were taken of: which tokens they were is in the digest alone. */
static void put_calibration(ccq_jw *w, const ccq_calibration *c)
{
    if (!c->kind)
        return;
    ccq_jw_kstring(w, "calibration", kinds[c->kind]);
    if (c->kind != CCQ_CALIBRATE_STATS) {
        ccq_jw_ki64(w, "calibration_tokens", c->tokens);
        ccq_jw_ki64(w, "calibration_window", c->window);
        ccq_jw_ki64(w, "calibration_windows", c->windows);
        ccq_jw_kstring(w, "calibration_h", shares[c->shared]);
    }
    if (c->kind == CCQ_CALIBRATE_RANDOM) {
        ccq_jw_ku64(w, "calibration_seed", c->seed);
        ccq_jw_ki64(w, "calibration_ids", c->valid);
    }
    ccq_jw_ku64(w, "calibration_digest", c->digest);
}

/* What has no part in the bytes of a scheme is left out. */
static void put_encoding(ccq_jw *w, const ccq_plan *plan)
{
    const ccq_quantize_options *o = &plan->options;
    if (o->scheme == CCQ_SCHEME_BF16) {
        ccq_jw_kstring(w, "names", namings[o->names]);
        if (has_wint2(plan->src)) /* how the input was read */
            ccq_jw_kstring(w, "k_order", orders[plan->src->arch.order]);
        return;
    }
    if (o->scheme == CCQ_SCHEME_WINT2)
        ccq_jw_ki64(w, "w4_end_layer", o->w4_end_layer);
    if (o->scheme == CCQ_SCHEME_FP8)
        return;
    ccq_jw_kstring(w, "k_order", orders[o->order]);
    ccq_jw_kstring(w, "weight_only_rule", rules[o->rule]);
    ccq_jw_kstring(w, "effort", efforts[o->effort]);
    ccq_jw_ki64(w, "gain", o->gain);
    put_calibration(w, &o->calibration);
}

static void put_transform(ccq_jw *w, const ccq_quantize_options *o)
{
    if (!o->transform)
        return;
    ccq_jw_key(w, "transform");
    ccq_jw_array(w);
    for (unsigned i = 0; i < 2; i++)
        if (o->transform >> i & 1)
            ccq_jw_string(w, transforms[i]);
    ccq_jw_end(w);
    if (o->transform & CCQ_TRANSFORM_ROTATE)
        ccq_jw_ku64(w, "transform_seed", o->transform_seed);
}

char *ccq_recipe_text(const ccq_plan *plan, size_t *size)
{
    const ccq_quantize_options *o = &plan->options;
    ccq_jw w;
    ccq_jw_init(&w, 2);
    ccq_jw_object(&w);
    ccq_jw_kstring(&w, "schema", SCHEMA);
    ccq_jw_ki64(&w, "output_version", CCQ_OUTPUT_VERSION);
    ccq_jw_kstring(&w, "scheme", ccq_scheme_name(o->scheme));
    put_encoding(&w, plan);
    put_transform(&w, o);
    if (o->tensor_types) {
        ccq_jw_key(&w, "tensor_types");
        ccq_jw_array(&w);
        for (size_t i = 0; i < o->tensor_types; i++)
            ccq_jw_string(&w, o->tensor_type[i]);
        ccq_jw_end(&w);
    }
    if (o->tensor_parallel > 1)
        ccq_jw_ki64(&w, "tensor_parallel", o->tensor_parallel);
    if (o->force)
        ccq_jw_kbool(&w, "force", 1);
    ccq_jw_ku64(&w, "shard_bytes", o->shard_bytes);
    /* No option, but what a reader of the checkpoint must know. */
    if (o->scheme == CCQ_SCHEME_WINT8 && plan->src->arch.experts > 0)
        ccq_jw_kstring(&w, "note", CCQ_WINT8_EXPERTS);
    ccq_jw_end(&w);
    return ccq_jw_take(&w, size);
}

/* ---- Reading ----------------------------------------------------------------------- */

typedef struct reading {
    const ccq_config *c;
    ccq_quantize_options found; /* what the file says */
    unsigned has;               /* CCQ_SET_* */
    ccq_text_list *types;
    ccq_error *err;
} reading;

static ccq_code bad(const reading *r, const char *key, const char *what)
{
    char shown[120];
    return ccq_fail(r->err, CCQ_CONFIG, "%s: \"%s\" %s", ccq_config_name(r->c),
                    ccq_escape(shown, sizeof shown, key, strlen(key)), what);
}

static ccq_code take_name(reading *r, const char *key, const char *const *names, int count,
                          int *value)
{
    const char *s = ccq_config_string(r->c, key);
    for (int i = 0; s && i < count; i++)
        if (strcmp(s, names[i]) == 0) {
            *value = i;
            return CCQ_OK;
        }
    return bad(r, key, "has a value that is not known");
}

static ccq_code take_int(reading *r, const char *key, int64_t min, int64_t max, int64_t *value)
{
    if (!ccq_config_int(r->c, key, value) || *value < min || *value > max)
        return bad(r, key, "is no integer in its range");
    return CCQ_OK;
}

static ccq_code take_scheme(reading *r, const char *key)
{
    const char *s = ccq_config_string(r->c, key);
    for (int i = 0; s && i < CCQ_SCHEMES; i++)
        if (strcmp(s, ccq_scheme_name(i)) == 0) {
            r->found.scheme = i;
            return CCQ_OK;
        }
    return bad(r, key, "has a value that is not known");
}

static ccq_code take_types(reading *r, const char *key)
{
    size_t count = ccq_config_array_size(r->c, key);
    if (ccq_config_kind(r->c, key) != CCQ_KIND_ARRAY || count > MAX_RULES)
        return bad(r, key, "is no list of REGEX=TYPE");
    for (size_t i = 0; i < count; i++) {
        const char *s = ccq_config_array_string(r->c, key, i);
        if (!s || strlen(s) > 1100)
            return bad(r, key, "is no list of REGEX=TYPE");
        if (ccq_text_add(r->types, "%s", s))
            return ccq_fail(r->err, CCQ_NO_MEMORY, "recipe: out of memory");
    }
    return CCQ_OK;
}

static ccq_code take_schema(reading *r, const char *key)
{
    const char *s = ccq_config_string(r->c, key);
    return s && strcmp(s, SCHEMA) == 0 ? CCQ_OK : bad(r, key, "is not \"" SCHEMA "\"");
}

static ccq_code take_version(reading *r, const char *key)
{
    int64_t version;
    ccq_code code = take_int(r, key, 1, INT32_MAX, &version);
    return code || version <= CCQ_OUTPUT_VERSION ? code
                                                 : bad(r, key, "is that of a newer ccq");
}

static ccq_code take_gain(reading *r, const char *key)
{
    int64_t gain = 0;
    ccq_code code = take_int(r, key, 0, 8, &gain);
    r->found.gain = (int)gain;
    return code;
}

static ccq_code take_shard(reading *r, const char *key)
{
    int64_t bytes = 0;
    ccq_code code = take_int(r, key, 0, (int64_t)1 << 53, &bytes);
    r->found.shard_bytes = (uint64_t)bytes;
    return code;
}

static ccq_code take_ranks(reading *r, const char *key)
{
    int64_t ranks = 0;
    ccq_code code = take_int(r, key, 1, CCQ_MAX_RANKS, &ranks);
    r->found.tensor_parallel = (int)ranks;
    return code;
}

static ccq_code take_force(reading *r, const char *key)
{
    return ccq_config_bool(r->c, key, &r->found.force) ? CCQ_OK
                                                       : bad(r, key, "is not true or false");
}

static ccq_code take_w4_end(reading *r, const char *key)
{
    return take_int(r, key, -1000000, 1000000, &r->found.w4_end_layer);
}

static ccq_code take_order(reading *r, const char *key)
{
    return take_name(r, key, orders, 2, &r->found.order);
}

static ccq_code take_rule(reading *r, const char *key)
{
    return take_name(r, key, rules, 2, &r->found.rule);
}

static ccq_code take_effort(reading *r, const char *key)
{
    return take_name(r, key, efforts, 3, &r->found.effort);
}

static ccq_code take_calibration(reading *r, const char *key)
{
    return take_name(r, key, kinds, 4, &r->found.calibration.kind);
}

static ccq_code take_tokens(reading *r, const char *key)
{
    return take_int(r, key, 2, INT32_MAX, &r->found.calibration.tokens);
}

static ccq_code take_window(reading *r, const char *key)
{
    return take_int(r, key, 2, INT32_MAX, &r->found.calibration.window);
}

static ccq_code take_windows(reading *r, const char *key)
{
    return take_int(r, key, 1, INT32_MAX, &r->found.calibration.windows);
}

static ccq_code take_h(reading *r, const char *key)
{
    return take_name(r, key, shares, 2, &r->found.calibration.shared);
}

static ccq_code take_draw(reading *r, const char *key)
{
    int64_t seed = 0;
    ccq_code code = take_int(r, key, 0, INT64_MAX, &seed);
    r->found.calibration.seed = (uint64_t)seed;
    return code;
}

static ccq_code take_ids(reading *r, const char *key)
{
    return take_int(r, key, 0, INT32_MAX, &r->found.calibration.valid);
}

/* What the statistics must be of: checked when they are there. */
static ccq_code take_digest(reading *r, const char *key)
{
    int64_t digest = 0;
    ccq_code code = take_int(r, key, 0, UINT32_MAX, &digest);
    r->found.calibration.wanted = (uint32_t)digest;
    r->found.calibration.is_wanted = 1;
    return code;
}

static ccq_code take_names(reading *r, const char *key)
{
    return take_name(r, key, namings, 2, &r->found.names);
}

/* A list without doubles; empty: none. */
static ccq_code take_transform(reading *r, const char *key)
{
    size_t count = ccq_config_array_size(r->c, key);
    if (ccq_config_kind(r->c, key) != CCQ_KIND_ARRAY)
        return bad(r, key, "is no list of transforms");
    r->found.transform = 0;
    for (size_t i = 0; i < count; i++) {
        const char *s = ccq_config_array_string(r->c, key, i);
        unsigned bit = !s                                ? 0
                       : strcmp(s, transforms[0]) == 0 ? CCQ_TRANSFORM_ROTATE
                       : strcmp(s, transforms[1]) == 0 ? CCQ_TRANSFORM_PERMUTE
                                                       : 0;
        if (!bit || (r->found.transform & bit))
            return bad(r, key, "is no list of transforms");
        r->found.transform |= bit;
    }
    return CCQ_OK;
}

static ccq_code take_seed(reading *r, const char *key)
{
    int64_t seed = 0;
    ccq_code code = take_int(r, key, 0, (int64_t)1 << 53, &seed);
    r->found.transform_seed = (uint64_t)seed;
    return code;
}

static ccq_code take_note(reading *r, const char *key)
{
    return ccq_config_string(r->c, key) ? CCQ_OK : bad(r, key, "is no text");
}

static ccq_code take_key(reading *r, const char *key)
{
    static const struct {
        const char *key;
        unsigned bit;
        ccq_code (*take)(reading *r, const char *key);
    } keys[] = {
        {"schema", 0, take_schema},
        {"output_version", 0, take_version},
        {"note", 0, take_note},
        {"scheme", CCQ_SET_SCHEME, take_scheme},
        {"w4_end_layer", CCQ_SET_W4_END, take_w4_end},
        {"k_order", CCQ_SET_ORDER, take_order},
        {"weight_only_rule", CCQ_SET_RULE, take_rule},
        {"effort", CCQ_SET_EFFORT, take_effort},
        {"gain", CCQ_SET_GAIN, take_gain},
        {"calibration", CCQ_SET_CALIBRATION, take_calibration},
        {"calibration_tokens", CCQ_SET_CALIBRATION, take_tokens},
        {"calibration_window", CCQ_SET_CALIBRATION, take_window},
        {"calibration_windows", CCQ_SET_CALIBRATION, take_windows},
        {"calibration_h", CCQ_SET_CALIBRATION, take_h},
        {"calibration_seed", CCQ_SET_CALIBRATION, take_draw},
        {"calibration_ids", CCQ_SET_CALIBRATION, take_ids},
        {"calibration_digest", CCQ_SET_CALIBRATION, take_digest},
        {"names", CCQ_SET_NAMES, take_names},
        {"shard_bytes", CCQ_SET_SHARD, take_shard},
        {"tensor_types", 0, take_types},
        {"force", CCQ_SET_FORCE, take_force},
        {"tensor_parallel", CCQ_SET_TP, take_ranks},
        {"transform", CCQ_SET_TRANSFORM, take_transform},
        {"transform_seed", CCQ_SET_TRANSFORM_SEED, take_seed},
    };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        if (strcmp(key, keys[i].key) != 0)
            continue;
        r->has |= keys[i].bit;
        return keys[i].take(r, key);
    }
    return bad(r, key, "is no key of a recipe");
}

/* Fills the fields of bits from the file. */
static void fill(ccq_quantize_options *o, const ccq_quantize_options *from, unsigned bits)
{
    if (bits & CCQ_SET_SCHEME)
        o->scheme = from->scheme;
    if (bits & CCQ_SET_W4_END)
        o->w4_end_layer = from->w4_end_layer;
    if (bits & CCQ_SET_ORDER)
        o->order = from->order;
    if (bits & CCQ_SET_RULE)
        o->rule = from->rule;
    if (bits & CCQ_SET_EFFORT)
        o->effort = from->effort;
    if (bits & CCQ_SET_GAIN)
        o->gain = from->gain;
    if (bits & CCQ_SET_CALIBRATION)
        o->calibration = from->calibration;
    if (bits & CCQ_SET_NAMES)
        o->names = from->names;
    if (bits & CCQ_SET_SHARD)
        o->shard_bytes = from->shard_bytes;
    if (bits & CCQ_SET_FORCE)
        o->force = from->force;
    if (bits & CCQ_SET_TP)
        o->tensor_parallel = from->tensor_parallel;
    if (bits & CCQ_SET_TRANSFORM)
        o->transform = from->transform;
    if (bits & CCQ_SET_TRANSFORM_SEED)
        o->transform_seed = from->transform_seed;
    o->set |= bits;
}

ccq_code ccq_recipe_read(ccq_quantize_options *options, ccq_text_list *types, const char *path,
                         ccq_error *err)
{
    char *text = NULL;
    size_t size = 0;
    ccq_config *c = NULL;
    ccq_code code = ccq_file_load(path, 1 << 20, CCQ_NO_INPUT, &text, &size, err);
    if (!code)
        code = ccq_config_parse(&c, text, size, path, err);
    free(text);
    reading r = {.c = c, .found = *options, .types = types, .err = err};
    for (size_t i = 0; !code && i < ccq_config_keys(c); i++)
        code = take_key(&r, ccq_config_key(c, i));
    if (!code && ccq_config_kind(c, "schema") == CCQ_KIND_ABSENT)
        code = bad(&r, "schema", "is missing");
    ccq_config_free(c);
    if (code)
        return code;
    unsigned bits = r.has & ~options->set;
    if ((options->set & CCQ_SET_SCHEME) && options->scheme != r.found.scheme)
        bits &= ~(unsigned)(CCQ_SET_W4_END | CCQ_SET_NAMES); /* they belong to its own scheme */
    /* under bf16 the order is that of the input, under the others that of the output */
    if ((options->set & CCQ_SET_SCHEME) &&
        (options->scheme == CCQ_SCHEME_BF16) != (r.found.scheme == CCQ_SCHEME_BF16))
        bits &= ~(unsigned)CCQ_SET_ORDER;
    fill(options, &r.found, bits);
    return CCQ_OK;
}

ccq_code ccq_recipe_transform(ccq_transform **t, const ccq_config *recipe, const ccq_source *src,
                              ccq_error *err)
{
    ccq_quantize_options found;
    reading r = {.c = recipe, .err = err};
    ccq_code code = CCQ_OK;
    *t = NULL;
    if (!recipe || ccq_config_kind(recipe, "transform") == CCQ_KIND_ABSENT)
        return CCQ_OK;
    ccq_quantize_defaults(&found);
    r.found = found;
    code = take_transform(&r, "transform");
    if (!code && ccq_config_kind(recipe, "transform_seed") != CCQ_KIND_ABSENT)
        code = take_seed(&r, "transform_seed");
    if (!code && ccq_config_kind(recipe, "tensor_parallel") != CCQ_KIND_ABSENT)
        code = take_ranks(&r, "tensor_parallel");
    if (code || !r.found.transform)
        return code;
    return ccq_transform_open(t, src, r.found.transform, r.found.transform_seed,
                              r.found.tensor_parallel, err);
}
