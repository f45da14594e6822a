/* A pickle as paddle.save writes it: refused, or tensors that can be read to their end. */
#include "formats/checkpoint.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

/* Opcodes with what they want. */
static const char *const words[] = {
    "\x80\2", "\x80\3", "\x80\4", ".", "(", ")", "]", "}", "t", "\x85", "\x86", "\x87", "N",
    "K\1", "M\1\2", "J\xff\xff\xff\x7f", "\x8a\1\5", "X\1\0\0\0a", "\x8c\1a", "B\4\0\0\0abcd",
    "C\1a", "q\0", "r\0\1\0\0", "\x94", "h\0", "j\0\1\0\0", "e", "a", "s", "u", "d", "b", "R",
    "\x93", "cnumpy.core.multiarray\n_reconstruct\n", "cnumpy\nndarray\n", "cnumpy\ndtype\n",
    "c_codecs\nencode\n", "cbuiltins\neval\n", "cos\nsystem\n", "c__builtin__\ntuple\n",
    "X\6\0\0\0latin1", "StructuredToParameterName@@", "UnpackBigParamInfor@@", "OriginShape",
    "slices", "\x95\1\0\0\0\0\0\0\0", "|", "<", "f4", "u2", NULL};

const fuzz_target fuzz_this = {"pdparams", words, 0, NULL, NULL, NULL};

static void read_tensor(const ccq_checkpoint *ck, const ccq_tensor *t)
{
    static unsigned char data[FUZZ_MAX * 8];
    ccq_error err = {CCQ_OK, ""};
    uint64_t bytes = ccq_dtype_bits((ccq_dtype)t->dtype) / 8;
    for (unsigned k = 0; k < t->rank; k++)
        bytes *= t->shape[k];
    FUZZ_CHECK(bytes == t->bytes, "shape and bytes of \"%s\"", t->name);
    if (bytes > sizeof data)
        return;
    ccq_code code = ccq_checkpoint_read(ck, t, 0, data, bytes, &err);
    FUZZ_CHECK(!code || (code == CCQ_PICKLE && strstr(err.text, "byte ")), "%s", err.text);
    if (!code && bytes > 2) { /* the middle of a text is found from its start */
        unsigned char part[2];
        code = ccq_checkpoint_read(ck, t, bytes / 2, part, 2, &err);
        FUZZ_CHECK(!code && !memcmp(part, data + bytes / 2, 2), "the middle of \"%s\"", t->name);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ccq_checkpoint *ck;
    ccq_error err = {CCQ_OK, ""};
    fuzz_put("x.pdparams", data, size);
    ccq_code code = ccq_checkpoint_open(&ck, fuzz_dir(), &err);
    fuzz_outcome(code, &err);
    FUZZ_CHECK(!code || strstr(err.text, "x.pdparams: "), "no file in: %s", err.text);
    for (size_t i = 0; !code && i < ccq_checkpoint_count(ck); i++)
        read_tensor(ck, ccq_checkpoint_at(ck, i));
    ccq_checkpoint_close(ck);
    return 0;
}
