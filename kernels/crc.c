#include "kernels/crc.h"

#include "kernels/x86/clmul.h"

#ifdef CCQ_HAVE_X86

size_t ccq_crc_fold(uint32_t crc, const void *data, size_t size, uint8_t rest[16])
{
    if (size < 64 || !__builtin_cpu_supports("pclmul") || !__builtin_cpu_supports("sse4.1"))
        return 0;
    return ccq_crc_fold_clmul(crc, data, size, rest);
}

#else

size_t ccq_crc_fold(uint32_t crc, const void *data, size_t size, uint8_t rest[16])
{
    (void)crc, (void)data, (void)size, (void)rest;
    return 0;
}

#endif
