/* Writing ccq.ref/1: no times, no host names, so the same run gives the same bytes. */
#include "libccq/reference.h"

#include "formats/json.h"
#include "formats/npz.h"

#include <stdlib.h>

static char *meta_text(const ccq_reference *f, size_t *size)
{
    ccq_jw w;

    ccq_jw_init(&w, 0);
    ccq_jw_object(&w);
    ccq_jw_kstring(&w, "schema", "ccq.ref/1");
    ccq_jw_kstring(&w, "producer", f->producer);
    ccq_jw_kstring(&w, "numerics", f->numerics);
    ccq_jw_kstring(&w, "weights", f->weights);
    ccq_jw_ku64(&w, "config_crc32", f->config_crc32);
    ccq_jw_ki64(&w, "vocab_valid", f->vocab_valid);
    ccq_jw_kstring(&w, "generator", f->generator);
    ccq_jw_end(&w);
    return ccq_jw_take(&w, size);
}

typedef struct item {
    const char *name;
    ccq_dtype type;
    int rank;
    uint64_t shape[3];
    const void *data;
} item;

static ccq_code add_all(ccq_npz_writer *w, const item *list, size_t count, ccq_error *err)
{
    for (size_t i = 0; i < count; i++) {
        ccq_code code;
        if (!list[i].data)
            continue;
        code = ccq_npz_add(w, list[i].name, list[i].type, list[i].rank, list[i].shape, list[i].data,
                           err);
        if (code)
            return code;
    }
    return CCQ_OK;
}

ccq_code ccq_reference_save(const ccq_reference *f, const char *path, ccq_error *err)
{
    uint64_t n = f->rows, layers = (uint64_t)f->layers;
    ccq_npz_writer *w = NULL;
    size_t size = 0;
    char *meta = meta_text(f, &size);
    ccq_code code;
    item list[] = {
        {"meta", CCQ_DT_U8, 1, {size, 0, 0}, meta},
        {"lengths", CCQ_DT_I32, 1, {f->prompts, 0, 0}, f->lengths},
        {"ids", CCQ_DT_I32, 1, {f->id_count, 0, 0}, f->ids},
        {"row_seq", CCQ_DT_I32, 1, {n, 0, 0}, f->row_seq},
        {"row_pos", CCQ_DT_I32, 1, {n, 0, 0}, f->row_pos},
        {"logits", CCQ_DT_F32, 2, {n, (uint64_t)f->vocab, 0}, f->logits},
        {"greedy_lengths", CCQ_DT_I32, 1, {f->prompts, 0, 0}, f->greedy_lengths},
        {"greedy_ids", CCQ_DT_I32, 1, {f->greedy_count, 0, 0}, f->greedy_ids},
        {"greedy_gap", CCQ_DT_F32, 1, {f->greedy_count, 0, 0}, f->greedy_gap},
        {"router_layers", CCQ_DT_I32, 1, {layers, 0, 0}, f->router_layers},
        {"router_ids", CCQ_DT_I32, 3, {n, layers, (uint64_t)f->k}, f->router_ids},
        {"router_margin", CCQ_DT_F32, 2, {n, layers, 0}, f->router_margin},
    };

    if (!meta)
        return ccq_fail(err, CCQ_NO_MEMORY, "%s: out of memory", path);
    code = ccq_npz_create(&w, path, err);
    if (!code && (code = add_all(w, list, sizeof list / sizeof *list, err)))
        ccq_npz_abandon(w);
    else if (!code)
        code = ccq_npz_finish(w, err);
    free(meta);
    return code;
}
