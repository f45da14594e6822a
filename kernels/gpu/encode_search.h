/* The search: a block of threads encodes a column. Four threads share a group; each has four
 * blocks of it, that is four bytes. A trial is one line at one super scale over the column. */
#ifndef CCQ_KERNELS_GPU_ENCODE_SEARCH_H
#define CCQ_KERNELS_GPU_ENCODE_SEARCH_H

#include "kernels/gpu/encode.h"
#include "kernels/gpu/words.h"

enum {
    CCQ_SEARCH_QUAD = 4,       /* threads of a group */
    CCQ_SEARCH_BLOCKS = 4,     /* bytes of a thread */
    CCQ_SEARCH_THREADS = 256,  /* at most */
    CCQ_SEARCH_WARPS = CCQ_SEARCH_THREADS / 32,
    CCQ_SEARCH_LOCALS = 7      /* local scales of a trial, at most */
};

/* What the threads of a block share; behind it rms [groups], bytes [2][k/4], local
 * [2][groups]. The best trial so far lies in half `best` of those, the current one in the
 * other. */
typedef struct ccq_search_shared {
    ccq_gpu_code code[CCQ_CODES];
    int64_t sum[CCQ_SEARCH_WARPS];
    uint32_t most[CCQ_SEARCH_WARPS];
    double cost;
    float scale, s, max_rms;
    int e, encoded, best, book;
} ccq_search_shared;

/* What a thread keeps. */
typedef struct ccq_search_thread {
    int32_t m[CCQ_SEARCH_BLOCKS][CCQ_SEARCH_LOCALS]; /* minima */
    int32_t j[CCQ_SEARCH_LOCALS]; /* their sum over the thread's blocks, then the group's */
    float q[CCQ_SEARCH_BLOCKS];   /* energies of the blocks */
    int64_t sum;                  /* of J / 16 of the groups it picked for */
    uint32_t most;
    ccq_window window;
} ccq_search_thread;

static inline CCQ_HD float *ccq_search_rms(ccq_search_shared *sh)
{
    return (float *)(void *)(sh + 1);
}

static inline CCQ_HD uint8_t *ccq_search_bytes(ccq_search_shared *sh, int64_t k, int half)
{
    return (uint8_t *)(ccq_search_rms(sh) + k / CCQ_GROUP) + half * (k / CCQ_WINDOWS);
}

static inline CCQ_HD uint8_t *ccq_search_local(ccq_search_shared *sh, int64_t k, int half)
{
    return ccq_search_bytes(sh, k, 2) + half * (k / CCQ_GROUP);
}

static inline CCQ_HD int64_t ccq_search_shared_bytes(int64_t k)
{
    return (int64_t)sizeof(ccq_search_shared) +
           k / CCQ_GROUP * (int64_t)(sizeof(float) + 2 * (CCQ_GROUP / CCQ_WINDOWS) + 2);
}

/* Rounds of the block over the column's groups, as even as warps allow. */
static inline CCQ_HD int ccq_search_rounds(int64_t k)
{
    int64_t tasks = k / CCQ_GROUP * CCQ_SEARCH_QUAD;
    return (int)((tasks + CCQ_SEARCH_THREADS - 1) / CCQ_SEARCH_THREADS);
}

static inline CCQ_HD int ccq_search_threads(int64_t k)
{
    int64_t tasks = k / CCQ_GROUP * CCQ_SEARCH_QUAD, rounds = ccq_search_rounds(k);
    return (int)((tasks + rounds * 32 - 1) / (rounds * 32) * 32);
}

/* ---- The column's size --------------------------------------------------- */

/* The largest |w| of the thread's part, as bits. */
static inline CCQ_HD uint32_t ccq_search_amax(const uint16_t *x, int64_t k, int t, int threads)
{
    uint32_t most = 0, v[4];

    for (int64_t i = 8 * (int64_t)t; i < k; i += 8 * (int64_t)threads) {
        ccq_gpu_take16(x + i, v);
        for (int j = 0; j < 4; j++) {
            uint32_t low = v[j] & 0x7fff, high = v[j] >> 16 & 0x7fff;
            most = low > most ? low : most;
            most = high > most ? high : most;
        }
    }
    return most;
}

static inline CCQ_HD uint32_t ccq_search_most(const ccq_search_shared *sh, int threads)
{
    uint32_t most = 0;

    for (int i = 0; i < threads / 32; i++)
        most = sh->most[i] > most ? sh->most[i] : most;
    return most;
}

/* Thread 0, once the warps' largest are known. */
static inline CCQ_HD void ccq_search_begin(ccq_search_shared *sh, int threads)
{
    float amax = ccq_bf16_to_f32((uint16_t)ccq_search_most(sh, threads));

    sh->encoded = ccq_column_exponent(amax, &sh->e);
    sh->scale = sh->encoded ? ccq_power_of_two(-sh->e) : 1.0f;
    sh->s = 1.0f;
    sh->book = 0;
    sh->best = -1;
    sh->cost = 0.0;
}

/* A thread's 16 weights, scaled. */
CCQ_ENCODE_INLINE void ccq_search_weights(const uint16_t *x, float scale,
                                          float v[CCQ_SEARCH_BLOCKS][CCQ_WINDOWS])
{
    uint32_t bits[8];

    ccq_gpu_take16(x, bits);
    ccq_gpu_take16(x + 8, bits + 4);
    CCQ_ENCODE_UNROLL
    for (int i = 0; i < 8; i++) {
        v[i / 2][i % 2 * 2] = ccq_bf16_to_f32((uint16_t)(bits[i] & 0xffff)) * scale;
        v[i / 2][i % 2 * 2 + 1] = ccq_bf16_to_f32((uint16_t)(bits[i] >> 16)) * scale;
    }
}

static inline CCQ_HD void ccq_search_energies(ccq_search_thread *th, const uint16_t *x,
                                              const ccq_search_shared *sh)
{
    float v[CCQ_SEARCH_BLOCKS][CCQ_WINDOWS];

    ccq_search_weights(x, sh->scale, v);
    CCQ_ENCODE_UNROLL
    for (int r = 0; r < CCQ_SEARCH_BLOCKS; r++)
        th->q[r] = ccq_block_energy(v[r]);
}

/* Blocks j and j+8, then j+4 have been added across the quad; +2 and +1 are the thread's. */
static inline CCQ_HD float ccq_search_group_rms(const ccq_search_thread *th)
{
    return sqrtf(((th->q[0] + th->q[2]) + (th->q[1] + th->q[3])) / (float)CCQ_GROUP);
}

/* Floats that are not negative compare as their bits do. */
static inline CCQ_HD void ccq_search_rms_keep(ccq_search_thread *th, int64_t task, float *rms)
{
    union { float f; uint32_t u; } v;

    v.f = ccq_search_group_rms(th);
    th->most = v.u > th->most ? v.u : th->most;
    if (task % CCQ_SEARCH_QUAD == 0)
        rms[task / CCQ_SEARCH_QUAD] = v.f;
}

/* Thread 0, once the warps' largest are known. */
static inline CCQ_HD void ccq_search_measured(ccq_search_shared *sh, int threads)
{
    union { uint32_t u; float f; } v;

    v.u = ccq_search_most(sh, threads);
    sh->max_rms = v.f;
}

/* ---- A trial ------------------------------------------------------------- */

/* acc + the dot product of two int16 and the lower or upper two int8. */
CCQ_ENCODE_INLINE int32_t ccq_dot2_low(uint32_t pair, uint32_t values, int32_t acc)
{
#ifdef __CUDA_ARCH__
    return __dp2a_lo((int)pair, (int)values, acc);
#else
    return acc + (int16_t)(pair & 0xffff) * (int8_t)(values & 255) +
           (int16_t)(pair >> 16) * (int8_t)(values >> 8 & 255);
#endif
}

CCQ_ENCODE_INLINE int32_t ccq_dot2_high(uint32_t pair, uint32_t values, int32_t acc)
{
#ifdef __CUDA_ARCH__
    return __dp2a_hi((int)pair, (int)values, acc);
#else
    return ccq_dot2_low(pair, values >> 16, acc);
#endif
}

/* min(a + b, c) */
CCQ_ENCODE_INLINE int32_t ccq_least_sum(int32_t a, int32_t b, int32_t c)
{
#ifdef __CUDA_ARCH__
    return __viaddmin_s32(a, b, c);
#else
    return a + b < c ? a + b : c;
#endif
}

/* x, computed once and kept: the compiler would compute a product again in each of its uses. */
CCQ_ENCODE_INLINE int32_t ccq_search_keep(int32_t x)
{
#ifdef __CUDA_ARCH__
    asm("" : "+r"(x));
#endif
    return x;
}

static inline CCQ_HD void ccq_search_line(ccq_search_shared *sh, const ccq_gpu_line *line, int t,
                                          int threads)
{
    for (int b = t; b < CCQ_CODES; b += threads)
        sh->code[b] = line->code[b];
}

static inline CCQ_HD float ccq_search_scale(const ccq_search_shared *sh, const ccq_gpu_line *line,
                                            ccq_trial trial)
{
    return trial.divisor ? ccq_super_scale(line->rms, sh->max_rms, trial.divisor) : sh->s;
}

/* The minimum over all bytes for `locals` local scales from lo on. Those past 15 are not
 * looked at later; their scores fit as well. |score| < 1.3e9. */
CCQ_ENCODE_INLINE void ccq_search_codes(ccq_search_thread *th, const ccq_gpu_code *code,
                                        uint32_t u[CCQ_SEARCH_BLOCKS][2], int lo, int locals)
{
    CCQ_ENCODE_UNROLL
    for (int r = 0; r < CCQ_SEARCH_BLOCKS; r++)
        CCQ_ENCODE_UNROLL
        for (int i = 0; i < locals; i++)
            th->m[r][i] = INT32_MAX;
#ifdef __CUDA_ARCH__
#pragma unroll 2
#endif
    for (int b = 0; b < CCQ_CODES; b++) {
        const ccq_gpu_code c = code[b];
        const int32_t first = ccq_search_keep(lo * c.step + b);
        int32_t more[CCQ_SEARCH_LOCALS];
        CCQ_ENCODE_UNROLL
        for (int i = 1; i < locals; i++)
            more[i] = ccq_search_keep(i * c.step);
        CCQ_ENCODE_UNROLL
        for (int r = 0; r < CCQ_SEARCH_BLOCKS; r++) {
            int32_t d = ccq_dot2_high(u[r][1], c.values, ccq_dot2_low(u[r][0], c.values, 0));
            int32_t score = d * -256 + first;
            th->m[r][0] = score < th->m[r][0] ? score : th->m[r][0];
            CCQ_ENCODE_UNROLL
            for (int i = 1; i < locals; i++)
                th->m[r][i] = ccq_least_sum(score, more[i], th->m[r][i]);
        }
    }
}

/* The thread's four blocks, 16 weights from x on: minima, and J of these blocks. */
CCQ_ENCODE_INLINE void ccq_search_blocks(ccq_search_thread *th, const uint16_t *x,
                                         const ccq_search_shared *sh, float s, float book_rms,
                                         float rms, int locals)
{
    const float inv = 16.0f / s;
    float v[CCQ_SEARCH_BLOCKS][CCQ_WINDOWS];
    uint32_t u[CCQ_SEARCH_BLOCKS][2];

    ccq_search_weights(x, sh->scale, v);
    CCQ_ENCODE_UNROLL
    for (int i = 0; i < 2 * CCQ_SEARCH_BLOCKS; i++)
        u[i / 2][i % 2] = (uint32_t)(uint16_t)ccq_unit(v[i / 2][i % 2 * 2], inv) |
                          (uint32_t)(uint16_t)ccq_unit(v[i / 2][i % 2 * 2 + 1], inv) << 16;
    th->window = ccq_local_window(book_rms, s, rms, locals / 2);
    ccq_search_codes(th, sh->code, u, th->window.lo, locals);
    CCQ_ENCODE_UNROLL
    for (int i = 0; i < locals; i++) {
        th->j[i] = 0;
        CCQ_ENCODE_UNROLL
        for (int r = 0; r < CCQ_SEARCH_BLOCKS; r++)
            th->j[i] += th->m[r][i] >> 8;
    }
}

/* The group's local scale from its sums (16 J + l; l = 0 has 0), and the thread's four
 * bytes. leader: the one thread of the four that counts the group. */
CCQ_ENCODE_INLINE void ccq_search_pick(ccq_search_thread *th, int locals, int leader,
                                       uint8_t *bytes, uint8_t *local)
{
    int64_t least = 0;
    uint32_t four = 0;
    int l;

    CCQ_ENCODE_UNROLL
    for (int i = 0; i < locals; i++) {
        int at = th->window.lo + i;
        int64_t key = (int64_t)th->j[i] * at * 16 + at;
        least = at <= th->window.hi && key < least ? key : least;
    }
    l = (int)(least & 15);
    CCQ_ENCODE_UNROLL
    for (int i = 0; i < locals; i++)
        if (l == th->window.lo + i)
            CCQ_ENCODE_UNROLL
            for (int r = 0; r < CCQ_SEARCH_BLOCKS; r++)
                four |= ((uint32_t)th->m[r][i] & 255u) << 8 * r;
    ccq_encode_store4(bytes, four);
    if (leader) {
        *local = (uint8_t)l;
        th->sum += (least - l) / 16;
    }
}

/* Thread 0, once the warps' sums are known: keeps the trial if it is better. s^2 sum is
 * exact for k <= 8192; a tie goes to the earlier trial. */
static inline CCQ_HD void ccq_search_decide(ccq_search_shared *sh, int threads, int book, float s)
{
    int64_t sum = 0;
    double cost;

    for (int i = 0; i < threads / 32; i++)
        sum += sh->sum[i];
    cost = (double)s * (double)s * (double)sum;
    if (sh->best >= 0 && !(cost < sh->cost))
        return;
    sh->best = sh->best == 0;
    sh->cost = cost;
    sh->book = book;
    sh->s = s;
}

/* Where the current trial lies: the half that does not hold the best one. */
static inline CCQ_HD int ccq_search_half(const ccq_search_shared *sh)
{
    return sh->best == 0;
}

/* ---- The end ------------------------------------------------------------- */

static inline CCQ_HD void ccq_search_end(ccq_search_shared *sh, const ccq_gpu_encode_work *w,
                                         int64_t k, int64_t n, int t, int threads)
{
    const int64_t groups = k / CCQ_GROUP, words = k / (4 * CCQ_WINDOWS);
    const uint8_t *bytes = ccq_search_bytes(sh, k, sh->best > 0);
    const uint8_t *local = ccq_search_local(sh, k, sh->best > 0);

    for (int64_t i = t; sh->encoded && i < words; i += threads)
        ccq_encode_store4(w->bytes + n * (k / CCQ_WINDOWS) + 4 * i,
                          ccq_encode_load4(bytes + 4 * i));
    for (int64_t i = t; sh->encoded && i < groups; i += threads)
        w->local[n * groups + i] = local[i];
    if (t == 0) {
        ccq_gpu_chosen *to = &w->chosen[n];
        to->s = sh->s;
        to->scale = sh->scale;
        to->e = sh->e;
        to->encoded = (uint8_t)sh->encoded;
        to->book = (uint8_t)sh->book;
    }
}

#endif
