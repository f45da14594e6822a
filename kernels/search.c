#include "kernels/internal.h"

enum { BLOCKS = CCQ_GROUP / CCQ_WINDOWS }; /* lanes: the 16 blocks of a group */

/* d = -256 * sum_i u_i value_i(b), the part of the score that all local scales
 * share; |d| <= 2^30. */
static void dots(const ccq_book *book, const int16_t u[CCQ_GROUP], int32_t d[CCQ_CODES][BLOCKS])
{
    int16_t in[CCQ_WINDOWS][BLOCKS];

    for (int i = 0; i < CCQ_WINDOWS; i++)
        for (int r = 0; r < BLOCKS; r++)
            in[i][r] = u[CCQ_WINDOWS * r + i];
    for (int b = 0; b < CCQ_CODES; b++) {
        int16_t c0 = book->value[0][b], c1 = book->value[1][b];
        int16_t c2 = book->value[2][b], c3 = book->value[3][b];
        for (int r = 0; r < BLOCKS; r++)
            d[b][r] = in[0][r] * c0 + in[1][r] * c1 + in[2][r] * c2 + in[3][r] * c3;
    }
}

/* One local scale. The byte rides in the low 8 bits of the score, so the minimum
 * names it, and among equals the lowest byte wins. Returns the sum of m >> 8. */
static int32_t search_one(const ccq_book *book, int32_t d[CCQ_CODES][BLOCKS], int l,
                          uint8_t best[BLOCKS])
{
    int32_t m[BLOCKS], sum = 0;

    for (int r = 0; r < BLOCKS; r++)
        m[r] = INT32_MAX;
    for (int b = 0; b < CCQ_CODES; b++) {
        int32_t n = 2048 * l * book->norm[b] + b;
        for (int r = 0; r < BLOCKS; r++) {
            int32_t score = d[b][r] + n;
            m[r] = score < m[r] ? score : m[r];
        }
    }
    for (int r = 0; r < BLOCKS; r++) {
        best[r] = (uint8_t)(m[r] & 255);
        sum += m[r] >> 8;
    }
    return sum;
}

void ccq_search_c(const ccq_book *book, const int16_t u[64], int lo, int hi, int32_t *J,
                  uint8_t (*best)[16])
{
    int32_t d[CCQ_CODES][BLOCKS];

    dots(book, u, d);
    for (int l = lo; l <= hi; l++)
        J[l - lo] = l * search_one(book, d, l, best[l - lo]);
}
