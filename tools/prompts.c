#include "libccq/ccq.h"
