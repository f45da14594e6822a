/* Files of token ids. */
#include "libccq/reference.h"

#include "formats/npz.h"

#include <stdlib.h>
#include <string.h>

static int ends_with(const char *path, const char *suffix)
{
    size_t n = strlen(path), m = strlen(suffix);

    return n >= m && !strcmp(path + n - m, suffix);
}

int ccq_tokens_binary(const char *path)
{
    return ends_with(path, ".npy") || ends_with(path, ".npz");
}

static ccq_code load(const char *path, ccq_array *array, void **data, ccq_error *err)
{
    ccq_npz *npz;
    ccq_code code;

    if (ends_with(path, ".npy"))
        return ccq_npy_load(path, CCQ_DT_I32, array, data, err);
    if ((code = ccq_npz_open(&npz, path, err)))
        return code;
    code = ccq_npz_read(npz, "ids", CCQ_DT_I32, array, data, err);
    ccq_npz_close(npz);
    return code;
}

ccq_code ccq_tokens_load(const char *path, int64_t vocab, int32_t **ids, size_t *count,
                         ccq_error *err)
{
    char name[512];
    ccq_array array;
    void *data = NULL;
    ccq_code code = load(path, &array, &data, err);

    *ids = NULL;
    *count = 0;
    if (code)
        return code;
    ccq_escape(name, sizeof name, path, strlen(path));
    if (array.rank != 1)
        code =
            ccq_fail(err, CCQ_REFERENCE, "%s: tokens have %d axes, 1 is wanted", name, array.rank);
    const int32_t *id = data;
    for (uint64_t i = 0; !code && i < array.count; i++)
        if (id[i] < 0 || id[i] >= vocab)
            code = ccq_fail(err, CCQ_REFERENCE, "%s: token %llu is %d, outside [0, %lld)", name,
                            (unsigned long long)i, (int)id[i], (long long)vocab);
    if (code) {
        free(data);
        return code;
    }
    *ids = data;
    *count = (size_t)array.count;
    return CCQ_OK;
}
