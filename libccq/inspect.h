#ifndef CCQ_LIBCCQ_INSPECT_H
#define CCQ_LIBCCQ_INSPECT_H

#include "libccq/source.h"

#endif
