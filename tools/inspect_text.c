/* ccq-inspect for a person: tables on stdout, names from files escaped. */
#include "tools/inspect.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_BYTES = 300, CELL = 40 };

#define BOLD "\033[1m"
#define RED "\033[31m"
#define GREEN "\033[32m"
#define PLAIN "\033[0m"

static const char *on(const inspect *in, const char *sequence)
{
    return in->c.color ? sequence : "";
}

static const char *safe(const char *name, char out[NAME_BYTES])
{
    return ccq_escape(out, NAME_BYTES, name, strlen(name));
}

/* 1757332 -> "1,757,332"; out holds 32 bytes. */
static const char *grouped(uint64_t v, char *out)
{
    char digits[24];
    int n = snprintf(digits, sizeof digits, "%" PRIu64, v), at = 0;
    for (int i = 0; i < n; i++) {
        if (i && (n - i) % 3 == 0)
            out[at++] = ',';
        out[at++] = digits[i];
    }
    out[at] = 0;
    return out;
}

/* ---- Summary -------------------------------------------------------------- */

static void print_shapes(const ccq_arch *a)
{
    printf("  shapes      %lld layers, hidden %lld, heads %lld (%lld kv) of %lld, "
           "vocabulary %lld%s\n",
           (long long)a->layers, (long long)a->hidden, (long long)a->heads,
           (long long)a->kv_heads, (long long)a->head_dim, (long long)a->vocab,
           a->tied ? ", head tied to the embedding" : "");
    if (a->inter)
        printf("              dense layers %lld wide\n", (long long)a->inter);
    if (a->experts)
        printf("              layers %lld..%lld with %lld experts of %lld, %lld chosen, "
               "%lld shared\n",
               (long long)a->moe_start, (long long)a->moe_end, (long long)a->experts,
               (long long)a->moe_inter, (long long)a->moe_k, (long long)a->shared);
}

static void print_types(const ccq_summary *s)
{
    char bytes[24], number[32];
    printf("\n  type     tensors       parameters        size   bits/weight\n");
    for (int t = CCQ_TYPES - 1; t >= 0; t--)
        if (s->type[t].entries)
            printf("  %-6s %9" PRIu64 "  %15s  %10s  %12.4f\n", ccq_type_name((ccq_type)t),
                   s->type[t].entries, grouped(s->type[t].parameters, number),
                   cli_bytes(bytes, sizeof bytes, s->type[t].bytes),
                   ccq_total_bits(&s->type[t]));
    printf("  %-6s %9" PRIu64 "  %15s  %10s  %12.4f\n", "all", s->all.entries,
           grouped(s->all.parameters, number), cli_bytes(bytes, sizeof bytes, s->all.bytes),
           ccq_total_bits(&s->all));
    if (s->quantized.entries)
        printf("  quantized weights alone: %.4f bits per weight\n", ccq_total_bits(&s->quantized));
}

static void print_list(const char *title, const char *const *name, size_t count)
{
    char text[NAME_BYTES];
    int column = printf("  %-12s", title);
    if (!count)
        printf("none");
    for (size_t i = 0; i < count; i++) {
        int len = (int)strlen(safe(name[i], text));
        if (i && column + len + 2 > 100)
            column = printf("\n%14s", "") - 1;
        else if (i)
            column += printf(" ");
        column += printf("%s%s", text, i + 1 < count ? "," : "");
    }
    putchar('\n');
}

/* How many differ from the last seen; with -v all are listed. */
static void print_skipped(const inspect *in)
{
    const ccq_source *src = in->src;
    if (!src->skips)
        return;
    if (in->c.verbose)
        print_list("skipped", src->skipped, src->skips);
    else
        printf("  skipped     %zu tensors for multi-token prediction (-v lists them)\n",
               src->skips);
}

/* "wint2 pp_acc g64  14.5 MiB  2.0664". */
static void print_cell(const ccq_layer_part *p, int width)
{
    char type[32], bytes[24], cell[120] = "-", group[16] = "";
    if (p->types) {
        if (ccq_part_group_size(p))
            snprintf(group, sizeof group, " g%d", ccq_part_group_size(p));
        int left = snprintf(cell, sizeof cell, "%s %s%s", ccq_part_type(p, type, sizeof type),
                            ccq_part_granularity(p), group);
        snprintf(cell + left, sizeof cell - (size_t)left, "%*s %10s %7.4f",
                 left < 17 ? 17 - left : 0, "",
                 cli_bytes(bytes, sizeof bytes, p->total.bytes), ccq_total_bits(&p->total));
    }
    printf("%-*s", width, cell);
}

static void print_layers(const inspect *in)
{
    const ccq_summary *s = &in->summary;
    printf("\n%s  %-8s%-*s%-*s%s%s\n", on(in, BOLD), "layers", CELL, "attention", CELL,
           "dense / shared", "experts", on(in, PLAIN));
    printf("  %-8stype, granularity, group, bytes, bits per weight\n", "");
    for (size_t i = 0, j; i < s->layers; i = j) {
        char label[48];
        for (j = i + 1; j < s->layers && !in->c.verbose; j++)
            if (!ccq_layer_same(&s->layer[i], &s->layer[j]))
                break;
        if (j == i + 1)
            snprintf(label, sizeof label, "%zu", i);
        else
            snprintf(label, sizeof label, "%zu-%zu", i, j - 1);
        const ccq_layer_part *p = s->layer[i].part;
        printf("  %-8s", label);
        print_cell(&p[CCQ_PART_ATTENTION], CELL);
        print_cell(&p[p[CCQ_PART_MLP].types ? CCQ_PART_MLP : CCQ_PART_SHARED], CELL);
        print_cell(&p[CCQ_PART_EXPERTS], 0);
        putchar('\n');
    }
    printf("  bytes of a row are those of one layer\n");
}

void inspect_print_summary(const inspect *in)
{
    const ccq_source *src = in->src;
    const ccq_summary *s = &in->summary;
    char text[NAME_BYTES], bytes[24], number[32];
    printf("%s%s%s\n", on(in, BOLD), safe(in->model, text), on(in, PLAIN));
    printf("  family      %s, %s names\n", inspect_family(src),
           src->arch.torch_names ? "torch" : "Paddle");
    print_shapes(&src->arch);
    printf("  parameters  %s\n", grouped(s->all.parameters, number));
    printf("  files       %s in %zu file%s\n", cli_bytes(bytes, sizeof bytes, s->file_bytes),
           ccq_checkpoint_shards(src->files),
           ccq_checkpoint_shards(src->files) == 1 ? "" : "s");
    if (inspect_has_wint2(s))
        printf("  K order     %s, %s\n", inspect_order(src),
               src->arch.order_recorded ? "recorded in ccq_recipe.json" : "not recorded: assumed");
    print_list("config keys", s->used, s->useds);
    print_list("not used", s->ignored, s->ignoreds);
    print_list("notes", (const char *const *)src->note, src->notes);
    print_skipped(in);
    print_types(s);
    print_layers(in);
}

/* ---- One tensor ----------------------------------------------------------- */

static void print_stored(const inspect *in, const ccq_tensor *t)
{
    char name[NAME_BYTES], shard[NAME_BYTES], shape[200] = "";
    int used = 0;
    for (int i = 0; i < t->rank && used < 170; i++)
        used += snprintf(shape + used, sizeof shape - (size_t)used, "%s%" PRIu64, i ? ", " : "",
                         t->shape[i]);
    printf("  %s  %s [%s]  %s  offset %" PRIu64 "  %" PRIu64 " bytes\n", safe(t->name, name),
           ccq_dtype_name((ccq_dtype)t->dtype), shape,
           safe(ccq_checkpoint_shard(in->src->files, t->shard)->name, shard), t->offset, t->bytes);
}

static void print_values(const char *what, const ccq_values *v)
{
    printf("  %s: min %.6g, max %.6g, mean %.6g, rms %.6g, %" PRIu64 " of %" PRIu64
           " zero, %" PRIu64 " not finite\n",
           what, v->min, v->max, v->mean, v->rms, v->zeros, v->count, v->nonfinite);
}

/* One character a code, darker = more frequent, 64 a line; -v adds the counts. */
static void print_histogram(const inspect *in, const char *what, const uint64_t *count, int n)
{
    static const char ink[] = ".:-=+*#%@";
    uint64_t all = 0, most = 0;
    double entropy = 0;
    int used = 0, i;
    for (i = 0; i < n; i++) {
        all += count[i];
        most = count[i] > most ? count[i] : most;
        used += count[i] > 0;
    }
    for (i = 0; i < n; i++)
        if (count[i])
            entropy -= (double)count[i] / (double)all * log2((double)count[i] / (double)all);
    printf("  %s: %d of %d used, entropy %.3f bits, most frequent %" PRIu64 " times\n", what,
           used, n, entropy, most);
    for (i = 0; i < n; i++) {
        int level = most ? (int)((double)(sizeof ink - 2) * (double)count[i] / (double)most) : 0;
        printf("%s%c%s", i % 64 == 0 ? "    " : "", count[i] ? ink[level] : ' ',
               i % 64 == 63 || i == n - 1 ? "|\n" : "");
    }
    for (i = 0; i < n && in->c.verbose; i++)
        printf("%s%3d:%-9" PRIu64 "%s", i % 8 == 0 ? "    " : " ", i, count[i],
               i % 8 == 7 || i == n - 1 ? "\n" : "");
}

static void print_lines(const inspect *in, const ccq_detail *d)
{
    size_t shown = in->c.verbose ? d->lines : d->lines < 8 ? d->lines : 8;
    printf("  words v: %d..%d over all 256 bytes\n", d->v_min, d->v_max);
    printf("  lines: %zu distinct\n", d->lines);
    for (size_t i = 0; i < shown; i++)
        printf("    code_scale %.9g, code_zp %.9g: %" PRIu64 " columns\n", (double)d->line[i].cs,
               (double)d->line[i].zp, d->line[i].columns);
    if (shown < d->lines)
        printf("    and %zu more (-v)\n", d->lines - shown);
}

static void print_detail(const inspect *in, const ccq_detail *d)
{
    const ccq_entry *e = d->entry;
    char name[NAME_BYTES], bytes[24];
    double bits = 8.0 * (double)ccq_entry_bytes(e) / (double)ccq_entry_parameters(e);
    printf("%s%s%s  [%lld, %lld]  %s  %s  %.4f bits per weight\n", on(in, BOLD),
           safe(e->name, name), on(in, PLAIN), (long long)e->k, (long long)e->n,
           ccq_type_name(e->type), cli_bytes(bytes, sizeof bytes, ccq_entry_bytes(e)), bits);
    for (int i = 0; i < d->tensors; i++)
        print_stored(in, d->tensor[i]);
    print_values(e->type == CCQ_TYPE_WINT2 ? "super_scales"
                 : e->weight_scale         ? "weight_scale"
                                           : "values",
                 &d->values);
    if (e->type == CCQ_TYPE_WINT4)
        print_histogram(in, "integers + 8", d->code, 16);
    else if (e->type == CCQ_TYPE_WINT8)
        print_histogram(in, "integers + 128", d->code, 256);
    else if (e->type == CCQ_TYPE_FP8)
        print_histogram(in, "codes", d->code, 256);
    if (e->type != CCQ_TYPE_WINT2)
        return;
    print_histogram(in, "codes", d->code, 256);
    print_histogram(in, "local scales", d->local, 16);
    print_lines(in, d);
}

void inspect_print_details(const inspect *in)
{
    for (size_t i = 0; i < in->details; i++)
        print_detail(in, &in->detail[i]);
}

/* ---- Against the source --------------------------------------------------- */

static void print_figures(const ccq_difference *d)
{
    double sqnr = ccq_difference_sqnr(d), rel = ccq_difference_rel_l2(d);
    if (d->error == 0)
        printf("%9s", "exact");
    else if (isnan(sqnr))
        printf("%9s", "-");
    else
        printf("%9.3f", sqnr);
    printf("  %11.6g  %11.6g  %11.9f\n", isnan(rel) ? 0 : rel, d->max_abs,
           isnan(ccq_difference_cosine(d)) ? 0 : ccq_difference_cosine(d));
}

void inspect_print_against_head(const inspect *in)
{
    printf("%s%-56s %-6s  SQNR dB  relative L2      max |e|       cosine%s\n", on(in, BOLD),
           "tensor", "type", on(in, PLAIN));
}

/* Copies that are equal are counted at the end; -v lists them. */
void inspect_print_row(const inspect *in, const inspect_row *row)
{
    char name[NAME_BYTES];
    const ccq_entry *e = row->entry;
    if (!e->weight_scale && row->difference.equal && !in->c.verbose)
        return;
    printf("%-56s %-6s", safe(e->name, name), ccq_type_name(e->type));
    print_figures(&row->difference);
}

void inspect_print_totals(const inspect *in)
{
    size_t copies = 0, equal = 0;
    printf("\n%stotals%s\n", on(in, BOLD), on(in, PLAIN));
    for (int t = CCQ_TYPES - 1; t >= 0; t--) {
        ccq_difference sum = {0};
        size_t count = 0;
        char text[64];
        for (size_t i = 0; i < in->rows; i++) {
            if (in->row[i].entry->type != (ccq_type)t)
                continue;
            ccq_difference_add(&sum, &in->row[i].difference);
            count++;
        }
        if (!count)
            continue;
        snprintf(text, sizeof text, "%zu tensors", count);
        printf("%-56s %-6s", text, ccq_type_name((ccq_type)t));
        print_figures(&sum);
    }
    for (size_t i = 0; i < in->rows; i++) {
        copies += !in->row[i].entry->weight_scale;
        equal += !in->row[i].entry->weight_scale && in->row[i].difference.equal;
    }
    printf("not quantized: %zu tensors, %zu of them equal to the source\n", copies, equal);
    if (inspect_has_wint2(&in->summary))
        printf("K order: %s, %s\n", inspect_order(in->src),
               in->src->arch.order_recorded ? "recorded" : "not recorded: assumed");
}

/* ---- Faults --------------------------------------------------------------- */

void inspect_print_verify(const inspect *in)
{
    const ccq_verify_result *r = &in->verified;
    char file[NAME_BYTES], tensor[NAME_BYTES];
    for (size_t i = 0; i < r->findings; i++) {
        const ccq_finding *f = &r->finding[i];
        printf("%s%s%s ", on(in, RED), ccq_code_name(f->code), on(in, PLAIN));
        if (*f->file)
            printf("%s: ", safe(f->file, file));
        if (*f->tensor)
            printf("\"%s\": ", safe(f->tensor, tensor));
        printf("%s\n", f->message);
    }
    for (size_t i = 0; i < r->notes; i++)
        cli_note(&in->c, "note: %s", r->note[i]);
    if (r->findings)
        printf("verify: %" PRIu64 " findings\n", r->findings + r->dropped);
    else
        printf("verify: %sok%s, %" PRIu64 " tensors\n", on(in, GREEN), on(in, PLAIN), r->tensors);
}
