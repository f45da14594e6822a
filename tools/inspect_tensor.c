/* ccq-inspect --tensor for a person. */
#include "tools/inspect.h"

#include "kernels/encode.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

enum { NAME_BYTES = 300 };

static const char *safe(const char *name, char out[NAME_BYTES])
{
    return ccq_escape(out, NAME_BYTES, name, strlen(name));
}

static void print_stored(const inspect *in, const ccq_tensor *t)
{
    char name[NAME_BYTES], shard[NAME_BYTES], path[NAME_BYTES], shape[200] = "";
    int used = 0;
    for (int i = 0; i < t->rank && used < 170; i++)
        used += snprintf(shape + used, sizeof shape - (size_t)used, "%s%" PRIu64, i ? ", " : "",
                         t->shape[i]);
    printf("  %s  %s [%s]  %s  offset %" PRIu64 "  %" PRIu64 " bytes\n", safe(t->name, name),
           ccq_dtype_name((ccq_dtype)t->dtype), shape,
           safe(ccq_source_shard_name(in->src, t, path, sizeof path), shard), t->offset, t->bytes);
}

static void print_values(const char *what, const ccq_values *v)
{
    printf("  %s: min %.6g, max %.6g, mean %.6g, rms %.6g, %" PRIu64 " of %" PRIu64
           " zero, %" PRIu64 " not finite\n",
           what, v->min, v->max, v->mean, v->rms, v->zeros, v->count, v->nonfinite);
}

/* What stands at place i of a histogram. */
typedef double (*label_fn)(int i);

static double label_byte(int i)
{
    return i;
}

static double label_wint8(int i)
{
    return i - 128;
}

static double label_wint4(int i)
{
    return i - 8;
}

/* e4m3 codes by value: -NaN, -448 .. -0, 0 .. 448, NaN. */
static int fp8_code(int i)
{
    return i < 128 ? 255 - i : i - 128;
}

static double label_fp8(int i)
{
    return (double)ccq_e4m3_to_f32((uint8_t)fp8_code(i));
}

static void print_counts(const uint64_t *count, int n, label_fn label)
{
    for (int i = 0; i < n; i++)
        printf("%s%6g:%-9" PRIu64 "%s", i % 8 == 0 ? "    " : " ", label(i), count[i],
               i % 8 == 7 || i == n - 1 ? "\n" : "");
}

/* One character a code, darker = more frequent, 64 a line with the value of the
 * first in front; -v adds the counts. */
static void print_histogram(const inspect *in, const char *what, const uint64_t *count, int n,
                            label_fn label)
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
        if (i % 64 == 0)
            printf("    %9g |", label(i));
        printf("%c%s", count[i] ? ink[level] : ' ', i % 64 == 63 || i == n - 1 ? "|\n" : "");
    }
    if (in->c.verbose)
        print_counts(count, n, label);
}

/* How far the integers of wint8 or wint4 use their range: the largest are the
 * columns' extremes, a small rms says that few weights come near them. */
static void print_integers(const inspect *in, const ccq_detail *d)
{
    int n = d->entry->type == CCQ_TYPE_WINT4 ? 16 : 256, low = n, high = -1;
    double all = 0, sum = 0, squares = 0;
    for (int i = 0; i < n; i++) {
        double q = i - n / 2, count = (double)d->code[i];
        if (!d->code[i])
            continue;
        low = low < i ? low : i;
        high = i;
        all += count;
        sum += count * q;
        squares += count * q * q;
    }
    if (all > 0)
        printf("  integers %d..%d, mean %.3f, rms %.3f of %d\n", low - n / 2, high - n / 2,
               sum / all, sqrt(squares / all), n / 2 - 1);
    print_histogram(in, "integers", d->code, n, n == 16 ? label_wint4 : label_wint8);
}

static void print_fp8(const inspect *in, const ccq_detail *d)
{
    uint64_t count[256];
    for (int i = 0; i < 256; i++)
        count[i] = d->code[fp8_code(i)];
    print_histogram(in, "e4m3 codes by value", count, 256, label_fp8);
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
    printf("%s%s%s  [%lld, %lld]  %s  %s  %.4f bits per weight\n", in->c.color ? "\033[1m" : "",
           safe(e->name, name), in->c.color ? "\033[0m" : "", (long long)e->k, (long long)e->n,
           ccq_type_name(e->type), cli_bytes(bytes, sizeof bytes, ccq_entry_bytes(e)), bits);
    for (int i = 0; i < d->tensors; i++)
        print_stored(in, d->tensor[i]);
    print_values(e->type == CCQ_TYPE_WINT2 ? "super_scales"
                 : e->weight_scale         ? "weight_scale"
                                           : "values",
                 &d->values);
    if (e->type == CCQ_TYPE_WINT4 || e->type == CCQ_TYPE_WINT8)
        print_integers(in, d);
    else if (e->type == CCQ_TYPE_FP8)
        print_fp8(in, d);
    if (e->type != CCQ_TYPE_WINT2)
        return;
    print_histogram(in, "codes", d->code, 256, label_byte);
    print_histogram(in, "local scales", d->local, 16, label_byte);
    print_lines(in, d);
}

/* --values */
static void print_decoded(const ccq_decoded *d)
{
    printf("  values [0..%d, 0..%d]:\n", d->corner_k - 1, d->corner_n - 1);
    for (int k = 0; k < d->corner_k; k++) {
        printf("   ");
        for (int n = 0; n < d->corner_n; n++)
            printf(" %12.6g", (double)d->corner[k][n]);
        putchar('\n');
    }
    printf("  not finite: %" PRIu64, d->nonfinite);
    for (int i = 0; i < d->places; i++)
        printf("%s[%lld, %lld]", i ? ", " : ", first at ", (long long)d->place[i][0],
               (long long)d->place[i][1]);
    printf("%s\n", d->nonfinite > (uint64_t)d->places ? ", ..." : "");
}

void inspect_print_details(const inspect *in)
{
    for (size_t i = 0; i < in->details; i++) {
        print_detail(in, &in->detail[i]);
        if (in->decoded)
            print_decoded(&in->decoded[i]);
    }
}
