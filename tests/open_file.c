/* open_file KIND PATH ...: opens each one and prints the name of the code and the
 * message, a line a file. For tests/test_malformed.py. */
#include "formats/checkpoint.h"
#include "formats/config.h"
#include "formats/npz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ccq_code open_npz(const char *path, ccq_error *err)
{
    ccq_npz *npz;
    ccq_code code = ccq_npz_open(&npz, path, err);
    if (code)
        return code;
    for (size_t i = 0; i < ccq_npz_count(npz) && !code; i++) {
        ccq_array a;
        void *data;
        code = ccq_npz_read(npz, ccq_npz_name(npz, i), CCQ_DT_COUNT, &a, &data, err);
        free(data);
    }
    ccq_npz_close(npz);
    return code;
}

static ccq_code open_any(const char *kind, const char *path, ccq_error *err)
{
    ccq_checkpoint *ck = NULL;
    ccq_config *config = NULL;
    ccq_array a;
    void *data = NULL;
    ccq_code code = CCQ_USAGE;
    if (strcmp(kind, "file") == 0)
        code = ccq_checkpoint_open_file(&ck, path, err);
    else if (strcmp(kind, "dir") == 0)
        code = ccq_checkpoint_open(&ck, path, err);
    else if (strcmp(kind, "config") == 0)
        code = ccq_config_load(&config, path, err);
    else if (strcmp(kind, "npz") == 0)
        code = open_npz(path, err);
    else if (strcmp(kind, "npy") == 0)
        code = ccq_npy_load(path, CCQ_DT_COUNT, &a, &data, err);
    ccq_checkpoint_close(ck);
    ccq_config_free(config);
    free(data);
    return code;
}

int main(int argc, char **argv)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        ccq_error err = {CCQ_OK, ""};
        ccq_code code = open_any(argv[i], argv[i + 1], &err);
        printf("%s\t%s\n", ccq_code_name(code), code ? err.text : "");
    }
    return 0;
}
