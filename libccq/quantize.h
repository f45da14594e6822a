#ifndef CCQ_LIBCCQ_QUANTIZE_H
#define CCQ_LIBCCQ_QUANTIZE_H

#include "libccq/source.h"

#endif
