/* Writes a random ERNIE-4.5 MoE checkpoint in BF16 with Paddle names, of any size:
 *
 *     make_checkpoint [--size 8G] [--layers N] [--hidden H] [--inter I] [--experts N]
 *                     [--vocab V] [--seed S] [--shard SIZE] [--sparse] DIR
 *
 * Gaussian weights; --sparse: holes, which read as zeros and take no disk. The number
 * of layers follows from --size unless it is given. DIR must not exist. */
#include "formats/checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { GROUP = 4, CHUNK = 4 << 20, LEVELS = 1 << 16, MAX_LAYERS = 1024 };

typedef struct model {
    const char *dir;
    uint64_t size, shard, seed;
    int64_t layers, hidden, inter, experts, vocab, heads, kv_heads, head_dim;
    int sparse;
    ccq_layout *layout;
    uint16_t *gauss; /* bf16, one a 16-bit draw */
    uint16_t *chunk;
} model;

static void die(const char *what, const char *name)
{
    fprintf(stderr, "make_checkpoint: %s%s%s\n", what, name ? ": " : "", name ? name : "");
    exit(1);
}

/* ---- Which tensors ------------------------------------------------------------- */

/* k = 0: a vector. */
CCQ_PRINTF(5, 6)
static void add(model *m, ccq_dtype type, uint64_t k, uint64_t n, const char *fmt, ...)
{
    uint64_t matrix[2] = {k, n};
    char name[200];
    va_list list;
    va_start(list, fmt);
    vsnprintf(name, sizeof name, fmt, list);
    va_end(list);
    if (ccq_layout_add(m->layout, name, type, k ? 2 : 1, k ? matrix : &n) == SIZE_MAX)
        die("out of memory", NULL);
}

static void add_mlp(model *m, int64_t layer, const char *where, int64_t inter)
{
    uint64_t h = (uint64_t)m->hidden, i = (uint64_t)inter;
    add(m, CCQ_DT_BF16, h, 2 * i, "ernie.layers.%" PRId64 ".mlp.%sup_gate_proj.weight", layer,
        where);
    add(m, CCQ_DT_BF16, i, h, "ernie.layers.%" PRId64 ".mlp.%sdown_proj.weight", layer, where);
}

static void add_layer(model *m, int64_t layer)
{
    uint64_t h = (uint64_t)m->hidden, q = (uint64_t)(m->heads * m->head_dim);
    uint64_t kv = (uint64_t)(m->kv_heads * m->head_dim), e = (uint64_t)m->experts;
    char at[64], where[64];
    snprintf(at, sizeof at, "ernie.layers.%" PRId64, layer);
    add(m, CCQ_DT_BF16, 0, h, "%s.input_layernorm.weight", at);
    add(m, CCQ_DT_BF16, h, q + 2 * kv, "%s.self_attn.qkv_proj.weight", at);
    add(m, CCQ_DT_BF16, q, h, "%s.self_attn.o_proj.weight", at);
    add(m, CCQ_DT_BF16, 0, h, "%s.post_attention_layernorm.weight", at);
    if (layer == 0) {
        add_mlp(m, layer, "", 2 * m->inter);
        return;
    }
    add(m, CCQ_DT_F32, h, e, "%s.mlp.gate.weight", at);
    add(m, CCQ_DT_F32, 1, e, "%s.mlp.moe_statics.e_score_correction_bias", at);
    for (int64_t i = 0; i < m->experts; i++) {
        snprintf(where, sizeof where, "experts.%" PRId64 ".", i);
        add_mlp(m, layer, where, m->inter);
    }
    add_mlp(m, layer, "shared_experts.", m->inter);
}

static void lay_out(model *m)
{
    uint64_t h = (uint64_t)m->hidden, v = (uint64_t)m->vocab;
    ccq_error err;
    m->layout = ccq_layout_new("np", m->shard);
    if (!m->layout)
        die("out of memory", NULL);
    add(m, CCQ_DT_BF16, v, h, "ernie.embed_tokens.weight");
    for (int64_t i = 0; i < m->layers; i++)
        add_layer(m, i);
    add(m, CCQ_DT_BF16, 0, h, "ernie.norm.weight");
    add(m, CCQ_DT_BF16, h, v, "lm_head.weight");
    if (ccq_layout_finish(m->layout, &err))
        die(err.text, NULL);
}

/* Layers that bring the whole nearest to size: the first is dense. */
static int64_t layers_of(const model *m)
{
    double h = (double)m->hidden, i = (double)m->inter, q = (double)(m->heads * m->head_dim);
    double kv = (double)(m->kv_heads * m->head_dim);
    double attention = 2 * h * (2 * q + 2 * kv), dense = 2 * h * 3 * 2 * i;
    double moe = 2 * h * 3 * i * ((double)m->experts + 1) + 4 * h * (double)m->experts;
    double rest = (double)m->size - 4 * h * (double)m->vocab - attention - dense;
    double layers = 1 + floor(rest / (attention + moe) + 0.5);
    return layers < 2 ? 2 : layers > MAX_LAYERS ? MAX_LAYERS : (int64_t)layers;
}

/* ---- Weights --------------------------------------------------------------------- */

static uint16_t bf16(double x)
{
    float f = (float)x;
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* Quantiles of N(0, 0.02), by Newton's method from each one to the next. */
static void make_gauss(uint16_t *gauss)
{
    double x = 0;
    for (int i = 0; i < LEVELS / 2; i++) {
        double p = 0.5 + (i + 0.5) / LEVELS;
        for (int turn = 0; turn < 6; turn++)
            x += (p - 0.5 * erfc(-x / sqrt(2))) / (exp(-x * x / 2) * 0.3989422804014327);
        gauss[LEVELS / 2 + i] = bf16(0.02 * x);
        gauss[LEVELS / 2 - 1 - i] = bf16(-0.02 * x);
    }
}

static uint64_t draw(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

/* count bf16 weights, count rounded up to a multiple of 4. */
static void fill_bf16(const model *m, uint64_t *state, size_t count)
{
    for (size_t i = 0; i < count; i += 4) {
        uint64_t z = draw(state);
        m->chunk[i] = m->gauss[z & 0xffff];
        m->chunk[i + 1] = m->gauss[z >> 16 & 0xffff];
        m->chunk[i + 2] = m->gauss[z >> 32 & 0xffff];
        m->chunk[i + 3] = m->gauss[z >> 48];
    }
}

static void fill_f32(const model *m, uint64_t *state, size_t count)
{
    uint32_t *x = (uint32_t *)(void *)m->chunk;
    for (size_t i = 0; i < count; i++)
        x[i] = (uint32_t)m->gauss[draw(state) & 0xffff] << 16;
}

static void fill_norm(const model *m, size_t count)
{
    for (size_t i = 0; i < count; i++)
        m->chunk[i] = bf16(1.0);
}

/* ---- Files ------------------------------------------------------------------------- */

static void put(int fd, const char *path, uint64_t at, const void *data, uint64_t size)
{
    const char *p = data;
    while (size) {
        ssize_t n = pwrite(fd, p, (size_t)size, (off_t)at);
        if (n <= 0)
            die(path, strerror(errno));
        p += n;
        at += (uint64_t)n;
        size -= (uint64_t)n;
    }
}

static void put_tensor(const model *m, int fd, const char *path, size_t i)
{
    const ccq_layout_tensor *t = ccq_layout_at(m->layout, i);
    uint64_t state = m->seed + (uint64_t)i * 0xD1342543DE82EF95u;
    for (uint64_t at = 0; at < t->bytes; at += CHUNK) {
        uint64_t size = t->bytes - at < CHUNK ? t->bytes - at : CHUNK;
        if (t->dtype == CCQ_DT_F32)
            fill_f32(m, &state, size / 4);
        else if (t->rank == 1)
            fill_norm(m, size / 2);
        else
            fill_bf16(m, &state, size / 2);
        put(fd, path, t->offset + at, m->chunk, size);
    }
}

static int create(const model *m, const char *name, char *path, size_t size)
{
    snprintf(path, size, "%s/%s", m->dir, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0666);
    if (fd < 0)
        die(path, strerror(errno));
    return fd;
}

static void put_shard(const model *m, size_t shard)
{
    char path[4096];
    uint64_t size;
    const void *header = ccq_layout_header(m->layout, shard, &size);
    int fd = create(m, ccq_layout_shard_name(m->layout, shard), path, sizeof path);
    put(fd, path, 0, header, size);
    if (ftruncate(fd, (off_t)ccq_layout_shard_bytes(m->layout, shard)) != 0)
        die(path, strerror(errno));
    for (size_t i = 0; !m->sparse && i < ccq_layout_count(m->layout); i++)
        if (ccq_layout_at(m->layout, i)->shard == shard)
            put_tensor(m, fd, path, i);
    if (close(fd) != 0)
        die(path, strerror(errno));
}

static void put_text(const model *m, const char *name, const char *text, size_t size)
{
    char path[4096];
    int fd = create(m, name, path, sizeof path);
    put(fd, path, 0, text, size);
    close(fd);
}

static void put_config(const model *m)
{
    char text[2000];
    int size = snprintf(
        text, sizeof text,
        "{\n  \"architectures\": [\"Ernie4_5_MoeForCausalLM\"],\n"
        "  \"model_type\": \"ernie4_5_moe\",\n  \"dtype\": \"bfloat16\",\n"
        "  \"hidden_size\": %" PRId64 ",\n  \"intermediate_size\": %" PRId64 ",\n"
        "  \"num_hidden_layers\": %" PRId64 ",\n  \"num_attention_heads\": %" PRId64 ",\n"
        "  \"num_key_value_heads\": %" PRId64 ",\n  \"head_dim\": %" PRId64 ",\n"
        "  \"vocab_size\": %" PRId64 ",\n  \"max_position_embeddings\": 8192,\n"
        "  \"moe_num_experts\": %" PRId64 ",\n  \"moe_intermediate_size\": %" PRId64 ",\n"
        "  \"moe_k\": %d,\n  \"moe_num_shared_experts\": 1,\n"
        "  \"moe_layer_start_index\": 1,\n  \"moe_layer_end_index\": %" PRId64 ",\n"
        "  \"moe_layer_interval\": 1,\n  \"use_bias\": false,\n"
        "  \"tie_word_embeddings\": false,\n  \"hidden_act\": \"silu\",\n"
        "  \"rms_norm_eps\": 1e-05,\n  \"rope_theta\": 500000.0,\n"
        "  \"bos_token_id\": 1,\n  \"eos_token_id\": 2,\n  \"pad_token_id\": 0\n}\n",
        m->hidden, 2 * m->inter, m->layers, m->heads, m->kv_heads, m->head_dim, m->vocab,
        m->experts, m->inter, m->experts < 6 ? (int)m->experts : 6, m->layers - 1);
    put_text(m, "config.json", text, (size_t)size);
}

/* ---- Arguments ------------------------------------------------------------------------ */

static uint64_t number(const char *text)
{
    char *end;
    double x = strtod(text, &end);
    static const char units[] = "kMGT";
    const char *unit = *end ? strchr(units, *end) : NULL;
    for (const char *u = units; unit && u <= unit; u++)
        x *= 1000;
    if (!(x >= 0) || x > 1e18 || (*end && (!unit || end[1])))
        die("no number", text);
    return (uint64_t)x;
}

static void read_arguments(model *m, int argc, char **argv)
{
    static const struct option options[] = {
        {"size", 1, 0, 's'},    {"layers", 1, 0, 'l'}, {"hidden", 1, 0, 'h'}, {"inter", 1, 0, 'i'},
        {"experts", 1, 0, 'e'}, {"vocab", 1, 0, 'v'},  {"seed", 1, 0, 'r'},   {"shard", 1, 0, 'd'},
        {"sparse", 0, 0, 'z'},  {0, 0, 0, 0}};
    int c;
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        uint64_t x = optarg ? number(optarg) : 0;
        int64_t *size = c == 'l'   ? &m->layers
                        : c == 'h' ? &m->hidden
                        : c == 'i' ? &m->inter
                        : c == 'e' ? &m->experts
                                   : &m->vocab;
        if (c == '?')
            exit(64);
        else if (c == 's' || c == 'r' || c == 'd')
            *(c == 's' ? &m->size : c == 'r' ? &m->seed : &m->shard) = x;
        else if (c == 'z')
            m->sparse = 1;
        else if (x < 1 || x > 1 << 24)
            die("a size is out of range", optarg);
        else
            *size = (int64_t)x;
    }
    if (argc - optind != 1)
        die("one DIR is wanted", NULL);
    m->dir = argv[optind];
    if (m->hidden % 128 || m->inter % 128)
        die("--hidden and --inter must be multiples of 128", NULL);
    m->head_dim = m->hidden % 1024 ? 32 : 128;
    m->heads = m->hidden / m->head_dim;
    m->kv_heads = m->heads / GROUP;
}

int main(int argc, char **argv)
{
    model m = {.size = 512000000, .shard = 1000000000, .seed = 1, .hidden = 1024, .inter = 512,
               .experts = 32, .vocab = 4096};
    size_t size;
    read_arguments(&m, argc, argv);
    if (!m.layers)
        m.layers = layers_of(&m);
    m.gauss = malloc(LEVELS * sizeof *m.gauss);
    m.chunk = malloc(CHUNK);
    if (!m.gauss || !m.chunk)
        die("out of memory", NULL);
    make_gauss(m.gauss);
    lay_out(&m);
    if (mkdir(m.dir, 0777) != 0)
        die(m.dir, strerror(errno));
    for (size_t i = 0; i < ccq_layout_shards(m.layout); i++)
        put_shard(&m, i);
    char *index = ccq_layout_index(m.layout, &size);
    if (!index)
        die("out of memory", NULL);
    put_text(&m, "model.safetensors.index.json", index, size);
    put_config(&m);
    printf("%s: %" PRId64 " layers, %zu tensors, %" PRIu64 " bytes\n", m.dir, m.layers,
           ccq_layout_count(m.layout), ccq_layout_tensor_bytes(m.layout));
    free(index);
    ccq_layout_free(m.layout);
    free(m.chunk);
    free(m.gauss);
    return 0;
}
