#include "tools/tokens.h"

#include "formats/file.h"
#include "libccq/reference.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_TEXT = 64 << 20 }; /* SentencePiece takes 140 times that */

ccq_code tokens_load(const text *t, const char *dir, const char *path, int64_t vocab,
                     int32_t **ids, size_t *count, ccq_error *err)
{
    char *data = NULL, shown[512];
    size_t size = 0;
    ccq_code code;

    ccq_escape(shown, sizeof shown, path, strlen(path));
    if (ccq_tokens_binary(path))
        return ccq_tokens_load(path, vocab, ids, count, err);
    if (!ccq_path_exists(path))
        return ccq_fail(err, CCQ_NO_INPUT, "%s: not there", shown);
    if ((code = text_usable(t, dir, err)) ||
        (code = ccq_file_load(path, MAX_TEXT, CCQ_NO_INPUT, &data, &size, err)))
        return code;
    code = text_encode(t, data, size, ids, count, err);
    free(data);
    for (size_t i = 0; !code && i < *count; i++)
        if ((*ids)[i] < 0 || (*ids)[i] >= vocab)
            code = ccq_fail(err, CCQ_REFERENCE, "%s: token %zu is %d, outside [0, %lld)", shown, i,
                            (int)(*ids)[i], (long long)vocab);
    return code;
}
