#include "kernels/internal.h"

#include <string.h>

enum { BLOCKS = CCQ_GROUP / CCQ_WINDOWS }; /* lanes: the 16 blocks of a group */
enum { CHUNK = 16 };                       /* codes between two looks at who leads */

/* score >> 8 is the integer x = 8 l norm(b) - sum_i u_i value_i(b), with
 * |x| < 2^23: fp32 holds it and each of its partial sums exactly, in any order.
 * The lowest score is the lowest x, and among equals the lowest byte. So the
 * minimum runs over x alone, in floats; every CHUNK codes a lane notes which
 * chunk brought its minimum, and the byte is looked up in that chunk at the end. */
typedef struct lanes {
    float v[BLOCKS];
} lanes;

/* x at l = 0 of all codes. */
static void dots(const ccq_book *book, const int16_t u[64], lanes x[CCQ_CODES])
{
    lanes in[CCQ_WINDOWS];

    for (int i = 0; i < CCQ_WINDOWS; i++)
        for (int r = 0; r < BLOCKS; r++)
            in[i].v[r] = (float)u[CCQ_WINDOWS * r + i] * (1.0f / 256.0f);
    for (int b = 0; b < CCQ_CODES; b++) {
        float c0 = book->value[0][b], c1 = book->value[1][b];
        float c2 = book->value[2][b], c3 = book->value[3][b];
        for (int r = 0; r < BLOCKS; r++)
            x[b].v[r] = in[0].v[r] * c0 + in[1].v[r] * c1 + (in[2].v[r] * c2 + in[3].v[r] * c3);
    }
}

static lanes chunk_min(const lanes *x, const float *n)
{
    lanes m;

    for (int r = 0; r < BLOCKS; r++)
        m.v[r] = x[0].v[r] + n[0];
    for (int b = 1; b < CHUNK; b++)
        for (int r = 0; r < BLOCKS; r++) {
            float t = x[b].v[r] + n[b];
            m.v[r] = t < m.v[r] ? t : m.v[r];
        }
    return m;
}

/* One local scale: n is 8 l norm(b). Returns the sum of minima. */
static int32_t search_one(const lanes x[CCQ_CODES], const float n[CCQ_CODES], uint8_t best[16])
{
    lanes lead = chunk_min(x, n);
    int32_t from[BLOCKS] = {0}, sum = 0;

    for (int c = CHUNK; c < CCQ_CODES; c += CHUNK) {
        lanes m = chunk_min(x + c, n + c);
        for (int r = 0; r < BLOCKS; r++) {
            from[r] = m.v[r] < lead.v[r] ? c : from[r];
            lead.v[r] = m.v[r] < lead.v[r] ? m.v[r] : lead.v[r];
        }
    }
    for (int r = 0; r < BLOCKS; r++) {
        int b = from[r];
        while (x[b].v[r] + n[b] != lead.v[r])
            b++;
        best[r] = (uint8_t)b;
        sum += (int32_t)lead.v[r];
    }
    return sum;
}

void ccq_search_c(const ccq_book *book, const int16_t u[64], int lo, int hi, int32_t *J,
                  uint8_t (*best)[16])
{
    lanes x[CCQ_CODES];
    float n[CCQ_CODES];

    dots(book, u, x);
    for (int l = lo; l <= hi; l++) {
        for (int b = 0; b < CCQ_CODES; b++)
            n[b] = (float)(8 * l * book->norm[b]);
        J[l - lo] = l * search_one(x, n, best[l - lo]);
    }
}
