#ifndef CCQ_KERNELS_X86_UNROLL_H
#define CCQ_KERNELS_X86_UNROLL_H

/* Whole loops of at most 16 turns; checked builds would take minutes over them. */
#ifdef __SANITIZE_ADDRESS__
#define CCQ_UNROLL
#else
#define CCQ_UNROLL _Pragma("GCC unroll 16")
#endif

#endif
