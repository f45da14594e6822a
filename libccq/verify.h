/* What the files of verification share. */
#ifndef CCQ_LIBCCQ_VERIFY_H
#define CCQ_LIBCCQ_VERIFY_H

#include "libccq/inspect.h"
#include "libccq/internal.h"

typedef struct ccq_verifier {
    const char *dir;    /* that is looked at now */
    const char *prefix; /* of files in it: "", or "rank0/" */
    int ranks;          /* rank directories; 0 = the model is not cut */
    int opened;         /* checkpoints that opened, one, or one a rank */
    ccq_verify_result *out;
    ccq_checkpoint *files; /* of dir; NULL when it did not open, and when the ranks are done */
    ccq_config *config;    /* the same */
    ccq_source *src;       /* the same */
    int quantized;         /* some tensor is a .quant_weight */
    int moe;               /* some tensor belongs to an expert */
    int failed;            /* out of memory */
    ccq_pool *pool;        /* NULL: quick */
    const ccq_ops *ops;
} ccq_verifier;

/* file and tensor: "" or NULL when it is about none. tensor is not escaped; the message is. */
void ccq_verify_add(ccq_verifier *v, ccq_code code, const char *file, const char *tensor,
                    const char *fmt, ...) CCQ_PRINTF(5, 6);
/* Of no consequence for the answer, but of a tensor: all zero. */
void ccq_verify_warn(ccq_verifier *v, const char *file, const char *tensor, const char *fmt, ...)
    CCQ_PRINTF(4, 5);
void ccq_verify_note(ccq_verifier *v, const char *fmt, ...) CCQ_PRINTF(2, 3);
/* A failed call as a finding: file and tensor are taken from the text. */
void ccq_verify_add_error(ccq_verifier *v, const ccq_error *err);

/* verify_tensors.c: every tensor by itself and beside its siblings; v->files is there. */
void ccq_verify_tensors(ccq_verifier *v);
/* verify_config.c: config.json as FastDeploy reads it; v->config is there. */
void ccq_verify_config(ccq_verifier *v);
/* verify_manifest.c: sizes and checksums of headers and side files. */
void ccq_verify_manifest(ccq_verifier *v);
/* verify_deep.c: all data; v->pool is there. */
void ccq_verify_data(ccq_verifier *v);

#endif
