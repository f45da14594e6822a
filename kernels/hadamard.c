#include "kernels/hadamard.h"

#include <math.h>
#include <string.h>

enum { LANES = CCQ_HADAMARD_LANES, PALEY = 20 };

static int power_of_two(int64_t n)
{
    return n > 0 && (n & (n - 1)) == 0;
}

static int64_t butterflies(int64_t n)
{
    return power_of_two(n) ? n : n / PALEY;
}

int ccq_hadamard_size(int64_t n)
{
    return power_of_two(n) || (n > 0 && n % PALEY == 0 && power_of_two(n / PALEY));
}

/* splitmix64; the top bit of a draw is the sign. */
static uint64_t draw(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

void ccq_hadamard_factors(uint64_t seed, int64_t n, double *factor)
{
    double size = 1.0 / sqrt((double)n);
    for (int64_t i = 0; i < n; i++)
        factor[i] = draw(&seed) >> 63 ? -size : size;
}

/* n vectors of 16 lanes, n a power of two. */
static void sylvester(double *x, int64_t n)
{
    for (int64_t half = 1; half < n; half *= 2)
        for (int64_t i0 = 0; i0 < n; i0 += 2 * half) {
            double *a = x + i0 * LANES, *b = a + half * LANES;
            for (int64_t i = 0; i < half * LANES; i++) {
                double sum = a[i] + b[i], difference = a[i] - b[i];
                a[i] = sum;
                b[i] = difference;
            }
        }
}

/* Element i, j of Hd_20. */
static int paley(int i, int j)
{
    static const char squares[] = {0, 1, 0, 0, 1, 1, 1, 1, 0, 1, 0, 1, 0, 0, 0, 0, 1, 1, 0};
    if (i == j || i == 0)
        return 1;
    if (j == 0)
        return -1;
    return squares[(i - j + 19) % 19] ? 1 : -1;
}

/* 20 vectors of 16 lanes, step doubles apart. */
static void turn20(double *x, int64_t step)
{
    double y[PALEY][LANES];
    for (int j = 0; j < PALEY; j++) {
        memcpy(y[j], x, sizeof y[j]); /* row 0 is all ones */
        for (int i = 1; i < PALEY; i++) {
            const double *v = x + i * step;
            double sign = paley(i, j);
            for (int c = 0; c < LANES; c++)
                y[j][c] += sign * v[c];
        }
    }
    for (int j = 0; j < PALEY; j++)
        memcpy(x + j * step, y[j], sizeof y[j]);
}

void ccq_hadamard_turn(double *x, int64_t n)
{
    int64_t part = butterflies(n);
    for (int64_t at = 0; at < n; at += part)
        sylvester(x + at * LANES, part);
    if (part != n)
        for (int64_t i = 0; i < part; i++)
            turn20(x + i * LANES, part * LANES);
}
