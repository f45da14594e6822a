/* A build without SentencePiece: ids work everywhere, text does not. */
#include "tools/spm.h"

spm *spm_load(const void *data, size_t size)
{
    (void)data;
    (void)size;
    return NULL;
}

void spm_free(spm *s)
{
    (void)s;
}

int spm_encode(const spm *s, const char *text, size_t size, int32_t **ids, size_t *count)
{
    (void)s;
    (void)text;
    (void)size;
    (void)ids;
    (void)count;
    return -1;
}

int spm_decode(const spm *s, const int32_t *ids, size_t count, char **text)
{
    (void)s;
    (void)ids;
    (void)count;
    (void)text;
    return -1;
}

int32_t spm_piece_to_id(const spm *s, const char *piece)
{
    (void)s;
    (void)piece;
    return -1;
}

int32_t spm_piece_count(const spm *s)
{
    (void)s;
    return 0;
}
