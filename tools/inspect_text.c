/* ccq-inspect for a person: tables on stdout, names from files escaped. */
#include "tools/inspect.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_BYTES = 300 };

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
    int width = s->type[CCQ_TYPE_FP8].entries ? 14 : 6; /* "block_wise_fp8" */
    printf("\n  %-*s   tensors       parameters        size   bits/weight\n", width, "type");
    for (int t = CCQ_TYPES - 1; t >= 0; t--)
        if (s->type[t].entries)
            printf("  %-*s %9" PRIu64 "  %15s  %10s  %12.4f\n", width, ccq_type_name((ccq_type)t),
                   s->type[t].entries, grouped(s->type[t].parameters, number),
                   cli_bytes(bytes, sizeof bytes, s->type[t].bytes),
                   ccq_total_bits(&s->type[t]));
    printf("  %-*s %9" PRIu64 "  %15s  %10s  %12.4f\n", width, "all", s->all.entries,
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

/* Characters of "wint2 pp_acc g64" in a column; block_wise_fp8 needs more. */
static int label_width(const ccq_summary *s)
{
    return s->type[CCQ_TYPE_FP8].entries ? 30 : 17;
}

/* "wint2 pp_acc g64  14.5 MiB  2.0664", and two blanks before another one. */
static void print_cell(const ccq_layer_part *p, int width, int last)
{
    char type[32], bytes[24], cell[120] = "-", group[16] = "";
    if (p->types) {
        if (ccq_part_group_size(p))
            snprintf(group, sizeof group, " g%d", ccq_part_group_size(p));
        int left = snprintf(cell, sizeof cell, "%s %s%s", ccq_part_type(p, type, sizeof type),
                            ccq_part_granularity(p), group);
        snprintf(cell + left, sizeof cell - (size_t)left, "%*s %10s %7.4f",
                 left < width ? width - left : 0, "",
                 cli_bytes(bytes, sizeof bytes, p->total.bytes), ccq_total_bits(&p->total));
    }
    printf("%-*s%s", last ? 0 : width + 21, cell, last ? "\n" : "  ");
}

static void print_layers(const inspect *in)
{
    const ccq_summary *s = &in->summary;
    int width = label_width(s);
    printf("\n%s  %-8s%-*s%-*s%s%s\n", on(in, BOLD), "layers", width + 23, "attention",
           width + 23, "dense / shared", "experts", on(in, PLAIN));
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
        print_cell(&p[CCQ_PART_ATTENTION], width, 0);
        print_cell(&p[p[CCQ_PART_MLP].types ? CCQ_PART_MLP : CCQ_PART_SHARED], width, 0);
        print_cell(&p[CCQ_PART_EXPERTS], width, 1);
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
           ccq_source_shards(src, NULL), ccq_source_shards(src, NULL) == 1 ? "" : "s");
    if (src->tp_rank >= 0)
        printf("  tensor parallel %d, rank %d alone: sizes are those of its slices\n", src->ranks,
               src->tp_rank);
    else if (src->ranks)
        printf("  tensor parallel %d, joined\n", src->ranks);
    if (inspect_has_wint2(s))
        printf("  K order     %s, %s\n", inspect_order(src), inspect_order_origin(in));
    print_list("config keys", s->used, s->useds);
    print_list("not used", s->ignored, s->ignoreds);
    printf("  %-12s%s\n", "notes", src->notes ? src->note[0] : "none"); /* escaped already */
    for (size_t i = 1; i < src->notes; i++)
        printf("%14s%s\n", "", src->note[i]);
    print_skipped(in);
    print_types(s);
    print_layers(in);
}

/* ---- Against the source --------------------------------------------------- */

static int type_width(const inspect *in)
{
    return in->summary.type[CCQ_TYPE_FP8].entries ? 14 : 6;
}

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

/* Infinite when every weight is that of the source: text can say so. */
void inspect_print_fit(const inspect *in)
{
    const inspect_fit *f = &in->fit;
    int best = f->db[CCQ_ORDER_PLAIN] > f->db[CCQ_ORDER_FASTDEPLOY];
    if (in->c.json)
        return;
    if (f->clear)
        printf("K order: %s fits (%.1f dB against %.1f dB)\n", best ? "plain" : "fastdeploy",
               f->db[best], f->db[!best]);
    else
        printf("K order: neither fits (fastdeploy %.1f dB, plain %.1f dB): fastdeploy assumed\n",
               f->db[CCQ_ORDER_FASTDEPLOY], f->db[CCQ_ORDER_PLAIN]);
}

void inspect_print_against_head(const inspect *in)
{
    printf("%s%-56s %-*s  SQNR dB  relative L2      max |e|       cosine%s\n", on(in, BOLD),
           "tensor", type_width(in), "type", on(in, PLAIN));
}

/* Copies that are equal are counted at the end; -v lists them. */
void inspect_print_row(const inspect *in, const inspect_row *row)
{
    char name[NAME_BYTES];
    const ccq_entry *e = row->entry;
    if (!e->weight_scale && row->difference.equal && !in->c.verbose)
        return;
    printf("%-56s %-*s", safe(e->name, name), type_width(in), ccq_type_name(e->type));
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
        printf("%-56s %-*s", text, type_width(in), ccq_type_name((ccq_type)t));
        print_figures(&sum);
    }
    for (size_t i = 0; i < in->rows; i++) {
        copies += !in->row[i].entry->weight_scale;
        equal += !in->row[i].entry->weight_scale && in->row[i].difference.equal;
    }
    printf("not quantized: %zu tensors, %zu of them equal to the source\n", copies, equal);
    if (inspect_has_wint2(&in->summary))
        printf("K order: %s, %s\n", inspect_order(in->src), inspect_order_origin(in));
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
    for (size_t i = 0; i < r->warnings; i++)
        cli_note(&in->c, "warning: %s: \"%s\": %s", safe(r->warning[i].file, file),
                 safe(r->warning[i].tensor, tensor), r->warning[i].message);
    for (size_t i = 0; i < r->notes; i++)
        cli_note(&in->c, "note: %s", r->note[i]);
    if (r->findings)
        printf("verify: %" PRIu64 " findings\n", r->findings + r->dropped);
    else
        printf("verify: %sok%s, %" PRIu64 " tensors\n", on(in, GREEN), on(in, PLAIN), r->tensors);
}
