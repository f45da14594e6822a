#include "kernels/exp.h"

#include "kernels/ops.h"

float ccq_exp(float x)
{
    return ccq_exp_inline(x);
}
