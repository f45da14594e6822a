/* wgmma with A in registers, B in shared memory: one function for N = 32, 64, 128, 256 rows of
 * B and both types. Sums are the fragments of m64nNk16: d[4j + i] of rows 8j.. of B. */
#ifndef CCQ_KERNELS_CUDA_WGMMA_CUH
#define CCQ_KERNELS_CUDA_WGMMA_CUH

#include <cstdint>

/* Sums as operands, and their names in the text. */
#define CCQ_D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define CCQ_D16(i) CCQ_D4(i), CCQ_D4(i + 4), CCQ_D4(i + 8), CCQ_D4(i + 12)
#define CCQ_T0 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define CCQ_T1 "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define CCQ_T2 "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define CCQ_T3 "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define CCQ_T4 "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79"
#define CCQ_T5 "%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"
#define CCQ_T6 "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111"
#define CCQ_T7 "%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define CCQ_D128                                                                                  \
    CCQ_D16(0), CCQ_D16(16), CCQ_D16(32), CCQ_D16(48), CCQ_D16(64), CCQ_D16(80), CCQ_D16(96),     \
        CCQ_D16(112)

/* text: the sums, then {A}, B's descriptor; d += A B. */
#define CCQ_WGMMA(shape, type, text, ...)                                                         \
    asm volatile("wgmma.mma_async.sync.aligned." shape ".f32." type "." type " " text             \
                 ", 1, 1, 1, 0;"                                                                  \
                 : __VA_ARGS__                                                                    \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))

#define CCQ_WGMMA_ALL(type)                                                                       \
    if constexpr (N == 32)                                                                        \
        CCQ_WGMMA("m64n32k16", type, "{" CCQ_T0 "}, {%16,%17,%18,%19}, %20", CCQ_D16(0));         \
    if constexpr (N == 64)                                                                        \
        CCQ_WGMMA("m64n64k16", type, "{" CCQ_T0 "," CCQ_T1 "}, {%32,%33,%34,%35}, %36",           \
                  CCQ_D16(0), CCQ_D16(16));                                                       \
    if constexpr (N == 128)                                                                       \
        CCQ_WGMMA("m64n128k16", type,                                                             \
                  "{" CCQ_T0 "," CCQ_T1 "," CCQ_T2 "," CCQ_T3 "}, {%64,%65,%66,%67}, %68",        \
                  CCQ_D16(0), CCQ_D16(16), CCQ_D16(32), CCQ_D16(48));                             \
    if constexpr (N == 256)                                                                       \
        CCQ_WGMMA("m64n256k16", type,                                                             \
                  "{" CCQ_T0 "," CCQ_T1 "," CCQ_T2 "," CCQ_T3 "," CCQ_T4 "," CCQ_T5 "," CCQ_T6    \
                  "," CCQ_T7 "}, {%128,%129,%130,%131}, %132",                                    \
                  CCQ_D128)

/* b: descriptor of B, K-major, rows of 128 bytes with the 128-byte swizzle. */
template <int N, bool FP16>
static __device__ __forceinline__ void ccq_wgmma(float (&d)[N / 2], const uint32_t a[4],
                                                 uint64_t b)
{
    if constexpr (FP16) {
        CCQ_WGMMA_ALL("f16");
    } else {
        CCQ_WGMMA_ALL("bf16");
    }
}

/* Of shared memory at address (a multiple of 1024, plus 32 bytes for each 16 of k): groups of
 * 8 rows are 1024 bytes apart. */
static __device__ __forceinline__ uint64_t ccq_wgmma_descriptor(uint32_t address)
{
    return static_cast<uint64_t>(address >> 4 & 0x3fff) | uint64_t{1} << 16 |
           uint64_t{1024 >> 4} << 32 | uint64_t{1} << 62;
}

static __device__ __forceinline__ void ccq_wgmma_fence()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

static __device__ __forceinline__ void ccq_wgmma_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Until at most LEFT groups of products are under way. */
template <int LEFT> static __device__ __forceinline__ void ccq_wgmma_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}

#endif
