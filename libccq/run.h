#ifndef CCQ_LIBCCQ_RUN_H
#define CCQ_LIBCCQ_RUN_H

#include "libccq/source.h"

#endif
