// The only C++ of ccq: nothing may leave these functions by an exception.
#include "tools/spm.h"

#include <sentencepiece_processor.h>

#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <vector>

struct spm {
    sentencepiece::SentencePieceProcessor processor;
};

extern "C" spm *spm_load(const void *data, size_t size)
{
    spm *s = nullptr;
    try {
        s = new spm;
        if (s->processor.LoadFromSerializedProto({static_cast<const char *>(data), size}).ok())
            return s;
    } catch (...) {
    }
    delete s;
    return nullptr;
}

extern "C" void spm_free(spm *s)
{
    delete s;
}

extern "C" int spm_encode(const spm *s, const char *text, size_t size, int32_t **ids, size_t *count)
{
    try {
        std::vector<int> out;
        if (!s->processor.Encode({text, size}, &out).ok())
            return -1;
        *ids = static_cast<int32_t *>(std::malloc((out.size() + 1) * sizeof(int32_t)));
        if (!*ids)
            return -1;
        for (size_t i = 0; i < out.size(); i++)
            (*ids)[i] = static_cast<int32_t>(out[i]);
        *count = out.size();
        return 0;
    } catch (...) {
        return -1;
    }
}

extern "C" int spm_decode(const spm *s, const int32_t *ids, size_t count, char **text)
{
    try {
        std::string out;
        if (!s->processor.Decode(std::vector<int>(ids, ids + count), &out).ok())
            return -1;
        *text = static_cast<char *>(std::malloc(out.size() + 1));
        if (!*text)
            return -1;
        std::memcpy(*text, out.c_str(), out.size() + 1);
        return 0;
    } catch (...) {
        return -1;
    }
}

extern "C" int32_t spm_piece_to_id(const spm *s, const char *piece)
{
    return s->processor.PieceToId(piece);
}

extern "C" int32_t spm_piece_count(const spm *s)
{
    return s->processor.GetPieceSize();
}
