/* The table of tensor names: Paddle (ernie.) and torch (model.) spellings, joined
 * or separate projections, plain or quantized. docs/format.md, "Names". */
#include "libccq/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Takes prefix off *s; 1 when it was there. */
static int eat(const char **s, const char *prefix)
{
    size_t n = strlen(prefix);
    if (strncmp(*s, prefix, n) != 0)
        return 0;
    *s += n;
    return 1;
}

/* A number without leading zeros and a dot behind it; -1 when there is none. */
static int eat_number(const char **s)
{
    const char *p = *s;
    int v = 0;
    if (*p < '0' || *p > '9' || (*p == '0' && p[1] != '.'))
        return -1;
    for (; *p >= '0' && *p <= '9'; p++) {
        if (v > 99999)
            return -1;
        v = v * 10 + (*p - '0');
    }
    if (*p != '.')
        return -1;
    *s = p + 1;
    return v;
}

static const char *const suffix_names[CCQ_SUFFIXES] = {
    ".weight", ".quant_weight", ".weight_scale", ".super_scales", ".code_scale", ".code_zp"};

static int parse_suffix(const char *s, ccq_slot *slot)
{
    int i;
    if (strcmp(s, ".bias") == 0) {
        slot->bias = 1;
        return 1;
    }
    for (i = 0; i < CCQ_SUFFIXES; i++)
        if (strcmp(s, suffix_names[i]) == 0) {
            slot->suffix = (ccq_suffix)i;
            return 1;
        }
    return 0;
}

static const struct {
    const char *name;
    ccq_role role;
    int part;
} linears[] = {
    {"qkv_proj", CCQ_ROLE_QKV, 0},         {"q_proj", CCQ_ROLE_QKV, 1},
    {"k_proj", CCQ_ROLE_QKV, 2},           {"v_proj", CCQ_ROLE_QKV, 3},
    {"o_proj", CCQ_ROLE_O, 0},             {"up_gate_proj", CCQ_ROLE_UP_GATE, 0},
    {"gate_proj", CCQ_ROLE_UP_GATE, 1},    {"up_proj", CCQ_ROLE_UP_GATE, 2},
    {"down_proj", CCQ_ROLE_DOWN, 0},
};

static int parse_linear(const char *s, ccq_slot *slot)
{
    size_t i;
    for (i = 0; i < sizeof linears / sizeof *linears; i++) {
        const char *rest = s;
        int attention = linears[i].role == CCQ_ROLE_QKV || linears[i].role == CCQ_ROLE_O;
        if (!eat(&rest, linears[i].name) || attention != (slot->block == CCQ_BLOCK_ATTENTION))
            continue;
        if (*rest != '.')
            continue;
        slot->role = linears[i].role;
        slot->part = linears[i].part;
        return parse_suffix(rest, slot);
    }
    return 0;
}

static int parse_plain(const char *s, const char *name, ccq_role role, ccq_slot *slot)
{
    if (strcmp(s, name) != 0)
        return 0;
    slot->role = role;
    slot->block = CCQ_BLOCK_NONE;
    return 1;
}

static int parse_layer(const char *s, ccq_slot *slot)
{
    slot->layer = eat_number(&s);
    if (slot->layer < 0)
        return 0;
    if (eat(&s, "self_attn.")) {
        slot->block = CCQ_BLOCK_ATTENTION;
        return parse_linear(s, slot);
    }
    if (parse_plain(s, "input_layernorm.weight", CCQ_ROLE_NORM_IN, slot) ||
        parse_plain(s, "post_attention_layernorm.weight", CCQ_ROLE_NORM_POST, slot) ||
        parse_plain(s, "mlp.gate.weight", CCQ_ROLE_ROUTER, slot) ||
        parse_plain(s, "mlp.moe_statics.e_score_correction_bias", CCQ_ROLE_ROUTER_BIAS, slot) ||
        parse_plain(s, "mlp.gate.moe_statics.e_score_correction_bias", CCQ_ROLE_ROUTER_BIAS, slot))
        return 1;
    if (!eat(&s, "mlp."))
        return 0;
    if (eat(&s, "shared_experts.")) {
        slot->block = CCQ_BLOCK_SHARED;
    } else if (eat(&s, "experts.")) {
        slot->block = CCQ_BLOCK_EXPERT;
        slot->expert = eat_number(&s);
        if (slot->expert < 0)
            return 0;
    } else {
        slot->block = CCQ_BLOCK_DENSE;
    }
    return parse_linear(s, slot);
}

ccq_naming ccq_name_parse(const char *name, ccq_slot *slot)
{
    const char *s = name;
    memset(slot, 0, sizeof *slot);
    slot->layer = slot->expert = -1;
    if (eat(&s, "lm_head") && strcmp(s, ".bias") != 0 && parse_suffix(s, slot)) {
        slot->role = CCQ_ROLE_HEAD;
        return CCQ_NAME_KNOWN;
    }
    s = name;
    if (eat(&s, "mtp_"))
        return CCQ_NAME_MTP;
    slot->torch = eat(&s, "model.");
    if (!slot->torch && !eat(&s, "ernie."))
        return CCQ_NAME_UNKNOWN;
    if (eat(&s, "mtp_"))
        return CCQ_NAME_MTP;
    if (parse_plain(s, "embed_tokens.weight", CCQ_ROLE_EMBED, slot) ||
        parse_plain(s, "norm.weight", CCQ_ROLE_NORM, slot))
        return CCQ_NAME_KNOWN;
    return eat(&s, "layers.") && parse_layer(s, slot) ? CCQ_NAME_KNOWN : CCQ_NAME_UNKNOWN;
}

static const char *linear_part(ccq_role role, int part)
{
    for (size_t i = 0; i < sizeof linears / sizeof *linears; i++)
        if (linears[i].role == role && linears[i].part == part)
            return linears[i].name;
    return NULL;
}

static const char *linear_joined(ccq_role role)
{
    return role == CCQ_ROLE_QKV || role == CCQ_ROLE_UP_GATE ? linear_part(role, 0) : NULL;
}

static const char *linear_name(const ccq_slot *slot)
{
    switch (slot->role) {
    case CCQ_ROLE_QKV:
        return "self_attn.qkv_proj";
    case CCQ_ROLE_O:
        return "self_attn.o_proj";
    case CCQ_ROLE_UP_GATE:
        return "up_gate_proj";
    default:
        return "down_proj";
    }
}

void ccq_name_write(const ccq_slot *slot, char *out, size_t size)
{
    const char *bias = slot->bias ? ".bias" : "";
    int layer = slot->layer;
    switch (slot->role) {
    case CCQ_ROLE_EMBED:
        snprintf(out, size, "ernie.embed_tokens.weight");
        return;
    case CCQ_ROLE_NORM:
        snprintf(out, size, "ernie.norm.weight");
        return;
    case CCQ_ROLE_HEAD:
        snprintf(out, size, "lm_head.weight");
        return;
    case CCQ_ROLE_NORM_IN:
        snprintf(out, size, "ernie.layers.%d.input_layernorm.weight", layer);
        return;
    case CCQ_ROLE_NORM_POST:
        snprintf(out, size, "ernie.layers.%d.post_attention_layernorm.weight", layer);
        return;
    case CCQ_ROLE_ROUTER:
        snprintf(out, size, "ernie.layers.%d.mlp.gate.weight", layer);
        return;
    case CCQ_ROLE_ROUTER_BIAS:
        snprintf(out, size, "ernie.layers.%d.mlp.moe_statics.e_score_correction_bias", layer);
        return;
    default:
        break;
    }
    if (slot->block == CCQ_BLOCK_EXPERT)
        snprintf(out, size, "ernie.layers.%d.mlp.experts.%d.%s%s", layer, slot->expert,
                 linear_name(slot), bias);
    else if (slot->block == CCQ_BLOCK_SHARED)
        snprintf(out, size, "ernie.layers.%d.mlp.shared_experts.%s%s", layer, linear_name(slot),
                 bias);
    else
        snprintf(out, size, "ernie.layers.%d.%s%s%s", layer,
                 slot->block == CCQ_BLOCK_DENSE ? "mlp." : "", linear_name(slot), bias);
}

/* The torch spelling of an entry's name: what the part (0: all; 1, 2, 3: q, k, v
 * or gate, up) is called on its own. */
void ccq_name_torch(const ccq_entry *e, int part, char *out, size_t size)
{
    const char *name = e->name, *ernie = "ernie.", *joined = linear_joined(e->role);
    const char *at = part && joined ? strstr(name, joined) : NULL;
    const char *weight = ccq_entry_linear(e) ? ".weight" : "";
    const char *prefix = eat(&name, ernie) ? "model." : "";
    if (!at)
        snprintf(out, size, "%s%s%s", prefix, name, weight);
    else
        snprintf(out, size, "%s%.*s%s%s%s", prefix, (int)(at - name), name,
                 linear_part(e->role, part), at + strlen(joined), weight);
}

/* Embedding, layers, last norm, head. */
static int stage(const ccq_slot *s)
{
    if (s->layer >= 0)
        return 1;
    return s->role == CCQ_ROLE_EMBED ? 0 : s->role == CCQ_ROLE_NORM ? 2 : 3;
}

static int compare_int(int a, int b)
{
    return (a > b) - (a < b);
}

int ccq_slot_compare(const ccq_slot *a, const ccq_slot *b)
{
    int c = compare_int(stage(a), stage(b));
    if (c == 0)
        c = compare_int(a->layer, b->layer);
    /* Attention with its norm, then the router, then dense, shared, experts. */
    if (c == 0)
        c = compare_int(a->role >= CCQ_ROLE_UP_GATE ? (int)a->block : 0,
                        b->role >= CCQ_ROLE_UP_GATE ? (int)b->block : 0);
    if (c == 0)
        c = compare_int(a->expert, b->expert);
    if (c == 0)
        c = compare_int((int)a->role, (int)b->role);
    return c ? c : compare_int(a->bias, b->bias);
}
