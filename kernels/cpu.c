#include "kernels/ops.h"

#ifdef CCQ_HAVE_X86

#include <cpuid.h>

/* cpuid 1, ecx */
enum { FMA = 1 << 12, OSXSAVE = 1 << 27, AVX = 1 << 28, F16C = 1 << 29 };
/* cpuid 7, ebx */
#define AVX2 (1u << 5)
#define AVX512 (1u << 16 | 1u << 17 | 1u << 30 | 1u << 31) /* F, DQ, BW, VL */
/* cpuid 7, ecx */
#define AVX512_MORE (1u << 1 | 1u << 11) /* VBMI, VNNI */
/* xcr0: register state that the system saves */
enum { XCR_YMM = 0x06, XCR_ZMM = 0xe6 };

static unsigned xcr0(void)
{
    unsigned lo, hi;

    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return lo;
}

unsigned ccq_cpu_isa(void)
{
    const unsigned need = FMA | OSXSAVE | AVX | F16C;
    unsigned isa = CCQ_ISA_C, a, b, c, d, saved;

    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & need) != need)
        return isa;
    saved = xcr0();
    if ((saved & XCR_YMM) != XCR_YMM || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & AVX2))
        return isa;
    isa |= CCQ_ISA_AVX2;
    if ((saved & XCR_ZMM) == XCR_ZMM && (b & AVX512) == AVX512 &&
        (c & AVX512_MORE) == AVX512_MORE)
        isa |= CCQ_ISA_AVX512;
    return isa;
}

#else

unsigned ccq_cpu_isa(void)
{
    return CCQ_ISA_C;
}

#endif
