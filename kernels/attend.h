/* The blocks of attention, which its scratch is sized by. */
#ifndef CCQ_KERNELS_ATTEND_H
#define CCQ_KERNELS_ATTEND_H

enum { CCQ_ATTEND_QUERIES = 48 }; /* queries of one KV head that share a pass over it */
enum { CCQ_ATTEND_TILE = 128 };   /* positions of values widened at a time */

#endif
